//! Contiguous ranges on simulated machines: what is asked for exactly, and
//! nothing left behind whatever happens.
#![cfg(feature = "host")]

use mm::contig::{ContigError, Reason};
use mm::host::{Machine, build, pc};
use mm::page::PageType;
use mm::platform::{Context, Platform, Worker};
use mm::types::{
    CpuId, MigrateType, NodeId, Order, PAGE_SIZE, PAGEBLOCK_PAGES, Pfn, PfnRange, ZoneKind,
};
use mm::zone::Mark;
use mm::{Config, FreeError, Gfp, Mm, Page, Request};

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

fn alloc(mm: &Mm<Machine>, order: u8, gfp: Gfp) -> Page {
    mm.alloc_pages(Request::new(Order(order), gfp | Gfp::NOWARN)).expect("a block")
}

/// The types of all pageblocks, to be compared before and after.
fn types(mm: &Mm<Machine>) -> Vec<Option<MigrateType>> {
    (0..mm.map().end().0)
        .step_by(PAGEBLOCK_PAGES as usize)
        .map(|pfn| mm.map().info(Pfn(pfn)).map(mm::memmap::BlockInfo::migratetype))
        .collect()
}

fn head_type(mm: &Mm<Machine>, pfn: Pfn) -> PageType {
    mm.map().head_of(pfn).map_or(PageType::Buddy, |(_, head)| head.ty())
}

/// A number below `n` from a sequence that the seed fixes.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    }
}

#[test]
fn any_free_range_can_be_had_exactly() {
    let mib = if cfg!(miri) { 5 } else { 16 };
    let mm = machine(mib, 1);
    let (free, before) = (mm.free_pages_total(), types(&mm));
    // Inside a block, at its edges, over block borders, over the largest blocks.
    for (start, end) in [
        (0x200, 0x201),
        (0x201, 0x202),
        (0x3ff, 0x401),
        (0x233, 0x377),
        (0x200, 0x400),
        (0x400, 0x800),
        (0x401, 0x7ff),
        (0x3fe, 0xa03),
        (0x200, 0xe00),
    ]
    .into_iter()
    .filter(|&(_, end)| end < mib << 8)
    {
        let got = mm.alloc_contig_range(range(start, end), Gfp::KERNEL);
        assert_eq!(got, Ok(range(start, end)));
        assert_eq!(mm.free_pages_total(), free - (end - start));
        for pfn in start..end {
            assert_eq!(head_type(&mm, Pfn(pfn)), PageType::Contig);
        }
        assert_ne!(head_type(&mm, Pfn(start - 1)), PageType::Contig);
        assert_ne!(head_type(&mm, Pfn(end)), PageType::Contig);
        assert_eq!(types(&mm), before);
        audit(&mm);
        mm.free_contig_range(range(start, end)).expect("its own");
        assert_eq!(mm.free_pages_total(), free);
        assert_eq!(types(&mm), before);
        audit(&mm);
    }
}

#[test]
fn heads_are_natural_blocks() {
    let mm = machine(16, 1);
    mm.alloc_contig_range(range(0x3ff, 0x802), Gfp::KERNEL).expect("free");
    let heads: Vec<_> = (0x3ff..0x802)
        .filter_map(|pfn| {
            let word = mm.map().try_page(Pfn(pfn)).expect("present").head();
            (word.ty() == PageType::Contig).then(|| (pfn, word.order().0))
        })
        .collect();
    assert_eq!(heads, [(0x3ff, 0), (0x400, 10), (0x800, 1)]);
}

