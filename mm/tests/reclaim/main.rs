//! Reclaim on simulated machines: what is not used makes room, what is used
//! stays, and nothing is lost.
#![cfg(feature = "host")]

mod contig;
mod disk;
mod large;
mod room;
mod spaces;

use disk::Disk;
use mm::host::{Machine, pc};
use mm::lru::LruList;
use mm::platform::{Context, Platform, Worker};
use mm::reclaim::{Shrinker, Shrunk};
use mm::types::{NodeId, Order, PAGE_SIZE, ZoneKind};
use mm::zone::{Mark, Zone};
use mm::{Config, Gfp, Mm, Page, Request};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const NODE: NodeId = NodeId(0);
const MIB: u64 = if cfg!(miri) { 4 } else { 32 };
const CACHE: Gfp = Gfp::HIGHUSER_MOVABLE;

fn machine(cpus: u16) -> Mm<Machine> {
    pc(MIB, cpus, &Config::default()).expect("a machine")
}

/// The zone that these machines have most of their memory in.
fn dma32(mm: &Mm<Machine>) -> &Zone {
    mm.zone(NODE, if cfg!(miri) { ZoneKind::Dma } else { ZoneKind::Dma32 }).expect("a zone")
}

fn event(mm: &Mm<Machine>, key: &str) -> u64 {
    mm.vmstat_value(key).unwrap_or_else(|| panic!("no {key}"))
}

/// Pages that can never be reclaimed, until that few are free.
fn fill(mm: &Mm<Machine>, leave: u64) -> Vec<Page> {
    let mut held = Vec::new();
    while mm.free_pages_total() > leave {
        let request = Request::new(Order(0), Gfp::NOWAIT | Gfp::NOWARN | Gfp::MEMALLOC);
        held.push(mm.alloc_pages(request).expect("more than that is free"));
        mm.drain_all(None);
    }
    mm.platform().take_woken();
    held
}

#[test]
fn a_cache_larger_than_memory_is_read_whole() {
    let mm = machine(1);
    let disk = Disk::of(&mm);
    let blocks = (mm.managed_pages() * 2) as u32;
    for block in 0..blocks {
        assert_eq!(disk.read(&mm, block, CACHE), Ok(u64::from(block) * 3 + 1));
    }
    assert!(event(&mm, "pgsteal_direct") > u64::from(blocks) / 4);
    assert!(event(&mm, "pgscan_direct") >= event(&mm, "pgsteal_direct"));
    assert_eq!(event(&mm, "pgsteal_file"), event(&mm, "pgsteal_direct"));
    assert!(event(&mm, "allocstall_movable") > 0);
    assert!(mm.platform().take_woken().contains(&Worker::Kswapd(NODE)));
    // The oldest went first.
    assert!(disk.is_cached(&mm, blocks - 1) && !disk.is_cached(&mm, 0));
    assert_eq!(disk.writes.load(Relaxed), 0, "nothing was dirty");
    mm.audit().expect("whole");
    disk.forget_all(&mm);
    assert_eq!(mm.audit().expect("whole").lru, 0);
}

#[test]
fn kswapd_makes_room_so_that_nobody_has_to() {
    let mm = machine(1);
    let disk = Disk::of(&mm);
    let blocks = (mm.managed_pages() * 2) as u32;
    for block in 0..blocks {
        disk.read(&mm, block, CACHE).expect("a page");
        for worker in mm.platform().take_woken() {
            let again = mm.work(worker);
            assert!(again.is_none() || worker != Worker::Kswapd(NODE), "balanced");
            assert!(
                mm.zones().iter().any(|zone| {
                    zone.managed() > 0 && zone.free_pages() >= zone.mark(Mark::High)
                })
            );
        }
    }
    assert_eq!((event(&mm, "pgsteal_direct"), event(&mm, "allocstall_movable")), (0, 0));
    assert!(event(&mm, "pgsteal_kswapd") > u64::from(blocks) / 4);
    mm.audit().expect("whole");
}

