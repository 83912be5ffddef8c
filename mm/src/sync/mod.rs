//! Locks, atomics and CPU tokens: the only files that name a lock or an atomic
//! type's origin, so that an explorer of interleavings can stand in for them.
//! May call: `platform`.

#[cfg(feature = "explore")]
pub mod explored;
mod rank;
mod sleeping;

pub use rank::{HeldLocks, LockRank};
pub(crate) use sleeping::Wait;
pub use sleeping::{ReadGuard, SleepLock, WriteGuard};

use crate::platform::{IrqState, Platform};
use crate::types::CpuId;
use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

pub use core::sync::atomic::Ordering;
#[cfg(not(feature = "explore"))]
pub use core::sync::atomic::{
    AtomicBool, AtomicI64, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize,
};
#[cfg(feature = "explore")]
pub use explored::{
    AtomicBool, AtomicI64, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize,
};

#[cfg(feature = "explore")]
use explored::{RawGuard, RawLock};
#[cfg(not(feature = "explore"))]
use spin::mutex::{SpinMutex as RawLock, SpinMutexGuard as RawGuard};

/// A value that is set once.
pub use spin::once::Once;

/// A spin lock. Holders keep this CPU's token (interrupts masked), so a holder
/// is never preempted by code of its own CPU that wants the same lock. Debug
/// builds check that locks are taken in the order of their ranks.
pub struct Lock<T> {
    #[cfg(debug_assertions)]
    rank: LockRank,
    inner: RawLock<T>,
}

impl<T> Lock<T> {
    /// A free lock around `value`, with its place in the order of locks.
    pub const fn new(rank: LockRank, value: T) -> Self {
        #[cfg(not(debug_assertions))]
        let _ = rank;
        Self {
            #[cfg(debug_assertions)]
            rank,
            inner: RawLock::new(value),
        }
    }

    /// Takes the lock, spinning until it is free. The token shows that
    /// interrupts are masked; it is to outlive the guard.
    ///
    /// # Panics
    /// In debug builds, if this CPU holds a lock that may not be held then.
    #[inline]
    #[track_caller]
    pub fn lock<'a, P: Platform>(&'a self, cpu: &Cpu<'a, P>) -> LockGuard<'a, T> {
        #[cfg(debug_assertions)]
        let held = cpu.platform.held_locks(cpu.id).map(|held| {
            held.acquire(self.rank);
            (held, self.rank)
        });
        #[cfg(not(debug_assertions))]
        let _ = cpu;
        LockGuard {
            guard: self.inner.lock(),
            #[cfg(debug_assertions)]
            held,
        }
    }

    /// The value, from a lock that nobody else can reach.
    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }
}

impl<T: fmt::Debug> fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lock").field(&self.inner).finish()
    }
}

/// What [`Lock::lock`] returns; the lock is free again when it is dropped.
pub struct LockGuard<'a, T> {
    guard: RawGuard<'a, T>,
    #[cfg(debug_assertions)]
    held: Option<(&'a HeldLocks, LockRank)>,
}

impl<T> Deref for LockGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for LockGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

#[cfg(debug_assertions)]
impl<T> Drop for LockGuard<'_, T> {
    fn drop(&mut self) {
        if let Some((held, rank)) = self.held {
            held.release(rank);
        }
    }
}

/// This CPU's token: interrupts are masked, and what the CPU owns is the
/// holder's alone. Tokens nest, as interrupt masking does.
pub struct Cpu<'p, P: Platform> {
    platform: &'p P,
    id: CpuId,
    restore: Option<IrqState>,
    /// A token belongs to the CPU it was taken on.
    _not_send: PhantomData<*mut ()>,
}

impl<'p, P: Platform> Cpu<'p, P> {
    /// Masks interrupts and takes the token of the CPU this runs on.
    #[inline]
    pub fn enter(platform: &'p P) -> Self {
        let (id, state) = platform.irq_save();
        Self::noted(platform, id, Some(state))
    }

    #[inline]
    fn noted(platform: &'p P, id: CpuId, restore: Option<IrqState>) -> Self {
        #[cfg(debug_assertions)]
        if let Some(held) = platform.held_locks(id) {
            held.enter();
        }
        Self { platform, id, restore, _not_send: PhantomData }
    }

    /// The token of a CPU that the caller holds already.
    ///
    /// # Safety
    /// It does so, in the sense of [`Platform`], for as long as this value lives.
    pub(crate) unsafe fn held(platform: &'p P, id: CpuId) -> Self {
        Self::noted(platform, id, None)
    }

    /// Runs `f` for every CPU in turn with that CPU's token, and returns when
    /// all are done. Waits for each.
    ///
    /// # Panics
    /// In debug builds, if the caller holds a token or a lock: two such CPUs
    /// would wait for each other, and neither serves the other.
    #[track_caller]
    pub fn on_each(platform: &P, f: &(dyn Fn(&Cpu<'_, P>) + Sync)) {
        may_wait(platform, "other CPUs");
        platform.on_cpus(&|id| f(&Cpu::noted(platform, id, None)));
    }

    /// Which CPU this is.
    #[inline]
    pub fn id(&self) -> CpuId {
        self.id
    }
}

impl<P: Platform> Drop for Cpu<'_, P> {
    #[inline]
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        if let Some(held) = self.platform.held_locks(self.id) {
            held.leave();
        }
        if let Some(state) = self.restore.take() {
            self.platform.irq_restore(self.id, state);
        }
    }
}

/// Says that the caller is about to wait for `what`, which other code has to
/// bring about: with a token or a lock held it might never come.
///
/// # Panics
/// In debug builds, if it holds one.
#[inline]
#[track_caller]
pub fn may_wait<P: Platform>(platform: &P, what: &str) {
    if cfg!(debug_assertions) {
        let cpu = Cpu::enter(platform);
        if let Some(held) = platform.held_locks(cpu.id) {
            held.may_wait(what);
        }
    }
}

/// A value that belongs to one CPU and is reached with its token only.
#[repr(align(64))]
#[derive(Debug, Default)]
pub struct CpuCell<T>(UnsafeCell<T>);

// SAFETY: the value is reached through `with`, whose contract (hold the owning
// CPU's token) lets one thread at a time in.
unsafe impl<T: Send> Sync for CpuCell<T> {}

impl<T> CpuCell<T> {
    /// A cell around `value`.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Runs `f` on the value.
    ///
    /// # Safety
    /// The caller holds the token of the CPU that owns this cell, and `f`
    /// reaches the same cell by no other way.
    #[inline]
    pub unsafe fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: by the contract nobody else has a reference to the value.
        f(unsafe { &mut *self.0.get() })
    }
}
