//! The balloon: lent, wanted back, moved, against hosts that are honest, fail or
//! cannot be shut off; and what becomes of requests when memory is out.
#![cfg(feature = "host")]

use mm::arena::MovableArena;
use mm::balloon::{AttachError, BATCH, Balloon, BalloonHost, HostFailed, Step, Terms};
use mm::cma::{CmaId, CmaRequest};
use mm::host::{Machine, pc};
use mm::list::PageList;
use mm::migrate::MigrateMode;
use mm::oom::OomNotifier;
use mm::page::PageType;
use mm::platform::Platform;
use mm::proc::KPageFlags;
use mm::stats::Event;
use mm::types::{CpuId, Order, PAGE_SIZE, Pfn, PfnRange};
use mm::{Config, Gfp, Mm, Page, Request};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Barrier, Mutex};

/// RAM of the machines here, in MiB: little where each access is interpreted.
const MIB: u64 = if cfg!(miri) { 4 } else { 32 };
const LENIENT: Terms = Terms { deflate_on_oom: true };
const STRICT: Terms = Terms { deflate_on_oom: false };

type Guest = Mm<Machine>;

/// A host that knows what it has, writes its own into it, and looks whether that
/// is still there when it gives it back.
struct Host {
    mm: &'static Guest,
    has: Mutex<BTreeSet<Pfn>>,
    calls: AtomicU64,
    /// The call after which nothing is as it was.
    fails_at: AtomicU64,
    why: Mutex<HostFailed>,
    inside: AtomicBool,
}

