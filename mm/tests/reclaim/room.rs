//! Whose memory makes room for a contiguous range: that of the range's own zone,
//! whatever is older elsewhere; and what a range does with programs' memory.
#![cfg(not(miri))]

use super::contig::{
    CMA, file_pages, fill_with, machine, movable_range, zones_keep_their_reserves,
};
use super::disk::Disk;
use super::{CACHE, NODE, event};
use mm::cma::CmaId;
use mm::contig::ContigError;
use mm::fault::FaultPlan;
use mm::host::swap::SwapDisk;
use mm::host::{Machine, build, pc};
use mm::lru::LruKind;
use mm::mmu::{Entry, VirtAddr};
use mm::page::PageType;
use mm::space::{HugePages, MapFlags, Prot, SpaceRef};
use mm::types::{CpuId, MAX_NODES, NodeId, Order, PAGE_SIZE, Pfn, PfnRange, ZoneKind};
use mm::zone::{Mark, Zone};
use mm::{Config, Gfp, Mm, Page, Request};
use std::num::NonZeroU64;
use std::sync::atomic::Ordering::Relaxed;

const PAGE: u64 = PAGE_SIZE as u64;
const RW: Prot = Prot::READ.union(Prot::WRITE);
const FAR: NodeId = NodeId(1);

const fn mib(from: u64, to: u64) -> PfnRange {
    PfnRange::new(Pfn(from << 8), Pfn(to << 8))
}

/// A machine with zones of all kinds, and two of them on a second node.
fn all_zones() -> Mm<Machine> {
    let mut movable_start = [Pfn(u64::MAX); MAX_NODES];
    movable_start[0] = Pfn(4192 << 8);
    movable_start[1] = Pfn(4288 << 8);
    let config = Config { nodes: 2, movable_start, ..Config::default() };
    let mut machine = Machine::new(Pfn(0), Pfn(4320 << 8), 2).expect("room");
    machine.set_node_of_cpu(CpuId(1), FAR);
    let ram = [
        (PfnRange::new(Pfn(1), Pfn(0xa0)), NODE),
        (mib(1, 56), NODE),
        (mib(4096, 4224), NODE),
        (mib(4224, 4320), FAR),
    ];
    let mm = build(machine, &ram, &config).expect("a machine");
    // What marks are raised for is another matter.
    mm.set_watermark_boost_factor(0);
    mm
}

/// Has cached pages in all zones: the youngest are those that may lie in zones of
/// `kind` on `node`, the oldest those of the others.
fn fill_all(mm: &Mm<Machine>, disk: &Disk, node: NodeId, kind: ZoneKind) {
    let gfp = |kind| match kind {
        ZoneKind::Dma => (CACHE - Gfp::HIGHMEM) | Gfp::DMA,
        ZoneKind::Dma32 => (CACHE - Gfp::HIGHMEM) | Gfp::DMA32,
        ZoneKind::Normal => CACHE - Gfp::HIGHMEM,
        ZoneKind::Movable => CACHE,
    };
    // Nodes of the cache's tree do not lie where all can be moved.
    let request = Request::new(Order(0), Gfp::NOWAIT).on(node);
    let kept: Vec<Page> = (0..256).map(|_| mm.alloc_pages(request).expect("a page")).collect();
    let mut kept = Some(kept);
    let mut block = 0;
    let both = [NODE, FAR].map(|node| ZoneKind::ALL.map(|kind| (node, kind)));
    let others = both.into_iter().flatten().filter(|&this| this != (node, kind));
    for this in others.chain([(node, kind)]) {
        if this == (node, kind) {
            let kept = kept.take().into_iter().flatten();
            kept.for_each(|page| mm.free_pages(page).expect("its own"));
            mm.drain_all(None);
        }
        mm.platform().run_on(CpuId(this.0.0.into()));
        block = fill_with(mm, disk, block, true, gfp(this.1) | Gfp::THISNODE);
        // Where there is none for nodes of the tree, others have the rest.
        let zone = mm.zone(this.0, this.1).expect("a zone");
        let request = Request::new(Order(0), (CACHE - Gfp::KERNEL) | Gfp::THISNODE | Gfp::NOWARN);
        while this.1 == ZoneKind::Movable && zone.free_pages() > zone.mark(Mark::Low) {
            mm.alloc_pages(request).expect("above the mark");
        }
    }
    mm.platform().run_on(CpuId(0));
}

