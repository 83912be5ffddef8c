//! A contiguous allocation pays for itself: it makes room before it takes, in its
//! own zone, and what lies in the range is dropped, written or moved as it needs
//! to be.

use super::disk::Disk;
use super::{CACHE, NODE, event};
use mm::arena::MovableArena;
use mm::cma::{CmaId, CmaRequest};
use mm::contig::ContigError;
use mm::host::{Machine, pc};
use mm::lru::LruList;
use mm::page::PageType;
use mm::platform::Worker;
use mm::types::{MigrateType, Order, PfnRange, ZoneKind};
use mm::zone::{Mark, Zone};
use mm::{Config, Gfp, Mm, Page, Request};
use std::sync::atomic::Ordering::Relaxed;

/// As drivers ask for buffers.
pub(super) const CMA: Gfp = Gfp::KERNEL.union(Gfp::RETRY_MAYFAIL).union(Gfp::NOWARN);

/// A machine with 64 MiB for contiguous allocations.
pub(super) fn machine(mib: u64) -> Mm<Machine> {
    let mut config = Config::default();
    let area = CmaRequest { size: 64 << 20, base: None, end: None, order_per_bit: Order(0) };
    config.cma[0] = Some(area);
    pc(mib, 2, &config).expect("a machine")
}

pub(super) fn file_pages(mm: &Mm<Machine>, zone: &Zone) -> u64 {
    mm.lru_pages(zone, LruList::ActiveFile) + mm.lru_pages(zone, LruList::InactiveFile)
}

pub(super) fn zones_keep_their_reserves(mm: &Mm<Machine>) {
    for zone in mm.zones().iter().filter(|zone| zone.managed() > 0) {
        let (free, min) = (zone.free_pages(), zone.mark(Mark::Min));
        assert!(free >= min, "{:?}: {free} of {min}", zone.kind);
    }
}

/// The first pages of a zone that many may be had of: nodes of caches' trees are
/// not among them.
pub(super) fn movable_range(mm: &Mm<Machine>, zone: &Zone, pages: u64) -> PfnRange {
    let mut range = PfnRange::sized(zone.span().start, 0);
    while range.pages() < pages {
        let block = range.end;
        let movable = (0..512).all(|i| {
            let word = mm.map().try_page(block.add(i)).expect("RAM").head();
            matches!(word.ty(), PageType::Lru | PageType::Buddy | PageType::Tail)
        });
        assert!(block.add(512) <= zone.span().end, "a zone without movable blocks");
        range.end = block.add(512);
        if !movable {
            range.start = range.end;
        }
    }
    range
}

/// Caches blocks until nothing is to be had without reclaim; every third one is
/// dirty if so asked. Returns how many.
fn fill_cache(mm: &Mm<Machine>, disk: &Disk, dirty: bool) -> u32 {
    fill_with(mm, disk, 0, dirty, CACHE)
}

/// As [`fill_cache`], from block `first` on and where `gfp` allows. Returns the first
/// block after them.
pub(super) fn fill_with(mm: &Mm<Machine>, disk: &Disk, first: u32, dirty: bool, gfp: Gfp) -> u32 {
    let gfp = (gfp - Gfp::DIRECT_RECLAIM) | Gfp::NOWARN;
    let mut block = first;
    loop {
        let done = match block % 3 {
            0 if dirty => disk.write(mm, block, u64::from(block) << 8, gfp),
            _ => disk.read(mm, block, gfp).map(drop),
        };
        if done.is_err() {
            break;
        }
        block += 1;
    }
    mm.lru_drain_all();
    mm.drain_all(None);
    // Of a whole batch for a per-CPU list the rest is below the mark.
    for old in (first..block).filter(|old| old % 3 != 0) {
        let frame = disk.frame_of(mm, old).expect("cached");
        let wanted = |zone: &Zone| zone.free_pages() < zone.mark(Mark::Min);
        if mm.zones().iter().any(|zone| zone.span().contains(frame) && wanted(zone)) {
            disk.forget(mm, old);
            mm.drain_all(None);
        }
    }
    zones_keep_their_reserves(mm);
    mm.platform().take_woken();
    block
}

