//! Who is chosen: whoever uses most, unless he was said to be worth more or
//! less. Pure functions with known answers (Linux `oom_badness`). Calls nothing.

/// The adjustment of those who are never chosen.
pub const NEVER: i64 = -1000;

/// What an address space uses, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Use {
    /// In memory.
    pub rss: u64,
    /// In swap.
    pub swap: u64,
    /// Of page tables.
    pub tables: u64,
}

impl Use {
    /// Points of an address space, in pages; the one with most is chosen. `adj`:
    /// thousandths of `total`, all there is of memory and swap, that are added.
    /// None: never.
    pub const fn points(&self, adj: i64, total: u64) -> Option<i64> {
        if adj <= NEVER {
            return None;
        }
        let used = (self.rss + self.swap + self.tables) as i64;
        Some(used + adj * (total / 1000) as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_pages_and_thousandths() {
        let use_ = |rss, swap, tables| Use { rss, swap, tables };
        for (used, adj, total, points) in [
            (use_(0, 0, 0), 0, 1000, Some(0)),
            (use_(100, 20, 3), 0, 1000, Some(123)),
            (use_(100, 20, 3), 500, 10_000, Some(5123)),
            (use_(100, 20, 3), -500, 10_000, Some(-4877)),
            (use_(100, 20, 3), 1000, 10_999, Some(10_123)),
            (use_(100, 20, 3), -999, 1999, Some(-876)),
            (use_(u32::MAX as u64, 0, 0), NEVER, 1, None),
        ] {
            assert_eq!(used.points(adj, total), points, "{used:?} {adj} {total}");
        }
    }
}