/// What the host keeps in a page.
fn mark_of(pfn: Pfn) -> u64 {
    pfn.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

impl Host {
    fn new(mm: &'static Guest) -> &'static Self {
        Box::leak(Box::new(Self {
            mm,
            has: Mutex::default(),
            calls: AtomicU64::new(0),
            fails_at: AtomicU64::new(u64::MAX),
            why: Mutex::new(HostFailed::Gone),
            inside: AtomicBool::new(false),
        }))
    }

    fn fail_next(&self, calls: u64, why: HostFailed) {
        *self.why.lock().expect("ours") = why;
        self.fails_at.store(self.calls.load(Relaxed) + calls, Relaxed);
    }

    fn word(&self, pfn: Pfn) -> *mut u64 {
        self.mm.platform().frame(pfn).cast()
    }

    fn pages(&self) -> BTreeSet<Pfn> {
        self.has.lock().expect("ours").clone()
    }

    fn call(
        &self,
        pages: &[Pfn],
        what: impl Fn(&mut BTreeSet<Pfn>, Pfn),
    ) -> Result<(), HostFailed> {
        assert!(!self.inside.swap(true, Relaxed), "one at a time");
        assert!((1..=BATCH).contains(&pages.len()), "{} pages", pages.len());
        let call = self.calls.fetch_add(1, Relaxed);
        let fails = call >= self.fails_at.load(Relaxed);
        assert!(call <= self.fails_at.load(Relaxed), "called after it had failed");
        let mut has = self.has.lock().expect("ours");
        let why = *self.why.lock().expect("ours");
        if fails && why == HostFailed::Gone {
            has.clear();
        } else {
            pages.iter().for_each(|&pfn| what(&mut has, pfn));
        }
        self.inside.store(false, Relaxed);
        if fails { Err(why) } else { Ok(()) }
    }
}

impl BalloonHost for Host {
    fn inflate(&self, pages: &[Pfn]) -> Result<(), HostFailed> {
        self.call(pages, |has, pfn| {
            assert!(has.insert(pfn), "{pfn:?} lent twice");
            // SAFETY: the page has just been lent; nobody else is to touch it.
            unsafe { self.word(pfn).write(mark_of(pfn)) };
        })
    }

    fn deflate(&self, pages: &[Pfn]) -> Result<(), HostFailed> {
        self.call(pages, |has, pfn| {
            assert!(has.remove(&pfn), "{pfn:?} was not lent");
            // SAFETY: as above: it is still lent.
            assert_eq!(unsafe { self.word(pfn).read() }, mark_of(pfn), "{pfn:?} was touched");
        })
    }
}

struct Setup {
    mm: &'static Guest,
    balloon: &'static Balloon<Machine>,
    host: &'static Host,
}

fn setup_on(mib: u64, cpus: u16, terms: Terms, config: &Config) -> Setup {
    let mm: &'static Guest = Box::leak(Box::new(pc(mib, cpus, config).expect("a machine")));
    let balloon: &'static Balloon<Machine> = Box::leak(Box::default());
    let host = Host::new(mm);
    balloon.attach(mm, host, terms).expect("a free balloon");
    Setup { mm, balloon, host }
}

fn setup(terms: Terms) -> Setup {
    setup_on(MIB, 1, terms, &Config::default())
}

impl Setup {
    /// As near to `target` as it gets without time going by.
    fn go(&self, target: u64) -> Step {
        loop {
            match self.balloon.toward(self.mm, target).expect("an honest host") {
                Step::More => {}
                end => return end,
            }
        }
    }

    fn free(&self) -> u64 {
        self.mm.drain_all(None);
        self.mm.free_pages_total()
    }

    /// Nothing contradicts anything, and the host has what the guest says.
    #[track_caller]
    fn check(&self) {
        let audit = self.mm.audit().expect("whole");
        assert_eq!(audit.balloon, self.balloon.size());
        let has = self.host.pages();
        assert_eq!(has.len() as u64, self.balloon.size());
        for &pfn in &has {
            let head = self.mm.map().try_page(pfn).expect("RAM").head();
            assert_eq!(head.ty(), PageType::Movable, "{pfn:?}");
            let flags = self.mm.kpageflags(pfn);
            assert_eq!(flags, KPageFlags::MOVABLE_OPS | KPageFlags::OFFLINE, "{pfn:?}");
        }
    }

    fn event(&self, event: Event) -> u64 {
        self.mm.stats().get(event)
    }
}

#[test]
fn there_and_back_nothing_is_lost() {
    for terms in [LENIENT, STRICT] {
        let s = setup(terms);
        let (free, managed) = (s.free(), s.mm.managed_pages());
        let target = free / 2;
        for round in 1..=3 {
            assert_eq!(s.go(target), Step::Done);
            assert_eq!(s.balloon.size(), target);
            assert_eq!(s.free(), free - target);
            let gone = if terms.deflate_on_oom { 0 } else { target };
            assert_eq!(s.mm.managed_pages(), managed - gone);
            s.check();
            assert_eq!(s.go(0), Step::Done);
            assert_eq!((s.free(), s.mm.managed_pages()), (free, managed));
            s.check();
            assert_eq!(s.event(Event::BalloonInflate), round * target);
            assert_eq!(s.event(Event::BalloonDeflate), round * target);
        }
    }
}

/// A host that wants all there is gets what can be spared, and the guest goes on.
#[test]
fn it_stops_where_the_guest_needs_its_memory() {
    let s = setup(STRICT);
    let free = s.free();
    for target in [free, u64::MAX, u64::from(u32::MAX)] {
        assert_eq!(s.go(target), Step::Wait);
        assert!(s.balloon.size() > free / 2, "most of it");
        s.check();
        for zone in s.mm.zones().iter().filter(|z| z.managed() > 0) {
            assert!(zone.free_pages() >= zone.marks().min, "{}", zone.free_pages());
        }
        let page = s.mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("still one");
        s.mm.free_pages(page).expect("its own");
        // Flapping: half of it back, and all again.
        assert_eq!(s.go(free / 3), Step::Done);
        s.check();
    }
    s.go(0);
    assert_eq!(s.free(), free);
}

/// Requests that would fail get what the balloon has, and only then; and only
/// those for whom somebody could be killed.
#[test]
fn it_gives_way_when_memory_is_out() {
    for terms in [LENIENT, STRICT] {
        let s = setup(terms);
        let free = s.free();
        let target = free / 2;
        assert_eq!(s.go(target), Step::Done);
        let mut pages = Vec::new();
        let mut take = |gfp: Gfp| {
            let page = s.mm.alloc_pages(Request::new(Order(0), gfp | Gfp::NOWARN));
            page.map(|page| pages.push(page)).is_ok()
        };
        while take(Gfp::KERNEL | Gfp::RETRY_MAYFAIL) {}
        assert_eq!(s.balloon.size(), target, "not for those who may fail");
        while take(Gfp::NOWAIT) {}
        assert_eq!(s.balloon.size(), target, "not for those who cannot wait");
        let mut more = 0;
        while take(Gfp::KERNEL) {
            more += 1;
        }
        s.check();
        if terms.deflate_on_oom {
            assert_eq!(s.balloon.size(), 0);
            // Some of it refills what those who cannot wait have taken.
            assert!(more > target * 3 / 4, "{more} of {target}");
        } else {
            assert_eq!((s.balloon.size(), more), (target, 0));
        }
        for page in pages {
            s.mm.free_pages(page).expect("its own");
        }
        s.go(0);
        assert_eq!(s.free(), free);
        s.check();
    }
}

/// Larger blocks than the balloon has at once end in failure, not in a loop.
#[test]
fn it_cannot_help_everybody() {
    let s = setup(LENIENT);
    let target = s.free() / 2;
    s.go(target);
    let mut blocks = Vec::new();
    let gfp = Gfp::KERNEL | Gfp::NOWARN;
    while let Ok(page) = s.mm.alloc_pages(Request::new(Order(3), gfp)) {
        blocks.push(page);
    }
    assert_eq!(s.balloon.size(), 0);
    for page in blocks {
        s.mm.free_pages(page).expect("its own");
    }
    s.check();
}

fn isolate(s: &Setup, list: &mut PageList, pfn: Pfn) -> bool {
    let ok = s.mm.isolate_movable(pfn, MigrateMode::Sync).is_ok();
    if ok {
        list.push_back(s.mm.map(), pfn);
    }
    ok
}

fn migrate(s: &Setup, list: &mut PageList) -> (u32, u32) {
    let mut target =
        || s.mm.alloc_pages(Request::new(Order(0), Gfp::HIGHUSER_MOVABLE)).ok().map(|p| p.pfn);
    let mut unused = |pfn| s.mm.free_pages(Page { pfn, order: Order(0) }).expect("unused");
    let moved = s.mm.migrate_pages(list, &mut target, &mut unused, MigrateMode::Sync);
    (moved.moved, moved.failed)
}

#[test]
fn pages_move_by_exchange() {
    for terms in [LENIENT, STRICT] {
        let s = setup(terms);
        let free = s.free();
        s.go(300);
        let before = s.host.pages();
        let mut list = PageList::new();
        for &pfn in before.iter().take(100) {
            assert!(isolate(&s, &mut list, pfn));
            assert!(s.mm.isolate_movable(pfn, MigrateMode::Sync).is_err(), "only once");
        }
        assert_eq!(s.balloon.isolated(s.mm), 100);
        // What is isolated cannot be given back now, all else can.
        assert_eq!(s.balloon.deflate(s.mm, 250), Ok(200));
        assert_eq!(s.balloon.toward(s.mm, 0), Ok(Step::Wait));
        assert_eq!(migrate(&s, &mut list), (100, 0));
        assert_eq!(s.event(Event::BalloonMigrate), 100);
        let after = s.host.pages();
        assert_eq!(after.len(), 100);
        assert!(before.iter().take(100).all(|pfn| !after.contains(pfn)), "all have moved");
        s.check();
        // And those that are put back are where they were.
        let mut list = PageList::new();
        assert!(after.iter().all(|&pfn| isolate(&s, &mut list, pfn)));
        s.mm.putback_list(&mut list);
        assert_eq!(s.balloon.isolated(s.mm), 0);
        assert_eq!(s.host.pages(), after);
        s.check();
        assert_eq!(s.go(0), Step::Done);
        assert_eq!(s.free(), free);
        s.check();
    }
}

/// Pages that go to another zone take what they count with them.
#[test]
fn pages_move_between_zones() {
    if cfg!(miri) {
        return;
    }
    let config =
        Config { movable_start: [Pfn(32 << 8); mm::types::MAX_NODES], ..Config::default() };
    let s = setup_on(48, 1, STRICT, &config);
    let free = s.free();
    let managed: Vec<_> = s.mm.zones().iter().map(mm::zone::Zone::managed).collect();
    s.go(2000);
    s.check();
    let mut list = PageList::new();
    for &pfn in s.host.pages().iter().take(500) {
        isolate(&s, &mut list, pfn);
    }
    let mut target =
        || s.mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL | Gfp::DMA)).ok().map(|p| p.pfn);
    let mut unused = |pfn| s.mm.free_pages(Page { pfn, order: Order(0) }).expect("unused");
    let moved = s.mm.migrate_pages(&mut list, &mut target, &mut unused, MigrateMode::Sync);
    assert_eq!((moved.moved, moved.failed), (500, 0));
    s.check();
    s.go(0);
    s.check();
    let now: Vec<_> = s.mm.zones().iter().map(mm::zone::Zone::managed).collect();
    assert_eq!((s.free(), now), (free, managed));
}

