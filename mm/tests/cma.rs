//! Contiguous areas: lent to movable requests, had back whole.
#![cfg(feature = "host")]

use mm::arena::{Handle, MovableArena};
use mm::cma::{CmaId, CmaRequest};
use mm::contig::{ContigError, Reason};
use mm::host::{Machine, pc};
use mm::platform::LogLevel;
use mm::stats::Event;
use mm::types::{CpuId, MigrateType, Order, PAGEBLOCK_PAGES, Pfn, PfnRange};
use mm::{Config, FreeError, Gfp, Mm, Page, Request};

/// Under Miri the machines are small and the operations are what is watched: an
/// audit there takes longer than all of a test.
#[track_caller]
fn audit(mm: &Mm<Machine>) {
    if !cfg!(miri) {
        mm.audit().expect("whole");
    }
}

const ID: CmaId = CmaId::DEFAULT;
const MIB: u64 = 1 << 20;

fn request(mib: u64, order_per_bit: u8) -> CmaRequest {
    CmaRequest { size: mib * MIB, base: None, end: None, order_per_bit: Order(order_per_bit) }
}

fn config(requests: &[CmaRequest]) -> Config {
    let mut config = Config::default();
    for (slot, request) in config.cma.iter_mut().zip(requests) {
        *slot = Some(*request);
    }
    config
}

/// A machine with one area; what it is and what is free.
fn setup(mib: u64, request: CmaRequest) -> (Mm<Machine>, PfnRange) {
    let mm = pc(mib, 2, &config(&[request])).expect("a machine");
    let area = mm.cma_area(ID).expect("the area").range();
    audit(&mm);
    (mm, area)
}

fn arena(mm: &Mm<Machine>) -> &'static MovableArena<Machine> {
    let arena: &'static MovableArena<Machine> = Box::leak(Box::default());
    arena.register(mm).expect("room for a driver");
    arena
}

/// Movable pages until there are no more, each holding its number.
fn fill(mm: &Mm<Machine>, arena: &MovableArena<Machine>) -> Vec<Handle> {
    let mut handles = Vec::new();
    while let Ok(handle) = arena.alloc(mm, Gfp::HIGHUSER_MOVABLE | Gfp::NOWARN) {
        let n = handles.len() as u64;
        arena.with(mm, handle, |b| b[..8].copy_from_slice(&n.to_le_bytes())).expect("live");
        handles.push(handle);
    }
    handles
}

fn types_are_cma(mm: &Mm<Machine>, area: PfnRange) -> bool {
    (area.start.0..area.end.0)
        .step_by(PAGEBLOCK_PAGES as usize)
        .all(|p| mm.map().try_block(Pfn(p)).expect("present").migratetype() == MigrateType::Cma)
}

fn cma_free(mm: &Mm<Machine>) -> u64 {
    mm.drain_all(None);
    mm.zones().iter().map(mm::zone::Zone::free_cma_pages).sum()
}

#[test]
fn an_area_is_free_counted_and_said() {
    let (mm, area) = setup(64, request(16, 0));
    assert_eq!(area, PfnRange::new(Pfn(48 << 8), Pfn(64 << 8)));
    assert!(types_are_cma(&mm, area));
    let zone = &mm.zones()[mm.map().try_block(area.start).expect("present").zone_index()];
    assert_eq!((zone.cma_pages(), zone.free_cma_pages()), (4096, 4096));
    assert_eq!(mm.free_pages_total(), mm.managed_pages());
    let log = mm.platform().take_log();
    let said = (LogLevel::Info, "cma: Reserved 16 MiB at 0x0000000003000000".to_string());
    assert_eq!(log.first(), Some(&said));
    assert_eq!(mm.cma_areas().count(), 1);
    // Next to the area, blocks of both types free: never one block over both.
    let (mm, area) = setup(64, request(6, 0));
    assert!(types_are_cma(&mm, area));
    assert!(!area.start.is_aligned(Order(10)));
}

