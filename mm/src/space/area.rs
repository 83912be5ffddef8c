//! Room in an address space. Calls nothing: it is a question to the tree of
//! regions.

use super::region::{Full, Regions};
use crate::mmu::{MapSize, VirtAddr};
use core::ops::Range;

/// Regions that a search passes before it is worth to note where it ended, though
/// shorter ones have to look there again.
const MANY: u32 = 64;

impl Regions {
    /// Whether no region has a part of `range`.
    pub(super) fn is_free(&self, range: &Range<VirtAddr>) -> bool {
        self.first_from(range.start).is_none_or(|region| region.range().start >= range.end)
    }

    /// Where `len` bytes have room within `span`: as high as possible, which
    /// leaves the largest gap whole; what may hold large pages begins where
    /// these may. The lowest page stays free, so that nothing is at address 0.
    ///
    /// Where there was no room before is not looked at again: of thousands of
    /// regions made one after the other, each would be passed by all that follow.
    pub(super) fn find_room(&mut self, span: &Range<VirtAddr>, len: u64) -> Option<VirtAddr> {
        let longer = len > self.full.len;
        let from = if len < self.full.len { span.end } else { self.full.above.min(span.end) };
        let (found, passed) = self.find_room_below(span, from, len);
        if let Some(start) = found
            && (!longer || passed > MANY)
        {
            self.full = Full { above: start.add(len), len };
        }
        found
    }

    /// [`find_room`](Self::find_room) below `from`; and how many regions were
    /// passed on the way.
    fn find_room_below(
        &self,
        span: &Range<VirtAddr>,
        from: VirtAddr,
        len: u64,
    ) -> (Option<VirtAddr>, u32) {
        let align = if len >= MapSize::Large.bytes() { MapSize::Large } else { MapSize::Small };
        let fits = |from: u64, to: u64| {
            let start = VirtAddr(to.checked_sub(len)?).align_down(align);
            (from <= start.0).then_some(start)
        };
        let (mut end, mut passed) = (from.0, 0);
        while let Some(region) = self.last_before(VirtAddr(end)) {
            let taken = region.range();
            if let Some(start) = fits(taken.end.0, end) {
                return (Some(start), passed);
            }
            end = taken.start.0;
            passed += 1;
        }
        (fits(span.start.0.max(MapSize::Small.bytes()), end), passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_known_to_be_full_at_first() {
        let mut regions = Regions::default();
        let span = VirtAddr(0)..VirtAddr(1 << 30);
        assert_eq!(regions.find_room(&span, 4096), Some(VirtAddr((1 << 30) - 4096)));
        // Nothing was put there; what is shorter is not held back by that.
        assert_eq!(regions.find_room(&span, 1 << 29), Some(VirtAddr(1 << 29)));
        assert_eq!(regions.find_room(&span, 1 << 30), None, "the lowest page stays free");
    }
}
