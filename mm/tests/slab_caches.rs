//! Caches among each other and over time: merging, colours, bulk, reaping,
//! tuning, slabinfo, nodes.
#![cfg(feature = "host")]

use core::ptr::NonNull;
use mm::host::{Machine, build, pc};
use mm::platform::Platform;
use mm::slab::{CacheConfig, CacheId, CacheInfo, SlabError};
use mm::types::{CpuId, NodeId, PAGE_SIZE, Pfn, PfnRange};
use mm::{AllocError, Config, Gfp, Mm};

fn machine(cpus: u16) -> Mm<Machine> {
    let mm = pc(if cfg!(miri) { 8 } else { 64 }, cpus, &Config::default()).expect("a machine");
    mm.slab_init().expect("the slab layer");
    mm
}

fn own(size: usize) -> CacheConfig {
    CacheConfig { merge: false, ..CacheConfig::new(size) }
}

fn alloc<const N: usize>(mm: &Mm<Machine>, cache: CacheId) -> [NonNull<u8>; N] {
    [(); N].map(|()| mm.cache_alloc(cache, Gfp::KERNEL).expect("an object"))
}

fn info(mm: &Mm<Machine>, cache: CacheId) -> CacheInfo {
    mm.cache_info(cache).expect("facts")
}

#[test]
fn caches_of_like_objects_share_slabs() {
    let mm = machine(1);
    let before = mm.caches().count();
    let first = mm.cache_create("first", CacheConfig::new(100)).expect("a cache");
    let second = mm.cache_create("second", CacheConfig::new(98)).expect("a cache");
    assert_ne!(first, second);
    assert_eq!(mm.caches().count(), before + 1);
    assert_eq!((info(&mm, second).name(), info(&mm, second).users), ("first", 2));
    assert_eq!(info(&mm, second).object_size, 100);
    // Either may free what the other got.
    let [object] = alloc(&mm, second);
    mm.cache_free(first, object).expect("freed");
    let [kept] = alloc(&mm, first);
    mm.cache_destroy(first).expect("the second user remains");
    assert!(matches!(mm.cache_alloc(first, Gfp::KERNEL), Err(AllocError::Invalid(_))));
    mm.audit().expect("whole");
    mm.cache_free(second, kept).expect("freed");
    let [kept] = alloc(&mm, second);
    assert_eq!(mm.cache_destroy(second), Err(SlabError::Busy { live: 1 }));
    mm.kfree(kept).expect("freed");
    mm.cache_destroy(second).expect("destroyed");
    assert_eq!(mm.caches().count(), before);
    // Their numbers are free again, and lead nowhere.
    let third = mm.cache_create("third", own(3000)).expect("a cache");
    let fourth = mm.cache_create("fourth", own(300)).expect("a cache");
    let [a] = alloc(&mm, third);
    let [b] = alloc(&mm, fourth);
    assert_eq!(mm.ksize(a), Ok(3000));
    assert_eq!(mm.ksize(b), Ok(300));
    mm.audit().expect("whole");
}

#[test]
#[cfg_attr(miri, ignore = "the other tests go the same ways")]
fn caches_of_unlike_objects_do_not() {
    let mm = machine(1);
    fn ctor(_: NonNull<u8>) {}
    let base = CacheConfig::new(100);
    mm.cache_create("base", base).expect("a cache");
    for (name, config) in [
        ("opted out", CacheConfig { merge: false, ..base }),
        ("constructed", CacheConfig { ctor: Some(ctor), ..base }),
        ("checked", CacheConfig { debug: mm::slab::geometry::Debug::POISON, ..base }),
        ("reclaimable", CacheConfig { reclaim_account: true, ..base }),
        ("from zone DMA", CacheConfig { dma: true, ..base }),
        ("larger", CacheConfig::new(105)),
        ("smaller by a word", CacheConfig::new(96)),
        ("aligned", CacheConfig { align: 64, ..base }),
    ] {
        let cache = mm.cache_create(name, config).expect("a cache");
        assert_eq!(info(&mm, cache).name(), name);
    }
    // General caches are nobody's to share.
    let cache = mm.cache_create("like kmalloc-64", CacheConfig::new(64)).expect("a cache");
    assert_eq!(info(&mm, cache).name(), "like kmalloc-64");
}

