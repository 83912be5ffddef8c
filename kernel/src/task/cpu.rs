//! What each CPU has of the scheduler. Calls `thread`, `arch`.

use crate::arch::irq::{IrqGuard, IrqMutex};
use crate::arch::percpu;
use crate::task::thread::Thread;
use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering::Relaxed};
use mm::sync::LockRank;
use mm::types::CpuId;
use quarry_kernel::cpuset::CpuSet;
use quarry_kernel::sched::{Name, Priority, RunQueue, Sleepers, Slice};

/// What waits on a CPU: to run, or for a moment to come.
pub(super) struct Queue {
    pub(super) ready: RunQueue,
    pub(super) sleepers: Sleepers,
    /// What is left to the running thread.
    pub(super) slice: Slice,
    /// Ticks so far, for what is done every few of them.
    pub(super) ticks: u32,
}

// SAFETY: its elements are threads, which may be sent about.
unsafe impl Send for Queue {}

/// What the thread that was switched to does about the one that was left.
#[derive(Clone, Copy)]
pub(super) enum Left {
    /// Nothing: whoever should know it does.
    Settled,
    /// Puts it into the queue of another CPU.
    ToMove(NonNull<Thread>),
    /// Lets it go for good.
    Exited(NonNull<Thread>),
}

/// A CPU as the scheduler sees it.
pub(crate) struct Cpu {
    id: CpuId,
    /// The thread that runs; read through GS.
    pub(super) current: AtomicPtr<Thread>,
    idle: Thread,
    queue: IrqMutex<Queue>,
    /// Between a switch and what the new thread does first, under the lock of
    /// `queue`.
    pub(super) left: UnsafeCell<Left>,
    /// The running thread should make way.
    pub(super) wanted: AtomicBool,
    /// Threads in the queue; written under its lock.
    waiting: AtomicU32,
    /// Whether a thread other than the idle one runs; written under the lock.
    busy: AtomicBool,
    /// It takes threads.
    online: AtomicBool,
    /// Moment of the last timer tick (ms); 0 before the first.
    pub(super) ticked: AtomicU64,
    /// It has been named as one that has interrupts off for too long, and has
    /// not ticked since.
    pub(super) named: AtomicBool,
}

// SAFETY: the cell is used by this CPU only, under the lock of its queue.
unsafe impl Sync for Cpu {}

impl Cpu {
    /// A CPU that runs its idle thread and takes no others yet; to be
    /// [started](Self::start) before it asks which thread it runs.
    pub(crate) const fn new(id: CpuId) -> Self {
        let queue = Queue {
            ready: RunQueue::new(),
            sleepers: Sleepers::new(),
            slice: Slice::FULL,
            ticks: 0,
        };
        Self {
            id,
            current: AtomicPtr::new(core::ptr::null_mut()),
            idle: Thread::new(Name::new("idle"), Priority::Idle, CpuSet::one(id)),
            queue: IrqMutex::new(LockRank::RunQueue, queue),
            left: UnsafeCell::new(Left::Settled),
            wanted: AtomicBool::new(false),
            waiting: AtomicU32::new(0),
            busy: AtomicBool::new(false),
            online: AtomicBool::new(false),
            ticked: AtomicU64::new(0),
            named: AtomicBool::new(false),
        }
    }

    /// Makes what runs on this CPU its idle thread. Called once, before it asks.
    pub(crate) fn start(&'static self) {
        self.idle.set_cpu(self.id);
        self.current.store(self.idle().as_ptr(), Relaxed);
    }

    /// Its number.
    pub(super) fn id(&self) -> CpuId {
        self.id
    }

    pub(super) fn idle(&'static self) -> NonNull<Thread> {
        NonNull::from(&self.idle)
    }

    /// From now on it takes threads.
    pub(super) fn set_online(&self) {
        self.online.store(true, Relaxed);
    }

    /// From now on it takes none, and keeps those only that may go nowhere else.
    pub(super) fn set_offline(&self) {
        self.online.store(false, Relaxed);
    }

    /// Whether it takes threads.
    pub(crate) fn is_online(&self) -> bool {
        self.online.load(Relaxed)
    }

    /// Its queue, locked.
    pub(super) fn lock(&self) -> IrqGuard<'_, Queue> {
        self.queue.lock()
    }

    /// Its queue, locked, unless somebody else has it.
    pub(super) fn try_lock(&self) -> Option<IrqGuard<'_, Queue>> {
        self.queue.try_lock()
    }

    /// Opens the lock whose guard was forgotten before a switch.
    ///
    /// # Safety
    ///
    /// This CPU has it, and the guard is gone.
    pub(super) unsafe fn unlock(&self) {
        // SAFETY: passed on to the caller.
        unsafe { self.queue.force_unlock() };
    }

    /// Tells others how much there is to do here, after `queue` has changed or
    /// another thread runs.
    pub(super) fn tell(&self, queue: &Queue) {
        self.waiting.store(queue.ready.len(), Relaxed);
        let current = self.current.load(Relaxed).cast_const();
        self.busy.store(!core::ptr::eq(current, &raw const self.idle), Relaxed);
    }

    /// Threads that wait to run here.
    pub(super) fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }

    /// Threads that run or wait to run here.
    pub(super) fn load(&self) -> u32 {
        self.waiting() + u32::from(self.busy.load(Relaxed))
    }
}

/// This CPU; interrupts must be off.
pub(super) fn this() -> &'static Cpu {
    &percpu::this().sched
}

/// Every CPU that takes threads.
pub(super) fn online() -> impl Iterator<Item = &'static Cpu> {
    percpu::all().map(|area| &area.sched).filter(|cpu| cpu.is_online())
}

/// The CPU with that number, if it ever ran.
pub(super) fn of(id: CpuId) -> Option<&'static Cpu> {
    percpu::of(id).map(|area| &area.sched)
}
