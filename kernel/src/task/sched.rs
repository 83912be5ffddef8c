//! The scheduler: parking and unparking, choosing a thread, switching to it,
//! and the CPU a thread runs on. Calls `cpu`, `switch`, `thread`, the policy in
//! `quarry_kernel::sched`.

use crate::arch::{apic, irq, percpu, time};
use crate::smp;
use crate::task::cpu::{self, Cpu, Left, Queue};
use crate::task::guard::check_may_wait;
use crate::task::spawn;
use crate::task::switch::switch;
use crate::task::thread::{State, Thread, current};
use crate::task::watchdog;
use crate::vm::roots;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::Relaxed;
use mm::types::CpuId;
use quarry_kernel::sched::{Priority, Slice};
use x86_64::instructions::interrupts;

/// Every so many ticks a CPU looks whether another one has much more to do.
const BALANCE_TICKS: u32 = 8;

/// Why a thread leaves its CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Leave {
    /// Another one should run; it goes on as soon as it can.
    Preempted,
    /// It lets its equals go first.
    Yields,
    /// It waits to be unparked, or for a moment (ms).
    Parks(Option<u64>),
    /// It has ended.
    Exits,
}

/// Whether the caller may wait: interrupts are on, and nothing keeps the thread
/// from being preempted. A CPU's idle thread never may.
pub(crate) fn may_sleep() -> bool {
    let thread = current();
    thread.unpreemptible.load(Relaxed) == 0 && !thread.is_idle() && irq::are_on()
}

/// Parks this thread until it is unparked, or until `deadline` (ms) if there is
/// one. Returns for no reason, too. Where waiting is not possible it returns at
/// once.
pub(super) fn park(deadline: Option<u64>) {
    if !may_sleep() {
        core::hint::spin_loop();
        return;
    }
    let flags = irq::save();
    leave(Leave::Parks(deadline));
    irq::restore(flags);
}

/// Lets a parked thread run again; one that is not parked will not park the
/// next time it wants to. From any context but an NMI. The caller lets go of
/// its locks and then calls [`preempt_if_wanted`].
///
/// # Safety
///
/// The thread must not have exited.
pub(super) unsafe fn unpark(thread: NonNull<Thread>) {
    // SAFETY: the caller vouches that it lives.
    let this = unsafe { thread.as_ref() };
    loop {
        let id = this.cpu();
        let Some(cpu) = cpu::of(id) else { return };
        let mut queue = cpu.lock();
        if this.cpu() != id {
            continue;
        }
        if this.state() != State::Parked {
            this.unparked.store(true, Relaxed);
            return;
        }
        // SAFETY: who parks with a deadline is among the sleepers of its CPU.
        unsafe { queue.sleepers.remove(&Thread::entity(thread)) };
        // SAFETY: the lock of its CPU's queue is held.
        let to = choose(cpu, |id| unsafe { this.may_move_to(id) });
        if core::ptr::eq(to, cpu) {
            enqueue(cpu, &mut queue, thread);
        } else {
            this.set_state(State::Moving);
            this.set_cpu(to.id());
            drop(queue);
            put(to, thread);
        }
        return;
    }
}

/// Puts a thread that is nowhere into the queue of `cpu`, whose lock is held,
/// and has the CPU look if that is more urgent than what it does.
fn enqueue(cpu: &Cpu, queue: &mut Queue, thread: NonNull<Thread>) {
    // SAFETY: it has not exited.
    let this = unsafe { thread.as_ref() };
    this.set_cpu(cpu.id());
    this.set_state(State::Queued);
    queue.ready.push(Thread::entity(thread));
    cpu.tell(queue);
    // SAFETY: under the lock, what runs on a CPU stays, and lives.
    let running = unsafe { &*cpu.current.load(Relaxed) };
    if this.priority() > running.priority() {
        want(cpu);
    }
}

/// Has `cpu` look whether it should run something else.
fn want(cpu: &Cpu) {
    cpu.wanted.store(true, Relaxed);
    if !core::ptr::eq(cpu, cpu::this()) {
        smp::notify(cpu.id());
    }
}