/// Ranges in each zone of a machine that is full of cached pages: what is older in
/// others stays, and no zone is left with less than it has to have.
#[test]
fn no_other_zone_pays() {
    let zones = [
        (NODE, ZoneKind::Dma),
        (NODE, ZoneKind::Dma32),
        (NODE, ZoneKind::Normal),
        (NODE, ZoneKind::Movable),
        (FAR, ZoneKind::Normal),
        (FAR, ZoneKind::Movable),
    ];
    // What is dirty is written, or moved if that may not be.
    let moves = Gfp::NOIO | Gfp::RETRY_MAYFAIL;
    for ((node, kind), gfp) in zones.into_iter().flat_map(|zone| [(zone, CMA), (zone, moves)]) {
        let mm = all_zones();
        let disk = Disk::of(&mm);
        fill_all(&mm, disk, node, kind);
        let own = mm.zone(node, kind).expect("a zone");
        // What a zone keeps back from higher ones is no reason to look elsewhere.
        let class = ZoneKind::Movable;
        assert!(kind == class || own.lowmem_reserve(class) > 0 || node == FAR, "{kind:?}");
        let state = |zone: &Zone| (zone.node, zone.kind, file_pages(&mm, zone), zone.free_pages());
        let others = || mm.zones().iter().filter(|zone| zone.index() != own.index());
        let before: Vec<_> = others().map(state).collect();
        let cached = file_pages(&mm, own);
        assert!(cached > own.managed() / 3, "{node:?} {kind:?}: {cached}");
        let range = movable_range(&mm, own, 4 << 8);
        mm.alloc_contig_range(range, gfp).expect("room can be made");
        let moved = event(&mm, "pgmigrate_success");
        assert_eq!(moved > 0, gfp == moves, "{node:?} {kind:?}: {moved} moved");
        assert_eq!(others().map(state).collect::<Vec<_>>(), before, "{node:?} {kind:?}");
        assert!(file_pages(&mm, own) < cached, "{node:?} {kind:?}: of {cached}");
        assert!(own.free_pages() >= own.mark(Mark::Low), "{node:?} {kind:?}");
        mm.audit().expect("whole");
        mm.free_contig_range(range).expect("its own");
    }
}

/// What others have plenty of is used before the range's zone is filled with what
/// it has made room for; but not by having them reclaim.
#[test]
fn what_others_have_to_spare_is_taken() {
    let mm = all_zones();
    let disk = Disk::of(&mm);
    let own = mm.zone(NODE, ZoneKind::Dma32).expect("a zone");
    fill_with(&mm, disk, 0, true, (CACHE - Gfp::HIGHMEM) | Gfp::DMA32 | Gfp::THISNODE);
    let range = movable_range(&mm, own, 4 << 8);
    let moved = event(&mm, "pgmigrate_success");
    // Who must not write has them moved.
    mm.alloc_contig_range(range, Gfp::NOIO | Gfp::RETRY_MAYFAIL).expect("room can be made");
    let moved = event(&mm, "pgmigrate_success") - moved;
    assert!(moved > 300, "{moved} of 1024, a third of them dirty");
    let more = mm
        .zones()
        .iter()
        .map(|zone| if zone.index() == own.index() { 0 } else { file_pages(&mm, zone) });
    assert!(more.sum::<u64>() >= moved);
    mm.audit().expect("whole");
    mm.free_contig_range(range).expect("its own");
}

