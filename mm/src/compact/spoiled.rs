//! Pageblocks that stay in pieces whatever is moved, as something is in them that
//! does not move. A run that is to make whole pageblocks leaves what is movable
//! there, and uses what is free there first: each page that it moves to such a
//! block lies no more in one that can be free as a whole. May call: `memmap`.

use crate::mm::Mm;
use crate::page::PageType;
use crate::platform::Platform;
use crate::types::{MigrateType, PAGEBLOCK_PAGES, Pfn, PfnRange};

/// Pageblocks that are kept in mind at most.
const MOST: usize = 32;

/// Descriptors that are looked at between two questions.
const ROW: usize = 64;

/// Types of pages that no compaction moves, a bit each.
const STAYS: u32 = PageType::Kernel.bit()
    | PageType::Slab.bit()
    | PageType::LargeKmalloc.bit()
    | PageType::Contig.bit()
    | PageType::Offline.bit()
    | PageType::Reserved.bit()
    | PageType::Hole.bit()
    | PageType::Poisoned.bit();

/// Such pageblocks behind a run's migration scanner; those that it has met last
/// if they are too many.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Spoiled {
    blocks: [Option<Pfn>; MOST],
    next: usize,
    /// How many it has met, and how many were filled.
    met: u64,
    filled: u64,
}

impl Spoiled {
    /// Notes one more.
    pub(super) fn push(&mut self, block: Pfn) {
        self.blocks[self.next % MOST] = Some(block);
        self.next = (self.next + 1) % MOST;
        self.met += 1;
    }

    /// The one that was noted last, to be filled now.
    pub(super) fn pop(&mut self) -> Option<Pfn> {
        let last = (self.next + MOST - 1) % MOST;
        let block = self.blocks[last].take()?;
        self.next = last;
        self.filled += 1;
        Some(block)
    }

    /// Whether there were more than there was anything to fill with: then smaller
    /// blocks are what can be made of most of the memory.
    pub(super) const fn mostly_left(&self) -> bool {
        self.met > 2 * self.filled
    }
}

impl<P: Platform> Mm<P> {
    /// Whether a pageblock that movable pages belong in has one that stays. Its
    /// descriptors can be read; a hint.
    #[inline(never)]
    pub(super) fn is_spoiled(&self, block: Pfn) -> bool {
        let ty = self.map.block(block).migratetype();
        let pages = self.map.pages().of(PfnRange::sized(block, PAGEBLOCK_PAGES));
        matches!(ty, MigrateType::Movable | MigrateType::Cma)
            && pages.chunks(ROW).any(|row| {
                row.iter().fold(0, |seen, page| seen | page.head().type_bit()) & STAYS != 0
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_kept_in_mind() {
        let mut spoiled = Spoiled::default();
        assert!(spoiled.pop().is_none() && !spoiled.mostly_left());
        (0..40).for_each(|i| spoiled.push(Pfn(512 * i)));
        let popped: std::vec::Vec<u64> =
            core::iter::from_fn(|| spoiled.pop()).map(|pfn| pfn.0 / 512).collect();
        assert!(popped.iter().copied().eq((8..40).rev()), "{popped:?}");
        assert!(!spoiled.mostly_left());
        (0..25).for_each(|i| spoiled.push(Pfn(512 * i)));
        assert!(spoiled.mostly_left());
        assert_eq!(spoiled.pop(), Some(Pfn(512 * 24)));
    }
}
