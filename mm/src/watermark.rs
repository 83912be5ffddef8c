//! The arithmetic of watermarks, reserves and per-CPU list sizes: pure
//! functions with known answers (Linux mm/page_alloc.c). Units are pages unless
//! a name says otherwise. Calls nothing but `gfp` and `types`.

use crate::gfp::AllocFlags;
use crate::types::{NR_ZONES, Order, PAGEBLOCK_PAGES, ZoneKind};

/// `watermark_scale_factor` unless set: the gap between marks in 1/10,000 of
/// the zone.
pub const DEFAULT_SCALE_FACTOR: u32 = 10;
/// `watermark_boost_factor` unless set: the most that a boost adds, in 1/10,000
/// of the high mark.
pub const DEFAULT_BOOST_FACTOR: u32 = 15_000;
/// `lowmem_reserve_ratio` unless set, by zone kind; 0 keeps nothing back.
pub const DEFAULT_LOWMEM_RATIO: [u32; NR_ZONES] = [256, 256, 32, 0];

/// min_free_kbytes for a machine whose zones below Movable hold `lowmem_kb` kB
/// beyond their high marks: 4 times the square root, from 128 kB to 256 MiB.
pub fn min_free_kbytes(lowmem_kb: u64) -> u64 {
    (lowmem_kb * 16).isqrt().clamp(128, 262_144)
}

/// A zone's marks, without boost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Marks {
    /// Below this only those who help to free memory get any.
    pub min: u64,
    /// Below this kswapd is woken.
    pub low: u64,
    /// Here kswapd sleeps again.
    pub high: u64,
    /// Here promotion from slower memory stops.
    pub promo: u64,
}

/// The marks of a zone of `managed` pages, where the zones below Movable
/// together manage `lowmem`, for `min_free_kb` and a scale factor.
pub fn marks(kind: ZoneKind, managed: u64, lowmem: u64, min_free_kb: u64, scale: u32) -> Marks {
    let pages_min = min_free_kb >> 2;
    let share = (pages_min * managed).checked_div(lowmem).unwrap_or(0);
    // Nothing is allocated from Movable in an emergency, so it needs little.
    let min = if kind == ZoneKind::Movable { (managed / 1024).clamp(32, 128) } else { share };
    let gap = (share / 4).max(managed * u64::from(scale) / 10_000);
    Marks { min, low: min + gap, high: min + 2 * gap, promo: min + 3 * gap }
}

/// What each zone keeps back from requests that could use a higher one:
/// `[zone][class of the request]`.
pub fn lowmem_reserve(
    managed: [u64; NR_ZONES],
    ratio: [u32; NR_ZONES],
) -> [[u64; NR_ZONES]; NR_ZONES] {
    let mut reserve = [[0; NR_ZONES]; NR_ZONES];
    for zone in 0..NR_ZONES {
        let mut above = 0;
        for class in zone + 1..NR_ZONES {
            above += managed[class];
            if ratio[zone] > 0 && managed[zone] > 0 {
                reserve[zone][class] = above / u64::from(ratio[zone]);
            }
        }
    }
    reserve
}

/// How much a fallback that mixes types raises the marks: the new boost for a
/// zone whose boost is `boost`, or None when nothing is to be raised.
pub fn boosted(boost: u64, high: u64, managed: u64, factor: u32) -> Option<u64> {
    let most = high.saturating_mul(u64::from(factor)) / 10_000;
    // A zone of a few blocks would be reclaimed empty for one fallback.
    if factor == 0 || most == 0 || managed < 4 * PAGEBLOCK_PAGES {
        return None;
    }
    Some((boost + PAGEBLOCK_PAGES).min(most.max(PAGEBLOCK_PAGES)))
}

/// What a watermark check looks at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Check {
    /// Free pages of the zone.
    pub free: i64,
    /// Free pages in HighAtomic blocks.
    pub free_highatomic: i64,
    /// Free pages in CMA blocks.
    pub free_cma: i64,
    /// The mark, boost included.
    pub mark: u64,
    /// What the zone keeps back from the request's class.
    pub reserve: u64,
    /// The caller's rights.
    pub flags: AllocFlags,
}

