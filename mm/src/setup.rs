//! From early memory to a manager: the memory map, the zones with their frames,
//! zonelists and marks; and what has to be computed again when a knob turns.
//! May call: `early`, everything `mm` holds.

use crate::backing::make_map;
use crate::boot_slice::BootSlice;
use crate::buddy::{Buddy, Placement};
use crate::cache::DirtyKnobs;
use crate::cma::{CmaAreas, CmaRequest, MAX_CMA_AREAS};
use crate::compact::Compaction;
use crate::contig::pageblocks;
use crate::deferred::whole_blocks;
use crate::dump::Reports;
use crate::early::EarlyMem;
use crate::fast::Homes;
use crate::fault::Faults;
use crate::firmware::numa::Distances;
use crate::hotplug::{Hotplug, OnlineType};
use crate::lru::LruState;
use crate::memmap::{BlockInfo, MemMap, PFN_LIMIT, natural_blocks};
use crate::migrate::MovableOwners;
use crate::mm::{Mm, Tunables};
use crate::oom::{Oom, OomNotifiers};
use crate::owner::PageOwner;
use crate::page::PageType;
use crate::page_stats::PageStats;
use crate::pcp::Pcp;
use crate::platform::{LogLevel, Platform};
use crate::poison::BadPages;
use crate::reclaim::{Caches, Reclaim, Shrinkers};
use crate::report::Reporting;
use crate::rmap::Groups;
use crate::slab::SlabState;
use crate::space::Spaces;
use crate::stats::Stats;
use crate::swap::Swap;
use crate::sync::{AtomicU8, AtomicU16, CpuCell, Lock, LockRank, Ordering::Relaxed};
use crate::types::{
    CpuId, MAX_NODES, NR_ZONES, NodeId, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, Pfn, PfnRange, ZoneKind,
};
use crate::walkers::Walkers;
use crate::watermark;
use crate::zone::Zone;
use crate::zonelist::{self, FallbackOrder, NodeSet, fallback_orders};
use core::fmt;

pub use crate::firmware::{DMA_END, DMA32_END};

/// How a manager is to be set up.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Where zone Movable begins on each node (2 MiB aligned); at the largest
    /// frame number where it has none.
    pub movable_start: [Pfn; MAX_NODES],
    /// Nodes that there are, at most [`MAX_NODES`], those without memory too;
    /// more if there is RAM on more.
    pub nodes: usize,
    /// How far they are from each other.
    pub distances: Distances,
    /// Contiguous areas to set up; none by default.
    pub cma: [Option<CmaRequest>; MAX_CMA_AREAS],
    /// min_free_kbytes, if the square-root rule is not to decide.
    pub min_free_kb: Option<u64>,
    /// Zero every page when it is allocated.
    pub init_on_alloc: bool,
    /// Zero every page when it is freed.
    pub init_on_free: bool,
    /// Fill free pages with a pattern and check it when they are allocated.
    pub page_poison: bool,
    /// Record who allocates what.
    pub page_owner: bool,
    /// Give free memory descriptors when it is first wanted, and not all at
    /// boot.
    pub defer: bool,
    /// Memory may come below this frame later (see [`hotplug`](crate::hotplug)):
    /// the memory map has addresses for it, which cost nothing. Frame numbers
    /// beyond 32 bits are not used.
    pub hotplug_end: Pfn,
    /// What becomes of memory that comes, if nobody says otherwise
    /// (`memhp_default_state=`).
    pub default_online: Option<OnlineType>,
    /// Memory that comes is for movable pages only, where nothing else decides
    /// (`movable_node`).
    pub movable_node: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            movable_start: [Pfn(u64::MAX); MAX_NODES],
            nodes: 1,
            distances: Distances::default(),
            cma: [None; MAX_CMA_AREAS],
            min_free_kb: None,
            init_on_alloc: false,
            init_on_free: false,
            page_poison: false,
            page_owner: false,
            defer: true,
            hotplug_end: Pfn(0),
            default_online: Some(OnlineType::Auto),
            movable_node: false,
        }
    }
}

impl Config {
    /// Whether memory is left without descriptors until it is wanted. What has
    /// to be written to anyway need not be put off.
    pub(crate) const fn defers(&self) -> bool {
        self.defer && !self.init_on_free && !self.page_poison
    }
}

/// Why there is no manager.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetupError {
    /// There is no RAM at all.
    NoRam,
    /// There is not enough RAM for the manager's own tables.
    TooLittleRam,
    /// The platform has no room for the memory map.
    NoSpace,
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoRam => "no RAM",
            Self::TooLittleRam => "too little RAM for the memory map",
            Self::NoSpace => "no address space for the memory map",
        })
    }
}

