//! Wait queues: threads wait until something is so, and whoever makes it so
//! wakes them. Calls `sched`.

use crate::arch::irq::IrqMutex;
use crate::arch::time;
use crate::task::guard::check_may_wait;
use crate::task::sched::{self, preempt_if_wanted};
use crate::task::thread::{Thread, current};
use core::ptr::NonNull;
use intrusive_collections::{LinkedList, LinkedListAtomicLink, UnsafeRef, intrusive_adapter};
use mm::sync::LockRank;

/// A thread in a wait queue; lies on its stack.
struct Waiter {
    link: LinkedListAtomicLink,
    thread: NonNull<Thread>,
}

intrusive_adapter!(WaiterAdapter = UnsafeRef<Waiter>: Waiter { link => LinkedListAtomicLink });

/// Threads that wait for something, in the order in which they came.
pub(crate) struct WaitQueue {
    waiters: IrqMutex<LinkedList<WaiterAdapter>>,
}

// SAFETY: the list holds waiters of any thread, only under its lock.
unsafe impl Sync for WaitQueue {}
// SAFETY: as above.
unsafe impl Send for WaitQueue {}

impl WaitQueue {
    /// Nobody waits.
    pub(crate) const fn new() -> Self {
        Self { waiters: IrqMutex::new(LockRank::WaitQueue, LinkedList::new(WaiterAdapter::NEW)) }
    }

    /// Waits until `so` returns true. It is called again after each wake, with
    /// nothing locked. Interrupts on, no lock held; a CPU's idle thread spins.
    ///
    /// # Panics
    ///
    /// In debug builds, if the caller may not wait.
    #[track_caller]
    pub(crate) fn wait_until(&self, so: impl FnMut() -> bool) {
        self.wait(None, so);
    }

    /// Waits until `so` returns true, or `ms` milliseconds have passed; returns
    /// what `so` returned last. As [`wait_until`](Self::wait_until).
    #[track_caller]
    pub(crate) fn wait_until_for(&self, ms: u64, so: impl FnMut() -> bool) -> bool {
        self.wait(Some(time::now_ms().saturating_add(ms)), so)
    }

    #[track_caller]
    fn wait(&self, deadline: Option<u64>, mut so: impl FnMut() -> bool) -> bool {
        check_may_wait("a wake");
        if so() {
            return true;
        }
        let waiter = Waiter { link: LinkedListAtomicLink::new(), thread: NonNull::from(current()) };
        let waiting = Waiting { queue: self, waiter: &waiter };
        loop {
            waiting.enter();
            // Who makes it so after this look finds the waiter in the queue.
            if so() {
                return true;
            }
            if deadline.is_some_and(|deadline| time::now_ms() >= deadline) {
                // A wake that came just now was meant for somebody.
                if waiting.leave() {
                    self.wake_one();
                }
                return false;
            }
            sched::park(deadline);
        }
    }

    /// Whether `count` threads or more wait.
    pub(crate) fn has(&self, count: usize) -> bool {
        self.waiters.lock().iter().take(count).count() == count
    }

    /// Wakes who has waited longest; for queues in which all wait for the same,
    /// for a wake is not passed on because it was of no use to the one who got
    /// it. From any context but an NMI.
    pub(crate) fn wake_one(&self) {
        let mut waiters = self.waiters.lock();
        if let Some(waiter) = waiters.pop_front() {
            // SAFETY: a waiter cannot leave its wait while the queue is locked.
            unsafe { sched::unpark(waiter.thread) };
            drop(waiters);
            preempt_if_wanted();
        }
    }

    /// Wakes everybody. From any context but an NMI.
    pub(crate) fn wake_all(&self) {
        let mut waiters = self.waiters.lock();
        if waiters.is_empty() {
            return;
        }
        while let Some(waiter) = waiters.pop_front() {
            // SAFETY: as in `wake_one`.
            unsafe { sched::unpark(waiter.thread) };
        }
        drop(waiters);
        preempt_if_wanted();
    }
}

/// A waiter that is out of the queue when this goes.
struct Waiting<'a> {
    queue: &'a WaitQueue,
    waiter: &'a Waiter,
}

impl Waiting<'_> {
    /// Enters the queue unless the waiter is in it.
    fn enter(&self) {
        let mut waiters = self.queue.waiters.lock();
        if !self.waiter.link.is_linked() {
            // SAFETY: `drop` takes it out before the waiter goes.
            waiters.push_back(unsafe { UnsafeRef::from_raw(self.waiter) });
        }
    }

    /// Leaves the queue; returns whether somebody had taken the waiter out.
    fn leave(&self) -> bool {
        let mut waiters = self.queue.waiters.lock();
        let linked = self.waiter.link.is_linked();
        if linked {
            // SAFETY: it is linked, and in no other list than this.
            unsafe { waiters.cursor_mut_from_ptr(&raw const *self.waiter) }.remove();
        }
        !linked
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}