/// The CPU for a thread that was on `home`: that one if it is idle, else one
/// that is, else `home`; only those that `allowed` accepts.
fn choose(home: &'static Cpu, allowed: impl Fn(CpuId) -> bool) -> &'static Cpu {
    let may_stay = home.is_online() && allowed(home.id());
    if home.load() == 0 && may_stay {
        return home;
    }
    let idle = cpu::online().find(|cpu| cpu.load() == 0 && allowed(cpu.id()));
    idle.or_else(|| may_stay.then_some(home)).or_else(|| least_loaded(allowed)).unwrap_or(home)
}

/// The CPU with the least to do among those that `allowed` accepts.
fn least_loaded(allowed: impl Fn(CpuId) -> bool) -> Option<&'static Cpu> {
    cpu::online().filter(|cpu| allowed(cpu.id())).min_by_key(|cpu| cpu.load())
}

/// Puts a thread that is nowhere where it may run and the least is to do.
/// Interrupts off, no queue locked.
pub(super) fn place(thread: NonNull<Thread>) {
    // SAFETY: it has not exited, and nobody else moves it.
    let to = least_loaded(|id| unsafe { thread.as_ref().may_move_to(id) });
    put(to.unwrap_or_else(cpu::this), thread);
}

/// Puts a thread that is nowhere into the queue of `to`, or of another CPU if
/// that has begun to go away. Interrupts off, no queue locked.
fn put(to: &'static Cpu, thread: NonNull<Thread>) {
    // SAFETY: it has not exited, and nobody else moves it.
    let this = unsafe { thread.as_ref() };
    let mut to = to;
    loop {
        this.set_cpu(to.id());
        let mut queue = to.lock();
        // Under the lock this is either seen here, or the thread is found there.
        if !must_leave(to, this) {
            return enqueue(to, &mut queue, thread);
        }
        drop(queue);
        // SAFETY: as above.
        to = least_loaded(|id| unsafe { this.may_move_to(id) }).unwrap_or(to);
    }
}

/// Leaves the CPU to another thread and returns when this one is back, maybe on
/// another CPU; at once if it is itself the one to run. Interrupts off.
fn leave(why: Leave) {
    let cpu = cpu::this();
    let mut queue = cpu.lock();
    let prev = current();
    let thread = NonNull::from(prev);
    let mut left = Left::Settled;
    match why {
        Leave::Parks(_) if prev.unparked.swap(false, Relaxed) => return,
        // Elsewhere it looks again at what it waits for.
        Leave::Parks(_) | Leave::Preempted | Leave::Yields if must_leave(cpu, prev) => {
            prev.set_state(State::Moving);
            left = Left::ToMove(thread);
        }
        Leave::Parks(deadline) => {
            prev.set_state(State::Parked);
            prev.slice.store(0, Relaxed);
            if let Some(deadline) = deadline {
                queue.sleepers.add(Thread::entity(thread), deadline);
            }
        }
        Leave::Exits => {
            prev.set_state(State::Exited);
            left = Left::Exited(thread);
        }
        Leave::Preempted | Leave::Yields if prev.is_idle() => {}
        // SAFETY: it is the caller itself.
        Leave::Preempted | Leave::Yields if !unsafe { prev.stays_on(cpu.id()) } => {
            prev.set_state(State::Moving);
            left = Left::ToMove(thread);
        }
        Leave::Preempted if queue.slice.left > 0 => {
            prev.set_state(State::Queued);
            prev.slice.store(queue.slice.left, Relaxed);
            queue.ready.push_front(Thread::entity(thread));
        }
        Leave::Preempted | Leave::Yields => {
            prev.set_state(State::Queued);
            prev.slice.store(0, Relaxed);
            queue.ready.push(Thread::entity(thread));
        }
    }
    cpu.wanted.store(false, Relaxed);
    let ready = queue.ready.pop().map(Thread::of);
    let pulled = || if cpu.is_online() { pull(cpu, 1) } else { None };
    let next = ready.or_else(pulled).unwrap_or_else(|| cpu.idle());
    // SAFETY: a thread that was in a queue lives, and an idle one always does.
    let to = unsafe { next.as_ref() };
    to.set_state(State::Running);
    to.set_cpu(cpu.id());
    let slice = to.slice.load(Relaxed);
    queue.slice = if slice == 0 { Slice::FULL } else { Slice { left: slice } };
    cpu.current.store(next.as_ptr(), Relaxed);
    cpu.tell(&queue);
    if next == thread {
        return;
    }
    // SAFETY: this CPU's own, and its queue is locked.
    unsafe { *cpu.left.get() = left };
    roots::switch_to(to.root.load(Relaxed));
    // The lock stays held across the switch: until the old thread's registers
    // are on its stack nobody may take it from the queue. Interrupts were off
    // before it was taken, so there is nothing to restore.
    core::mem::forget(queue);
    // SAFETY: interrupts are off; `next` has switched away or was prepared, and
    // only who takes it from a queue switches to it.
    unsafe { switch(prev.rsp.get(), *to.rsp.get()) };
    arrive();
}

