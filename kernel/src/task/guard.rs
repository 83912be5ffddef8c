//! Staying where one is: without preemption, or merely on one CPU. Calls
//! `thread`, `sched`.

use crate::arch::{irq, percpu};
use crate::task::sched;
use crate::task::thread::current;
use core::marker::PhantomData;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;
use mm::types::CpuId;

/// Changes a counter that only its thread changes. An interrupt in between
/// leaves it as it was.
fn change(counter: &AtomicU32, by: i32) -> u32 {
    let now = counter.load(Relaxed).wrapping_add_signed(by);
    counter.store(now, Relaxed);
    now
}

/// While this lives the thread is not preempted, and may not wait.
#[derive(Debug)]
pub(crate) struct NoPreempt(PhantomData<*mut ()>);

/// Keeps this thread running until the guard goes. Nests.
#[must_use]
pub(crate) fn preempt_disable() -> NoPreempt {
    change(&current().unpreemptible, 1);
    NoPreempt(PhantomData)
}

impl Drop for NoPreempt {
    fn drop(&mut self) {
        if change(&current().unpreemptible, -1) == 0 {
            sched::preempt_if_wanted();
        }
    }
}

/// While this lives the thread stays on its CPU. It may be preempted and may
/// wait.
#[derive(Debug)]
pub(crate) struct Pinned {
    cpu: CpuId,
    _not_send: PhantomData<*mut ()>,
}

/// Whether this thread stays on its CPU for the moment, for whatever reason.
pub(crate) fn is_bound() -> bool {
    let thread = current();
    thread.unpreemptible.load(Relaxed) != 0
        || thread.pins.load(Relaxed) != 0
        || !irq::are_on()
        // SAFETY: only the thread itself changes it.
        || unsafe { (*thread.allowed.get()).len() == 1 }
}

/// Checks in debug builds that this thread may wait for `what`.
///
/// # Panics
///
/// If it holds a spin lock, has interrupts off, or may not be preempted.
#[inline]
#[track_caller]
pub(super) fn check_may_wait(what: &str) {
    if cfg!(debug_assertions) {
        let flags = irq::save();
        percpu::this().held.may_wait(what);
        irq::restore(flags);
        assert!(flags.were_on(), "waits for {what} with interrupts off");
        let stays = current().unpreemptible.load(Relaxed) != 0;
        assert!(!stays, "waits for {what} where it may not be preempted");
    }
}

/// Keeps this thread on the CPU it is on until the guard goes. Nests.
#[must_use]
pub(crate) fn pin() -> Pinned {
    change(&current().pins, 1);
    Pinned { cpu: percpu::cpu_id(), _not_send: PhantomData }
}

impl Pinned {
    /// Where the thread is.
    pub(crate) fn cpu(&self) -> CpuId {
        self.cpu
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        change(&current().pins, -1);
    }
}
