//! Making threads, waiting for their end, and giving back what they took.
//! Calls `sched`, `switch`, `vm::kstack`.

use crate::arch::irq;
use crate::platform::Machine;
use crate::task::cpu;
use crate::task::sched::{self, preempt_if_wanted};
use crate::task::space;
use crate::task::switch;
use crate::task::thread::{Thread, current};
use crate::task::wait::WaitQueue;
use crate::vm::kstack::{self, KernelStack, NoStack};
use core::fmt;
use core::mem::{align_of, size_of};
use core::ptr::NonNull;
use core::sync::atomic::AtomicPtr;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use mm::Mm;
use quarry_kernel::cpuset::CpuSet;
use quarry_kernel::sched::{Name, Priority};
use spin::Once;

/// Whose frames stacks are made of.
static MANAGER: Once<&'static Mm<Machine>> = Once::new();

/// Who waits for some thread to exit. One for all: the queue of a thread would
/// be gone before its waker had let go of it.
static EXITS: WaitQueue = WaitQueue::new();

/// Threads that have exited and that nobody is going to join.
static DEAD: AtomicPtr<Thread> = AtomicPtr::new(core::ptr::null_mut());
/// Where their undertaker waits.
static FUNERALS: WaitQueue = WaitQueue::new();

/// Makes it possible to make threads, and lets the boot CPU take them. Called
/// once, by its idle thread.
pub(crate) fn init(mm: &'static Mm<Machine>) {
    MANAGER.call_once(|| mm);
    let flags = irq::save();
    sched::come_online();
    irq::restore(flags);
}

/// What a thread is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    /// What it is called.
    pub(crate) name: Name,
    /// How urgent it is.
    pub(crate) priority: Priority,
    /// CPUs that it may use.
    pub(crate) cpus: CpuSet,
    /// Bytes of its stack.
    pub(crate) stack: usize,
}

impl Config {
    /// An ordinary thread that may use all CPUs.
    pub(crate) fn new(name: Name) -> Self {
        Self { name, priority: Priority::Normal, cpus: CpuSet::ALL, stack: kstack::THREAD }
    }
}

/// Why there is no new thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SpawnError {
    /// It gets no stack.
    Stack(NoStack),
    /// What it is to run takes too much of the stack.
    TooLarge,
    /// None of the CPUs that it may use is there.
    NoCpu,
    /// There is no memory manager yet.
    TooEarly,
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no new thread: ")?;
        match self {
            Self::Stack(error) => error.fmt(f),
            Self::TooLarge => f.write_str("its closure is too large"),
            Self::NoCpu => f.write_str("it may use no CPU that is there"),
            Self::TooEarly => f.write_str("too early"),
        }
    }
}

/// A thread that was made. Dropped, it lets the thread go its own way.
#[derive(Debug)]
pub(crate) struct JoinHandle {
    thread: NonNull<Thread>,
}

// SAFETY: what it does to the thread may be done from anywhere.
unsafe impl Send for JoinHandle {}

/// What lies at the top of a new thread's stack.
#[repr(C)]
struct Top<F> {
    /// What it is to run; gone once that has begun.
    run: F,
    thread: Thread,
}

/// Makes a thread that runs `run` and then exits. May wait for memory:
/// interrupts on, no lock held.
///
/// # Errors
///
/// [`SpawnError`]; then there is no thread, and nothing was taken.
pub(crate) fn spawn<F>(config: &Config, run: F) -> Result<JoinHandle, SpawnError>
where
    F: FnOnce() + Send + 'static,
{
    const { assert!(align_of::<Top<F>>() <= 4096) };
    let mm = *MANAGER.get().ok_or(SpawnError::TooEarly)?;
    if !cpu::online().any(|cpu| config.cpus.contains(cpu.id())) {
        return Err(SpawnError::NoCpu);
    }
    if size_of::<Top<F>>() > config.stack / 4 {
        return Err(SpawnError::TooLarge);
    }
    let stack = KernelStack::allocate(mm, config.stack).map_err(SpawnError::Stack)?;
    let top: *mut Top<F> = core::ptr::with_exposed_provenance_mut(stack.top() as usize);
    // Down to what the type is aligned to, which the size is a multiple of.
    let top = top.wrapping_sub(1);
    let below = top.cast::<u8>().map_addr(|addr| addr & !15);
    let thread = Thread::new(config.name, config.priority, config.cpus);
    // One is the scheduler, which lets go when it exits; the other the handle.
    thread.known_by.store(2, Relaxed);
    // SAFETY: the stack is mapped, large enough, aligned, and nobody's.
    let rsp = unsafe {
        top.write(Top { run, thread });
        switch::prepare(below, begin::<F>, top)
    };
    // SAFETY: it has just been written.
    let thread = unsafe { NonNull::new_unchecked(&raw mut (*top).thread) };
    // SAFETY: nobody else knows the thread yet.
    unsafe {
        *thread.as_ref().rsp.get() = rsp;
        *thread.as_ref().stack.get() = Some(stack);
    }
    let flags = irq::save();
    sched::place(thread);
    irq::restore(flags);
    preempt_if_wanted();
    Ok(JoinHandle { thread })
}

