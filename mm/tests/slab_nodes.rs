//! The slab layer on several nodes: whose objects go where, alien arrays, nodes
//! without memory, CPUs that go away. The audit looks at every step.
#![cfg(feature = "host")]

use core::ptr::NonNull;
use mm::host::{Machine, build};
use mm::platform::Platform;
use mm::slab::{CacheConfig, CacheId, SlabError};
use mm::types::{CpuId, NodeId, Order, Pfn, PfnRange};
use mm::{AllocError, Config, Gfp, Mm, Request};

const QUIET: Gfp = Gfp::NOWAIT.union(Gfp::NOWARN);
/// Objects that an alien array holds.
const ALIENS: u64 = 12;

/// A machine of `nodes` nodes of 16 MiB, CPU after CPU on node after node.
fn machine(nodes: u8, cpus: u16) -> Mm<Machine> {
    build_with(nodes, cpus, |cpu| NodeId((cpu % u16::from(nodes)) as u8))
}

fn build_with(nodes: u8, cpus: u16, node_of: impl Fn(u16) -> NodeId) -> Mm<Machine> {
    let pages = if cfg!(miri) { 0x400 } else { 0x1000 };
    let end = Pfn(pages * u64::from(nodes));
    let mut machine = Machine::new(Pfn(0), end, cpus).expect("room");
    for cpu in 0..cpus {
        machine.set_node_of_cpu(CpuId(cpu), node_of(cpu));
    }
    let ram: Vec<_> = (0..u64::from(nodes))
        .map(|i| {
            let range = PfnRange::new(Pfn((i * pages).max(1)), Pfn((i + 1) * pages));
            (range, NodeId(i as u8))
        })
        .collect();
    let mm = build(machine, &ram, &Config::default()).expect("a machine");
    mm.slab_init().expect("the slab layer");
    mm.audit().expect("whole");
    mm
}

fn own(size: usize) -> CacheConfig {
    CacheConfig { merge: false, ..CacheConfig::new(size) }
}

fn node_of(mm: &Mm<Machine>, object: NonNull<u8>) -> NodeId {
    let pfn = mm.platform().pfn_of(object.as_ptr()).expect("RAM");
    mm.map().try_block(pfn).expect("present").node()
}

fn alloc(mm: &Mm<Machine>, cache: CacheId, cpu: u16, n: usize) -> Vec<NonNull<u8>> {
    mm.platform().run_on(CpuId(cpu));
    (0..n).map(|_| mm.cache_alloc(cache, Gfp::KERNEL).expect("an object")).collect()
}

fn free(mm: &Mm<Machine>, cache: CacheId, cpu: u16, objects: &[NonNull<u8>]) {
    mm.platform().run_on(CpuId(cpu));
    for &object in objects {
        mm.cache_free(cache, object).expect("freed");
    }
}

/// Objects in use or in arrays, and those in alien arrays.
fn counts(mm: &Mm<Machine>, cache: CacheId) -> (u64, u64) {
    let info = mm.cache_info(cache).expect("facts");
    (info.active_objs, info.alien_avail)
}

#[test]
fn objects_of_other_nodes_gather_and_go_home_a_batch_at_a_time() {
    let mm = machine(3, 3);
    let cache = mm.cache_create("far", own(256)).expect("a cache");
    let objects = [alloc(&mm, cache, 1, 30), alloc(&mm, cache, 2, 5)];
    mm.cache_shrink(cache).expect("shrunk");
    assert_eq!(counts(&mm, cache), (35, 0));
    free(&mm, cache, 0, &objects[0][..12]);
    assert_eq!(counts(&mm, cache), (35, ALIENS), "all in the array");
    mm.audit().expect("whole");
    // One more, and the twelve go home: into the array that node 1 shares.
    free(&mm, cache, 0, &objects[0][12..13]);
    assert_eq!(counts(&mm, cache), (35, 1));
    assert_eq!(mm.cache_info(cache).expect("facts").shared_avail, ALIENS);
    mm.audit().expect("whole");
    // Each node has an array of its own for each other.
    free(&mm, cache, 0, &objects[1]);
    assert_eq!(counts(&mm, cache), (35, 6));
    free(&mm, cache, 2, &objects[0][13..20]);
    assert_eq!(counts(&mm, cache), (35, 13));
    mm.audit().expect("whole");
    // Node 1 has them again, none other.
    let again = alloc(&mm, cache, 1, 100);
    assert!(again.iter().all(|&object| node_of(&mm, object) == NodeId(1)));
    assert!(objects[0][..12].iter().all(|object| again.contains(object)));
    assert!(objects[1].iter().all(|object| !again.contains(object)));
    free(&mm, cache, 0, &again);
    free(&mm, cache, 1, &objects[0][20..]);
    mm.audit().expect("whole");
    // Nothing is left behind that would keep a cache.
    mm.cache_destroy(cache).expect("nothing is in use");
    mm.audit().expect("whole");
}