#[cfg_attr(miri, ignore = "too large")]
#[test]
fn a_large_allocation_leaves_the_reserves_to_others() {
    let mm = machine(256);
    let disk = Disk::of(&mm);
    // Half of what is not for contiguous allocations alone is in use for good.
    let kernel = |_| mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("a page");
    let held: Vec<Page> = (0..(mm.managed_pages() - (64 << 8)) / 2).map(kernel).collect();
    let blocks = fill_cache(&mm, disk, true);
    let zone = mm.zone(NODE, ZoneKind::Dma32).expect("DMA32");
    assert!(zone.free_pages() <= zone.mark(Mark::Low), "nearly full");
    let area = mm.cma_area(CmaId::DEFAULT).expect("the area").range();

    let got = mm.cma_alloc(CmaId::DEFAULT, 64 << 8, Order(0), CMA).expect("all of the area");

    assert_eq!(got, area);
    zones_keep_their_reserves(&mm);
    let urgent = Request::new(Order(0), Gfp::ATOMIC | Gfp::NOWARN);
    let urgent = mm.alloc_pages(urgent).expect("what the allocation left");
    // And not by digging: an ordinary request is served too.
    let plain = mm.alloc_pages(Request::new(Order(0), Gfp::NOWAIT)).expect("above min");
    assert!(!mm.is_pfmemalloc(urgent.pfn));
    mm.audit().expect("whole");
    // Nothing was lost on the way.
    [urgent, plain].into_iter().for_each(|page| mm.free_pages(page).expect("its own"));
    for block in (0..blocks).step_by(3) {
        let cached = disk.is_cached(&mm, block);
        assert!(cached || disk.stored(block) == u64::from(block) << 8, "block {block}");
    }
    mm.cma_release(CmaId::DEFAULT, got).expect("its own");
    for block in (0..blocks).step_by(3) {
        assert_eq!(disk.read(&mm, block, CACHE), Ok(u64::from(block) << 8));
    }
    held.into_iter().for_each(|page| mm.free_pages(page).expect("its own"));
    mm.audit().expect("whole");
}

/// Free pages in HighAtomic blocks take nothing of what has to move, and keep no
/// mark: as much more is to be freed, however little seems to be lacking.
#[cfg_attr(miri, ignore = "too large")]
#[test]
fn what_is_kept_for_urgent_blocks_is_no_room() {
    let mm = machine(300);
    let usual = mm.min_free_kbytes();
    // Low lies above what is free, min below.
    mm.set_min_free_kbytes(mm.managed_pages() * 4 * 80 / 100);
    let urgent = Request::new(Order(10), Gfp::ATOMIC | Gfp::NOWARN);
    mm.free_pages(mm.alloc_pages(urgent).expect("a block")).expect("its own");
    mm.set_min_free_kbytes(usual);
    let zone = mm.zone(NODE, ZoneKind::Dma32).expect("DMA32");
    assert_eq!(zone.reserved_highatomic(), 1024);
    let disk = Disk::of(&mm);
    fill_cache(&mm, disk, false);
    assert!(zone.free_pages() <= zone.mark(Mark::Low) + 1024, "nearly full");

    let got = mm.cma_alloc(CmaId::DEFAULT, 64 << 8, Order(0), CMA).expect("all of the area");

    assert_eq!(zone.reserved_highatomic(), 1024, "nobody was as short as that");
    assert!(zone.free_pages() >= zone.mark(Mark::Low) + 1024);
    mm.cma_release(CmaId::DEFAULT, got).expect("its own");
    mm.audit().expect("whole");
}

#[cfg_attr(miri, ignore = "too large")]
#[test]
fn the_zone_that_is_reclaimed_is_the_ranges_own() {
    let mm = pc(64, 1, &Config::default()).expect("a machine");
    let disk = Disk::of(&mm);
    fill_cache(&mm, disk, false);
    let zone = |kind| mm.zone(NODE, kind).expect("a zone");
    let before = file_pages(&mm, zone(ZoneKind::Dma));
    assert!(before > 1000, "there is something to be had in DMA too");
    let free = zone(ZoneKind::Dma).free_pages();
    let range = movable_range(&mm, zone(ZoneKind::Dma32), 16 << 8);
    mm.alloc_contig_range(range, CMA).expect("room can be made");
    assert_eq!(file_pages(&mm, zone(ZoneKind::Dma)), before);
    assert_eq!(zone(ZoneKind::Dma).free_pages(), free);
    assert!(zone(ZoneKind::Dma32).free_pages() >= zone(ZoneKind::Dma32).mark(Mark::Low));
    mm.audit().expect("whole");
    mm.free_contig_range(range).expect("its own");
}

