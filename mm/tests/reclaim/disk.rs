//! A disk of blocks that each hold one number, and its page cache: what reclaim is
//! made for.

use mm::Mm;
use mm::block::{BlockDevice, IoFailed, PageBytes};
use mm::cache::{CacheError, CacheFile, PageCache};
use mm::gfp::Gfp;
use mm::host::Machine;
use mm::types::{PAGE_SIZE, Pfn};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The disk itself.
#[derive(Default)]
struct Numbers(Mutex<BTreeMap<u64, u64>>, AtomicBool, AtomicU64);

/// A disk and what is cached of it.
pub(crate) struct Disk {
    numbers: &'static Numbers,
    pub(crate) cache: &'static PageCache,
    pub(crate) writes: &'static AtomicU64,
    pub(crate) broken: &'static AtomicBool,
}

/// What a block holds that was never written.
fn fresh(block: u64) -> u64 {
    block * 3 + 1
}

impl Numbers {
    fn number(&self, block: u64) -> u64 {
        self.0.lock().expect("nobody died").get(&block).copied().unwrap_or(fresh(block))
    }
}

impl BlockDevice for Numbers {
    fn name(&self) -> &'static str {
        "/dev/numbers"
    }

    fn blocks(&self) -> u64 {
        1 << 24
    }

    fn read(&self, block: u64, page: &mut PageBytes) -> Result<(), IoFailed> {
        page.fill(0);
        page[..8].copy_from_slice(&self.number(block).to_ne_bytes());
        Ok(())
    }

    fn write(&self, block: u64, page: &PageBytes) -> Result<(), IoFailed> {
        if self.1.load(Relaxed) {
            return Err(IoFailed);
        }
        let number = u64::from_ne_bytes(page[..8].try_into().expect("eight bytes"));
        assert!(page[8..].iter().all(|&byte| byte == 0), "torn");
        self.0.lock().expect("nobody died").insert(block, number);
        self.2.fetch_add(1, Relaxed);
        Ok(())
    }
}

fn offset(block: u32) -> u64 {
    u64::from(block) * PAGE_SIZE as u64
}

impl Disk {
    /// A disk whose cache `mm` knows. Nobody but reclaim writes what is dirty,
    /// unless asked to.
    pub(crate) fn of(mm: &Mm<Machine>) -> &'static Self {
        for knob in ["dirty_background_ratio", "dirty_ratio"] {
            mm.proc_write(&format!("/proc/sys/vm/{knob}"), "100").expect("a knob");
        }
        let numbers: &'static Numbers = Box::leak(Box::default());
        let cache: &'static PageCache = Box::leak(Box::new(PageCache::new(numbers)));
        cache.register(mm).expect("room for a cache");
        let (broken, writes) = (&numbers.1, &numbers.2);
        Box::leak(Box::new(Self { numbers, cache, writes, broken }))
    }

    /// Whether a block is in memory.
    pub(crate) fn is_cached(&self, mm: &Mm<Machine>, block: u32) -> bool {
        self.frame_of(mm, block).is_some()
    }

    /// The frame of a cached block.
    pub(crate) fn frame_of(&self, mm: &Mm<Machine>, block: u32) -> Option<Pfn> {
        self.cache.frame_of(mm, block.into())
    }

    pub(crate) fn cached(&self) -> u64 {
        self.cache.pages()
    }

    /// What the disk itself has.
    pub(crate) fn stored(&self, block: u32) -> u64 {
        self.numbers.number(block.into())
    }

    /// Reads a block.
    pub(crate) fn read(&self, mm: &Mm<Machine>, block: u32, gfp: Gfp) -> Result<u64, CacheError> {
        let mut number = [0; 8];
        let mut file = CacheFile::new(gfp);
        self.cache.read(mm, &mut file, offset(block), &mut number)?;
        Ok(u64::from_ne_bytes(number))
    }

    /// Writes a block, in memory for now.
    pub(crate) fn write(
        &self,
        mm: &Mm<Machine>,
        block: u32,
        number: u64,
        gfp: Gfp,
    ) -> Result<(), CacheError> {
        let mut file = CacheFile::new(gfp);
        self.cache.write(mm, &mut file, offset(block), &number.to_ne_bytes())
    }

    /// Forgets a block that nobody else uses.
    pub(crate) fn forget(&self, mm: &Mm<Machine>, block: u32) {
        let blocks = u64::from(block)..u64::from(block) + 1;
        if self.cache.invalidate(mm, blocks.clone()) == 0 && self.is_cached(mm, block) {
            self.cache.sync(mm).expect("a sound disk");
            assert_eq!(self.cache.invalidate(mm, blocks), 1);
        }
    }

    /// Forgets everything.
    pub(crate) fn forget_all(&self, mm: &Mm<Machine>) {
        self.cache.sync(mm).expect("a sound disk");
        self.cache.invalidate(mm, 0..u64::MAX);
        assert_eq!(self.cached(), 0);
    }
}
