//! Compaction: large blocks out of scattered pages, with every byte right.
#![cfg(feature = "host")]

use mm::arena::{Handle, MovableArena};
use mm::host::{Machine, build, pc};
use mm::stats::Event;
use mm::types::{CpuId, NodeId, Order, Pfn, PfnRange, ZoneKind};
use mm::{AllocError, Config, Gfp, Mm, Page, Request};

/// RAM of the machines here, in MiB.
const MIB: u64 = if cfg!(miri) { 4 } else { 64 };

struct Lab {
    mm: Mm<Machine>,
    arena: &'static MovableArena<Machine>,
    held: Vec<(Handle, u64)>,
}

impl Lab {
    fn new() -> Self {
        Self::on(pc(MIB, 1, &Config::default()).expect("a machine"))
    }

    fn on(mm: Mm<Machine>) -> Self {
        let arena: &'static MovableArena<Machine> = Box::leak(Box::default());
        arena.register(&mm).expect("room for a driver");
        Self { mm, arena, held: Vec::new() }
    }

    /// Fills all that NOWAIT gives with stamped movable pages.
    fn fill(&mut self) {
        self.fill_with(Order(0));
    }

    /// The same with blocks, of which the first page is stamped.
    fn fill_with(&mut self, order: Order) {
        let request = Request::new(order, Gfp::NOWAIT | Gfp::HIGHMEM | Gfp::NOWARN);
        while let Ok(h) = self.arena.alloc_block(&self.mm, request) {
            let stamp = self.held.len() as u64 * 0x9e37_79b9 + 1;
            let write = |bytes: &mut [u8; 4096]| {
                bytes[..8].copy_from_slice(&stamp.to_le_bytes());
                bytes[4088..].copy_from_slice(&stamp.to_le_bytes());
            };
            self.arena.with(&self.mm, h, write).expect("live");
            self.held.push((h, stamp));
        }
    }

    /// Frees all but every `keep`-th page, by the frames they are in.
    fn thin(&mut self, keep: u64) {
        let (mm, arena) = (&self.mm, self.arena);
        self.held.retain(|&(h, _)| {
            let stays = arena.frame(mm, h).expect("live").0 % keep == 0;
            if !stays {
                arena.free(mm, h).expect("live");
            }
            stays
        });
        mm.drain_all(None);
    }

    fn verify(&self) {
        for &(h, stamp) in &self.held {
            let read = |b: &mut [u8; 4096]| (b[..8].to_vec(), b[4088..].to_vec());
            let (first, last) = self.arena.with(&self.mm, h, read).expect("live");
            assert_eq!((first, last), (stamp.to_le_bytes().to_vec(), stamp.to_le_bytes().to_vec()));
        }
        self.mm.audit().expect("whole");
    }

    /// Order-9 blocks that are free, over all zones.
    fn huge(&self) -> u64 {
        self.mm.zones().iter().map(|z| self.mm.free_block_counts(z).suitable(Order(9))).sum()
    }

    fn possible(&self) -> u64 {
        self.mm.zones().iter().map(|z| z.free_pages() / 512).sum()
    }

    fn end(mut self) {
        for (h, _) in self.held.drain(..) {
            self.arena.free(&self.mm, h).expect("live");
        }
        self.arena.release_tables(&self.mm).expect("empty");
        self.mm.drain_all(None);
        assert_eq!(self.mm.free_pages_total(), self.mm.managed_pages());
        // All is free: whatever was allocated, by any path, has been freed.
        for zone in self.mm.zones() {
            let (allocated, freed) = self.mm.page_events(zone);
            assert_eq!(allocated, freed, "{:?}", zone.kind);
        }
        self.mm.audit().expect("whole");
    }
}

#[test]
fn whole_zones_are_made_of_large_blocks_again() {
    for keep in [2, 3, 8] {
        let mut lab = Lab::new();
        lab.fill();
        lab.thin(keep);
        let before = lab.huge();
        let done = lab.mm.compact_memory(None);
        lab.verify();
        let (after, possible) = (lab.huge(), lab.possible());
        assert!(done.moved > 0);
        assert_eq!(lab.mm.stats().get(Event::MigrateSuccess), done.moved);
        // Where the scanners meet, and where tables lie, a block is lost.
        assert!(after + 4 >= possible, "1 of {keep}: {before} -> {after} of {possible}");
        lab.end();
    }
}

