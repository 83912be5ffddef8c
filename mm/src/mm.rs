//! The manager itself: one value that holds zones, memory map and per-CPU lists
//! over a platform. The layers above add their methods in files of their own.
//! May call: everything below `alloc`.

use crate::boot_slice::BootSlice;
use crate::cache::DirtyKnobs;
use crate::cma::CmaAreas;
use crate::compact::Compaction;
use crate::dump::Reports;
use crate::fast::Homes;
use crate::fault::Faults;
use crate::hotplug::Hotplug;
use crate::lru::LruState;
use crate::memmap::MemMap;
use crate::migrate::MovableOwners;
use crate::oom::{Oom, OomNotifiers};
use crate::owner::PageOwner;
use crate::page_stats::PageStats;
use crate::pcp::Pcp;
use crate::platform::Platform;
use crate::poison::BadPages;
use crate::reclaim::{Caches, Reclaim, Shrinkers};
use crate::report::Reporting;
use crate::rmap::Groups;
use crate::slab::SlabState;
use crate::space::Spaces;
use crate::stats::Stats;
use crate::swap::Swap;
use crate::sync::{
    AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Cpu, CpuCell, Lock, Ordering::Relaxed,
};
use crate::types::{CpuId, MAX_NODES, NR_ZONES, NodeId, ZoneKind};
use crate::walkers::Walkers;
use crate::watermark;
use crate::zone::Zone;
use crate::zonelist::NO_ZONE;

/// What can be tuned while the machine runs, under Linux's names.
#[derive(Debug)]
pub(crate) struct Tunables {
    pub(crate) min_free_kb: AtomicU64,
    /// Measured by the slow path; not tuned, but read as they are.
    pub(crate) longest_wait_ms: AtomicU64,
    /// What somebody set; 0 if nobody did.
    pub(crate) user_min_free_kb: AtomicU64,
    /// That is to be in force even if it is less than the rule gives.
    pub(crate) min_free_forced: AtomicBool,
    pub(crate) scale_factor: AtomicU32,
    pub(crate) boost_factor: AtomicU32,
    pub(crate) lowmem_ratio: [AtomicU32; NR_ZONES],
    pub(crate) extfrag_threshold: AtomicU32,
    /// percpu_pagelist_high_fraction; 0 leaves it to the low mark.
    pub(crate) pcp_high_fraction: AtomicU32,
    pub(crate) init_on_alloc: AtomicBool,
    pub(crate) init_on_free: AtomicBool,
    pub(crate) page_poison: AtomicBool,
    /// None of the above, nobody keeps a record of who has what, and no fault is
    /// to be injected: pages need no more than to change hands.
    pub(crate) plain: AtomicBool,
}

impl Tunables {
    pub(crate) fn new() -> Self {
        Self {
            min_free_kb: AtomicU64::new(0),
            longest_wait_ms: AtomicU64::new(0),
            user_min_free_kb: AtomicU64::new(0),
            min_free_forced: AtomicBool::new(false),
            scale_factor: AtomicU32::new(watermark::DEFAULT_SCALE_FACTOR),
            boost_factor: AtomicU32::new(watermark::DEFAULT_BOOST_FACTOR),
            lowmem_ratio: watermark::DEFAULT_LOWMEM_RATIO.map(AtomicU32::new),
            extfrag_threshold: AtomicU32::new(500),
            pcp_high_fraction: AtomicU32::new(0),
            init_on_alloc: AtomicBool::new(false),
            init_on_free: AtomicBool::new(false),
            page_poison: AtomicBool::new(false),
            plain: AtomicBool::new(true),
        }
    }
}

/// A physical memory manager.
///
/// Everything is done through a shared reference: what must not be done by two
/// at once is locked or belongs to a CPU. It is made by [`Mm::new`].
pub struct Mm<P: Platform> {
    pub(crate) platform: P,
    pub(crate) map: MemMap,
    /// Frames that lie behind it since boot.
    pub(crate) map_pages: u64,
    /// Four a node, in the order of [`crate::memmap::zone_index`].
    pub(crate) zones: BootSlice<Zone>,
    /// By CPU, then by zone.
    pub(crate) pcps: BootSlice<CpuCell<Pcp>>,
    /// By CPU.
    pub(crate) homes: BootSlice<Homes>,
    /// By node, then by class of request: indices of zones, best first.
    pub(crate) zonelists: BootSlice<AtomicU16>,
    /// By node, then by class: the index of the first zone with pages.
    pub(crate) first_zones: [AtomicU8; MAX_NODES * NR_ZONES],
    pub(crate) tunables: Tunables,
    /// Whoever computes marks holds it.
    pub(crate) computing: Lock<()>,
    pub(crate) stats: Stats,
    pub(crate) page_stats: PageStats,
    pub(crate) reports: Reports,
    pub(crate) owners: PageOwner,
    pub(crate) cma: CmaAreas,
    pub(crate) compaction: Compaction,
    pub(crate) movable_owners: MovableOwners<P>,
    pub(crate) oom: Oom,
    pub(crate) oom_notifiers: OomNotifiers<P>,
    pub(crate) slab: SlabState,
    pub(crate) lru: LruState,
    pub(crate) reclaim: Reclaim,
    pub(crate) caches: Caches<P>,
    pub(crate) dirty_knobs: DirtyKnobs,
    pub(crate) shrinkers: Shrinkers<P>,
    pub(crate) faults: Faults,
    pub(crate) bad: BadPages,
    pub(crate) walkers: Walkers,
    pub(crate) report: Reporting,
    pub(crate) hotplug: Hotplug,
    pub(crate) swap: Swap,
    pub(crate) groups: Groups,
    pub(crate) spaces: Spaces,
}

