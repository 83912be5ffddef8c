//! Zones whose borders lie where memory is awkward.
#![cfg(feature = "host")]

use mm::host::{Machine, build, pc};
use mm::memmap::zone_index;
use mm::types::{MAX_NODES, NodeId, Pfn, PfnRange, ZoneKind};
use mm::{Config, Mm};

fn kinds_and_present(mm: &Mm<Machine>) -> Vec<(NodeId, ZoneKind, u64)> {
    let populated = mm.zones().iter().filter(|zone| zone.present() > 0);
    populated.map(|zone| (zone.node, zone.kind, zone.present())).collect()
}

/// The manager's own tables lie at the top of RAM, where zone Movable begins
/// too: at a multiple of 2 MiB that is none of 4 MiB.
#[test]
fn reserved_memory_lies_across_a_zone_border() {
    let config = Config { movable_start: [Pfn(1018 << 8); MAX_NODES], ..Config::default() };
    let mm = pc(1024, 1, &config).expect("a machine");
    mm.audit().expect("a whole machine");
    let zone = mm.zone(NodeId(0), ZoneKind::Movable).expect("a zone");
    assert_eq!((zone.present(), zone.managed()), (6 << 8, 0));
}

/// A node may end in the middle of what would be a block of order 10.
#[test]
fn nodes_meet_at_an_odd_pageblock() {
    let machine = Machine::new(Pfn(0), Pfn(256 << 8), 1).expect("room");
    let border = Pfn(130 << 8);
    let ram = [
        (PfnRange::new(Pfn(1), border), NodeId(0)),
        (PfnRange::new(border, Pfn(256 << 8)), NodeId(1)),
    ];
    let mm = build(machine, &ram, &Config::default()).expect("a machine");
    mm.audit().expect("a whole machine");
    assert_eq!(
        kinds_and_present(&mm),
        [
            (NodeId(0), ZoneKind::Dma, (16 << 8) - 1),
            (NodeId(0), ZoneKind::Dma32, 114 << 8),
            (NodeId(1), ZoneKind::Dma32, 126 << 8),
        ]
    );
    for pfn in [Pfn(border.0 - 1), border] {
        let zone = mm.map().try_block(pfn).expect("a block").zone_index();
        let node = NodeId(u8::from(pfn >= border));
        assert_eq!(zone, zone_index(node, ZoneKind::Dma32), "zone of {pfn:?}");
    }
}