impl core::error::Error for SetupError {}

impl<P: Platform> Mm<P> {
    /// Takes over all RAM that `early` has. What is reserved there stays with
    /// whoever reserved it; the rest is free afterwards.
    ///
    /// # Errors
    /// When there is too little RAM for the manager's own tables.
    pub fn new(platform: P, mut early: EarlyMem<'_>, config: &Config) -> Result<Self, SetupError> {
        let all = early.end_of_ram();
        if all > PFN_LIMIT {
            platform.log(
                LogLevel::Warn,
                format_args!(
                    "RAM above {:#x} is not used: frame numbers have 32 bits",
                    PFN_LIMIT.addr()
                ),
            );
            early.remove_ram(PfnRange::new(PFN_LIMIT, all));
        }
        let nodes =
            early.ram().iter().map(|r| r.node.0 as usize + 1).max().ok_or(SetupError::NoRam)?;
        let nodes = nodes.max(config.nodes.min(MAX_NODES));
        // First of all: areas want large ranges in the best places.
        let mut cma = CmaAreas::reserve(&platform, &mut early, config);
        // Then the map wants runs that are aligned.
        let (map, map_pages) = make_map(&platform, &mut early, config)?;
        let nr_zones = nodes * NR_ZONES;
        let zones = BootSlice::new(&platform, &mut early, "zones", nr_zones, |i| {
            Zone::new(NodeId((i / NR_ZONES) as u8), ZoneKind::ALL[i % NR_ZONES])
        })
        .ok_or(SetupError::TooLittleRam)?;
        let nr_pcps = usize::from(platform.cpus()) * nr_zones;
        let pcps = BootSlice::new(&platform, &mut early, "per-CPU lists", nr_pcps, |i| {
            CpuCell::new(Pcp::new(zones.handle(i % nr_zones)))
        })
        .ok_or(SetupError::TooLittleRam)?;
        let nr_cpus = usize::from(platform.cpus());
        let homes =
            BootSlice::new(&platform, &mut early, "nearest zones", nr_cpus, |_| Homes::default())
                .ok_or(SetupError::TooLittleRam)?;
        let mut memory = NodeSet::default();
        early.ram().iter().for_each(|r| memory.insert(r.node));
        let orders = orders(&platform, memory, nodes, &config.distances);
        let zonelists =
            BootSlice::new(&platform, &mut early, "zonelists", nr_zones * (nr_zones + 1), |i| {
                AtomicU16::new(zonelist::entry(&orders, nodes, i))
            })
            .ok_or(SetupError::TooLittleRam)?;
        let slab = SlabState::new(&platform, &mut early).ok_or(SetupError::TooLittleRam)?;
        let lru = LruState::new(&platform, &mut early, nodes).ok_or(SetupError::TooLittleRam)?;
        cma.activate(&platform, &mut early, &map, &zones);

        let tunables = Tunables::new();
        tunables.user_min_free_kb.store(config.min_free_kb.unwrap_or(0), Relaxed);
        tunables.init_on_alloc.store(config.init_on_alloc, Relaxed);
        tunables.init_on_free.store(config.init_on_free, Relaxed);
        tunables.page_poison.store(config.page_poison, Relaxed);
        let owners = PageOwner::new();
        owners.set(config.page_owner);
        let stats = Stats::default();
        let movable_owners = MovableOwners::new();
        let mm = Self {
            platform,
            map,
            map_pages,
            zones,
            pcps,
            homes,
            zonelists,
            first_zones: [const { AtomicU8::new(u8::MAX) }; MAX_NODES * NR_ZONES],
            tunables,
            computing: Lock::new(LockRank::Watermarks, ()),
            stats,
            reports: Reports::default(),
            owners,
            cma,
            compaction: Compaction::new(),
            movable_owners,
            oom: Oom::new(),
            oom_notifiers: OomNotifiers::new(),
            slab,
            lru,
            reclaim: Reclaim::new(),
            caches: Caches::new(),
            dirty_knobs: DirtyKnobs::new(),
            page_stats: PageStats::new(),
            shrinkers: Shrinkers::new(),
            faults: Faults::default(),
            bad: BadPages::new(),
            walkers: Walkers::default(),
            report: Reporting::default(),
            hotplug: Hotplug::new(config),
            swap: Swap::new(),
            groups: Groups::new(),
            spaces: Spaces::new(),
        };
        // What has to be written to anyway need not be put off.
        mm.hand_over(&early, config.defers());
        mm.map.note_dense();
        mm.recompute_watermarks();
        mm.log_zonelists(&orders);
        Ok(mm)
    }

