//! Everything that gives memory back, at once and at random, on a machine of
//! several CPUs: memory blocks go out of use and come back, a host is told of
//! free blocks, a balloon grows and shrinks, frames go bad, a contiguous area is
//! wanted back, zones are compacted, and others just use their memory. Whenever
//! all stand still the audit holds, and in the end nothing is lost.
//!
//! `QUARRY_SEED` chooses another storm, `QUARRY_ROUNDS` how long it lasts.
#![cfg(feature = "host")]

use mm::arena::MovableArena;
use mm::balloon::{Balloon, BalloonHost, HostFailed, Terms};
use mm::cma::{CmaId, CmaRequest};
use mm::host::{Machine, pc};
use mm::hotplug::{HotplugError, MEMORY_BLOCK_PAGES, OnlineType};
use mm::platform::{LogLevel, Platform};
use mm::poison::PoisonError;
use mm::report::{NoPass, ReportDevice, ReportFailed};
use mm::types::{CpuId, Order, PAGEBLOCK_PAGES, Pfn, PfnRange};
use mm::{Config, Gfp, Mm, Page, Request};
use std::collections::BTreeSet;
use std::sync::Mutex;

type Guest = Mm<Machine>;

/// RAM of the machine, four memory blocks.
const MIB: u64 = 512;
/// The memory blocks that go out of use and come back, frames that go bad in
/// them or not.
const COMES_AND_GOES: PfnRange =
    PfnRange::new(Pfn(MEMORY_BLOCK_PAGES), Pfn(3 * MEMORY_BLOCK_PAGES));
/// What one does in a round.
const STEPS: u64 = 300;
/// Bad frames at a time: fewer than can be noted.
const MOST_BAD: usize = 24;
const GFP: Gfp = Gfp::KERNEL.union(Gfp::NOWARN).union(Gfp::NORETRY);

struct Rng(u64);

impl Rng {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

fn word(mm: &Guest, pfn: Pfn) -> *mut u64 {
    mm.platform().frame(pfn).cast()
}

fn frames(range: PfnRange) -> impl Iterator<Item = Pfn> {
    (range.start.0..range.end.0).map(Pfn)
}

/// Takes what it is told of, and writes its own there.
struct Host {
    mm: &'static Guest,
    lent: Mutex<BTreeSet<Pfn>>,
}

const LENT: u64 = 0xb411_0000_0000_0001;

impl ReportDevice for Host {
    fn report(&self, blocks: &[PfnRange]) -> Result<(), ReportFailed> {
        for pfn in blocks.iter().copied().flat_map(frames).step_by(61) {
            // SAFETY: the manager holds the block until this returns.
            unsafe { word(self.mm, pfn).write(0xdead) };
        }
        Ok(())
    }
}

impl BalloonHost for Host {
    fn inflate(&self, pages: &[Pfn]) -> Result<(), HostFailed> {
        let mut lent = self.lent.lock().expect("ours");
        for &pfn in pages {
            assert!(lent.insert(pfn), "{pfn:?} lent twice");
            // SAFETY: the page has just been lent; nobody else is to touch it.
            unsafe { word(self.mm, pfn).write(LENT ^ pfn.0) };
        }
        Ok(())
    }

    fn deflate(&self, pages: &[Pfn]) -> Result<(), HostFailed> {
        let mut lent = self.lent.lock().expect("ours");
        for &pfn in pages {
            assert!(lent.remove(&pfn), "{pfn:?} was not lent");
            // SAFETY: as above: it is still lent.
            let seen = unsafe { word(self.mm, pfn).read() };
            assert_eq!(seen, LENT ^ pfn.0, "{pfn:?} was touched while it was lent");
        }
        Ok(())
    }
}

struct Storm {
    mm: &'static Guest,
    arena: &'static MovableArena<Machine>,
    balloon: &'static Balloon<Machine>,
    host: &'static Host,
    bad: Mutex<BTreeSet<Pfn>>,
    /// Pageblocks out of use.
    gone: Mutex<BTreeSet<Pfn>>,
    /// How often each of what may fail was had.
    done: Mutex<std::collections::BTreeMap<&'static str, u64>>,
}

impl Storm {
    fn new() -> Self {
        let mut config = Config::default();
        config.cma[0] =
            Some(CmaRequest { size: 16 << 20, base: None, end: None, order_per_bit: Order(0) });
        let mm: &'static Guest = Box::leak(Box::new(pc(MIB, 7, &config).expect("a machine")));
        let arena: &'static MovableArena<Machine> = Box::leak(Box::default());
        arena.register(mm).expect("room for a driver");
        let balloon: &'static Balloon<Machine> = Box::leak(Box::default());
        let host: &'static Host = Box::leak(Box::new(Host { mm, lent: Mutex::default() }));
        Self {
            mm,
            arena,
            balloon,
            host,
            bad: Mutex::default(),
            gone: Mutex::default(),
            done: Mutex::default(),
        }
    }