/// Has one free page stay where it is in each of these pageblocks.
fn pin(mm: &Mm<Machine>, blocks: impl Iterator<Item = u64>) -> Vec<PfnRange> {
    let free = |block| PfnRange::sized(Pfn(block * 512 + 1), 1);
    blocks.filter_map(|block| mm.alloc_contig_range(free(block), Gfp::NOWAIT).ok()).collect()
}

/// What is movable beside something that stays is left there and gets company, so
/// that what is free does not lie where it can never be whole.
#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn blocks_that_something_stays_in_are_filled() {
    let mut lab = Lab::new();
    lab.fill();
    lab.thin(2);
    let pinned = pin(&lab.mm, 8..20);
    assert!(pinned.len() > 8);
    lab.mm.compact_memory(None);
    lab.verify();
    let (after, possible) = (lab.huge(), lab.possible());
    assert!(after + 4 >= possible, "{after} of {possible}");
    pinned.into_iter().for_each(|range| lab.mm.free_contig_range(range).expect("allocated"));
    lab.end();
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn where_something_stays_in_each_block_smaller_ones_are_made() {
    let mut lab = Lab::new();
    lab.fill();
    lab.thin(8);
    let pinned = pin(&lab.mm, 8..32);
    assert!(pinned.len() > 20);
    let halves = |mm: &Mm<Machine>| -> u64 {
        mm.zones().iter().map(|zone| mm.free_block_counts(zone).suitable(Order(8))).sum()
    };
    let before = halves(&lab.mm);
    lab.mm.compact_memory(None);
    lab.verify();
    let after = halves(&lab.mm);
    assert!(before < 4 && after > 20, "{before} -> {after}");
    pinned.into_iter().for_each(|range| lab.mm.free_contig_range(range).expect("allocated"));
    lab.end();
}

#[test]
fn larger_blocks_move_as_a_whole() {
    for order in [1, 2, 5] {
        let mut lab = Lab::new();
        lab.fill_with(Order(order));
        lab.thin(4 << order);
        let before = lab.huge();
        let done = lab.mm.compact_memory(None);
        lab.verify();
        let (after, possible) = (lab.huge(), lab.possible());
        assert!(done.moved > 0 && done.moved.is_multiple_of(1 << order), "{}", done.moved);
        assert_eq!(lab.mm.stats().get(Event::MigrateSuccess), done.moved);
        assert!(after + 4 >= possible, "order {order}: {before} -> {after} of {possible}");
        for &(h, _) in &lab.held {
            let frame = lab.arena.frame(&lab.mm, h).expect("live");
            let desc = lab.mm.map().try_page(frame).expect("a frame");
            assert_eq!(desc.head().order(), Order(order));
        }
        lab.end();
    }
}

#[test]
fn a_request_compacts_for_itself() {
    if cfg!(miri) {
        return;
    }
    let mut lab = Lab::new();
    lab.fill();
    lab.thin(2);
    assert_eq!(lab.huge(), 0, "the zone must have none to begin with");
    let mut blocks = Vec::new();
    for _ in 0..4 {
        let page = lab
            .mm
            .alloc_pages(Request::new(Order(9), Gfp::KERNEL | Gfp::MOVABLE))
            .expect("an order-9 block");
        blocks.push(page);
        lab.verify();
    }
    assert!(lab.mm.stats().get(Event::CompactSuccess) >= 4);
    for page in blocks {
        lab.mm.free_pages(page).expect("free");
    }
    lab.end();
}

/// Blocks of another type are for those who can wait: an asynchronous run looks
/// at none of them.
#[test]
fn an_unmovable_request_compacts_movable_blocks() {
    if cfg!(miri) {
        return;
    }
    let mut lab = Lab::new();
    lab.fill();
    lab.thin(2);
    assert_eq!(lab.huge(), 0, "the zone must have none to begin with");
    let request = Request::new(Order(9), Gfp::KERNEL | Gfp::NOWARN);
    let quick = lab.mm.alloc_pages(Request { gfp: request.gfp | Gfp::NORETRY, ..request });
    assert_eq!(quick, Err(AllocError::NoMemory), "a costly NORETRY does not wait");
    let page = lab.mm.alloc_pages(request).expect("an order-9 block");
    lab.verify();
    lab.mm.free_pages(page).expect("free");
    lab.end();
}

