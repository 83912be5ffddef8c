//! Movable pages and the arena: moved under their clients, freed in the middle.
#![cfg(feature = "host")]

use mm::arena::{Handle, MovableArena, StaleHandle};
use mm::host::{Machine, pc};
use mm::list::PageList;
use mm::migrate::{MigrateError, MigrateMode, MovableOps};
use mm::page::PageType;
use mm::types::{Order, Pfn, PfnRange};
use mm::{Config, Gfp, Mm, Request};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// RAM of the machines here, in MiB: little where each access is interpreted.
const MIB: u64 = if cfg!(miri) { 2 } else { 32 };

fn setup() -> (Mm<Machine>, &'static MovableArena<Machine>) {
    setup_of(MIB)
}

fn setup_of(mib: u64) -> (Mm<Machine>, &'static MovableArena<Machine>) {
    let mm = pc(mib, 1, &Config::default()).expect("a machine");
    let arena: &'static MovableArena<Machine> = Box::leak(Box::default());
    arena.register(&mm).expect("room for a driver");
    (mm, arena)
}

fn stamp(mm: &Mm<Machine>, arena: &MovableArena<Machine>, h: Handle, n: u64) {
    arena.with(mm, h, |bytes| bytes[..8].copy_from_slice(&n.to_le_bytes())).expect("live");
}

fn stamp_of(mm: &Mm<Machine>, arena: &MovableArena<Machine>, h: Handle) -> u64 {
    arena.with(mm, h, |b| u64::from_le_bytes(b[..8].try_into().expect("8"))).expect("live")
}

/// Moves what is on the list to fresh pages; returns (moved, failed).
fn migrate(mm: &Mm<Machine>, list: &mut PageList) -> (u32, u32) {
    let mut target =
        || mm.alloc_pages(Request::new(Order(0), Gfp::HIGHUSER_MOVABLE)).ok().map(|p| p.pfn);
    let mut unused = |pfn| {
        mm.free_pages(mm::Page { pfn, order: Order(0) }).expect("an unused target");
    };
    let result = mm.migrate_pages(list, &mut target, &mut unused, MigrateMode::Sync);
    (result.moved, result.failed)
}

fn isolate(mm: &Mm<Machine>, list: &mut PageList, pfn: Pfn) -> bool {
    let ok = mm.isolate_movable(pfn, MigrateMode::Sync).is_ok();
    if ok {
        list.push_back(mm.map(), pfn);
    }
    ok
}

#[test]
fn pages_move_under_their_handles() {
    let (mm, arena) = setup();
    let free = mm.free_pages_total();
    let handles: Vec<_> =
        (0..100).map(|_| arena.alloc(&mm, Gfp::HIGHUSER_MOVABLE).expect("a page")).collect();
    let mut list = PageList::new();
    let mut old = Vec::new();
    for (i, &h) in handles.iter().enumerate() {
        stamp(&mm, arena, h, i as u64);
        old.push(arena.frame(&mm, h).expect("live"));
        assert!(isolate(&mm, &mut list, old[i]));
    }
    assert!(!isolate(&mm, &mut list, old[0]), "an isolated page is refused");
    assert_eq!(migrate(&mm, &mut list), (100, 0));
    mm.audit().expect("whole");
    for (i, &h) in handles.iter().enumerate() {
        assert_ne!(arena.frame(&mm, h).expect("live"), old[i]);
        assert_eq!(stamp_of(&mm, arena, h), i as u64);
        arena.free(&mm, h).expect("live");
        assert_eq!(arena.free(&mm, h), Err(StaleHandle));
    }
    arena.release_tables(&mm).expect("empty");
    mm.drain_all(None);
    assert_eq!(mm.free_pages_total(), free);
    mm.audit().expect("whole");
}

#[test]
fn putback_leaves_everything_as_it_was() {
    let (mm, arena) = setup();
    let h = arena.alloc(&mm, Gfp::HIGHUSER_MOVABLE).expect("a page");
    let pfn = arena.frame(&mm, h).expect("live");
    for _ in 0..3 {
        let mut list = PageList::new();
        assert!(isolate(&mm, &mut list, pfn));
        mm.putback_list(&mut list);
        assert_eq!(mm.map().try_page(pfn).expect("present").count(), 1);
    }
    arena.free(&mm, h).expect("live");
    mm.audit().expect("whole");
}