    fn count(&self, what: &'static str) {
        *self.done.lock().expect("ours").entry(what).or_default() += 1;
    }

    /// Blocks of all orders, tagged.
    fn user(&self, rng: &mut Rng, held: &mut Vec<(Page, u64)>) {
        let mm = self.mm;
        if held.len() < 60 && rng.below(2) == 0 {
            let order = [0, 0, 0, 1, 3, 5, 9, 10][rng.below(8) as usize];
            let gfp = if rng.below(2) == 0 { GFP } else { GFP | Gfp::MOVABLE };
            let Ok(page) = mm.alloc_pages(Request::new(Order(order), gfp)) else { return };
            let tag = rng.below(u64::MAX);
            for pfn in frames(PfnRange::sized(page.pfn, page.order.pages())) {
                // SAFETY: the block is this thread's.
                unsafe { word(mm, pfn).write(tag ^ pfn.0) };
            }
            held.push((page, tag));
            self.count("blocks");
        } else if !held.is_empty() {
            let (page, tag) = held.swap_remove(rng.below(held.len() as u64) as usize);
            for pfn in frames(PfnRange::sized(page.pfn, page.order.pages())) {
                // SAFETY: the block is this thread's.
                let seen = unsafe { word(mm, pfn).read() };
                assert_eq!(seen, tag ^ pfn.0, "{page:?} was touched by another");
            }
            mm.free_pages(page).expect("a held block");
        }
    }

    /// Pages that move, and compaction.
    fn mover(&self, rng: &mut Rng, held: &mut Vec<(mm::arena::Handle, u8)>) {
        let mm = self.mm;
        match rng.below(20) {
            0 => {
                for zone in mm.zones().iter().filter(|zone| zone.managed() > 0) {
                    mm.compact_whole_zone(zone);
                }
            }
            1..12 if held.len() < 2000 => {
                for _ in 0..20 {
                    let gfp = Gfp::HIGHUSER_MOVABLE | Gfp::NOWARN | Gfp::NORETRY;
                    let Ok(handle) = self.arena.alloc(mm, gfp) else { return };
                    let tag = rng.below(255) as u8;
                    self.arena.with(mm, handle, |bytes| bytes.fill(tag)).expect("live");
                    held.push((handle, tag));
                }
            }
            _ => {
                for _ in 0..20.min(held.len()) {
                    let at = rng.below(held.len() as u64) as usize;
                    let (handle, tag) = held.swap_remove(at);
                    let whole = |bytes: &mut [u8; 4096]| bytes.iter().all(|&byte| byte == tag);
                    assert_eq!(self.arena.with(mm, handle, whole), Ok(true), "moved wrongly");
                    self.arena.free(mm, handle).expect("live");
                }
            }
        }
    }

    /// Memory goes out of use and comes back: pageblocks, whole memory blocks.
    fn goer(&self, rng: &mut Rng) {
        let whole = rng.below(4) == 0;
        let block = COMES_AND_GOES.start.add(rng.below(2) * MEMORY_BLOCK_PAGES);
        let range = if whole {
            PfnRange::sized(block, MEMORY_BLOCK_PAGES)
        } else {
            let at = rng.below(MEMORY_BLOCK_PAGES / PAGEBLOCK_PAGES) * PAGEBLOCK_PAGES;
            PfnRange::sized(block.add(at), PAGEBLOCK_PAGES)
        };
        let blocks = || frames(range).step_by(PAGEBLOCK_PAGES as usize);
        let mut gone = self.gone.lock().expect("ours");
        // Never more than a quarter of what there is.
        let room = gone.len() as u64 * PAGEBLOCK_PAGES < MEMORY_BLOCK_PAGES / 2;
        if rng.below(2) == 0 && (room || !whole && gone.len() < 64) {
            match self.mm.offline(range) {
                Ok(_) => {
                    gone.extend(blocks());
                    self.count(if whole { "offline of blocks" } else { "offline" });
                }
                Err(
                    HotplugError::Busy(_)
                    | HotplugError::NoMemory
                    | HotplugError::Already
                    | HotplugError::Invalid(_),
                ) => {}
                Err(why) => panic!("{range:?}: {why}"),
            }
        } else {
            let how =
                if whole && rng.below(2) == 0 { OnlineType::Movable } else { OnlineType::Auto };
            match self.mm.online(range, how) {
                Ok(_) => {
                    blocks().for_each(|block| {
                        gone.remove(&block);
                    });
                    self.count("online");
                }
                Err(HotplugError::Already | HotplugError::Invalid(_)) => {}
                Err(why) => panic!("{range:?}: {why}"),
            }
        }
    }