#[test]
fn parts_can_be_given_back_and_nothing_else() {
    let mm = machine(9, 1);
    let all = range(0x3f0, 0x810);
    let free = mm.free_pages_total();
    mm.alloc_contig_range(all, Gfp::KERNEL).expect("free");
    let neighbour = range(0x810, 0x820);
    mm.alloc_contig_range(neighbour, Gfp::KERNEL).expect("free");
    let kernel = alloc(&mm, 3, Gfp::KERNEL);
    let refused = |r: PfnRange, why: FreeError| {
        let before = mm.free_pages_total();
        assert_eq!(mm.free_contig_range(r), Err(why), "{r:?}");
        assert_eq!(mm.free_pages_total(), before);
        audit(&mm);
    };
    refused(range(0x3ef, 0x400), FreeError::DoubleFree);
    refused(range(0x3f0, 0x811), FreeError::WrongOwner);
    refused(range(0x400, 0x400), FreeError::NotManaged);
    refused(range(0xa0, 0xa1), FreeError::NotManaged);
    refused(range(1 << 40, (1 << 40) + 1), FreeError::NotManaged);
    refused(range(0x800, 0x8f0), FreeError::WrongOwner);
    refused(PfnRange::sized(kernel.pfn, 8), FreeError::WrongOwner);
    assert_eq!(
        mm.free_pages(Page { pfn: Pfn(0x400), order: Order(10) }),
        Err(FreeError::WrongOwner)
    );
    // From the middle, over a border of blocks, one page, then what is left.
    for (start, end) in [(0x4ab, 0x5cd), (0x3ff, 0x401), (0x80f, 0x810)] {
        mm.free_contig_range(range(start, end)).expect("a part");
        audit(&mm);
        refused(range(start, end), FreeError::DoubleFree);
        refused(range(start - 1, start + 1), FreeError::DoubleFree);
    }
    for (start, end) in [(0x3f0, 0x3ff), (0x401, 0x4ab), (0x5cd, 0x80f)] {
        mm.free_contig_range(range(start, end)).expect("the rest");
        audit(&mm);
    }
    mm.free_contig_range(neighbour).expect("its own");
    mm.free_pages(kernel).expect("its own");
    mm.drain_all(None);
    assert_eq!(mm.free_pages_total(), free);
    audit(&mm);
}

#[test]
fn what_makes_no_sense_is_invalid() {
    let mm = machine(32, 1);
    let before = types(&mm);
    for r in [
        range(0x400, 0x400),
        range(0x500, 0x400),
        range(0x1f00, 0x2001),
        range(1 << 40, (1 << 40) + 8),
        // Over the border of zone DMA.
        range(0xfff, 0x1001),
    ] {
        let got = mm.alloc_contig_range(r, Gfp::KERNEL);
        assert!(matches!(got, Err(ContigError::Invalid(_))), "{r:?}: {got:?}");
    }
    for gfp in [Gfp::DMA | Gfp::DMA32, Gfp::KERNEL | Gfp::MOVABLE | Gfp::RECLAIMABLE] {
        let got = mm.alloc_contig_range(range(0x400, 0x401), gfp);
        assert!(matches!(got, Err(ContigError::Invalid(_))));
        let got = mm.alloc_contig_pages(1, Order(0), None, Pfn(0), gfp);
        assert!(matches!(got, Err(ContigError::Invalid(_))));
    }
    let got = mm.alloc_contig_pages(0, Order(0), None, Pfn(0), Gfp::KERNEL);
    assert!(matches!(got, Err(ContigError::Invalid(_))));
    assert_eq!(types(&mm), before);
    audit(&mm);
}

