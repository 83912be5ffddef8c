//! The arithmetic of reclaim: what is scanned, how much of it, and when it is
//! enough. Pure functions with known answers (Linux mm/vmscan.c). Units are
//! pages unless a name says otherwise. Calls nothing.

/// The priority that a scan begins with: it looks at this power of two's part of
/// each list, and at twice as much with each step down to 0.
pub const DEFAULT_PRIORITY: u32 = 12;
/// Pages that are looked at together, and that direct reclaim is content with.
pub const CLUSTER: u64 = 32;
/// `swappiness` unless set.
pub const DEFAULT_SWAPPINESS: u32 = 60;
/// The largest `swappiness`: only anonymous pages are worth reclaiming.
pub const MAX_SWAPPINESS: u32 = 200;
/// Rounds in which kswapd frees nothing before it leaves a node to those who
/// want its memory.
pub const MAX_FAILURES: u32 = 16;
/// The lowest priority to which kswapd goes while it only makes room for what
/// boosting asks for.
pub const BOOST_PRIORITY: u32 = DEFAULT_PRIORITY - 2;

/// Whether too few pages are on an inactive list to tell what is used from what
/// is not: then active ones have to follow. The more memory, the smaller a part
/// suffices: `ratio` to 1, that being the root of ten times the GiB.
pub const fn inactive_is_low(inactive: u64, active: u64) -> bool {
    let gib = (inactive + active) >> 18;
    let ratio = if gib > 0 { (10 * gib).isqrt() } else { 1 };
    inactive * ratio < active
}

/// What the balance between anonymous and file-like pages depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Balance {
    /// 0 to 200: how willingly anonymous pages are written to swap.
    pub swappiness: u32,
    /// Of the scan.
    pub priority: u32,
    /// There is room in swap, and it may be used.
    pub can_swap: bool,
    /// File-like and free pages together would not reach the high marks.
    pub file_is_tiny: bool,
    /// There are inactive file-like pages enough for this priority.
    pub cache_is_ample: bool,
    /// What reclaiming either kind has cost lately.
    pub anon_cost: u64,
    /// As `anon_cost`.
    pub file_cost: u64,
}

/// Which part of the lists of a kind is scanned, in fractions of `of`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shares {
    /// Of the anonymous lists.
    pub anon: u64,
    /// Of the file-like lists.
    pub file: u64,
    /// What these are fractions of.
    pub of: u64,
}

impl Shares {
    const ANON: Self = Self { anon: 1, file: 0, of: 1 };
    const FILE: Self = Self { anon: 0, file: 1, of: 1 };
    const EQUAL: Self = Self { anon: 1, file: 1, of: 1 };
}

impl Balance {
    /// What is to be scanned: one kind alone where the other is not to be had or
    /// not worth it, all there is at the last priority; else both, in proportion
    /// to swappiness and in inverse proportion to their cost.
    pub fn shares(&self) -> Shares {
        if !self.can_swap {
            return Shares::FILE;
        }
        if self.priority == 0 && self.swappiness > 0 {
            return Shares::EQUAL;
        }
        if self.file_is_tiny {
            return Shares::ANON;
        }
        if self.cache_is_ample || self.swappiness == 0 {
            return Shares::FILE;
        }
        // Half of what both cost counts as either's: no list is let alone.
        let total = self.anon_cost + self.file_cost;
        let weight =
            |share: u32, cost: u64| u64::from(share) * (2 * total + 1) / (total + cost + 1);
        let anon = weight(self.swappiness, self.anon_cost);
        let file = weight(MAX_SWAPPINESS - self.swappiness.min(MAX_SWAPPINESS), self.file_cost);
        Shares { anon, file, of: anon + file }
    }
}

/// Pages of a list of `size` to scan at `priority`, being `share` of `of`.
pub const fn to_scan(size: u64, priority: u32, share: u64, of: u64) -> u64 {
    let scan = size >> priority;
    // Rounded up for what is scanned at all, so that a small list's turn comes.
    if share == 0 || of == 0 { 0 } else { (scan * share).div_ceil(of) }
}

