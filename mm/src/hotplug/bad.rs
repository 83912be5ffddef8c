//! Bad frames of memory that is out of use, and of no zone: they stay out of use
//! when it comes back, and are forgotten when it is removed. Their descriptors,
//! though nobody else goes by them, say so. May call: `poison`, `memmap`.

use crate::memmap::BlockInfo;
use crate::mm::Mm;
use crate::page::{HeadWord, PageType};
use crate::platform::Platform;
use crate::types::{Order, PAGEBLOCK_PAGES, Pfn, PfnRange};

const BAD: HeadWord = HeadWord::new(PageType::Poisoned, Order(0));

impl<P: Platform> Mm<P> {
    /// Takes a frame out for good whose memory block has nothing in use. False: it
    /// is not of such a block any more. Interrupts on, no lock held.
    pub(crate) fn take_of_no_zone(&self, pfn: Pfn) -> bool {
        let _gate = self.hotplug_gate();
        if self.map.described(pfn).is_none_or(BlockInfo::is_known) {
            return false;
        }
        let page = self.map.page(pfn);
        if page.head() != BAD {
            page.reset(BAD);
            self.enlist(&[pfn]);
        }
        true
    }

    /// Frames that are bad and of no zone, by their descriptors.
    pub(crate) fn bad_of_no_zone(&self) -> u64 {
        let all = PfnRange::new(Pfn(0), self.map.end());
        let blocks = self.map.described_blocks(all).filter(|(_, word)| !word.is_known());
        let bad = |pfn: &u64| self.map.page(Pfn(*pfn)).head() == BAD;
        blocks.map(|(at, _)| (at.0..at.0 + PAGEBLOCK_PAGES).filter(bad).count() as u64).sum()
    }
}