#[test]
fn shrinking_and_reaping_send_aliens_home() {
    let mm = machine(2, 2);
    let cache = mm.cache_create("aliens", own(512)).expect("a cache");
    let objects = alloc(&mm, cache, 1, 20);
    mm.cache_shrink(cache).expect("shrunk");
    free(&mm, cache, 0, &objects[..8]);
    assert_eq!(counts(&mm, cache), (20, 8));
    // The reaper of a CPU of that node, at once; not another's.
    mm.platform().run_on(CpuId(1));
    mm.cache_reap();
    assert_eq!(counts(&mm, cache).1, 8);
    mm.platform().run_on(CpuId(0));
    mm.cache_reap();
    assert_eq!(counts(&mm, cache).1, 0);
    mm.audit().expect("whole");
    free(&mm, cache, 0, &objects[8..]);
    assert!(counts(&mm, cache).1 > 0);
    assert!(mm.cache_shrink(cache).expect("shrunk") > 0);
    assert_eq!(counts(&mm, cache), (0, 0));
    assert_eq!(mm.cache_info(cache).expect("facts").num_slabs, 0);
    mm.audit().expect("whole");
}

#[test]
fn bulks_go_home_too() {
    let mm = machine(2, 2);
    let cache = mm.cache_create("bulk", own(128)).expect("a cache");
    let mut objects = alloc(&mm, cache, 1, 40);
    objects.extend(alloc(&mm, cache, 0, 40));
    // Runs of a few and of many, of both nodes, in turn.
    let far: Vec<_> = objects[..6].iter().chain(&objects[40..46]).copied().collect();
    mm.platform().run_on(CpuId(0));
    mm.cache_free_bulk(cache, &far).expect("freed");
    assert_eq!(counts(&mm, cache).1, 6);
    mm.audit().expect("whole");
    // A slab has 32 of them.
    mm.cache_free_bulk(cache, &objects[6..30]).expect("freed");
    assert_eq!(counts(&mm, cache).1, 6, "as many as these do not wait");
    mm.audit().expect("whole");
    mm.cache_free_bulk(cache, &objects[30..40]).expect("freed");
    assert!(counts(&mm, cache).1 <= ALIENS);
    mm.audit().expect("whole");
    mm.cache_free_bulk(cache, &objects[46..]).expect("freed");
    mm.audit().expect("whole");
    let near = alloc(&mm, cache, 0, 100);
    assert!(near.iter().all(|&object| node_of(&mm, object) == NodeId(0)));
    mm.cache_free_bulk(cache, &near).expect("freed");
    mm.cache_destroy(cache).expect("nothing is in use");
    mm.audit().expect("whole");
}

#[test]
fn a_second_free_is_noticed_on_the_way_home() {
    let mm = machine(2, 2);
    let cache = mm.cache_create("twice", own(64)).expect("a cache");
    let objects = alloc(&mm, cache, 1, 4);
    free(&mm, cache, 0, &objects[..1]);
    free(&mm, cache, 0, &objects[..1]);
    mm.platform().take_log();
    mm.cache_shrink(cache).expect("shrunk");
    let log = mm.platform().take_log();
    assert!(log.iter().any(|line| line.1.contains("double free")), "{log:?}");
    assert_eq!(counts(&mm, cache), (3, 0));
    mm.audit().expect("whole");
}