/// Where a new thread begins.
extern "C" fn begin<F: FnOnce()>(top: *mut Top<F>) -> ! {
    sched::arrive();
    irq::enable();
    // SAFETY: `spawn` wrote it there for this thread alone, which reads it once.
    let run = unsafe { (&raw mut (*top).run).read() };
    run();
    space::quit();
    sched::exit()
}

/// The memory manager, once there is one.
pub(super) fn manager() -> Option<&'static Mm<Machine>> {
    MANAGER.get().copied()
}

/// The scheduler has left `thread`, which has exited, for the last time. No lock
/// held, interrupts off.
pub(super) fn exited(thread: NonNull<Thread>) {
    // SAFETY: the scheduler still knows it.
    let this = unsafe { thread.as_ref() };
    if this.known_by.fetch_sub(1, AcqRel) > 1 {
        // From here on who joins it may give back its stack.
        EXITS.wake_all();
        return;
    }
    let mut head = DEAD.load(Relaxed);
    loop {
        this.next_dead.store(head, Relaxed);
        match DEAD.compare_exchange_weak(head, thread.as_ptr(), Release, Relaxed) {
            Ok(_) => break,
            Err(now) => head = now,
        }
    }
    FUNERALS.wake_one();
}

/// Gives back the stack of threads that have exited and were never joined, as
/// they come. A thread of its own runs it.
pub(crate) fn undertake() -> ! {
    loop {
        FUNERALS.wait_until(|| !DEAD.load(Relaxed).is_null());
        let mut next = NonNull::new(DEAD.swap(core::ptr::null_mut(), Acquire));
        while let Some(thread) = next {
            // SAFETY: nobody else knows it any more.
            unsafe {
                next = NonNull::new(thread.as_ref().next_dead.load(Relaxed));
                bury(thread);
            }
        }
    }
}

/// Gives back a thread's stack, and the thread with it.
///
/// # Safety
///
/// It has exited, and nobody knows it. Interrupts on, no lock held.
unsafe fn bury(thread: NonNull<Thread>) {
    // SAFETY: the caller vouches for it. The stack is moved out before what it
    // lay in goes.
    let stack = unsafe { (*thread.as_ref().stack.get()).take() };
    drop(stack);
}

impl JoinHandle {
    /// Waits until the thread has exited and its stack has been given back.
    /// Interrupts on, no lock held, not from a CPU's idle thread.
    pub(crate) fn join(self) {
        EXITS.wait_until(|| self.has_exited());
    }

    /// Whether it has exited.
    pub(crate) fn has_exited(&self) -> bool {
        // SAFETY: the handle knows the thread.
        unsafe { self.thread.as_ref() }.known_by.load(Acquire) == 1
    }
}

impl Drop for JoinHandle {
    fn drop(&mut self) {
        // SAFETY: the handle knows the thread, and nobody knows it afterwards.
        unsafe {
            if self.thread.as_ref().known_by.fetch_sub(1, AcqRel) == 1 {
                bury(self.thread);
            }
        }
    }
}

/// Restricts this thread to `cpu` and goes there. Interrupts on, no lock held,
/// not pinned elsewhere.
///
/// # Errors
///
/// [`SpawnError::NoCpu`] if that one takes no threads; nothing has changed then.
pub(crate) fn move_to(cpus: CpuSet) -> Result<(), SpawnError> {
    if !cpu::online().any(|cpu| cpus.contains(cpu.id())) {
        return Err(SpawnError::NoCpu);
    }
    let thread = current();
    let flags = irq::save();
    let queue = cpu::this().lock();
    // SAFETY: the thread itself, under the lock of its CPU's queue.
    unsafe { *thread.allowed.get() = cpus };
    drop(queue);
    irq::restore(flags);
    // Whoever is where it may not be is taken elsewhere when it yields.
    sched::yield_now();
    Ok(())
}