impl Check {
    /// Whether enough stays free for an allocation of `order`, leaving aside
    /// whether a block of that order exists.
    #[inline]
    pub fn level_ok(&self, order: Order) -> bool {
        let mut free = self.free - (order.pages() as i64 - 1);
        if !self.flags.intersects(AllocFlags::RESERVES) {
            free -= self.free_highatomic;
        }
        if !self.flags.contains(AllocFlags::CMA) {
            free -= self.free_cma;
        }
        let mut min = self.mark as i64;
        if self.flags.intersects(AllocFlags::RESERVES) {
            if self.flags.contains(AllocFlags::MIN_RESERVE) {
                min -= min / 2;
                if self.flags.contains(AllocFlags::NON_BLOCK) {
                    min -= min / 4;
                }
            }
            if self.flags.contains(AllocFlags::OOM) {
                min -= min / 2;
            }
        }
        free > min + self.reserve as i64
    }
}

/// Pages that move between a zone and a per-CPU list at once, or at first where
/// many follow each other (Linux 6.1).
pub fn pcp_batch(managed: u64) -> u32 {
    let mut batch = ((managed >> 10).min(256) / 4).max(1);
    batch += batch / 2;
    // One less than a power of two: streams of batches do not share a stride.
    ((1 << (63 - batch.leading_zeros())) - 1).max(1) as u32
}

/// Pages a zone's per-CPU lists of one CPU may hold: its share of the low mark
/// (Linux 6.1; the later rule lets lists grow to an eighth of the zone, which
/// keeps compaction from working).
pub fn pcp_high(low: u64, cpus_of_node: u64, batch: u32) -> u32 {
    (low / cpus_of_node.max(1)).max(4 * u64::from(batch)).min(u64::from(u32::MAX)) as u32
}

/// Blocks of order 9 that a zone's per-CPU lists of one CPU may hold, beside what
/// [`pcp_high`] lets them: two, but all CPUs together no more than a sixteenth
/// of the zone. On 64 MiB one CPU may have one (2 MiB), and each of four none:
/// 8 MiB that only their CPUs can use at once would be too much there.
pub fn pcp_large(managed: u64, cpus_of_node: u64) -> u32 {
    (managed / 16 / cpus_of_node.max(1) / PAGEBLOCK_PAGES).min(2) as u32
}

