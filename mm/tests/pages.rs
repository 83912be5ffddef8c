//! The page allocator on simulated machines: who gets what, who is refused.
#![cfg(feature = "host")]

use mm::host::{Machine, pc};
use mm::page::PageType;
use mm::platform::{Context, Worker};
use mm::types::{MigrateType, NodeId, Order, PAGEBLOCK_ORDER, Pfn, ZoneKind};
use mm::zone::Mark;
use mm::{AllocError, Config, FreeError, Gfp, Mm, Page, Request};

/// A machine of `mib` MiB; a small one where every access is interpreted.
fn machine(mib: u64) -> Mm<Machine> {
    let mib = if cfg!(miri) { mib.min(4) } else { mib };
    let mm = pc(mib, 1, &Config::default()).expect("a machine");
    mm.audit().expect("a whole machine");
    mm
}

fn alloc(mm: &Mm<Machine>, order: u8, gfp: Gfp) -> Result<Page, AllocError> {
    mm.alloc_pages(Request::new(Order(order), gfp | Gfp::NOWARN))
}

#[test]
fn a_fresh_machine_is_whole_and_mostly_free() {
    for mib in [1, 2, 16, 17, 64, 512] {
        let mm = machine(mib);
        let free = mm.free_pages_total();
        assert!(free * 100 >= mm.managed_pages() * 99, "{mib} MiB: {free} pages free");
        assert_eq!(free, mm.managed_pages());
    }
}

#[test]
fn what_is_allocated_comes_back() {
    let mm = machine(64);
    let free = mm.free_pages_total();
    for order in 0..=10 {
        let page = alloc(&mm, order, Gfp::KERNEL).expect("a block");
        assert!(page.pfn.is_aligned(Order(order)));
        mm.audit().expect("whole with a block out");
        mm.free_pages(page).expect("free");
    }
    mm.drain_all(None);
    assert_eq!(mm.free_pages_total(), free);
    mm.audit().expect("whole");
}

#[test]
fn all_memory_can_be_had_and_merges_again() {
    let mm = machine(32);
    let free = mm.free_pages_total();
    let mut pages = Vec::new();
    while let Ok(page) = alloc(&mm, 0, Gfp::KERNEL | Gfp::MEMALLOC) {
        pages.push(page);
    }
    assert_eq!(pages.len() as u64, free);
    assert_eq!(mm.free_pages_total(), 0);
    mm.audit().expect("whole when empty");
    // Every second first: the worst case for merging.
    for page in pages.iter().step_by(2).chain(pages.iter().skip(1).step_by(2)) {
        mm.free_pages(*page).expect("free");
    }
    mm.drain_all(None);
    assert_eq!(mm.free_pages_total(), free);
    mm.audit().expect("whole and merged");
}

#[test]
fn wrong_frees_are_refused_and_change_nothing() {
    let mm = machine(32);
    let page = alloc(&mm, 2, Gfp::KERNEL).expect("a block");
    let wrong = |pfn, order| mm.free_pages(Page { pfn, order: Order(order) });
    assert_eq!(wrong(page.pfn, 0), Err(FreeError::WrongOrder { is: Order(2) }));
    assert_eq!(wrong(page.pfn.add(1), 0), Err(FreeError::NotHead));
    assert_eq!(wrong(page.pfn, 16), Err(FreeError::WrongOrder { is: Order(2) }));
    assert_eq!(wrong(Pfn(0), 0), Err(FreeError::NotManaged));
    assert_eq!(wrong(Pfn(0xb0), 0), Err(FreeError::NotManaged));
    assert_eq!(wrong(Pfn(1 << 40), 0), Err(FreeError::NotManaged));
    mm.free_pages(page).expect("the right one");
    assert_eq!(wrong(page.pfn, 2), Err(FreeError::DoubleFree));
    mm.drain_all(None);
    assert!(wrong(page.pfn, 2).is_err());
    assert_eq!(mm.stats().get(mm::stats::Event::BadFree), 8);
    let refused = mm.platform().take_log().into_iter().filter(|l| l.1.contains("refused"));
    assert_eq!(refused.count(), 8);
    mm.audit().expect("whole");
}

