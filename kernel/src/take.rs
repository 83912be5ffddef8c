//! A static that one owner takes, once. Calls nothing.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

/// A value with a fixed place, for whoever takes it first.
pub(crate) struct Take<T> {
    value: UnsafeCell<T>,
    taken: AtomicBool,
}

// SAFETY: the value is reached only by the one who took it.
unsafe impl<T: Send> Sync for Take<T> {}

impl<T> Take<T> {
    /// A value to be taken.
    pub(crate) const fn new(value: T) -> Self {
        Self { value: UnsafeCell::new(value), taken: AtomicBool::new(false) }
    }

    /// The value, the first time.
    #[allow(clippy::mut_from_ref, reason = "it is handed out once")]
    pub(crate) fn take(&'static self) -> Option<&'static mut T> {
        let first = !self.taken.swap(true, Ordering::Relaxed);
        // SAFETY: this happens once, so the reference is the only one.
        first.then(|| unsafe { &mut *self.value.get() })
    }
}
