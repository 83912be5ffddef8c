//! Page tables of a simulated machine: maps in the host's memory, and threads
//! that access memory through them as a processor does. Needs `std`. May call:
//! `mmu`, `platform`.
//!
//! Each thread keeps what it has looked up, as a TLB does, and goes on using it
//! until somebody flushes: who forgets to is found out. A flush waits for the
//! accesses that are under way, as an interrupt would.

use crate::mmu::{Entry, Frames, MapSize, Mapping, Mmu, Root, VirtAddr};
use crate::types::{PAGE_SIZE, Pfn};
use core::cell::RefCell;
use core::ops::Range;
use std::collections::btree_map::Entry as MapEntry;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::vec::Vec;

/// Addresses that spaces have: the lower half of a processor with four levels.
const SPAN: Range<VirtAddr> = VirtAddr(0)..VirtAddr(1 << 47);
/// log2 of the bytes that a table of each level covers, the lowest first.
const LEVELS: [u32; 3] = [21, 30, 39];
/// Translations that a thread keeps.
const TLB: usize = 64;

/// The entries of one space, by page number, and its tables by level and place.
#[derive(Default)]
struct Tables {
    small: BTreeMap<u64, Entry>,
    large: BTreeMap<u64, Entry>,
    frames: BTreeMap<(usize, u64), Pfn>,
}

struct Space {
    number: u64,
    top: Pfn,
    tables: Mutex<Tables>,
    /// Read by whoever accesses memory; written by a flush, which counts.
    accesses: RwLock<u64>,
}

/// What a thread remembers of a page.
#[derive(Clone, Copy)]
struct Known {
    space: u64,
    flushes: u64,
    start: VirtAddr,
    mapping: Mapping,
}

std::thread_local! {
    static KNOWN: RefCell<Vec<Known>> = const { RefCell::new(Vec::new()) };
}

/// Numbers of spaces: none is used again, whatever machine it is of.
static LAST: AtomicU64 = AtomicU64::new(0);

/// The tables of all spaces of a machine.
#[derive(Default)]
pub(super) struct HostMmu {
    spaces: Mutex<HashMap<u64, Arc<Space>>>,
}

/// The tables do not allow an access: it is to be made good with
/// [`Mm::fault`](crate::Mm::fault), and tried again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Faulted;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tables {
    /// The entry for `va` and where it begins.
    fn at(&self, va: VirtAddr) -> (VirtAddr, MapSize, Entry) {
        for (size, map) in [(MapSize::Large, &self.large), (MapSize::Small, &self.small)] {
            let start = va.align_down(size);
            if let Some(&entry) = map.get(&start.0) {
                return (start, size, entry);
            }
        }
        (va.align_down(MapSize::Small), MapSize::Small, Entry::None)
    }

    fn map(&mut self, size: MapSize) -> &mut BTreeMap<u64, Entry> {
        match size {
            MapSize::Small => &mut self.small,
            MapSize::Large => &mut self.large,
        }
    }

    fn page(&mut self, va: VirtAddr) -> Option<&mut Mapping> {
        let (start, size, _) = self.at(va);
        match self.map(size).get_mut(&start.0) {
            Some(Entry::Page(mapping)) => Some(mapping),
            _ => None,
        }
    }
}

impl HostMmu {
    fn space(&self, root: Root) -> Arc<Space> {
        let found = lock(&self.spaces).get(&root.0).cloned();
        found.unwrap_or_else(|| panic!("no such tables: {root:?}"))
    }

    /// Runs `f` with the frame behind `va` if the tables allow the access, and
    /// notes it there, as a processor does. Nothing that is flushed meanwhile is
    /// flushed before `f` is done.
    pub(super) fn access(
        &self,
        root: Root,
        va: VirtAddr,
        write: bool,
        f: &mut dyn FnMut(Pfn),
    ) -> Result<(), Faulted> {
        let space = self.space(root);
        let flushes = space.accesses.read().unwrap_or_else(PoisonError::into_inner);
        let start = |m: &Mapping| va.align_down(m.size);
        let known = KNOWN.with_borrow(|known| {
            let here = |k: &&Known| {
                k.space == space.number && k.flushes == *flushes && k.start == start(&k.mapping)
            };
            known.iter().find(here).map(|k| k.mapping)
        });
        // Whoever writes first has to note that in the tables.
        let good = |m: &Mapping| !write || m.writable && m.dirty;
        let mapping = match known.filter(good) {
            Some(mapping) => mapping,
            None => {
                let mut tables = lock(&space.tables);
                let mapping = tables.page(va).ok_or(Faulted)?;
                if write && !mapping.writable {
                    return Err(Faulted);
                }
                mapping.young = true;
                mapping.dirty |= write;
                *mapping
            }
        };
        KNOWN.with_borrow_mut(|known| {
            known.retain(|k| k.space != space.number || k.start != start(&k.mapping));
            if known.len() >= TLB {
                known.remove(0);
            }
            let (space, flushes) = (space.number, *flushes);
            known.push(Known { space, flushes, start: start(&mapping), mapping });
        });
        let part = (va.0 - start(&mapping).0) / PAGE_SIZE as u64;
        f(mapping.pfn.add(part));
        drop(flushes);
        Ok(())
    }
}

// SAFETY: what is replaced under the mutex is not used once the write lock has
// been had, for each access holds the read lock from looking up to its end, and
// forgets what it knows when the count has changed.
unsafe impl Mmu for HostMmu {
    fn span(&self) -> Range<VirtAddr> {
        SPAN
    }

