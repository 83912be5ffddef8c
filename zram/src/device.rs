//! The device: slots that hold a page each. Calls everything below.

use crate::bench::Benches;
use crate::codec::{self, PageBytes};
use crate::leaf::Kind;
use crate::store::{Emptied, NOTHING, Place, Store, ZERO, may_be_noted};
use crate::words;
use core::ops::Range;
use mm::migrate::{OwnerId, TooManyOwners};
use mm::platform::Platform;
use mm::sync::{
    AtomicBool, AtomicU64, Cpu, Lock, LockGuard, LockRank, Once, Ordering::Relaxed, ReadGuard,
    SleepLock,
};
use mm::types::{Order, PAGE_SIZE, Pfn};
use mm::{AllocError, Gfp, Mm, Page, Request};

/// Pages of the store can be moved; nobody waits for them or reclaims to get
/// them, for whoever writes is doing just that.
const OBJECTS: Gfp = Gfp::NOWAIT.union(Gfp::HIGHMEM).union(Gfp::MOVABLE).union(Gfp::NOWARN);
/// Pages of tables stay where they are.
const TABLES: Gfp = Gfp::NOWAIT.union(Gfp::NOWARN);
/// Slots that are discarded before the lock is given up.
const BATCH: u32 = 32;

/// Why a page was not written. The slot holds what it held before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteError {
    /// There is no such slot, or the device is not set up.
    NoSlot,
    /// The page would take as much memory as it frees.
    DoesNotShrink,
    /// The device has all the memory that it may have.
    Limit,
    /// There is no memory.
    NoMemory,
}

impl core::fmt::Display for WriteError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NoSlot => "no such slot",
            Self::DoesNotShrink => "the page does not shrink",
            Self::Limit => "the limit of the device's memory is reached",
            Self::NoMemory => "out of memory",
        })
    }
}

impl core::error::Error for WriteError {}

/// Why a page was not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadError {
    /// There is no such slot, or the device is not set up.
    NoSlot,
    /// What is stored has been damaged.
    Corrupt,
}

impl core::fmt::Display for ReadError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NoSlot => "no such slot",
            Self::Corrupt => "what is stored has been damaged",
        })
    }
}

impl core::error::Error for ReadError {}

/// Why a device was not set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetUpError {
    /// It is set up already.
    Busy,
    /// No slots, or more than [`Zram::MOST_SLOTS`].
    Size,
    /// There is no memory to compress with.
    NoMemory(AllocError),
    /// The manager has no room for another driver of movable pages.
    Owners(TooManyOwners),
}

impl core::fmt::Display for SetUpError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Busy => f.write_str("the device is set up already"),
            Self::Size => f.write_str("no such size is possible"),
            Self::NoMemory(e) => e.fmt(f),
            Self::Owners(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for SetUpError {}

/// A device of compressed RAM. Empty and without a size at first. One manager's
/// for good: all calls name the same one.
pub struct Zram<P: Platform> {
    name: &'static str,
    owner: Once<OwnerId>,
    /// Slots that there are; 0: not set up. Written by whoever sets it up or
    /// down, read for the length of each use.
    pub(crate) slots: SleepLock<u32>,
    pub(crate) benches: Benches,
    store: Lock<Store>,
    /// Pages that it may have; 0: as many as there are.
    limit: AtomicU64,
    /// The store's pages, for those who ask without the lock.
    pub(crate) pages: AtomicU64,
    pub(crate) compacting: AtomicBool,
    pub(crate) refused: AtomicU64,
    pub(crate) failed_reads: AtomicU64,
    pub(crate) failed_writes: AtomicU64,
    pub(crate) invalid: AtomicU64,
    pub(crate) discards: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) writes: AtomicU64,
    _platform: core::marker::PhantomData<fn(P)>,
}

impl<P: Platform> core::fmt::Debug for Zram<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Zram").field("slots", &self.slots).finish_non_exhaustive()
    }
}

/// The store, locked; the token keeps this CPU's other code out meanwhile.
pub(crate) struct Locked<'a, P: Platform> {
    // The lock goes first, the token after it.
    store: LockGuard<'a, Store>,
    pages: &'a AtomicU64,
    _cpu: Cpu<'a, P>,
}

impl<P: Platform> core::ops::Deref for Locked<'_, P> {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl<P: Platform> core::ops::DerefMut for Locked<'_, P> {
    fn deref_mut(&mut self) -> &mut Store {
        &mut self.store
    }
}

impl<P: Platform> Drop for Locked<'_, P> {
    fn drop(&mut self) {
        self.pages.store(self.store.figures.pages, Relaxed);
    }
}