/// A quick attempt at a large block, which waits for nobody, moves them too;
/// who must not even wait for the host leaves them where they are.
#[test]
fn a_quick_compaction_moves_them() {
    if cfg!(miri) {
        return;
    }
    let s = setup(LENIENT);
    let free = s.free();
    // All of memory in single pages; the balloon gets every second one.
    let single = Request::new(Order(0), Gfp::HIGHUSER_MOVABLE | Gfp::NOWARN);
    let mut pages: Vec<Page> = std::iter::from_fn(|| s.mm.alloc_pages(single).ok()).collect();
    pages.sort_by_key(|page| page.pfn);
    let (ours, balloons): (Vec<_>, Vec<_>) = pages.into_iter().partition(|p| p.pfn.0 % 2 == 0);
    balloons.into_iter().for_each(|page| s.mm.free_pages(page).expect("its own"));
    s.go(free / 3);
    ours.into_iter().for_each(|page| s.mm.free_pages(page).expect("its own"));
    let (size, moved) = (s.balloon.size(), s.event(Event::BalloonMigrate));
    assert!(size > free / 4, "{size} of {free}");
    s.check();
    // What there is of large blocks without its doing is not to be had any more.
    let order = Order(8);
    let at_once = Request::new(order, Gfp::NOWAIT | Gfp::NOWARN);
    let blocks: Vec<Page> = std::iter::from_fn(|| s.mm.alloc_pages(at_once).ok()).collect();
    assert_eq!(s.event(Event::BalloonMigrate), moved);

    let pfn = s.host.pages().first().copied().expect("it has some");
    assert!(s.mm.isolate_movable(pfn, MigrateMode::Atomic).is_err());
    let quick = Gfp::HIGHUSER_MOVABLE | Gfp::NORETRY | Gfp::NOWARN;
    let block = s.mm.alloc_pages(Request::new(order, quick)).expect("it makes one");
    assert!(s.event(Event::BalloonMigrate) > moved);
    assert_eq!(s.balloon.size(), size);
    s.check();
    for page in blocks.into_iter().chain([block]) {
        s.mm.free_pages(page).expect("its own");
    }
    s.go(0);
    assert_eq!(s.free(), free);
    s.check();
}

