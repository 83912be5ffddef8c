//! CPUs that threads keep: nothing is lost, nobody waits for ever, whoever asks
//! whom.

use mm::host::lean::Lean;
use mm::host::{Machine, build};
use mm::types::{CpuId, NodeId, Order, Pfn, PfnRange};
use mm::{Config, Gfp, Mm, Request};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread;

const MIB: u64 = 256;
const ROUNDS: usize = if cfg!(miri) { 20 } else { 3_000 };

fn machine(cpus: u16) -> Mm<Lean> {
    let mib = if cfg!(miri) { 8 } else { MIB };
    let machine = Machine::new(Pfn(0), Pfn(mib << 8), cpus).expect("a machine");
    let ram = [(PfnRange::new(Pfn(0x100), Pfn(mib << 8)), NodeId(0))];
    let mm = build(Lean::new(machine), &ram, &Config::default()).expect("a manager");
    mm.slab_init().expect("the slab layer");
    mm
}

const PAGE: Request = Request::new(Order(0), Gfp::KERNEL);

/// Pages free anywhere, with nothing on any list.
fn free_pages(mm: &Mm<Lean>) -> u64 {
    mm.slab_shrink();
    mm.drain_all(None);
    mm.free_pages_total()
}

#[test]
fn lists_stay_with_the_cpu() {
    let mm = machine(2);
    let listed = || mm.zones().iter().map(|zone| mm.pcp_pages(zone)).sum::<u64>();
    let before = free_pages(&mm);
    let claim = mm.platform().claim(CpuId(1));
    assert_eq!(claim.cpu(), CpuId(1));
    let page = mm.alloc_pages(PAGE).expect("a page");
    mm.free_pages(page).expect("it is ours");
    assert!(listed() > 0);
    // A CPU that is idle again, with something on its lists.
    drop(claim);
    assert!(listed() > 0);
    assert!(mm.drain_all(None) > 0, "an idle CPU is drained by whoever asks");
    assert_eq!(listed(), 0);
    assert_eq!(mm.free_pages_total(), before);
    mm.audit().expect("a sound manager");
}

#[test]
fn a_claimed_cpu_is_nobody_elses() {
    let mm = machine(2);
    let claim = mm.platform().claim(CpuId(0));
    let (looked, given_up) = (Barrier::new(2), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let idle = mm.platform().claim_idle().expect("one is idle");
            assert_eq!(idle.cpu(), CpuId(1));
            drop(idle);
            looked.wait();
            drop(mm.platform().claim(CpuId(0)));
            assert!(given_up.load(SeqCst), "it was held until then");
        });
        looked.wait();
        for _ in 0..ROUNDS {
            mm.free_pages(mm.alloc_pages(PAGE).expect("a page")).expect("ours");
        }
        given_up.store(true, SeqCst);
        drop(claim);
    });
}

#[test]
fn a_thread_without_a_cpu_may_call_too() {
    let mm = machine(1);
    let page = mm.alloc_pages(PAGE).expect("a page");
    let object = mm.kmalloc(64, Gfp::KERNEL).expect("an object");
    mm.kfree(object).expect("ours");
    mm.free_pages(page).expect("ours");
    assert_eq!(mm.platform().claim_idle().map(|claim| claim.cpu()), Some(CpuId(0)));
    mm.audit().expect("a sound manager");
}

#[test]
#[should_panic(expected = "one CPU at a time")]
fn a_thread_is_one_cpu() {
    let mm = machine(2);
    let _one = mm.platform().claim(CpuId(0));
    let _other = mm.platform().claim(CpuId(1));
}

/// A holder that calls nothing but `serve` is drained by letter.
#[test]
fn a_holder_that_waits_serves() {
    let mm = machine(2);
    let (ready, done) = (Barrier::new(2), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let claim = mm.platform().claim(CpuId(1));
            mm.free_pages(mm.alloc_pages(PAGE).expect("a page")).expect("ours");
            ready.wait();
            while !done.load(SeqCst) {
                claim.serve();
                thread::yield_now();
            }
        });
        ready.wait();
        let _own = mm.platform().claim(CpuId(0));
        assert!(mm.drain_all(None) > 0);
        done.store(true, SeqCst);
    });
}

/// Every thread is a CPU nearly all the time, allocates, frees what others
/// allocated, and now and then drains everybody: they wait for each other in
/// circles.
#[test]
fn all_drain_each_other() {
    const CPUS: u16 = 4;
    let mm = machine(CPUS);
    let before = free_pages(&mm);
    let passed_on: Vec<_> = (0..CPUS).map(|_| std::sync::Mutex::new(Vec::new())).collect();
    let drains = AtomicU32::new(0);
    thread::scope(|scope| {
        for own in 0..CPUS {
            let (mm, passed_on, drains) = (&mm, &passed_on, &drains);
            scope.spawn(move || {
                let mut claim = Some(mm.platform().claim(CpuId(own)));
                for round in 0..ROUNDS {
                    let order = Order([0, 0, 0, 1, 2, 3, 5, 9][round % 8].min(if cfg!(miri) {
                        3
                    } else {
                        9
                    }));
                    if let Ok(page) = mm.alloc_pages(Request::new(order, Gfp::NOWAIT | Gfp::NOWARN))
                    {
                        let other = &passed_on[(usize::from(own) + 1) % usize::from(CPUS)];
                        other.lock().expect("no thread has died").push(page);
                    }
                    let mine = passed_on[usize::from(own)].lock().expect("nor here").pop();
                    if let Some(page) = mine {
                        mm.free_pages(page).expect("a page handed over");
                    }
                    if round % 97 == usize::from(own) {
                        mm.drain_all(None);
                        drains.fetch_add(1, SeqCst);
                    }
                    if round % 501 == 500 {
                        // The CPU becomes idle for a moment.
                        drop(claim.take());
                        thread::yield_now();
                        claim = Some(mm.platform().claim(CpuId(own)));
                    }
                }
                drop(claim);
            });
        }
    });
    assert!(drains.into_inner() >= u32::from(CPUS));
    for page in passed_on.into_iter().flat_map(|pages| pages.into_inner().expect("whole")) {
        mm.free_pages(page).expect("a page left over");
    }
    assert_eq!(free_pages(&mm), before);
    mm.audit().expect("a sound manager");
}