#[test]
fn contradictions_are_invalid() {
    let mm = machine(32);
    assert!(matches!(alloc(&mm, 11, Gfp::KERNEL), Err(AllocError::Invalid(_))));
    assert!(matches!(alloc(&mm, 0, Gfp::DMA | Gfp::DMA32), Err(AllocError::Invalid(_))));
    let both = Gfp::KERNEL | Gfp::MOVABLE | Gfp::RECLAIMABLE;
    assert!(matches!(alloc(&mm, 0, both), Err(AllocError::Invalid(_))));
}

#[test]
fn zones_are_respected() {
    let mm = machine(64);
    let page = alloc(&mm, 0, Gfp::KERNEL | Gfp::DMA).expect("a DMA page");
    assert!(page.pfn < mm::setup::DMA_END);
    let page = alloc(&mm, 0, Gfp::KERNEL).expect("a page");
    assert!(page.pfn >= mm::setup::DMA_END, "higher zones first");
}

/// Takes single pages until that is refused; returns them.
fn exhaust(mm: &Mm<Machine>, gfp: Gfp) -> Vec<Page> {
    core::iter::from_fn(|| alloc(mm, 0, gfp).ok()).collect()
}

#[test]
fn each_right_digs_as_deep_as_it_may() {
    let mm = machine(256);
    // Mixing types in the last blocks would raise the marks.
    mm.set_watermark_boost_factor(0);
    let zone = mm.zone(NodeId(0), ZoneKind::Dma32).expect("DMA32");
    let min = zone.mark(Mark::Min);
    // A per-CPU list is filled a batch at a time: the last one may reach below.
    let batch = u64::from(zone.pcp_batch());
    let stops_near = |mark: u64| {
        let left = zone.free_pages();
        assert!(left.abs_diff(mark) <= batch + 1, "{left} left, mark {mark}, batch {batch}");
    };
    exhaust(&mm, Gfp::NOWAIT);
    stops_near(min);
    exhaust(&mm, Gfp::KERNEL | Gfp::HIGH);
    stops_near(min - min / 2);
    exhaust(&mm, Gfp::ATOMIC);
    stops_near(min - min / 2 - (min - min / 2) / 4);
    assert!(alloc(&mm, 0, Gfp::KERNEL).is_err());
    assert!(alloc(&mm, 0, Gfp::ATOMIC | Gfp::NOMEMALLOC | Gfp::MEMALLOC).is_err());
    // The failures above drained the lists: the mark has to be reached again.
    exhaust(&mm, Gfp::ATOMIC);
    let page = alloc(&mm, 0, Gfp::ATOMIC | Gfp::MEMALLOC).expect("the reserves");
    assert!(mm.is_pfmemalloc(page.pfn));
    mm.platform().set_context(Context { memalloc: true, ..Context::default() });
    assert!(alloc(&mm, 0, Gfp::KERNEL).is_ok());
    mm.platform().set_context(Context { memalloc: true, in_irq: true, ..Context::default() });
    assert!(alloc(&mm, 0, Gfp::ATOMIC).is_err(), "an interrupt has not its task's rights");
    mm.platform().set_context(Context::default());
    mm.audit().expect("whole");
}

