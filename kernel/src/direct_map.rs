//! How a range of frames is covered by pages as large as its alignment allows,
//! and what is left of a range without a part of it. Pure.

use mm::types::{Order, Pfn, PfnRange};

/// Sizes of page that the processor knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PageSize {
    /// 4 KiB.
    Small,
    /// 2 MiB.
    Large,
    /// 1 GiB.
    Huge,
}

impl PageSize {
    /// Its size as an order of 4 KiB pages.
    pub const fn order(self) -> Order {
        match self {
            Self::Small => Order(0),
            Self::Large => Order(9),
            Self::Huge => Order(18),
        }
    }
}

/// The pages, none larger than `largest`, that cover exactly `range`, lowest
/// first. Virtual and physical address are taken to be equally aligned.
pub fn cover(range: PfnRange, largest: PageSize) -> impl Iterator<Item = (Pfn, PageSize)> {
    let mut at = range.start;
    core::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let left = PfnRange::new(at, range.end).pages();
        let fits = |size: &PageSize| {
            *size <= largest && at.is_aligned(size.order()) && size.order().pages() <= left
        };
        let sizes = [PageSize::Huge, PageSize::Large];
        let size = sizes.into_iter().find(fits).unwrap_or(PageSize::Small);
        let start = at;
        at = at.add(size.order().pages());
        Some((start, size))
    })
}

/// The parts of `range` below and above `hole`; either may be empty.
pub fn without(range: PfnRange, hole: PfnRange) -> [PfnRange; 2] {
    if range.intersect(hole).is_empty() {
        return [range, PfnRange::default()];
    }
    [PfnRange::new(range.start, hole.start), PfnRange::new(hole.end, range.end)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 18;
    const LARGE: u64 = 1 << 9;

    fn range(start: u64, end: u64) -> PfnRange {
        PfnRange::new(Pfn(start), Pfn(end))
    }

    #[test]
    fn pages_cover_exactly_and_are_aligned() {
        let ends = [0, 1, 511, 512, 513, 1024, GIB - 1, GIB, GIB + 512, 2 * GIB + 700];
        for largest in [PageSize::Small, PageSize::Large, PageSize::Huge] {
            for (start, end) in ends.iter().flat_map(|&s| ends.iter().map(move |&e| (s, e))) {
                if largest == PageSize::Small && end > GIB {
                    continue;
                }
                let mut at = Pfn(start);
                for (pfn, size) in cover(range(start, end), largest) {
                    assert_eq!(pfn, at);
                    assert!(pfn.is_aligned(size.order()) && size <= largest);
                    at = at.add(size.order().pages());
                }
                assert_eq!(at, Pfn(start.max(end)), "{start:#x}-{end:#x}");
            }
        }
    }

    #[test]
    fn few_pages_are_enough() {
        let count = |start, end, largest| cover(range(start, end), largest).count();
        // 256 up to 2 MiB, then large pages, as 512 MiB machines have it.
        assert_eq!(count(0x100, 0x1_ffe0, PageSize::Huge), 256 + 254 + 480);
        assert_eq!(count(GIB - LARGE, 3 * GIB + 1, PageSize::Huge), 1 + 2 + 1);
        assert_eq!(count(GIB - LARGE, 3 * GIB + 1, PageSize::Large), 1 + 1024 + 1);
    }

    #[test]
    fn a_hole_leaves_what_is_around_it() {
        let empty = |parts: [PfnRange; 2]| parts.map(PfnRange::pages);
        assert_eq!(empty(without(range(10, 20), range(12, 15))), [2, 5]);
        assert_eq!(empty(without(range(10, 20), range(0, 15))), [0, 5]);
        assert_eq!(empty(without(range(10, 20), range(15, 99))), [5, 0]);
        assert_eq!(empty(without(range(10, 20), range(0, 99))), [0, 0]);
        assert_eq!(empty(without(range(10, 20), range(20, 30))), [10, 0]);
        assert_eq!(empty(without(range(10, 20), range(0, 10))), [10, 0]);
        assert_eq!(empty(without(range(10, 20), range(15, 15))), [10, 0]);
    }
}
