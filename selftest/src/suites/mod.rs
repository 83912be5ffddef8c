//! The suites over a memory manager, layer by layer. All of them run on any
//! machine, skip what it is too small for, and give everything back.

mod audit;
mod balloon;
mod buddy;
mod cma;
mod compaction;
mod contig;
mod giveback;
mod hotplug;
mod memmap;
mod migrate;
mod poison;
mod reporting;
mod reserve;
mod slab;
mod stress;
mod watermark;
mod zones;

pub use balloon::Lender;

use crate::case::{Stop, Subject, Suite};
use crate::crew::{Alone, Crew, Team};
use core::fmt;
use core::marker::PhantomData;
use mm::Gfp;
use mm::Mm;
use mm::arena::MovableArena;
use mm::migrate::TooManyOwners;
use mm::platform::Platform;
use mm::slab::CacheConfig;
use mm::space::{MapFlags, Prot};
use mm::stats::Event;
use mm::types::{MAX_ORDER, NR_ORDERS, NodeId, PAGEBLOCK_PAGES, Pfn};

/// Most pages that the quick cases touch together: 256 MiB.
const QUICK_PAGES: u64 = 1 << 16;

/// Most CPUs that a case uses at once.
const MAX_WORKERS: u16 = 4;

/// The suites for managers over platform `P`.
pub struct Suites<P>(PhantomData<P>);

impl<P: Platform + 'static> Suites<P> {
    /// All suites; the audit of everything comes last.
    pub const ALL: &'static [Suite<Ground<P>>] = &[
        memmap::Memmap::<P>::SUITE,
        zones::Zones::<P>::SUITE,
        buddy::Buddy::<P>::SUITE,
        watermark::Watermark::<P>::SUITE,
        migrate::Migrate::<P>::SUITE,
        compaction::Compaction::<P>::SUITE,
        contig::Contig::<P>::SUITE,
        cma::Cma::<P>::SUITE,
        poison::Poison::<P>::SUITE,
        hotplug::Hotplug::<P>::SUITE,
        slab::Slab::<P>::SUITE,
        reserve::Reserve::<P>::SUITE,
        balloon::Balloon::<P>::SUITE,
        reporting::Reporting::<P>::SUITE,
        giveback::Giveback::<P>::SUITE,
        stress::Stress::<P>::SUITE,
        audit::Audit::<P>::SUITE,
    ];
}

/// Names a suite type, its name, and its cases: functions of the same name,
/// generic over the platform.
macro_rules! suite {
    ($(#[$doc:meta])* $ty:ident = $name:literal { $($level:ident $case:ident,)* }) => {
        $(#[$doc])*
        pub(crate) struct $ty<P>(core::marker::PhantomData<P>);

        impl<P: mm::platform::Platform + 'static> $ty<P> {
            /// The suite itself.
            pub(crate) const SUITE: $crate::Suite<$crate::suites::Ground<P>> = $crate::Suite {
                name: $name,
                cases: &[$($crate::Case::$level(stringify!($case), $case::<P>),)*],
            };
        }
    };
}
pub(crate) use suite;

/// What a manager has free or lent to the host, wherever it lies, and what its caches have handed
/// out. Empty slabs count as free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MmTally {
    free: u64,
    /// Objects in use, of all caches.
    objects: u64,
}

impl fmt::Display for MmTally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages free, {} objects in use", self.free, self.objects)
    }
}

/// What the suites run on: a manager, and an arena of pages that can be moved
/// under their users.
pub struct Ground<P: Platform> {
    /// The manager under test.
    pub mm: &'static Mm<P>,
    /// Nobody else uses it.
    pub(crate) arena: &'static MovableArena<P>,
    /// Nor this one.
    pub(crate) lender: &'static Lender<P>,
    crew: &'static dyn Crew,
}

impl<P: Platform> Clone for Ground<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Platform> Copy for Ground<P> {}

impl<P: Platform> Ground<P> {
    /// The ground for tests of `mm`. The arena becomes a driver of it.
    ///
    /// # Errors
    /// When the manager has no room for another driver.
    pub fn new(
        mm: &'static Mm<P>,
        arena: &'static MovableArena<P>,
        lender: &'static Lender<P>,
    ) -> Result<Self, TooManyOwners> {
        arena.register(mm)?;
        let ground = Self { mm, arena, lender, crew: &Alone };
        ground.warm();
        Ok(ground)
    }

