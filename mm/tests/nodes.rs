//! Managers of machines with several nodes: where requests from each node go,
//! and in which order they fall to others.
#![cfg(feature = "host")]

use mm::early::{EarlyMem, RamRange, Reservation};
use mm::firmware::numa::Distances;
use mm::firmware::{MovableSplit, ZoneLayout};
use mm::host::{Machine, build};
use mm::slab::CacheConfig;
use mm::types::{CpuId, NodeId, Order, Pfn, PfnRange, ZoneKind};
use mm::{AllocError, Config, Gfp, Mm, Request};

const fn mib(from: u64, to: u64) -> PfnRange {
    PfnRange::new(Pfn(from << 8), Pfn(to << 8))
}

fn manager(
    ram: &[(PfnRange, NodeId)],
    cpus: &[u8],
    nodes: usize,
    distances: Distances,
) -> Mm<Machine> {
    let end = ram.iter().map(|r| r.0.end).max().unwrap();
    let mut machine = Machine::new(Pfn(0), end, cpus.len() as u16).expect("room");
    for (cpu, &node) in (0..).zip(cpus) {
        machine.set_node_of_cpu(CpuId(cpu), NodeId(node));
    }
    let mm = build(machine, ram, &Config { nodes, distances, ..Config::default() });
    let mm = mm.expect("a machine");
    mm.slab_init().expect("the slab layer");
    mm.audit().expect("a whole machine");
    mm
}

/// A node of 24 MiB each, one after the other, from 16 MiB on.
fn row(nodes: u8) -> Vec<(PfnRange, NodeId)> {
    let first = PfnRange::new(Pfn(1), Pfn(0xa0));
    let low = [(first, NodeId(0)), (mib(1, 16), NodeId(0))];
    let rest = (0..nodes).map(|n| (mib(16 + 24 * u64::from(n), 40 + 24 * u64::from(n)), NodeId(n)));
    low.into_iter().chain(rest).collect()
}

/// Nodes on a line: each ten further than the one before it.
fn line(nodes: u8) -> Distances {
    let mut distances = Distances::default();
    for (a, b) in (0..nodes).flat_map(|a| (0..nodes).map(move |b| (a, b))).filter(|(a, b)| a != b) {
        distances.set(NodeId(a), NodeId(b), 10 + 10 * a.abs_diff(b));
    }
    distances
}

const KERNEL: Gfp = Gfp::KERNEL.union(Gfp::NOWARN);

fn node_of(mm: &Mm<Machine>, pfn: Pfn) -> u8 {
    mm.map().try_block(pfn).expect("a block").node().0
}

/// Takes all that `request` can have; says from which nodes it came, in the
/// order in which they were first asked.
fn exhaust(mm: &Mm<Machine>, request: Request) -> (Vec<u8>, Vec<mm::Page>) {
    let (mut nodes, mut pages) = (Vec::new(), Vec::new());
    while let Ok(page) = mm.alloc_pages(request) {
        let node = node_of(mm, page.pfn);
        if !nodes.contains(&node) {
            nodes.push(node);
        }
        pages.push(page);
    }
    (nodes, pages)
}

fn give_back(mm: &Mm<Machine>, pages: Vec<mm::Page>) {
    pages.into_iter().for_each(|page| mm.free_pages(page).expect("ours"));
    mm.audit().expect("a whole machine");
}

#[test]
fn requests_fall_to_the_nearest_node() {
    for nodes in 1..=8u8 {
        let cpus: Vec<u8> = (0..nodes).collect();
        let mm = manager(&row(nodes), &cpus, 1, line(nodes));
        assert_eq!(mm.nodes(), usize::from(nodes));
        let log = mm.platform().take_log();
        assert!(log.iter().any(|l| l.1.starts_with("Built ")), "{log:?}");
        for from in 0..nodes {
            mm.platform().run_on(CpuId(u16::from(from)));
            let near: Vec<u8> = mm.nearest_nodes(NodeId(from)).map(|n| n.0).collect();
            assert!(near.is_sorted_by_key(|n| n.abs_diff(from)), "{from}: {near:?}");
            let words: Vec<String> = near.iter().map(ToString::to_string).collect();
            let words = format!("Fallback order for Node {from}: {}", words.join(" "));
            assert!(log.iter().any(|line| line.1 == words), "{words}: {log:?}");

            // One of each way to ask for a page where one is.
            let page = mm.alloc_pages(Request::new(Order(0), KERNEL)).unwrap();
            assert_eq!(node_of(&mm, page.pfn), from);
            let mut bulk = [Pfn(0); 8];
            assert_eq!(mm.alloc_bulk(KERNEL, None, &mut bulk), Ok(8));
            assert!(bulk.iter().all(|&pfn| node_of(&mm, pfn) == from));
            mm.free_bulk(&bulk).unwrap();
            let object = mm.kmalloc(200, KERNEL).unwrap();
            let frame = mm.map().head_of(frame_of(&mm, object)).unwrap().0;
            assert_eq!(node_of(&mm, frame), from);
            mm.kfree(object).unwrap();
            mm.free_pages(page).unwrap();

            if from % 3 == 0 {
                let (asked, pages) = exhaust(&mm, Request::new(Order(4), KERNEL));
                assert_eq!(asked, near, "from {from} of {nodes}");
                give_back(&mm, pages);
            }
        }
    }
}