#[test]
fn what_cannot_be_reserved_is_left_out() {
    let at = |mib, base| CmaRequest { base: Some(base), ..request(mib, 0) };
    let config = config(&[at(4, 14 * MIB), request(8, 10), request(4, 0), at(4, 4 * MIB)]);
    let mm = pc(64, 1, &config).expect("a machine");
    let areas: Vec<_> = mm.cma_areas().map(|(_, area)| area.range()).collect();
    assert_eq!(areas, [PfnRange::sized(Pfn(60 << 8), 1024), PfnRange::sized(Pfn(4 << 8), 1024)]);
    let log = mm.platform().take_log();
    let failed = |l: &&(LogLevel, String)| l.1.starts_with("cma: Failed to reserve ");
    assert_eq!(log.iter().filter(failed).count(), 2);
    audit(&mm);
    assert!(mm.cma_area(ID).is_none());
    // More than there is RAM: the machine starts all the same.
    let mm = pc(16, 1, &self::config(&[request(16, 0)])).expect("a machine");
    assert_eq!(mm.cma_areas().count(), 0);
    audit(&mm);
}

#[test]
#[cfg_attr(miri, ignore = "takes all of a machine page by page")]
fn only_movable_requests_use_it() {
    let (mm, area) = setup(32, request(16, 0));
    let inside = |gfp: Gfp| {
        let mut pages = Vec::new();
        while let Ok(page) = mm.alloc_pages(Request::new(Order(0), gfp | Gfp::NOWARN)) {
            pages.push(page);
        }
        let inside = pages.iter().filter(|p| area.contains(p.pfn)).count();
        for page in pages {
            mm.free_pages(page).expect("its own");
        }
        mm.drain_all(None);
        audit(&mm);
        inside
    };
    assert_eq!(inside(Gfp::KERNEL | Gfp::MEMALLOC), 0);
    assert_eq!(inside(Gfp::KERNEL | Gfp::RECLAIMABLE), 0);
    assert_eq!(inside(Gfp::HIGHUSER_MOVABLE | Gfp::PINNED), 0);
    assert!(inside(Gfp::HIGHUSER_MOVABLE) as u64 > area.pages() * 3 / 4);
    assert_eq!(cma_free(&mm), area.pages());
    assert!(types_are_cma(&mm, area));
    // Contiguous memory for others does not come from it either.
    let got = mm.alloc_contig_range(PfnRange::sized(area.start, 1), Gfp::KERNEL);
    assert!(matches!(got, Err(ContigError::Busy(o)) if o.why == Reason::Unmovable));
    assert!(mm.alloc_contig_pages(5, Order(0), None, area.start, Gfp::KERNEL).is_err());
}

#[test]
fn alignment_is_of_the_physical_address() {
    // The area begins at an odd multiple of 2 MiB.
    let base = CmaRequest { base: Some(18 * MIB), ..request(12, 0) };
    for order_per_bit in if cfg!(miri) { 2..3 } else { 0..5 } {
        let order_per_bit = Order(order_per_bit);
        let (mm, area) = setup(32, CmaRequest { order_per_bit, ..base });
        assert_eq!(area.start, Pfn(18 << 8));
        for (count, align) in [(100, 11), (512, 10), (1, 10), (1, 0), (1, 3), (5, 4), (16, 9)] {
            let got = mm.cma_alloc(ID, count, Order(align), Gfp::KERNEL).expect("there is room");
            assert_eq!(got.pages(), count);
            assert!(got.start.is_aligned(Order(align)), "{got:?} {align}");
            assert!(got.start.is_aligned(order_per_bit));
            assert_eq!(got.intersect(area), got);
            audit(&mm);
        }
        // It has no frame at a multiple of 32 MiB.
        let got = mm.cma_alloc(ID, 1, Order(13), Gfp::KERNEL);
        assert!(got.is_err(), "{got:?}");
        assert!(mm.cma_alloc(ID, 1, Order(51), Gfp::KERNEL).is_err());
    }
}

