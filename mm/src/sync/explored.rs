//! Stands in for atomics and locks when interleavings are explored (feature
//! `explore`): before each operation the explorer, shuttle, may let another
//! thread go on. The types are as large as the real ones and zero where those
//! are, so that descriptors and zones keep their shape. Calls nothing.
//!
//! Threads take turns, one operation at a time, so what is explored is
//! sequential consistency: an ordering that is too weak is not found here but,
//! in part, by Miri, which delays stores, and by threads of the real machine.
//!
//! Waiting is blocking: a thread that spins sleeps until another one changes
//! something, so a circle of waiters is found as a deadlock.

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{self, Ordering, Ordering::Relaxed};
use shuttle::current::{TaskId, me};
use shuttle::sync::mpsc::{Sender, channel};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::vec::Vec;

/// Where another thread may go on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Grain {
    /// At locks, at operations that order others, and at read-modify-writes.
    Coarse,
    /// At each operation on an atomic.
    Fine,
}

/// Who sleeps until what is at an address, or anything at all, has changed.
struct Sleeper {
    address: Option<usize>,
    wake: Sender<()>,
}

// All threads of an exploration are coroutines of one thread of the host, whose
// variables they share.
std::thread_local! {
    static GRAIN: Cell<Option<Grain>> = const { Cell::new(None) };
    /// Changes so far.
    static CHANGES: Cell<u64> = const { Cell::new(0) };
    /// How many there were when a thread last came out of `relax`, and of `stall`.
    static SEEN: RefCell<BTreeMap<(TaskId, Loop), u64>> = const { RefCell::new(BTreeMap::new()) };
    static SLEEPERS: RefCell<Vec<Sleeper>> = const { RefCell::new(Vec::new()) };
}

/// As long as this value lives, operations are explored; before and after that
/// threads are not interrupted in them.
#[derive(Debug)]
pub struct Exploring(());

impl Exploring {
    /// Begins. One at a time, inside of an execution of the explorer's.
    pub fn new(grain: Grain) -> Self {
        GRAIN.set(Some(grain));
        SEEN.take();
        SLEEPERS.take();
        Self(())
    }
}

impl Drop for Exploring {
    fn drop(&mut self) {
        GRAIN.set(None);
    }
}

/// Another thread may go on here.
fn point(least: Grain) {
    if GRAIN.get().is_some_and(|grain| grain >= least) && !std::thread::panicking() {
        // Not a yield: that tells the explorer that the others should.
        shuttle::thread::sleep(core::time::Duration::ZERO);
    }
}

fn point_at(ordering: Ordering) {
    point(if ordering == Relaxed { Grain::Fine } else { Grain::Coarse });
}

/// Something is different now: whoever waits for that looks again.
fn changed(address: Option<usize>) {
    if GRAIN.get().is_none() {
        return;
    }
    CHANGES.set(CHANGES.get() + 1);
    let awake = SLEEPERS.with_borrow_mut(|sleepers| {
        let all = core::mem::take(sleepers).into_iter();
        let (awake, rest): (Vec<_>, _) =
            all.partition(|sleeper| sleeper.address.is_none() || sleeper.address == address);
        *sleepers = rest;
        awake
    });
    for sleeper in awake {
        // One that died by a panic needs no waking. Others may go on here.
        let _ = sleeper.wake.send(());
    }
}

fn sleep(address: Option<usize>) {
    let (wake, woken) = channel();
    SLEEPERS.with_borrow_mut(|sleepers| sleepers.push(Sleeper { address, wake }));
    let _ = woken.recv();
}

/// In what a thread goes round. One kind may go on inside of another, and lets
/// others change what the outer one has looked at already.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Loop {
    Relax,
    Stall,
}

/// Lets others go on, in a loop that waits for what one of them will do. Sleeps
/// if nothing has changed since the caller was here last.
pub fn relax() {
    go_round(Loop::Relax);
}

/// As [`relax`], in a loop that may call what relaxes.
pub fn stall() {
    go_round(Loop::Stall);
}

fn go_round(which: Loop) {
    if GRAIN.get().is_none() || std::thread::panicking() {
        core::hint::spin_loop();
        return;
    }
    let last = SEEN.with_borrow(|seen| seen.get(&(me(), which)).copied());
    if last == Some(CHANGES.get()) {
        sleep(None);
    } else {
        shuttle::thread::yield_now();
    }
    SEEN.with_borrow_mut(|seen| seen.insert((me(), which), CHANGES.get()));
}

/// A lock that blocks in the explorer.
#[derive(Debug)]
pub(super) struct RawLock<T>(spin::mutex::SpinMutex<T>);

impl<T> RawLock<T> {
    pub(super) const fn new(value: T) -> Self {
        Self(spin::mutex::SpinMutex::new(value))
    }