/// The two costs once that of a scan has been added: both halve when they
/// outgrow a quarter of all pages listed, so that what was long ago is forgotten.
pub const fn aged_costs(anon: u64, file: u64, listed: u64) -> (u64, u64) {
    if anon + file > listed / 4 { (anon / 2, file / 2) } else { (anon, file) }
}

/// What remains to be scanned of the two kinds once enough has been reclaimed:
/// the kind of which less remains is done, and the other gets as far as that
/// one got. `target` and `left`: pages of (anonymous, file-like) lists.
pub const fn settle(target: (u64, u64), left: (u64, u64)) -> (u64, u64) {
    if left.0 == 0 || left.1 == 0 {
        return (0, 0);
    }
    // In the proportion in which the smaller one was scanned.
    const fn rest(target: u64, left: u64, done: u64, of: u64) -> u64 {
        let scanned = target - left;
        (target * done / if of == 0 { 1 } else { of }).saturating_sub(scanned)
    }
    if left.0 > left.1 {
        (rest(target.0, left.0, target.1 - left.1, target.1), 0)
    } else {
        (0, rest(target.1, left.1, target.0 - left.0, target.0))
    }
}

/// Whether those who want memory have to wait for kswapd: half of what the min
/// marks keep for those who free memory is gone. `free` and `reserve`: sums over
/// the zones that have something to reclaim.
pub const fn must_wait(free: u64, reserve: u64) -> bool {
    reserve > 0 && free <= reserve / 2
}

/// Whether so many pages of a kind are isolated by those who look at them that
/// one more has to wait: `isolated` and `inactive` pages of a node. Who has
/// all rights (`all_rights`: IO and FS) waits sooner, so that those get through
/// whose locks others may be waiting for.
pub const fn too_many_isolated(isolated: u64, inactive: u64, all_rights: bool) -> bool {
    isolated > if all_rights { inactive / 8 } else { inactive }
}

/// What one call of a shrinker comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShrinkPlan {
    /// Objects that are to be scanned in all.
    pub total: u64,
    /// Of these, newly so: what was put off is not.
    pub delta: u64,
}

/// How many of `freeable` objects a shrinker is to look at, of which `deferred`
/// were put off before. `seeks`: what it costs to make such an object again, in
/// disk accesses; 0 if nothing.
pub const fn shrink_plan(freeable: u64, priority: u32, seeks: u32, deferred: u64) -> ShrinkPlan {
    let delta = match seeks {
        0 => freeable / 2,
        _ => (freeable >> priority) * 4 / seeks as u64,
    };
    let total = (deferred >> priority) + delta;
    let most = 2 * freeable;
    ShrinkPlan { total: if total < most { total } else { most }, delta }
}

