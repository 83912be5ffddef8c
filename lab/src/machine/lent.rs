//! A value that is lent out for as long as the program runs, and taken back all
//! the same. Calls nothing.

use std::fmt;
use std::ptr::NonNull;

/// A value at an address that does not change. It lives until this does.
pub(super) struct Lent<T: ?Sized + 'static>(NonNull<T>);

impl<T: ?Sized> Lent<T> {
    /// Begins to lend `value`.
    ///
    /// # Safety
    /// No reference from [`get`](Self::get) is used after this has been dropped.
    pub(super) unsafe fn new(value: Box<T>) -> Self {
        Self(NonNull::from(Box::leak(value)))
    }

    /// As [`new`](Self::new), for one who changes it: lent once, to the holder of
    /// the reference.
    ///
    /// # Safety
    /// As for [`new`](Self::new).
    pub(super) unsafe fn new_mut(value: Box<T>) -> (LentMut<T>, &'static mut T) {
        let mut at = NonNull::from(Box::leak(value));
        // SAFETY: the box is alive until the first of the pair goes, which the
        // caller has promised not to let happen before.
        (LentMut(Self(at)), unsafe { at.as_mut() })
    }

    /// The value.
    pub(super) fn get(&self) -> &'static T {
        // SAFETY: the box is alive, and whoever made this has promised that the
        // reference is not used when it no longer is. Nothing but shared
        // references is ever made of it before that.
        unsafe { self.0.as_ref() }
    }
}

impl<T: ?Sized> Drop for Lent<T> {
    fn drop(&mut self) {
        // SAFETY: leaked by `new` and taken back once, here; nobody uses a
        // reference to it any more.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// A value that somebody else changes until this goes.
pub(super) struct LentMut<T: ?Sized + 'static>(Lent<T>);

impl<T: ?Sized> fmt::Debug for LentMut<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: ?Sized> fmt::Debug for Lent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lent")
    }
}