#[test]
fn what_is_used_again_stays() {
    let mm = machine(1);
    let disk = Disk::of(&mm);
    let kept = (mm.managed_pages() / 8) as u32;
    let blocks = (mm.managed_pages() * 3) as u32;
    for round in 0..2 {
        for block in 0..kept {
            disk.read(&mm, block, CACHE).expect("a page");
        }
        mm.lru_drain_all();
        assert_eq!(mm.node_lru_pages(NODE, LruList::ActiveFile), round * u64::from(kept));
    }
    // A stream of what is read once does not push them out.
    for block in kept..blocks {
        disk.read(&mm, block, CACHE).expect("a page");
    }
    assert!((0..kept).all(|block| disk.is_cached(&mm, block)));
    assert_eq!(event(&mm, "pgrefill"), 0);
    // What is used no more is aged, once the others are too few.
    let (mut block, mut rest) = (0, kept);
    while rest > kept / 2 {
        assert!(block < blocks, "aged in the end: {rest} of {kept} left");
        // What is read twice is in use.
        for _ in 0..2 {
            disk.read(&mm, blocks + block, CACHE).expect("a page");
        }
        block += 1;
        rest = (0..kept).filter(|&block| disk.is_cached(&mm, block)).count() as u32;
    }
    assert!(event(&mm, "pgrefill") > 0 && event(&mm, "pgdeactivate") > 0);
    mm.audit().expect("whole");
}

/// Those who look at pages have most of them: who wants memory waits for them,
/// and kswapd goes on.
#[test]
fn who_wants_memory_waits_for_those_who_look_at_it() {
    let mm = machine(1);
    let disk = Disk::of(&mm);
    let blocks = (mm.managed_pages() / 2) as u32;
    (0..blocks).for_each(|block| assert!(disk.read(&mm, block, CACHE).is_ok()));
    mm.lru_drain_all();
    let isolated: Vec<_> =
        (0..blocks / 4).map(|block| disk.frame_of(&mm, block).expect("cached")).collect();
    assert!(isolated.iter().all(|&frame| mm.lru_isolate(frame)));
    let waits = || event(&mm, "pgscan_isolated_throttle");

    let held = fill(&mm, 16);
    assert!(mm.kswapd_round(NODE), "there is enough for it");
    assert_eq!(waits(), 0);
    // In vain, but not for ever: they might be the caller's own.
    let scanned = event(&mm, "pgscan_direct");
    assert!(mm.reclaim_proactively(Some(NODE), 32) >= 32);
    assert!(waits() > 0);
    assert!(event(&mm, "pgscan_direct") > scanned);
    mm.audit().expect("whole");

    let waited = waits();
    isolated.iter().for_each(|&frame| mm.lru_putback(frame));
    assert!(mm.reclaim_proactively(Some(NODE), 32) >= 32);
    assert_eq!(waits(), waited, "nothing to wait for");
    held.into_iter().for_each(|page| mm.free_pages(page).expect("its own"));
    mm.audit().expect("whole");
}

#[test]
fn dirty_pages_are_written_first() {
    let mm = machine(1);
    let disk = Disk::of(&mm);
    let blocks = (mm.managed_pages() * 2) as u32;
    for block in 0..blocks {
        disk.write(&mm, block, u64::from(block) << 8, CACHE).expect("a page");
    }
    assert!(disk.writes.load(Relaxed) > u64::from(blocks) / 4);
    // Reclaim has them written, with their neighbours.
    let asked = event(&mm, "nr_vmscan_write");
    assert!(asked > 0 && asked <= disk.writes.load(Relaxed));
    assert_eq!(event(&mm, "nr_written"), disk.writes.load(Relaxed));
    for block in 0..blocks {
        assert_eq!(disk.read(&mm, block, CACHE), Ok(u64::from(block) << 8));
    }
    mm.audit().expect("whole");
}

#[test]
fn a_request_that_may_not_write_does_not() {
    let mm = machine(1);
    let disk = Disk::of(&mm);
    let request = |gfp: Gfp| Request::new(Order(0), gfp | Gfp::NORETRY | Gfp::NOWARN);
    let mut block = 0;
    while disk.write(&mm, block, 7, CACHE - Gfp::DIRECT_RECLAIM).is_ok() {
        block += 1;
    }
    let mut held = Vec::new();
    while let Ok(page) = mm.alloc_pages(request(Gfp::NOIO)) {
        held.push(page);
        assert_eq!(disk.writes.load(Relaxed), 0);
    }
    assert!(mm.alloc_pages(request(Gfp::KERNEL)).is_ok());
    assert!(disk.writes.load(Relaxed) > 0);
    mm.audit().expect("whole");
}

