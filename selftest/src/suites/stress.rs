//! All CPUs at once: each allocates, and frees what others allocated, while
//! memory is compacted, ranges of it are emptied, and per-CPU lists are drained
//! under everybody's hands. What is held stays as it was written, and at each
//! stop the audit finds everything in its place.

use super::{Ground, MAX_WORKERS, suite};
use crate::case::{CaseResult, Test};
use crate::crew::{Team, Worker};
use crate::exchange::{Exchange, Item};
use crate::hold::{Block, Held};
use crate::objects::OwnCache;
use crate::rng::Rng;
use crate::{check, check_eq, fail, skip};
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use mm::cma::CmaId;
use mm::contig::ContigError;
use mm::hotplug::{HotplugError, MEMORY_BLOCK_ORDER, OnlineType};
use mm::platform::Platform;
use mm::slab::{CacheConfig, CacheId};
use mm::types::{MAX_ORDER, NodeId, Order, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, Pfn, PfnRange};
use mm::zone::Zone;
use mm::{AllocError, Gfp, Mm, Request};

suite! {
    /// All CPUs at once.
    Stress = "stress" {
        quick pages,
        quick objects,
        quick everything,
        quick shortage,
        full one_cpu,
        full two_cpus,
        full four_cpus,
    }
}

/// Steps of all workers together in a quick case.
const QUICK_STEPS: u64 = 16_000;
/// Steps of each worker in a full one.
const FULL_STEPS: u64 = 1_000_000;
/// Pages of memory for each slot of the exchange: half of the slots are in
/// use, and what lies there has some 40 pages on average if it has any.
const PAGES_PER_SLOT: u64 = 64;

/// What steps are made of, as parts of the whole.
#[derive(Clone, Copy)]
struct Mix {
    blocks: u64,
    bulk: u64,
    movable: u64,
    objects: u64,
    bytes: u64,
    ranges: u64,
    area: u64,
    /// Draining, compacting, shrinking.
    upheaval: u64,
    /// With no more memory than there is demand for: down to the reserves.
    short: bool,
}

/// What the parts of a mix are called.
const KINDS: [&str; 9] = [
    "blocks",
    "bulks",
    "movable pages",
    "objects",
    "kmallocs",
    "ranges",
    "areas",
    "upheavals",
    "refused",
];
/// The last of them, which is what was not made.
const REFUSED: usize = KINDS.len() - 1;
/// The first so many must come about on any machine.
const SURE: usize = 5;

impl Mix {
    fn parts(self) -> [u64; KINDS.len()] {
        let Self { blocks, bulk, movable, objects, bytes, ranges, area, upheaval, .. } = self;
        [blocks, bulk, movable, objects, bytes, ranges, area, upheaval, 0]
    }
}

const PAGES: Mix = Mix {
    blocks: 1600,
    bulk: 200,
    movable: 0,
    objects: 0,
    bytes: 0,
    ranges: 0,
    area: 0,
    upheaval: 1,
    short: false,
};
const OBJECTS: Mix = Mix {
    blocks: 0,
    bulk: 200,
    movable: 0,
    objects: 1000,
    bytes: 600,
    ranges: 0,
    area: 0,
    upheaval: 1,
    short: false,
};
const EVERYTHING: Mix = Mix {
    blocks: 1000,
    bulk: 100,
    movable: 800,
    objects: 500,
    bytes: 300,
    ranges: 3,
    area: 6,
    upheaval: 2,
    short: false,
};

fn pages<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    quick(t, PAGES)
}

fn objects<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    quick(t, OBJECTS)
}

fn everything<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    quick(t, EVERYTHING)
}

fn shortage<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    quick(t, Mix { short: true, ..EVERYTHING })
}

fn one_cpu<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    full(t, 1)
}

fn two_cpus<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    full(t, 2)
}

fn four_cpus<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    full(t, 4)
}

/// With memory for all, and short of it.
fn full<P: Platform>(t: &mut Test<'_, Ground<P>>, workers: u16) -> CaseResult {
    stress(t, workers, EVERYTHING, FULL_STEPS / 2, 5)?;
    stress(t, workers, Mix { short: true, ..EVERYTHING }, FULL_STEPS / 2, 5)
}