    fn address(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    pub(super) fn lock(&self) -> RawGuard<'_, T> {
        loop {
            point(Grain::Coarse);
            if let Some(guard) = self.0.try_lock() {
                return RawGuard { guard: Some(guard), address: self.address() };
            }
            assert!(GRAIN.get().is_some(), "a lock is waited for where nobody else runs");
            sleep(Some(self.address()));
        }
    }

    pub(super) fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

pub(super) struct RawGuard<'a, T> {
    /// There until it is dropped.
    guard: Option<spin::mutex::SpinMutexGuard<'a, T>>,
    address: usize,
}

impl<T> Deref for RawGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_ref().expect("only taken when dropped")
    }
}

impl<T> DerefMut for RawGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("only taken when dropped")
    }
}

impl<T> Drop for RawGuard<'_, T> {
    fn drop(&mut self) {
        self.guard = None;
        changed(Some(self.address));
    }
}

/// What all of them can do.
macro_rules! common {
    ($name:ident $(<$t:ident>)?, $value:ty) => {
        impl $(<$t>)? $name $(<$t>)? {
            /// A word with a value.
            pub const fn new(value: $value) -> Self {
                Self(atomic::$name::new(value))
            }

            /// As core's.
            pub fn into_inner(self) -> $value {
                self.0.into_inner()
            }

            /// As core's.
            pub fn get_mut(&mut self) -> &mut $value {
                self.0.get_mut()
            }

            /// As core's. What is done through the pointer is not interrupted.
            pub fn as_ptr(&self) -> *mut $value {
                point(Grain::Fine);
                self.0.as_ptr()
            }

            /// As core's.
            pub fn load(&self, ordering: Ordering) -> $value {
                point_at(ordering);
                self.0.load(ordering)
            }

            /// As core's.
            pub fn store(&self, value: $value, ordering: Ordering) {
                point_at(ordering);
                if self.0.swap(value, Relaxed) != value {
                    changed(None);
                }
            }

            fn modify(&self, to: impl FnOnce($value) -> Option<$value>) -> Result<$value, $value> {
                point(Grain::Coarse);
                let old = self.0.load(Relaxed);
                let new = to(old).ok_or(old)?;
                self.0.store(new, Relaxed);
                if new != old {
                    changed(None);
                }
                Ok(old)
            }

            fn always(&self, to: impl FnOnce($value) -> $value) -> $value {
                let (Ok(old) | Err(old)) = self.modify(|old| Some(to(old)));
                old
            }

            /// As core's.
            pub fn swap(&self, value: $value, _: Ordering) -> $value {
                self.always(|_| value)
            }

            /// As core's.
            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                _: Ordering,
                _: Ordering,
            ) -> Result<$value, $value> {
                self.modify(|old| (old == current).then_some(new))
            }

            /// As core's; never fails without a reason.
            pub fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }
        }

        impl $(<$t>)? fmt::Debug for $name $(<$t>)? {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! bits {
    ($name:ident, $value:ty) => {
        /// An atomic whose operations the explorer may interrupt.
        #[derive(Default)]
        #[repr(transparent)]
        pub struct $name(atomic::$name);

        common!($name, $value);

        impl $name {
            /// As core's.
            pub fn fetch_or(&self, bits: $value, _: Ordering) -> $value {
                self.always(|old| old | bits)
            }

            /// As core's.
            pub fn fetch_and(&self, bits: $value, _: Ordering) -> $value {
                self.always(|old| old & bits)
            }

            /// As core's.
            pub fn fetch_xor(&self, bits: $value, _: Ordering) -> $value {
                self.always(|old| old ^ bits)
            }
        }
    };
}

macro_rules! integers {
    ($($name:ident $value:ty),*) => {$(
        bits!($name, $value);

        impl $name {
            /// As core's.
            pub fn fetch_add(&self, by: $value, _: Ordering) -> $value {
                self.always(|old| old.wrapping_add(by))
            }

            /// As core's.
            pub fn fetch_sub(&self, by: $value, _: Ordering) -> $value {
                self.always(|old| old.wrapping_sub(by))
            }

            /// As core's.
            pub fn fetch_max(&self, value: $value, _: Ordering) -> $value {
                self.always(|old| old.max(value))
            }

            /// As core's.
            pub fn fetch_min(&self, value: $value, _: Ordering) -> $value {
                self.always(|old| old.min(value))
            }
        }
    )*};
}

bits!(AtomicBool, bool);
integers!(AtomicI64 i64, AtomicU8 u8, AtomicU16 u16, AtomicU32 u32, AtomicU64 u64, AtomicUsize usize);

/// An atomic pointer whose operations the explorer may interrupt.
#[repr(transparent)]
pub struct AtomicPtr<T>(atomic::AtomicPtr<T>);

common!(AtomicPtr<T>, *mut T);

impl<T> Default for AtomicPtr<T> {
    fn default() -> Self {
        Self::new(core::ptr::null_mut())
    }
}
