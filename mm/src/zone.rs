//! A zone: its counters, marks and free lists. Policy lives in `watermark`,
//! the work on the lists in `buddy`. May call: `list`, `memmap`, `watermark`,
//! `sync`, `types`.

use crate::compact::state::CompactState;
use crate::deferred::Deferred;
use crate::gfp::AllocFlags;
use crate::list::PageList;
use crate::memmap::{MemMap, zone_index};
use crate::sync::{
    AtomicBool, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Lock, LockRank,
    Ordering::Relaxed,
};
use crate::types::{
    MigrateType, NR_MIGRATETYPES, NR_ORDERS, NR_ZONES, NodeId, Order, Pfn, PfnRange, ZoneKind,
};
use crate::watermark::{Check, Marks};

/// A direct compactor's wish: the next block of this kind that a free makes
/// goes to it and not to the lists.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capture {
    pub(crate) order: Order,
    pub(crate) migratetype: MigrateType,
    pub(crate) taken: Option<Pfn>,
}

/// What the zone lock protects.
#[derive(Debug)]
pub(crate) struct FreeLists {
    pub(crate) lists: [[PageList; NR_MIGRATETYPES]; NR_ORDERS],
    pub(crate) capture: Option<Capture>,
}

/// Which mark a check is made against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// Only helpers get below.
    Min,
    /// kswapd is woken below.
    Low,
    /// kswapd sleeps above.
    High,
}

/// Things counted per zone.
#[derive(Debug, Default)]
pub struct ZoneEvents {
    /// Blocks a fallback took from another type (`extfrag`).
    pub fallbacks: AtomicU64,
    /// Pageblocks whose type a fallback changed.
    pub claims: AtomicU64,
}

/// Free pages on the lists by who may use them. Written under the zone lock,
/// read anywhere; each page is counted in one place.
#[derive(Debug, Default)]
pub(crate) struct FreeCounts([AtomicI64; 4]);

impl FreeCounts {
    /// Where pages of type `ty` are counted: everybody's, HighAtomic's, CMA's
    /// and, last, those that are isolated and on nobody's account.
    const fn slot(ty: MigrateType) -> usize {
        ty.index().saturating_sub(2)
    }

    /// Counts `pages` more (or fewer). The lock's holder is the only writer: no
    /// read-modify-write is needed.
    #[inline]
    pub(crate) fn add(&self, ty: MigrateType, pages: i64) {
        let slot = &self.0[Self::slot(ty)];
        slot.store(slot.load(Relaxed) + pages, Relaxed);
    }

    /// Of the types that any request may take from.
    #[inline]
    pub(crate) fn plain(&self) -> i64 {
        self.0[0].load(Relaxed)
    }

    /// In HighAtomic blocks.
    #[inline]
    pub(crate) fn highatomic(&self) -> i64 {
        self.0[1].load(Relaxed)
    }

    /// In CMA blocks.
    #[inline]
    pub(crate) fn cma(&self) -> i64 {
        self.0[2].load(Relaxed)
    }

    /// All but the isolated, which are on their way out and nobody may count
    /// on.
    #[inline]
    pub(crate) fn total(&self) -> i64 {
        self.plain() + self.highatomic() + self.cma()
    }

    /// In isolated blocks.
    pub(crate) fn isolated(&self) -> i64 {
        self.0[3].load(Relaxed)
    }
}