/// What every boot with more than one CPU can afford.
fn quick<P: Platform>(t: &mut Test<'_, Ground<P>>, mix: Mix) -> CaseResult {
    match t.on.crew().cpus() {
        0 | 1 => skip!("one CPU"),
        cpus => {
            let workers = cpus.min(MAX_WORKERS);
            stress(t, workers, mix, QUICK_STEPS / u64::from(workers), 2)
        }
    }
}

/// The caches whose objects are passed on: sizes, all multiples of 8.
const SIZES: [usize; 4] = [24, 200, 1024, 4000];

fn stress<P: Platform>(
    t: &mut Test<'_, Ground<P>>,
    workers: u16,
    mix: Mix,
    steps: u64,
    rounds: u64,
) -> CaseResult {
    let Ground { mm, arena, .. } = *t.on;
    let slots = if mix.short { SHORT_SLOTS } else { mm.managed_pages() / PAGES_PER_SLOT };
    let slots = slots.max(16).min(t.scratch.len() as u64 / 2);
    let area = mm.cma_areas().map(|(id, _)| id).next();
    let caches = [
        OwnCache::new(mm, "stress-24", CacheConfig::new(SIZES[0]))?,
        OwnCache::new(mm, "stress-200", CacheConfig::new(SIZES[1]))?,
        OwnCache::new(
            mm,
            "stress-1k",
            CacheConfig { reclaim_account: true, ..CacheConfig::new(SIZES[2]) },
        )?,
        OwnCache::new(
            mm,
            "stress-4000",
            CacheConfig { hwcache_align: true, ..CacheConfig::new(SIZES[3]) },
        )?,
    ];
    let mut ids = [None; Item::CACHES];
    for ((id, cache), size) in ids.iter_mut().zip(&caches).zip(SIZES) {
        *id = Some((cache.id(), size));
    }
    let (slots, rest) = t.scratch.split_at_mut(slots as usize);
    let mut hoard = Held::new(mm, rest);
    if mix.short {
        hold_most(mm, &mut hoard)?;
    }
    let exchange = Exchange::new(t.on, slots, ids, area);
    let seed = t.rng.next_u64();
    let made = [const { AtomicU64::new(0) }; KINDS.len()];
    let result = Team::run(t.on.crew(), workers, &|worker| {
        let mut hand = Hand {
            ground: *t.on,
            exchange: &exchange,
            caches: ids,
            area,
            mix,
            made: &made,
            rng: Rng::new(seed ^ u64::from(worker.number) << 56),
        };
        for _ in 0..rounds {
            hand.round(worker, t.on.crew().patience(steps) / rounds)?;
            worker.stopped(|| {
                exchange.check()?;
                audit(t.on)
            })?;
        }
        Ok(())
    });
    let cleared = exchange.clear();
    drop(exchange);
    drop(hoard);
    let _ = arena.release_tables(mm);
    result.and(cleared)?;
    caches.into_iter().try_for_each(OwnCache::destroy)?;
    let made = made.map(AtomicU64::into_inner);
    t.note(format_args!("{}", Made(&made)));
    // A test of nothing is none. (Ranges and the area can be out of reach.)
    for (wanted, &got) in mix.parts().into_iter().zip(&made).take(SURE) {
        check!(wanted == 0 || got > 0, "not one of: {}", Made(&made));
    }
    Ok(())
}

/// How many of each kind have been made.
struct Made<'a>(&'a [u64; KINDS.len()]);

impl fmt::Display for Made<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = KINDS.iter().zip(self.0).filter(|(_, got)| **got > 0);
        seen.enumerate().try_for_each(|(i, (kind, got))| {
            write!(f, "{}{got} {kind}", if i == 0 { "" } else { ", " })
        })
    }
}

/// Slots when memory is to be short: a demand for several times of what is left.
const SHORT_SLOTS: u64 = 4096;
/// Blocks that are left then: 16 MiB.
const LEFT: usize = 4;