#[cfg_attr(miri, ignore = "too large")]
#[test]
fn who_may_not_wait_only_wakes() {
    let mm = machine(128);
    let disk = Disk::of(&mm);
    fill_cache(&mm, disk, true);
    let cached = disk.cached();
    let before = mm.zones().iter().map(Zone::free_pages).collect::<Vec<_>>();
    for gfp in [Gfp::NOWAIT, Gfp::ATOMIC] {
        let got = mm.cma_alloc(CmaId::DEFAULT, 48 << 8, Order(0), gfp | Gfp::NOWARN);
        assert_eq!(got, Err(ContigError::NoMemory));
        assert_eq!(mm.platform().take_woken(), [Worker::Kswapd(NODE)]);
    }
    assert_eq!(mm.zones().iter().map(Zone::free_pages).collect::<Vec<_>>(), before);
    assert_eq!(disk.cached(), cached);
    assert_eq!((event(&mm, "pgscan_direct"), disk.writes.load(Relaxed)), (0, 0));
    mm.audit().expect("whole");
}

#[test]
fn each_page_of_the_range_is_dealt_with_as_it_needs() {
    let mm = super::machine(1);
    let disk = Disk::of(&mm);
    let broken = Disk::of(&mm);
    broken.broken.store(true, Relaxed);
    let arena: &'static MovableArena<Machine> = Box::leak(Box::default());
    arena.register(&mm).expect("room for a driver");
    let movable = Gfp::HIGHUSER_MOVABLE;
    let mut handles = Vec::new();
    for block in 0..40 {
        disk.read(&mm, 2 * block, CACHE).expect("a page");
        disk.write(&mm, 2 * block + 1, 5, CACHE).expect("a page");
        broken.write(&mm, block, 6, CACHE).expect("a page");
        handles.push(arena.alloc(&mm, movable).expect("a page"));
    }
    // Where all of it lies, and nobody else has anything.
    let handle = |&handle| arena.frame(&mm, handle).expect("its own");
    let on_disk = (0..80).filter_map(|block| disk.frame_of(&mm, block));
    let on_broken = (0..40).filter_map(|block| broken.frame_of(&mm, block));
    let frames: Vec<_> = on_disk.chain(on_broken).chain(handles.iter().map(handle)).collect();
    let first = *frames.iter().min().expect("some");
    let last = *frames.iter().max().expect("some");
    let range = PfnRange::new(first, last.add(1));
    assert!(mm.map().info(first).is_some_and(|b| b.migratetype() == MigrateType::Movable));

    let got = mm.alloc_contig_range(range, Gfp::KERNEL);

    assert_eq!(got, Ok(range));
    mm.audit().expect("whole");
    // Those that are clean were dropped, those that were dirty written first.
    assert_eq!(disk.cached(), 0);
    assert!((0..40).all(|block| disk.stored(2 * block + 1) == 5));
    assert_eq!(disk.writes.load(Relaxed), 40);
    // What could not be written was moved, as drivers' pages were.
    assert_eq!(event(&mm, "pgmigrate_success"), 80);
    for block in 0..40 {
        let frame = broken.frame_of(&mm, block).expect("still there");
        assert!(!range.contains(frame));
        assert_eq!(broken.read(&mm, block, CACHE), Ok(6));
    }
    assert!(handles.iter().all(|h| !range.contains(handle(h))));
    mm.free_contig_range(range).expect("its own");
    mm.audit().expect("whole");
}

/// Compaction moves cached pages too; who reads meanwhile finds what he looks
/// for.
#[test]
fn cached_pages_are_compacted() {
    let mm = super::machine(1);
    let disk = Disk::of(&mm);
    let most = (mm.free_pages_total() * 3 / 4) as u32;
    for block in 0..most {
        disk.write(&mm, block, u64::from(block) << 8, CACHE).expect("a page");
    }
    (0..most).filter(|block| block % 2 == 0).for_each(|block| disk.forget(&mm, block));
    mm.lru_drain_all();
    mm.drain_all(None);
    let large = |mm: &Mm<Machine>| {
        let request = Request::new(Order(9), Gfp::NOWAIT | Gfp::MOVABLE | Gfp::NOWARN);
        let blocks: Vec<_> = std::iter::from_fn(|| mm.alloc_pages(request).ok()).collect();
        blocks.iter().for_each(|&block| mm.free_pages(block).expect("its own"));
        blocks.len()
    };
    let before = large(&mm);
    mm.compact_memory(None);
    assert!(cfg!(miri) || large(&mm) > before + 1, "{before} -> {}", large(&mm));
    assert!(event(&mm, "pgmigrate_success") > 0);
    mm.audit().expect("whole");
    for block in (1..most).step_by(2) {
        assert_eq!(disk.read(&mm, block, CACHE), Ok(u64::from(block) << 8));
    }
}
