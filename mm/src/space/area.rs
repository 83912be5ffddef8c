//! Room in an address space. Calls nothing: it is a question to the tree of
//! regions.

use super::region::Regions;
use crate::mmu::{MapSize, VirtAddr};
use core::ops::Range;

impl Regions {
    /// Whether no region has a part of `range`.
    pub(super) fn is_free(&self, range: &Range<VirtAddr>) -> bool {
        self.first_from(range.start).is_none_or(|region| region.range().start >= range.end)
    }

    /// Where `len` bytes have room within `span`: as high as possible, which
    /// leaves the largest gap whole; what may hold large pages begins where
    /// these may. The lowest page stays free, so that nothing is at address 0.
    pub(super) fn find_room(&self, span: &Range<VirtAddr>, len: u64) -> Option<VirtAddr> {
        let align = if len >= MapSize::Large.bytes() { MapSize::Large } else { MapSize::Small };
        let fits = |from: u64, to: u64| {
            let start = VirtAddr(to.checked_sub(len)?).align_down(align);
            (from <= start.0).then_some(start)
        };
        let mut end = span.end.0;
        for region in self.iter().rev() {
            let taken = region.range();
            if let Some(start) = fits(taken.end.0, end) {
                return Some(start);
            }
            end = taken.start.0;
        }
        fits(span.start.0.max(MapSize::Small.bytes()), end)
    }
}