impl<P: Platform> Mm<P> {
    /// The platform that the manager was made with.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// The page descriptors.
    pub fn map(&self) -> &MemMap {
        &self.map
    }

    /// Counters of events.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The record of who allocated what.
    pub fn page_owner(&self) -> &PageOwner {
        &self.owners
    }

    /// All zones, four for each node, populated or not.
    pub fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// A zone, if the node exists.
    pub fn zone(&self, node: NodeId, kind: ZoneKind) -> Option<&Zone> {
        self.zones.get(crate::memmap::zone_index(node, kind))
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.zones.len() / NR_ZONES
    }

    /// The node whose memory serves requests from `node`: itself, or the nearest
    /// where it has none that anything may be in.
    #[inline]
    pub fn memory_node(&self, node: NodeId) -> NodeId {
        let class = ZoneKind::Normal.index();
        let first = self.first_zones.get(usize::from(node.0) * NR_ZONES + class);
        match first.map(|zone| zone.load(Relaxed)) {
            Some(zone) if zone != u8::MAX => NodeId(zone / NR_ZONES as u8),
            _ => NodeId(0),
        }
    }

    /// The nodes with memory, the nearest to `node` first: its own, if it has
    /// some.
    pub fn nearest_nodes(&self, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        // Each node has one zone DMA in this list, populated or not.
        self.zonelist(node, ZoneKind::Dma).map(|zone| zone.node)
    }

    /// The zones that a request of `class` from `node` may use, best first.
    #[inline]
    pub(crate) fn zonelist(
        &self,
        node: NodeId,
        class: ZoneKind,
    ) -> impl Iterator<Item = &Zone> + Clone {
        let stride = self.zones.len() + 1;
        let from = (node.0 as usize * NR_ZONES + class.index()) * stride;
        (*self.zonelists)[from..from + stride]
            .iter()
            .map(|i| i.load(Relaxed))
            .take_while(|&i| i != NO_ZONE)
            .map(|i| &self.zones[i as usize])
    }

    /// The cell of one CPU's lists of one zone.
    #[inline]
    pub(crate) fn pcp(&self, cpu: CpuId, zone: &Zone) -> &CpuCell<Pcp> {
        &self.pcps[cpu.0 as usize * self.zones.len() + zone.index()]
    }

    /// Masks interrupts and takes this CPU's token.
    #[inline]
    pub(crate) fn enter(&self) -> Cpu<'_, P> {
        Cpu::enter(&self.platform)
    }

    /// Free pages of all zones, on the buddy's lists or deferred only.
    pub fn free_pages_total(&self) -> u64 {
        self.zones.iter().map(Zone::free_pages).sum()
    }

    /// Pages that the manager has or had to give.
    pub fn managed_pages(&self) -> u64 {
        self.zones.iter().map(Zone::managed).sum()
    }

    /// Pages on the per-CPU lists of `zone`, over all CPUs. Waits for each CPU;
    /// called with interrupts on and no lock held.
    pub fn pcp_pages(&self, zone: &Zone) -> u64 {
        let total = AtomicU64::new(0);
        Cpu::on_each(&self.platform, &|cpu| {
            // SAFETY: `cpu` is that CPU's token; the closure does not nest.
            let count = unsafe { self.pcp(cpu.id(), zone).with(|pcp| pcp.pages()) };
            total.fetch_add(count, Relaxed);
        });
        total.into_inner()
    }

    /// Pages allocated and freed in `zone` so far, as `pgalloc_*` and `pgfree`
    /// count them. Context as [`pcp_pages`](Self::pcp_pages).
    pub fn page_events(&self, zone: &Zone) -> (u64, u64) {
        let (allocated, freed) = (AtomicU64::new(0), AtomicU64::new(0));
        Cpu::on_each(&self.platform, &|cpu| {
            // SAFETY: `cpu` is that CPU's token; the closure does not nest.
            let n = unsafe { self.pcp(cpu.id(), zone).with(|pcp| (pcp.allocated, pcp.freed)) };
            allocated.fetch_add(n.0, Relaxed);
            freed.fetch_add(n.1, Relaxed);
        });
        (allocated.into_inner(), freed.into_inner())
    }
}