/// Few pages in use are spared as long as there are others; but not when none of
/// the others can be had.
#[test]
fn what_is_in_use_is_had_when_the_rest_cannot_be() {
    let mm = machine(1);
    let (dirty, clean) = (Disk::of(&mm), Disk::of(&mm));
    let used = (mm.managed_pages() / 10) as u32;
    for _ in 0..2 {
        (0..used).for_each(|block| assert!(clean.read(&mm, block, CACHE).is_ok()));
    }
    let mut block = 0;
    while dirty.write(&mm, block, 7, CACHE - Gfp::DIRECT_RECLAIM).is_ok() {
        block += 1;
    }
    mm.lru_drain_all();
    let size = |list| mm.node_lru_pages(NODE, list);
    assert_eq!(size(LruList::ActiveFile), u64::from(used));
    assert!(size(LruList::InactiveFile) > u64::from(used));
    for _ in 0..used / 2 {
        let request = Request::new(Order(0), Gfp::NOIO | Gfp::NOWARN);
        mm.alloc_pages(request).expect("of what was in use");
    }
    assert_eq!(dirty.writes.load(Relaxed), 0);
    mm.audit().expect("whole");
}

#[test]
fn a_broken_disk_loses_nothing() {
    let mm = machine(1);
    let disk = Disk::of(&mm);
    disk.broken.store(true, Relaxed);
    let request = CACHE | Gfp::NORETRY | Gfp::NOWARN;
    let mut blocks = 0;
    while disk.write(&mm, blocks, u64::from(blocks) << 8, request).is_ok() {
        blocks += 1;
    }
    assert!(u64::from(blocks) > mm.managed_pages() / 2);
    assert_eq!(disk.cached(), u64::from(blocks));
    mm.audit().expect("whole");
    for block in 0..blocks {
        assert_eq!(disk.read(&mm, block, request), Ok(u64::from(block) << 8));
    }
}

#[test]
fn boosting_is_no_reason_to_write() {
    let mm = machine(1);
    let disk = Disk::of(&mm);
    let zone = dma32(&mm);
    let boost = |factor| mm.proc_write("/proc/sys/vm/watermark_boost_factor", factor);
    // Nodes of the cache's tree cannot be moved either.
    boost("0").expect("a knob");
    let most = (mm.free_pages_total() * 9 / 10) as u32;
    for block in 0..most {
        match block % 4 {
            0 => disk.write(&mm, block, 7, CACHE).expect("a page"),
            _ => assert!(disk.read(&mm, block, CACHE).is_ok()),
        }
    }
    (0..most).filter(|block| block % 2 == 1).for_each(|block| disk.forget(&mm, block));
    mm.lru_drain_all();
    mm.drain_all(None);
    mm.platform().take_woken();
    boost("15000").expect("a knob");
    // What cannot be moved gets among what can: the marks are boosted.
    let mut held = Vec::new();
    while zone.boost() == 0 {
        held.push(mm.alloc_pages(Request::new(Order(0), Gfp::NOWAIT)).expect("a block"));
    }
    assert!(zone.free_pages() > zone.mark(Mark::High));
    let boost = zone.boost();
    assert!(mm.platform().take_woken().contains(&Worker::Kswapd(NODE)));
    mm.kswapd_round(NODE);
    assert_eq!(zone.boost(), 0);
    assert_eq!(disk.writes.load(Relaxed), 0);
    let stolen = event(&mm, "pgsteal_kswapd");
    assert!(stolen > 0 && stolen <= boost + 64, "{stolen} for {boost}");
    assert!(mm.platform().take_woken().contains(&Worker::Kcompactd(NODE)));
    mm.audit().expect("whole");
}