/// Contiguous memory and a CMA area come out from under a balloon.
#[test]
fn contiguous_memory_comes_from_under_it() {
    if cfg!(miri) {
        return;
    }
    let mut config = Config::default();
    config.cma[0] =
        Some(CmaRequest { size: 8 << 20, base: None, end: None, order_per_bit: Order(0) });
    let s = setup_on(64, 1, LENIENT, &config);
    let free = s.free();
    // Where others have most of the rest, it grows into the area.
    let take = |_| s.mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("a page");
    let others: Vec<Page> = (0..free / 2).map(take).collect();
    s.go(free / 3);
    others.into_iter().for_each(|page| s.mm.free_pages(page).expect("its own"));
    let area = s.mm.cma_area(CmaId::DEFAULT).expect("there").range();
    let inside = |s: &Setup| s.host.pages().iter().filter(|&&pfn| area.contains(pfn)).count();
    assert!(inside(&s) > 0, "none in the area");
    let range = s.mm.cma_alloc(CmaId::DEFAULT, area.pages(), Order(0), Gfp::KERNEL).expect("all");
    assert_eq!(inside(&s), 0);
    assert!(s.event(Event::BalloonMigrate) > 0);
    s.check();
    s.mm.cma_release(CmaId::DEFAULT, range).expect("ours");
    s.go(0);
    assert_eq!(s.free(), free);
    s.check();
}