/// Takes all but a little of the memory, in blocks that nobody touches.
fn hold_most<P: Platform>(mm: &'static Mm<P>, hoard: &mut Held<'_, 'static, P>) -> CaseResult {
    for order in (2..=MAX_ORDER.0).rev() {
        while let Ok(block) = Block::alloc(mm, Request::new(Order(order), Gfp::NOWAIT | TRY)) {
            if hoard.is_full() && order > 6 {
                skip!("more memory than can be held");
            }
            hoard.put(block);
        }
    }
    // The first were the largest.
    for at in 0..LEFT.min(hoard.len() / 2) {
        drop(hoard.take(at));
    }
    Ok(())
}

fn audit<P: Platform>(ground: &Ground<P>) -> CaseResult {
    match ground.mm.audit() {
        Ok(_) => Ok(()),
        Err(wrong) => fail!("{wrong}"),
    }
}

/// Quiet, and without long waits.
const TRY: Gfp = Gfp::NOWARN.union(Gfp::NORETRY);

/// One worker's work.
struct Hand<'e, 's, P: Platform> {
    ground: Ground<P>,
    exchange: &'e Exchange<'s, P>,
    caches: [Option<(CacheId, usize)>; Item::CACHES],
    area: Option<CmaId>,
    mix: Mix,
    made: &'e [AtomicU64; KINDS.len()],
    rng: Rng,
}

impl<P: Platform> Hand<'_, '_, P> {
    fn round(&mut self, worker: &Worker<'_>, steps: u64) -> CaseResult {
        for _ in 0..steps {
            if worker.is_over() {
                break;
            }
            self.step()?;
        }
        Ok(())
    }

    /// Frees what is in some slot, or fills it.
    fn step(&mut self) -> CaseResult {
        let at = self.rng.index(self.exchange.len());
        if self.exchange.take(at)? {
            return Ok(());
        }
        let parts = self.mix.parts();
        let mut dice = self.rng.below(parts.iter().sum());
        let chosen = parts.iter().position(|&part| {
            let here = dice < part;
            dice = dice.wrapping_sub(part);
            here
        });
        let Some(chosen) = chosen else { return Ok(()) };
        let item = match chosen {
            0 => self.block()?,
            1 => return self.bulk(),
            2 => self.movable()?,
            3 => self.object()?,
            4 => self.bytes()?,
            5 => self.range()?,
            6 => self.of_area()?,
            _ => return self.upheaval(),
        };
        self.made[if item.is_some() { chosen } else { REFUSED }].fetch_add(1, Relaxed);
        let Some(item) = item else { return Ok(()) };
        self.exchange.put(at, item, self.rng.next_u64())
    }

    /// Some node, if one is to be asked.
    fn node(&mut self) -> Option<NodeId> {
        let nodes = self.ground.mm.nodes() as u64;
        (nodes > 1 && self.rng.percent(25)).then(|| NodeId(self.rng.below(nodes) as u8))
    }

    /// Small blocks mostly, of all kinds.
    fn block(&mut self) -> CaseResult<Option<Item>> {
        const KINDS: [Gfp; 8] = [
            Gfp::KERNEL,
            Gfp::KERNEL,
            Gfp::KERNEL.union(Gfp::RECLAIMABLE),
            Gfp::HIGHUSER_MOVABLE.union(Gfp::PINNED),
            Gfp::ATOMIC,
            Gfp::NOWAIT,
            Gfp::KERNEL.union(Gfp::DMA32),
            Gfp::KERNEL.union(Gfp::ZERO),
        ];
        let order = match self.rng.below(64) {
            0..40 => 0,
            40..48 => 1,
            48..53 => 2,
            53..57 => 3,
            57..61 => 4 + self.rng.below(5) as u8,
            61..63 => 9,
            _ => MAX_ORDER.0,
        };
        let gfp = TRY | self.rng.pick(&KINDS).unwrap_or(Gfp::KERNEL);
        let node = self.node();
        let here =
            if node.is_some() && self.rng.percent(50) { Gfp::THISNODE } else { Gfp::empty() };
        // A page to be zeroed costs more than all else.
        let gfp = if order > 3 { gfp - Gfp::ZERO } else { gfp } | here;
        let mm = self.ground.mm;
        let page = match mm.alloc_pages(Request { order: Order(order), gfp, node }) {
            Ok(page) => page,
            Err(AllocError::NoMemory) => return Ok(None),
            Err(why) => fail!("order {order}, {gfp:?}: {why}"),
        };
        if let Some(node) = node.filter(|_| gfp.contains(Gfp::THISNODE)) {
            let found = mm.map().try_block(page.pfn).map(mm::memmap::BlockInfo::node);
            check_eq!(found, Some(node), "node of {page:?}");
        }
        self.check_lent(PfnRange::sized(page.pfn, page.order.pages()))?;
        Ok(Some(Item::Block(page)))
    }

