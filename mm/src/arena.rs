//! A movable arena: single pages that clients know by handle and not by
//! address, so that they can be moved under them. The first real driver of
//! movable pages, and what the lab's movable groups live in. May call:
//! `migrate`, `alloc`, `free`.
//!
//! A handle names a slot, the slot names the frame. Slots live in pages of
//! their own, found through a directory:
//!
//! ```text
//! Handle { slot, generation }  ->  dirs[slot >> 19] -> [slot >> 9 & 1023] -> slot page [slot & 511]
//!                                                                              { frame | next free, generation }
//! ```

use crate::gfp::{AllocError, Gfp, Page, Request};
use crate::migrate::{MigrateError, MigrateMode, MovableOps, OwnerId, TooManyOwners};
use crate::mm::Mm;
use crate::page::{NIL, PageType, link, linked};
use crate::platform::Platform;
use crate::sync::{AtomicU32, AtomicU64, Cpu, Lock, LockGuard, LockRank, Ordering::Relaxed};
use crate::types::{Order, PAGE_SIZE, Pfn};

/// Slots in a page of slots.
const SLOTS: u32 = (PAGE_SIZE / size_of::<Slot>()) as u32;
/// Slot pages that a directory page names.
const DIR: u32 = (PAGE_SIZE / size_of::<u32>()) as u32;
/// Directories: 64 GiB of pages in all.
const DIRS: usize = 32;
const NOT_REGISTERED: u32 = u32::MAX;

/// A page of an arena. Plain data; a stale one is recognised.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Handle {
    slot: u32,
    generation: u32,
}

impl Handle {
    /// The handle as a number, for clients that keep theirs in plain words.
    pub const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.slot as u64
    }

    /// The handle that [`to_bits`](Self::to_bits) made `bits` of. One made of
    /// any other number is found out like a stale one.
    pub const fn from_bits(bits: u64) -> Self {
        Self { slot: bits as u32, generation: (bits >> 32) as u32 }
    }
}

/// The handle names no page of this arena (any more).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StaleHandle;

impl core::fmt::Display for StaleHandle {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the handle names no page")
    }
}

impl core::error::Error for StaleHandle {}

/// In use: `word` is the frame and `generation` odd. Free: `word` is the next
/// free slot.
#[repr(C)]
struct Slot {
    word: AtomicU32,
    generation: AtomicU32,
}

struct Inner {
    dirs: [u32; DIRS],
    /// Slots that exist, used or free.
    slots: u32,
    free: u32,
    /// Generation of slots that were never used: above all there have been.
    first_generation: u32,
}

/// The tables, locked; the token keeps this CPU's other code out meanwhile.
struct Locked<'a, P: Platform> {
    // The lock goes first, the token after it.
    inner: LockGuard<'a, Inner>,
    _cpu: Cpu<'a, P>,
}

impl<P: Platform> core::ops::Deref for Locked<'_, P> {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl<P: Platform> core::ops::DerefMut for Locked<'_, P> {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.inner
    }
}

/// An arena. One is usually enough: clients do not get into each other's way.
pub struct MovableArena<P: Platform> {
    owner: AtomicU32,
    inner: Lock<Inner>,
    /// Pages in use. Written under the lock.
    used: AtomicU64,
    /// Pages the tables themselves take. Written under the lock.
    table_pages: AtomicU64,
    _platform: core::marker::PhantomData<fn(P)>,
}

impl<P: Platform> Default for MovableArena<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Platform> MovableArena<P> {
    /// An empty arena, to be [registered](Self::register) with one manager.
    pub const fn new() -> Self {
        Self {
            owner: AtomicU32::new(NOT_REGISTERED),
            inner: Lock::new(LockRank::Driver, Inner::new(0)),
            used: AtomicU64::new(0),
            table_pages: AtomicU64::new(0),
            _platform: core::marker::PhantomData,
        }
    }

    fn lock<'a>(&'a self, mm: &'a Mm<P>) -> Locked<'a, P> {
        let cpu = mm.enter();
        Locked { inner: self.inner.lock(&cpu), _cpu: cpu }
    }

