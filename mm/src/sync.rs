//! Locks, atomics and CPU tokens: the only file that names a lock or an atomic
//! type's origin, so that an explorer of interleavings can stand in for them.
//! May call: `platform`.

use crate::platform::{IrqState, Platform};
use crate::types::CpuId;
use core::cell::UnsafeCell;
use core::marker::PhantomData;

pub use core::sync::atomic::{
    AtomicBool, AtomicI64, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize,
    Ordering,
};

/// A spin lock. Holders keep this CPU's token (interrupts masked), so a holder
/// is never preempted by code of its own CPU that wants the same lock.
#[derive(Debug, Default)]
pub struct Lock<T>(spin::mutex::SpinMutex<T>);

/// What [`Lock::lock`] returns; the lock is free again when it is dropped.
pub type LockGuard<'a, T> = spin::mutex::SpinMutexGuard<'a, T>;

impl<T> Lock<T> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(spin::mutex::SpinMutex::new(value))
    }

    /// Takes the lock, spinning until it is free.
    pub fn lock(&self) -> LockGuard<'_, T> {
        self.0.lock()
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<LockGuard<'_, T>> {
        self.0.try_lock()
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
        Self { platform, id, restore: Some(state), _not_send: PhantomData }
    }

    /// The token of CPU `id`, for code run by [`Platform::on_cpus`].
    ///
    /// # Safety
    /// The caller must hold that CPU in the sense of [`Platform`] for as long
    /// as the returned value lives.
    pub unsafe fn held(platform: &'p P, id: CpuId) -> Self {
        Self { platform, id, restore: None, _not_send: PhantomData }
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
        if let Some(state) = self.restore.take() {
            self.platform.irq_restore(self.id, state);
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