    /// What cannot be moved must not lie where only what can be is lent to.
    fn check_lent(&self, frames: PfnRange) -> CaseResult {
        for (_, area) in self.ground.mm.cma_areas() {
            let both = area.range().intersect(frames);
            check!(both.is_empty(), "{frames:?} lies in an area that is lent to movable pages");
        }
        Ok(())
    }

    fn movable(&mut self) -> CaseResult<Option<Item>> {
        let Ground { mm, arena, .. } = self.ground;
        match arena.alloc(mm, Gfp::HIGHUSER_MOVABLE | TRY) {
            Ok(handle) => Ok(Some(Item::Movable(handle))),
            Err(AllocError::NoMemory) => Ok(None),
            Err(why) => fail!("movable page: {why}"),
        }
    }

    fn cache(&mut self) -> (u8, Option<CacheId>) {
        let number = self.rng.index(SIZES.len());
        (number as u8, self.caches[number].map(|cache| cache.0))
    }

    fn object(&mut self) -> CaseResult<Option<Item>> {
        let (number, Some(cache)) = self.cache() else { return Ok(None) };
        match self.ground.mm.cache_alloc(cache, Gfp::KERNEL | TRY) {
            Ok(ptr) => Ok(Some(Item::Object(number, ptr))),
            Err(AllocError::NoMemory) => Ok(None),
            Err(why) => fail!("object of {cache:?}: {why}"),
        }
    }

    fn bytes(&mut self) -> CaseResult<Option<Item>> {
        let most = 1 << self.rng.below(15).max(3);
        let size = 1 + self.rng.below(most) as usize;
        let kind = self.rng.pick(&[Gfp::KERNEL, Gfp::NOWAIT, Gfp::KERNEL | Gfp::RECLAIMABLE]);
        match self.ground.mm.kmalloc(size, kind.unwrap_or(Gfp::KERNEL) | TRY) {
            Ok(ptr) => Ok(Some(Item::Bytes(ptr))),
            Err(AllocError::NoMemory) => Ok(None),
            Err(why) => fail!("{size} bytes: {why}"),
        }
    }

    /// Frames in a row, wherever they are or in a certain place.
    fn range(&mut self) -> CaseResult<Option<Item>> {
        let mm = self.ground.mm;
        let gfp = Gfp::KERNEL | TRY;
        let found = if self.rng.percent(50) {
            let (count, align) = (1 + self.rng.below(600), Order(self.rng.below(10) as u8));
            mm.alloc_contig_pages(count, align, self.node(), Pfn(0), gfp)
        } else {
            let zone = &mm.zones()[self.rng.index(mm.zones().len())];
            let start = zone.span().start.add(self.rng.below(zone.span().pages()));
            let range = PfnRange::sized(start, 1 + self.rng.below(2 * PAGEBLOCK_PAGES));
            if range.intersect(zone.span()) != range {
                return Ok(None);
            }
            mm.alloc_contig_range(range, gfp)
        };
        match found {
            Ok(range) => {
                self.check_lent(range)?;
                Ok(Some(Item::Range(range)))
            }
            // Most places hold something that stays, or a hole, or the area.
            Err(_) => Ok(None),
        }
    }

    fn of_area(&mut self) -> CaseResult<Option<Item>> {
        let Some(area) = self.area else { return Ok(None) };
        let count = if self.rng.percent(10) { PAGEBLOCK_PAGES } else { 1 + self.rng.below(64) };
        match self.ground.mm.cma_alloc(area, count, Order(0), Gfp::KERNEL | TRY) {
            Ok(range) => Ok(Some(Item::Area(range))),
            Err(ContigError::NoMemory | ContigError::Busy(_)) => Ok(None),
            Err(why) => fail!("{count} pages of the area: {why}"),
        }
    }