    /// Says which nodes help which others.
    pub(crate) fn log_zonelists(&self, orders: &[FallbackOrder]) {
        let log = |line: fmt::Arguments<'_>| self.platform.log(LogLevel::Info, line);
        for (node, order) in orders[..self.nodes()].iter().enumerate() {
            log(format_args!("Fallback order for Node {node}: {order}"));
        }
        log(format_args!(
            "Built {} zonelists, mobility grouping on.  Total pages: {}",
            self.nodes(),
            self.managed_pages()
        ));
    }

    /// Spans and present pages from the RAM; what is reserved is described as
    /// such, what is not is freed to its zone or, with `defer`, left there as it
    /// is where that can be.
    fn hand_over(&self, early: &EarlyMem<'_>, defer: bool) {
        for ram in early.ram() {
            let ram = ram.range;
            for piece in self.by_zone(ram) {
                let zone = self.zone_of(piece.start);
                let old = zone.span();
                let span = if old.is_empty() {
                    piece
                } else {
                    PfnRange::new(old.start.min(piece.start), old.end.max(piece.end))
                };
                zone.set_span(span);
                zone.present.fetch_add(piece.pages(), Relaxed);
            }
            let mut at = ram.start;
            for free in early.free_ranges() {
                let free = free.intersect(ram);
                if !free.is_empty() {
                    self.describe_reserved(ram, PfnRange::new(at, free.start));
                    for piece in self.by_zone(free) {
                        self.hand_over_free(ram, piece, defer);
                    }
                    at = free.end;
                }
            }
            self.describe_reserved(ram, PfnRange::new(at, ram.end));
        }
        let cpu = self.enter();
        for zone in self.zones.iter() {
            self.close_span(zone);
            Buddy::lock(&self.map, zone, &cpu).list_deferred();
        }
    }

    /// A zone ends where the next kind begins, not where its last RAM does, if
    /// its node has RAM further up; and likewise below. "Spanned" counts such
    /// holes, as in Linux.
    fn close_span(&self, zone: &Zone) {
        let (floor, top) = match zone.kind {
            ZoneKind::Dma => (Pfn(0), DMA_END),
            ZoneKind::Dma32 => (DMA_END, DMA32_END),
            ZoneKind::Normal => (DMA32_END, Pfn(u64::MAX)),
            // It begins where the command line says.
            ZoneKind::Movable => return,
        };
        let mut span = zone.span();
        if span.is_empty() {
            return;
        }
        let others = self.zones.iter().filter(|z| z.node == zone.node && !z.span().is_empty());
        for other in others.map(Zone::span) {
            if other.start < span.start {
                span.start = floor;
            }
            // Zone Movable may begin below the border.
            if other.start >= top {
                span.end = top;
            }
        }
        zone.set_span(span);
    }

    /// Gives the pageblocks that `piece`, a part of `ram`, touches their
    /// descriptors; what is not RAM in them is a hole. `piece` itself is for the
    /// caller to describe.
    fn populate_early(&self, ram: PfnRange, piece: PfnRange) {
        for block in pageblocks(piece) {
            let block = PfnRange::sized(block, PAGEBLOCK_PAGES);
            let whole = block.intersect(ram) == block;
            if self.map.try_block(block.start).is_none() {
                // SAFETY: a block of RAM, known to the map, that no zone has yet.
                unsafe { self.map.populate(block) };
                if !whole {
                    self.map.describe(block, PageType::Hole);
                }
            }
            if !whole {
                cut_hole(&self.map, block.intersect(piece));
            }
        }
    }

    /// No block may lie in two zones, not even one that is never handed out.
    fn describe_reserved(&self, ram: PfnRange, range: PfnRange) {
        self.populate_early(ram, range);
        for piece in self.by_zone(range) {
            self.map.describe(piece, PageType::Reserved);
        }
    }

