//! Passes that end before their time, and what others do meanwhile: no block is
//! ever lost.

use crate::device::{Scripted, alloc, free, machine, order, settle, woken};
use mm::page::PageFlags;
use mm::platform::Worker;
use mm::report::{NoPass, RegisterError, ReportFailed, ReportState};
use mm::types::Order;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::Duration;

#[test]
fn a_batch_that_fails_comes_back_unreported() {
    for fails_at in 1..=5 {
        let mm = machine(1024, 1);
        let free_before = mm.free_pages_total();
        let calls = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&calls);
        let device = Scripted::new(move |_| {
            let call = count.fetch_add(1, Relaxed) + 1;
            if call == fails_at { Err(ReportFailed::Refused) } else { Ok(()) }
        });
        mm.report_register(device, None).expect("the first");
        settle(mm);
        assert_eq!(calls.load(Relaxed), fails_at, "the pass ends, and idle is idle");
        let batches = device.take();
        let reported =
            |pfn| mm.map().try_page(pfn).unwrap().head().flags().contains(PageFlags::REPORTED);
        for (n, batch) in batches.iter().enumerate() {
            assert!(batch.iter().all(|b| reported(b.start) == (n + 1 != fails_at)), "batch {n}");
        }
        assert_eq!(mm.report_stats().failures, 1);
        assert_eq!(mm.free_pages_total(), free_before);
        mm.audit().expect("whole");
        // The next free is a reason to try again, and all of it comes through.
        let page = alloc(mm, 10);
        free(mm, page);
        settle(mm);
        let failed = &batches[fails_at - 1];
        assert!(failed.iter().all(|b| reported(b.start)));
        assert_eq!(mm.free_pages_total(), free_before);
        mm.audit().expect("whole");
    }
}

#[test]
fn a_device_that_keeps_failing_is_told_of_once() {
    let mm = machine(256, 1);
    let device = Scripted::new(|_| Err(ReportFailed::Refused));
    mm.report_register(device, None).expect("the first");
    for _ in 0..10 {
        settle(mm);
        let page = alloc(mm, 10);
        free(mm, page);
    }
    assert_eq!(mm.report_stats().failures, 10);
    let lines = mm.platform().take_log();
    assert_eq!(lines.iter().filter(|(_, line)| line.contains("refused")).count(), 1);
    mm.audit().expect("whole");
}

#[test]
fn a_device_that_is_gone_is_not_called_again() {
    let mm = machine(1024, 1);
    let device = Scripted::new(|_| Err(ReportFailed::Gone));
    mm.report_register(device, None).expect("the first");
    settle(mm);
    assert_eq!(device.take().len(), 1);
    assert!(!mm.report_status().registered);
    assert_eq!(mm.report_now(), Err(NoPass::NoDevice));
    let page = alloc(mm, 10);
    free(mm, page);
    assert!(!woken(mm) && !mm.report_unregister());
    mm.audit().expect("whole");
    let other = Scripted::willing();
    mm.report_register(other, None).expect("there is none any more");
    settle(mm);
    assert!(!other.take().is_empty());
    mm.audit().expect("whole");
}

#[test]
fn what_a_device_keeps_is_nobodys_until_it_is_reset() {
    for fails_at in [1, 2, 7] {
        let mm = machine(1024, 1);
        let all = mm.free_pages_total();
        let mut calls = 0;
        let device = Scripted::new(move |_| {
            calls += 1;
            if calls == fails_at { Err(ReportFailed::Lost) } else { Ok(()) }
        });
        mm.report_register(device, None).expect("the first");
        settle(mm);
        let batches = device.take();
        assert_eq!(batches.len(), fails_at, "it is not called again");
        let kept = &batches[fails_at - 1];
        let lost: u64 = kept.iter().map(|block| block.pages()).sum();
        let zones = || mm.zones().iter();
        assert_eq!(mm.free_pages_total(), all - lost);
        assert_eq!(zones().map(mm::zone::Zone::pages_lost).sum::<u64>(), lost);
        assert_eq!(zones().map(mm::zone::Zone::pages_out).sum::<u64>(), 0);
        let audit = mm.audit().expect("whole");
        assert_eq!((audit.lost, audit.out), (lost, 0));
        assert_eq!((mm.report_stats().lost_pages, mm.report_stats().failures), (lost, 1));
        let lines = mm.platform().take_log();
        assert_eq!(lines.iter().filter(|(_, line)| line.contains("keeps a batch")).count(), 1);
        // Nobody gets them, whatever is tried.
        assert!(!mm.report_status().registered && !mm.report_unregister());
        assert_eq!(mm.report_register(Scripted::willing(), None), Err(RegisterError::Lost));
        let mut pages = Vec::new();
        let request = mm::Request::new(Order(0), mm::Gfp::KERNEL | mm::Gfp::NOWARN);
        while let Ok(page) = mm.alloc_pages(request) {
            assert!(kept.iter().all(|block| !block.contains(page.pfn)), "{page:?} is lost");
            pages.push(page);
        }
        pages.into_iter().for_each(|page| free(mm, page));
        assert!(mm.alloc_contig_range(kept[0], mm::Gfp::KERNEL | mm::Gfp::NOWARN).is_err());
        assert!(mm.poison_page(kept[0].start).is_err());
        assert!(mm.free_pages(mm::Page { pfn: kept[0].start, order: order(kept[0]) }).is_err());
        mm.audit().expect("whole");
        // The device was seen to be reset.
        assert_eq!(mm.report_recover(), lost);
        assert_eq!(mm.report_recover(), 0, "once");
        mm.drain_all(None);
        assert_eq!((mm.free_pages_total(), mm.report_stats().lost_pages), (all, 0));
        mm.audit().expect("whole");
        let other = Scripted::willing();
        mm.report_register(other, None).expect("there is none any more");
        settle(mm);
        let told = other.take_blocks();
        assert!(kept.iter().all(|block| told.iter().any(|it| it.contains(block.start))));
    }
}

