//! Tests of threads: that all run and end, in the right order and on the right
//! CPU, that waiting ends, and that nothing of theirs is left. Calls `task`.

use crate::arch::percpu::{self, PerCpu};
use crate::arch::{apic, irq, time};
use crate::selftests::Subject;
use crate::task::{self, Config, JoinHandle, Mutex, SpawnError, WaitQueue};
use crate::vm::{kstack, stacks};
use core::hint::{black_box, spin_loop};
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use mm::types::{CpuId, Order};
use mm::{Gfp, Mm, Page, Request};
use quarry_kernel::cpuset::CpuSet;
use quarry_kernel::sched::{Name, Priority};
use selftest::{Case, CaseResult, Suite, Test, check, check_eq, check_ok, skip};

/// The suite.
pub(super) const SUITES: [Suite<Subject>; 1] = [Suite {
    name: "task",
    cases: &[
        Case::quick("many_come_and_go", many_come_and_go),
        Case::quick("unjoined_are_buried", unjoined_are_buried),
        Case::quick("urgent_first", urgent_first),
        Case::quick("equals_take_turns", equals_take_turns),
        Case::quick("urgent_interrupts", urgent_interrupts),
        Case::quick("kept_from_preemption", kept_from_preemption),
        Case::quick("sleep_is_long_enough", sleep_is_long_enough),
        Case::quick("wait_ends", wait_ends),
        Case::quick("one_wake_is_for_one", one_wake_is_for_one),
        Case::quick("mutex_excludes", mutex_excludes),
        Case::quick("stays_where_pinned", stays_where_pinned),
        Case::quick("goes_round_all_cpus", goes_round_all_cpus),
        Case::quick("work_is_spread", work_is_spread),
        Case::quick("stack_is_guarded", stack_is_guarded),
        Case::quick("no_memory_is_a_value", no_memory_is_a_value),
        Case::quick("deaf_cpu_is_named", deaf_cpu_is_named),
        Case::full("as_many_as_fit", as_many_as_fit),
    ],
}];

/// Threads that the tests make at a time.
const MANY: usize = 32;

type Handles<const N: usize> = [Option<JoinHandle>; N];

const fn no_handles<const N: usize>() -> Handles<N> {
    [const { None }; N]
}

fn join_all(handles: &mut [Option<JoinHandle>]) {
    handles.iter_mut().filter_map(Option::take).for_each(JoinHandle::join);
}

fn named(name: &str) -> Config {
    Config::new(Name::new(name))
}

/// A thread of `priority` that stays on this CPU.
fn here(name: &str, priority: Priority) -> Config {
    Config { priority, cpus: CpuSet::one(task::pin().cpu()), ..named(name) }
}

/// Threads that are made all run, once each, and leave nothing behind.
fn many_come_and_go(_: &mut Test<'_, Subject>) -> CaseResult {
    static SUM: AtomicU64 = AtomicU64::new(0);
    SUM.store(0, Relaxed);
    let stacks = kstack::in_use();
    let mut want = 0;
    for round in 0..4 {
        let mut handles = no_handles::<MANY>();
        for (number, handle) in (1..).zip(&mut handles) {
            let number = round * 1000 + number;
            *handle = Some(check_ok!(task::spawn(&named("counter"), move || {
                SUM.fetch_add(number, Relaxed);
            })));
            want += number;
        }
        join_all(&mut handles);
        check_eq!(SUM.load(Relaxed), want);
        // Those of others may come back meanwhile.
        check!(kstack::in_use() <= stacks, "{} of {stacks}", kstack::in_use());
    }
    Ok(())
}

/// Threads whose handles are dropped run all the same, and their stacks come
/// back.
fn unjoined_are_buried(_: &mut Test<'_, Subject>) -> CaseResult {
    static RAN: AtomicU32 = AtomicU32::new(0);
    RAN.store(0, Relaxed);
    let stacks = kstack::in_use();
    for _ in 0..MANY {
        drop(check_ok!(task::spawn(&named("alone"), || {
            RAN.fetch_add(1, Relaxed);
        })));
    }
    // If one never comes back the watchdog ends this.
    while kstack::in_use() > stacks {
        task::sleep(1);
    }
    check_eq!(RAN.load(Relaxed), MANY as u32);
    Ok(())
}