#[test]
fn a_run_of_requests_fetches_more_each_time() {
    let mm = machine(256);
    let zone = mm.zone(NodeId(0), ZoneKind::Dma32).expect("DMA32");
    let batch = u64::from(zone.pcp_batch());
    let mut held = Vec::new();
    // What the next refill takes from the zone.
    let refill = |held: &mut Vec<Page>| {
        let before = zone.free_pages();
        while zone.free_pages() == before {
            held.push(alloc(&mm, 0, Gfp::KERNEL).expect("a page"));
        }
        assert!(mm.pcp_pages(zone) <= u64::from(zone.pcp_high()));
        before - zone.free_pages()
    };
    for _ in 0..2 {
        // Frees end the run.
        for _ in 0..8 {
            held.push(alloc(&mm, 0, Gfp::KERNEL).expect("a page"));
        }
        held.drain(held.len() - 8..).for_each(|page| mm.free_pages(page).expect("allocated"));
        // In whole blocks: from half of what it is to be to half as much again.
        for n in [1, 2, 4, 8] {
            let (wanted, got) = (n * (batch + 1), refill(&mut held));
            assert!(got >= wanted / 2 && got <= wanted * 3 / 2, "{got} pages, not {wanted}");
        }
    }
    // So does another list's turn.
    let block = alloc(&mm, 2, Gfp::KERNEL).expect("a block");
    assert_eq!(refill(&mut held), batch + 1);
    mm.free_pages(block).expect("allocated");
    held.into_iter().for_each(|page| mm.free_pages(page).expect("allocated"));
    mm.audit().expect("whole");
}

/// Blocks that are freed in a row, upward or downward, go through this CPU's
/// lists, whose drains take them for rows; every now and then a row ends.
#[test]
fn rows_of_frees_merge_again() {
    let mm = machine(32);
    let (free, merged) = (mm.free_pages_total(), mm.audit().expect("whole").free);
    let rows = if cfg!(miri) { 60 } else { 700 };
    for order in 0..=3 {
        for (downward, broken) in [(false, 0), (true, 0), (false, 7), (true, 9), (false, 64)] {
            let mut held: Vec<Page> =
                (0..rows).map(|_| alloc(&mm, order, Gfp::KERNEL).expect("a block")).collect();
            held.sort_by_key(|page| page.pfn);
            if downward {
                held.reverse();
            }
            if broken > 0 {
                // The first of each few comes last.
                let (late, row): (Vec<_>, Vec<_>) =
                    held.into_iter().enumerate().partition(|(i, _)| i % broken == 0);
                held = row.into_iter().chain(late).map(|(_, page)| page).collect();
            }
            for (i, page) in held.into_iter().enumerate() {
                mm.free_pages(page).expect("allocated");
                if i % 97 == 0 {
                    mm.audit().expect("whole while rows are freed");
                }
            }
            mm.audit().expect("whole with rows on the lists");
        }
    }
    mm.drain_all(None);
    assert_eq!(mm.free_pages_total(), free);
    assert_eq!(mm.audit().expect("whole").free, merged);
    for zone in mm.zones().iter().filter(|zone| zone.managed() > 0) {
        let small: u32 = mm.free_blocks(zone)[..4].iter().flatten().sum();
        assert!(small <= 8, "{small} small blocks are left of {:?}", zone.kind);
    }
}

/// Thousands of pages taken and given back in a row, again and again: what goes
/// through the lists is whole blocks, and they are not cut ever smaller.
#[test]
fn batches_leave_no_small_pieces() {
    for mib in if cfg!(miri) { [4, 4, 4] } else { [40, 256, 1024] } {
        let mm = machine(mib);
        let pages = mm.free_pages_total() / 3;
        for _ in 0..4 {
            let held: Vec<Page> =
                (0..pages).map(|_| alloc(&mm, 0, Gfp::KERNEL).expect("a page")).collect();
            held.into_iter().for_each(|page| mm.free_pages(page).expect("allocated"));
        }
        for zone in mm.zones().iter().filter(|zone| zone.managed() > 0) {
            let small: u32 = mm.free_blocks(zone)[..4].iter().flatten().sum();
            assert!(small <= 12, "{small} small blocks in {:?} of {mib} MiB", zone.kind);
        }
        mm.audit().expect("whole");
    }
}

#[test]
fn the_right_alone_does_not_mark() {
    let mm = machine(64);
    let page = alloc(&mm, 0, Gfp::KERNEL | Gfp::MEMALLOC).expect("a page");
    assert!(!mm.is_pfmemalloc(page.pfn));
}