#[test]
fn aliens_of_the_reserves_stay_that() {
    let mm = machine(2, 2);
    let cache = mm.cache_create("reserves", own(256)).expect("a cache");
    for cpu in [0, 1] {
        let warm = alloc(&mm, cache, cpu, 1);
        // Each has its arrays, for the other's objects too.
        free(&mm, cache, 1 - cpu, &warm);
        let warm = alloc(&mm, cache, cpu, 1);
        free(&mm, cache, cpu, &warm);
    }
    mm.cache_shrink(cache).expect("shrunk");
    for order in (0..=10).rev().chain([1, 0]) {
        while mm.alloc_pages(Request::new(Order(order), QUIET)).is_ok() {}
        mm.drain_all(None);
    }
    mm.platform().run_on(CpuId(1));
    let entitled = QUIET | Gfp::MEMALLOC | Gfp::THISNODE;
    let object = mm.cache_alloc(cache, entitled).expect("the reserves");
    assert_eq!(mm.object_is_pfmemalloc(object), Ok(true));
    assert_eq!(node_of(&mm, object), NodeId(1));
    free(&mm, cache, 0, &[object]);
    assert_eq!(counts(&mm, cache).1, 1);
    mm.audit().expect("whole");
    for cpu in [0, 1] {
        mm.platform().run_on(CpuId(cpu));
        assert_eq!(mm.cache_alloc(cache, QUIET), Err(AllocError::NoMemory));
        // Home, and into the shared array.
        mm.cache_reap();
        assert_eq!(mm.cache_alloc(cache, QUIET), Err(AllocError::NoMemory));
        assert_eq!(mm.object_is_pfmemalloc(object), Ok(true));
    }
    mm.platform().run_on(CpuId(1));
    let got = mm.cache_alloc(cache, entitled).expect("the right");
    assert_eq!(mm.object_is_pfmemalloc(got), Ok(true));
    mm.audit().expect("whole");
}

#[test]
fn a_node_of_the_caller_s_choice() {
    let mm = machine(3, 3);
    mm.platform().run_on(CpuId(0));
    let cache = mm.cache_create("chosen", own(200)).expect("a cache");
    for node in [2, 0, 1].map(NodeId) {
        let objects: Vec<_> = (0..50)
            .map(|_| mm.cache_alloc_node(cache, Gfp::KERNEL, node).expect("an object"))
            .collect();
        assert!(objects.iter().all(|&object| node_of(&mm, object) == node));
        let small = mm.kmalloc_node(100, Gfp::KERNEL, node).expect("memory");
        let large = mm.kmalloc_node(20_000, Gfp::KERNEL, node).expect("memory");
        let cleared = mm.kmalloc_node(64, Gfp::KERNEL | Gfp::ZERO, node).expect("memory");
        // SAFETY: 64 bytes were given.
        assert_eq!(unsafe { cleared.cast::<[u8; 64]>().read() }, [0; 64]);
        for ptr in [small, large, cleared] {
            assert_eq!(node_of(&mm, ptr), node);
            mm.kfree(ptr).expect("freed");
        }
        free(&mm, cache, 0, &objects);
        mm.audit().expect("whole");
    }
    // All that node 2 has; then from elsewhere, unless that is not wanted.
    let only = QUIET | Gfp::THISNODE;
    let mut held = Vec::new();
    while let Ok(object) = mm.cache_alloc_node(cache, only, NodeId(2)) {
        assert_eq!(node_of(&mm, object), NodeId(2));
        held.push(object);
    }
    assert!(held.len() > 1000);
    let far = mm.cache_alloc_node(cache, QUIET, NodeId(2)).expect("another node has some");
    assert_ne!(node_of(&mm, far), NodeId(2));
    mm.audit().expect("whole");
    free(&mm, cache, 1, &held);
    free(&mm, cache, 1, &[far]);
    mm.cache_destroy(cache).expect("nothing is in use");
    mm.audit().expect("whole");
}

#[test]
fn cpus_without_memory_use_the_nearest_node() {
    // CPUs 0 and 1 on nodes with memory, CPU 2 on one without, CPU 3 on one
    // that does not exist.
    let mm = build_with(2, 4, |cpu| NodeId(cpu as u8));
    let cache = mm.cache_create("nearest", own(256)).expect("a cache");
    let mut objects = Vec::new();
    for cpu in 0..4 {
        let some = alloc(&mm, cache, cpu, 20);
        let first = node_of(&mm, some[0]);
        assert!(some.iter().all(|&object| node_of(&mm, object) == first));
        objects.extend(some);
        mm.audit().expect("whole");
    }
    let chosen = mm.cache_alloc_node(cache, Gfp::KERNEL, NodeId(9)).expect("an object");
    objects.push(chosen);
    for (i, &object) in objects.iter().enumerate() {
        free(&mm, cache, (i % 4) as u16, &[object]);
    }
    mm.audit().expect("whole");
    mm.cache_destroy(cache).expect("nothing is in use");
    mm.audit().expect("whole");
}