/// Of those that become ready together the most urgent run first, equals in the
/// order in which they became ready.
fn urgent_first(_: &mut Test<'_, Subject>) -> CaseResult {
    use Priority::{High, Low, Normal, RealTime};
    const KINDS: [Priority; 6] = [Low, Normal, High, Low, RealTime, High];
    static STARTED: AtomicU32 = AtomicU32::new(0);
    static OPEN: AtomicBool = AtomicBool::new(false);
    static GATE: WaitQueue = WaitQueue::new();
    static ORDER: Mutex<([usize; KINDS.len()], usize)> = Mutex::new(([0; KINDS.len()], 0));
    STARTED.store(0, Relaxed);
    OPEN.store(false, Relaxed);
    ORDER.lock().1 = 0;
    let mut handles = no_handles::<{ KINDS.len() }>();
    for (number, (priority, handle)) in KINDS.into_iter().zip(&mut handles).enumerate() {
        let run = move || {
            STARTED.fetch_add(1, Relaxed);
            GATE.wait_until(|| OPEN.load(Relaxed));
            let mut order = ORDER.lock();
            let at = order.1;
            order.0[at] = number;
            order.1 += 1;
        };
        *handle = Some(check_ok!(task::spawn(&here("racer", priority), run)));
        // It waits at the gate before the next one is made.
        while (STARTED.load(Relaxed) as usize) <= number || !GATE.has(number + 1) {
            task::sleep(1);
        }
    }
    let stay = task::preempt_disable();
    OPEN.store(true, Relaxed);
    GATE.wake_all();
    drop(stay);
    join_all(&mut handles);
    check_eq!(ORDER.lock().0, [4, 2, 5, 1, 0, 3]);
    Ok(())
}

/// Threads that never let go of the CPU all get their share of it.
fn equals_take_turns(_: &mut Test<'_, Subject>) -> CaseResult {
    static TURNS: AtomicU32 = AtomicU32::new(0);
    static LAST: AtomicU32 = AtomicU32::new(u32::MAX);
    if !apic::is_running() {
        skip!("no timer");
    }
    TURNS.store(0, Relaxed);
    let mut handles = no_handles::<3>();
    for (number, handle) in (0..).zip(&mut handles) {
        let spin = move || {
            // Each change of hands is somebody's first look after another's.
            while TURNS.load(Relaxed) < 12 {
                if LAST.swap(number, Relaxed) != number {
                    TURNS.fetch_add(1, Relaxed);
                }
                spin_loop();
            }
        };
        *handle = Some(check_ok!(task::spawn(&here("spinner", Priority::Normal), spin)));
    }
    join_all(&mut handles);
    check!(TURNS.load(Relaxed) >= 12);
    Ok(())
}

/// Who is woken by the timer runs at once if what runs is less urgent, even if
/// that never lets go.
fn urgent_interrupts(_: &mut Test<'_, Subject>) -> CaseResult {
    static STOP: AtomicBool = AtomicBool::new(false);
    static SPINS: AtomicU64 = AtomicU64::new(0);
    if !apic::is_running() {
        skip!("no timer");
    }
    STOP.store(false, Relaxed);
    SPINS.store(0, Relaxed);
    let spinner = check_ok!(task::spawn(&here("spinner", Priority::Low), || {
        while !STOP.load(Relaxed) {
            SPINS.fetch_add(1, Relaxed);
        }
    }));
    // It runs only while this thread sleeps, and this thread comes back.
    let mut last = 0;
    for _ in 0..3 {
        task::sleep(1);
        while SPINS.load(Relaxed) == last {
            task::sleep(1);
        }
        last = SPINS.load(Relaxed);
        (0..10_000).for_each(|_| spin_loop());
        check_eq!(SPINS.load(Relaxed), last, "the spinner ran beside a more urgent thread");
    }
    check!(!spinner.has_exited());
    STOP.store(true, Relaxed);
    spinner.join();
    Ok(())
}

/// A thread that may not be preempted is not, however urgent what it wakes.
fn kept_from_preemption(_: &mut Test<'_, Subject>) -> CaseResult {
    static RAN: AtomicBool = AtomicBool::new(false);
    RAN.store(false, Relaxed);
    let config = here("urgent", Priority::RealTime);
    let outer = task::preempt_disable();
    let inner = task::preempt_disable();
    check!(!task::may_sleep());
    let urgent = check_ok!(task::spawn(&config, || RAN.store(true, Relaxed)));
    let ticks = apic::ticks();
    while apic::is_running() && apic::ticks() < ticks + 2 {
        spin_loop();
    }
    drop(inner);
    check!(!RAN.load(Relaxed), "preempted where it was forbidden");
    drop(outer);
    check!(RAN.load(Relaxed), "not preempted as soon as it was allowed");
    urgent.join();
    Ok(())
}