/// What may not fail must not be turned away because others failed before it.
#[test]
fn what_may_not_fail_compacts_until_it_is_there() {
    if cfg!(miri) {
        return;
    }
    let mut lab = Lab::new();
    lab.fill();
    lab.thin(2);
    let mm = &lab.mm;
    for &(h, _) in &lab.held {
        lab.arena.pin(mm, h).expect("live");
    }
    let request = Request::new(Order(9), Gfp::KERNEL | Gfp::NOWARN);
    for _ in 0..20 {
        assert!(mm.alloc_pages(request).is_err(), "all that is in the way is pinned");
    }
    for &(h, _) in &lab.held {
        lab.arena.unpin(mm, h).expect("pinned");
    }
    assert!(mm.alloc_pages(request).is_err(), "deferred");
    let page =
        mm.alloc_pages(Request { gfp: request.gfp | Gfp::NOFAIL, ..request }).expect("never fails");
    lab.verify();
    lab.mm.free_pages(page).expect("free");
    lab.end();
}

#[test]
fn a_request_for_one_node_compacts_no_other() {
    if cfg!(miri) {
        return;
    }
    let (border, end) = (Pfn(64 << 8), Pfn(128 << 8));
    let mut machine = Machine::new(Pfn(0), end, 2).expect("room");
    machine.set_node_of_cpu(CpuId(1), NodeId(1));
    let ram = [(PfnRange::new(Pfn(1), border), NodeId(0)), (PfnRange::new(border, end), NodeId(1))];
    let mut lab = Lab::on(build(machine, &ram, &Config::default()).expect("a machine"));
    // Node 0 is full of what stays, node 1 half full of what moves.
    let here = Request::new(Order(0), Gfp::NOWAIT | Gfp::THISNODE | Gfp::NOWARN).on(NodeId(0));
    let pages: Vec<Page> = core::iter::from_fn(|| lab.mm.alloc_pages(here).ok()).collect();
    lab.mm.platform().run_on(CpuId(1));
    lab.fill();
    lab.thin(2);
    let (kept, freed): (Vec<Page>, Vec<Page>) = pages.iter().partition(|p| p.pfn.0 % 2 == 0);
    for page in freed {
        lab.mm.free_pages(page).expect("free");
    }
    lab.mm.drain_all(None);
    let gfp = Gfp::KERNEL | Gfp::MOVABLE | Gfp::RETRY_MAYFAIL | Gfp::NOWARN;
    let request = Request::new(Order(9), gfp | Gfp::THISNODE).on(NodeId(0));
    assert_eq!(lab.mm.alloc_pages(request), Err(AllocError::NoMemory));
    let page = lab.mm.alloc_pages(Request { gfp, ..request }).expect("on the other node");
    assert!(page.pfn >= border);
    for page in kept.into_iter().chain([page]) {
        lab.mm.free_pages(page).expect("free");
    }
    lab.end();
}

#[test]
fn atomic_requests_do_not_compact() {
    let mut lab = Lab::new();
    lab.fill();
    lab.thin(2);
    let moved = lab.mm.stats().get(Event::MigrateSuccess);
    assert!(lab.mm.alloc_pages(Request::new(Order(9), Gfp::ATOMIC | Gfp::NOWARN)).is_err());
    assert_eq!(lab.mm.stats().get(Event::MigrateSuccess), moved);
    lab.end();
}