/// While something moves, nothing is to be had of what is free around it either, as
/// whole pageblocks are isolated: room is made for that too.
#[test]
fn what_is_free_around_a_range_is_no_room() {
    let mm = pc(64, 1, &Config::default()).expect("a machine");
    let disk = Disk::of(&mm);
    let blocks = fill_with(&mm, disk, 0, true, CACHE);
    let zone = mm.zone(NODE, ZoneKind::Dma32).expect("DMA32");
    let block = movable_range(&mm, zone, 512);
    // A few stay in the middle of it, and get dirty.
    let range = PfnRange::sized(block.start.add(100), 20);
    let lies_in = |at, range: PfnRange| disk.frame_of(&mm, at).is_some_and(|p| range.contains(p));
    (0..blocks)
        .filter(|&at| lies_in(at, block) && !lies_in(at, range))
        .for_each(|at| disk.forget(&mm, at));
    (0..blocks)
        .filter(|&at| lies_in(at, range))
        .for_each(|at| disk.write(&mm, at, 7, CACHE).expect("a cached page"));
    mm.drain_all(None);
    let (around, low) = (512 - range.pages(), zone.mark(Mark::Low));
    assert!(zone.free_pages() > low + 60 && zone.free_pages() < low + around);
    let before = file_pages(&mm, zone);
    // Who must not write has them moved, and has one try.
    let got = mm.alloc_contig_range(range, Gfp::NOIO | Gfp::NORETRY | Gfp::NOWARN);
    assert_eq!(got, Ok(range), "{} free, {low} are to stay", zone.free_pages());
    assert!(event(&mm, "pgmigrate_success") >= 16, "some had to move");
    assert!(file_pages(&mm, zone) < before, "what was free was not enough");
    assert!(zone.free_pages() >= low);
    mm.free_contig_range(range).expect("its own");
    mm.audit().expect("whole");
}

/// That there is no place in the end, though room was made, is no reason to give up
/// at once: others may have been faster.
#[test]
fn room_is_made_again_for_who_has_lost_it() {
    let mm = pc(64, 1, &Config::default()).expect("a machine");
    let disk = Disk::of(&mm);
    // What cannot be written has to move.
    disk.broken.store(true, Relaxed);
    (0..64).for_each(|block| disk.write(&mm, block, 6, CACHE).expect("a page"));
    let frames = (0..64).filter_map(|block| disk.frame_of(&mm, block));
    let first = frames.min().expect("some");
    let range = PfnRange::sized(first, 1);
    for (gfp, again) in [(Gfp::NORETRY, false), (Gfp::empty(), true)] {
        mm.set_faults(FaultPlan::Nth(NonZeroU64::MIN));
        let got = mm.alloc_contig_range(range, CMA | gfp);
        assert_eq!(mm.fault_counts().failed, 1, "a place was asked for");
        mm.set_faults(FaultPlan::Off);
        assert_eq!(got, if again { Ok(range) } else { Err(ContigError::NoMemory) });
        mm.audit().expect("whole");
    }
    mm.free_contig_range(range).expect("its own");
}

/// Pages that were taken to be moved are their lists' again when there is no place for
/// them, cached ones among them.
#[test]
fn what_finds_no_place_is_put_back() {
    let mm = pc(64, 1, &Config::default()).expect("a machine");
    mm.slab_init().expect("slab");
    mm.set_huge_pages(HugePages::Never);
    let disk = Disk::of(&mm);
    let space = mm.space_new("programs").expect("a space");
    let mut block = 0;
    // One in eight is cached.
    let va = mm.mmap(&space, None, 2048 * PAGE, RW, MapFlags::empty()).expect("room");
    for i in 0..2048_u64 {
        mm.write_space(&space, va.add(i * PAGE), &i.to_ne_bytes()).expect("memory");
        if i % 8 == 0 {
            disk.read(&mm, block, CACHE).expect("a page");
            block += 1;
        }
    }
    mm.lru_drain_all();
    mm.drain_all(None);
    let filled = |range: PfnRange| {
        let word = |i| mm.map().try_page(range.start.add(i)).expect("RAM").head();
        (0..512).filter(|&i| word(i).ty() == PageType::Lru).count()
    };
    let frames = (0..block).filter_map(|block| disk.frame_of(&mm, block));
    let range = frames
        .map(|frame| PfnRange::sized(Pfn(frame.0 & !511), 512))
        .find(|&range| filled(range) == 512)
        .expect("a pageblock of such pages alone");
    // From the first place that is asked for on, and from a later one.
    for every in [1, 2] {
        mm.set_faults(FaultPlan::Every(NonZeroU64::new(every).expect("not zero")));
        let got = mm.alloc_contig_range(range, CMA | Gfp::NORETRY);
        assert!(mm.fault_counts().failed > 0, "places were asked for");
        mm.set_faults(FaultPlan::Off);
        assert_eq!(got, Err(ContigError::NoMemory));
        for kind in [LruKind::Anon, LruKind::File] {
            assert_eq!(mm.node_isolated_pages(NODE, kind), 0, "{kind:?}");
        }
        mm.audit().expect("whole");
    }
    mm.alloc_contig_range(range, CMA).expect("now there are places");
    for i in 0..2048 {
        let mut bytes = [0; 8];
        mm.read_space(&space, va.add(i * PAGE), &mut bytes).expect("there");
        assert_eq!(u64::from_ne_bytes(bytes), i, "page {i}");
    }
    mm.free_contig_range(range).expect("its own");
    mm.space_put(space);
    mm.audit().expect("whole");
}