/// Nobody wakes too early.
fn sleep_is_long_enough(_: &mut Test<'_, Subject>) -> CaseResult {
    for ms in [0, 1, 5, 10, 11, 25, 50] {
        let start = time::now_ms();
        task::sleep(ms);
        let slept = time::now_ms() - start;
        check!(slept >= ms, "{slept} ms instead of {ms}");
    }
    Ok(())
}

/// A wait ends when what it waits for is so, or when its time is over, and says
/// which.
fn wait_ends(_: &mut Test<'_, Subject>) -> CaseResult {
    const ROUNDS: u32 = 500;
    static BALL: AtomicU32 = AtomicU32::new(0);
    static QUEUE: WaitQueue = WaitQueue::new();
    BALL.store(0, Relaxed);
    let start = time::now_ms();
    check!(!QUEUE.wait_until_for(15, || false));
    check!(time::now_ms() - start >= 15);
    check!(QUEUE.wait_until_for(0, || true));
    // Two play: each waits for its turn, the other makes it so.
    let other = check_ok!(task::spawn(&named("other"), || {
        for round in 0..ROUNDS {
            QUEUE.wait_until(|| BALL.load(Acquire) == 2 * round + 1);
            BALL.fetch_add(1, AcqRel);
            QUEUE.wake_all();
        }
    }));
    for round in 0..ROUNDS {
        BALL.fetch_add(1, AcqRel);
        QUEUE.wake_all();
        let hour = 3_600_000;
        check!(QUEUE.wait_until_for(hour, || BALL.load(Acquire) == 2 * (round + 1)));
    }
    other.join();
    check!(!QUEUE.has(1), "somebody still waits");
    Ok(())
}

/// With as many wakes as there are tokens everybody gets one, even if some stop
/// waiting just when they are woken.
fn one_wake_is_for_one(_: &mut Test<'_, Subject>) -> CaseResult {
    static TOKENS: AtomicU32 = AtomicU32::new(0);
    static QUEUE: WaitQueue = WaitQueue::new();
    const WAITERS: usize = 16;
    TOKENS.store(0, Relaxed);
    let take = || TOKENS.try_update(AcqRel, Acquire, |left| left.checked_sub(1)).is_ok();
    let mut handles = no_handles::<WAITERS>();
    for (number, handle) in handles.iter_mut().enumerate() {
        let run = move || {
            if number % 2 == 0 {
                QUEUE.wait_until(take);
            } else {
                while !QUEUE.wait_until_for(1, take) {}
            }
        };
        *handle = Some(check_ok!(task::spawn(&named("waiter"), run)));
    }
    for round in 0..WAITERS {
        TOKENS.fetch_add(1, Release);
        QUEUE.wake_one();
        if round % 4 == 0 {
            task::sleep(1);
        }
    }
    // If a wake got lost the watchdog ends this.
    join_all(&mut handles);
    check_eq!(TOKENS.load(Relaxed), 0);
    check!(!QUEUE.has(1), "somebody still waits");
    Ok(())
}

/// Who holds a mutex is alone, even when it sleeps or is preempted.
fn mutex_excludes(_: &mut Test<'_, Subject>) -> CaseResult {
    const THREADS: usize = 8;
    const ROUNDS: u64 = 200;
    static COUNT: Mutex<u64> = Mutex::new(0);
    static INSIDE: AtomicU32 = AtomicU32::new(0);
    static MOST: AtomicU32 = AtomicU32::new(0);
    *COUNT.lock() = 0;
    MOST.store(0, Relaxed);
    check!(COUNT.try_lock().is_some());
    let mut handles = no_handles::<THREADS>();
    for handle in &mut handles {
        let run = || {
            for round in 0..ROUNDS {
                let mut count = COUNT.lock();
                MOST.fetch_max(INSIDE.fetch_add(1, Relaxed) + 1, Relaxed);
                let seen = *count;
                match round % 50 {
                    0 => task::sleep(1),
                    n if n % 2 == 0 => task::yield_now(),
                    _ => {}
                }
                *count = seen + 1;
                INSIDE.fetch_sub(1, Relaxed);
            }
        };
        *handle = Some(check_ok!(task::spawn(&named("adder"), run)));
    }
    join_all(&mut handles);
    check_eq!(*COUNT.lock(), THREADS as u64 * ROUNDS);
    check_eq!(MOST.load(Relaxed), 1);
    let held = COUNT.lock();
    check!(COUNT.try_lock().is_none());
    drop(held);
    Ok(())
}

