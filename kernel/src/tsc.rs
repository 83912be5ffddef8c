//! Whether two CPUs' time stamp counters agree. One reads its own before it asks
//! the other and after the answer; the other's reading must lie between. Calls
//! nothing.

/// What a number of questions have shown of the other CPU's counter less one's
/// own: it lies between two bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Comparison {
    least: i64,
    most: i64,
}

/// How the other's counter differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Difference {
    /// Not by anything that could be seen.
    None,
    /// By about this much: it is ahead if positive.
    Ahead(i64),
}

impl Comparison {
    /// Nothing known.
    pub const fn new() -> Self {
        Self { least: i64::MIN, most: i64::MAX }
    }

    /// Takes in one question: the other's counter was `theirs` at some moment
    /// between the two when one's own was `before` and `after`.
    pub fn add(&mut self, before: u64, theirs: u64, after: u64) {
        self.least = self.least.max(theirs.wrapping_sub(after) as i64);
        self.most = self.most.min(theirs.wrapping_sub(before) as i64);
    }

    /// What is known now. Bounds that contradict each other come from counters
    /// that do not run alike; the middle of them is as good as anything.
    pub fn difference(&self) -> Difference {
        let (low, high) = (self.least.min(self.most), self.least.max(self.most));
        if low <= 0 && high >= 0 {
            return Difference::None;
        }
        Difference::Ahead(low + (high.wrapping_sub(low)) / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(ahead: i64, delays: &[(u64, u64)]) -> Difference {
        let mut seen = Comparison::new();
        let mut now = 1_000_000_u64;
        for &(there, back) in delays {
            let theirs = (now + there).wrapping_add_signed(ahead);
            seen.add(now, theirs, now + there + back);
            now += there + back + 10;
        }
        seen.difference()
    }

    #[test]
    fn equal_counters_are_found_equal_however_slow_the_answer() {
        for delays in [&[(50, 50)][..], &[(0, 0)], &[(1, 100_000), (100_000, 1)], &[]] {
            assert_eq!(compare(0, delays), Difference::None, "{delays:?}");
        }
        // Too little to be seen.
        assert_eq!(compare(30, &[(50, 50), (40, 60)]), Difference::None);
    }

    #[test]
    fn different_counters_are_told_by_how_much() {
        for ahead in [5_000_i64, -5_000, 1 << 40, -(1 << 40), 900_000] {
            let Difference::Ahead(found) = compare(ahead, &[(50, 70), (500, 20), (30, 4000)])
            else {
                panic!("{ahead} is not seen");
            };
            assert!((found - ahead).abs() <= 50, "{found} instead of {ahead}");
        }
    }

    #[test]
    fn bounds_may_contradict_each_other() {
        let mut seen = Comparison::new();
        seen.add(100, 5100, 110);
        seen.add(200, 1200, 210);
        assert!(matches!(seen.difference(), Difference::Ahead(1000..=5000)));
    }
}