impl<P: Platform> Zram<P> {
    /// Slots that a device can have at most: 128 GiB of pages.
    pub const MOST_SLOTS: u32 = words::MOST;
    /// Bytes above which what a page was compressed to is not worth its place:
    /// seven eighths of a page.
    pub const REFUSED_ABOVE: usize = PAGE_SIZE / 8 * 7;

    /// A device that is not set up. Its name is a path, `/dev/zram0`.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            owner: Once::new(),
            slots: SleepLock::new(0),
            benches: Benches::new(),
            store: Lock::new(LockRank::Driver, Store::new()),
            limit: AtomicU64::new(0),
            pages: AtomicU64::new(0),
            compacting: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            failed_reads: AtomicU64::new(0),
            failed_writes: AtomicU64::new(0),
            invalid: AtomicU64::new(0),
            discards: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            _platform: core::marker::PhantomData,
        }
    }

    pub(crate) fn lock<'a>(&'a self, mm: &'a Mm<P>) -> Locked<'a, P> {
        let cpu = Cpu::enter(mm.platform());
        Locked { store: self.store.lock(&cpu), pages: &self.pages, _cpu: cpu }
    }

    /// Gives the device a size and what it needs to work. Interrupts on, no lock
    /// held; may wait for memory.
    ///
    /// # Errors
    /// See [`SetUpError`]; the device is as it was.
    pub fn set_up(&'static self, mm: &Mm<P>, slots: u32) -> Result<(), SetUpError> {
        let mut size = self.slots.write(mm.platform());
        if *size > 0 {
            return Err(SetUpError::Busy);
        }
        if slots == 0 || slots > Self::MOST_SLOTS {
            return Err(SetUpError::Size);
        }
        // Nobody else gets here: the size is locked.
        if self.owner.get().is_none() {
            let owner = mm.register_movable(self).map_err(SetUpError::Owners)?;
            self.owner.call_once(|| owner);
            // One more among those who are asked for memory; without, it keeps
            // more than it needs.
            let _ = mm.register_shrinker(self);
        }
        let request = Request::new(Order(0), Gfp::KERNEL | Gfp::ZERO);
        let scratch = mm.alloc_pages(request).map_err(SetUpError::NoMemory)?;
        if let Err(e) = self.benches.set_up(mm) {
            free(mm, scratch.pfn);
            return Err(SetUpError::NoMemory(e));
        }
        self.lock(mm).scratch = Some(scratch.pfn);
        *size = slots;
        Ok(())
    }

    /// Forgets everything and gives all memory back. Nobody swaps to the device
    /// any more. Interrupts on, no lock held; waits for those who use it.
    pub fn reset(&self, mm: &Mm<P>) {
        let mut size = self.slots.write(mm.platform());
        if *size == 0 {
            return;
        }
        self.discard_slots(mm, 0..*size);
        let mut store = self.lock(mm);
        let scratch = store.scratch.take();
        drop(store);
        loop {
            let page = self.lock(mm).take_table(mm);
            let Some(pfn) = page else { break };
            free(mm, pfn);
        }
        scratch.into_iter().for_each(|pfn| free(mm, pfn));
        self.benches.tear_down(mm);
        let mut store = self.lock(mm);
        store.figures = Default::default();
        drop(store);
        let counters = [&self.refused, &self.failed_reads, &self.failed_writes, &self.invalid];
        for counter in counters.into_iter().chain([&self.discards, &self.reads, &self.writes]) {
            counter.store(0, Relaxed);
        }
        self.limit.store(0, Relaxed);
        *size = 0;
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it is switched on for swap. Any context.
    pub fn is_swap(&self, mm: &Mm<P>) -> bool {
        mm.is_swap_on(self.name)
    }

    /// Slots that the device has; 0 if it is not set up. Waits for whoever is
    /// setting it up.
    pub fn slots(&self, mm: &Mm<P>) -> u32 {
        *self.slots.read(mm.platform())
    }

    /// Lets the device have that many bytes of memory, tables included; 0 is no
    /// limit. What it has above that it keeps.
    pub fn set_limit(&self, bytes: u64) {
        let page = PAGE_SIZE as u64;
        // In whole pages there is none that comes to all that can be written.
        self.limit.store(bytes.div_ceil(page).min(u64::MAX / page), Relaxed);
    }

    /// Has the most that it had be what it has now.
    pub(crate) fn forget_most(&self, mm: &Mm<P>) {
        let figures = &mut self.lock(mm).figures;
        figures.most = figures.pages + figures.tables;
    }

    /// Pages that it may have; 0: no limit.
    pub(crate) fn limit(&self) -> u64 {
        self.limit.load(Relaxed)
    }

    /// Keeps the device as it is while it is used, if `slot` is one of its.
    fn enter(&self, mm: &Mm<P>, slot: u32) -> Option<ReadGuard<'_, u32>> {
        let size = self.slots.read(mm.platform());
        if slot < *size {
            return Some(size);
        }
        self.invalid.fetch_add(1, Relaxed);
        None
    }

    /// Writes a page to a slot. Interrupts on, no lock held but page locks; waits
    /// for nothing but the processor, never for memory.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub fn write(&self, mm: &Mm<P>, slot: u32, page: &PageBytes) -> Result<(), WriteError> {
        let _set_up = self.enter(mm, slot).ok_or(WriteError::NoSlot)?;
        self.writes.fetch_add(1, Relaxed);
        let written = match codec::same_filled(page) {
            Some(0) => self.store(mm, slot, None),
            Some(word) => self.store(mm, slot, Some((Kind::Fill, &word.to_le_bytes()))),
            None => {
                let mut at = self.benches.take(mm);
                let tools = &mut *at;
                match codec::compress(page, &mut tools.buffer, &mut tools.table) {
                    Some(len) if len <= Self::REFUSED_ABOVE => {
                        self.store(mm, slot, Some((Kind::Whole, &tools.buffer[..len])))
                    }
                    _ => Err(WriteError::DoesNotShrink),
                }
            }
        };
        match written {
            Ok(()) => {}
            Err(WriteError::DoesNotShrink) => {
                self.refused.fetch_add(1, Relaxed);
            }
            Err(_) => {
                self.failed_writes.fetch_add(1, Relaxed);
            }
        }
        written
    }

    /// Puts an object in the place of what a slot holds; None is all zeros.
    fn store(
        &self,
        mm: &Mm<P>,
        slot: u32,
        object: Option<(Kind, &[u8])>,
    ) -> Result<(), WriteError> {
        let mut fresh: Option<(u32, Pfn)> = None;
        let mut emptied = Emptied::default();
        let stored = loop {
            let mut store = self.lock(mm);
            if store.slots.get(mm, slot).is_none() {
                drop(store);
                if let Err(e) = self.grow(mm, Some(slot)) {
                    break Err(e);
                }
                continue;
            }
            let entered = fresh.take().filter(|&(number, pfn)| store.enter(mm, number, pfn));
            let name = match object {
                None => Some(ZERO),
                Some((kind, data)) => {
                    let fresh = entered.map(|(_, pfn)| pfn);
                    store.place(mm, slot, kind, data, fresh).map(Place::name)
                }
            };
            if let Some(name) = name {
                store.replace(mm, slot, name, &mut emptied);
            }
            // Others may have made room meanwhile.
            if let Some((_, pfn)) = entered {
                store.settle(mm, pfn, &mut emptied);
            }
            if name.is_some() {
                break Ok(());
            }
            let number = store.take_number(mm);
            drop(store);
            let Some(taken) = number else {
                if let Err(e) = self.grow(mm, None) {
                    break Err(e);
                }
                continue;
            };
            match self.fresh_page(mm, taken) {
                Ok(pfn) => fresh = Some((taken, pfn)),
                Err(e) => {
                    self.lock(mm).give_number(mm, taken);
                    break Err(e);
                }
            }
        };
        emptied.release(mm);
        stored
    }

    /// A page for the store, movable already, to be entered under `number`.
    fn fresh_page(&self, mm: &Mm<P>, number: u32) -> Result<Pfn, WriteError> {
        self.may_have(mm, 1)?;
        let page = mm.alloc_pages(Request::new(Order(0), OBJECTS));
        let page = page.map_err(|_| WriteError::NoMemory)?;
        let owner = *self.owner.get().ok_or(WriteError::NoSlot)?;
        // Whoever finds it now asks the store, which does not know it yet.
        if !may_be_noted(page.pfn) || mm.make_movable(page, owner, number, 0).is_err() {
            free(mm, page.pfn);
            return Err(WriteError::NoMemory);
        }
        Ok(page.pfn)
    }

    /// Whether the limit leaves room for so many pages. Those who ask at the same
    /// time may go beyond it together, by what each of them asks for.
    fn may_have(&self, mm: &Mm<P>, pages: u64) -> Result<(), WriteError> {
        let limit = self.limit();
        if limit == 0 {
            return Ok(());
        }
        let figures = self.lock(mm).figures;
        let fits = figures.pages + figures.tables + pages <= limit;
        fits.then_some(()).ok_or(WriteError::Limit)
    }

    /// Has the table of slots grow so that `slot` has its place, or the table of
    /// pages so that there is one more number.
    #[cold]
    fn grow(&self, mm: &Mm<P>, slot: Option<u32>) -> Result<(), WriteError> {
        // A directory may be missing too. What is not needed goes back.
        let (mut pages, mut done) = ([None, None], Ok(false));
        for have in 0..pages.len() {
            done = self.table_page(mm, have as u64 + 1).map(|page| {
                pages[have] = Some(page);
                let mut store = self.lock(mm);
                let (mut used, full) = (0, slot.is_none() && store.is_full());
                let (words, i) = store.table(slot);
                let mut spare = pages.iter_mut().filter_map(Option::take).inspect(|_| used += 1);
                let done = !full && words.grow(mm, i, &mut spare);
                store.figures.tables += used;
                store.note_most();
                done
            });
            if done != Ok(false) {
                break;
            }
        }
        pages.into_iter().flatten().for_each(|pfn| free(mm, pfn));
        if done? { Ok(()) } else { Err(WriteError::NoMemory) }
    }

    fn table_page(&self, mm: &Mm<P>, needed: u64) -> Result<Pfn, WriteError> {
        self.may_have(mm, needed)?;
        let page = mm.alloc_pages(Request::new(Order(0), TABLES));
        page.map(|page| page.pfn).map_err(|_| WriteError::NoMemory)
    }

    /// Reads a slot; one that was never written, or discarded, is all zeros.
    /// Context as for [`write`](Self::write); needs no memory.
    ///
    /// # Errors
    /// See [`ReadError`]; the page may hold anything then.
    pub fn read(&self, mm: &Mm<P>, slot: u32, page: &mut PageBytes) -> Result<(), ReadError> {
        let _set_up = self.enter(mm, slot).ok_or(ReadError::NoSlot)?;
        self.reads.fetch_add(1, Relaxed);
        let name = self.lock(mm).slots.get(mm, slot);
        if matches!(name, None | Some(NOTHING | ZERO)) {
            page.fill(0);
            return Ok(());
        }
        let mut at = self.benches.take(mm);
        let mut store = self.lock(mm);
        // It may have moved, or been written again.
        let found = match store.slots.get(mm, slot) {
            None | Some(NOTHING | ZERO) => Ok(None),
            Some(name) => store.gather(mm, slot, name, &mut at.buffer).map(Some),
        };
        drop(store);
        let read = match found {
            Ok(None) => {
                codec::fill(page, 0);
                Ok(())
            }
            Ok(Some((Kind::Fill, len))) => match at.buffer[..len].first_chunk() {
                Some(word) => {
                    codec::fill(page, u64::from_le_bytes(*word));
                    Ok(())
                }
                None => Err(ReadError::Corrupt),
            },
            Ok(Some((_, len))) => {
                codec::expand(&at.buffer[..len], page).map_err(|_| ReadError::Corrupt)
            }
            Err(_) => Err(ReadError::Corrupt),
        };
        if read.is_err() {
            self.failed_reads.fetch_add(1, Relaxed);
        }
        read
    }

    /// Forgets what some slots hold, as far as there are such slots. Context as
    /// for [`write`](Self::write); waits for nothing.
    pub fn discard(&self, mm: &Mm<P>, slots: Range<u32>) {
        let size = self.slots.read(mm.platform());
        let forgotten = self.discard_slots(mm, slots.start..slots.end.min(*size));
        self.discards.fetch_add(forgotten, Relaxed);
    }

    /// Returns how many of them held something.
    fn discard_slots(&self, mm: &Mm<P>, slots: Range<u32>) -> u64 {
        let (mut slot, mut forgotten) = (slots.start, 0);
        while slot < slots.end {
            let mut emptied = Emptied::default();
            let mut store = self.lock(mm);
            let end = slots.end.min(slot.saturating_add(BATCH));
            while slot < end && emptied.has_room() {
                match store.slots.get(mm, slot) {
                    None => slot = store.slots.next_present(mm, slot).max(slot + 1) - 1,
                    Some(NOTHING) => {}
                    Some(_) => {
                        store.replace(mm, slot, NOTHING, &mut emptied);
                        forgotten += 1;
                    }
                }
                slot += 1;
            }
            drop(store);
            emptied.release(mm);
        }
        forgotten
    }
}

/// Frees a single page that is the caller's own.
fn free<P: Platform>(mm: &Mm<P>, pfn: Pfn) {
    let _ = mm.free_pages(Page { pfn, order: Order(0) });
}
