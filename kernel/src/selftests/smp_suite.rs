//! Tests of several CPUs: that all are there and each is itself, that calls
//! between them arrive and end, and that none keeps an old translation. With one
//! CPU they pass by calling that. Calls `smp`.

use crate::arch::{apic, cpu, irq, percpu, time};
use crate::selftests::Subject;
use crate::smp::{self, NotChanged};
use crate::task::{self, Config, JoinHandle};
use crate::vm::kstack::KernelStack;
use crate::vm::{frame_ptr, tables};
use core::arch::asm;
use core::hint::spin_loop;
use core::ptr;
use core::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use mm::types::{CpuId, Order, PAGE_SIZE};
use mm::{Gfp, Page, Request};
use quarry_kernel::cpuset::{AtomicCpuSet, CpuSet};
use quarry_kernel::sched::Name;
use quarry_kernel::sdt::{Cpu, MAX_CPUS, Presence};
use selftest::{Case, CaseResult, Suite, Test, check, check_eq, check_ok, skip};

/// Milliseconds in which threads that can leave a CPU surely do, however slow the
/// machine is.
const LONG: u64 = 60_000;

/// The suite.
pub(super) const SUITES: [Suite<Subject>; 1] = [Suite {
    name: "smp",
    cases: &[
        Case::quick("all_are_online", all_are_online),
        Case::quick("each_is_itself", each_is_itself),
        Case::quick("each_has_its_timer", each_has_its_timer),
        Case::quick("one_time", one_time),
        Case::quick("calls_arrive_once", calls_arrive_once),
        Case::quick("posts_arrive", posts_arrive),
        Case::quick("more_posts_than_room", more_posts_than_room),
        Case::quick("everybody_calls_everybody", everybody_calls_everybody),
        Case::quick("all_cpus_are_held_in_turn", all_cpus_are_held_in_turn),
        Case::quick("unmapped_is_forgotten", unmapped_is_forgotten),
        Case::quick("goes_away_and_comes_back", goes_away_and_comes_back),
        Case::quick("stays_while_it_is_needed", stays_while_it_is_needed),
        Case::quick("lines_stay_whole", lines_stay_whole),
    ],
}];

/// Every CPU that the firmware lists and the command line wants is there.
fn all_are_online(test: &mut Test<'_, Subject>) -> CaseResult {
    let Some(cpus) = smp::cpus() else { skip!("no list of CPUs") };
    let can_run = |(id, cpu): &(usize, &Cpu)| {
        cpu.presence == Presence::Enabled && !smp::is_deaf(CpuId(*id as u16))
    };
    let enabled = cpus.iter().enumerate().filter(can_run).count();
    let online = smp::online();
    check_eq!(online.len(), smp::limit().map_or(enabled, |limit| enabled.min(limit.max(1))));
    for id in online.iter() {
        check!(cpus.get(id).is_some_and(|cpu| cpu.presence == Presence::Enabled), "{id:?}");
    }
    test.note(format_args!("CPUs {online} of {}", cpus.possible()));
    Ok(())
}

