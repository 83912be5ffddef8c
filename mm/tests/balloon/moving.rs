//! Lent pages that move: by exchange, and only then.

use crate::stand::{LENIENT, STRICT, Setup, isolate, migrate, setup, setup_on};
use mm::balloon::Step;
use mm::cma::{CmaId, CmaRequest};
use mm::list::PageList;
use mm::migrate::MigrateMode;
use mm::stats::Event;
use mm::types::{Order, Pfn};
use mm::{Config, Gfp, Page, Request};

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