fn fill_space(mm: &Mm<Machine>, space: &SpaceRef<'_>, pages: u64) -> VirtAddr {
    let va = mm.mmap(space, None, pages * PAGE, RW, MapFlags::empty()).expect("room");
    for i in 0..pages {
        mm.write_space(space, va.add(i * PAGE), &i.to_ne_bytes()).expect("memory");
    }
    va
}

fn check_space(mm: &Mm<Machine>, space: &SpaceRef<'_>, va: VirtAddr, pages: u64) {
    for i in 0..pages {
        let mut bytes = [0; 8];
        mm.read_space(space, va.add(i * PAGE), &mut bytes).expect("there");
        assert_eq!(u64::from_ne_bytes(bytes), i, "page {i}");
    }
}

/// An area that programs have filled is had whole: what they have locked moves, the
/// rest does so or goes to swap.
#[test]
fn programs_make_way_for_an_area() {
    let mm = machine(160);
    mm.set_watermark_boost_factor(0);
    mm.slab_init().expect("slab");
    mm.set_huge_pages(HugePages::Never);
    let store: &'static SwapDisk = Box::leak(Box::new(SwapDisk::new("/dev/store", 96 << 8)));
    mm.swapon(store, None).expect("memory for its table");
    let zone = mm.zone(NODE, ZoneKind::Dma32).expect("DMA32");
    let area = mm.cma_area(CmaId::DEFAULT).expect("the area").range();
    let space = mm.space_new("programs").expect("a space");
    // The kernel has what is not the area's, but for what is locked and a little.
    let locked = 16 << 8;
    let request = Request::new(Order(0), Gfp::NOWAIT | Gfp::NOWARN);
    let mut held: Vec<Page> = std::iter::from_fn(|| mm.alloc_pages(request).ok()).collect();
    held.drain(..locked as usize + 2048).for_each(|page| mm.free_pages(page).expect("its own"));
    let pinned = fill_space(&mm, &space, locked);
    mm.mlock(&space, pinned, locked * PAGE).expect("memory");
    let rest = (64 << 8) + 1024;
    let other = fill_space(&mm, &space, rest);
    mm.lru_drain_all();
    let frame = |va| match mm.entry_at(&space, va) {
        Entry::Page(mapping) => Some(mapping.pfn),
        _ => None,
    };
    let in_area = |va: VirtAddr, pages: u64| {
        (0..pages).filter(|i| frame(va.add(i * PAGE)).is_some_and(|pfn| area.contains(pfn))).count()
            as u64
    };
    assert!(in_area(pinned, locked) > 256, "what is locked lies in the area too");
    assert!(in_area(pinned, locked) + in_area(other, rest) > area.pages() * 7 / 8);
    let (moved, out) = (event(&mm, "pgmigrate_success"), event(&mm, "pswpout"));

    let got = mm.cma_alloc(CmaId::DEFAULT, area.pages(), Order(0), CMA);

    assert_eq!(got, Ok(area));
    zones_keep_their_reserves(&mm);
    assert!(zone.free_pages() >= zone.mark(Mark::Low));
    assert!(event(&mm, "pgmigrate_success") >= moved + 256);
    assert!(event(&mm, "pswpout") > out);
    assert_eq!((in_area(pinned, locked), in_area(other, rest)), (0, 0));
    // What is locked is there.
    assert!((0..locked).all(|i| frame(pinned.add(i * PAGE)).is_some()));
    mm.audit().expect("whole");
    check_space(&mm, &space, pinned, locked);
    mm.cma_release(CmaId::DEFAULT, area).expect("its own");
    check_space(&mm, &space, other, rest);
    held.into_iter().for_each(|page| mm.free_pages(page).expect("its own"));
    mm.space_put(space);
    mm.audit().expect("whole");
}