    /// A host is told of free blocks, in orders that change.
    fn reporter(&self, rng: &mut Rng) {
        if rng.below(10) == 0 {
            assert!(self.mm.set_report_order(Order(5 + rng.below(6) as u8)));
        }
        match self.mm.report_now() {
            Ok(0) => {}
            Ok(_) => self.count("reports"),
            Err(NoPass::Busy | NoPass::Off | NoPass::NoDevice) => {}
        }
        match rng.below(30) {
            0 => {
                self.mm.report_unregister();
                self.mm.report_register(self.host, None).expect("there is none");
            }
            more => {
                self.mm.set_reporting(more > 1);
            }
        }
    }

    /// A balloon that follows a target.
    fn lender(&self, rng: &mut Rng, target: &mut u64) {
        if rng.below(20) == 0 {
            *target = rng.below(MIB << 8 >> 2);
        }
        self.balloon.toward(self.mm, *target).expect("an honest host");
        self.count("balloon");
    }

    /// Frames go bad, and some get well.
    fn breaker(&self, rng: &mut Rng) {
        let mut bad = self.bad.lock().expect("ours");
        if bad.len() >= MOST_BAD || rng.below(4) == 0 && !bad.is_empty() {
            let at = rng.below(bad.len() as u64) as usize;
            let pfn = *bad.iter().nth(at).expect("so many");
            self.mm.unpoison_page(pfn).expect("it was bad");
            bad.remove(&pfn);
            return;
        }
        let pfn = Pfn(rng.below(self.mm.map().end().0));
        match self.mm.poison_page(pfn) {
            Ok(_) => {
                assert!(bad.insert(pfn));
                self.count("bad frames");
            }
            Err(PoisonError::Already) => assert!(bad.contains(&pfn), "{pfn:?} was not bad"),
            Err(PoisonError::NotRam | PoisonError::Busy | PoisonError::NotPoisoned) => {}
        }
    }

    /// Contiguous memory: of the area, and of anywhere.
    fn taker(&self, rng: &mut Rng) {
        let pages = 1 + rng.below(700);
        if rng.below(2) == 0 {
            let Ok(range) = self.mm.cma_alloc(CmaId::DEFAULT, pages, Order(0), GFP) else { return };
            self.fill(range);
            self.mm.cma_release(CmaId::DEFAULT, range).expect("a held range");
            self.count("of the area");
        } else {
            let from = Pfn(rng.below(self.mm.map().end().0));
            let got = self.mm.alloc_contig_pages(pages, Order(0), None, from, GFP);
            let Ok(range) = got else { return };
            self.fill(range);
            let (low, high) = (range.start.add(rng.below(pages)), range.end);
            for part in [PfnRange::new(range.start, low), PfnRange::new(low, high)] {
                if !part.is_empty() {
                    self.mm.free_contig_range(part).expect("a held range");
                }
            }
            self.count("ranges");
        }
    }

    /// Writes to a range and looks whether it is there.
    fn fill(&self, range: PfnRange) {
        for pfn in frames(range) {
            // SAFETY: the range is this thread's.
            unsafe { word(self.mm, pfn).write(pfn.0) };
        }
        for pfn in frames(range) {
            // SAFETY: as above.
            assert_eq!(unsafe { word(self.mm, pfn).read() }, pfn.0, "touched by another");
        }
    }

