//! A page cache of a disk, as simple as can be: what reclaim is made for.

use mm::host::Machine;
use mm::lru_page::LruPage;
use mm::page::LruFlags;
use mm::platform::Platform;
use mm::reclaim::{CacheOps, CacheOwner};
use mm::swap::IoFailed;
use mm::types::{Order, Pfn};
use mm::{AllocError, Gfp, Mm, Request};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

/// A disk of pages that each hold one number, and what is cached of it.
#[derive(Default)]
pub(crate) struct Disk {
    owner: AtomicU32,
    pages: Mutex<BTreeMap<u32, Pfn>>,
    blocks: Mutex<BTreeMap<u32, u64>>,
    pub(crate) reads: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) broken: AtomicBool,
}

/// What a block holds that was never written.
fn fresh(block: u32) -> u64 {
    u64::from(block) * 3 + 1
}

impl Disk {
    /// A disk whose cache `mm` knows.
    pub(crate) fn of(mm: &Mm<Machine>) -> &'static Self {
        let disk: &'static Self = Box::leak(Box::default());
        let owner: CacheOwner = mm.register_cache(disk).expect("room for a cache");
        disk.owner.store(owner.word(), Relaxed);
        disk
    }

    fn pages(&self) -> MutexGuard<'_, BTreeMap<u32, Pfn>> {
        self.pages.lock().expect("nobody died")
    }

    /// Whether a block is in memory.
    pub(crate) fn is_cached(&self, block: u32) -> bool {
        self.pages().contains_key(&block)
    }

    /// The frame of a cached block.
    pub(crate) fn frame_of(&self, block: u32) -> Option<Pfn> {
        self.pages().get(&block).copied()
    }

    pub(crate) fn cached(&self) -> u64 {
        self.pages().len() as u64
    }

    /// What the disk itself has.
    pub(crate) fn stored(&self, block: u32) -> u64 {
        self.blocks.lock().expect("nobody died").get(&block).copied().unwrap_or(fresh(block))
    }

    fn word(mm: &Mm<Machine>, pfn: Pfn) -> *mut u64 {
        mm.platform().frame(pfn).cast()
    }

    /// The page of a block with a reference, read if it is not cached.
    fn get(&self, mm: &Mm<Machine>, block: u32, gfp: Gfp) -> Result<Pfn, AllocError> {
        loop {
            let found = self.pages().get(&block).copied();
            if let Some(pfn) = found {
                if mm.map().try_page(pfn).expect("a page").get_unless_zero() {
                    return Ok(pfn);
                }
                // It is about to leave.
                std::thread::yield_now();
                continue;
            }
            let page = mm.alloc_pages(Request::new(Order(0), gfp))?;
            // SAFETY: the frame is this function's until it is entered below.
            unsafe { Self::word(mm, page.pfn).write(self.stored(block)) };
            let mut pages = self.pages();
            if pages.contains_key(&block) {
                drop(pages);
                mm.free_pages(page).expect("its own");
                continue;
            }
            self.reads.fetch_add(1, Relaxed);
            let owner = self.owner.load(Relaxed);
            let flags = LruFlags::UPTODATE;
            mm.make_lru(page, LruPage { flags, owner, index: block }).expect("its own");
            // One reference is the cache's, one the caller's.
            mm.map().try_page(page.pfn).expect("a page").get();
            pages.insert(block, page.pfn);
            drop(pages);
            mm.lru_add(page.pfn);
            return Ok(page.pfn);
        }
    }

    /// Reads a block.
    pub(crate) fn read(&self, mm: &Mm<Machine>, block: u32, gfp: Gfp) -> Result<u64, AllocError> {
        let pfn = self.get(mm, block, gfp)?;
        mm.lru_mark_accessed(pfn);
        // SAFETY: a frame with a reference; nobody writes a block while another
        // reads it in these tests.
        let value = unsafe { Self::word(mm, pfn).read() };
        mm.put_lru(pfn);
        Ok(value)
    }

    /// Writes a block, in memory for now.
    pub(crate) fn write(
        &self,
        mm: &Mm<Machine>,
        block: u32,
        value: u64,
        gfp: Gfp,
    ) -> Result<(), AllocError> {
        let pfn = self.get(mm, block, gfp)?;
        let page = mm.map().try_page(pfn).expect("a page");
        // Whoever writes it to the disk has it locked.
        while !page.try_lock() {
            std::thread::yield_now();
        }
        // SAFETY: a frame with a reference, locked.
        unsafe { Self::word(mm, pfn).write(value) };
        page.set_lru(LruFlags::DIRTY);
        page.unlock();
        mm.put_lru(pfn);
        Ok(())
    }

    /// Forgets a block that nobody else uses.
    pub(crate) fn forget(&self, mm: &Mm<Machine>, block: u32) {
        let pfn = self.pages().remove(&block);
        if let Some(pfn) = pfn {
            mm.put_lru(pfn);
        }
    }

    /// Forgets everything.
    pub(crate) fn forget_all(&self, mm: &Mm<Machine>) {
        let blocks: Vec<_> = self.pages().keys().copied().collect();
        blocks.into_iter().for_each(|block| self.forget(mm, block));
        mm.lru_drain_all();
    }
}

impl CacheOps<Machine> for Disk {
    fn write_page(&self, mm: &Mm<Machine>, page: Pfn) -> Result<(), IoFailed> {
        if self.broken.load(Relaxed) {
            return Err(IoFailed);
        }
        let block = mm.map().try_page(page).expect("a page").index();
        // SAFETY: the page is locked, so nobody writes it.
        let value = unsafe { Self::word(mm, page).read() };
        self.blocks.lock().expect("nobody died").insert(block, value);
        self.writes.fetch_add(1, Relaxed);
        Ok(())
    }

    fn release(&self, mm: &Mm<Machine>, page: Pfn) {
        let desc = mm.map().try_page(page).expect("a page");
        assert!(desc.count() == 0 && !desc.head().lru().contains(LruFlags::DIRTY));
        assert_eq!(self.pages().remove(&desc.index()), Some(page));
    }

    fn replace(&self, mm: &Mm<Machine>, dst: Pfn, src: Pfn) {
        let block = mm.map().try_page(src).expect("a page").index();
        assert_eq!(self.pages().insert(block, dst), Some(src));
    }

    fn pages(&self) -> u64 {
        self.cached()
    }
}