/// GS, the APIC's number and the tables of each CPU are its own, and its stack
/// is nobody else's.
fn each_is_itself(_: &mut Test<'_, Subject>) -> CaseResult {
    let seen: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
    let wrong = AtomicCpuSet::new();
    let online = smp::online();
    let ran = smp::call(&online, &|id| {
        let area = percpu::this();
        let apic_id = smp::cpus().and_then(|cpus| cpus.get(id)).map(|cpu| cpu.apic_id.0);
        let (gdt, task): (Pointer, u64);
        let mut pointer = Pointer { limit: 0, base: 0 };
        // SAFETY: both store registers where they may.
        unsafe {
            asm!("sgdt [{}]", in(reg) &raw mut pointer, options(nostack, preserves_flags));
            asm!("str {:x}", out(reg) task, options(nostack, preserves_flags));
        }
        gdt = pointer;
        let tables = ptr::from_ref(&area.tables).addr() as u64;
        let inside = (tables..tables + size_of_val(&area.tables) as u64).contains(&{ gdt.base });
        let right = area.id() == id
            && percpu::cpu_id() == id
            && percpu::of(id).is_some_and(|of| ptr::eq(of, area))
            && apic_id == Some(cpu::features().apic_id)
            && task & 0xffff != 0
            && inside
            && !irq::are_on();
        if !right {
            wrong.add(id);
        }
        // Where this runs: a stack that no other CPU is on.
        let local = 0_u8;
        let stack = (&raw const local).addr() as u64;
        seen[usize::from(id.0)].store(stack, Relaxed);
    });
    check_eq!(ran as usize, online.len());
    check!(wrong.get().is_empty(), "not itself: {}", wrong.get());
    for a in online.iter() {
        for b in online.iter().filter(|&b| b != a) {
            let [x, y] = [a, b].map(|id| seen[usize::from(id.0)].load(Relaxed));
            check!(x != 0 && x.abs_diff(y) > PAGE_SIZE as u64, "{a:?} at {x:#x}, {b:?} at {y:#x}");
        }
    }
    Ok(())
}

/// A descriptor table's place, as the processor stores it.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// The timer of each CPU interrupts that one.
fn each_has_its_timer(_: &mut Test<'_, Subject>) -> CaseResult {
    if !apic::is_running() {
        skip!("no local APIC timer");
    }
    for area in smp::online().iter().filter_map(percpu::of) {
        let before = area.ticks.load(Relaxed);
        // If it never ticks the watchdog ends this.
        while area.ticks.load(Relaxed) < before + 2 {
            spin_loop();
        }
    }
    Ok(())
}

/// What happens on one CPU after something on another has a later time.
fn one_time(_: &mut Test<'_, Subject>) -> CaseResult {
    for id in smp::online().iter() {
        for _ in 0..20 {
            let there = AtomicU64::new(0);
            let before = time::now_us();
            smp::call(&CpuSet::one(id), &|_| there.store(time::now_us(), Relaxed));
            let (there, after) = (there.into_inner(), time::now_us());
            check!(before <= there && there <= after, "{id:?}: {before}, {there}, {after}");
        }
    }
    Ok(())
}

/// Each call is run once on each CPU that it is for, on no other, and is done
/// when the caller goes on.
fn calls_arrive_once(_: &mut Test<'_, Subject>) -> CaseResult {
    const ROUNDS: u32 = 100;
    let online = smp::online();
    let runs: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
    for round in 1..=ROUNDS {
        for target in online.iter() {
            let ran = smp::call(&CpuSet::one(target), &|id| {
                if id == percpu::cpu_id() {
                    runs[usize::from(id.0)].fetch_add(1, Relaxed);
                }
            });
            check_eq!(ran, 1);
            check_eq!(runs[usize::from(target.0)].load(Relaxed), 2 * round - 1, "{target:?}");
        }
        let ran = smp::call(&CpuSet::ALL, &|id| {
            runs[usize::from(id.0)].fetch_add(1, Relaxed);
        });
        check_eq!(ran as usize, online.len());
        let sum: u32 = runs.iter().map(|runs| runs.load(Relaxed)).sum();
        check_eq!(sum as usize, 2 * round as usize * online.len());
    }
    check_eq!(smp::call(&CpuSet::EMPTY, &|_| {}), 0);
    Ok(())
}

/// Runs of [`note`], and the sum of what it was given.
static NOTED: (AtomicUsize, AtomicUsize) = (AtomicUsize::new(0), AtomicUsize::new(0));

fn note(_: CpuId, with: usize) {
    NOTED.1.fetch_add(with, Relaxed);
    NOTED.0.fetch_add(1, Release);
}