#[test]
fn what_cannot_be_moved_is_left_and_failure_is_deferred() {
    if cfg!(miri) {
        return;
    }
    let lab = Lab::new();
    let mm = &lab.mm;
    let gfp = Gfp::NOWAIT | Gfp::NOWARN;
    let pages: Vec<Page> =
        core::iter::from_fn(|| mm.alloc_pages(Request::new(Order(0), gfp)).ok()).collect();
    let (kept, freed): (Vec<Page>, Vec<Page>) = pages.iter().partition(|p| p.pfn.0 % 2 == 0);
    for &page in &freed {
        mm.free_pages(page).expect("free");
    }
    mm.drain_all(None);
    let huge =
        || mm.alloc_pages(Request::new(Order(9), Gfp::KERNEL | Gfp::RETRY_MAYFAIL | Gfp::NOWARN));
    let scanned = || mm.stats().get(Event::CompactMigrateScanned);
    assert!(huge().is_err());
    let first = scanned();
    assert!(first > 0, "it was tried");
    for _ in 0..8 {
        assert!(huge().is_err());
    }
    assert!(scanned() < 9 * first, "hints and deferral save work");
    mm.audit().expect("whole");
    for page in kept {
        mm.free_pages(page).expect("free");
    }
    lab.end();
}

#[test]
fn targets_respect_the_watermark() {
    let mut lab = Lab::new();
    lab.fill();
    lab.held.retain(|&(h, _)| {
        let stays = lab.arena.frame(&lab.mm, h).expect("live") != Pfn(0);
        assert!(stays);
        stays
    });
    // Hardly anything is free: nothing may be taken off the lists.
    lab.mm.compact_memory(None);
    for zone in lab.mm.zones().iter().filter(|z| z.managed() > 0 && z.kind == ZoneKind::Dma32) {
        let low = zone.marks().min / 2;
        assert!(zone.free_pages() >= low);
    }
    lab.verify();
    lab.end();
}

#[test]
fn a_free_hands_the_block_to_the_compactor() {
    // The block that a direct compactor makes is its own: nobody else has it
    // between the last migration and the walk over the lists.
    if cfg!(miri) {
        return;
    }
    let mut lab = Lab::new();
    lab.fill();
    lab.thin(2);
    let mm = &lab.mm;
    let before = mm.stats().get(Event::CompactSuccess);
    let page = mm.alloc_pages(Request::new(Order(9), Gfp::HIGHUSER_MOVABLE)).expect("a block");
    assert_eq!(mm.stats().get(Event::CompactSuccess), before + 1);
    // Captured or found, no capture is left waiting: the audit looks.
    mm.audit().expect("whole");
    mm.free_pages(page).expect("free");
    lab.end();
}

#[test]
fn a_lack_of_memory_is_not_for_compaction() {
    let mut lab = Lab::new();
    lab.fill();
    let scanned = lab.mm.stats().get(Event::CompactMigrateScanned);
    let req = Request::new(Order(9), Gfp::KERNEL | Gfp::NORETRY | Gfp::NOWARN);
    assert!(lab.mm.alloc_pages(req).is_err());
    assert_eq!(lab.mm.stats().get(Event::CompactMigrateScanned), scanned);
    lab.end();
}

#[test]
fn the_background_makes_a_block_and_ends_the_boost() {
    use mm::platform::Worker;
    use mm::types::NodeId;
    if cfg!(miri) {
        return;
    }
    let mut lab = Lab::new();
    lab.fill();
    lab.thin(2);
    assert_eq!(lab.huge(), 0);
    let zones = lab.mm.zones().iter().filter(|z| z.managed() > 0).count() as u32;
    assert!((1..=zones).contains(&lab.mm.kcompactd_round(NodeId(0))));
    assert!(lab.huge() > 0);
    lab.verify();
    assert_eq!(lab.mm.kcompactd_round(NodeId(0)), 0, "there are blocks enough");

    // Unmovable requests in a machine of movable blocks mix types: a boost.
    let boost = || lab.mm.zones().iter().map(mm::zone::Zone::boost).sum::<u64>();
    lab.mm.kswapd_round(NodeId(0));
    assert_eq!(boost(), 0);
    lab.mm.platform().take_woken();
    let mut pages = Vec::new();
    while boost() == 0 {
        pages.push(lab.mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("a page"));
    }
    // The request that caused it, or the next that takes from the zone, wakes.
    pages.push(lab.mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("a page"));
    assert!(lab.mm.platform().take_woken().contains(&Worker::Kswapd(NodeId(0))));
    lab.mm.work(Worker::Kswapd(NodeId(0)));
    assert_eq!(boost(), 0);
    assert_eq!(lab.mm.platform().take_woken(), [Worker::Kcompactd(NodeId(0))]);
    for page in pages {
        lab.mm.free_pages(page).expect("free");
    }
    lab.end();
}