    /// Hands over `free`, a part of `ram` that lies in one zone. Contiguous
    /// areas are populated: their blocks have a type of their own.
    fn hand_over_free(&self, ram: PfnRange, free: PfnRange, defer: bool) {
        self.zone_of(free.start).managed.fetch_add(free.pages(), Relaxed);
        let mut at = free.start;
        while at < free.end {
            let rest = PfnRange::new(at, free.end);
            let areas = self.cma_areas().map(|(_, area)| area.range().intersect(rest));
            let area = areas.filter(|area| !area.is_empty()).min_by_key(|area| area.start);
            let area = area.unwrap_or(PfnRange::new(free.end, free.end));
            let plain = PfnRange::new(at, area.start);
            let whole = if defer { whole_blocks(plain) } else { PfnRange::default() };
            if whole.is_empty() {
                self.free_early(ram, plain);
            } else {
                self.free_early(ram, PfnRange::new(plain.start, whole.start));
                let cpu = self.enter();
                Buddy::lock(&self.map, self.zone_of(at), &cpu).defer(whole);
                self.free_early(ram, PfnRange::new(whole.end, plain.end));
            }
            self.free_early(ram, area);
            at = area.end;
        }
    }

    /// Frees a range that lies in one zone to its lists.
    fn free_early(&self, ram: PfnRange, free: PfnRange) {
        if free.is_empty() {
            return;
        }
        self.populate_early(ram, free);
        for (pfn, order) in natural_blocks(free) {
            self.scrub(pfn, order);
        }
        let cpu = self.enter();
        let mut buddy = Buddy::lock(&self.map, self.zone_of(free.start), &cpu);
        for (pfn, order) in natural_blocks(free) {
            // At the tail, so that low frames are handed out first.
            buddy.free(pfn, order, Placement::Tail);
        }
    }

    /// Index of the zone of a frame of RAM, populated or not.
    fn zone_index_of(&self, pfn: Pfn) -> usize {
        self.map.info(pfn).map_or(0, BlockInfo::zone_index)
    }

    /// The zone of a frame of RAM, populated or not.
    fn zone_of(&self, pfn: Pfn) -> &Zone {
        &self.zones[self.zone_index_of(pfn)]
    }

    /// The zone that a present frame belongs to.
    #[inline]
    pub(crate) fn zone_at(&self, pfn: Pfn) -> &Zone {
        &self.zones[self.map.block(pfn).zone_index()]
    }