fn frame_of(mm: &Mm<Machine>, ptr: core::ptr::NonNull<u8>) -> Pfn {
    use mm::platform::Platform;
    mm.platform().pfn_of(ptr.as_ptr()).expect("memory of the machine")
}

#[test]
fn thisnode_means_this_node() {
    let mm = manager(&row(3), &[0, 1], 3, line(3));
    let here = Gfp::THISNODE | KERNEL;
    for node in (0..3).map(NodeId) {
        let (asked, pages) = exhaust(&mm, Request::new(Order(0), here).on(node));
        assert_eq!(asked, [node.0]);
        let order0 = Request::new(Order(0), here).on(node);
        assert_eq!(mm.alloc_pages(order0), Err(AllocError::NoMemory));
        let mut bulk = [Pfn(0); 4];
        assert_eq!(mm.alloc_bulk(here, Some(node), &mut bulk), Err(AllocError::NoMemory));
        // Others still help those who let them.
        let elsewhere = mm.alloc_pages(Request::new(Order(0), KERNEL).on(node)).unwrap();
        assert_ne!(node_of(&mm, elsewhere.pfn), node.0);
        mm.free_pages(elsewhere).unwrap();
        give_back(&mm, pages);
    }
}

#[test]
fn slabs_stay_on_their_nodes() {
    let mm = manager(&row(2), &[0, 1], 2, Distances::default());
    let cache = mm.cache_create("stays", CacheConfig::new(1000)).unwrap();
    let mut objects = Vec::new();
    for (cpu, node) in [(0, 0), (1, 1)] {
        mm.platform().run_on(CpuId(cpu));
        let before = mm.slab_pages(NodeId(1 - node)).1;
        for _ in 0..500 {
            let object = mm.cache_alloc(cache, KERNEL).unwrap();
            assert_eq!(node_of(&mm, frame_of(&mm, object)), node);
            objects.push(object);
        }
        assert_eq!(mm.slab_pages(NodeId(1 - node)).1, before);
    }
    // The other CPU frees: each slab is its own node's again.
    for (i, object) in objects.into_iter().enumerate() {
        mm.platform().run_on(CpuId(u16::from(i < 500)));
        mm.cache_free(cache, object).unwrap();
    }
    mm.audit().unwrap();
    mm.cache_destroy(cache).unwrap();
    // A node that is full: objects of the other one, unless that is not wanted.
    mm.platform().run_on(CpuId(1));
    let cache = mm.cache_create("spills", CacheConfig::new(4000)).unwrap();
    let here = Request::new(Order(0), KERNEL | Gfp::THISNODE).on(NodeId(1));
    let (_, pages) = exhaust(&mm, here);
    assert_eq!(mm.cache_alloc(cache, KERNEL | Gfp::THISNODE), Err(AllocError::NoMemory));
    let object = mm.cache_alloc(cache, KERNEL).unwrap();
    assert_eq!(node_of(&mm, frame_of(&mm, object)), 0);
    mm.cache_free(cache, object).unwrap();
    mm.cache_destroy(cache).unwrap();
    give_back(&mm, pages);
}