/// Who does not wait is served all the same.
fn posts_arrive(_: &mut Test<'_, Subject>) -> CaseResult {
    NOTED.0.store(0, Relaxed);
    NOTED.1.store(0, Relaxed);
    let pin = task::pin();
    let others = smp::online().without(pin.cpu());
    let (mut posted, mut sum) = (0, 0);
    for with in 1..=1000 {
        while smp::post_to(&smp::online(), note, with).is_err() {
            spin_loop();
        }
        posted += others.len();
        sum += with * others.len();
    }
    while NOTED.0.load(Acquire) < posted {
        spin_loop();
    }
    check_eq!((NOTED.0.load(Relaxed), NOTED.1.load(Relaxed)), (posted, sum));
    Ok(())
}

/// Of more posts than there is room for some are refused, and those do nothing.
fn more_posts_than_room(_: &mut Test<'_, Subject>) -> CaseResult {
    static GATE: AtomicBool = AtomicBool::new(false);
    fn wait(cpu: CpuId, with: usize) {
        while !GATE.load(Acquire) {
            spin_loop();
        }
        note(cpu, with);
    }
    let pin = task::pin();
    let Some(other) = smp::online().without(pin.cpu()).iter().next() else {
        skip!("one CPU");
    };
    NOTED.0.store(0, Relaxed);
    GATE.store(false, Relaxed);
    let tried = 2 * quarry_kernel::calls::SLOTS;
    let to = CpuSet::one(other);
    let posted = (0..tried).filter(|_| smp::post_to(&to, wait, 0).is_ok()).count();
    GATE.store(true, Release);
    while NOTED.0.load(Acquire) < posted {
        spin_loop();
    }
    check!(posted > 0 && posted < tried, "{posted} of {tried}");
    check_eq!(smp::call(&to, &|_| {}), 1);
    check_eq!(NOTED.0.load(Relaxed), posted);
    Ok(())
}

/// A thread on each CPU that calls all CPUs at once, again and again: nobody
/// waits for ever.
fn everybody_calls_everybody(test: &mut Test<'_, Subject>) -> CaseResult {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    static READY: AtomicUsize = AtomicUsize::new(0);
    RUNS.store(0, Relaxed);
    READY.store(0, Relaxed);
    let online = smp::online();
    let count = online.len();
    // Each round is as many calls as there are pairs of CPUs.
    let rounds = (3200 / (count * count)).clamp(2, 200);
    let mut handles: [Option<JoinHandle>; MAX_CPUS] = [const { None }; MAX_CPUS];
    for id in online.iter() {
        let config = Config { cpus: CpuSet::one(id), ..Config::new(Name::new("caller")) };
        handles[usize::from(id.0)] = Some(check_ok!(task::spawn(&config, move || {
            READY.fetch_add(1, Relaxed);
            while READY.load(Relaxed) < count {
                task::yield_now();
            }
            for round in 0..rounds {
                // All at once, or each for itself.
                if round % 2 == 0 {
                    smp::call(&online, &|_| {
                        RUNS.fetch_add(1, Relaxed);
                    });
                } else {
                    smp::on_each(&|id| {
                        if online.contains(id) {
                            RUNS.fetch_add(1, Relaxed);
                        }
                    });
                }
            }
        })));
    }
    handles.iter_mut().filter_map(Option::take).for_each(JoinHandle::join);
    check_eq!(RUNS.load(Relaxed), rounds * count * count);
    test.note(format_args!("{count} CPUs, {} calls", RUNS.load(Relaxed)));
    Ok(())
}

/// What `mm` builds on: every CPU that may ever run, once, one after the other,
/// with interrupts masked.
fn all_cpus_are_held_in_turn(_: &mut Test<'_, Subject>) -> CaseResult {
    let runs: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
    let (inside, wrong) = (AtomicBool::new(false), AtomicCpuSet::new());
    smp::on_each(&|id| {
        let elsewhere = smp::online().contains(id) && percpu::cpu_id() != id;
        if inside.swap(true, Acquire) || irq::are_on() || elsewhere {
            wrong.add(id);
        }
        runs[usize::from(id.0)].fetch_add(1, Relaxed);
        inside.store(false, Release);
    });
    check!(wrong.get().is_empty(), "not held: {}", wrong.get());
    for (id, runs) in (0..).zip(&runs) {
        check_eq!(runs.load(Relaxed), u32::from(id < smp::possible()), "CPU {id}");
    }
    Ok(())
}