    /// Pages or objects at once.
    fn bulk(&mut self) -> CaseResult {
        if self.mix.objects == 0 || self.mix.blocks > 0 && self.rng.percent(50) {
            self.bulk_of_pages()
        } else {
            self.bulk_of_objects()
        }
    }

    /// Single pages; each is passed on alone, or all are given back at once.
    fn bulk_of_pages(&mut self) -> CaseResult {
        let mm = self.ground.mm;
        let mut pages = [Pfn(0); 32];
        let node = self.node();
        let want = &mut pages[..1 + self.rng.index(32)];
        let got = match mm.alloc_bulk(Gfp::KERNEL | TRY, node, want) {
            Ok(got) => got,
            Err(AllocError::NoMemory) => return Ok(()),
            Err(why) => fail!("{} pages: {why}", want.len()),
        };
        self.made[1].fetch_add(1, Relaxed);
        for &pfn in &pages[..got] {
            self.check_lent(PfnRange::sized(pfn, 1))?;
        }
        if self.rng.percent(50) {
            check_eq!(mm.free_bulk(&pages[..got]), Ok(()));
            return Ok(());
        }
        for &pfn in &pages[..got] {
            let at = self.rng.index(self.exchange.len());
            let item = Item::Block(mm::Page { pfn, order: Order(0) });
            self.exchange.put(at, item, self.rng.next_u64())?;
        }
        Ok(())
    }

    /// The same with objects.
    fn bulk_of_objects(&mut self) -> CaseResult {
        let mm = self.ground.mm;
        let (number, Some(cache)) = self.cache() else { return Ok(()) };
        let mut objects = [NonNull::dangling(); 32];
        let want = &mut objects[..1 + self.rng.index(32)];
        match mm.cache_alloc_bulk(cache, Gfp::KERNEL | TRY, want) {
            Ok(()) => {}
            Err(AllocError::NoMemory) => return Ok(()),
            Err(why) => fail!("{} objects: {why}", want.len()),
        }
        self.made[1].fetch_add(1, Relaxed);
        if self.rng.percent(50) {
            check_eq!(mm.cache_free_bulk(cache, want), Ok(()));
            return Ok(());
        }
        for &mut ptr in want {
            let at = self.rng.index(self.exchange.len());
            self.exchange.put(at, Item::Object(number, ptr), self.rng.next_u64())?;
        }
        Ok(())
    }

    /// What happens to everybody.
    fn upheaval(&mut self) -> CaseResult {
        let mm = self.ground.mm;
        let zone = &mm.zones()[self.rng.index(mm.zones().len())];
        match self.rng.below(8) {
            0 => {
                mm.drain_all(None);
            }
            1 => {
                mm.drain_all(Some(zone));
            }
            2 => {
                mm.compact_whole_zone(zone);
            }
            3 => {
                mm.slab_shrink();
            }
            4 => {
                mm.cache_reap();
            }
            5 => {
                mm.kswapd_round(zone.node);
                mm.kcompactd_round(zone.node);
            }
            6 => self.comes_and_goes(zone)?,
            _ => {
                mm.recompute_watermarks();
            }
        }
        self.made[7].fetch_add(1, Relaxed);
        Ok(())
    }

    /// Some memory goes out of use, if nothing in it stays, and comes back.
    fn comes_and_goes(&mut self, zone: &Zone) -> CaseResult {
        let (mm, span) = (self.ground.mm, zone.span());
        if span.is_empty() {
            return Ok(());
        }
        let order = if self.rng.percent(5) { MEMORY_BLOCK_ORDER } else { PAGEBLOCK_ORDER };
        let start = span.start.add(self.rng.below(span.pages())).align_down(order);
        let range = PfnRange::sized(start, order.pages());
        // Others may have parts of the same memory out of use.
        let Ok(pages) = mm.offline(range) else { return Ok(()) };
        check!(pages > 0 && pages <= range.pages(), "{pages} pages of {range:?}");
        match mm.online(range, OnlineType::Auto) {
            Ok(_) | Err(HotplugError::Already) => Ok(()),
            Err(why) => fail!("{range:?} back into use: {why}"),
        }
    }
}