#[test]
fn a_node_without_anything_to_reclaim_is_left_alone() {
    let mm = machine(1);
    let zone = dma32(&mm);
    let movable = |_| mm.alloc_pages(Request::new(Order(0), Gfp::NOWAIT | Gfp::MOVABLE));
    let mut movable: Vec<_> =
        (0..if cfg!(miri) { 128 } else { 1024 }).map(|i| movable(i).expect("a page")).collect();
    let held = fill(&mm, zone.mark(Mark::Min));
    let mut rounds = 0;
    while mm.work(Worker::Kswapd(NODE)).is_some() {
        rounds += 1;
        assert!(rounds < 100, "gives up some time");
    }
    assert_eq!(rounds, 15);
    let mut text = String::new();
    mm.proc_read("/proc/zoneinfo", &mut text).expect("a file");
    assert!(text.contains("  node_unreclaimable:  1\n"));
    let _ = mm.alloc_pages(Request::new(Order(0), Gfp::NOWAIT | Gfp::NOWARN));
    assert!(!mm.platform().take_woken().contains(&Worker::Kswapd(NODE)));
    // Nor does it help that the marks are raised: what cannot be moved gets among
    // what can.
    movable.drain(..64).for_each(|page| mm.free_pages(page).expect("its own"));
    mm.drain_all(None);
    let digging = Request::new(Order(0), Gfp::NOWAIT | Gfp::NOWARN | Gfp::MEMALLOC);
    let mut mixed = Vec::new();
    while !cfg!(miri) && mm.zones().iter().all(|zone| zone.boost() == 0) {
        mixed.push(mm.alloc_pages(digging).expect("something movable is free"));
    }
    let _ = mm.alloc_pages(Request::new(Order(0), Gfp::NOWAIT | Gfp::NOWARN));
    assert!(!mm.platform().take_woken().contains(&Worker::Kswapd(NODE)));
    mixed.into_iter().chain(movable).for_each(|page| mm.free_pages(page).expect("its own"));
    // Whoever gets something proves that it is not hopeless.
    held.into_iter().for_each(|page| mm.free_pages(page).expect("its own"));
    let disk = Disk::of(&mm);
    for block in 0..(mm.managed_pages() * 2) as u32 {
        disk.read(&mm, block, CACHE).expect("a page");
    }
    mm.platform().take_woken();
    fill(&mm, zone.mark(Mark::Min) / 2);
    let _ = mm.alloc_pages(Request::new(Order(0), Gfp::NOWAIT | Gfp::NOWARN));
    assert!(mm.platform().take_woken().contains(&Worker::Kswapd(NODE)));
    mm.audit().expect("whole");
}

#[test]
fn what_frees_memory_is_kept_for_those_who_do() {
    let mm = machine(1);
    let disk = Disk::of(&mm);
    let mut block = 0;
    while disk.read(&mm, block, CACHE - Gfp::DIRECT_RECLAIM).is_ok() {
        block += 1;
    }
    let reserve = dma32(&mm).mark(Mark::Min);
    fill(&mm, reserve / 2);
    assert_eq!(event(&mm, "pgscan_direct_throttle"), 0);
    // It waits for a kswapd that never comes, and helps itself in the end.
    mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("a page");
    assert!(event(&mm, "pgscan_direct_throttle") > 0);
    assert!(mm.platform().take_woken().contains(&Worker::Kswapd(NODE)));
    mm.audit().expect("whole");
}

/// Who is to die makes room for what he needs until then, as others do, and does not
/// wait for kswapd.
#[cfg_attr(miri, ignore = "too large")]
#[test]
fn a_victim_makes_room_for_himself() {
    let mm = machine(1);
    let disk = Disk::of(&mm);
    for block in 0..2000 {
        disk.read(&mm, block, CACHE).expect("a page");
    }
    mm.lru_drain_all();
    fill(&mm, 8);
    let context = mm.platform().context();
    mm.platform().set_context(Context { oom_victim: true, ..context });
    let page = mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("there is a cache");
    mm.platform().set_context(context);
    assert!(event(&mm, "pgsteal_direct") > 0);
    mm.free_pages(page).expect("its own");
    mm.audit().expect("whole");
}

#[test]
fn caches_are_dropped_when_asked() {
    let mm = machine(1);
    let disk = Disk::of(&mm);
    for block in 0..100 {
        disk.read(&mm, block, CACHE).expect("a page");
    }
    disk.write(&mm, 7, 1, CACHE).expect("a page");
    for bad in ["0", "5", "-1", "x"] {
        assert!(mm.proc_write("/proc/sys/vm/drop_caches", bad).is_err());
    }
    mm.proc_write("/proc/sys/vm/drop_caches", "2").expect("a knob");
    assert_eq!(disk.cached(), 100);
    mm.proc_write("/proc/sys/vm/drop_caches", "1").expect("a knob");
    assert_eq!(disk.cached(), 1, "the one that is dirty");
    assert_eq!((event(&mm, "drop_pagecache"), event(&mm, "drop_slab")), (1, 1));
    let mut text = String::new();
    mm.proc_read("/proc/sys/vm/drop_caches", &mut text).expect("a knob");
    assert_eq!(text, "1\n");
    mm.audit().expect("whole");
}