    /// All at once, until each has done what it does in a round.
    fn round(&self, seed: u64) {
        let part = |cpu: u16, run: &dyn Fn(&mut Rng)| {
            self.mm.platform().run_on(CpuId(cpu));
            run(&mut Rng::new(seed * 16 + u64::from(cpu)));
        };
        let times = |steps: u64, rng: &mut Rng, step: &mut dyn FnMut(&mut Rng)| {
            (0..steps).for_each(|_| step(rng));
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                part(0, &|rng| {
                    let mut held = Vec::new();
                    times(20 * STEPS, rng, &mut |rng| self.user(rng, &mut held));
                    while !held.is_empty() {
                        self.user(rng, &mut held);
                    }
                });
            });
            scope.spawn(|| {
                part(1, &|rng| {
                    let mut held = Vec::new();
                    times(STEPS, rng, &mut |rng| self.mover(rng, &mut held));
                    for (handle, _) in held {
                        self.arena.free(self.mm, handle).expect("live");
                    }
                });
            });
            scope.spawn(|| part(2, &|rng| times(STEPS / 4, rng, &mut |rng| self.goer(rng))));
            scope.spawn(|| part(3, &|rng| times(STEPS / 2, rng, &mut |rng| self.reporter(rng))));
            scope.spawn(|| {
                part(4, &|rng| {
                    let mut target = 1000;
                    times(STEPS, rng, &mut |rng| self.lender(rng, &mut target));
                });
            });
            scope.spawn(|| part(5, &|rng| times(STEPS / 2, rng, &mut |rng| self.breaker(rng))));
            scope.spawn(|| part(6, &|rng| times(STEPS, rng, &mut |rng| self.taker(rng))));
        });
    }

    /// Nobody is at anything: all is as it is counted.
    fn check(&self, at: &str) {
        let audit = self.mm.audit().unwrap_or_else(|why| panic!("{at}: {why}"));
        assert_eq!((audit.out, audit.balloon), (0, self.balloon.size()), "{at}");
        assert_eq!(self.host.lent.lock().expect("ours").len() as u64, audit.balloon, "{at}");
        assert_eq!(self.mm.bad_pages(), self.bad.lock().expect("ours").len() as u64, "{at}");
        for (level, line) in self.mm.platform().take_log() {
            assert!(level > LogLevel::Error || line.starts_with("Memory failure"), "{at}: {line}");
        }
    }

    /// Undoes all there is to undo.
    fn settle(&self) {
        self.mm.platform().run_on(CpuId(0));
        self.mm.report_unregister();
        while self.balloon.size() > 0 {
            self.balloon.deflate(self.mm, u64::MAX).expect("an honest host");
        }
        for pfn in std::mem::take(&mut *self.bad.lock().expect("ours")) {
            self.mm.unpoison_page(pfn).expect("it was bad");
        }
        for block in std::mem::take(&mut *self.gone.lock().expect("ours")) {
            match self.mm.online(PfnRange::sized(block, PAGEBLOCK_PAGES), OnlineType::Auto) {
                Ok(_) | Err(HotplugError::Already) => {}
                Err(why) => panic!("{block:?}: {why}"),
            }
        }
        self.arena.release_tables(self.mm).expect("an empty arena");
        self.mm.drain_all(None);
    }
}

#[test]
fn everything_that_gives_memory_back_at_once() {
    let (seed, rounds) = (number("QUARRY_SEED", 1), number("QUARRY_ROUNDS", 4));
    println!("QUARRY_SEED={seed}");
    let storm = Storm::new();
    let (free, managed) = (storm.mm.free_pages_total(), storm.mm.managed_pages());
    storm
        .balloon
        .attach(storm.mm, storm.host, Terms { deflate_on_oom: seed % 2 == 0 })
        .expect("a free balloon");
    for round in 0..rounds {
        storm.mm.report_register(storm.host, None).expect("there is none");
        storm.round(seed.wrapping_add(round));
        storm.mm.report_unregister();
        storm.check(&format!("round {round}"));
    }
    storm.settle();
    storm.check("at the end");
    assert_eq!(storm.mm.managed_pages(), managed, "pages managed");
    assert_eq!(storm.mm.free_pages_total(), free, "pages free");
    let done = storm.done.lock().expect("ours");
    println!("{done:?}");
    for what in ["blocks", "offline", "online", "reports", "bad frames", "of the area", "ranges"] {
        assert!(done.get(what).is_some_and(|&times| times > 0), "{what} never came about");
    }
}