/// A zone of a node. All fields are atomics or locked: shared by reference.
pub struct Zone {
    /// The node it belongs to.
    pub node: NodeId,
    /// Its kind.
    pub kind: ZoneKind,
    start: AtomicU64,
    spanned: AtomicU64,
    pub(crate) present: AtomicU64,
    pub(crate) managed: AtomicU64,
    pub(crate) cma_pages: AtomicU64,
    pub(crate) free: FreeCounts,
    pub(crate) reserved_highatomic: AtomicU64,
    pub(crate) isolated_blocks: AtomicU32,
    /// By migratetype, a bit for each order whose list is not empty.
    pub(crate) avail: [AtomicU16; NR_MIGRATETYPES],
    mark_min: AtomicU64,
    mark_low: AtomicU64,
    mark_high: AtomicU64,
    mark_promo: AtomicU64,
    boost: AtomicU64,
    /// The allocating path has to wake kswapd once it has dropped the lock.
    pub(crate) boosted: AtomicBool,
    lowmem_reserve: [AtomicU64; NR_ZONES],
    /// By class: low mark, boost and reserve together, for the fast path.
    plain_low: [AtomicI64; NR_ZONES],
    pub(crate) pcp_batch: AtomicU32,
    pub(crate) pcp_high: AtomicU32,
    pub(crate) pcp_large: AtomicU32,
    pub(crate) lock: Lock<FreeLists>,
    pub(crate) deferred: Deferred,
    pub(crate) compact: CompactState,
    /// A free that makes a block of this order or more is to be noticed by
    /// reporting; beyond all orders if none is.
    pub(crate) report_from: AtomicU8,
    /// Pages that reporting has off the lists just now, on nobody's account.
    pub(crate) report_out: AtomicU64,
    /// Pages that a reporting device has which could not be shut off.
    pub(crate) report_lost: AtomicU64,
    /// What happened here.
    pub events: ZoneEvents,
}

impl Zone {
    /// An empty zone.
    pub(crate) fn new(node: NodeId, kind: ZoneKind) -> Self {
        Self {
            node,
            kind,
            start: AtomicU64::new(0),
            spanned: AtomicU64::new(0),
            present: AtomicU64::new(0),
            managed: AtomicU64::new(0),
            cma_pages: AtomicU64::new(0),
            free: FreeCounts::default(),
            reserved_highatomic: AtomicU64::new(0),
            isolated_blocks: AtomicU32::new(0),
            avail: [const { AtomicU16::new(0) }; NR_MIGRATETYPES],
            mark_min: AtomicU64::new(0),
            mark_low: AtomicU64::new(0),
            mark_high: AtomicU64::new(0),
            mark_promo: AtomicU64::new(0),
            boost: AtomicU64::new(0),
            boosted: AtomicBool::new(false),
            lowmem_reserve: [const { AtomicU64::new(0) }; NR_ZONES],
            plain_low: [const { AtomicI64::new(0) }; NR_ZONES],
            pcp_batch: AtomicU32::new(1),
            pcp_high: AtomicU32::new(0),
            pcp_large: AtomicU32::new(0),
            lock: Lock::new(
                LockRank::Zone,
                FreeLists { lists: [[PageList::new(); NR_MIGRATETYPES]; NR_ORDERS], capture: None },
            ),
            deferred: Deferred::default(),
            compact: CompactState::new(),
            report_from: AtomicU8::new(crate::report::NEVER),
            report_out: AtomicU64::new(0),
            report_lost: AtomicU64::new(0),
            events: ZoneEvents::default(),
        }
    }

    /// Index in the manager's table of zones, as pageblocks know it.
    #[inline]
    pub fn index(&self) -> usize {
        zone_index(self.node, self.kind)
    }

    /// The frames from the first to the last of the zone, holes included.
    pub fn span(&self) -> PfnRange {
        PfnRange::sized(Pfn(self.start.load(Relaxed)), self.spanned.load(Relaxed))
    }

    pub(crate) fn set_span(&self, span: PfnRange) {
        self.start.store(span.start.0, Relaxed);
        self.spanned.store(span.pages(), Relaxed);
        self.compact.reset(span);
    }

    /// Pages of RAM in the zone.
    pub fn present(&self) -> u64 {
        self.present.load(Relaxed)
    }

    /// Pages that the manager has or had to give: present without reserved.
    pub fn managed(&self) -> u64 {
        self.managed.load(Relaxed)
    }

    /// Pages that belong to CMA areas.
    pub fn cma_pages(&self) -> u64 {
        self.cma_pages.load(Relaxed)
    }

