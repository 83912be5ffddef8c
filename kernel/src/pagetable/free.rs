//! Tables that go: those of a range that is not used any more, and all of them.
//! Calls `walk`.

use super::entry::Raw;
use super::walk::{index, read};
use super::{ENTRIES, SPARES, TableFrames, Tables};
use core::ops::Range;
use core::sync::atomic::Ordering::{Relaxed, Release};
use mm::mmu::VirtAddr;
use mm::types::Pfn;

/// Tables that have been taken out and that some CPU may still know.
#[derive(Debug)]
#[must_use = "their frames are lost otherwise"]
pub struct Freed {
    /// Chained through their first entries.
    first: Option<Pfn>,
}

impl Freed {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

impl<F: TableFrames> Tables<'_, F> {
    /// Takes out the tables whose span lies in `range` and in which nothing is,
    /// to be handed back by [`hand_back`](Self::hand_back) when no CPU knows them
    /// any more.
    pub fn take_out(&self, range: Range<VirtAddr>) -> Freed {
        let mut freed = Freed { first: None };
        self.take_out_below(self.root, 3, 0, &range, &mut freed);
        freed
    }

    /// Takes out what lies below the table of `level` in frame `pfn`, whose first
    /// entry is for address `base`.
    fn take_out_below(
        &self,
        pfn: Pfn,
        level: u32,
        base: u64,
        range: &Range<VirtAddr>,
        freed: &mut Freed,
    ) {
        let span = 1 << (12 + 9 * level);
        let first = if range.start.0 > base { index(range.start, level) } else { 0 };
        let most = if level == 3 { SPARES } else { ENTRIES };
        for (i, slot) in self.table(pfn).iter().enumerate().take(most).skip(first) {
            let start = base + i as u64 * span;
            if start >= range.end.0 {
                break;
            }
            let raw = read(slot);
            if !raw.is_table() {
                continue;
            }
            if level > 1 {
                self.take_out_below(raw.frame(), level - 1, start, range, freed);
            }
            let inside = range.start.0 <= start && start + span <= range.end.0;
            if inside && self.table(raw.frame()).iter().all(|slot| slot.load(Relaxed) == 0) {
                slot.store(0, Release);
                // A processor that still walks here finds "nothing" in all.
                let next = freed.first.map_or(0, Pfn::addr);
                self.table(raw.frame())[0].store(next, Relaxed);
                freed.first = Some(raw.frame());
            }
        }
    }

    /// Hands back the frames of tables that were taken out, which no CPU knows
    /// any more.
    pub fn hand_back(&self, freed: Freed, to: &mut dyn FnMut(Pfn)) {
        let mut next = freed.first;
        while let Some(pfn) = next {
            let word = self.table(pfn)[0].load(Relaxed);
            next = (word != 0).then(|| Pfn::containing(word));
            to(pfn);
        }
    }

    /// Hands back all frames, the root's last. Nothing is mapped, and nobody
    /// uses these tables.
    pub fn free_all(self, to: &mut dyn FnMut(Pfn)) {
        while let Some(pfn) = self.unused() {
            to(pfn);
        }
        self.each_below(self.root, 3, to);
        to(self.root);
    }

    /// Frames that these tables take.
    pub fn pages(&self) -> u64 {
        let mut pages = 1;
        self.each_below(self.root, 3, &mut |_| pages += 1);
        let mut word = self.table(self.root)[SPARES].load(Relaxed);
        while word != 0 {
            pages += 1;
            word = self.table(Pfn::containing(word))[0].load(Relaxed);
        }
        pages
    }

    /// Tells the tables below the one of `level` in frame `pfn`, each after those
    /// below it.
    fn each_below(&self, pfn: Pfn, level: u32, to: &mut dyn FnMut(Pfn)) {
        let most = if level == 3 { SPARES } else { ENTRIES };
        for slot in &self.table(pfn)[..most] {
            let raw: Raw = read(slot);
            if !raw.is_table() {
                continue;
            }
            if level > 1 {
                self.each_below(raw.frame(), level - 1, to);
            }
            to(raw.frame());
        }
    }
}
