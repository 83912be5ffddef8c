//! Interrupt masking, and the lock that masks while it is held. Calls
//! `percpu`, where debug builds note what is held.

use crate::arch::percpu;
use core::arch::asm;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};
use mm::sync::{HeldLocks, LockRank};
use spin::{Mutex, MutexGuard};

/// The interrupt flag.
const IF: u64 = 1 << 9;

/// A CPU's flags before its interrupts were masked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Flags(pub(crate) u64);

impl Flags {
    /// Whether interrupts were on.
    #[inline]
    pub(crate) fn were_on(self) -> bool {
        self.0 & IF != 0
    }
}

/// This CPU's flags.
#[inline]
fn flags() -> u64 {
    let flags: u64;
    // SAFETY: reads the flags by way of the stack.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) };
    flags
}

/// Masks interrupts; returns what was before.
#[inline]
pub(crate) fn save() -> Flags {
    let flags = flags();
    disable();
    Flags(flags)
}

/// Undoes the [`save`] that returned `flags`.
#[inline]
pub(crate) fn restore(flags: Flags) {
    if flags.were_on() {
        enable();
    }
}

/// Masks interrupts.
#[inline]
pub(crate) fn disable() {
    // SAFETY: masking harms nobody; no access to memory moves across it.
    unsafe { asm!("cli", options(nostack, preserves_flags)) };
}

/// Unmasks interrupts.
#[inline]
pub(crate) fn enable() {
    // SAFETY: all vectors have handlers; no access to memory moves across it.
    unsafe { asm!("sti", options(nostack, preserves_flags)) };
}

/// Whether interrupts are on.
#[inline]
pub(crate) fn are_on() -> bool {
    flags() & IF != 0
}

/// A crash is being reported: what is held does not matter any more.
static CRASHED: AtomicBool = AtomicBool::new(false);

/// Ends all checks of locks, for a crash report.
pub(crate) fn stop_checking() {
    CRASHED.store(true, Ordering::Relaxed);
}

/// What this CPU holds, in a debug build. Interrupts masked.
#[inline]
fn held() -> Option<&'static HeldLocks> {
    let checks = cfg!(debug_assertions) && !CRASHED.load(Ordering::Relaxed);
    checks.then(|| &percpu::this().held)
}

/// A spin lock that an interrupt handler may take too: interrupts stay masked
/// on this CPU while it is held. Debug builds check that locks are taken in the
/// order of their ranks.
pub(crate) struct IrqMutex<T> {
    rank: LockRank,
    inner: Mutex<T>,
}

impl<T> IrqMutex<T> {
    /// An open lock around `value`, with its place in the order of locks.
    pub(crate) const fn new(rank: LockRank, value: T) -> Self {
        Self { rank, inner: Mutex::new(value) }
    }

    /// Waits for the lock. Not to be called by its holder.
    ///
    /// # Panics
    ///
    /// In debug builds, if this CPU holds a lock that may not be held then.
    #[track_caller]
    pub(crate) fn lock(&self) -> IrqGuard<'_, T> {
        let flags = save();
        let held = held();
        if let Some(held) = held {
            held.enter();
            held.acquire(self.rank);
        }
        let noted = held.map(|_| self.rank);
        IrqGuard { guard: Some(self.inner.lock()), flags, noted }
    }

    /// The lock if nobody holds it.
    pub(crate) fn try_lock(&self) -> Option<IrqGuard<'_, T>> {
        let flags = save();
        match self.inner.try_lock() {
            Some(guard) => {
                let held = held().filter(|held| held.acquired(self.rank));
                held.inspect(|held| held.enter());
                let noted = held.map(|_| self.rank);
                Some(IrqGuard { guard: Some(guard), flags, noted })
            }
            None => {
                restore(flags);
                None
            }
        }
    }

    /// Opens the lock whose guard was forgotten.
    ///
    /// # Safety
    ///
    /// The lock is held by the caller, who takes care of interrupts; it has
    /// waited for it, on the CPU that it runs on.
    pub(crate) unsafe fn force_unlock(&self) {
        forget(self.rank);
        // SAFETY: passed on to the caller.
        unsafe { self.inner.force_unlock() };
    }

    /// Waits for the lock for `spins` rounds, then takes it from its holder.
    ///
    /// # Safety
    ///
    /// The holder must not run on: for a crash report, when all else stands
    /// still. What the lock protects may be half changed.
    pub(crate) unsafe fn seize(&self, spins: u32) -> IrqGuard<'_, T> {
        for _ in 0..spins {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            core::hint::spin_loop();
        }
        // SAFETY: the caller vouches that the holder does not run on.
        unsafe { self.inner.force_unlock() };
        self.lock()
    }
}

/// Takes a lock off the list of what this CPU holds. Interrupts masked.
fn forget(rank: LockRank) {
    if let Some(held) = held() {
        held.release(rank);
        held.leave();
    }
}

/// Access to what an [`IrqMutex`] protects.
pub(crate) struct IrqGuard<'a, T> {
    /// Always there but in `drop`, which opens the lock before it unmasks.
    guard: Option<MutexGuard<'a, T>>,
    flags: Flags,
    /// As what it was noted.
    noted: Option<LockRank>,
}

impl<T> Deref for IrqGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        match &self.guard {
            Some(guard) => guard,
            None => unreachable!("only drop takes the guard"),
        }
    }
}

impl<T> DerefMut for IrqGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.guard {
            Some(guard) => guard,
            None => unreachable!("only drop takes the guard"),
        }
    }
}

impl<T> Drop for IrqGuard<'_, T> {
    fn drop(&mut self) {
        drop(self.guard.take());
        if let Some(rank) = self.noted {
            forget(rank);
        }
        restore(self.flags);
    }
}