#[test]
fn a_mark_is_gone_when_the_page_is_freed() {
    let mm = machine(64);
    let held = exhaust(&mm, Gfp::ATOMIC);
    let page = alloc(&mm, 0, Gfp::ATOMIC | Gfp::MEMALLOC).expect("the reserves");
    assert!(mm.is_pfmemalloc(page.pfn));
    mm.free_pages(page).expect("free");
    for page in held {
        mm.free_pages(page).expect("free");
    }
    for _ in 0..1000 {
        let again = alloc(&mm, 0, Gfp::KERNEL).expect("a page");
        assert!(!mm.is_pfmemalloc(again.pfn));
    }
}

#[test]
fn kswapd_is_woken_below_low() {
    let mm = machine(64);
    exhaust(&mm, Gfp::NOWAIT);
    assert!(mm.platform().take_woken().contains(&Worker::Kswapd(NodeId(0))));
}

#[test]
fn types_are_grouped_by_block() {
    let mm = machine(64);
    let a = alloc(&mm, 0, Gfp::KERNEL).expect("a page");
    let b = alloc(&mm, 0, Gfp::HIGHUSER_MOVABLE).expect("a page");
    assert_ne!(a.pfn.pageblock(), b.pfn.pageblock());
    let ty = |p: Page| mm.map().try_block(p.pfn).expect("present").migratetype();
    assert_eq!(ty(a), MigrateType::Unmovable);
    assert_eq!(ty(b), MigrateType::Movable);
}

#[test]
fn bulk_gives_distinct_pages() {
    let mm = machine(64);
    let mut pages = [Pfn(0); 64];
    assert_eq!(mm.alloc_bulk(Gfp::KERNEL, None, &mut pages), Ok(64));
    let mut sorted = pages;
    sorted.sort();
    assert!(sorted.windows(2).all(|w| w[0] < w[1]));
    mm.free_bulk(&pages).expect("free");
    assert_eq!(mm.free_bulk(&pages).map_err(|e| e.0), Err(0));
    mm.audit().expect("whole");
}

#[test]
fn poison_finds_a_write_after_free() {
    let config = Config { page_poison: true, ..Config::default() };
    let mm = pc(16, 1, &config).expect("a machine");
    let page = alloc(&mm, 0, Gfp::KERNEL).expect("a page");
    mm.free_pages(page).expect("free");
    mm.platform().take_log();
    // SAFETY: none: this is the bug that poison is for. The frame is RAM.
    unsafe { mm::platform::Platform::frame(mm.platform(), page.pfn).add(7).write(1) };
    let mut found = false;
    for _ in 0..64 {
        alloc(&mm, 0, Gfp::KERNEL).expect("a page");
        found |= mm.platform().take_log().iter().any(|l| l.1.contains("byte 0x7"));
    }
    assert!(found);
}

#[test]
fn owners_are_named() {
    let config = Config { page_owner: true, ..Config::default() };
    let mm = pc(16, 1, &config).expect("a machine");
    let page = alloc(&mm, 0, Gfp::KERNEL).expect("a page");
    let more = mm.alloc_pages(Request::new(Order(2), Gfp::KERNEL)).expect("a block");
    assert_eq!(mm.map().try_page(page.pfn).expect("present").head().ty(), PageType::Kernel);
    let at = mm.holder(page.pfn).expect("recorded");
    assert!(at.file().ends_with("pages.rs"));
    assert_eq!(mm.holder(more.pfn.add(3)).map(|l| l.line() > at.line()), Some(true));
    mm.platform().take_log();
    mm.log_holdings();
    let mut lines: Vec<_> = mm.platform().take_log().into_iter().map(|l| l.1).collect();
    lines.sort();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with("page_owner: 1 pages in 1 blocks: "), "{lines:?}");
    assert!(lines[1].starts_with("page_owner: 4 pages in 1 blocks: "), "{lines:?}");
    mm.free_pages(page).expect("free");
    mm.free_pages(more).expect("free");
    assert_eq!(mm.holder(page.pfn), None);
    mm.audit().expect("whole");
}