    /// Free pages on the lists or deferred, isolated blocks and per-CPU lists
    /// excluded.
    pub fn free_pages(&self) -> u64 {
        self.free.total().max(0) as u64
    }

    /// Free pages that reporting has off the lists just now: on their way to the
    /// host and back, and no part of [`free_pages`](Self::free_pages).
    pub fn pages_out(&self) -> u64 {
        self.report_out.load(Relaxed)
    }

    /// Free pages that a reporting device keeps which could not be shut off:
    /// nobody can have them.
    pub fn pages_lost(&self) -> u64 {
        self.report_lost.load(Relaxed)
    }

    /// Free pages in CMA blocks, part of [`free_pages`](Self::free_pages).
    pub fn free_cma_pages(&self) -> u64 {
        self.free.cma().max(0) as u64
    }

    /// Pages in HighAtomic blocks.
    pub fn reserved_highatomic(&self) -> u64 {
        self.reserved_highatomic.load(Relaxed)
    }

    /// The marks without boost.
    pub fn marks(&self) -> Marks {
        Marks {
            min: self.mark_min.load(Relaxed),
            low: self.mark_low.load(Relaxed),
            high: self.mark_high.load(Relaxed),
            promo: self.mark_promo.load(Relaxed),
        }
    }

    /// Sets the marks and what is kept back from each class of request; ends a
    /// boost. Under the zone lock.
    pub(crate) fn set_marks(&self, marks: Marks, reserve: [u64; NR_ZONES]) {
        self.mark_min.store(marks.min, Relaxed);
        self.mark_low.store(marks.low, Relaxed);
        self.mark_high.store(marks.high, Relaxed);
        self.mark_promo.store(marks.promo, Relaxed);
        for (slot, pages) in self.lowmem_reserve.iter().zip(reserve) {
            slot.store(pages, Relaxed);
        }
        self.set_boost(0);
    }

    /// Raises or lowers the marks for now. Under the zone lock.
    pub(crate) fn set_boost(&self, boost: u64) {
        self.boost.store(boost, Relaxed);
        for class in ZoneKind::ALL {
            let need = self.mark(Mark::Low) + self.lowmem_reserve(class);
            self.plain_low[class.index()].store(need as i64, Relaxed);
        }
    }

    /// Pages that fragmentation adds to every mark for now.
    pub fn boost(&self) -> u64 {
        self.boost.load(Relaxed)
    }

    /// A mark with its boost.
    #[inline]
    pub fn mark(&self, mark: Mark) -> u64 {
        let raw = match mark {
            Mark::Min => &self.mark_min,
            Mark::Low => &self.mark_low,
            Mark::High => &self.mark_high,
        };
        raw.load(Relaxed) + self.boost.load(Relaxed)
    }

    /// What the zone keeps back from requests of `class`.
    pub fn lowmem_reserve(&self, class: ZoneKind) -> u64 {
        self.lowmem_reserve[class.index()].load(Relaxed)
    }

    /// Pages that nobody may count on (Linux `totalreserve_pages`): the high mark
    /// and the most that is kept back from any class.
    pub fn kept(&self) -> u64 {
        let reserves = ZoneKind::ALL.map(|class| self.lowmem_reserve(class));
        let most = reserves.into_iter().fold(0, u64::max);
        (most + self.mark(Mark::High)).min(self.managed())
    }

    /// Pages moved to or from a per-CPU list at once.
    pub fn pcp_batch(&self) -> u32 {
        self.pcp_batch.load(Relaxed)
    }

    /// Pages in blocks of orders 0 to 3 that one CPU's lists may hold.
    pub fn pcp_high(&self) -> u32 {
        self.pcp_high.load(Relaxed)
    }

    /// Blocks of order 9 that one CPU's lists may hold besides.
    #[inline]
    pub fn pcp_large(&self) -> u32 {
        self.pcp_large.load(Relaxed)
    }

