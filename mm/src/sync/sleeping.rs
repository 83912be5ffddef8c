//! A lock that is held over waits: its holders may allocate, sleep and take spin
//! locks. Readers share it. Who finds it taken waits, as for a page lock. May
//! call: `platform`.

use super::{AtomicU32, Ordering, may_wait};
use crate::platform::Platform;
use core::cell::UnsafeCell;
use core::fmt;
use core::ops::{Deref, DerefMut};

/// Somebody writes.
const WRITER: u32 = 1 << 31;
/// Somebody waits to write: no new readers, or it would wait for ever.
const WAITING: u32 = 1 << 30;
/// The rest counts readers.
const READERS: u32 = WAITING - 1;

/// A wait for a task that is at work: most let go within microseconds, so others
/// are let run for a while before this task sleeps (Linux's optimistic spinning).
#[derive(Debug)]
pub(crate) struct Wait(u32);

impl Wait {
    /// Rounds before the first sleep.
    pub(crate) const ROUNDS: u32 = 1000;

    pub(crate) const fn new() -> Self {
        Self(0)
    }

    /// Waits for a moment, or longer if it has waited often. The context is that
    /// of [`Platform::stall`].
    pub(crate) fn go_on<P: Platform>(&mut self, platform: &P) {
        if self.0 < Self::ROUNDS {
            self.0 += 1;
            platform.relax();
        } else {
            platform.stall();
        }
    }
}

/// A value that many may read or one may write, over waits (Linux
/// `struct rw_semaphore`). It may not be waited for with a spin lock held.
/// A reader must not read again: a writer that waits keeps new readers out.
pub struct SleepLock<T> {
    state: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the state lets either readers or one writer reach the value.
unsafe impl<T: Send + Sync> Sync for SleepLock<T> {}

impl<T> SleepLock<T> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self { state: AtomicU32::new(0), value: UnsafeCell::new(value) }
    }

    /// Reads if nobody writes or waits to.
    pub fn try_read(&self) -> Option<ReadGuard<'_, T>> {
        self.try_read_unless(WRITER | WAITING)
    }

    /// Reads if nobody writes, whoever waits to: for the few whom others may wait for
    /// while they read, or write.
    pub(crate) fn try_read_first(&self) -> Option<ReadGuard<'_, T>> {
        self.try_read_unless(WRITER)
    }

    fn try_read_unless(&self, others: u32) -> Option<ReadGuard<'_, T>> {
        let mut seen = self.state.load(Ordering::Relaxed);
        while seen & others == 0 {
            let (to, from) = (Ordering::Acquire, Ordering::Relaxed);
            match self.state.compare_exchange_weak(seen, seen + 1, to, from) {
                Ok(_) => return Some(ReadGuard { lock: self }),
                Err(now) => seen = now,
            }
        }
        None
    }

    /// Reads; waits for a writer. Interrupts on, no spin lock held.
    pub fn read<P: Platform>(&self, platform: &P) -> ReadGuard<'_, T> {
        let mut wait = Wait::new();
        loop {
            if let Some(guard) = self.try_read() {
                return guard;
            }
            may_wait(platform, "somebody who writes");
            wait.go_on(platform);
        }
    }

    /// Writes if nobody else has the lock.
    pub fn try_write(&self) -> Option<WriteGuard<'_, T>> {
        let seen = self.state.load(Ordering::Relaxed);
        let (to, from) = (Ordering::Acquire, Ordering::Relaxed);
        let free = seen & (WRITER | READERS) == 0;
        // Whoever else waits says so again.
        (free && self.state.compare_exchange(seen, WRITER, to, from).is_ok())
            .then(|| WriteGuard { lock: self })
    }

    /// Writes; waits for everybody else. Interrupts on, no spin lock held.
    pub fn write<P: Platform>(&self, platform: &P) -> WriteGuard<'_, T> {
        let mut wait = Wait::new();
        loop {
            if let Some(guard) = self.try_write() {
                return guard;
            }
            may_wait(platform, "those who read and write");
            self.state.fetch_or(WAITING, Ordering::Relaxed);
            wait.go_on(platform);
        }
    }

    /// The value, through the only reference to the lock.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T> fmt::Debug for SleepLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.load(Ordering::Relaxed);
        f.debug_struct("SleepLock")
            .field("writer", &(state & WRITER != 0))
            .field("readers", &(state & READERS))
            .finish_non_exhaustive()
    }
}

/// What [`SleepLock::read`] returns.
#[derive(Debug)]
pub struct ReadGuard<'a, T> {
    lock: &'a SleepLock<T>,
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: while a reader is counted nobody writes.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        self.lock.state.fetch_sub(1, Ordering::Release);
    }
}

/// What [`SleepLock::write`] returns.
#[derive(Debug)]
pub struct WriteGuard<'a, T> {
    lock: &'a SleepLock<T>,
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the writer is alone.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the writer is alone.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        self.lock.state.fetch_and(!WRITER, Ordering::Release);
    }
}

#[cfg(all(test, not(feature = "explore")))]
mod tests {
    use super::*;

    #[test]
    fn readers_share_and_a_writer_is_alone() {
        let mut lock = SleepLock::new(7);
        {
            let (a, b) = (lock.try_read(), lock.try_read());
            assert_eq!(a.map(|n| *n), Some(7));
            assert!(lock.try_write().is_none(), "somebody reads");
            drop(b);
        }
        if let Some(mut n) = lock.try_write() {
            *n += 1;
            assert!(lock.try_read().is_none() && lock.try_write().is_none());
            assert!(lock.try_read_first().is_none());
        }
        assert_eq!(*lock.get_mut(), 8);
    }

    #[test]
    fn a_writer_that_waits_keeps_new_readers_out() {
        let lock = SleepLock::new(());
        let reader = lock.try_read();
        lock.state.fetch_or(WAITING, Ordering::Relaxed);
        assert!(lock.try_read().is_none());
        assert!(lock.try_read_first().is_some(), "nobody writes");
        drop(reader);
        assert!(lock.try_write().is_some());
        assert!(lock.try_read().is_some(), "whoever else waits says so again");
    }
}
