//! Interrupt masking, and the lock that masks while it is held. Calls nothing.

use core::ops::{Deref, DerefMut};
use spin::{Mutex, MutexGuard};
use x86_64::instructions::interrupts;
use x86_64::registers::rflags::{self, RFlags};

/// Masks interrupts; returns whether they were on.
pub(crate) fn save() -> bool {
    let were_on = rflags::read().contains(RFlags::INTERRUPT_FLAG);
    interrupts::disable();
    were_on
}

/// Undoes the [`save`] that returned `were_on`.
pub(crate) fn restore(were_on: bool) {
    if were_on {
        interrupts::enable();
    }
}

/// A spin lock that an interrupt handler may take too: interrupts stay masked
/// on this CPU while it is held.
pub(crate) struct IrqMutex<T> {
    inner: Mutex<T>,
}

impl<T> IrqMutex<T> {
    /// An open lock around `value`.
    pub(crate) const fn new(value: T) -> Self {
        Self { inner: Mutex::new(value) }
    }

    /// Waits for the lock. Not to be called by its holder.
    pub(crate) fn lock(&self) -> IrqGuard<'_, T> {
        let were_on = save();
        IrqGuard { guard: Some(self.inner.lock()), were_on }
    }

    /// The lock if nobody holds it.
    pub(crate) fn try_lock(&self) -> Option<IrqGuard<'_, T>> {
        let were_on = save();
        match self.inner.try_lock() {
            Some(guard) => Some(IrqGuard { guard: Some(guard), were_on }),
            None => {
                restore(were_on);
                None
            }
        }
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

/// Access to what an [`IrqMutex`] protects.
pub(crate) struct IrqGuard<'a, T> {
    /// Always there but in `drop`, which opens the lock before it unmasks.
    guard: Option<MutexGuard<'a, T>>,
    were_on: bool,
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
        restore(self.were_on);
    }
}