/// The host fails, in whatever call: with a device that is shut off the guest
/// has all its memory again.
#[test]
fn a_host_that_is_gone_leaves_everything() {
    for fails_at in 0..7 {
        let s = setup(if fails_at % 2 == 0 { STRICT } else { LENIENT });
        let (free, managed) = (s.free(), s.mm.managed_pages());
        s.host.fail_next(fails_at, HostFailed::Gone);
        let mut failed = Ok(Step::More);
        for target in [600, 300, 0, 200] {
            while failed == Ok(Step::More) {
                failed = s.balloon.toward(s.mm, target);
            }
            if failed == Ok(Step::Done) {
                failed = Ok(Step::More);
            }
        }
        assert_eq!(failed, Err(HostFailed::Gone), "at call {fails_at}");
        assert_eq!((s.balloon.size(), s.balloon.terms(s.mm)), (0, None));
        assert_eq!((s.free(), s.mm.managed_pages()), (free, managed));
        // Without a host it stays empty.
        assert_eq!(s.balloon.toward(s.mm, 100), Ok(Step::Wait));
        s.check();
        let next = Host::new(s.mm);
        s.balloon.attach(s.mm, next, LENIENT).expect("free again");
        assert_eq!(s.balloon.attach(s.mm, next, LENIENT), Err(AttachError::InUse));
        assert_eq!(s.balloon.toward(s.mm, 100), Ok(Step::Done));
        assert_eq!(next.pages().len(), 100);
        s.balloon.detach(s.mm);
        assert_eq!(s.free(), free);
    }
}

/// A host that cannot be shut off keeps what it has for good, but no more.
#[test]
fn a_host_that_is_lost_keeps_what_it_has() {
    for fails_at in 0..6 {
        let s = setup(if fails_at % 2 == 0 { STRICT } else { LENIENT });
        let free = s.free();
        s.host.fail_next(fails_at, HostFailed::Lost);
        let mut failed = Ok(Step::More);
        for target in [600, 300, 0, 200] {
            while failed == Ok(Step::More) {
                failed = s.balloon.toward(s.mm, target);
            }
            if failed == Ok(Step::Done) {
                failed = Ok(Step::More);
            }
        }
        assert_eq!(failed, Err(HostFailed::Lost), "at call {fails_at}");
        let size = s.balloon.size();
        assert!(s.host.pages().len() as u64 <= size);
        assert_eq!(s.free(), free - size);
        assert_eq!(s.mm.audit().expect("whole").balloon, size);
        // Nothing of it is ever moved, given back or asked for again.
        for pfn in s.host.pages() {
            assert!(s.mm.isolate_movable(pfn, MigrateMode::Sync).is_err());
        }
        s.balloon.detach(s.mm);
        assert_eq!(s.balloon.out_of_memory(s.mm), 0);
        assert_eq!(s.balloon.size(), size);
        if size > 0 {
            assert_eq!(s.balloon.attach(s.mm, s.host, LENIENT), Err(AttachError::InUse));
        }
        s.mm.audit().expect("whole");
    }
}