    fn new_root(&self, frames: Frames<'_>) -> Option<Root> {
        let top = frames()?;
        let space = Space {
            number: LAST.fetch_add(1, Ordering::Relaxed) + 1,
            top,
            tables: Mutex::default(),
            accesses: RwLock::new(0),
        };
        lock(&self.spaces).insert(top.addr(), Arc::new(space));
        Some(Root(top.addr()))
    }

    fn free_root(&self, root: Root, freed: &mut dyn FnMut(Pfn)) {
        let Some(space) = lock(&self.spaces).remove(&root.0) else {
            panic!("no such tables: {root:?}")
        };
        let tables = lock(&space.tables);
        assert!(tables.small.is_empty() && tables.large.is_empty(), "tables with entries freed");
        tables.frames.values().for_each(|&pfn| freed(pfn));
        freed(space.top);
    }

    fn prepare(&self, root: Root, va: VirtAddr, size: MapSize, frames: Frames<'_>) -> bool {
        let space = self.space(root);
        let mut tables = lock(&space.tables);
        let lowest = match size {
            MapSize::Small if tables.large.contains_key(&va.align_down(MapSize::Large).0) => {
                return false;
            }
            MapSize::Small => 0,
            MapSize::Large if tables.frames.contains_key(&(0, va.0 >> LEVELS[0])) => return false,
            MapSize::Large => 1,
        };
        for level in (lowest..LEVELS.len()).rev() {
            let place = (level, va.0 >> LEVELS[level]);
            if let MapEntry::Vacant(table) = tables.frames.entry(place) {
                let Some(frame) = frames() else { return false };
                table.insert(frame);
            }
        }
        true
    }

    fn get(&self, root: Root, va: VirtAddr) -> Entry {
        lock(&self.space(root).tables).at(va).2
    }

    fn replace(&self, root: Root, va: VirtAddr, size: MapSize, entry: Entry) -> Entry {
        assert!(va.is_aligned(size), "{va} is not where such a page begins");
        let space = self.space(root);
        let mut tables = lock(&space.tables);
        let lowest = usize::from(size == MapSize::Large);
        assert!(tables.frames.contains_key(&(lowest, va.0 >> LEVELS[lowest])), "no table for {va}");
        if let Entry::Page(m) | Entry::Moving(m) = entry {
            assert!(m.size == size && m.pfn.is_aligned(size.order()), "{m:?} at {va}");
        }
        let map = tables.map(size);
        let old = match entry {
            Entry::None => map.remove(&va.0),
            _ => map.insert(va.0, entry),
        };
        old.unwrap_or(Entry::None)
    }

    fn write_protect(&self, root: Root, va: VirtAddr) {
        if let Some(mapping) = lock(&self.space(root).tables).page(va) {
            mapping.writable = false;
        }
    }

    fn make_old(&self, root: Root, va: VirtAddr) -> bool {
        let space = self.space(root);
        let mut tables = lock(&space.tables);
        tables.page(va).is_some_and(|m| core::mem::replace(&mut m.young, false))
    }

    fn make_clean(&self, root: Root, va: VirtAddr) -> bool {
        let space = self.space(root);
        let mut tables = lock(&space.tables);
        tables.page(va).is_some_and(|m| core::mem::replace(&mut m.dirty, false))
    }

    fn split(&self, root: Root, va: VirtAddr, frames: Frames<'_>) -> bool {
        let space = self.space(root);
        let mut tables = lock(&space.tables);
        let start = va.align_down(MapSize::Large);
        let entry = tables.large.get(&start.0).copied();
        let Some(Entry::Page(was) | Entry::Moving(was)) = entry else { return false };
        let moves = matches!(entry, Some(Entry::Moving(_)));
        let Some(frame) = frames() else { return false };
        tables.frames.insert((0, start.0 >> LEVELS[0]), frame);
        tables.large.remove(&start.0);
        for i in 0..was.size.order().pages() {
            let small = Mapping { pfn: was.pfn.add(i), size: MapSize::Small, ..was };
            let entry = if moves { Entry::Moving(small) } else { Entry::Page(small) };
            tables.small.insert(start.0 + i * PAGE_SIZE as u64, entry);
        }
        true
    }

    fn next_entry(
        &self,
        root: Root,
        from: VirtAddr,
        to: VirtAddr,
    ) -> Option<(VirtAddr, MapSize, Entry)> {
        let space = self.space(root);
        let tables = lock(&space.tables);
        if from >= to {
            return None;
        }
        let (start, size, entry) = tables.at(from);
        if entry != Entry::None {
            return Some((start, size, entry));
        }
        let next = |size, map: &BTreeMap<u64, Entry>| {
            map.range(from.0..to.0).next().map(|(&va, &entry)| (VirtAddr(va), size, entry))
        };
        let small = next(MapSize::Small, &tables.small);
        let large = next(MapSize::Large, &tables.large);
        small.into_iter().chain(large).min_by_key(|found| found.0)
    }

    fn free_tables(&self, root: Root, range: Range<VirtAddr>, freed: &mut dyn FnMut(Pfn)) {
        let space = self.space(root);
        let mut gone = Vec::new();
        lock(&space.tables).frames.retain(|&(level, place), &mut pfn| {
            let (start, end) = (place << LEVELS[level], (place + 1) << LEVELS[level]);
            let stays = start < range.start.0 || end > range.end.0;
            if !stays {
                gone.push(pfn);
            }
            stays
        });
        self.flush(root, range);
        gone.into_iter().for_each(freed);
    }

    fn flush(&self, root: Root, _range: Range<VirtAddr>) {
        let space = self.space(root);
        *space.accesses.write().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    fn table_pages(&self, root: Root) -> u64 {
        lock(&self.space(root).tables).frames.len() as u64 + 1
    }
}