/// After a page's mapping has changed no CPU sees the frame from before. Each
/// has used the old one shortly before.
fn unmapped_is_forgotten(test: &mut Test<'_, Subject>) -> CaseResult {
    let mm = test.on.mm;
    let stack = check_ok!(KernelStack::allocate(mm, PAGE_SIZE));
    let addr = stack.range().start;
    let request = Request::new(Order(0), Gfp::KERNEL | Gfp::ZERO);
    let other = check_ok!(mm.alloc_pages(request));
    // SAFETY: a mapped page, which stays mapped, if to changing frames, until
    // this is used for the last time.
    let word = unsafe { AtomicU64::from_ptr(addr as *mut u64) };
    let online = smp::online();
    let seen: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
    let look = || {
        smp::call(&online, &|id| {
            seen[usize::from(id.0)].store(word.load(Relaxed), Relaxed);
        });
        online.iter().find(|id| seen[usize::from(id.0)].load(Relaxed) != 2)
    };
    word.store(1, Relaxed);
    // SAFETY: the frame is this test's.
    unsafe { frame_ptr(other.pfn).cast::<u64>().write(2) };
    look();
    // SAFETY: as above; the slot's tables are there.
    let first = unsafe { tables::unmap_page(addr) };
    // SAFETY: nothing is mapped there now, and the frame is this test's.
    let mapped = unsafe { tables::map_page(addr, other.pfn, &mut None) };
    tables::flush_everywhere(addr..addr + PAGE_SIZE as u64);
    let late = look();
    // Back as it was, for the stack to give back.
    if let Some(first) = first {
        // SAFETY: as above, once more.
        let _ = unsafe { (tables::unmap_page(addr), tables::map_page(addr, first, &mut None)) };
        tables::flush_everywhere(addr..addr + PAGE_SIZE as u64);
    }
    drop(stack);
    check_ok!(mm.free_pages(Page { pfn: other.pfn, order: Order(0) }));
    check!(first.is_some() && mapped.is_ok());
    check!(late.is_none(), "{late:?} saw the old page");
    Ok(())
}

