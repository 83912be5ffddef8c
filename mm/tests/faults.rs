//! Fault injection: which allocations fail, what counts, and that nothing is
//! left of it when it is off.
#![cfg(feature = "host")]

use core::num::NonZeroU64;
use mm::fault::{FaultCounts, FaultPlan};
use mm::host::{Machine, pc};
use mm::slab::CacheConfig;
use mm::types::{CpuId, Order, Pfn};
use mm::{AllocError, Config, Gfp, Mm, Request};

fn setup() -> Mm<Machine> {
    let mm = pc(if cfg!(miri) { 4 } else { 32 }, 2, &Config::default()).expect("a machine");
    mm.slab_init().expect("slab");
    mm
}

fn n(n: u64) -> NonZeroU64 {
    NonZeroU64::new(n).expect("above 0")
}

/// Whether allocations of `order`, `count` of them, failed; all are freed.
fn fates(mm: &Mm<Machine>, order: u8, count: usize) -> Vec<bool> {
    let pages: Vec<_> =
        (0..count).map(|_| mm.alloc_pages(Request::new(Order(order), Gfp::KERNEL))).collect();
    let fates = pages.iter().map(|p| *p == Err(AllocError::Injected)).collect();
    for page in pages.into_iter().flatten() {
        mm.free_pages(page).expect("allocated");
    }
    fates
}

#[test]
fn the_nth_fails_once() {
    let mm = setup();
    for order in [0, 3, 9, 10] {
        mm.set_faults(FaultPlan::Nth(n(3)));
        assert_eq!(mm.fault_plan(), FaultPlan::Nth(n(3)));
        assert_eq!(fates(&mm, order, 2), [false, false]);
        assert_eq!(fates(&mm, order, 3), [true, false, false]);
        assert_eq!(mm.fault_plan(), FaultPlan::Off);
        assert_eq!(mm.fault_counts(), FaultCounts { seen: 3, failed: 1 });
    }
    mm.audit().expect("whole");
}

#[test]
fn each_nth_fails_on_each_cpu_until_it_is_off() {
    let mm = setup();
    // There is something on the lists that the fast way takes from.
    fates(&mm, 0, 1);
    mm.set_faults(FaultPlan::Every(n(2)));
    assert_eq!(fates(&mm, 0, 4), [false, true, false, true]);
    mm.platform().run_on(CpuId(1));
    assert_eq!(fates(&mm, 0, 3), [false, true, false]);
    mm.platform().run_on(CpuId(0));
    mm.set_faults(FaultPlan::Off);
    assert_eq!(fates(&mm, 0, 4), [false; 4]);
    assert_eq!(mm.fault_counts(), FaultCounts { seen: 7, failed: 3 });
}

#[test]
fn what_may_not_fail_and_what_is_spared_does_not_count() {
    let mm = setup();
    mm.set_faults(FaultPlan::Every(n(1)));
    let page = mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL | Gfp::NOFAIL)).expect("no fail");
    mm.free_pages(page).expect("allocated");
    let page = mm.alloc_pages_spared(Request::new(Order(0), Gfp::KERNEL)).expect("spared");
    mm.free_pages(page).expect("allocated");
    assert_eq!(mm.fault_counts(), FaultCounts::default());
    assert_eq!(fates(&mm, 0, 1), [true]);
}

#[test]
fn bulks_slabs_and_large_kmallocs_fail_too() {
    let mm = setup();
    let cache = mm
        .cache_create("own", CacheConfig { merge: false, ..CacheConfig::new(512) })
        .expect("a cache");
    mm.set_faults(FaultPlan::Every(n(1)));
    let mut pages = [Pfn(0); 4];
    assert_eq!(mm.alloc_bulk(Gfp::KERNEL, None, &mut pages), Err(AllocError::Injected));
    assert_eq!(mm.cache_alloc(cache, Gfp::KERNEL), Err(AllocError::Injected));
    assert_eq!(mm.kmalloc(1 << 20, Gfp::KERNEL), Err(AllocError::Injected));
    mm.set_faults(FaultPlan::Off);
    let object = mm.cache_alloc(cache, Gfp::KERNEL).expect("an object");
    mm.cache_free(cache, object).expect("allocated");
    mm.cache_destroy(cache).expect("empty");
    mm.audit().expect("whole");
}

#[test]
fn pages_allocated_before_are_freed_meanwhile() {
    let mm = setup();
    let page = mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("a page");
    mm.set_faults(FaultPlan::Every(n(1)));
    mm.free_pages(page).expect("allocated");
    assert!(mm.free_pages(page).is_err(), "a double free is seen all the same");
    mm.audit().expect("whole");
}

/// A machine on which nothing is plain anyway stays such when faults go.
#[test]
fn poisoning_survives_faults() {
    let config = Config { page_poison: true, ..Config::default() };
    let mm = pc(4, 1, &config).expect("a machine");
    mm.set_faults(FaultPlan::Every(n(1)));
    mm.set_faults(FaultPlan::Off);
    let page = mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("a page");
    mm.free_pages(page).expect("allocated");
    mm.drain_all(None);
    mm.audit().expect("whole");
    // SAFETY: the frame is RAM of this machine; nobody else runs.
    let byte = unsafe { mm::platform::Platform::frame(mm.platform(), page.pfn).read() };
    assert_eq!(byte, 0xaa);
}
