//! When passes come, what they report, and what they leave alone.

use crate::device::{Scripted, alloc, free, machine, machine_with, order, run_for, settle, woken};
use mm::host::Machine;
use mm::page::PageFlags;
use mm::platform::Worker;
use mm::report::{NoPass, RegisterError, ReportState};
use mm::types::{MigrateType, Order, Pfn};
use mm::zone::Mark;
use mm::{Config, Gfp, Mm, Request};
use std::collections::BTreeSet;

fn is_reported(mm: &Mm<Machine>, pfn: Pfn) -> bool {
    mm.map().try_page(pfn).is_some_and(|p| p.head().flags().contains(PageFlags::REPORTED))
}

#[test]
fn a_pass_comes_two_seconds_after_it_was_asked_for() {
    let (mm, device) = (machine(256, 1), Scripted::willing());
    assert_eq!(mm.work(Worker::Reporting), None, "no device, nothing to do");
    mm.report_register(device, None).expect("the first");
    assert!(woken(mm));
    assert_eq!(mm.report_status().state, ReportState::Requested);
    assert_eq!(mm.work(Worker::Reporting), Some(2000));
    mm.platform().advance_ms(1999);
    assert_eq!(mm.work(Worker::Reporting), Some(1));
    assert!(device.take().is_empty());
    mm.platform().advance_ms(1);
    mm.work(Worker::Reporting);
    assert!(!device.take().is_empty());
    settle(mm);
    assert_eq!(mm.report_status().state, ReportState::Idle);
    mm.audit().expect("whole");
}

#[test]
fn each_free_block_is_reported_once() {
    let (mm, device) = (machine(256, 1), Scripted::willing());
    mm.report_register(device, None).expect("the first");
    settle(mm);
    let blocks = device.take_blocks();
    let distinct: BTreeSet<_> = blocks.iter().map(|b| b.start).collect();
    assert_eq!(distinct.len(), blocks.len());
    assert!(blocks.iter().all(|&b| order(b) >= Order(9) && is_reported(mm, b.start)));
    let pages: u64 = blocks.iter().map(|b| b.pages()).sum();
    let stats = mm.report_stats();
    assert_eq!((stats.pages, stats.blocks), (pages, blocks.len() as u64));
    assert_eq!(mm.reported_pages(), pages);
    // All that is free in such blocks, where there is enough of it.
    let dma32 = mm.zones().iter().max_by_key(|z| z.managed()).expect("a zone");
    for by_type in &mm.free_blocks(dma32)[9..] {
        let listed: u64 = by_type.iter().map(|&n| u64::from(n)).sum();
        assert!(listed == 0 || pages > 0);
    }
    let large: u64 = (9..=10u8)
        .map(|o| {
            let n: u64 = mm.free_blocks(dma32)[usize::from(o)].iter().map(|&n| u64::from(n)).sum();
            n << o
        })
        .sum();
    let here = |b: &&mm::types::PfnRange| dma32.span().contains(b.start);
    assert_eq!(blocks.iter().filter(here).map(|b| b.pages()).sum::<u64>(), large);
    mm.audit().expect("whole");
    // Nothing has changed: a pass that is asked for finds nothing.
    assert_eq!(mm.report_now(), Ok(0));
    assert!(device.take().is_empty());
}

#[test]
fn the_mark_goes_as_the_block_leaves_its_list() {
    let (mm, device) = (machine(256, 1), Scripted::willing());
    mm.report_register(device, None).expect("the first");
    settle(mm);
    let mut known = device.take_blocks();
    for size in [0, 3, 5, 9, 10] {
        // Small ones that come from elsewhere are kept.
        let (page, from) = loop {
            let page = alloc(mm, size);
            if let Some(&from) = known.iter().find(|b| b.contains(page.pfn)) {
                break (page, from);
            }
        };
        assert!(!is_reported(mm, from.start));
        mm.audit().expect("whole");
        free(mm, page);
        mm.drain_all(None);
        assert!(!is_reported(mm, from.start), "order {size}");
        settle(mm);
        let again = device.take_blocks();
        assert!(again.iter().any(|b| b.contains(page.pfn)), "order {size}: {again:?}");
        assert!(is_reported(mm, from.start));
        mm.audit().expect("whole");
        known.extend(again);
    }
}