    /// Pages that one CPU may fetch beyond a batch, on the mere guess that more
    /// requests follow: a small part of what is above the low mark for everyone,
    /// so that even many CPUs that all do so leave most of it.
    pub(crate) fn pcp_spare(&self) -> u32 {
        let above = self.free.plain() - self.plain_low[NR_ZONES - 1].load(Relaxed);
        (above.max(0) / 32).min(i64::from(u32::MAX)) as u32
    }

    /// What a check of the zone's free pages looks at, as of now.
    pub(crate) fn check(&self, mark: u64, class: ZoneKind, flags: AllocFlags) -> Check {
        Check {
            free: self.free.total(),
            free_highatomic: self.free.highatomic(),
            free_cma: self.free.cma(),
            mark,
            reserve: self.lowmem_reserve[class.index()].load(Relaxed),
            flags,
        }
    }

    /// Whether a block of `order` could be taken with `mark` pages to remain,
    /// by a caller of `class` with `flags` (Linux `zone_watermark_ok`).
    pub fn watermark_ok(
        &self,
        order: Order,
        mark: u64,
        class: ZoneKind,
        flags: AllocFlags,
    ) -> bool {
        self.check(mark, class, flags).level_ok(order)
            && (order.0 == 0 || self.has_block(order, flags))
    }

    /// Whether the zone stays above its low mark without what only some may
    /// use when `pages` more are gone: if so, [`watermark_ok`](Self::watermark_ok)
    /// says the same of whatever request, but for the question whether there is
    /// such a block.
    #[inline]
    pub(crate) fn plainly_above_low(&self, class: usize, pages: u64) -> bool {
        let low = &self.plain_low[class % NR_ZONES];
        // All but the last page of the block are gone when the mark is asked.
        self.free.plain() - pages as i64 >= low.load(Relaxed)
    }

    /// What has to stay for [`plainly_above_low`](Self::plainly_above_low).
    pub(crate) fn plain_low(&self, class: ZoneKind) -> u64 {
        self.plain_low[class.index()].load(Relaxed) as u64
    }

    /// [`watermark_ok`](Self::watermark_ok), quick where it is plain (Linux `zone_watermark_fast`): an
    /// urgent order-0 request that fails at a boosted min is asked again at the
    /// real one, since boosting is a wish and not a need.
    #[inline]
    pub(crate) fn watermark_fast(
        &self,
        order: Order,
        mark: Mark,
        class: ZoneKind,
        flags: AllocFlags,
    ) -> bool {
        let level = self.mark(mark);
        if order.0 == 0 && !flags.intersects(AllocFlags::RESERVES) {
            let mut usable = self.free.plain();
            if flags.contains(AllocFlags::CMA) {
                usable += self.free.cma();
            }
            let need = level + self.lowmem_reserve[class.index()].load(Relaxed);
            if usable > need as i64 {
                return true;
            }
        }
        if self.watermark_ok(order, level, class, flags) {
            return true;
        }
        order.0 == 0
            && mark == Mark::Min
            && flags.contains(AllocFlags::MIN_RESERVE)
            && self.boost() > 0
            && self.watermark_ok(order, self.mark_min.load(Relaxed), class, flags)
    }

    /// Whether some list that `flags` open has a block of `order` or more.
    pub(crate) fn has_block(&self, order: Order, flags: AllocFlags) -> bool {
        let any = |ty: MigrateType| self.avail[ty.index()].load(Relaxed) >> order.0 != 0;
        any(MigrateType::Unmovable)
            || any(MigrateType::Movable)
            || any(MigrateType::Reclaimable)
            || flags.contains(AllocFlags::CMA) && any(MigrateType::Cma)
            || flags.intersects(AllocFlags::HIGHATOMIC | AllocFlags::OOM)
                && any(MigrateType::HighAtomic)
    }

    /// Whether the two frames' pageblocks are both of this zone.
    pub(crate) fn owns(&self, map: &MemMap, pfn: Pfn) -> bool {
        map.try_block(pfn).is_some_and(|b| b.zone_index() == self.index())
    }
}