/// The last bit of a range may stand for more than the range's frames.
#[test]
fn a_bad_frame_behind_a_range_stays_withheld() {
    let (mm, area) = setup(32, request(12, 2));
    let got = mm.cma_alloc(ID, 3, Order(0), Gfp::KERNEL).expect("free");
    mm.poison_page(got.end).expect("a free frame");
    audit(&mm);
    mm.cma_release(ID, got).expect("its own");
    audit(&mm);
    let next = mm.cma_alloc(ID, 4, Order(0), Gfp::KERNEL).expect("free");
    assert_eq!(next.start, area.start.add(4), "the bit of the bad frame is passed over");
    mm.cma_release(ID, next).expect("its own");
    audit(&mm);
}

#[test]
fn requests_without_sense() {
    let (mm, _) = setup(64, request(16, 0));
    let invalid = |r| matches!(r, Err(ContigError::Invalid(_)));
    assert!(invalid(mm.cma_alloc(ID, 0, Order(0), Gfp::KERNEL)));
    assert!(invalid(mm.cma_alloc(ID, 1, Order(52), Gfp::KERNEL)));
    assert!(invalid(mm.cma_alloc(ID, 1, Order(0), Gfp::DMA | Gfp::DMA32)));
    assert_eq!(mm.cma_alloc(ID, 4097, Order(0), Gfp::KERNEL), Err(ContigError::NoMemory));
    assert_eq!(mm.cma_alloc(ID, u64::MAX, Order(0), Gfp::KERNEL), Err(ContigError::NoMemory));
    assert_eq!(mm.stats().get(Event::CmaAllocFail), 3);
    let none = pc(32, 1, &Config::default()).expect("a machine");
    assert!(invalid(none.cma_alloc(ID, 1, Order(0), Gfp::KERNEL)));
    assert!(none.cma_release(ID, PfnRange::sized(Pfn(0x400), 1)).is_err());
    audit(&mm);
}

#[test]
fn release_takes_back_what_was_given_and_nothing_else() {
    let (mm, area) = setup(12, request(4, 2));
    let got = mm.cma_alloc(ID, 30, Order(0), Gfp::KERNEL).expect("free");
    let next = mm.cma_alloc(ID, 4, Order(0), Gfp::KERNEL).expect("free");
    assert_eq!(
        (got, next),
        (PfnRange::sized(area.start, 30), PfnRange::sized(area.start.add(32), 4))
    );
    assert_eq!(mm.cma_used(mm.cma_area(ID).expect("there")), 36);
    let refused = |r: PfnRange, why| {
        assert_eq!(mm.cma_release(ID, r), Err(why), "{r:?}");
        audit(&mm);
    };
    let part = |from, to| PfnRange::new(area.start.add(from), area.start.add(to));
    refused(part(1, 30), FreeError::NotHead);
    refused(part(0, 15), FreeError::NotHead);
    refused(part(0, 36), FreeError::DoubleFree);
    refused(part(32, 1025), FreeError::NotManaged);
    refused(part(40, 44), FreeError::DoubleFree);
    refused(PfnRange::sized(Pfn(0x400), 1), FreeError::NotManaged);
    refused(PfnRange::new(got.end, got.start), FreeError::NotManaged);
    // Not by other ways, nor other things by this one.
    assert_eq!(mm.free_contig_range(got), Err(FreeError::WrongOwner));
    assert!(mm.free_pages(Page { pfn: got.start, order: Order(4) }).is_err());
    let outside = mm.alloc_contig_pages(4, Order(0), None, Pfn(0), Gfp::KERNEL).expect("free");
    assert!(mm.cma_release(ID, outside).is_err());
    mm.free_contig_range(outside).expect("its own");
    mm.cma_release(ID, part(4, 16)).expect("a part");
    audit(&mm);
    refused(part(0, 8), FreeError::DoubleFree);
    mm.cma_release(ID, part(16, 30)).expect("the end, in the middle of a bit");
    mm.cma_release(ID, part(0, 4)).expect("the rest");
    mm.cma_release(ID, next).expect("its own");
    assert_eq!(mm.cma_used(mm.cma_area(ID).expect("there")), 0);
    assert_eq!(cma_free(&mm), 1024);
    audit(&mm);
}

