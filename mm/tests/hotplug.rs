//! Memory that goes out of use and comes back, is added and leaves.
#![cfg(feature = "host")]

use mm::host::{Machine, build, pc};
use mm::hotplug::{BlockState, HotplugError, MEMORY_BLOCK_PAGES, NewMemory, OnlineType};
use mm::proc::KPageFlags;
use mm::types::{NodeId, Order, PAGEBLOCK_PAGES, Pfn, PfnRange, ZoneKind};
use mm::zone::Zone;
use mm::{Config, Gfp, Mm, Request};

const BLOCK: u64 = MEMORY_BLOCK_PAGES;

fn block(number: u64) -> PfnRange {
    PfnRange::sized(Pfn(number * BLOCK), BLOCK)
}

fn zone(mm: &Mm<Machine>, kind: ZoneKind) -> &Zone {
    mm.zone(NodeId(0), kind).expect("node 0")
}

/// Spanned, present, managed.
fn sizes(mm: &Mm<Machine>, kind: ZoneKind) -> [u64; 3] {
    let zone = zone(mm, kind);
    [zone.span().pages(), zone.present(), zone.managed()]
}

#[track_caller]
fn audit(mm: &Mm<Machine>) {
    mm.audit().expect("whole");
}

/// A machine of 512 MiB at boot, with room for more up to 8 GiB.
fn growing(config: &Config) -> Mm<Machine> {
    let config = Config { hotplug_end: Pfn(8 << 18), ..*config };
    let machine = Machine::new(Pfn(0), Pfn(8 << 18), 2).expect("address space");
    let ram = [(PfnRange::new(Pfn(1), Pfn(4 * BLOCK)), NodeId(0))];
    build(machine, &ram, &config).expect("a machine")
}

const NEW: NewMemory = NewMemory { node: NodeId(0), name: "System RAM", plugged: true };

#[test]
fn a_sub_block_is_present_and_not_managed() {
    let mm = pc(512, 1, &Config::default()).expect("a machine");
    let [spanned, present, managed] = sizes(&mm, ZoneKind::Dma32);
    let marks = zone(&mm, ZoneKind::Dma32).marks();
    let free = mm.free_pages_total();
    let sub = PfnRange::sized(Pfn(2 * BLOCK + PAGEBLOCK_PAGES), PAGEBLOCK_PAGES);
    assert_eq!(mm.offline(sub), Ok(PAGEBLOCK_PAGES));
    audit(&mm);
    assert_eq!(sizes(&mm, ZoneKind::Dma32), [spanned, present, managed - PAGEBLOCK_PAGES]);
    assert_eq!(mm.free_pages_total(), free - PAGEBLOCK_PAGES);
    assert!(zone(&mm, ZoneKind::Dma32).marks().min <= marks.min);
    assert_eq!(mm.kpageflags(sub.start.add(7)), KPageFlags::OFFLINE);
    assert_eq!(mm.offline(sub), Err(HotplugError::Already));
    let listed = mm.memory_block(2).expect("RAM");
    assert_eq!((listed.offline, listed.pages), (PAGEBLOCK_PAGES, BLOCK));
    assert_eq!(listed.state, BlockState::Online(Some(ZoneKind::Dma32)));
    assert_eq!(mm.online(sub, OnlineType::Auto), Ok(PAGEBLOCK_PAGES));
    audit(&mm);
    assert_eq!(sizes(&mm, ZoneKind::Dma32), [spanned, present, managed]);
    assert_eq!(zone(&mm, ZoneKind::Dma32).marks(), marks);
    assert_eq!(mm.free_pages_total(), free);
    assert_eq!(mm.online(sub, OnlineType::Auto), Err(HotplugError::Already));
}

/// A zone's span has memory of other zones in it once memory has changed hands:
/// what lies there unwanted is listed in its own.
#[test]
fn what_another_zone_has_in_the_span_is_listed_there() {
    let mm = pc(512, 2, &Config::default()).expect("a machine");
    assert_eq!(mm.offline(block(2)), Ok(BLOCK));
    assert_eq!(mm.online(block(2), OnlineType::Movable), Ok(BLOCK));
    assert!(zone(&mm, ZoneKind::Dma32).span().contains(block(2).start));
    mm.report_all();
    audit(&mm);
    assert_eq!(mm.offline(block(2)), Ok(BLOCK));
    audit(&mm);
}

/// What is left of a memory block goes in several runs, of which nobody has
/// wanted anything since boot.
#[test]
fn a_memory_block_goes_of_which_a_part_has_gone() {
    let mm = pc(512, 1, &Config::default()).expect("a machine");
    let gone = [PAGEBLOCK_PAGES * 20, PAGEBLOCK_PAGES * 41]
        .map(|at| PfnRange::sized(block(2).start.add(at), PAGEBLOCK_PAGES));
    for part in gone {
        assert_eq!(mm.offline(part), Ok(PAGEBLOCK_PAGES));
    }
    assert_eq!(mm.offline(block(2)), Ok(BLOCK - 2 * PAGEBLOCK_PAGES));
    audit(&mm);
    assert_eq!(mm.online(block(2), OnlineType::Auto), Ok(BLOCK));
    audit(&mm);
}

