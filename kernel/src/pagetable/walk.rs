//! Finding entries, reading and exchanging them, and making the tables on the
//! way. Calls `entry`.

use super::entry::{DIRTY, Raw, WRITABLE, YOUNG};
use super::{ENTRIES, SPARES, Table, TableFrames, Tables};
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use mm::mmu::{Entry, Frames, MapSize, Mapping, VirtAddr};
use mm::types::Pfn;

/// The level whose entries point to the next ones' tables, the root's.
const TOP: u32 = 3;

/// Bytes that an entry of `level` covers; the last level is 0.
const fn covers(level: u32) -> u64 {
    1 << (12 + 9 * level)
}

/// The level whose entries map pages of `size`.
const fn level_of(size: MapSize) -> u32 {
    match size {
        MapSize::Small => 0,
        MapSize::Large => 1,
    }
}

/// Which entry of a table of `level` is meant for `va`.
pub(super) const fn index(va: VirtAddr, level: u32) -> usize {
    (va.0 / covers(level)) as usize % ENTRIES
}

pub(super) fn read(slot: &AtomicU64) -> Raw {
    // What was written to a table before it was put in place is seen.
    Raw(slot.load(Acquire))
}

impl<F: TableFrames> Tables<'_, F> {
    pub(super) fn table(&self, pfn: Pfn) -> &Table {
        self.frames.table(pfn)
    }

    /// The entry for `va` at `level`, or the one above it where the way ends.
    // Level by level, so that each is a few instructions: each fault and each move
    // of a page comes here several times.
    #[inline]
    fn walk(&self, va: VirtAddr, level: u32) -> (&AtomicU64, u32) {
        let slot = &self.table(self.root)[index(va, TOP)];
        let Some(table) = self.below(slot).filter(|_| level < TOP) else { return (slot, TOP) };
        let slot = &table[index(va, 2)];
        let Some(table) = self.below(slot).filter(|_| level < 2) else { return (slot, 2) };
        let slot = &table[index(va, 1)];
        let Some(table) = self.below(slot).filter(|_| level < 1) else { return (slot, 1) };
        (&table[index(va, 0)], 0)
    }

    /// The table that an entry points to.
    #[inline]
    fn below(&self, slot: &AtomicU64) -> Option<&Table> {
        let raw = read(slot);
        raw.is_table().then(|| self.table(raw.frame()))
    }

    /// The entry for `va` at `level`, if the tables reach there.
    fn slot(&self, va: VirtAddr, level: u32) -> Option<&AtomicU64> {
        let (slot, at) = self.walk(va, level);
        (at == level).then_some(slot)
    }

    /// What maps `va`, at whatever level.
    fn leaf(&self, va: VirtAddr) -> &AtomicU64 {
        self.walk(va, 0).0
    }

    /// See [`Mmu::get`](mm::mmu::Mmu::get).
    pub fn get(&self, va: VirtAddr) -> Entry {
        read(self.leaf(va)).entry()
    }

    /// See [`Mmu::replace`](mm::mmu::Mmu::replace). Where there is no table,
    /// nothing is put and nothing was there.
    pub fn replace(&self, va: VirtAddr, size: MapSize, entry: Entry) -> Entry {
        let slot = self.slot(va, level_of(size));
        debug_assert!(slot.is_some() || entry == Entry::None, "no table for {va}");
        let Some(slot) = slot.filter(|slot| size == MapSize::Small || !read(slot).is_table())
        else {
            return Entry::None;
        };
        Raw(slot.swap(Raw::new(entry).0, AcqRel)).entry()
    }

    /// See [`Mmu::stop`](mm::mmu::Mmu::stop).
    pub fn stop(&self, va: VirtAddr, size: MapSize, pfn: Pfn) -> Option<Mapping> {
        let slot = self.slot(va, level_of(size))?;
        let mut raw = read(slot);
        while raw.maps(size, pfn) {
            match slot.compare_exchange(raw.0, raw.moving().0, AcqRel, Acquire) {
                Ok(_) => return raw.page(),
                // The processor has noted a use of it.
                Err(now) => raw = Raw(now),
            }
        }
        None
    }

    /// See [`Mmu::resume`](mm::mmu::Mmu::resume).
    pub fn resume(&self, va: VirtAddr, mapping: Mapping) {
        let slot = self.slot(va, level_of(mapping.size));
        debug_assert!(slot.is_some_and(|slot| read(slot).is_moving()), "nothing moves at {va}");
        if let Some(slot) = slot {
            // While it says Moving the processor does not write it.
            slot.store(Raw::new(Entry::Page(mapping)).0, Release);
        }
    }

    /// See [`Mmu::write_protect`](mm::mmu::Mmu::write_protect).
    pub fn write_protect(&self, va: VirtAddr) {
        self.take(va, WRITABLE);
    }

    /// See [`Mmu::make_old`](mm::mmu::Mmu::make_old).
    pub fn make_old(&self, va: VirtAddr) -> bool {
        self.take(va, YOUNG)
    }

    /// See [`Mmu::make_clean`](mm::mmu::Mmu::make_clean).
    pub fn make_clean(&self, va: VirtAddr) -> bool {
        self.take(va, DIRTY)
    }

    /// Clears `bit` of what maps a page at `va`; whether it was set.
    fn take(&self, va: VirtAddr, bit: u64) -> bool {
        let slot = self.leaf(va);
        let raw = read(slot);
        // Most have been asked before: no locked cycle for them.
        raw.is_present() && raw.0 & bit != 0 && slot.fetch_and(!bit, AcqRel) & bit != 0
    }

    /// See [`Mmu::prepare`](mm::mmu::Mmu::prepare).
    pub fn prepare(&self, va: VirtAddr, size: MapSize, frames: Frames<'_>) -> bool {
        let mut spare = None;
        let made = self.make_tables(va, level_of(size), &mut spare, frames);
        if let Some(pfn) = spare {
            self.keep(pfn);
        }
        made
    }

    fn make_tables(
        &self,
        va: VirtAddr,
        level: u32,
        spare: &mut Option<Pfn>,
        frames: Frames<'_>,
    ) -> bool {
        loop {
            let (slot, at) = self.walk(va, level);
            let raw = read(slot);
            if at == level {
                return level == 0 || !raw.is_table();
            }
            if raw != Raw::NONE {
                return false;
            }
            let Some(pfn) = spare.take().or_else(|| self.unused()).or_else(&mut *frames) else {
                return false;
            };
            // Somebody else may have put one there meanwhile.
            if slot.compare_exchange(0, Raw::table(pfn).0, Release, Relaxed).is_err() {
                *spare = Some(pfn);
            }
        }
    }

    /// See [`Mmu::split`](mm::mmu::Mmu::split).
    pub fn split(&self, va: VirtAddr, frames: Frames<'_>) -> bool {
        let Some(slot) = self.slot(va, 1) else { return false };
        if !read(slot).is_large() {
            return false;
        }
        let Some(pfn) = self.unused().or_else(&mut *frames) else { return false };
        loop {
            let raw = read(slot);
            if !raw.is_large() {
                self.table(pfn).iter().for_each(|slot| slot.store(0, Relaxed));
                self.keep(pfn);
                return false;
            }
            for (i, part) in self.table(pfn).iter().enumerate() {
                part.store(raw.part(i as u64).0, Relaxed);
            }
            // The processor may have noted a use of it since.
            if slot.compare_exchange(raw.0, Raw::table(pfn).0, AcqRel, Relaxed).is_ok() {
                return true;
            }
        }
    }

    /// See [`Mmu::next_entry`](mm::mmu::Mmu::next_entry). A large page that is
    /// met in its middle is told with its first address.
    pub fn next_entry(&self, from: VirtAddr, to: VirtAddr) -> Option<(VirtAddr, MapSize, Entry)> {
        let mut va = from;
        while va < to {
            let (slot, level) = self.walk(va, 0);
            let entry = read(slot).entry();
            let start = VirtAddr(va.0 & !(covers(level) - 1));
            if entry != Entry::None {
                let size = if level == 0 { MapSize::Small } else { MapSize::Large };
                return Some((start, size, entry));
            }
            // The rest of a table is looked at without walking to it again.
            va = match level {
                0 => self.next_in_table(va),
                _ => start.add(covers(level)),
            };
        }
        None
    }

    /// The place of the next entry that says something in the last-level table
    /// of `va`, after it; the first behind that table if there is none.
    fn next_in_table(&self, va: VirtAddr) -> VirtAddr {
        let end = VirtAddr((va.0 & !(covers(1) - 1)) + covers(1));
        let Some(slot) = self.slot(va, 1).map(read).filter(|raw| raw.is_table()) else {
            return end;
        };
        let first = index(va, 0) + 1;
        let rest = &self.table(slot.frame())[first..];
        match rest.iter().position(|slot| slot.load(Relaxed) != 0) {
            Some(n) => VirtAddr((va.0 & !(covers(0) - 1)) + (n as u64 + 1) * covers(0)),
            None => end,
        }
    }

    /// Keeps a frame that was handed in, zeroed, and is not needed for the next
    /// table.
    pub(super) fn keep(&self, pfn: Pfn) {
        let first = &self.table(self.root)[SPARES];
        let mut seen = first.load(Relaxed);
        loop {
            self.table(pfn)[0].store(seen, Relaxed);
            match first.compare_exchange_weak(seen, pfn.addr(), Release, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// A frame that was kept.
    pub(super) fn unused(&self) -> Option<Pfn> {
        let first = &self.table(self.root)[SPARES];
        if first.load(Relaxed) == 0 {
            return None;
        }
        // The whole chain at once, so that nobody sees it change under him.
        let (pfn, mut rest) = self.chained(first.swap(0, Acquire))?;
        while let Some((next, after)) = self.chained(rest) {
            self.keep(next);
            rest = after;
        }
        Some(pfn)
    }

    /// The frame that a word of the chain names, and the next word.
    fn chained(&self, word: u64) -> Option<(Pfn, u64)> {
        let pfn = (word != 0).then(|| Pfn::containing(word))?;
        Some((pfn, self.table(pfn)[0].swap(0, Relaxed)))
    }
}