#[test]
#[cfg_attr(miri, ignore = "takes all of a machine page by page")]
fn lent_to_movable_pages_and_had_back_whole() {
    let (mm, area) = setup(128, request(32, 0));
    let arena = arena(&mm);
    let handles = fill(&mm, arena);
    let frame = |h: Handle| arena.frame(&mm, h).expect("live");
    let inside: Vec<_> = handles.iter().filter(|&&h| area.contains(frame(h))).collect();
    assert!(inside.len() as u64 > area.pages() * 9 / 10, "{} pages in the area", inside.len());
    // Pages elsewhere are freed, so that there is a place to move to.
    let mut kept = Vec::new();
    for (n, &handle) in handles.iter().enumerate() {
        if area.contains(frame(handle)) || n % 2 == 0 {
            kept.push((n, handle));
        } else {
            arena.free(&mm, handle).expect("live");
        }
    }
    let all = mm.cma_alloc(ID, area.pages(), Order(0), Gfp::KERNEL).expect("all of it");
    assert_eq!(all, area);
    audit(&mm);
    assert_eq!(cma_free(&mm), 0);
    for (n, handle) in kept {
        let found = arena
            .with(&mm, handle, |b| u64::from_le_bytes(b[..8].try_into().expect("8")))
            .expect("live");
        assert_eq!(found, n as u64);
        assert!(!area.contains(frame(handle)));
    }
    assert_eq!(mm.cma_alloc(ID, 1, Order(0), Gfp::KERNEL), Err(ContigError::NoMemory));
    mm.cma_release(ID, all).expect("its own");
    assert_eq!(cma_free(&mm), area.pages());
    assert!(types_are_cma(&mm, area));
    audit(&mm);
    assert_eq!(mm.stats().get(Event::CmaAllocSuccess), 1);
}

#[test]
#[cfg_attr(miri, ignore = "fills 64 MiB")]
fn a_pinned_page_is_gone_around() {
    let (mm, area) = setup(64, request(16, 0));
    let arena = arena(&mm);
    let handles = fill(&mm, arena);
    let mut pinned = Vec::new();
    for handle in handles {
        let pfn = arena.frame(&mm, handle).expect("live");
        // One in the first three blocks each; elsewhere there is room.
        if area.contains(pfn) && pfn < area.start.add(1536) {
            if pfn.0 % PAGEBLOCK_PAGES == 100 {
                arena.pin(&mm, handle).expect("live");
                pinned.push(pfn);
            }
        } else {
            arena.free(&mm, handle).expect("live");
        }
    }
    assert_eq!(pinned.len(), 3);
    let before = cma_free(&mm);
    let got = mm.cma_alloc(ID, 511, Order(0), Gfp::KERNEL).expect("between two pins");
    assert!(!pinned.iter().any(|&p| got.contains(p)));
    // Each place that holds the pin fails with it: the next try is beyond.
    assert_eq!(got.start, area.start.add(101));
    audit(&mm);
    mm.cma_release(ID, got).expect("its own");
    // Nothing of that size fits in the area with all its pins.
    let none = mm.cma_alloc(ID, 3000, Order(0), Gfp::KERNEL);
    assert!(matches!(none, Err(ContigError::Busy(o)) if o.why == Reason::InUse), "{none:?}");
    assert!(cma_free(&mm) >= before);
    assert!(types_are_cma(&mm, area));
    assert_eq!(mm.cma_used(mm.cma_area(ID).expect("there")), 0);
    audit(&mm);
}