#[test]
fn there_is_one_device_at_a_time() {
    let mm = machine(64, 1);
    mm.report_register(Scripted::willing(), None).expect("the first");
    let second = mm.report_register(Scripted::willing(), None);
    assert_eq!(second, Err(RegisterError::Busy));
    assert!(mm.report_unregister());
    mm.report_register(Scripted::willing(), None).expect("the first of its kind");
}

#[test]
fn what_is_freed_during_a_pass_is_for_the_next() {
    let mm = machine(512, 1);
    let mut held = vec![alloc(mm, 10)];
    let device = Scripted::new(move |_| {
        while let Some(page) = held.pop() {
            free(mm, page);
        }
        Ok(())
    });
    mm.report_register(device, None).expect("the first");
    mm.platform().advance_ms(2000);
    woken(mm);
    assert_eq!(mm.work(Worker::Reporting), Some(2000));
    assert_eq!(mm.report_status().state, ReportState::Requested);
    assert!(!woken(mm), "the worker was told to come again");
    settle(mm);
    mm.audit().expect("whole");
}

#[test]
fn blocks_that_are_out_are_nobodys() {
    let mm = machine(512, 1);
    let all = mm.free_pages_total();
    let device = Scripted::new(move |blocks| {
        let out: u64 = blocks.iter().map(|b| b.pages()).sum();
        let zones = mm.zones().iter();
        assert_eq!(zones.map(mm::zone::Zone::pages_out).sum::<u64>(), out);
        assert_eq!(mm.free_pages_total() + out, all);
        // Others take all that is left.
        let mut pages = Vec::new();
        let request = mm::Request::new(Order(10), mm::Gfp::KERNEL | mm::Gfp::NOWARN);
        while let Ok(page) = mm.alloc_pages(request) {
            assert!(blocks.iter().all(|b| !b.contains(page.pfn)), "{page:?} is out");
            pages.push(page);
        }
        assert_eq!(mm.audit().expect("whole").out, out);
        pages.into_iter().for_each(|page| free(mm, page));
        Ok(())
    });
    mm.report_register(device, None).expect("the first");
    assert!(mm.report_now().expect("a device") > 0);
    assert_eq!(mm.free_pages_total(), all);
    mm.audit().expect("whole");
}

#[test]
fn half_a_pass_is_enough_when_it_is_switched_off() {
    let mm = machine(1024, 1);
    let device = Scripted::new(move |_| {
        mm.set_reporting(false);
        Ok(())
    });
    mm.report_register(device, None).expect("the first");
    mm.report_now().expect("a device");
    assert_eq!(device.take().len(), 1, "it ends after its batch");
    assert_eq!(mm.report_status().state, ReportState::Idle);
    mm.audit().expect("whole");
}

#[test]
fn leaving_waits_for_the_pass_to_end() {
    let mm = machine(512, 2);
    let (inside, is_inside) = mpsc::channel();
    let (go, may_go) = mpsc::channel();
    let device = Scripted::new(move |_| {
        inside.send(()).expect("somebody listens");
        may_go.recv().expect("somebody says so");
        Ok(())
    });
    mm.report_register(device, None).expect("the first");
    let worker = std::thread::spawn(move || mm.report_now());
    is_inside.recv().expect("the pass begins");
    assert_eq!(mm.report_now(), Err(NoPass::Busy));
    let (left, has_left) = mpsc::channel();
    let leaver = std::thread::spawn(move || {
        mm.platform().run_on(mm::types::CpuId(1));
        assert!(mm.report_unregister());
        left.send(()).expect("somebody listens");
    });
    assert!(has_left.recv_timeout(Duration::from_millis(50)).is_err(), "the pass is not over");
    go.send(()).expect("the device listens");
    has_left.recv_timeout(Duration::from_secs(60)).expect("it ends");
    worker.join().expect("no panic").expect("a device");
    leaver.join().expect("no panic");
    assert_eq!(device.take().len(), 1, "no batch after the one that was out");
    mm.report_register(Scripted::willing(), None).expect("there is none any more");
    mm.audit().expect("whole");
}

#[test]
fn a_device_that_panics_loses_nothing_either() {
    let mm = machine(256, 1);
    let all = mm.free_pages_total();
    let device = Scripted::new(|_| panic!("on purpose"));
    mm.report_register(device, None).expect("the first");
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| mm.report_now()));
    assert!(result.is_err());
    assert_eq!(mm.free_pages_total(), all);
    mm.audit().expect("whole");
    assert!(mm.report_unregister());
}