#[test]
fn a_memory_block_leaves_its_zone_and_comes_back() {
    let mm = pc(512, 2, &Config::default()).expect("a machine");
    let before = sizes(&mm, ZoneKind::Dma32);
    // The manager's own tables are at the end.
    for at in [2, 1] {
        let now = sizes(&mm, ZoneKind::Dma32);
        assert_eq!(mm.offline(block(at)), Ok(BLOCK));
        audit(&mm);
        assert_eq!(mm.kpageflags(block(at).start), KPageFlags::NOPAGE);
        let [present, managed] = [now[1] - BLOCK, now[2] - BLOCK];
        assert_eq!(sizes(&mm, ZoneKind::Dma32), [before[0], present, managed]);
    }
    let listed = mm.memory_block(2).expect("RAM");
    assert_eq!(listed.state, BlockState::Offline([ZoneKind::Dma32, ZoneKind::Movable]));
    // In part first: the rest is out of use, and of the zone.
    let part = PfnRange::sized(block(1).start.add(PAGEBLOCK_PAGES), 5 * PAGEBLOCK_PAGES);
    assert_eq!(mm.online(part, OnlineType::Auto), Ok(part.pages()));
    audit(&mm);
    assert_eq!(mm.kpageflags(block(1).start), KPageFlags::OFFLINE);
    let [present, managed] = [before[1] - BLOCK, before[2] - 2 * BLOCK + part.pages()];
    assert_eq!(sizes(&mm, ZoneKind::Dma32), [before[0], present, managed]);
    for at in [2, 1] {
        mm.online(block(at), OnlineType::Auto).expect("something to do");
        audit(&mm);
    }
    assert_eq!(sizes(&mm, ZoneKind::Dma32), before);
}

#[test]
fn what_moves_is_moved_and_what_stays_is_named() {
    let mm = pc(512, 1, &Config::default()).expect("a machine");
    let before = sizes(&mm, ZoneKind::Dma32);
    let range = block(2);
    let kernel = mm.alloc_contig_range(PfnRange::sized(Pfn(2 * BLOCK + 77), 3), Gfp::KERNEL);
    let kernel = kernel.expect("free memory");
    match mm.offline(range) {
        Err(HotplugError::Busy(obstacle)) => assert!(kernel.contains(obstacle.pfn)),
        other => panic!("{other:?}"),
    }
    audit(&mm);
    assert_eq!(sizes(&mm, ZoneKind::Dma32), before);
    mm.free_contig_range(kernel).expect("ours");
    assert!(matches!(mm.offline(block(0)), Err(HotplugError::Invalid(_))), "it has holes");
    let unaligned = PfnRange::sized(range.start.add(1), PAGEBLOCK_PAGES);
    assert!(matches!(mm.offline(unaligned), Err(HotplugError::Invalid(_))));
}

#[test]
fn a_block_may_change_its_zone() {
    let mm = pc(512, 1, &Config::default()).expect("a machine");
    assert_eq!(mm.offline(block(2)), Ok(BLOCK));
    assert_eq!(mm.online(block(2), OnlineType::Movable), Ok(BLOCK));
    audit(&mm);
    assert_eq!(sizes(&mm, ZoneKind::Movable), [BLOCK; 3]);
    let page = mm.alloc_pages(Request::new(Order(0), Gfp::HIGHMEM | Gfp::MOVABLE)).expect("a page");
    assert!(block(2).contains(page.pfn), "the zone is asked first by now");
    mm.free_pages(page).expect("ours");
    let sub = PfnRange::sized(block(2).start, PAGEBLOCK_PAGES);
    assert_eq!(mm.offline(sub), Ok(sub.pages()));
    assert!(matches!(mm.online(sub, OnlineType::Kernel), Err(HotplugError::Invalid(_))));
    assert_eq!(mm.offline(block(2)), Ok(BLOCK - sub.pages()));
    audit(&mm);
    assert_eq!(sizes(&mm, ZoneKind::Movable), [0; 3]);
    // Its place is inside of what DMA32 spans.
    assert_eq!(mm.online(block(2), OnlineType::Auto), Ok(BLOCK));
    assert_eq!(sizes(&mm, ZoneKind::Movable), [0; 3]);
    audit(&mm);
}