/// Whether `thread`, which is in no other CPU's hands, has to leave `cpu`, whose
/// queue is locked: that goes away, and there is another one for it.
fn must_leave(cpu: &Cpu, thread: &Thread) -> bool {
    // SAFETY: the lock of its CPU's queue is held.
    let may_go = || cpu::online().any(|other| unsafe { thread.may_move_to(other.id()) });
    !cpu.is_online() && !thread.is_idle() && may_go()
}

/// Sends all threads of this CPU elsewhere but those that may run here only,
/// which stay until it takes threads again, and takes no others. Its idle thread
/// then goes away with it. Interrupts off; on one CPU at a time.
pub(crate) fn retire() {
    let cpu = cpu::this();
    cpu.set_offline();
    while let Some(thread) = evict(cpu) {
        place(thread);
    }
    cpu.wanted.store(true, Relaxed);
}

/// Takes a thread that has to leave `cpu` off its queue.
fn evict(cpu: &Cpu) -> Option<NonNull<Thread>> {
    let mut queue = cpu.lock();
    // SAFETY: what is in the queue lives.
    let ready =
        queue.ready.take(&mut |entity| must_leave(cpu, unsafe { Thread::of(entity).as_ref() }));
    // Before their time: they look again at what they wait for.
    let found =
        ready.or_else(|| queue.sleepers.take(&mut |entity| must_leave(cpu, Thread::with(entity))));
    let thread = Thread::of(found?);
    // SAFETY: as above.
    unsafe { thread.as_ref() }.set_state(State::Moving);
    cpu.tell(&queue);
    Some(thread)
}

/// The first thing that a thread does on the CPU it was switched to.
/// Interrupts off.
pub(super) fn arrive() {
    let cpu = cpu::this();
    // SAFETY: this CPU's own, and its queue is locked by who switched.
    let left = unsafe { core::mem::replace(&mut *cpu.left.get(), Left::Settled) };
    // SAFETY: the guard was forgotten before the switch.
    unsafe { cpu.unlock() };
    match left {
        Left::Settled => {}
        Left::ToMove(thread) => place(thread),
        Left::Exited(thread) => spawn::exited(thread),
    }
}

/// Takes a thread that waits on another CPU, has at least `least` waiting, and
/// may run on `cpu`, which is this one, with its queue locked. Others' queues
/// are only tried, so that two CPUs that look at each other do not wait.
fn pull(cpu: &Cpu, least: u32) -> Option<NonNull<Thread>> {
    let others = cpu::online().filter(|other| !core::ptr::eq(*other, cpu));
    for other in others.filter(|other| other.waiting() >= least) {
        let Some(mut queue) = other.try_lock() else { continue };
        // SAFETY: the lock of its CPU's queue is held.
        let found = queue
            .ready
            .take(&mut |entity| unsafe { Thread::of(entity).as_ref().may_move_to(cpu.id()) });
        other.tell(&queue);
        if let Some(found) = found.map(Thread::of) {
            // SAFETY: it was in a queue, so it lives.
            unsafe { found.as_ref() }.set_cpu(cpu.id());
            return Some(found);
        }
    }
    None
}