    /// Makes `mm` the manager of this arena's pages. Once, before anything else.
    ///
    /// # Errors
    /// When the manager has no room for another driver.
    pub fn register(&'static self, mm: &Mm<P>) -> Result<(), TooManyOwners> {
        let id = mm.register_movable(self)?;
        self.owner.store(id.0, Relaxed);
        Ok(())
    }

    /// Pages in use.
    pub fn pages(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Pages that the arena's own tables take.
    pub fn table_pages(&self) -> u64 {
        self.table_pages.load(Relaxed)
    }

    /// Allocates a page. The gfp gets MOVABLE; with HIGHMEM the page may live
    /// in zone Movable. May wait if the gfp says so.
    ///
    /// # Errors
    /// When there is no page, or none for the tables; or the arena is not
    /// registered.
    #[track_caller]
    pub fn alloc(&self, mm: &Mm<P>, gfp: Gfp) -> Result<Handle, AllocError> {
        self.alloc_block(mm, Request::new(Order(0), gfp))
    }

    /// [`alloc`](Self::alloc) for a block of any order, which moves as a whole
    /// (see [`Mm::make_movable`] for what larger ones make way for).
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc).
    #[track_caller]
    pub fn alloc_block(&self, mm: &Mm<P>, req: Request) -> Result<Handle, AllocError> {
        let gfp = req.gfp;
        let owner = OwnerId(self.owner.load(Relaxed));
        if owner.0 == NOT_REGISTERED {
            return Err(AllocError::Invalid("the arena is not registered"));
        }
        let page = mm.alloc_pages(Request { gfp: gfp | Gfp::MOVABLE, ..req })?;
        let (slot, generation) = match self.take_slot(mm, gfp) {
            Ok(taken) => taken,
            Err(e) => {
                // The page is the caller's own and just allocated.
                let _ = mm.free_pages(page);
                return Err(e);
            }
        };
        let inner = self.lock(mm);
        let Some(entry) = inner.slot(mm, slot) else {
            return Err(AllocError::Invalid("slot without a table"));
        };
        entry.word.store(link(page.pfn), Relaxed);
        if mm.make_movable(page, owner, slot, 0).is_err() {
            return Err(AllocError::Invalid("page changed hands"));
        }
        Ok(Handle { slot, generation })
    }

    /// Gives a page back.
    ///
    /// # Errors
    /// A handle that names none.
    pub fn free(&self, mm: &Mm<P>, handle: Handle) -> Result<(), StaleHandle> {
        let mut inner = self.lock(mm);
        let (pfn, entry) = inner.lookup(mm, handle)?;
        entry.generation.store(handle.generation.wrapping_add(1), Relaxed);
        entry.word.store(inner.free, Relaxed);
        inner.free = handle.slot;
        self.used.fetch_sub(1, Relaxed);
        drop(inner);
        mm.release_movable(pfn);
        Ok(())
    }

    /// Runs `f` on the bytes of a block's first page, which stay where they are
    /// meanwhile. `f` must not call the arena, nor wait.
    ///
    /// # Errors
    /// A handle that names no page.
    pub fn with<R>(
        &self,
        mm: &Mm<P>,
        handle: Handle,
        f: impl FnOnce(&mut [u8; PAGE_SIZE]) -> R,
    ) -> Result<R, StaleHandle> {
        self.with_page(mm, handle, 0, f)
    }

    /// [`with`](Self::with) for the page of that number in its block.
    ///
    /// # Errors
    /// As [`with`](Self::with), and beyond the end of the block.
    pub fn with_page<R>(
        &self,
        mm: &Mm<P>,
        handle: Handle,
        page: u64,
        f: impl FnOnce(&mut [u8; PAGE_SIZE]) -> R,
    ) -> Result<R, StaleHandle> {
        let inner = self.lock(mm);
        let (pfn, _) = inner.lookup(mm, handle)?;
        if page >= mm.map().page(pfn).head().order().pages() {
            return Err(StaleHandle);
        }
        // SAFETY: the frame is the client's; while the arena is locked it is
        // neither moved nor freed, and nobody else gets a reference to it.
        let bytes = unsafe { &mut *mm.platform().frame(pfn.add(page)).cast::<[u8; PAGE_SIZE]>() };
        let result = f(bytes);
        drop(inner);
        Ok(result)
    }

