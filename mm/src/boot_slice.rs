//! Tables that the manager needs as long as it lives and whose size is known at
//! boot only: carved from early memory, never given back. May call: `early`,
//! `platform`.

use crate::early::EarlyMem;
use crate::platform::Platform;
use crate::types::{Order, PAGE_SIZE};
use core::ops::{Deref, Index};
use core::ptr::NonNull;

/// A slice in frames of its own.
pub(crate) struct BootSlice<T: 'static> {
    ptr: *const T,
    len: usize,
}

// SAFETY: the slice is owned by its manager and hands out shared references
// only; what may be shared between threads is T's to say.
unsafe impl<T: Sync> Sync for BootSlice<T> {}
// SAFETY: as above; moving the owner moves no element.
unsafe impl<T: Send> Send for BootSlice<T> {}

impl<T> BootSlice<T> {
    /// `len` elements made by `make`, in frames reserved as `name`. None when
    /// early memory has no such range.
    pub(crate) fn new<P: Platform>(
        platform: &P,
        early: &mut EarlyMem<'_>,
        name: &'static str,
        len: usize,
        mut make: impl FnMut(usize) -> T,
    ) -> Option<Self> {
        const { assert!(align_of::<T>() <= PAGE_SIZE && !core::mem::needs_drop::<T>()) };
        let pages = (len * size_of::<T>()).div_ceil(PAGE_SIZE).max(1) as u64;
        let pfn = early.alloc(pages, Order(0), None, name)?;
        let bytes = platform.frame(pfn);
        // Beyond the elements too: a translating emulator may have kept the
        // firmware's code that lay here, and then watches every write to the
        // page until all of that is overwritten.
        // SAFETY: the frames are contiguous and nobody else's.
        unsafe { bytes.write_bytes(0, pages as usize * PAGE_SIZE) };
        let ptr: *mut T = bytes.cast();
        for i in 0..len {
            // SAFETY: the frames are contiguous, large enough, page-aligned and
            // nobody else's.
            unsafe { ptr.add(i).write(make(i)) };
        }
        Some(Self { ptr, len })
    }

    /// The first element.
    #[inline]
    pub(crate) fn as_ptr(&self) -> *const T {
        self.ptr
    }

    /// How many elements there are.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A pointer to element `i` and those behind it; beyond the end to none.
    pub(crate) fn from(&self, i: usize) -> *const T {
        self.ptr.wrapping_add(i)
    }

    /// A name for element `i`.
    ///
    /// # Panics
    /// If there is no such element.
    pub(crate) fn handle(&self, i: usize) -> Handle<T> {
        Handle(NonNull::from(&self[i]))
    }

    /// Element `i`, by itself: a reference to all of them costs Miri, which
    /// follows every borrow of every atomic, most of its time.
    #[inline]
    pub(crate) fn get(&self, i: usize) -> Option<&T> {
        // SAFETY: element `i` is one of the `len` that were written, and the
        // frames are kept for as long as the manager (and its platform) lives.
        (i < self.len).then(|| unsafe { &*self.ptr.add(i) })
    }
}

impl<T> BootSlice<T> {
    /// Element `i` without a look at the length.
    ///
    /// # Safety
    /// `i` is below [`len`](Self::len).
    #[inline]
    pub(crate) unsafe fn get_unchecked(&self, i: usize) -> &T {
        debug_assert!(i < self.len);
        // SAFETY: as in `get`, the caller having looked.
        unsafe { &*self.ptr.add(i) }
    }
}

/// An element of a boot slice, for other boot slices to name: all of them live
/// as long as their manager.
pub(crate) struct Handle<T: 'static>(NonNull<T>);

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Handle<T> {}

// SAFETY: as for the slice itself.
unsafe impl<T: Sync> Sync for Handle<T> {}
// SAFETY: as for the slice itself.
unsafe impl<T: Sync> Send for Handle<T> {}

impl<T> Handle<T> {
    /// A name for what lives for ever.
    #[cfg(test)]
    pub(crate) fn of(element: &'static T) -> Self {
        Self(NonNull::from(element))
    }

    /// The element.
    ///
    /// # Safety
    /// The platform that the slice was made with must outlive `'a`: a part of
    /// the same manager may say so of itself.
    #[inline]
    pub(crate) unsafe fn get<'a>(self) -> &'a T {
        // SAFETY: elements are written once and never moved or given back.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Index<usize> for BootSlice<T> {
    type Output = T;

    #[inline]
    fn index(&self, i: usize) -> &T {
        match self.get(i) {
            Some(element) => element,
            // Panics as a slice does.
            None => &(**self)[i],
        }
    }
}

impl<T> Deref for BootSlice<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: all `len` elements were written, and the frames are kept for
        // as long as the manager (and its platform) lives.
        unsafe { core::slice::from_raw_parts(self.ptr, self.len) }
    }
}