#[test]
fn slabs_are_coloured() {
    let mm = machine(1);
    // 2 slots of 3000 bytes in 8192: 34 colours, 64 bytes apart.
    let cache = mm.cache_create("coloured", own(3000)).expect("a cache");
    let objects: [_; 20] = alloc(&mm, cache);
    // By the place in the machine's RAM: the host may map that at any page.
    let place = |object: &NonNull<u8>| {
        let pfn = mm.platform().pfn_of(object.as_ptr()).expect("RAM");
        (pfn.0 as usize % 2) * PAGE_SIZE + object.addr().get() % PAGE_SIZE
    };
    let mut starts: Vec<_> = objects.iter().map(place).filter(|&s| s < 3000).collect();
    assert_eq!(starts.len(), 10, "one in each slab");
    starts.sort_unstable();
    starts.dedup();
    assert_eq!(starts.len(), 10);
    assert!(starts.iter().all(|s| s % 64 == 0));
    mm.cache_free_bulk(cache, &objects).expect("freed");
    mm.audit().expect("whole");
}

#[test]
#[cfg_attr(miri, ignore = "the other tests go the same ways")]
fn bulk_is_all_or_nothing() {
    let mm = machine(1);
    for (i, size) in [64, 700, 3000].into_iter().enumerate() {
        let cache = mm.cache_create(&format!("bulk-{i}"), own(size)).expect("a cache");
        let mut out = vec![NonNull::dangling(); 500];
        mm.cache_alloc_bulk(cache, Gfp::KERNEL | Gfp::ZERO, &mut out).expect("objects");
        mm.audit().expect("whole");
        let mut sorted = out.clone();
        sorted.sort();
        assert!(sorted.windows(2).all(|w| w[1].addr().get() - w[0].addr().get() >= size));
        assert_eq!(mm.cache_destroy(cache), Err(SlabError::Busy { live: 500 }));
        // The culprit is named; the rest can go on after it.
        let mut local = 0u8;
        out[7] = NonNull::from(&mut local);
        assert_eq!(mm.cache_free_bulk(cache, &out), Err((7, SlabError::NotSlab)));
        mm.cache_free_bulk(cache, &out[8..]).expect("freed");
        assert_eq!(mm.cache_destroy(cache), Err(SlabError::Busy { live: 1 }));
    }
    // More than there is: nothing is left behind.
    let cache = mm.cache_create("too many", own(4096)).expect("a cache");
    let mut out = vec![NonNull::dangling(); if cfg!(miri) { 2500 } else { 20_000 }];
    let gfp = Gfp::NOWAIT | Gfp::NOWARN;
    assert_eq!(mm.cache_alloc_bulk(cache, gfp, &mut out), Err(AllocError::NoMemory));
    mm.cache_destroy(cache).expect("nothing is in use");
    mm.audit().expect("whole");
}

#[test]
#[cfg_attr(miri, ignore = "the other tests go the same ways")]
fn the_reaper_gives_back_what_is_not_used() {
    let mm = machine(1);
    let cache = mm.cache_create("idle", own(256)).expect("a cache");
    let objects: [_; 512] = alloc(&mm, cache);
    mm.cache_free_bulk(cache, &objects).expect("freed");
    let before = info(&mm, cache);
    assert!(before.num_slabs > 0);
    // The first round only notes that the array was in use.
    assert_eq!(mm.cache_reap(), 2000);
    assert_eq!(info(&mm, cache).active_objs, before.active_objs);
    let mut rounds = 0;
    while info(&mm, cache).num_slabs > 0 {
        mm.platform().advance_ms(2000);
        mm.cache_reap();
        rounds += 1;
        assert!(rounds < 100, "{:?}", info(&mm, cache));
    }
    assert!(rounds > 5, "a part at a time: {rounds} rounds");
    mm.audit().expect("whole");
    // In use: nothing goes.
    let [object] = alloc(&mm, cache);
    for _ in 0..10 {
        mm.platform().advance_ms(2000);
        mm.cache_reap();
        let [other] = alloc(&mm, cache);
        mm.cache_free(cache, other).expect("freed");
    }
    mm.cache_free(cache, object).expect("freed");
    mm.audit().expect("whole");
}

#[test]
#[cfg_attr(miri, ignore = "the other tests go the same ways")]
fn a_node_keeps_no_more_free_than_its_limit() {
    let mm = machine(1);
    let cache = mm.cache_create("limit", own(1024)).expect("a cache");
    let objects: [_; 600] = alloc(&mm, cache);
    mm.cache_free_bulk(cache, &objects).expect("freed");
    let info = info(&mm, cache);
    // (1 + CPUs) * batch + objects of a slab, and what the array holds.
    assert!(info.num_objs - info.active_objs <= 2 * 27 + 4, "{info:?}");
    assert!(info.active_objs <= 54);
}