    /// The frame that a page is in at the moment; it may move at any time
    /// unless it is pinned.
    ///
    /// # Errors
    /// A handle that names no page.
    pub fn frame(&self, mm: &Mm<P>, handle: Handle) -> Result<Pfn, StaleHandle> {
        self.lock(mm).lookup(mm, handle).map(|(pfn, _)| pfn)
    }

    /// Keeps a page where it is until it is unpinned as often. Returns the
    /// frame.
    ///
    /// # Errors
    /// A handle that names no page.
    pub fn pin(&self, mm: &Mm<P>, handle: Handle) -> Result<Pfn, StaleHandle> {
        let inner = self.lock(mm);
        let (pfn, _) = inner.lookup(mm, handle)?;
        let desc = mm.map().page(pfn);
        desc.set_inuse(desc.inuse() + 1);
        Ok(pfn)
    }

    /// Ends one [`pin`](Self::pin).
    ///
    /// # Errors
    /// A handle that names no page, or none that is pinned.
    pub fn unpin(&self, mm: &Mm<P>, handle: Handle) -> Result<(), StaleHandle> {
        let inner = self.lock(mm);
        let (pfn, _) = inner.lookup(mm, handle)?;
        let desc = mm.map().page(pfn);
        let pins = desc.inuse().checked_sub(1).ok_or(StaleHandle)?;
        desc.set_inuse(pins);
        Ok(())
    }

    /// Gives the tables' pages back. Handles of this arena stay stale.
    ///
    /// # Errors
    /// When pages are in use; their number.
    pub fn release_tables(&self, mm: &Mm<P>) -> Result<(), u64> {
        let mut inner = self.lock(mm);
        let used = self.used.load(Relaxed);
        if used > 0 {
            return Err(used);
        }
        let next = inner.next_generation(mm);
        for dir in inner.dirs.iter().filter_map(|&d| linked(d)) {
            for i in 0..DIR {
                if let Some(pfn) = linked(table_word(mm, dir, i).load(Relaxed)) {
                    let _ = mm.free_pages(Page { pfn, order: Order(0) });
                }
            }
            let _ = mm.free_pages(Page { pfn: dir, order: Order(0) });
        }
        *inner = Inner::new(next);
        self.table_pages.store(0, Relaxed);
        Ok(())
    }

    /// Gives back those pages of slots, from the last one down, that have no slot
    /// in use. Takes time with the number of slots.
    pub fn trim_tables(&self, mm: &Mm<P>) {
        if self.release_tables(mm).is_ok() {
            return;
        }
        let mut inner = self.lock(mm);
        let old = inner.slots;
        inner.drop_last_slots(mm);
        for table in inner.slots / SLOTS..old / SLOTS {
            let Some(dir) = inner.dirs.get((table / DIR) as usize).and_then(|&d| linked(d)) else {
                continue;
            };
            if let Some(pfn) = linked(table_word(mm, dir, table % DIR).swap(NIL, Relaxed)) {
                let _ = mm.free_pages(Page { pfn, order: Order(0) });
                self.table_pages.fetch_sub(1, Relaxed);
            }
        }
    }

    /// A slot that was nobody's, in use by now, and its generation; makes a page
    /// of them if there is none.
    fn take_slot(&self, mm: &Mm<P>, gfp: Gfp) -> Result<(u32, u32), AllocError> {
        loop {
            let mut inner = self.lock(mm);
            if inner.free != NIL {
                let slot = inner.free;
                let Some(entry) = inner.slot(mm, slot) else {
                    return Err(AllocError::Invalid("slot without a table"));
                };
                let generation = entry.generation.load(Relaxed).wrapping_add(1);
                inner.free = entry.word.swap(NIL, Relaxed);
                entry.generation.store(generation, Relaxed);
                self.used.fetch_add(1, Relaxed);
                return Ok((slot, generation));
            }
            drop(inner);
            self.grow(mm, gfp)?;
        }
    }