/// The host fails in the middle of an exchange of pages.
#[test]
fn a_host_that_fails_while_pages_move() {
    for (calls, why) in
        [0, 1, 2, 3].into_iter().flat_map(|n| [(n, HostFailed::Gone), (n, HostFailed::Lost)])
    {
        for terms in [LENIENT, STRICT] {
            let s = setup(terms);
            let (free, managed) = (s.free(), s.mm.managed_pages());
            s.go(100);
            let mut list = PageList::new();
            s.host.pages().iter().take(10).for_each(|&pfn| assert!(isolate(&s, &mut list, pfn)));
            s.host.fail_next(calls, why);
            let (moved, failed) = migrate(&s, &mut list);
            assert_eq!(moved + failed, 10);
            s.mm.putback_list(&mut list);
            let size = s.balloon.size();
            assert_eq!(s.balloon.isolated(s.mm), 0);
            assert_eq!(s.free(), free - size);
            assert_eq!(s.mm.audit().expect("whole").balloon, size);
            let has = s.host.pages();
            match why {
                HostFailed::Gone => {
                    assert_eq!((size, s.mm.managed_pages(), has.len()), (0, managed, 0));
                }
                // Of the exchange it failed in, it may have both.
                HostFailed::Lost => {
                    assert_eq!(size, 101);
                    let free = |&&pfn: &&Pfn| {
                        s.mm.map().try_page(pfn).is_some_and(|p| !p.head().ty().is_allocated())
                    };
                    assert_eq!(has.iter().filter(free).count(), 0, "nothing it has is free");
                }
            }
        }
    }
}