/// Nobody is killed for a range whose caller can do without it.
#[test]
fn who_can_do_without_does_not_kill() {
    let mm = pc(48, 1, &Config::default()).expect("a machine");
    mm.slab_init().expect("slab");
    mm.set_huge_pages(HugePages::Never);
    let zone = mm.zone(NODE, ZoneKind::Dma32).expect("DMA32");
    let space = mm.space_new("user").expect("a space");
    fill_space(&mm, &space, 24 << 8);
    mm.lru_drain_all();
    let request = Request::new(Order(0), Gfp::NOWAIT | Gfp::NOWARN);
    let held: Vec<Page> = std::iter::from_fn(|| mm.alloc_pages(request).ok()).collect();
    let range = movable_range(&mm, zone, 4 << 8);
    for gfp in [CMA, Gfp::KERNEL | Gfp::NORETRY, Gfp::NOWAIT] {
        assert_eq!(mm.alloc_contig_range(range, gfp | Gfp::NOWARN), Err(ContigError::NoMemory));
        assert!(!space.is_killed() && event(&mm, "oom_kill") == 0);
        mm.audit().expect("whole");
    }
    // With nobody to ask but by force.
    mm.alloc_contig_range(range, Gfp::KERNEL).expect("the user's");
    assert!(space.is_killed());
    mm.free_contig_range(range).expect("its own");
    held.into_iter().for_each(|page| mm.free_pages(page).expect("its own"));
    mm.space_put(space);
    mm.audit().expect("whole");
}

/// That marks are raised, by what fragmentation adds to them, is a wish: where all
/// that can be had is not enough for it, nothing fails and nobody is killed.
#[test]
fn raised_marks_are_no_reason_to_fail() {
    let mm = pc(64, 1, &Config::default()).expect("a machine");
    mm.slab_init().expect("slab");
    mm.set_huge_pages(HugePages::Never);
    let zone = mm.zone(NODE, ZoneKind::Dma32).expect("DMA32");
    let space = mm.space_new("user").expect("a space");
    fill_space(&mm, &space, 8 << 8);
    mm.lru_drain_all();
    mm.set_watermark_boost_factor(15_000);
    // What cannot be moved gets among what can.
    let request = Request::new(Order(0), Gfp::NOWAIT | Gfp::NOWARN);
    let mut held: Vec<Page> = std::iter::from_fn(|| mm.alloc_pages(request).ok()).collect();
    assert!(zone.boost() > 0, "raised");
    mm.drain_all(None);
    let range = movable_range(&mm, zone, 512);
    // All that the zone needs beside the range, but not what it wishes for.
    let wanted = zone.marks().low + range.pages() + 64;
    while zone.free_pages() < wanted {
        let at = held.iter().rposition(|page| zone.span().contains(page.pfn)).expect("more");
        mm.free_pages(held.swap_remove(at)).expect("its own");
        mm.drain_all(None);
    }
    assert!(zone.free_pages() < zone.mark(Mark::Low) + range.pages());
    for gfp in [CMA, Gfp::KERNEL, Gfp::NOWAIT] {
        let got = mm.alloc_contig_range(range, gfp);
        assert_eq!(got, Ok(range), "{gfp:?}, {} free", zone.free_pages());
        assert!(zone.free_pages() >= zone.marks().low);
        mm.free_contig_range(range).expect("its own");
        mm.drain_all(None);
    }
    assert!(!space.is_killed() && zone.boost() > 0);
    held.into_iter().for_each(|page| mm.free_pages(page).expect("its own"));
    mm.space_put(space);
    mm.audit().expect("whole");
}