#[test]
fn random_use_against_a_model() {
    let rounds = if cfg!(miri) { 40 } else { 3000 };
    let request = CmaRequest { base: Some(18 * MIB), ..request(2, 1) };
    let (mm, area) = setup(24, request);
    let arena = arena(&mm);
    let seed = 0x1234_5678_9abc_def1u64;
    let mut state = seed;
    let mut below = |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    };
    let mut owner = vec![0u32; area.pages() as usize];
    let mut live: Vec<PfnRange> = Vec::new();
    let mut lent = Vec::new();
    for round in 1..=rounds {
        match below(4) {
            0 => {
                let (size, align) = (below(9), below(10) as u8);
                let count = 1 + below(1 << size);
                if let Ok(got) = mm.cma_alloc(ID, count, Order(align), Gfp::KERNEL) {
                    let first = (got.start.0 - area.start.0) as usize;
                    let pages = &mut owner[first..first + count as usize];
                    assert!(pages.iter().all(|&o| o == 0), "round {round} of {seed:#x}");
                    pages.fill(round);
                    live.push(got);
                } else {
                    // Some page of each place was taken.
                    let fits = (0..area.pages() - count + 1).any(|i| {
                        let pfn = area.start.add(i);
                        pfn.is_aligned(Order(align.max(1)))
                            && owner[i as usize..((i + count) as usize).next_multiple_of(2)]
                                .iter()
                                .all(|&o| o == 0)
                    });
                    assert!(!fits, "{count} pages, round {round} of {seed:#x}");
                }
            }
            1 if !live.is_empty() => {
                let r = live.swap_remove(below(live.len() as u64) as usize);
                mm.cma_release(ID, r).expect("its own");
                let first = (r.start.0 - area.start.0) as usize;
                owner[first..first + r.pages() as usize].fill(0);
            }
            2 if lent.len() < 4000 => {
                for _ in 0..below(200) {
                    lent.extend(arena.alloc(&mm, Gfp::HIGHUSER_MOVABLE | Gfp::NOWARN));
                }
            }
            _ => {
                for _ in 0..below(300).min(lent.len() as u64) {
                    let handle = lent.swap_remove(below(lent.len() as u64) as usize);
                    arena.free(&mm, handle).expect("live");
                }
            }
        }
        if !cfg!(miri) && round % 16 == 0 {
            mm.audit().unwrap_or_else(|e| panic!("{e}, round {round} of {seed:#x}"));
            let used = live.iter().map(|r| r.pages().next_multiple_of(2)).sum();
            assert_eq!(mm.cma_used(mm.cma_area(ID).expect("there")), used);
        }
    }
    for r in live {
        mm.cma_release(ID, r).expect("its own");
    }
    for handle in lent {
        arena.free(&mm, handle).expect("live");
    }
    assert_eq!(cma_free(&mm), area.pages());
    assert!(types_are_cma(&mm, area));
    audit(&mm);
}

#[test]
fn two_cpus_share_an_area() {
    let (mm, area) = setup(12, request(4, 0));
    let rounds = if cfg!(miri) { 2 } else { 200 };
    std::thread::scope(|scope| {
        for cpu in [0u16, 1] {
            let mm = &mm;
            scope.spawn(move || {
                mm.platform().run_on(CpuId(cpu));
                for round in 0..rounds {
                    // Together they want no more than there is, in pieces that
                    // share pageblocks.
                    let count = 300 + 37 * u64::from(cpu) + round % 7;
                    let got =
                        mm.cma_alloc(ID, count, Order(0), Gfp::KERNEL).expect("room for both");
                    assert_eq!(got.pages(), count);
                    mm.cma_release(ID, got).expect("its own");
                }
            });
        }
    });
    assert_eq!(cma_free(&mm), area.pages());
    assert!(types_are_cma(&mm, area));
    audit(&mm);
}