/// CPUs on nodes 0, 2 and 3, of which 2 and 3 have no memory; 3 has nothing at
/// all near it but node 1.
#[test]
fn nodes_without_memory_borrow_from_the_nearest() {
    let mut ram = row(2);
    ram.retain(|r| !r.0.is_empty());
    let mut distances = line(4);
    distances.set(NodeId(2), NodeId(0), 15);
    let mm = manager(&ram, &[0, 2, 3], 4, distances);
    assert_eq!(mm.nodes(), 4);
    for (cpu, nearest) in [(0, 0), (1, 0), (2, 1)] {
        mm.platform().run_on(CpuId(cpu));
        let page = mm.alloc_pages(Request::new(Order(0), KERNEL)).unwrap();
        assert_eq!(node_of(&mm, page.pfn), nearest);
        mm.free_pages(page).unwrap();
        let own = Request::new(Order(0), KERNEL | Gfp::THISNODE);
        assert_eq!(mm.alloc_pages(own).is_ok(), cpu == 0);
        // A whole slab's worth costs one slab, not one each; the CPU's arrays
        // are made before.
        mm.kfree(mm.kmalloc(128, KERNEL).unwrap()).unwrap();
        let pages = mm.slab_pages(NodeId(nearest)).1;
        let objects: Vec<_> = (0..32).map(|_| mm.kmalloc(128, KERNEL).unwrap()).collect();
        assert!(objects.iter().all(|&o| node_of(&mm, frame_of(&mm, o)) == nearest));
        assert!(mm.slab_pages(NodeId(nearest)).1 <= pages + 2);
        objects.into_iter().for_each(|o| mm.kfree(o).unwrap());
        mm.audit().unwrap();
    }
    for node in [2, 3] {
        assert_eq!(mm.memory_node(NodeId(node)), NodeId(u8::from(node == 3)));
        let zones = ZoneKind::ALL.map(|kind| mm.zone(NodeId(node), kind).unwrap().present());
        assert_eq!(zones, [0; 4]);
    }
}

/// Spans and present pages as the layout has them, which follows Linux: nodes
/// that lie around each other, and some without memory between them.
#[test]
fn interleaved_nodes_span_each_other() {
    let ram = [
        (PfnRange::new(Pfn(1), Pfn(0xa0)), NodeId(0)),
        (mib(1, 8), NodeId(0)),
        (mib(8, 12), NodeId(3)),
        (mib(12, 40), NodeId(0)),
        (mib(40, 70), NodeId(1)),
        (mib(70, 74), NodeId(0)),
        (mib(80, 100), NodeId(3)),
        (mib(100, 128), NodeId(1)),
    ];
    let mm = manager(&ram, &[0, 1, 2, 3], 5, Distances::default());
    let (mut ranges, mut reserved) = ([RamRange::EMPTY; 16], [Reservation::EMPTY; 1]);
    let mut early = EarlyMem::new(&mut ranges, &mut reserved);
    ram.iter().for_each(|&(range, node)| early.add_ram(range, node));
    let layout = ZoneLayout::new(early.ram(), MovableSplit::default());
    for zone in mm.zones() {
        let want = layout.span(early.ram(), zone.node, zone.kind);
        assert_eq!(zone.span().pages(), want.pages(), "node {}, {:?}", zone.node.0, zone.kind);
        let present = layout.present(early.ram(), zone.node, zone.kind);
        assert_eq!(zone.present(), present, "node {}, {:?}", zone.node.0, zone.kind);
    }
    let dma32 = |node| mm.zone(NodeId(node), ZoneKind::Dma32).unwrap().span();
    assert_eq!(dma32(0), mib(16, 74));
    assert_eq!(dma32(1), mib(40, 128));
    // Its zone DMA is lower down, so this one begins at the border.
    assert_eq!(dma32(3), mib(16, 100));
    for node in (0..4).map(NodeId) {
        let (asked, pages) = exhaust(&mm, Request::new(Order(3), KERNEL).on(node));
        assert_eq!(asked.len(), 3);
        if node != NodeId(2) {
            assert_eq!(asked[0], node.0);
        }
        give_back(&mm, pages);
    }
}

/// An object of another node that was freed last lies in an array on its way
/// home: whoever finds nothing else gets it.
#[test]
fn what_is_on_its_way_home_is_not_out_of_reach() {
    let mm = manager(&row(2), &[0, 1], 2, Distances::default());
    let config = CacheConfig { dma: true, merge: false, ..CacheConfig::new(512) };
    let cache = mm.cache_create("far", config).unwrap();
    mm.platform().run_on(CpuId(1));
    // What the CPU and its node need to work with the cache.
    mm.cache_free(cache, mm.cache_alloc(cache, KERNEL).unwrap()).unwrap();
    let (asked, pages) = exhaust(&mm, Request::new(Order(0), KERNEL | Gfp::DMA));
    assert_eq!(asked, [0]);
    let objects: Vec<_> = std::iter::from_fn(|| mm.cache_alloc(cache, KERNEL).ok()).collect();
    assert!(objects.len() >= 8);
    for object in objects {
        assert_eq!(node_of(&mm, frame_of(&mm, object)), 0);
        mm.cache_free(cache, object).unwrap();
        assert_eq!(mm.cache_alloc(cache, KERNEL), Ok(object));
        mm.cache_free(cache, object).unwrap();
        mm.cache_alloc(cache, KERNEL).unwrap();
    }
    give_back(&mm, pages);
}