    /// Adds a page of slots. Allocates without the lock, so that it may wait.
    fn grow(&self, mm: &Mm<P>, gfp: Gfp) -> Result<(), AllocError> {
        // The tables stay where they are: unmovable, and where the kernel lives.
        // Whoever has allocations fail means the arena's pages, not these.
        let place = Gfp::MOVABLE | Gfp::HIGHMEM | Gfp::RECLAIMABLE | Gfp::DMA | Gfp::DMA32;
        let gfp = gfp - (place | Gfp::THISNODE | Gfp::PINNED);
        let request = Request::new(Order(0), gfp);
        let page = mm.alloc_pages_spared(request)?;
        let mut dir_page = Some(match mm.alloc_pages_spared(request) {
            Ok(dir) => dir,
            Err(e) => {
                let _ = mm.free_pages(page);
                return Err(e);
            }
        });
        let added = {
            let mut inner = self.lock(mm);
            // Somebody else may have been quicker; then there is one page more.
            let added = inner.add_slots(mm, page.pfn, &mut dir_page);
            let pages = u64::from(added) + u64::from(added && dir_page.is_none());
            self.table_pages.fetch_add(pages, Relaxed);
            added
        };
        if let Some(dir) = dir_page {
            let _ = mm.free_pages(dir);
        }
        if !added {
            let _ = mm.free_pages(page);
            return Err(AllocError::NoMemory);
        }
        Ok(())
    }

    fn locked_at<'a>(&'a self, mm: &'a Mm<P>, pfn: Pfn) -> Option<Locked<'a, P>> {
        let inner = self.lock(mm);
        let slot = inner.slot(mm, mm.map().page(pfn).index())?;
        let mine = slot.generation.load(Relaxed) % 2 == 1 && slot.word.load(Relaxed) == link(pfn);
        mine.then_some(inner)
    }
}

/// Word `i` of a directory page.
fn table_word<P: Platform>(mm: &Mm<P>, dir: Pfn, i: u32) -> &AtomicU32 {
    // SAFETY: a directory page is the arena's, filled with such words, and
    // lives as long as the arena has it in `dirs`; callers hold the lock.
    unsafe { &*mm.platform().frame(dir).cast::<AtomicU32>().add((i % DIR) as usize) }
}

impl Inner {
    const fn new(first_generation: u32) -> Self {
        Self { dirs: [NIL; DIRS], slots: 0, free: NIL, first_generation }
    }

    /// A generation that no handle so far has, even as those of free slots are.
    fn next_generation<P: Platform>(&self, mm: &Mm<P>) -> u32 {
        (0..self.slots)
            .filter_map(|slot| Some(self.slot(mm, slot)?.generation.load(Relaxed)))
            .fold(self.first_generation, u32::max)
            .next_multiple_of(2)
    }