    /// The same with CPUs to run on at once; those that will be used are
    /// [warmed](Self::warm).
    ///
    /// # Errors
    /// When the crew cannot run.
    pub fn with_crew(self, crew: &'static dyn Crew) -> Result<Self, Stop> {
        let size = crew.cpus().clamp(1, MAX_WORKERS);
        Team::run(crew, size, &|_| {
            self.warm();
            Ok(())
        })?;
        Ok(Self { crew, ..self })
    }

    /// The CPUs to run on at once.
    pub(crate) fn crew(&self) -> &'static dyn Crew {
        self.crew
    }

    /// Has this CPU use each cache once, with objects of each node, if the slab
    /// layer is up: what a CPU and its node then set up for themselves stays,
    /// and is no leak of the test that happens to be the first. Before the
    /// tests, on each CPU that they will run on.
    pub fn warm(&self) {
        let mm = self.mm;
        for (gfp, size) in general_sizes() {
            for node in (0..mm.nodes() as u8).map(NodeId) {
                if let Ok(ptr) = mm.kmalloc_node(size, gfp, node) {
                    let _ = mm.kfree(ptr);
                }
            }
        }
        let config = CacheConfig { merge: false, ..CacheConfig::new(8) };
        if let Ok(cache) = mm.cache_create("selftest-warm", config) {
            let _ = mm.cache_destroy(cache);
        }
        // Those of address spaces are made with the first of these.
        if let Ok(space) = mm.space_new("warm") {
            // So is the page of zeroes that all see who only read.
            if let Ok(va) = mm.mmap(&space, None, 1, Prot::READ, MapFlags::empty()) {
                let _ = mm.read_space(&space, va, &mut [0]);
            }
            mm.space_put(space);
        }
    }
}

/// A size of each of kmalloc's caches, and the gfp that leads to it.
fn general_sizes() -> impl Iterator<Item = (Gfp, usize)> {
    let sizes = (5..=13).flat_map(|shift| [1 << shift, 3 << (shift - 1)]);
    let families = [Gfp::empty(), Gfp::RECLAIMABLE, Gfp::DMA];
    sizes.flat_map(move |size| families.map(|f| (Gfp::KERNEL | Gfp::NOWARN | f, size)))
}

impl<P: Platform> Subject for Ground<P> {
    type Tally = MmTally;

    fn tally(&self) -> MmTally {
        // Neither empty slabs nor what lies in arrays is in use.
        self.mm.slab_shrink();
        // Nor is what waits to be listed by its use.
        self.mm.lru_drain_all();
        // Nor what was needed for the most regions that there were at a time.
        self.mm.shrink_groups(u64::MAX);
        let zones = self.mm.zones().iter();
        let free: u64 =
            zones.map(|zone| zone.free_pages() + zone.pages_out() + self.mm.pcp_pages(zone)).sum();
        // A machine's own balloon may give pages back in need.
        let event = |event| self.mm.stats().get(event);
        let lent = event(Event::BalloonInflate).wrapping_sub(event(Event::BalloonDeflate));
        let objects: u64 = self.mm.caches().map(|cache| cache.active_objs).sum();
        MmTally {
            // What stays behind descriptors is no leak.
            free: free.wrapping_add(lent) + self.mm.added_map_pages(),
            // A cache keeps an array for each node whose objects have come to it.
            objects: objects.wrapping_sub(self.mm.slab_arrays()),
        }
    }
}

/// The first frames of the pageblocks that have descriptors, of one zone. What
/// is deferred does not.
fn blocks_of<P: Platform>(mm: &Mm<P>, zone: usize) -> impl Iterator<Item = Pfn> + '_ {
    let span = mm.zones()[zone].span();
    let mut at = span.start.pageblock();
    core::iter::from_fn(move || {
        while at < span.end {
            let block = mm.map().next_populated(at);
            at = block.add(PAGEBLOCK_PAGES);
            if mm.map().try_block(block).is_some_and(|info| info.zone_index() == zone) {
                return Some(block);
            }
        }
        None
    })
}

/// Free blocks on the buddy's lists by order, counted from the descriptors, and
/// deferred ones.
fn free_blocks<P: Platform>(mm: &Mm<P>) -> [u64; NR_ORDERS] {
    let mut count = [0; NR_ORDERS];
    for zone in 0..mm.zones().len() {
        count[MAX_ORDER.index()] += mm.zones()[zone].deferred_pages() / MAX_ORDER.pages();
        for block in blocks_of(mm, zone) {
            let mut pfn = block;
            while pfn < block.add(PAGEBLOCK_PAGES) {
                let Some(page) = mm.map().try_page(pfn) else { break };
                let head = page.head();
                if head.ty() == mm::page::PageType::Buddy {
                    count[head.order().index()] += 1;
                }
                pfn = pfn.add(head.order().pages());
            }
        }
    }
    count
}