#[test]
fn owners_of_odd_blocks_are_named() {
    let config = Config { page_owner: true, ..Config::default() };
    let mm = pc(16, 1, &config).expect("a machine");
    mm.slab_init().expect("slabs");
    let memory = mm.kmalloc(5 * 4096, Gfp::KERNEL).expect("a large block");
    let range = mm.alloc_contig_pages(3, Order(0), None, Pfn(0), Gfp::KERNEL).expect("a range");
    let mut here = Vec::new();
    mm.for_each_holding(|holding| {
        if holding.at.is_some_and(|at| at.file().ends_with("pages.rs")) {
            here.push(holding.pages);
        }
    });
    here.sort_unstable();
    assert_eq!(here, [3, 8]);
    assert!(mm.holder(range.start).is_some());
    mm.free_contig_range(range).expect("its own");
    mm.kfree(memory).expect("its own");
}

#[test]
fn a_failure_says_why() {
    let mm = machine(16);
    exhaust(&mm, Gfp::NOWAIT);
    mm.platform().take_log();
    assert!(mm.alloc_pages(Request::new(Order(3), Gfp::NOWAIT)).is_err());
    let log = mm.platform().take_log();
    assert!(log[0].1.starts_with("page allocation failure: order:3, mode:0x400"), "{}", log[0].1);
    assert!(log.iter().any(|l| l.1.contains("lowmem_reserve[]:")));
}

/// Large blocks have a budget of their own on a CPU's list: what goes beyond it
/// goes past, and the small ones count for nothing there.
#[test]
#[cfg_attr(miri, ignore = "a machine of 2 GiB")]
fn large_blocks_are_kept_where_they_are_a_small_part() {
    let request = Request::new(PAGEBLOCK_ORDER, Gfp::KERNEL);
    for (mib, cpus, kept) in [(64, 1, 1), (64, 4, 0), (256, 4, 1), (2048, 1, 2)] {
        let kept = kept * PAGEBLOCK_ORDER.pages();
        let mm = pc(mib, cpus, &Config::default()).expect("a machine");
        let listed = || mm.zones().iter().map(|zone| mm.pcp_pages(zone)).sum::<u64>();
        let pages = [(); 3].map(|()| mm.alloc_pages(request).expect("a block"));
        mm.drain_all(None);
        let free = mm.free_pages_total();
        for page in pages {
            mm.free_pages(page).expect("ours");
        }
        assert_eq!(listed(), kept, "{mib} MiB, {cpus} CPUs");
        let freed = 3 * PAGEBLOCK_ORDER.pages();
        assert_eq!(mm.free_pages_total() + kept, free + freed, "{mib} MiB, {cpus} CPUs");
        mm.audit().expect("a sound manager");
        let small = mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("a page");
        mm.free_pages(small).expect("ours");
        assert!(listed() >= kept, "a small page pushed a large one out");
        let again = mm.alloc_pages(request).expect("a block");
        assert!(kept == 0 || pages.contains(&again), "the list is not asked");
        mm.free_pages(again).expect("ours");
        mm.drain_all(None);
        assert_eq!((listed(), mm.free_pages_total()), (0, free + freed), "{mib} MiB");
        mm.audit().expect("a sound manager");
    }
}

/// What a CPU has put by of large blocks is no loss to its small requests, even
/// where these may not wait for anybody.
#[test]
fn a_kept_large_block_serves_small_requests() {
    let mm = machine(64);
    let block = mm.alloc_pages(Request::new(PAGEBLOCK_ORDER, Gfp::KERNEL)).expect("a block");
    mm.drain_all(None);
    mm.free_pages(block).expect("ours");
    let listed = || mm.zones().iter().map(|zone| mm.pcp_pages(zone)).sum::<u64>();
    assert_eq!(listed(), PAGEBLOCK_ORDER.pages(), "the block is kept");
    exhaust(&mm, Gfp::NOWAIT);
    assert!(listed() < PAGEBLOCK_ORDER.pages(), "the block is kept still");
    mm.audit().expect("a sound manager");
}