#[test]
fn a_page_freed_while_isolated_counts_as_moved() {
    let (mm, arena) = setup();
    for put_back in [false, true] {
        let free = mm.free_pages_total() + mm.zones().iter().map(|z| mm.pcp_pages(z)).sum::<u64>();
        let h = arena.alloc(&mm, Gfp::HIGHUSER_MOVABLE).expect("a page");
        let pfn = arena.frame(&mm, h).expect("live");
        let mut list = PageList::new();
        assert!(isolate(&mm, &mut list, pfn));
        arena.free(&mm, h).expect("live");
        assert_eq!(mm.map().try_page(pfn).expect("present").head().ty(), PageType::Movable);
        if put_back {
            mm.putback_list(&mut list);
        } else {
            assert_eq!(migrate(&mm, &mut list), (1, 0));
        }
        arena.release_tables(&mm).expect("empty");
        let now = mm.free_pages_total() + mm.zones().iter().map(|z| mm.pcp_pages(z)).sum::<u64>();
        assert_eq!(now, free);
        mm.audit().expect("whole");
    }
}

#[test]
fn handles_stay_stale_without_their_tables() {
    let (mm, arena) = setup();
    let mut old = Vec::new();
    for round in 0..3 {
        let h = arena.alloc(&mm, Gfp::HIGHUSER_MOVABLE).expect("a page");
        for &stale in &old {
            assert_eq!(arena.frame(&mm, stale), Err(StaleHandle), "round {round}");
        }
        arena.free(&mm, h).expect("live");
        old.push(h);
        assert_eq!(arena.table_pages(), 2);
        arena.release_tables(&mm).expect("empty");
        assert_eq!(arena.table_pages(), 0);
    }
    mm.audit().expect("whole");
}

#[test]
fn pinned_pages_stay() {
    let (mm, arena) = setup();
    let h = arena.alloc(&mm, Gfp::HIGHUSER_MOVABLE).expect("a page");
    let pfn = arena.pin(&mm, h).expect("live");
    assert!(!isolate(&mm, &mut PageList::new(), pfn));
    arena.unpin(&mm, h).expect("pinned");
    assert_eq!(arena.unpin(&mm, h), Err(StaleHandle));
    let mut list = PageList::new();
    assert!(isolate(&mm, &mut list, pfn));
    // Pinned after isolation: it stays as well, and comes back.
    arena.pin(&mm, h).expect("live");
    assert_eq!(migrate(&mm, &mut list), (0, 1));
    mm.putback_list(&mut list);
    assert_eq!(arena.frame(&mm, h), Ok(pfn));
    arena.unpin(&mm, h).expect("pinned");
    arena.free(&mm, h).expect("live");
    mm.audit().expect("whole");
}

#[test]
fn foreign_pages_are_not_isolated() {
    let (mm, _) = setup();
    let page = mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("a page");
    for pfn in [page.pfn, Pfn(0), Pfn(0xb0), Pfn(1 << 30), Pfn(4000)] {
        assert!(mm.isolate_movable(pfn, MigrateMode::Sync).is_err(), "{pfn:?}");
    }
}

/// A driver whose isolation lets go of the page: between the reference that the
/// core takes and the one it puts, the driver frees the page.
struct LetsGo(AtomicU32);

impl MovableOps<Machine> for LetsGo {
    fn isolate(&self, mm: &Mm<Machine>, page: Pfn, _: MigrateMode) -> bool {
        self.0.fetch_add(1, Relaxed);
        mm.release_movable(page);
        false
    }
    fn migrate(&self, _: &Mm<Machine>, _: Pfn, _: Pfn, _: MigrateMode) -> Result<(), MigrateError> {
        Err(MigrateError::Busy)
    }
    fn putback(&self, _: &Mm<Machine>, _: Pfn) {}
}

#[test]
fn the_put_after_a_failed_isolate_may_be_the_last() {
    let mm = pc(MIB, 1, &Config::default()).expect("a machine");
    let driver: &'static LetsGo = Box::leak(Box::new(LetsGo(AtomicU32::new(0))));
    let owner = mm.register_movable(driver).expect("room");
    let free = mm.free_pages_total();
    let page = mm.alloc_pages(Request::new(Order(0), Gfp::HIGHUSER_MOVABLE)).expect("a page");
    mm.make_movable(page, owner, 7, 9).expect("ours");
    assert!(mm.make_movable(page, owner, 7, 9).is_err(), "only once");
    assert!(mm.free_pages(page).is_err(), "a movable page is given back by its driver");
    assert!(mm.isolate_movable(page.pfn, MigrateMode::Async).is_err());
    assert_eq!(driver.0.load(Relaxed), 1);
    mm.drain_all(None);
    assert_eq!(mm.free_pages_total(), free);
    mm.audit().expect("whole");
}