/// A thread that may use one CPU runs there and nowhere else; one for a CPU that
/// is not there cannot be made.
fn stays_where_pinned(test: &mut Test<'_, Subject>) -> CaseResult {
    static ELSEWHERE: AtomicU32 = AtomicU32::new(0);
    ELSEWHERE.store(0, Relaxed);
    let mut cpus = 0_u32;
    for cpu in online() {
        let config = Config { cpus: CpuSet::one(cpu), ..named("pinned") };
        let thread = check_ok!(task::spawn(&config, move || {
            for round in 0..200 {
                let pin = task::pin();
                ELSEWHERE.fetch_add(u32::from(pin.cpu() != cpu), Relaxed);
                if round % 50 == 0 {
                    task::sleep(1);
                }
                task::yield_now();
                ELSEWHERE.fetch_add(u32::from(percpu::cpu_id() != cpu), Relaxed);
            }
        }));
        thread.join();
        cpus += 1;
    }
    check_eq!(ELSEWHERE.load(Relaxed), 0);
    let nowhere = Config { cpus: CpuSet::one(CpuId(255)), ..named("nowhere") };
    check!(matches!(task::spawn(&nowhere, || {}), Err(SpawnError::NoCpu)));
    check_eq!(task::move_to(CpuSet::EMPTY), Err(SpawnError::NoCpu));
    test.note(format_args!("{cpus} CPUs"));
    Ok(())
}

fn online() -> impl Iterator<Item = CpuId> {
    percpu::all().filter(|area| area.sched.is_online()).map(PerCpu::id)
}

/// A thread that changes the CPUs it may use goes there at once, with what it
/// has on its stack.
fn goes_round_all_cpus(_: &mut Test<'_, Subject>) -> CaseResult {
    static WRONG: AtomicU32 = AtomicU32::new(0);
    if online().count() < 2 {
        skip!("one CPU");
    }
    WRONG.store(0, Relaxed);
    let mut handles = no_handles::<4>();
    for handle in &mut handles {
        let run = || {
            let words: [u64; 64] = core::array::from_fn(|word| word as u64);
            for cpu in (0..8).flat_map(|_| online()) {
                let words = black_box(&words);
                let gone = task::move_to(CpuSet::one(cpu)).is_ok();
                let there = task::pin().cpu() == cpu;
                let kept = (0..).zip(words).all(|(word, &found)| word == found);
                WRONG.fetch_add(u32::from(!(gone && there && kept)), Relaxed);
            }
        };
        *handle = Some(check_ok!(task::spawn(&named("traveller"), run)));
    }
    join_all(&mut handles);
    check_eq!(WRONG.load(Relaxed), 0);
    Ok(())
}

/// Threads that compute get to every CPU.
fn work_is_spread(_: &mut Test<'_, Subject>) -> CaseResult {
    static SEEN: [AtomicBool; 256] = [const { AtomicBool::new(false) }; 256];
    let cpus = online().count();
    if !(2..=MANY).contains(&cpus) {
        skip!("{cpus} CPUs");
    }
    SEEN.iter().for_each(|seen| seen.store(false, Relaxed));
    let all_seen = || online().all(|cpu| SEEN[usize::from(cpu.0)].load(Relaxed));
    let mut handles = no_handles::<MANY>();
    for handle in handles.iter_mut().take(cpus) {
        let run = move || {
            // If one CPU gets nothing the watchdog ends this.
            while !all_seen() {
                SEEN[usize::from(task::pin().cpu().0)].store(true, Relaxed);
                spin_loop();
            }
        };
        *handle = Some(check_ok!(task::spawn(&named("computer"), run)));
    }
    join_all(&mut handles);
    Ok(())
}

/// A thread's locals lie on its stack, which has a guard below it.
fn stack_is_guarded(_: &mut Test<'_, Subject>) -> CaseResult {
    static LOCAL: AtomicU64 = AtomicU64::new(0);
    static OPEN: AtomicBool = AtomicBool::new(false);
    static GATE: WaitQueue = WaitQueue::new();
    OPEN.store(false, Relaxed);
    LOCAL.store(0, Relaxed);
    let thread = check_ok!(task::spawn(&named("local"), || {
        let local = 0_u8;
        LOCAL.store(black_box(&raw const local).addr() as u64, Release);
        GATE.wake_all();
        GATE.wait_until(|| OPEN.load(Relaxed));
    }));
    GATE.wait_until(|| LOCAL.load(Acquire) != 0);
    let local = LOCAL.load(Relaxed);
    let page = local & !4095;
    let mut pages = (0..=kstack::THREAD as u64 / 4096).map(|n| page - n * 4096);
    let guard = pages.find(|&page| !stacks::is_stack(page));
    let on_stack = stacks::is_stack(local);
    let guarded = guard.is_some_and(|page| stacks::guard_below(page).is_some());
    OPEN.store(true, Relaxed);
    GATE.wake_all();
    thread.join();
    check!(on_stack, "{local:#x} is not on a stack");
    check!(guarded, "no guard below {local:#x}");
    check!(!stacks::is_stack(local), "the stack is still there");
    Ok(())
}