    /// The slot of that number, if it exists.
    fn slot<'m, P: Platform>(&self, mm: &'m Mm<P>, slot: u32) -> Option<&'m Slot> {
        if slot >= self.slots {
            return None;
        }
        let table = slot / SLOTS;
        let dir = linked(*self.dirs.get((table / DIR) as usize)?)?;
        let page = linked(table_word(mm, dir, table % DIR).load(Relaxed))?;
        // SAFETY: a page of slots is the arena's and was filled with slots; it
        // is given back only when no slot is used.
        Some(unsafe { &*mm.platform().frame(page).cast::<Slot>().add((slot % SLOTS) as usize) })
    }

    /// Forgets the slots behind the last page of slots of which some is in use.
    fn drop_last_slots<P: Platform>(&mut self, mm: &Mm<P>) {
        let generation = |slot| self.slot(mm, slot).map(|s| s.generation.load(Relaxed));
        let last = (0..self.slots).rev().find(|&slot| generation(slot).is_none_or(|g| g % 2 == 1));
        let keep = last.map_or(0, |slot| (slot / SLOTS + 1) * SLOTS);
        if keep == self.slots {
            return;
        }
        // Their handles are stale, and so they are to stay.
        let newest =
            (keep..self.slots).filter_map(generation).fold(self.first_generation, u32::max);
        self.first_generation = newest.next_multiple_of(2);
        // What is left of the list of free slots, in its order.
        let (mut at, mut tail) = (core::mem::replace(&mut self.free, NIL), None);
        while let Some(slot) = self.slot(mm, at) {
            let next = slot.word.load(Relaxed);
            if at < keep {
                match tail.and_then(|tail| self.slot(mm, tail)) {
                    Some(before) => before.word.store(at, Relaxed),
                    None => self.free = at,
                }
                slot.word.store(NIL, Relaxed);
                tail = Some(at);
            }
            at = next;
        }
        self.slots = keep;
    }

    fn lookup<'m, P: Platform>(
        &self,
        mm: &'m Mm<P>,
        handle: Handle,
    ) -> Result<(Pfn, &'m Slot), StaleHandle> {
        let slot = self.slot(mm, handle.slot).ok_or(StaleHandle)?;
        let current = slot.generation.load(Relaxed) == handle.generation;
        if !current || handle.generation % 2 == 0 {
            return Err(StaleHandle);
        }
        let pfn = linked(slot.word.load(Relaxed)).ok_or(StaleHandle)?;
        Ok((pfn, slot))
    }

    /// Makes a page of slots of `page`; takes `dir` if a directory is needed.
    fn add_slots<P: Platform>(&mut self, mm: &Mm<P>, page: Pfn, dir: &mut Option<Page>) -> bool {
        let table = self.slots / SLOTS;
        let Some(entry) = self.dirs.get_mut((table / DIR) as usize) else { return false };
        if *entry == NIL {
            let Some(new) = dir.take() else { return false };
            // SAFETY: the page is ours alone; all words become NIL.
            unsafe { mm.platform().frame(new.pfn).write_bytes(0xff, PAGE_SIZE) };
            *entry = link(new.pfn);
        }
        let Some(dir) = linked(*entry) else { return false };
        let first = self.slots;
        for i in 0..SLOTS {
            let next = if i + 1 < SLOTS { first + i + 1 } else { self.free };
            let slot = Slot {
                word: AtomicU32::new(next),
                generation: AtomicU32::new(self.first_generation),
            };
            // SAFETY: the page is ours alone and holds that many slots.
            unsafe { mm.platform().frame(page).cast::<Slot>().add(i as usize).write(slot) };
        }
        table_word(mm, dir, table % DIR).store(link(page), Relaxed);
        self.free = first;
        self.slots += SLOTS;
        true
    }
}

impl<P: Platform> MovableOps<P> for MovableArena<P> {
    fn isolate(&self, mm: &Mm<P>, page: Pfn, _mode: MigrateMode) -> bool {
        self.locked_at(mm, page).is_some() && mm.map().page(page).inuse() == 0
    }

    fn migrate(
        &self,
        mm: &Mm<P>,
        dst: Pfn,
        src: Pfn,
        _mode: MigrateMode,
    ) -> Result<(), MigrateError> {
        // Freed meanwhile: there is nothing to move, and the caller sees that.
        let Some(inner) = self.locked_at(mm, src) else { return Err(MigrateError::Again) };
        let desc = mm.map().page(src);
        debug_assert!(desc.head().ty() == PageType::Movable);
        if desc.inuse() > 0 {
            return Err(MigrateError::Busy);
        }
        match desc.head().order() {
            Order(0) => mm.copy_frame(dst, src),
            order => mm.copy_block(dst, src, order),
        }
        if let Some(slot) = inner.slot(mm, desc.index()) {
            slot.word.store(link(dst), Relaxed);
        }
        Ok(())
    }

    fn putback(&self, _mm: &Mm<P>, _page: Pfn) {}
}