/// What a CPU does at each tick of its timer: wakes whose time has come, counts
/// the running thread's slice, looks now and then whether others have more to
/// do. Called by the timer's interrupt.
pub(crate) fn tick() {
    let cpu = cpu::this();
    let now = time::now_ms();
    watchdog::ticked(cpu, now);
    if !cpu.is_online() {
        return;
    }
    watchdog::look(cpu, now);
    let mut queue = cpu.lock();
    while let Some(thread) = queue.sleepers.expired(now).map(Thread::of) {
        enqueue(cpu, &mut queue, thread);
    }
    let running = current().priority();
    queue.ticks = queue.ticks.wrapping_add(1);
    let idle = running == Priority::Idle && queue.ready.is_empty();
    if idle || queue.ticks.is_multiple_of(BALANCE_TICKS) {
        // One more than here, of which one runs, is no reason to move any.
        if let Some(thread) = pull(cpu, if idle { 1 } else { cpu.load() + 1 }) {
            enqueue(cpu, &mut queue, thread);
        }
    }
    let Queue { slice, ready, .. } = &mut *queue;
    if slice.tick(running, ready) {
        cpu.wanted.store(true, Relaxed);
    }
}

/// Runs a more urgent thread if there is one and this one may be preempted here.
/// Else that happens at the end of what forbids it. To be called after waking
/// somebody, with no lock held.
pub(crate) fn preempt_if_wanted() {
    let flags = irq::save();
    let cpu = cpu::this();
    if cpu.wanted.load(Relaxed) {
        if flags.were_on() && current().unpreemptible.load(Relaxed) == 0 {
            leave(Leave::Preempted);
        } else if !flags.were_on() && !percpu::in_irq() {
            // Taken as soon as interrupts are on again.
            smp::notify(cpu.id());
        }
    }
    irq::restore(flags);
}

/// The end of a hardware interrupt that came while interrupts were on: another
/// thread may go on than the one that was interrupted. Interrupts off.
pub(crate) fn preempt_from_irq() {
    if cpu::this().wanted.load(Relaxed) && current().unpreemptible.load(Relaxed) == 0 {
        leave(Leave::Preempted);
    }
}

/// Lets others of the same priority run first.
#[track_caller]
pub(crate) fn yield_now() {
    check_may_wait("others to run");
    if may_sleep() {
        let flags = irq::save();
        leave(Leave::Yields);
        irq::restore(flags);
    }
}

/// Does not return before `ms` milliseconds have passed. Interrupts on, no lock
/// held.
///
/// # Panics
///
/// In debug builds, if the caller may not wait.
#[track_caller]
pub(crate) fn sleep(ms: u64) {
    check_may_wait("time to pass");
    let deadline = time::now_ms().saturating_add(ms);
    while time::now_ms() < deadline {
        park(Some(deadline));
    }
}

/// Ends this thread. What its stack holds is not dropped.
pub(super) fn exit() -> ! {
    irq::disable();
    leave(Leave::Exits);
    unreachable!("nobody switches to a thread that has exited");
}

/// Lets this CPU take threads. Interrupts off.
pub(crate) fn come_online() {
    // What it ticked before it went away does not count.
    cpu::this().ticked.store(0, Relaxed);
    cpu::this().set_online();
}

/// Makes what runs here this CPU's idle thread for good.
pub(crate) fn enter_idle() -> ! {
    irq::disable();
    loop {
        leave(Leave::Yields);
        if !cpu::this().is_online() {
            smp::vanish();
        }
        // Interrupts come after the next instruction begins: none gets lost.
        if cpu::this().wanted.load(Relaxed) {
            continue;
        }
        if apic::is_running() {
            interrupts::enable_and_hlt();
        } else {
            // Nothing would end the halt.
            irq::enable();
            irq::disable();
            tick();
        }
        irq::disable();
    }
}