#[test]
fn a_handle_is_refused_on_all_cpus_at_once() {
    let mm = machine(2, 4);
    let config = CacheConfig::new(100);
    let first = mm.cache_create("first", config).expect("a cache");
    let second = mm.cache_create("second", config).expect("another handle");
    let mut kept = Vec::new();
    // Arrays on all CPUs, ready for both handles.
    for cpu in 0..4 {
        for cache in [first, second] {
            let object = alloc(&mm, cache, cpu, 2);
            free(&mm, cache, cpu, &object[..1]);
            kept.push(object[1]);
        }
    }
    mm.platform().run_on(CpuId(0));
    mm.cache_destroy(first).expect("the second is there");
    for cpu in 0..4 {
        mm.platform().run_on(CpuId(cpu));
        let object = kept[usize::from(cpu)];
        assert!(matches!(mm.cache_alloc(first, QUIET), Err(AllocError::Invalid(_))));
        assert_eq!(mm.cache_free(first, object), Err(SlabError::NoSuchCache));
        assert_eq!(mm.cache_free_bulk(first, &[object]), Err((0, SlabError::NoSuchCache)));
        mm.kfree(object).expect("by itself an object is freed still");
        let again = mm.cache_alloc(second, QUIET).expect("an object");
        mm.cache_free(second, again).expect("freed");
    }
    free(&mm, second, 1, &kept[4..]);
    mm.audit().expect("whole");
    mm.cache_destroy(second).expect("nothing is in use");
    for cpu in 0..4 {
        mm.platform().run_on(CpuId(cpu));
        assert!(matches!(mm.cache_alloc(second, QUIET), Err(AllocError::Invalid(_))));
    }
    mm.audit().expect("whole");
}

#[test]
fn a_failed_destroy_leaves_a_handle_that_works_on_all_cpus() {
    let mm = machine(2, 2);
    let cache = mm.cache_create("busy", own(64)).expect("a cache");
    let objects = [alloc(&mm, cache, 0, 3), alloc(&mm, cache, 1, 3)];
    assert_eq!(mm.cache_destroy(cache), Err(SlabError::Busy { live: 6 }));
    for cpu in [0, 1] {
        free(&mm, cache, cpu, &objects[usize::from(cpu)]);
        let again = alloc(&mm, cache, cpu, 5);
        free(&mm, cache, 1 - cpu, &again);
    }
    mm.cache_destroy(cache).expect("nothing is in use");
    mm.audit().expect("whole");
}

#[test]
fn a_cpu_that_goes_leaves_nothing_behind() {
    let mm = machine(2, 3);
    let cache = mm.cache_create("gone", own(256)).expect("a cache");
    let objects = alloc(&mm, cache, 2, 100);
    free(&mm, cache, 2, &objects);
    mm.platform().run_on(CpuId(2));
    let pages: Vec<_> = (0..50)
        .map(|_| mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("a page"))
        .collect();
    for page in pages {
        mm.free_pages(page).expect("freed");
    }
    mm.platform().run_on(CpuId(0));
    let held = |mm: &Mm<Machine>| mm.zones().iter().map(|zone| mm.pcp_pages(zone)).sum::<u64>();
    let before = (counts(&mm, cache).0, held(&mm));
    assert!(before.0 > 0 && before.1 > 0);
    // SAFETY: no thread is CPU 2 now, or will be before this returns.
    let freed = unsafe { mm.cpu_gone(CpuId(2)) };
    assert!(freed > 0);
    assert!(held(&mm) < before.1);
    mm.cache_shrink(cache).expect("shrunk");
    assert_eq!(counts(&mm, cache), (0, 0));
    mm.audit().expect("whole");
    // It may come back.
    let objects = alloc(&mm, cache, 2, 100);
    free(&mm, cache, 1, &objects);
    mm.audit().expect("whole");
    mm.cache_destroy(cache).expect("nothing is in use");
    mm.audit().expect("whole");
}