#[test]
#[cfg_attr(miri, ignore = "the other tests go the same ways")]
fn slabinfo_is_linux_s() {
    let mm = machine(2);
    mm.cache_create("a name of thirty-one characters", own(24)).expect("a cache");
    let cache = mm.cache_create("named", own(24)).expect("a cache");
    let [_, _, _] = alloc(&mm, cache);
    mm.cache_shrink(cache).expect("shrunk");
    let mut text = String::new();
    mm.slabinfo(&mut text).expect("a String takes all");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "slabinfo - version: 2.1");
    assert_eq!(
        lines[2],
        "named                  3    163     24  163    1 : tunables  120   60    8 : slabdata      1      1      0"
    );
    for line in &lines[4..] {
        assert_eq!(line.split_whitespace().count(), 16, "{line}");
    }
    // The newest first, the first last; the general caches as in Linux 6.1.
    assert!(lines.last().expect("a line").starts_with("kmem_cache "));
    for golden in [
        "dma-kmalloc-8k         0      0   8192    1    2 : tunables    8    4    0 : slabdata      0      0      0",
        "dma-kmalloc-96         0      0    128   32    1 : tunables  120   60    8 : slabdata      0      0      0",
        "kmalloc-rcl-32         0      0     32  124    1 : tunables  120   60    8 : slabdata      0      0      0",
        "kmalloc-rcl-192        0      0    192   21    1 : tunables  120   60    8 : slabdata      0      0      0",
    ] {
        assert!(lines.contains(&golden), "{golden}\n{text}");
    }
    // Pages of all slabs are the node's counters.
    let pages: u64 = mm.caches().map(|c| c.num_slabs * u64::from(c.pagesperslab)).sum();
    let (reclaimable, unreclaimable) = mm.slab_pages(NodeId(0));
    assert_eq!(pages, reclaimable + unreclaimable);
}

#[test]
fn caches_are_tuned_as_by_a_line_to_slabinfo() {
    let mm = machine(2);
    let cache = mm.cache_create("tuned", own(64)).expect("a cache");
    let objects: [_; 300] = alloc(&mm, cache);
    mm.cache_free_bulk(cache, &objects).expect("freed");
    mm.slabinfo_write("tuned 10 5 2\n").expect("taken");
    let arrays = info(&mm, cache).arrays;
    assert_eq!((arrays.limit, arrays.batch, arrays.shared), (10, 5, 2));
    assert_eq!(info(&mm, cache).active_objs, 0, "the old arrays were emptied");
    mm.audit().expect("whole");
    let objects: [_; 300] = alloc(&mm, cache);
    mm.cache_free_bulk(cache, &objects).expect("freed");
    let now = info(&mm, cache);
    assert!(now.active_objs <= 10 + 2 * 5, "{now:?}");
    assert_eq!(now.shared_avail, 10);
    for ignored in [
        "tuned 0 1 0",
        "tuned 5 6 0",
        "tuned 5 0 0",
        "tuned 5 -1 0",
        "tuned 5 5 -1",
        "tuned 5000 5 0",
    ] {
        mm.slabinfo_write(ignored).expect("ignored");
        assert_eq!(info(&mm, cache).arrays, arrays, "{ignored}");
    }
    assert_eq!(mm.slabinfo_write("unknown 1 1 1"), Err(SlabError::NoSuchCache));
    for wrong in ["", "tuned", "tuned 1 1", "tuned x y z"] {
        assert!(matches!(mm.slabinfo_write(wrong), Err(SlabError::Invalid(_))), "{wrong}");
    }
    mm.audit().expect("whole");
}

#[test]
fn objects_pass_from_cpu_to_cpu_through_the_shared_array() {
    let mm = machine(2);
    let cache = mm.cache_create("shared", own(512)).expect("a cache");
    let objects: [_; 300] = alloc(&mm, cache);
    mm.cache_free_bulk(cache, &objects).expect("freed");
    let shared = info(&mm, cache).shared_avail;
    assert_eq!(shared, 8 * 27);
    mm.platform().run_on(CpuId(1));
    let [object] = alloc(&mm, cache);
    assert_eq!(info(&mm, cache).shared_avail, shared - 16, "a cold array's batch");
    assert!(objects.contains(&object));
    mm.cache_free(cache, object).expect("freed");
    mm.platform().run_on(CpuId(0));
    mm.audit().expect("whole");
    mm.cache_destroy(cache).expect("all arrays are emptied");
    mm.audit().expect("whole");
}