#[test]
fn small_frees_ask_for_nothing_and_large_ones_do() {
    let (mm, device) = (machine(256, 1), Scripted::willing());
    mm.report_register(device, None).expect("the first");
    settle(mm);
    // Both halves of a pageblock: freeing one does not make a block of order 9.
    let mut halves = vec![alloc(mm, 8), alloc(mm, 8)];
    while halves[0].pfn.buddy(Order(8)) != halves[1].pfn {
        halves.remove(0);
        halves.push(alloc(mm, 8));
    }
    free(mm, halves[0]);
    assert!(!woken(mm));
    assert_eq!(mm.report_status().state, ReportState::Idle);
    free(mm, halves[1]);
    assert!(woken(mm));
    assert_eq!(mm.report_status().state, ReportState::Requested);
    settle(mm);
    // Through the per-CPU lists: as they are drained.
    let page = alloc(mm, 9);
    free(mm, page);
    let pages: Vec<_> = (0..1024).map(|_| alloc(mm, 0)).collect();
    pages.into_iter().for_each(|page| free(mm, page));
    mm.drain_all(None);
    assert_eq!(mm.report_status().state, ReportState::Requested);
    settle(mm);
    mm.audit().expect("whole");
}

#[test]
fn a_pass_sends_a_share_of_a_long_list_and_asks_for_the_next() {
    let (mm, device) = (machine(1024, 1), Scripted::willing());
    mm.set_report_order(Order(9));
    mm.report_register(device, None).expect("the first");
    let dma32 = mm.zones().iter().max_by_key(|z| z.managed()).expect("a zone");
    let free = u64::from(mm.free_blocks(dma32)[10].iter().copied().max().expect("types"));
    assert!(free > 200, "{free} blocks of 4 MiB");
    let mut passes = Vec::new();
    while mm.report_status().state != ReportState::Idle {
        assert_eq!(run_for(mm, 2000), 1);
        passes.push(device.take().iter().map(Vec::len).collect::<Vec<_>>());
    }
    // Below 512 blocks a list has two batches a pass: the second is sent as a
    // 65th block is met.
    let full: Vec<_> =
        passes.iter().filter(|p| p.iter().filter(|&&n| n == 32).count() == 2).collect();
    assert_eq!(full.len() as u64, (free - 1) / 64, "{passes:?}");
    assert_eq!(mm.report_stats().spent_budgets, (free - 1) / 64);
    assert_eq!(passes.iter().flatten().sum::<usize>() as u64, mm.report_stats().blocks);
    mm.audit().expect("whole");
}

#[test]
fn a_zone_with_too_little_is_skipped() {
    let (mm, device) = (machine(64, 1), Scripted::willing());
    let dma32 = mm.zones().iter().max_by_key(|z| z.managed()).expect("a zone");
    // A batch of 4 MiB blocks is more than it has.
    mm.set_report_order(Order(10));
    mm.report_register(device, None).expect("the first");
    settle(mm);
    assert!(device.take().is_empty());
    assert!(mm.report_stats().skipped_zones >= 1);
    // Smaller blocks, and more of the memory in use: none is taken that the min
    // mark wants.
    assert!(mm.set_report_order(Order(5)));
    let gate = dma32.mark(Mark::Low) + (32 << 5);
    let mut held = Vec::new();
    while dma32.free_pages() > gate + 64 {
        let request = Request::new(Order(4), Gfp::KERNEL | Gfp::NOWARN);
        held.push(mm.alloc_pages(request).expect("above the marks"));
    }
    settle(mm);
    let skipped = mm.report_stats().skipped_zones;
    held.drain(..).for_each(|page| free(mm, page));
    settle(mm);
    assert!(mm.report_stats().pages > 0 && mm.report_stats().skipped_zones >= skipped);
    mm.audit().expect("whole");
}

#[test]
fn every_type_but_the_isolated_is_reported() {
    let mut config = Config { defer: false, ..Config::default() };
    config.cma[0] = Some(mm::cma::CmaRequest {
        size: 16 << 20,
        base: None,
        end: None,
        order_per_bit: Order(0),
    });
    let (mm, device) = (machine_with(256, 1, config), Scripted::willing());
    mm.report_register(device, None).expect("the first");
    settle(mm);
    let types: BTreeSet<_> = device
        .take_blocks()
        .iter()
        .filter_map(|b| mm.map().try_block(b.start))
        .map(|block| block.migratetype() as u8)
        .collect();
    assert!(types.contains(&(MigrateType::Cma as u8)), "{types:?}");
    assert!(types.contains(&(MigrateType::Movable as u8)), "{types:?}");
    mm.audit().expect("whole");
}