/// Taken away while some of its pages are isolated: these are free when they
/// are put back, or when they were to be moved.
#[test]
fn detached_while_pages_are_isolated() {
    for move_them in [false, true] {
        let s = setup(STRICT);
        let (free, managed) = (s.free(), s.mm.managed_pages());
        s.go(50);
        let mut list = PageList::new();
        s.host.pages().iter().take(10).for_each(|&pfn| assert!(isolate(&s, &mut list, pfn)));
        s.balloon.detach(s.mm);
        assert_eq!((s.balloon.size(), s.balloon.isolated(s.mm)), (10, 10));
        assert_eq!(s.balloon.attach(s.mm, s.host, STRICT), Err(AttachError::InUse));
        if move_them {
            assert_eq!(migrate(&s, &mut list), (0, 10));
        }
        s.mm.putback_list(&mut list);
        assert_eq!((s.balloon.size(), s.free()), (0, free));
        assert_eq!(s.mm.managed_pages(), managed);
        assert_eq!(s.mm.audit().expect("whole").balloon, 0);
    }
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Whatever is done in whatever order, the host has what the guest says, and
/// everybody else's content is theirs.
#[test]
fn random_operations() {
    for seed in 0..if cfg!(miri) { 1 } else { 12 } {
        println!("seed {seed}");
        let mut rng = Rng(seed);
        let terms = Terms { deflate_on_oom: seed % 2 == 0 };
        let mut config = Config::default();
        if !cfg!(miri) {
            config.cma[0] =
                Some(CmaRequest { size: 4 << 20, base: None, end: None, order_per_bit: Order(0) });
        }
        let s = setup_on(MIB, 2, terms, &config);
        let arena: &'static MovableArena<Machine> = Box::leak(Box::default());
        arena.register(s.mm).expect("room");
        let free = s.free();
        let mut handles = Vec::new();
        let mut pages = Vec::new();
        let mut list = PageList::new();
        for op in 0..if cfg!(miri) { 40 } else { 600 } {
            s.mm.platform().run_on(CpuId(rng.below(2) as u16));
            match rng.below(12) {
                0..=2 => {
                    let target = rng.below(free);
                    for _ in 0..rng.below(8) {
                        s.balloon.toward(s.mm, target).expect("honest");
                    }
                }
                3 => {
                    s.mm.compact_memory(None);
                }
                4 => {
                    let at = 0x100 + rng.below((MIB << 8) - 0x200);
                    let range =
                        PfnRange::sized(Pfn(at), 1 + rng.below(600).min((MIB << 8) - at - 1));
                    if let Ok(range) = s.mm.alloc_contig_range(range, Gfp::KERNEL | Gfp::NOWARN) {
                        s.mm.free_contig_range(range).expect("ours");
                    }
                }
                5 => {
                    let count = 1 + rng.below(900);
                    let gfp = Gfp::KERNEL | Gfp::NOWARN;
                    if let Ok(range) = s.mm.cma_alloc(CmaId::DEFAULT, count, Order(0), gfp) {
                        s.mm.cma_release(CmaId::DEFAULT, range).expect("ours");
                    }
                }
                6 => {
                    for pfn in s.host.pages() {
                        if rng.below(8) == 0 {
                            isolate(&s, &mut list, pfn);
                        }
                    }
                }
                7 => {
                    if rng.below(2) == 0 {
                        migrate(&s, &mut list);
                    }
                    s.mm.putback_list(&mut list);
                }
                8 | 9 => {
                    for _ in 0..rng.below(200) {
                        let gfp = Gfp::HIGHUSER_MOVABLE | Gfp::NOWARN;
                        let Ok(h) = arena.alloc(s.mm, gfp) else { break };
                        let n = rng.below(u64::MAX);
                        let write =
                            |b: &mut [u8; PAGE_SIZE]| b[..8].copy_from_slice(&n.to_le_bytes());
                        arena.with(s.mm, h, write).expect("live");
                        handles.push((h, n));
                    }
                }
                10 => {
                    let order = Order(rng.below(4) as u8);
                    for _ in 0..rng.below(100) {
                        pages.extend(
                            s.mm.alloc_pages(Request::new(order, Gfp::KERNEL | Gfp::NOWARN)),
                        );
                    }
                }
                _ => {
                    handles.retain(|&(h, n)| {
                        let keep = rng.below(3) > 0;
                        if !keep {
                            let read = |b: &mut [u8; PAGE_SIZE]| {
                                u64::from_le_bytes(b[..8].try_into().expect("8"))
                            };
                            assert_eq!(arena.with(s.mm, h, read), Ok(n), "a page lost its content");
                            arena.free(s.mm, h).expect("live");
                        }
                        keep
                    });
                    pages.retain(|&page| {
                        let keep = rng.below(2) > 0;
                        if !keep {
                            s.mm.free_pages(page).expect("its own");
                        }
                        keep
                    });
                }
            }
            if op % 16 == 15 {
                s.mm.putback_list(&mut list);
                s.check();
            }
        }
        s.mm.putback_list(&mut list);
        handles.into_iter().for_each(|(h, _)| arena.free(s.mm, h).expect("live"));
        pages.into_iter().for_each(|page| s.mm.free_pages(page).expect("its own"));
        arena.release_tables(s.mm).expect("empty");
        assert_eq!(s.go(0), Step::Done);
        assert_eq!(s.free(), free);
        s.check();
    }
}

/// Compaction, a CMA area and contiguous allocations of other CPUs move the
/// balloon's pages while it grows and shrinks.
#[test]
fn moved_while_it_grows_and_shrinks() {
    let mut config = Config::default();
    if !cfg!(miri) {
        config.cma[0] =
            Some(CmaRequest { size: 8 << 20, base: None, end: None, order_per_bit: Order(0) });
    }
    let s = setup_on(MIB, 4, LENIENT, &config);
    let free = s.free();
    let start = Barrier::new(4);
    let stop = AtomicBool::new(false);
    let rounds = if cfg!(miri) { 1 } else { 40 };
    std::thread::scope(|scope| {
        let (s, start, stop) = (&s, &start, &stop);
        for cpu in 1..4u16 {
            scope.spawn(move || {
                s.mm.platform().run_on(CpuId(cpu));
                let mut rng = Rng(u64::from(cpu));
                start.wait();
                while !stop.load(Relaxed) {
                    match cpu {
                        1 => drop(s.mm.compact_memory(None)),
                        2 => {
                            let count = 1 + rng.below(2000);
                            let gfp = Gfp::KERNEL | Gfp::NOWARN;
                            if let Ok(r) = s.mm.cma_alloc(CmaId::DEFAULT, count, Order(0), gfp) {
                                s.mm.cma_release(CmaId::DEFAULT, r).expect("ours");
                            }
                        }
                        _ => {
                            let at = 0x400 + rng.below((MIB << 8) - 0x800);
                            let range = PfnRange::sized(Pfn(at), 1 + rng.below(0x300));
                            if let Ok(r) = s.mm.alloc_contig_range(range, Gfp::KERNEL | Gfp::NOWARN)
                            {
                                s.mm.free_contig_range(r).expect("ours");
                            }
                        }
                    }
                }
            });
        }
        s.mm.platform().run_on(CpuId(0));
        start.wait();
        let mut rng = Rng(77);
        for _ in 0..rounds {
            let target = rng.below(free * 3 / 4);
            for _ in 0..8 {
                if s.balloon.toward(s.mm, target) == Ok(Step::Done) {
                    break;
                }
            }
            if rng.below(4) == 0 {
                s.balloon.out_of_memory(s.mm);
            }
        }
        // Until something has moved, whatever the threads' fortunes were.
        while s.event(Event::BalloonMigrate) == 0 && !cfg!(miri) {
            s.balloon.toward(s.mm, free / 2).expect("honest");
        }
        stop.store(true, Relaxed);
    });
    s.check();
    assert_eq!(s.go(0), Step::Done);
    assert_eq!(s.free(), free);
    s.check();
    let [inflated, deflated] = [Event::BalloonInflate, Event::BalloonDeflate].map(|e| s.event(e));
    assert_eq!(inflated, deflated);
}

/// A notifier that frees what it was given.
struct Giver {
    pages: Mutex<Vec<Page>>,
    asked: AtomicU64,
}

impl OomNotifier<Machine> for Giver {
    fn out_of_memory(&self, mm: &Guest) -> u64 {
        self.asked.fetch_add(1, Relaxed);
        let pages = core::mem::take(&mut *self.pages.lock().expect("ours"));
        let freed = pages.iter().map(|page| page.order.pages()).sum();
        pages.into_iter().for_each(|page| mm.free_pages(page).expect("its own"));
        freed
    }
}

#[test]
fn all_notifiers_are_asked_before_a_request_fails() {
    let mm = pc(MIB, 1, &Config::default()).expect("a machine");
    let givers: Vec<&'static Giver> = (0..16)
        .map(|_| &*Box::leak(Box::new(Giver { pages: Mutex::default(), asked: AtomicU64::new(0) })))
        .collect();
    for giver in &givers {
        mm.register_oom_notifier(*giver).expect("room for 16");
    }
    assert!(mm.register_oom_notifier(givers[0]).is_err(), "not for 17");
    let request = Request::new(Order(0), Gfp::KERNEL | Gfp::NOWARN);
    let mut pages: Vec<Page> = std::iter::from_fn(|| mm.alloc_pages(request).ok()).collect();
    assert!(givers.iter().all(|giver| giver.asked.load(Relaxed) == 1), "all were asked once");
    let given = pages.split_off(pages.len() - 300);
    givers[3].pages.lock().expect("ours").extend(given);
    let more: Vec<Page> = std::iter::from_fn(|| mm.alloc_pages(request).ok()).collect();
    assert!(!more.is_empty(), "there was more");
    pages.extend(more);
    pages.into_iter().for_each(|page| mm.free_pages(page).expect("its own"));
    mm.audit().expect("whole");
}