#[test]
#[cfg_attr(miri, ignore = "there are fewer numbers then")]
fn many_caches_can_be_made_and_their_numbers_had_again() {
    let mm = machine(1);
    let left = 1024 - mm.caches().count();
    for _ in 0..2 {
        let caches: Vec<_> = (0..left)
            .map(|i| mm.cache_create(&format!("cache-{i}"), own(16)).expect("a cache"))
            .collect();
        assert_eq!(mm.cache_create("one more", own(16)), Err(SlabError::NoMemory));
        mm.audit().expect("whole");
        for cache in caches {
            mm.cache_destroy(cache).expect("destroyed");
        }
        mm.audit().expect("whole");
    }
}

#[test]
#[cfg_attr(miri, ignore = "the other tests go the same ways")]
fn objects_belong_to_the_node_of_their_pages() {
    let border = Pfn(if cfg!(miri) { 0x400 } else { 0x2000 });
    let end = Pfn(2 * border.0);
    let mut machine = Machine::new(Pfn(0), end, 2).expect("room");
    machine.set_node_of_cpu(CpuId(1), NodeId(1));
    let ram = [(PfnRange::new(Pfn(1), border), NodeId(0)), (PfnRange::new(border, end), NodeId(1))];
    let mm = build(machine, &ram, &Config::default()).expect("a machine");
    mm.slab_init().expect("the slab layer");
    let cache = mm.cache_create("nodes", own(256)).expect("a cache");
    let node_of = |object: NonNull<u8>| {
        let pfn = mm.platform().pfn_of(object.as_ptr()).expect("RAM");
        mm.map().try_block(pfn).expect("present").node()
    };
    let mut objects = Vec::new();
    for cpu in [0, 1] {
        mm.platform().run_on(CpuId(cpu));
        for object in alloc::<100>(&mm, cache) {
            assert_eq!(node_of(object), NodeId(cpu as u8));
            objects.push(object);
        }
    }
    let reclaimable = CacheConfig { reclaim_account: true, ..own(256) };
    let other = mm.cache_create("nodes-rcl", reclaimable).expect("a cache");
    let [object] = alloc(&mm, other);
    assert_eq!((mm.slab_pages(NodeId(0)).0, mm.slab_pages(NodeId(1)).0), (0, 1));
    mm.cache_free(other, object).expect("freed");
    // Each CPU frees what the other got: it goes home, not into its array.
    for &object in &objects[..100] {
        mm.cache_free(cache, object).expect("freed");
    }
    mm.audit().expect("whole");
    mm.platform().run_on(CpuId(0));
    mm.cache_free_bulk(cache, &objects[100..]).expect("freed");
    mm.audit().expect("whole");
    assert!(alloc::<200>(&mm, cache).into_iter().all(|o| node_of(o) == NodeId(0)));
    // A node without memory left is helped out by the other.
    mm.platform().run_on(CpuId(1));
    let gfp = Gfp::NOWAIT | Gfp::NOWARN;
    let here = gfp | Gfp::THISNODE;
    let mut last = None;
    while let Ok(object) = mm.cache_alloc(cache, here) {
        assert_eq!(node_of(object), NodeId(1));
        last = Some(object);
    }
    assert!(last.is_some());
    let helped = mm.cache_alloc(cache, gfp).expect("the other node has some");
    assert_eq!(node_of(helped), NodeId(0));
    mm.cache_free(cache, helped).expect("freed");
    // What is far comes before the reserves, even for those who may have them:
    // objects that are there, then new slabs.
    while let Ok(object) = mm.cache_alloc(cache, here | Gfp::HIGH) {
        assert_eq!(node_of(object), NodeId(1));
    }
    for _ in 0..500 {
        let object = mm.cache_alloc(cache, gfp | Gfp::MEMALLOC).expect("an object");
        assert_eq!(node_of(object), NodeId(0));
        assert_eq!(mm.object_is_pfmemalloc(object), Ok(false));
    }
    let object = mm.cache_alloc(cache, here | Gfp::MEMALLOC).expect("the reserves");
    assert_eq!(mm.object_is_pfmemalloc(object), Ok(true));
    mm.audit().expect("whole");
}