#[test]
fn what_cannot_move_is_named_and_all_is_as_before() {
    let mm = machine(24, 1);
    let page = alloc(&mm, 0, Gfp::KERNEL);
    let block = page.pfn.pageblock();
    let (before, free) = (types(&mm), mm.free_pages_total());
    let wide = PfnRange::new(block, block.add(1500));
    for r in [PfnRange::sized(page.pfn, 1), PfnRange::sized(block, 512), wide] {
        match mm.alloc_contig_range(r, Gfp::KERNEL) {
            Err(ContigError::Busy(obstacle)) => {
                assert_eq!(obstacle.pfn, page.pfn);
                assert_eq!(obstacle.why, Reason::Unmovable);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(types(&mm), before);
        assert_eq!(mm.free_pages_total(), free);
        audit(&mm);
    }
    // Reserved and holes likewise.
    for pfn in [0, 0xa0, 0xff] {
        let got = mm.alloc_contig_range(PfnRange::sized(Pfn(pfn), 1), Gfp::KERNEL);
        assert!(matches!(got, Err(ContigError::Busy(o)) if o.why == Reason::Unmovable));
    }
    // Beside it, in the same block, there is room.
    let beside = PfnRange::sized(block.add(256), 256);
    mm.drain_all(None);
    mm.alloc_contig_range(beside, Gfp::KERNEL).expect("free");
    mm.free_contig_range(beside).expect("its own");
    mm.free_pages(page).expect("its own");
    audit(&mm);
}

#[test]
fn pages_on_per_cpu_lists_are_no_obstacle() {
    let mm = machine(18, 2);
    // Both CPUs get lists full of pages, then their blocks are asked for.
    for cpu in [0, 1] {
        mm.platform().run_on(CpuId(cpu));
        let pages: Vec<_> = (0..40).map(|_| alloc(&mm, 0, Gfp::HIGHUSER_MOVABLE)).collect();
        for page in pages {
            mm.free_pages(page).expect("its own");
        }
    }
    mm.platform().run_on(CpuId(0));
    let listed: Vec<_> = (0..mm.map().end().0)
        .map(Pfn)
        .filter(|&p| mm.map().try_page(p).is_some_and(|d| d.head().ty() == PageType::Pcp))
        .collect();
    assert!(listed.len() >= 4, "{listed:?}");
    for pfn in listed.into_iter().step_by(if cfg!(miri) { 20 } else { 1 }) {
        let r = PfnRange::sized(pfn, 1);
        mm.alloc_contig_range(r, Gfp::KERNEL).expect("drained");
        audit(&mm);
        mm.free_contig_range(r).expect("its own");
    }
    audit(&mm);
}

#[test]
fn every_type_comes_back() {
    let mm = machine(32, 1);
    // An urgent block of order above 0 makes its pageblock HighAtomic.
    let zone = mm.zone(NodeId(0), ZoneKind::Dma32).expect("DMA32");
    let kernel = alloc(&mm, 0, Gfp::KERNEL);
    let reclaimable = alloc(&mm, 0, Gfp::KERNEL | Gfp::RECLAIMABLE);
    let movable = alloc(&mm, 0, Gfp::HIGHUSER_MOVABLE);
    mm.drain_all(None);
    let free = mm.free_pages_total();
    for page in [kernel, reclaimable, movable] {
        let before = types(&mm);
        // The half of the block that the page is not in.
        let half = page.pfn.pageblock().add(if page.pfn.0 & 256 == 0 { 256 } else { 0 });
        let r = PfnRange::sized(half.add(3), 200);
        mm.alloc_contig_range(r, Gfp::KERNEL).expect("free");
        assert_eq!(types(&mm), before);
        audit(&mm);
        mm.free_contig_range(r).expect("its own");
        assert_eq!(types(&mm), before);
        audit(&mm);
    }
    assert_eq!(mm.free_pages_total(), free);
    assert_eq!(zone.free_pages() + mm.zones()[0].free_pages(), free);
}

#[test]
#[cfg_attr(miri, ignore = "takes a zone of 100 pageblocks")]
fn a_highatomic_block_stays_one() {
    // The reserve is a hundredth of the zone: it takes a zone of 100 blocks.
    let mm = machine(256, 1);
    let zone = mm.zone(NodeId(0), ZoneKind::Dma32).expect("DMA32");
    // What the manager's own tables lie beside is not to be the last that is free.
    let tables = (0xf000..).map(Pfn).find(|&pfn| head_type(&mm, pfn) == PageType::Reserved);
    let beside = PfnRange::new(Pfn(0xf000), tables.expect("tables"));
    mm.alloc_contig_range(beside, Gfp::KERNEL).expect("free");
    // The first urgent request that finds only what others may not have.
    let mut held = Vec::new();
    while let Ok(page) = mm.alloc_pages(Request::new(Order(4), Gfp::NOWAIT | Gfp::NOWARN)) {
        held.push(page);
    }
    let urgent = mm.alloc_pages(Request::new(Order(4), Gfp::ATOMIC)).expect("urgent");
    for page in held {
        mm.free_pages(page).expect("its own");
    }
    mm.free_contig_range(beside).expect("its own");
    mm.drain_all(None);
    let block = urgent.pfn.pageblock();
    let ty = || mm.map().try_block(block).expect("present").migratetype();
    assert_eq!(ty(), MigrateType::HighAtomic);
    let reserved = zone.reserved_highatomic();
    let half = block.add(if urgent.pfn.0 & 256 == 0 { 256 } else { 0 });
    // Over a border, so that blocks are isolated for it.
    let across = if half == block {
        PfnRange::new(Pfn(half.0 - 1024), half.add(9))
    } else {
        PfnRange::new(half.add(7), block.add(1536))
    };
    let free = mm.free_pages_total();
    mm.alloc_contig_range(across, Gfp::KERNEL).expect("free");
    assert_eq!(ty(), MigrateType::HighAtomic);
    audit(&mm);
    mm.free_contig_range(across).expect("its own");
    assert_eq!((ty(), zone.reserved_highatomic()), (MigrateType::HighAtomic, reserved));
    assert_eq!(mm.free_pages_total(), free);
    audit(&mm);
    // A largest block over two types comes apart when it is freed.
    mm.free_pages(urgent).expect("its own");
    mm.drain_all(None);
    let pair = PfnRange::sized(block.align_down(Order(10)), 1024);
    mm.alloc_contig_range(pair, Gfp::KERNEL).expect("free");
    assert_eq!(mm.map().try_page(pair.start).expect("present").head().order(), Order(10));
    audit(&mm);
    mm.free_contig_range(pair).expect("its own");
    assert_eq!(ty(), MigrateType::HighAtomic);
    audit(&mm);
}

#[test]
fn the_zone_stays_above_its_low_mark() {
    let mm = machine(32, 1);
    let zone = mm.zone(NodeId(0), ZoneKind::Dma32).expect("DMA32");
    let before = types(&mm);
    mm.platform().take_woken();
    let all = zone.span();
    assert_eq!(mm.alloc_contig_range(all, Gfp::KERNEL), Err(ContigError::NoMemory));
    assert_eq!(mm.platform().take_woken(), [Worker::Kswapd(NodeId(0))]);
    // Without the right to wake, nobody is.
    assert_eq!(mm.alloc_contig_range(all, Gfp::DIRECT_RECLAIM), Err(ContigError::NoMemory));
    assert_eq!(mm.alloc_contig_range(all, Gfp::empty()), Err(ContigError::NoMemory));
    mm.platform().set_context(Context { memalloc: true, ..Context::default() });
    assert_eq!(mm.alloc_contig_range(all, Gfp::KERNEL), Err(ContigError::NoMemory));
    mm.platform().set_context(Context::default());
    assert_eq!(types(&mm), before);
    let most = zone.free_pages() - zone.mark(Mark::Low) - 1;
    let over = mm.alloc_contig_pages(most + 1, Order(0), None, Pfn(4096), Gfp::NOWAIT);
    assert_eq!(over, Err(ContigError::NoMemory));
    let got = mm.alloc_contig_pages(most, Order(0), None, Pfn(4096), Gfp::NOWAIT).expect("most");
    assert_eq!(zone.free_pages(), zone.mark(Mark::Low) + 1);
    mm.free_contig_range(got).expect("its own");
    assert!(mm.platform().take_woken().contains(&Worker::Kswapd(NodeId(0))));
    audit(&mm);
}

#[test]
fn zeroed_when_asked_for() {
    let mm = machine(16, 1);
    let r = range(0x3fe, 0x403);
    let byte = |pfn: u64| mm.platform().frame(Pfn(pfn));
    for pfn in 0x3fe..0x403 {
        // SAFETY: a frame of the machine's RAM, free and watched by nobody.
        unsafe { byte(pfn).add(pfn as usize % PAGE_SIZE).write(0x5a) };
    }
    mm.alloc_contig_range(r, Gfp::KERNEL | Gfp::ZERO).expect("free");
    for pfn in 0x3fe..0x403 {
        // SAFETY: as above; the frame is this test's now.
        let page = unsafe { core::slice::from_raw_parts(byte(pfn), PAGE_SIZE) };
        assert!(page.iter().all(|&b| b == 0));
    }
}

#[test]
fn a_write_after_free_is_found() {
    let config = Config { page_poison: true, ..Config::default() };
    let mm = pc(16, 1, &config).expect("a machine");
    let r = range(0x3fe, 0x403);
    // The first use poisons what was never freed; its report is not the one.
    mm.alloc_contig_range(r, Gfp::KERNEL).expect("free");
    mm.free_contig_range(r).expect("its own");
    let seen = || mm.stats().get(mm::stats::Event::PoisonOverwritten);
    let before = seen();
    mm.alloc_contig_range(r, Gfp::KERNEL).expect("free");
    assert_eq!(seen(), before, "clean");
    mm.free_contig_range(r).expect("its own");
    // SAFETY: none: this is the bug that poison is for. The frame is RAM.
    unsafe { mm.platform().frame(Pfn(0x401)).add(9).write(1) };
    mm.alloc_contig_range(r, Gfp::KERNEL).expect("free");
    assert_eq!(seen(), before + 1);
}

/// A frame that gets well is as clean as any other that is free.
#[test]
fn a_frame_that_gets_well_is_clean() {
    let config = Config { page_poison: true, ..Config::default() };
    let mm = pc(16, 1, &config).expect("a machine");
    let seen = || mm.stats().get(mm::stats::Event::PoisonOverwritten);
    let page = alloc(&mm, 0, Gfp::KERNEL);
    // SAFETY: the frame is this test's.
    unsafe { mm.platform().frame(page.pfn).add(9).write(1) };
    mm.poison_page(page.pfn).expect("it is marked");
    mm.free_pages(page).expect("its own");
    let before = seen();
    mm.unpoison_page(page.pfn).expect("it was bad");
    mm.drain_all(None);
    let r = PfnRange::sized(page.pfn, 1);
    mm.alloc_contig_range(r, Gfp::KERNEL).expect("free");
    assert_eq!(seen(), before, "nobody has written to it since");
    mm.free_contig_range(r).expect("its own");
    audit(&mm);
}

#[test]
fn random_ranges_against_a_model() {
    let (mib, rounds) = if cfg!(miri) { (4, 60) } else { (16, 6000) };
    let seed = 0x9e37_79b9_7f4a_7c15;
    let mut rng = Rng(seed);
    let mm = machine(mib, 1);
    let end = mib << 8;
    // An owner per page: 0 free or not to be had, else the allocation.
    let mut owner: Vec<u32> = (0..end)
        .map(|pfn| if head_type(&mm, Pfn(pfn)) == PageType::Buddy { 0 } else { u32::MAX })
        .collect();
    let mut live: Vec<(PfnRange, u32)> = Vec::new();
    let mut pages: Vec<Page> = Vec::new();
    let before = types(&mm);
    let free = mm.free_pages_total();
    for round in 1..=rounds {
        match rng.below(8) {
            0..=2 => {
                let start = 0x100 + rng.below(end - 0x100);
                let most = 1 << rng.below(11);
                let len = 1 + rng.below(most);
                let r = range(start, (start + len).min(end));
                let taken = (r.start.0..r.end.0).any(|p| owner[p as usize] != 0);
                match mm.alloc_contig_range(r, Gfp::KERNEL) {
                    Ok(got) => {
                        assert!(!taken, "{r:?} was in use, round {round} of seed {seed:#x}");
                        owner[r.start.0 as usize..r.end.0 as usize].fill(round);
                        live.push((got, round));
                    }
                    Err(ContigError::NoMemory) => {}
                    Err(error) => assert!(taken, "{r:?}: {error}, round {round} of {seed:#x}"),
                }
            }
            3 => {
                let most = 1 << rng.below(10);
                let count = 1 + rng.below(most);
                let align = Order(rng.below(8) as u8);
                if let Ok(got) = mm.alloc_contig_pages(count, align, None, Pfn(0), Gfp::NOWAIT) {
                    let pages = &mut owner[got.start.0 as usize..got.end.0 as usize];
                    assert!(got.pages() == count && pages.iter().all(|&o| o == 0));
                    pages.fill(round);
                    live.push((got, round));
                }
            }
            4 | 5 if !live.is_empty() => {
                // A part of one, or all of it.
                let (r, tag) = live.swap_remove(rng.below(live.len() as u64) as usize);
                let from = r.start.0 + rng.below(r.pages());
                let to = from + 1 + rng.below(r.end.0 - from);
                let part = if rng.below(2) == 0 { r } else { range(from, to) };
                mm.free_contig_range(part).expect("its own");
                owner[part.start.0 as usize..part.end.0 as usize].fill(0);
                for rest in [range(r.start.0, part.start.0), range(part.end.0, r.end.0)] {
                    if !rest.is_empty() {
                        live.push((rest, tag));
                    }
                }
            }
            6 => {
                let order = Order(rng.below(6) as u8);
                if let Ok(page) = mm.alloc_pages(Request::new(order, Gfp::NOWAIT | Gfp::NOWARN)) {
                    let first = page.pfn.0 as usize;
                    let part = &mut owner[first..first + order.pages() as usize];
                    assert!(part.iter().all(|&o| o == 0));
                    part.fill(round);
                    pages.push(page);
                }
            }
            _ if !pages.is_empty() => {
                let page = pages.swap_remove(rng.below(pages.len() as u64) as usize);
                let first = page.pfn.0 as usize;
                owner[first..first + page.order.pages() as usize].fill(0);
                mm.free_pages(page).expect("its own");
            }
            _ => {}
        }
        if !cfg!(miri) && round % 16 == 0 {
            mm.audit().unwrap_or_else(|e| panic!("{e}, round {round} of seed {seed:#x}"));
        }
    }
    for (r, _) in live {
        mm.free_contig_range(r).expect("its own");
    }
    for page in pages {
        mm.free_pages(page).expect("its own");
    }
    mm.drain_all(None);
    assert_eq!(mm.free_pages_total(), free);
    audit(&mm);
    // Kernel allocations claim blocks; contiguous ones change none.
    assert_eq!(before.len(), types(&mm).len());
}

#[test]
fn of_two_that_overlap_one_wins() {
    let mm = machine(32, 2);
    let free = mm.free_pages_total();
    let rounds = if cfg!(miri) { 3 } else { 300 };
    for round in 0..rounds {
        // Over three pageblocks each: both have to isolate.
        let ranges = [range(0x1100, 0x1500), range(0x1300, 0x1701)];
        let won: Vec<bool> = std::thread::scope(|scope| {
            let threads: Vec<_> = [0u16, 1]
                .map(|cpu| {
                    let mm = &mm;
                    scope.spawn(move || {
                        mm.platform().run_on(CpuId(cpu));
                        match mm.alloc_contig_range(ranges[usize::from(cpu)], Gfp::KERNEL) {
                            Ok(_) => true,
                            Err(ContigError::Busy(_)) => false,
                            Err(other) => panic!("{other}"),
                        }
                    })
                })
                .into_iter()
                .collect();
            threads.into_iter().map(|t| t.join().expect("no panic")).collect()
        });
        assert!(!(won[0] && won[1]), "round {round}: both");
        audit(&mm);
        for (r, won) in ranges.into_iter().zip(won) {
            if won {
                mm.free_contig_range(r).expect("its own");
            }
        }
        assert_eq!(mm.free_pages_total(), free);
    }
    audit(&mm);
}

#[test]
fn a_pageblock_whose_buddy_is_not_there() {
    let machine = Machine::new(Pfn(0), Pfn(0x1000), 1).expect("address space");
    let ram = [(range(1, 0x400), NodeId(0)), (range(0x600, 0x1000), NodeId(0))];
    let mm = build(machine, &ram, &Config::default()).expect("a machine");
    let before = types(&mm);
    for r in [range(0x600, 0x601), range(0x6f0, 0x810), range(0x600, 0xa00)] {
        mm.alloc_contig_range(r, Gfp::KERNEL).expect("free");
        audit(&mm);
        mm.free_contig_range(r).expect("its own");
        assert_eq!(types(&mm), before);
        audit(&mm);
    }
    for r in [range(0x3ff, 0x601), range(0x5ff, 0x601)] {
        let got = mm.alloc_contig_range(r, Gfp::KERNEL);
        assert!(matches!(got, Err(ContigError::Invalid(_))), "{got:?}");
    }
}