#[test]
fn the_order_is_the_knobs_then_the_devices_then_a_pageblocks() {
    let order_file = "/sys/module/page_reporting/parameters/page_reporting_order";
    let read = |mm: &Mm<Machine>| {
        let mut text = String::new();
        mm.proc_read(order_file, &mut text).expect("a file");
        text
    };
    let mm = machine(64, 1);
    assert_eq!(read(mm), "-1\n");
    let device = Scripted::willing();
    mm.report_register(device, Some(Order(4))).expect("the first");
    assert_eq!((read(mm).as_str(), mm.report_status().order), ("4\n", Order(4)));
    for bad in ["11", "-1", "x", "", "256"] {
        assert!(mm.proc_write(order_file, bad).is_err(), "{bad:?}");
    }
    assert_eq!(read(mm), "4\n");
    mm.proc_write(order_file, "0\n").expect("an order");
    assert_eq!(read(mm), "0\n");
    settle(mm);
    let sizes: BTreeSet<_> = device.take_blocks().iter().map(|b| order(*b).0).collect();
    assert!(sizes.contains(&0) && sizes.contains(&10), "{sizes:?}");
    assert!(mm.report_unregister());
    assert_eq!(read(mm), "0\n");
    mm.report_register(Scripted::willing(), None).expect("free again");
    assert_eq!(read(mm), "0\n", "what was set stays set");
    mm.audit().expect("whole");
}

#[test]
fn off_is_off() {
    let (mm, device) = (machine(64, 1), Scripted::willing());
    assert_eq!(mm.report_now(), Err(NoPass::NoDevice));
    mm.report_register(device, Some(Order(5))).expect("the first");
    assert!(mm.set_reporting(false));
    settle(mm);
    assert_eq!(mm.report_now(), Err(NoPass::Off));
    let page = alloc(mm, 10);
    free(mm, page);
    assert!(!woken(mm) && device.take().is_empty());
    assert!(!mm.set_reporting(true));
    assert!(woken(mm) || mm.report_status().state == ReportState::Requested);
    mm.platform().advance_ms(2000);
    mm.work(Worker::Reporting);
    assert!(!device.take().is_empty());
    mm.audit().expect("whole");
}

#[test]
fn a_known_pattern_has_to_be_preserved() {
    for (config, byte) in [
        (Config { page_poison: true, ..Config::default() }, 0xaa),
        (Config { init_on_free: true, ..Config::default() }, 0),
    ] {
        let mm = machine_with(64, 1, config);
        let refused = mm.report_register(Scripted::willing(), None);
        assert_eq!(refused, Err(RegisterError::Pattern(byte)));
        let other = Scripted::preserving(Some(byte ^ 1), |_| Ok(()));
        assert_eq!(mm.report_register(other, None), Err(RegisterError::Pattern(byte)));
        let told = Scripted::preserving(Some(byte), |_| Ok(()));
        mm.report_register(told, Some(Order(4))).expect("it preserves that");
        settle(mm);
        assert!(!told.take().is_empty());
        let page = alloc(mm, 4);
        free(mm, page);
        mm.audit().expect("whole");
    }
}

#[test]
fn deferred_memory_is_not_reported_unless_somebody_wants_that() {
    let (mm, device) = (machine_with(1024, 1, Config::default()), Scripted::willing());
    let deferred = deferred_pages(mm);
    assert!(deferred > 100_000, "{deferred} pages");
    mm.report_register(device, None).expect("the first");
    settle(mm);
    let few = mm.report_stats().pages;
    assert!(few < 20_000 && deferred - deferred_pages(mm) <= 1024, "{few} pages reported");
    assert!(mm.report_all() >= deferred - 1024);
    assert_eq!(deferred_pages(mm), 0);
    settle(mm);
    // But for the smallest zone, which has too little free.
    let large = mm.zones().iter().filter(|z| z.free_pages() > 20_000);
    let free: u64 = large.map(mm::zone::Zone::free_pages).sum();
    assert!(mm.reported_pages() > free - 2048, "{:?}", mm.report_stats());
    mm.audit().expect("whole");
}

fn deferred_pages(mm: &Mm<Machine>) -> u64 {
    mm.zones().iter().map(mm::zone::Zone::deferred_pages).sum()
}
