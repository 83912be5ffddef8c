//! The search for contiguous ranges: exact sizes, alignment, zones and nodes.
#![cfg(feature = "host")]

use mm::contig::ContigError;
use mm::host::{Machine, build, pc};
use mm::memmap::BlockInfo;
use mm::types::{MigrateType, NodeId, Order, PAGEBLOCK_PAGES, Pfn, PfnRange};
use mm::{Config, Gfp, Mm, Page, Request};

/// Under Miri the machines are small and the operations are what is watched: an
/// audit there takes longer than all of a test.
#[track_caller]
fn audit(mm: &Mm<Machine>) {
    if !cfg!(miri) {
        mm.audit().expect("whole");
    }
}

fn machine(mib: u64, cpus: u16) -> Mm<Machine> {
    pc(mib, cpus, &Config::default()).expect("a machine")
}

fn range(start: u64, end: u64) -> PfnRange {
    PfnRange::new(Pfn(start), Pfn(end))
}

/// The types of all pageblocks, to be compared before and after.
fn types(mm: &Mm<Machine>) -> Vec<Option<MigrateType>> {
    (0..mm.map().end().0)
        .step_by(PAGEBLOCK_PAGES as usize)
        .map(|pfn| mm.map().info(Pfn(pfn)).map(BlockInfo::migratetype))
        .collect()
}

/// Takes all memory in blocks of `order` and gives back what `keep` is not true
/// for.
fn fragment(mm: &Mm<Machine>, order: u8, keep: impl Fn(Pfn) -> bool) -> Vec<Page> {
    let gfp = Gfp::KERNEL | Gfp::MEMALLOC | Gfp::NOWARN;
    let mut kept = Vec::new();
    let mut freed = Vec::new();
    while let Ok(page) = mm.alloc_pages(Request::new(Order(order), gfp)) {
        if keep(page.pfn) { kept.push(page) } else { freed.push(page) }
    }
    for page in freed {
        mm.free_pages(page).expect("its own");
    }
    mm.drain_all(None);
    kept
}

#[test]
fn sizes_are_exact_and_starts_aligned() {
    let (mib, most) = if cfg!(miri) { (16, 600) } else { (64, 5000) };
    let mm = machine(mib, 1);
    let free = mm.free_pages_total();
    for (count, align) in [
        (1, 0),
        (3, 2),
        (511, 0),
        (512, 9),
        (513, 10),
        (1023, 5),
        (1025, 0),
        (2500, 11),
        (4097, 12),
    ]
    .into_iter()
    .filter(|&(count, _)| count < most)
    {
        let got = mm
            .alloc_contig_pages(count, Order(align), None, Pfn(0x345), Gfp::KERNEL)
            .expect("there is room");
        assert_eq!(got.pages(), count);
        assert!(got.start.is_aligned(Order(align)) && got.start >= Pfn(0x345));
        assert_eq!(mm.free_pages_total(), free - count);
        audit(&mm);
        mm.free_contig_range(got).expect("its own");
        assert_eq!(mm.free_pages_total(), free);
    }
    audit(&mm);
}

#[test]
#[cfg_attr(miri, ignore = "takes all of 8 MiB page by page")]
fn an_exact_fit_is_found() {
    let mm = machine(8, 1);
    // Pages are left in use on both sides of a gap of 700, which is aligned to
    // nothing, in a zone whose other gaps are 255 pages.
    let gap = range(0x355, 0x355 + 700);
    let kept = fragment(&mm, 0, |pfn| {
        let beside = pfn.add(1) == gap.start || pfn == gap.end;
        beside || !gap.contains(pfn) && pfn.0 % 256 == 0x55
    });
    let got = mm.alloc_contig_pages(700, Order(0), None, Pfn(0), Gfp::KERNEL);
    assert_eq!(got, Ok(gap));
    assert!(mm.alloc_contig_pages(256, Order(0), None, Pfn(0), Gfp::KERNEL).is_err());
    // Above the last frame there is nothing, however it is rounded.
    for min_pfn in [mm.map().end(), Pfn(u64::MAX)] {
        let got = mm.alloc_contig_pages(1, Order(4), None, min_pfn, Gfp::KERNEL);
        assert_eq!(got, Err(ContigError::NoMemory));
    }
    audit(&mm);
    mm.free_contig_range(gap).expect("its own");
    for page in kept {
        mm.free_pages(page).expect("its own");
    }
    audit(&mm);
}

#[test]
#[cfg_attr(miri, ignore = "takes all of 64 MiB page by page")]
fn a_pinned_page_in_every_block_ends_it_soon() {
    let mm = machine(64, 1);
    let before_free = mm.free_pages_total();
    let kept = fragment(&mm, 0, |pfn| pfn.0 % 512 == 77);
    let before = types(&mm);
    assert!(mm.alloc_contig_pages(512, Order(0), None, Pfn(0), Gfp::KERNEL).is_err());
    assert!(mm.alloc_contig_pages(9000, Order(0), None, Pfn(0), Gfp::KERNEL).is_err());
    let most = mm.alloc_contig_pages(511, Order(0), None, Pfn(0), Gfp::KERNEL).expect("a gap");
    assert_eq!(types(&mm), before);
    audit(&mm);
    mm.free_contig_range(most).expect("its own");
    for page in kept {
        mm.free_pages(page).expect("its own");
    }
    mm.drain_all(None);
    assert_eq!(mm.free_pages_total(), before_free);
    audit(&mm);
}

#[test]
fn nodes_and_zones_are_not_mixed() {
    let machine = Machine::new(Pfn(0), Pfn(0x3000), 1).expect("address space");
    let ram = [
        (range(1, 0x1800), NodeId(0)),
        (range(0x1800, 0x2400), NodeId(1)),
        (range(0x2400, 0x3000), NodeId(0)),
    ];
    let mm = build(machine, &ram, &Config::default()).expect("a machine");
    let at =
        |count, node, gfp| mm.alloc_contig_pages(count, Order(0), Some(NodeId(node)), Pfn(0), gfp);
    let node_of = |r: PfnRange| {
        let node = |pfn| mm.map().try_block(pfn).expect("present").node();
        assert_eq!(node(r.start), node(Pfn(r.end.0 - 1)));
        node(r.start)
    };
    let one = at(0xa00, 1, Gfp::KERNEL).expect("on node 1");
    assert_eq!(node_of(one), NodeId(1));
    // No more there: the other node, unless that is not wanted.
    assert!(at(0x600, 1, Gfp::KERNEL | Gfp::THISNODE).is_err());
    let other = at(0x600, 1, Gfp::KERNEL).expect("on node 0");
    assert_eq!(node_of(other), NodeId(0));
    // Node 0's zone has a hole that belongs to node 1 and cannot be had over it.
    assert!(at(0x1000, 0, Gfp::KERNEL).is_err());
    mm.free_contig_range(one).expect("its own");
    assert!(at(0x1000, 0, Gfp::KERNEL).is_err());
    let over = mm.alloc_contig_range(range(0x17ff, 0x1801), Gfp::KERNEL);
    assert!(matches!(over, Err(ContigError::Invalid(_))));
    let dma = at(16, 0, Gfp::KERNEL | Gfp::DMA).expect("in DMA");
    assert!(dma.end <= mm::setup::DMA_END);
    mm.free_contig_range(dma).expect("its own");
    mm.free_contig_range(other).expect("its own");
    audit(&mm);
}