/// Blocks that were taken, linked through their first words.
struct Taken<'a> {
    mm: &'a Mm<crate::platform::Machine>,
    first: Option<Page>,
}

impl Taken<'_> {
    /// Takes all blocks of `order` that an ordinary request gets.
    fn take(&mut self, order: Order) {
        let gfp = Gfp::KERNEL | Gfp::NORETRY | Gfp::NOWARN;
        while let Ok(page) = self.mm.alloc_pages(Request::new(order, gfp)) {
            let word: *mut Option<Page> = crate::vm::frame_ptr(page.pfn).cast();
            // SAFETY: the block is this value's alone.
            unsafe { word.write(self.first.replace(page)) };
        }
    }

    /// Gives one block back.
    fn give_back(&mut self) -> Option<()> {
        let page = self.first.take()?;
        let word: *mut Option<Page> = crate::vm::frame_ptr(page.pfn).cast();
        // SAFETY: `take` wrote it.
        self.first = unsafe { word.read() };
        self.mm.free_pages(page).ok()
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        while self.give_back().is_some() {}
    }
}

/// Without memory no thread is made, whatever it was that was missing, and what
/// had been taken for it is given back.
fn no_memory_is_a_value(test: &mut Test<'_, Subject>) -> CaseResult {
    static RAN: AtomicU32 = AtomicU32::new(0);
    RAN.store(0, Relaxed);
    let mm = test.on.mm;
    if mm.managed_pages() > 1 << 18 {
        skip!("too much memory to take all of it");
    }
    let mut taken = Taken { mm, first: None };
    for order in (0..=10).rev() {
        taken.take(Order(order));
    }
    let mut failures = 0_u32;
    let thread = loop {
        match task::spawn(&named("starved"), || {
            RAN.fetch_add(1, Relaxed);
        }) {
            Ok(thread) => break thread,
            Err(SpawnError::Stack(kstack::NoStack::NoMemory)) => failures += 1,
            Err(error) => selftest::fail!("{error}"),
        }
        check!(taken.give_back().is_some(), "still no memory with all of it free");
    };
    drop(taken);
    thread.join();
    test.note(format_args!("{failures} failures"));
    check!(failures > 0, "made of nothing");
    check_eq!(RAN.load(Relaxed), 1);
    Ok(())
}

/// As many threads as there is room for can be there at a time.
fn as_many_as_fit(test: &mut Test<'_, Subject>) -> CaseResult {
    static OPEN: AtomicBool = AtomicBool::new(false);
    static GATE: WaitQueue = WaitQueue::new();
    OPEN.store(false, Relaxed);
    let mut handles = no_handles::<{ kstack::SLOTS }>();
    let mut made = 0;
    let error = loop {
        match task::spawn(&named("one of many"), || GATE.wait_until(|| OPEN.load(Relaxed))) {
            Ok(thread) => handles[made] = Some(thread),
            Err(error) => break error,
        }
        made += 1;
    };
    OPEN.store(true, Relaxed);
    GATE.wake_all();
    join_all(&mut handles);
    test.note(format_args!("{made} threads, then: {error}"));
    check!(matches!(error, SpawnError::Stack(_)), "{error}");
    Ok(())
}

/// A CPU that turns its interrupts off is named by another one, once, and found
/// alive when it turns them on again.
fn deaf_cpu_is_named(_: &mut Test<'_, Subject>) -> CaseResult {
    if online().count() < 2 || !apic::is_running() {
        skip!("nobody could notice");
    }
    // Much less than usual, for nobody wants to wait that long at each boot.
    task::set_limit(Some(200));
    for cpu in online().skip(1) {
        let config = Config { cpus: CpuSet::one(cpu), ..named("deaf") };
        let thread = check_ok!(task::spawn(&config, move || {
            let flags = irq::save();
            // If nobody notices the tests' own watchdog ends this.
            while !task::is_named(cpu) {
                spin_loop();
            }
            irq::restore(flags);
        }));
        thread.join();
        while task::is_named(cpu) {
            task::sleep(1);
        }
    }
    task::set_limit(None);
    Ok(())
}