#[test]
fn zones_end_where_their_memory_does() {
    let mm = growing(&Config::default());
    let new = PfnRange::new(block(32).start, block(39).end);
    mm.add_memory(new, NEW).expect("room for it");
    let spans = |kind| zone(&mm, kind).span();
    let blocks = |first, last| PfnRange::new(block(first).start, block(last).end);
    // What is not between others goes by its place, then the neighbours decide.
    let steps = [
        (36, OnlineType::Auto, blocks(36, 36), PfnRange::default()),
        (33, OnlineType::Kernel, blocks(33, 36), PfnRange::default()),
        (35, OnlineType::Auto, blocks(33, 36), PfnRange::default()),
        (39, OnlineType::Movable, blocks(33, 36), blocks(39, 39)),
        (37, OnlineType::Movable, blocks(33, 36), blocks(37, 39)),
        (38, OnlineType::Auto, blocks(33, 36), blocks(37, 39)),
    ];
    for (at, how, normal, movable) in steps {
        assert_eq!(mm.online(block(at), how), Ok(BLOCK));
        audit(&mm);
        assert_eq!((spans(ZoneKind::Normal), spans(ZoneKind::Movable)), (normal, movable));
    }
    for (at, normal, movable) in [
        (33, blocks(35, 36), blocks(37, 39)),
        (38, blocks(35, 36), blocks(37, 39)),
        (39, blocks(35, 36), blocks(37, 37)),
        (36, blocks(35, 35), blocks(37, 37)),
        (35, PfnRange::default(), blocks(37, 37)),
        (37, PfnRange::default(), PfnRange::default()),
    ] {
        assert_eq!(mm.offline(block(at)), Ok(BLOCK));
        audit(&mm);
        let found = (spans(ZoneKind::Normal), spans(ZoneKind::Movable));
        assert_eq!(found, (normal, movable), "without {at}");
    }
    // What was Movable before is so again.
    assert_eq!(mm.online(block(39), OnlineType::Auto), Ok(BLOCK));
    assert_eq!(spans(ZoneKind::Movable), blocks(39, 39));
}

#[test]
fn what_is_not_plugged_is_not_touched() {
    let mm = growing(&Config::default());
    let lent = NewMemory { name: "System RAM (virtio_mem)", plugged: false, ..NEW };
    mm.add_memory(block(40), lent).expect("room for it");
    assert_eq!(mm.online(block(40), OnlineType::Auto), Err(HotplugError::Already));
    let part = PfnRange::sized(block(40).start.add(4 * PAGEBLOCK_PAGES), 3 * PAGEBLOCK_PAGES);
    mm.set_plugged(part, true).expect("out of use");
    assert_eq!(mm.online(block(40), OnlineType::Movable), Ok(part.pages()));
    audit(&mm);
    assert_eq!(sizes(&mm, ZoneKind::Movable), [BLOCK, BLOCK, part.pages()]);
    assert_eq!(mm.set_plugged(part, false), Err(HotplugError::InUse));
    let more = PfnRange::sized(part.end, PAGEBLOCK_PAGES);
    mm.set_plugged(more, true).expect("out of use");
    assert_eq!(mm.online(more, OnlineType::Auto), Ok(PAGEBLOCK_PAGES));
    audit(&mm);
    assert_eq!(mm.offline(part), Ok(part.pages()));
    mm.set_plugged(part, false).expect("out of use");
    assert_eq!(sizes(&mm, ZoneKind::Movable), [BLOCK, BLOCK, PAGEBLOCK_PAGES]);
    assert_eq!(mm.offline(more), Ok(PAGEBLOCK_PAGES));
    audit(&mm);
    assert_eq!(sizes(&mm, ZoneKind::Movable), [0; 3]);
    mm.remove_memory(block(40)).expect("out of use");
    assert_eq!(mm.added_memory().count(), 0);
    assert!(mm.set_plugged(block(2), false).is_err(), "there since the boot");
}

#[test]
fn memory_is_added_used_and_removed() {
    let mm = growing(&Config::default());
    let before = (mm.free_pages_total(), sizes(&mm, ZoneKind::Normal));
    let new = PfnRange::new(block(32).start, block(36).end);
    assert_eq!(mm.offline(new), Err(HotplugError::Invalid("not all of it is memory")));
    for round in 0..3 {
        mm.add_memory(new, NEW).expect("room for it");
        audit(&mm);
        assert!(mm.add_memory(new, NEW).is_err());
        assert_eq!(mm.added_memory().collect::<Vec<_>>(), [(new, "System RAM")]);
        assert_eq!(sizes(&mm, ZoneKind::Normal), before.1);
        assert_eq!(mm.online(new, OnlineType::Auto), Ok(new.pages()));
        audit(&mm);
        assert_eq!(sizes(&mm, ZoneKind::Normal), [new.pages(); 3]);
        let page = mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("a page");
        assert!(new.contains(page.pfn), "{:?}", page.pfn);
        mm.free_pages(page).expect("ours");
        assert_eq!(mm.remove_memory(new), Err(HotplugError::InUse));
        if round == 1 {
            for at in [33, 36, 35, 32, 34] {
                assert_eq!(mm.offline(block(at)), Ok(BLOCK));
                audit(&mm);
            }
        } else {
            assert_eq!(mm.offline(new), Ok(new.pages()));
        }
        audit(&mm);
        assert_eq!(sizes(&mm, ZoneKind::Normal), before.1);
        mm.remove_memory(new).expect("out of use");
        audit(&mm);
        mm.drain_all(None);
        // The words of its region stay.
        assert_eq!(mm.added_map_pages(), 1);
        assert_eq!(mm.free_pages_total(), before.0 - mm.added_map_pages());
    }
    assert!(mm.remove_memory(block(3)).is_err());
}