/// Larger blocks stay where compaction meets them, and make way for contiguous
/// memory as they are.
#[test]
fn larger_blocks_move_as_a_whole() {
    let (mm, arena) = setup();
    if cfg!(miri) {
        return;
    }
    let free = mm.free_pages_total();
    for order in [1, 4, 9, 10] {
        let request = Request::new(Order(order), Gfp::HIGHUSER_MOVABLE);
        let h = arena.alloc_block(&mm, request).expect("a block");
        let pages = request.order.pages();
        let was = arena.frame(&mm, h).expect("live");
        for i in 0..pages {
            arena
                .with_page(&mm, h, i, |bytes| bytes[..8].copy_from_slice(&(i + 7).to_le_bytes()))
                .expect("in the block");
        }
        assert_eq!(arena.with_page(&mm, h, pages, |_| ()), Err(StaleHandle));
        mm.compact_memory(None);
        assert_eq!(arena.frame(&mm, h), Ok(was), "compaction leaves it");
        mm.audit().expect("whole");
        // Its second half is enough.
        let range = PfnRange::sized(was.add(pages / 2), pages / 2);
        let range = mm.alloc_contig_range(range, Gfp::KERNEL).expect("a range");
        let is = arena.frame(&mm, h).expect("live");
        assert!(PfnRange::sized(is, pages).intersect(range).is_empty());
        assert!(is.is_aligned(request.order));
        mm.audit().expect("whole");
        for i in 0..pages {
            let read = |b: &mut [u8; 4096]| u64::from_le_bytes(b[..8].try_into().expect("8"));
            assert_eq!(arena.with_page(&mm, h, i, read), Ok(i + 7));
        }
        mm.free_contig_range(range).expect("allocated");
        arena.free(&mm, h).expect("live");
        arena.release_tables(&mm).expect("empty");
        mm.drain_all(None);
        assert_eq!(mm.free_pages_total(), free);
        mm.audit().expect("whole");
    }
}

#[test]
fn tables_are_trimmed_from_their_end() {
    let (mm, arena) = setup();
    let free = mm.free_pages_total();
    let count = if cfg!(miri) { 20 } else { 1500 };
    let mut handles: Vec<_> =
        (0..count).map(|_| arena.alloc(&mm, Gfp::HIGHUSER_MOVABLE).expect("a page")).collect();
    let tables = arena.table_pages();
    let keep = handles.split_off(count - 2);
    let stale = handles[0];
    handles.into_iter().for_each(|h| arena.free(&mm, h).expect("live"));
    arena.trim_tables(&mm);
    assert_eq!(arena.table_pages(), tables, "the last slots are in use");
    let first = arena.alloc(&mm, Gfp::HIGHUSER_MOVABLE).expect("a page");
    keep.into_iter().for_each(|h| arena.free(&mm, h).expect("live"));
    arena.trim_tables(&mm);
    assert!(arena.frame(&mm, first).is_ok() && arena.table_pages() <= tables);
    let more: Vec<_> =
        (0..count).map(|_| arena.alloc(&mm, Gfp::HIGHUSER_MOVABLE).expect("a page")).collect();
    assert_eq!(arena.frame(&mm, stale), Err(StaleHandle));
    more.into_iter().for_each(|h| arena.free(&mm, h).expect("live"));
    arena.free(&mm, first).expect("live");
    arena.trim_tables(&mm);
    assert_eq!(arena.table_pages(), 0);
    assert_eq!(arena.frame(&mm, stale), Err(StaleHandle));
    mm.drain_all(None);
    assert_eq!(mm.free_pages_total(), free);
    mm.audit().expect("whole");
}

#[test]
fn a_bad_page_that_moves_is_told_of_once() {
    // A page that goes bad moves to another pageblock.
    let (mm, arena) = setup_of(8);
    let of = |frame: Pfn| {
        let lines = mm.platform().take_log().into_iter().map(|(_, line)| line);
        let start = format!("Memory failure: {frame}: ");
        lines.filter_map(|line| Some(line.strip_prefix(&start)?.to_owned())).collect::<Vec<_>>()
    };
    let handle = arena.alloc(&mm, Gfp::KERNEL | Gfp::MOVABLE).expect("a page");
    stamp(&mm, arena, handle, 7);
    let moved = arena.frame(&mm, handle).expect("live");
    mm.poison_page(moved).expect("it can be moved");
    let told = of(moved);
    assert!(matches!(&told[..], [line] if line.ends_with("Recovered")), "{told:?}");
    assert_eq!(stamp_of(&mm, arena, handle), 7);
    // What is freed some time later is another event.
    let page = mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("a page");
    mm.poison_page(page.pfn).expect("noted");
    assert_eq!(of(page.pfn).len(), 1);
    mm.free_pages(page).expect("allocated");
    assert_eq!(of(page.pfn), ["recovery action for freed page: Recovered"]);
    mm.audit().expect("whole");
}
