//! Free memory that nobody has wanted yet. Boot leaves each free, naturally
//! aligned block of the largest order as it is: it counts as present, managed
//! and free, and its pageblocks know zone and type, but it has no descriptors
//! and is on no list, so that a boot costs next to nothing per page and a large
//! machine touches little of its memory map. Such a *deferred* block is listed
//! when the list of its kind (largest order, Movable) runs empty, lowest first:
//! while a zone has any, that list has one. So whoever takes from the lists,
//! asks what they have, or falls back from one to another finds what it would
//! find if all were listed, in the same order; only those who want a given
//! range have to ask for it. All under the zone lock. May call: `buddy`,
//! `memmap`.

use crate::buddy::Buddy;
use crate::memmap::BlockInfo;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::sync::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use crate::types::{MAX_ORDER, MigrateType, Pfn, PfnRange};
use crate::zone::Zone;

/// What a zone knows of its deferred blocks; which they are, their pageblocks
/// say. Written under the zone lock.
#[derive(Debug, Default)]
pub(crate) struct Deferred {
    /// Pages in them.
    pages: AtomicU64,
    /// None lies below.
    first: AtomicU64,
}

impl Deferred {
    /// Pages in deferred blocks.
    pub(crate) fn pages(&self) -> u64 {
        self.pages.load(Acquire)
    }
}

/// The deferred blocks that `range`, free since boot and of one zone and type,
/// is made of, but for what lies beside them: whole blocks of the largest order.
pub(crate) fn whole_blocks(range: PfnRange) -> PfnRange {
    let start = range.start.align_up(MAX_ORDER);
    PfnRange::new(start, range.end.align_down(MAX_ORDER).max(start))
}

impl Zone {
    /// Free pages that have no descriptors yet, part of
    /// [`free_pages`](Self::free_pages): they count as free blocks of the
    /// largest order.
    pub fn deferred_pages(&self) -> u64 {
        self.deferred.pages()
    }

    /// Free blocks of the largest order, all Movable, that have no descriptors
    /// yet.
    pub(crate) fn deferred_blocks(&self) -> u64 {
        self.deferred.pages() / MAX_ORDER.pages()
    }
}

impl Buddy<'_> {
    /// Counts `blocks`, known to the map and not populated, as deferred free
    /// memory.
    pub(crate) fn defer(&mut self, blocks: PfnRange) {
        let deferred = &self.zone.deferred;
        if deferred.pages() == 0 || blocks.start.0 < deferred.first.load(Relaxed) {
            deferred.first.store(blocks.start.0, Relaxed);
        }
        deferred.pages.store(deferred.pages() + blocks.pages(), Relaxed);
        self.account(blocks.pages() as i64, MigrateType::Movable);
    }

    /// To be called when a block of the largest order has left its list: lists
    /// the lowest deferred block if the list of its kind is empty.
    #[inline]
    pub(crate) fn list_deferred(&mut self) {
        if self.zone.deferred.pages() > 0 && !self.has_largest() {
            self.list_lowest();
        }
    }

    /// Whether the list that deferred blocks belong on has any.
    fn has_largest(&self) -> bool {
        let orders = self.zone.avail[MigrateType::Movable.index()].load(Relaxed);
        orders >> MAX_ORDER.0 & 1 != 0
    }

    #[cold]
    #[inline(never)]
    fn list_lowest(&mut self) {
        let zone = self.zone;
        let mut from = Pfn(zone.deferred.first.load(Relaxed));
        while let Some((block, word)) = self.map.next_deferred(from, zone.span().end) {
            from = block.add(MAX_ORDER.pages());
            // Zones of other nodes may lie in between.
            if word.zone_index() == zone.index() {
                zone.deferred.first.store(from.0, Relaxed);
                self.populate(block);
                return;
            }
        }
    }

    /// Lists the deferred block at `block`. It is counted as free already.
    fn populate(&mut self, block: Pfn) {
        // SAFETY: a deferred block of this zone, whose lock is held.
        unsafe { self.map.populate(PfnRange::sized(block, MAX_ORDER.pages())) };
        // Only now: who finds that there is nothing to populate, without the
        // lock, goes on to look at descriptors.
        let deferred = &self.zone.deferred;
        deferred.pages.store(deferred.pages() - MAX_ORDER.pages(), Release);
        self.link(block, MAX_ORDER, MigrateType::Movable, true);
    }
}

impl<P: Platform> Mm<P> {
    /// Lists what is deferred of `range` and belongs to `zone`: for those who
    /// will look at its descriptors. Any context.
    // Always inlined: mostly nothing of a small range is deferred.
    #[inline(always)]
    pub(crate) fn populate(&self, zone: &Zone, range: PfnRange) {
        let mut at = range.start;
        while zone.deferred_pages() > 0
            && let Some((block, word)) = self.map.next_deferred(at, range.end)
        {
            at = block.add(MAX_ORDER.pages());
            // A zone's span has other zones' memory in it too.
            let is_ours = |word: &BlockInfo| word.zone_index() == zone.index();
            if !is_ours(word) {
                continue;
            }
            let cpu = self.enter();
            let mut buddy = Buddy::lock(&self.map, zone, &cpu);
            // Somebody else may have been faster.
            if self.map.is_deferred(block) && self.map.described(block).is_some_and(is_ours) {
                buddy.populate(block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_aligned_blocks_are_deferred() {
        let whole = |start, end| {
            let range = whole_blocks(PfnRange::new(Pfn(start), Pfn(end)));
            (!range.is_empty()).then_some((range.start.0, range.end.0))
        };
        assert_eq!(whole(0x400, 0x800), Some((0x400, 0x800)));
        assert_eq!(whole(0x3ff, 0x1000), Some((0x400, 0x1000)));
        assert_eq!(whole(0x401, 0x1001), Some((0x800, 0x1000)));
        assert_eq!(whole(0x401, 0xbff), None);
        assert_eq!(whole(0x401, 0x402), None);
        assert_eq!(whole(0x400, 0x400), None);
    }
}