/// Most pages that HighAtomic blocks may take of a zone (Linux 6.12).
pub fn highatomic_limit(managed: u64) -> u64 {
    let percent = managed / 100;
    if percent < PAGEBLOCK_PAGES { 0 } else { percent.next_multiple_of(PAGEBLOCK_PAGES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn square_root_rule() {
        for (mib, kb) in [(128, 1448), (512, 2896), (1024, 4096), (4096, 8192), (16384, 16384)] {
            assert_eq!(min_free_kbytes(mib * 1024), kb, "{mib} MiB");
        }
        assert_eq!(min_free_kbytes(0), 128);
        assert_eq!(min_free_kbytes(1 << 40), 262_144);
    }

    /// Zones of a real Linux 6.12 with 512 MiB: DMA manages 3840 pages, DMA32
    /// 121404, min_free_kbytes 2823. (It prints a protection of 471, from before
    /// it freed its own init memory.)
    #[test]
    fn golden_512m() {
        let lowmem = 3840 + 121_404;
        let dma = marks(ZoneKind::Dma, 3840, lowmem, 2823, 10);
        assert_eq!((dma.min, dma.low, dma.high, dma.promo), (21, 26, 31, 36));
        let dma32 = marks(ZoneKind::Dma32, 121_404, lowmem, 2823, 10);
        assert_eq!((dma32.min, dma32.low, dma32.high, dma32.promo), (683, 853, 1023, 1193));
        let reserve = lowmem_reserve([3840, 121_404, 0, 0], DEFAULT_LOWMEM_RATIO);
        assert_eq!(reserve[0], [0, 474, 474, 474]);
        assert_eq!(reserve[1], [0, 0, 0, 0]);
    }

    /// 2 GiB with `movablecore=512M` and khugepaged's min_free_kbytes: within a
    /// page of what Linux prints (11152/13940/16728, 475), whose managed pages
    /// were a few fewer when it computed them.
    #[test]
    fn movable_zone() {
        let lowmem = 3840 + 385_881;
        let dma32 = marks(ZoneKind::Dma32, 385_881, lowmem, 45_056, 10);
        assert_eq!((dma32.min, dma32.low, dma32.high), (11_153, 13_941, 16_729));
        let empty = marks(ZoneKind::Movable, 0, lowmem, 45_056, 10);
        assert_eq!((empty.min, empty.low, empty.high), (32, 32, 32));
        let movable = marks(ZoneKind::Movable, 122_019, lowmem, 45_056, 10);
        assert_eq!(movable.min, 119);
        let reserve = lowmem_reserve([3840, 385_881, 0, 122_019], DEFAULT_LOWMEM_RATIO);
        assert_eq!(reserve[1][3], 476);
    }

    #[test]
    fn rights_lower_the_mark() {
        let check = |flags, free| Check { free, mark: 100, flags, ..Check::default() };
        let ok = |flags, free| check(flags, free).level_ok(Order(0));
        let none = AllocFlags::empty();
        assert!(!ok(none, 100) && ok(none, 101));
        let min = AllocFlags::MIN_RESERVE;
        assert!(!ok(min, 50) && ok(min, 51));
        let atomic = min | AllocFlags::NON_BLOCK;
        assert!(!ok(atomic, 38) && ok(atomic, 39));
        // Alone, not being able to wait gives nothing from min.
        assert!(!ok(AllocFlags::NON_BLOCK, 100));
        let oom = AllocFlags::OOM;
        assert!(!ok(oom, 50) && ok(oom, 51));
        assert!(!check(none, 103).level_ok(Order(2)));
        assert!(check(none, 104).level_ok(Order(2)));
    }

    #[test]
    fn unusable_pages_do_not_count() {
        let mut check =
            Check { free: 200, free_cma: 60, free_highatomic: 50, mark: 100, ..Check::default() };
        assert!(!check.level_ok(Order(0)));
        check.flags = AllocFlags::CMA;
        assert!(check.level_ok(Order(0)));
        check.flags = AllocFlags::NON_BLOCK;
        assert!(check.level_ok(Order(0)));
    }

    #[test]
    fn batches() {
        for (managed, batch) in [(262_144, 63), (131_072, 31), (32_768, 7), (3840, 1)] {
            assert_eq!(pcp_batch(managed), batch, "{managed} pages");
        }
        // The zone DMA32 of 64 MiB, with and without much in it, and of 512 MiB.
        assert_eq!([11_000, 12_288, 121_404].map(pcp_batch), [1, 3, 31]);
        assert_eq!(pcp_high(853, 1, 31), 853);
        assert_eq!(pcp_high(853, 64, 31), 124);
    }

    #[test]
    fn large_blocks_are_a_small_part_of_the_zone() {
        for (mib, cpus, blocks) in [(1024, 1, 2), (48, 1, 1), (48, 4, 0), (15, 1, 0), (4096, 64, 2)]
        {
            assert_eq!(pcp_large(mib << 8, cpus), blocks, "{mib} MiB, {cpus} CPUs");
        }
        assert_eq!(pcp_large(1 << 18, 0), 2);
    }

    #[test]
    fn boost_is_bounded() {
        assert_eq!(boosted(0, 1023, 121_404, 15_000), Some(512));
        assert_eq!(boosted(1400, 1023, 121_404, 15_000), Some(1534));
        assert_eq!(boosted(0, 10, 121_404, 15_000), Some(512));
        assert_eq!(boosted(0, 1023, 2000, 15_000), None);
        assert_eq!(boosted(0, 1023, 121_404, 0), None);
    }

    #[test]
    fn highatomic_needs_a_whole_block() {
        assert_eq!(highatomic_limit(51_199), 0);
        assert_eq!(highatomic_limit(51_200), 512);
        assert_eq!(highatomic_limit(121_404), 1536);
    }
}