#[test]
fn knobs_and_counts_are_in_their_files() {
    let mm = machine(1);
    let disk = Disk::of(&mm);
    (0..64).for_each(|block| assert!(disk.read(&mm, block, CACHE).is_ok()));
    mm.lru_drain_all();
    let read = |path: &str| {
        let mut text = String::new();
        mm.proc_read(path, &mut text).expect("a file");
        text
    };
    assert_eq!(read("/proc/sys/vm/swappiness"), "60\n");
    mm.proc_write("/proc/sys/vm/swappiness", "200").expect("a knob");
    assert!(mm.proc_write("/proc/sys/vm/swappiness", "201").is_err());
    assert_eq!(mm.swappiness(), 200);
    let kb = 64 * PAGE_SIZE / 1024;
    assert!(read("/proc/meminfo").contains(&format!("Inactive(file):{kb:>9} kB\n")));
    assert!(read("/proc/zoneinfo").contains("      nr_inactive_file 64\n"));
    assert!(read("/proc/zoneinfo").contains("      nr_zone_inactive_file 64\n"));
    assert!(read("/proc/vmstat").contains("nr_inactive_file 64\n"));
}

/// Things that can be made again, all on one node.
struct Things(AtomicU64);

impl Shrinker<Machine> for Things {
    fn count(&self, _: &Mm<Machine>, _: NodeId) -> u64 {
        self.0.load(Relaxed)
    }

    fn scan(&self, _: &Mm<Machine>, _: NodeId, scan: u64) -> Option<Shrunk> {
        let had = self.0.load(Relaxed);
        assert!(scan <= 128);
        self.0.store(had - scan.min(had), Relaxed);
        Some(Shrunk { objects: scan.min(had), pages: 0 })
    }
}

#[test]
fn shrinkers_give_their_part() {
    let mm = machine(1);
    let things: &'static Things = Box::leak(Box::new(Things(AtomicU64::new(100_000))));
    mm.register_shrinker(things).expect("room for a shrinker");
    (0..12).for_each(|_| mm.register_shrinker(things).expect("room for a shrinker"));
    assert!(mm.register_shrinker(things).is_err(), "three are there from the start");
    let disk = Disk::of(&mm);
    for block in 0..(mm.managed_pages() * 2) as u32 {
        disk.read(&mm, block, CACHE).expect("a page");
    }
    let left = things.0.load(Relaxed);
    assert!(left < 100_000, "asked with the others");
    assert_eq!(event(&mm, "slabs_scanned"), 100_000 - left);
    mm.drop_slab();
    assert_eq!(things.0.load(Relaxed), 0);
}

#[test]
fn free_slabs_make_room() {
    let mm = machine(1);
    mm.slab_init().expect("memory for the slab layer");
    let cache = mm.cache_create("big", mm::slab::CacheConfig::new(2048)).expect("a cache");
    let objects: Vec<_> =
        std::iter::from_fn(|| mm.cache_alloc(cache, Gfp::NOWAIT | Gfp::NOWARN).ok()).collect();
    objects.into_iter().for_each(|object| mm.cache_free(cache, object).expect("its own"));
    mm.drain_all(None);
    // What the cache keeps is all there is to be had beyond the mark.
    let before = mm.slab_pages(NODE);
    let request = |gfp| Request::new(Order(0), gfp | Gfp::NOWARN);
    let held: Vec<_> = std::iter::from_fn(|| mm.alloc_pages(request(Gfp::NOWAIT)).ok()).collect();
    mm.alloc_pages(request(Gfp::KERNEL)).expect("what the slabs gave");
    assert!(mm.slab_pages(NODE).1 < before.1 || mm.slab_pages(NODE).0 < before.0);
    assert!(event(&mm, "slabs_scanned") > 0);
    drop(held);
    mm.audit().expect("whole");
}
