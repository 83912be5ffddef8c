//! Where the memory map's own frames come from: from the node that they
//! describe, in large runs where there are any, in small ones where not.
#![cfg(feature = "host")]
#![cfg(not(miri))]

use mm::host::{Machine, build};
use mm::types::{NodeId, Pfn, PfnRange};
use mm::{Config, Mm};

fn made(end_mib: u64, ram: &[(PfnRange, NodeId)]) -> Mm<Machine> {
    let machine = Machine::new(Pfn(0), Pfn(end_mib << 8), 1).expect("room");
    let mm = build(machine, ram, &Config::default()).expect("a machine");
    mm.audit().expect("whole");
    mm
}

fn mib(start: u64, end: u64) -> PfnRange {
    PfnRange::new(Pfn(start << 8), Pfn(end << 8))
}

fn reserved(mm: &Mm<Machine>, node: u8) -> u64 {
    let zones = mm.zones().iter().filter(|zone| zone.node == NodeId(node));
    zones.map(|zone| zone.present() - zone.managed()).sum()
}

/// A page of descriptors describes 128 pages.
fn map_pages(mib: u64) -> u64 {
    (mib << 8) / 128
}

#[test]
fn each_node_describes_itself() {
    let mm = made(2048, &[(mib(1, 1024), NodeId(0)), (mib(1024, 2048), NodeId(1))]);
    for node in [0, 1] {
        let least = map_pages(1024);
        let found = reserved(&mm, node);
        assert!((least..least + 512).contains(&found), "node {node} has {found}, not {least}");
    }
}

#[test]
fn a_node_that_cannot_is_helped() {
    // The second node is smaller than its pageblocks' descriptors: a page each.
    let mut ram = vec![(mib(1, 256), NodeId(0))];
    for n in 0..16 {
        let start = Pfn((512 + 2 * n) << 8);
        ram.push((PfnRange::sized(start, 1), NodeId(1)));
    }
    let mm = made(600, &ram);
    assert_eq!(reserved(&mm, 1), 16, "what a node has is not too little for its own use");
    assert!(reserved(&mm, 0) >= map_pages(256) + 16 * 4 - 16);
}

/// RAM in pieces of 2 MiB, none of which a large page would fit.
#[test]
fn small_runs_will_do() {
    let ram: Vec<_> = (0..120).map(|n| (mib(4 * n + 1, 4 * n + 3), NodeId(0))).collect();
    let mm = made(480, &ram);
    let present: u64 = mm.zones().iter().map(mm::zone::Zone::present).sum();
    assert_eq!(present, 240 << 8);
    let found = reserved(&mm, 0);
    let least = map_pages(480);
    assert!((least..least + 64).contains(&found), "{found} reserved, {least} for the map");
}