    /// `range`, a part of one range of RAM, cut at zone borders.
    fn by_zone(&self, range: PfnRange) -> impl Iterator<Item = PfnRange> + '_ {
        let mut at = range.start;
        core::iter::from_fn(move || {
            if at >= range.end {
                return None;
            }
            let start = at;
            let zone = self.zone_index_of(start);
            // The first block may be another node's. From there on zones only
            // rise, so that a border can be searched for.
            let mut low = at.pageblock().add(PAGEBLOCK_PAGES).min(range.end);
            if low < range.end && self.zone_index_of(low) == zone {
                let mut high = range.end.align_up(PAGEBLOCK_ORDER);
                while high.0 - low.0 > PAGEBLOCK_PAGES {
                    let middle = Pfn(low.0 + (high.0 - low.0) / 2).pageblock();
                    if self.zone_index_of(middle) == zone { low = middle } else { high = middle }
                }
                low = high.min(range.end);
            }
            at = low;
            Some(PfnRange::new(start, at))
        })
    }

    /// Computes marks, lowmem reserves and per-CPU list sizes again, after boot,
    /// a change of a knob, or memory coming or going. Any context.
    pub fn recompute_watermarks(&self) {
        let cpu = self.enter();
        // Whoever comes last has seen all that has changed.
        let _computing = self.computing.lock(&cpu);
        self.note_first_zones();
        let t = &self.tunables;
        let lowmem_pages: u64 =
            self.zones.iter().filter(|z| z.kind != ZoneKind::Movable).map(Zone::managed).sum();
        // No more can be kept than there is.
        let user = t.user_min_free_kb.load(Relaxed).min(lowmem_pages * 4);
        // What the marks are now is not asked: the answer must not depend on
        // how often, and after what, the question is put.
        let rule = watermark::min_free_kbytes(lowmem_pages * 4);
        let min_free = if t.min_free_forced.load(Relaxed) { user } else { rule.max(user) };
        t.min_free_kb.store(min_free, Relaxed);
        let scale = t.scale_factor.load(Relaxed);
        let fraction = u64::from(t.pcp_high_fraction.load(Relaxed));
        let ratio = [0, 1, 2, 3].map(|i: usize| t.lowmem_ratio[i].load(Relaxed));
        for node in 0..self.nodes() {
            let zones = &(*self.zones)[node * NR_ZONES..(node + 1) * NR_ZONES];
            let managed = [0, 1, 2, 3].map(|i: usize| zones[i].managed());
            let reserve = watermark::lowmem_reserve(managed, ratio);
            let cpus = (0..self.platform.cpus())
                .filter(|&c| self.platform.node_of_cpu(CpuId(c)).0 as usize == node)
                .count() as u64;
            // Where there are none, all of them come from elsewhere.
            let cpus = if cpus == 0 { u64::from(self.platform.cpus()) } else { cpus };
            for zone in zones {
                let buddy = Buddy::lock(&self.map, zone, &cpu);
                let marks =
                    watermark::marks(zone.kind, zone.managed(), lowmem_pages, min_free, scale);
                zone.set_marks(marks, reserve[zone.kind.index()]);
                let batch = watermark::pcp_batch(zone.managed());
                zone.pcp_batch.store(batch, Relaxed);
                let share = zone.managed().checked_div(fraction).unwrap_or(marks.low);
                zone.pcp_high.store(watermark::pcp_high(share, cpus, batch), Relaxed);
                zone.pcp_large.store(watermark::pcp_large(zone.managed(), cpus), Relaxed);
                drop(buddy);
            }
        }
    }

    /// Sets min_free_kbytes. A value below what the square-root rule gives is
    /// raised to it, one beyond all there is lowered to that.
    pub fn set_min_free_kbytes(&self, kb: u64) {
        self.set_min_free(kb, false);
    }

    /// Sets min_free_kbytes to just this, as writing to the file does, however
    /// little it is; what is beyond all there is, is lowered to that.
    pub fn force_min_free_kbytes(&self, kb: u64) {
        self.set_min_free(kb, true);
    }

    fn set_min_free(&self, kb: u64, forced: bool) {
        self.tunables.user_min_free_kb.store(kb, Relaxed);
        self.tunables.min_free_forced.store(forced, Relaxed);
        self.recompute_watermarks();
    }

    /// Sets percpu_pagelist_high_fraction: the lists of all CPUs of a zone may
    /// together hold this part of the zone; 0: as much as its low mark.
    pub fn set_pcp_high_fraction(&self, fraction: u32) {
        self.tunables.pcp_high_fraction.store(fraction, Relaxed);
        self.recompute_watermarks();
    }

    /// min_free_kbytes as it is in force.
    pub fn min_free_kbytes(&self) -> u64 {
        self.tunables.min_free_kb.load(Relaxed)
    }

    /// Sets watermark_scale_factor, 1 to 3000 (others are brought into range).
    pub fn set_watermark_scale_factor(&self, factor: u32) {
        self.tunables.scale_factor.store(factor.clamp(1, 3000), Relaxed);
        self.recompute_watermarks();
    }

    /// watermark_scale_factor as it is in force.
    pub fn watermark_scale_factor(&self) -> u32 {
        self.tunables.scale_factor.load(Relaxed)
    }

    /// Sets lowmem_reserve_ratio, by zone kind: what a zone keeps back from
    /// requests that could use a higher one is a `ratio`-th of the higher zones;
    /// 0 keeps nothing back.
    pub fn set_lowmem_reserve_ratio(&self, ratio: [u32; NR_ZONES]) {
        for (knob, ratio) in self.tunables.lowmem_ratio.iter().zip(ratio) {
            knob.store(ratio, Relaxed);
        }
        self.recompute_watermarks();
    }

    /// Sets watermark_boost_factor; 0 switches boosting off.
    pub fn set_watermark_boost_factor(&self, factor: u32) {
        self.tunables.boost_factor.store(factor, Relaxed);
    }
}

/// The order in which each node asks the others for memory.
pub(crate) fn orders<P: Platform>(
    platform: &P,
    memory: NodeSet,
    nodes: usize,
    distances: &Distances,
) -> [FallbackOrder; MAX_NODES] {
    let mut cpus = NodeSet::default();
    (0..platform.cpus()).for_each(|cpu| cpus.insert(platform.node_of_cpu(CpuId(cpu))));
    fallback_orders(nodes, memory, cpus, distances)
}

/// Takes `piece`, inside one pageblock, out of the holes that cover it.
fn cut_hole(map: &MemMap, piece: PfnRange) {
    let block = PfnRange::sized(piece.start.pageblock(), PAGEBLOCK_PAGES);
    let mut pfn = block.start;
    while pfn < block.end {
        let word = map.page(pfn).head();
        let hole = PfnRange::sized(pfn, word.order().pages());
        pfn = hole.end;
        if word.ty() != PageType::Hole || hole.intersect(piece).is_empty() {
            continue;
        }
        map.page(hole.start).clear();
        map.describe(PfnRange::new(hole.start, piece.start), PageType::Hole);
        map.describe(PfnRange::new(piece.end, hole.end), PageType::Hole);
    }
}