/// A CPU goes away under threads that run there, and comes back: those that may
/// go on elsewhere, one that may not stands still meanwhile, and what is asked of
/// every CPU is done for it too.
fn goes_away_and_comes_back(test: &mut Test<'_, Subject>) -> CaseResult {
    static STOP: AtomicBool = AtomicBool::new(false);
    static ROUNDS: AtomicUsize = AtomicUsize::new(0);
    static AT_HOME: AtomicUsize = AtomicUsize::new(0);
    let mm = test.on.mm;
    let before = smp::online();
    let Some(last) = before.iter().last().filter(|&last| last != CpuId(0)) else {
        skip!("one CPU");
    };
    check!(matches!(smp::cpu_down(mm, CpuId(0), LONG), Err(NotChanged::BootCpu)));
    check!(matches!(smp::cpu_up(mm, last), Err(NotChanged::NothingToDo)));
    for _ in 0..3 {
        STOP.store(false, Relaxed);
        let mut handles = [const { None::<JoinHandle> }; 6];
        let (both, home) = ([last, CpuId(0)].into_iter().collect(), CpuSet::one(last));
        for (number, handle) in handles.iter_mut().enumerate() {
            let cpus = if number == 0 { home } else { both };
            let config = Config { cpus, ..Config::new(Name::new("mover")) };
            *handle = Some(check_ok!(task::spawn(&config, move || {
                while !STOP.load(Relaxed) {
                    if number == 0 {
                        AT_HOME.fetch_add(1, Relaxed);
                        task::sleep(1);
                        continue;
                    }
                    ROUNDS.fetch_add(1, Relaxed);
                    // Memory of whatever CPU it is, for somebody to give back.
                    let page = mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL));
                    if number % 2 == 0 {
                        task::sleep(1);
                    } else {
                        task::yield_now();
                    }
                    if let Ok(page) = page {
                        let _ = mm.free_pages(page);
                    }
                }
            })));
        }
        let go_on = |counter: &AtomicUsize| {
            let start = counter.load(Relaxed);
            while counter.load(Relaxed) < start + 20 {
                task::sleep(1);
            }
        };
        go_on(&ROUNDS);
        go_on(&AT_HOME);
        check_ok!(smp::cpu_down(mm, last, LONG));
        let at_home = AT_HOME.load(Relaxed);
        check_eq!(smp::online(), before.without(last));
        check!(matches!(smp::cpu_down(mm, last, LONG), Err(NotChanged::NothingToDo)));
        check_eq!(smp::call(&CpuSet::one(last), &|_| {}), 0);
        let runs = AtomicU32::new(0);
        smp::on_each(&|_| {
            runs.fetch_add(1, Relaxed);
        });
        check_eq!(runs.load(Relaxed), u32::from(smp::possible()));
        let only = Config { cpus: home, ..Config::new(Name::new("homeless")) };
        check!(task::spawn(&only, || {}).is_err(), "a thread for a CPU that is away");
        go_on(&ROUNDS);
        check_eq!(AT_HOME.load(Relaxed), at_home, "it runs on a CPU that is away");
        check_ok!(smp::cpu_up(mm, last));
        check_eq!(smp::online(), before);
        let itself = AtomicBool::new(false);
        check_eq!(smp::call(&home, &|id| itself.store(percpu::cpu_id() == id, Relaxed)), 1);
        check!(itself.into_inner());
        go_on(&AT_HOME);
        STOP.store(true, Relaxed);
        handles.iter_mut().filter_map(Option::take).for_each(JoinHandle::join);
    }
    each_has_its_timer(test)
}

/// A thread that may run on one CPU only, and never stops, keeps that.
fn stays_while_it_is_needed(test: &mut Test<'_, Subject>) -> CaseResult {
    static STOP: AtomicBool = AtomicBool::new(false);
    static ROUNDS: AtomicUsize = AtomicUsize::new(0);
    STOP.store(false, Relaxed);
    let before = smp::online();
    let Some(last) = before.iter().last().filter(|&last| last != CpuId(0)) else {
        skip!("one CPU");
    };
    let config = Config { cpus: CpuSet::one(last), ..Config::new(Name::new("stayer")) };
    let stayer = check_ok!(task::spawn(&config, || {
        while !STOP.load(Relaxed) {
            ROUNDS.fetch_add(1, Relaxed);
        }
    }));
    let outcome = smp::cpu_down(test.on.mm, last, 30);
    let rounds = ROUNDS.load(Relaxed);
    while ROUNDS.load(Relaxed) == rounds {
        task::sleep(1);
    }
    STOP.store(true, Relaxed);
    stayer.join();
    check!(matches!(outcome, Err(NotChanged::Busy)), "{outcome:?}");
    check_eq!(smp::online(), before);
    // It takes threads again.
    check_ok!(task::spawn(&config, || {})).join();
    Ok(())
}

/// What CPUs say at the same time, from their interrupt handlers, comes out, and
/// in whole lines: whoever reads the log can see it.
fn lines_stay_whole(_: &mut Test<'_, Subject>) -> CaseResult {
    let online = smp::online();
    let (arrived, count) = (AtomicUsize::new(0), online.len());
    smp::call(&online, &|id| {
        arrived.fetch_add(1, Relaxed);
        while arrived.load(Relaxed) < count {
            spin_loop();
        }
        for line in 0..2 {
            log::info!("smp: line {line} of CPU {}, whole to its end", id.0);
        }
    });
    Ok(())
}