/// What of it is put off until the next time.
pub const fn shrink_deferred(plan: ShrinkPlan, freeable: u64, deferred: u64, scanned: u64) -> u64 {
    let rest = (deferred + plan.delta).saturating_sub(scanned);
    if rest < 2 * freeable { rest } else { 2 * freeable }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inactive_list_is_low_by_the_size_of_both() {
        const GIB: u64 = 1 << 18;
        // (inactive, active): the ratio is 1 below 1 GiB, 3 from there, 10 at 10 to 12.
        for (inactive, active, low) in [
            (0, 0, false),
            (100, 100, false),
            (99, 100, true),
            (GIB / 4, GIB * 3 / 4, false),
            (GIB / 4 - 1, GIB * 3 / 4 + 1, true),
            (GIB, 10 * GIB, false),
            (GIB - 1, 10 * GIB + 1, true),
            (10 * GIB, 90 * GIB, false),
            (3 * GIB, 97 * GIB, true),
        ] {
            assert_eq!(inactive_is_low(inactive, active), low, "{inactive} {active}");
        }
    }

    const PLAIN: Balance = Balance {
        swappiness: 60,
        priority: 12,
        can_swap: true,
        file_is_tiny: false,
        cache_is_ample: false,
        anon_cost: 0,
        file_cost: 0,
    };

    #[test]
    fn one_kind_alone_where_the_other_is_no_use() {
        let file = |balance: Balance| assert_eq!(balance.shares(), Shares::FILE, "{balance:?}");
        file(Balance { can_swap: false, file_is_tiny: true, priority: 0, ..PLAIN });
        file(Balance { cache_is_ample: true, ..PLAIN });
        file(Balance { swappiness: 0, priority: 0, ..PLAIN });
        let tiny = Balance { file_is_tiny: true, cache_is_ample: true, ..PLAIN };
        assert_eq!(tiny.shares(), Shares::ANON);
        assert_eq!(Balance { swappiness: 0, ..tiny }.shares(), Shares::ANON);
        assert_eq!(Balance { priority: 0, ..tiny }.shares(), Shares::EQUAL);
    }

    #[test]
    fn swappiness_and_cost_weigh() {
        let shares = |swappiness, anon_cost, file_cost| {
            let Shares { anon, file, of } =
                Balance { swappiness, anon_cost, file_cost, ..PLAIN }.shares();
            assert_eq!(anon + file, of);
            (anon, file)
        };
        assert_eq!(shares(60, 0, 0), (60, 140));
        assert_eq!(shares(100, 0, 0), (100, 100));
        assert_eq!(shares(200, 0, 0), (200, 0));
        // Alike, they weigh nothing; else the dearer kind is spared, but has at
        // least a third of what it would have had.
        assert_eq!(shares(60, 500, 500), (79, 186));
        assert_eq!(shares(100, 1000, 0), (100, 199));
        assert_eq!(shares(100, 0, 1000), (199, 100));
    }

    #[test]
    fn a_scan_looks_at_a_part_of_the_list() {
        assert_eq!(to_scan(4096, 12, 1, 1), 1);
        assert_eq!(to_scan(4095, 12, 1, 1), 0);
        assert_eq!(to_scan(4096, 0, 1, 1), 4096);
        assert_eq!(to_scan(1 << 20, 12, 60, 200), 77);
        assert_eq!(to_scan(4096, 12, 1, 200), 1, "rounded up");
        assert_eq!(to_scan(1 << 20, 0, 0, 200), 0);
    }

    #[test]
    fn costs_fade() {
        assert_eq!(aged_costs(10, 15, 100), (10, 15));
        assert_eq!(aged_costs(10, 16, 100), (5, 8));
    }

    #[test]
    fn the_rest_keeps_the_proportion() {
        // Half of the small one was scanned: half of the large one is to be.
        assert_eq!(settle((1000, 100), (968, 50)), (468, 0));
        assert_eq!(settle((100, 1000), (50, 968)), (0, 468));
        assert_eq!(settle((1000, 100), (400, 50)), (0, 0), "it got that far already");
        assert_eq!(settle((1000, 100), (968, 0)), (0, 0));
        assert_eq!(settle((0, 100), (0, 50)), (0, 0));
    }

    #[test]
    fn half_of_the_reserve_is_for_those_who_free() {
        assert!(must_wait(50, 100) && must_wait(0, 1));
        assert!(!must_wait(51, 100) && !must_wait(0, 0));
    }

    #[test]
    fn those_with_all_rights_wait_sooner() {
        for (isolated, inactive, all_rights, wait) in [
            (0, 0, true, false),
            (1, 7, true, true),
            (1, 8, true, false),
            (101, 800, true, true),
            (100, 800, true, false),
            (101, 800, false, false),
            (800, 800, false, false),
            (801, 800, false, true),
        ] {
            assert_eq!(too_many_isolated(isolated, inactive, all_rights), wait, "{isolated}");
        }
    }

    #[test]
    fn shrinkers_scan_by_priority_and_cost() {
        let plan = |freeable, priority, seeks, deferred| {
            shrink_plan(freeable, priority, seeks, deferred).total
        };
        assert_eq!(plan(4096, 12, 2, 0), 2);
        assert_eq!(plan(4096, 0, 2, 0), 8192, "never more than twice what there is");
        assert_eq!(plan(4096, 0, 8, 0), 2048);
        assert_eq!(plan(4096, 12, 0, 0), 2048);
        assert_eq!(plan(4096, 2, 2, 400), 2148);
        assert_eq!(plan(100, 12, 2, 1 << 20), 200);
        let small = shrink_plan(4096, 12, 2, 126);
        assert_eq!(shrink_deferred(small, 4096, 126, 0), 128);
        assert_eq!(shrink_deferred(small, 4096, 126, 128), 0);
        assert_eq!(shrink_deferred(small, 10, 126, 0), 20);
    }
}
