//! A CPU's array of free objects of one cache. Only the holder of the CPU's
//! token comes here. May call: nothing.

use super::MAX_CACHES;
use core::mem::size_of;
use core::ptr::NonNull;

/// An object taken, and what remains to be done before it is handed out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) ptr: NonNull<u8>,
    /// Bytes to clear if the caller wants zeroes; 0: they would undo what a
    /// constructor did.
    pub(crate) zero_bytes: u32,
    /// Checks or initialisation that most caches do without.
    pub(crate) extra: bool,
}

/// The head of an array; the entries follow it in the same allocation. The
/// newest is last.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct ArrayCache {
    pub(crate) avail: u32,
    pub(crate) limit: u32,
    pub(crate) batch: u32,
    pub(crate) zero_bytes: u32,
    /// The cache's own number, which the slabs name as their owner.
    pub(crate) cache: u16,
    /// Used since the reaper last looked.
    pub(crate) touched: bool,
    /// See [`Taken::extra`].
    pub(crate) extra: bool,
    entries: NonNull<NonNull<u8>>,
}

// SAFETY: it owns its entries, and the objects they name belong to nobody.
unsafe impl Send for ArrayCache {}

impl ArrayCache {
    /// Entries that the largest array has: 8 KiB.
    pub(crate) const MOST: u32 = ((8192 - size_of::<Self>()) / size_of::<NonNull<u8>>()) as u32;

    /// Bytes for an array of `limit` entries.
    pub(crate) const fn bytes(limit: u32) -> usize {
        size_of::<Self>() + limit as usize * size_of::<NonNull<u8>>()
    }

    /// An empty array at `place`.
    ///
    /// # Safety
    /// `place` has [`bytes`](Self::bytes)`(limit)` bytes, aligned to 64, that
    /// nobody else uses.
    pub(crate) unsafe fn place(
        place: NonNull<u8>,
        limit: u32,
        batch: u32,
        zero_bytes: u32,
        cache: u16,
        extra: bool,
    ) -> NonNull<Self> {
        let head = place.cast::<Self>();
        // SAFETY: the caller gives room for the head and the entries after it.
        unsafe {
            let entries = place.add(size_of::<Self>()).cast();
            let touched = false;
            head.write(Self { avail: 0, limit, batch, zero_bytes, cache, touched, extra, entries });
        }
        head
    }

    /// Whether another object fits in.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.avail < self.limit
    }

    /// Puts an object in; there is room.
    #[inline]
    pub(crate) fn push(&mut self, object: NonNull<u8>) {
        debug_assert!(self.has_room());
        // SAFETY: `avail` is below the limit, for which there is room.
        unsafe { self.entries.add(self.avail as usize).write(object) };
        self.avail += 1;
    }

    /// Takes the newest object out.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Taken> {
        let last = self.avail.checked_sub(1)?;
        // SAFETY: entries below `avail` have been written.
        let ptr = unsafe { self.entries.add(last as usize).read() };
        self.avail = last;
        self.touched = true;
        Some(Taken { ptr, zero_bytes: self.zero_bytes, extra: self.extra })
    }

    /// The objects, oldest first.
    pub(crate) fn objects(&self) -> &[NonNull<u8>] {
        // SAFETY: entries below `avail` have been written.
        unsafe {
            core::slice::from_raw_parts(self.entries.as_ptr().cast_const(), self.avail as usize)
        }
    }

    /// Takes entry `i` out; the newest takes its place.
    pub(crate) fn take(&mut self, i: usize) -> Option<Taken> {
        let newest = self.avail.checked_sub(1)? as usize;
        if i > newest {
            return None;
        }
        // SAFETY: both are below `avail`.
        unsafe { self.entries.add(i).swap(self.entries.add(newest)) };
        self.pop()
    }

    /// Drops the oldest `n` entries, which somebody has taken over.
    pub(crate) fn forget_oldest(&mut self, n: u32) {
        let rest = self.avail.saturating_sub(n);
        // SAFETY: source and target lie below `avail`.
        unsafe {
            self.entries.copy_from(self.entries.add((self.avail - rest) as usize), rest as usize);
        }
        self.avail = rest;
    }
}

/// One CPU's arrays, by the number of a cache or of a second name for it.
pub(crate) struct CpuArrays([Option<NonNull<ArrayCache>>; MAX_CACHES]);

// SAFETY: the arrays are owned by this table (a second name is the same array,
// reached through the table only).
unsafe impl Send for CpuArrays {}

impl CpuArrays {
    pub(crate) const fn new() -> Self {
        Self([None; MAX_CACHES])
    }

    /// The array of a cache, if this CPU has one.
    #[inline]
    pub(crate) fn get(&mut self, index: u16) -> Option<&mut ArrayCache> {
        let array = self.0.get(usize::from(index)).copied().flatten()?;
        // SAFETY: arrays in the table are alive, and `&mut self` makes this the
        // only way to them.
        Some(unsafe { &mut *array.as_ptr() })
    }

    /// The place of an array.
    pub(crate) fn slot(&mut self, index: u16) -> Option<&mut Option<NonNull<ArrayCache>>> {
        self.0.get_mut(usize::from(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[repr(align(64))]
    struct Room([u8; 64 + 4 * 8]);

    #[test]
    fn first_in_last_out_and_the_oldest_leave_first() {
        let mut room = Room([0; 96]);
        assert_eq!(ArrayCache::bytes(4), 96);
        let place = NonNull::from(&mut room.0).cast::<u8>();
        // SAFETY: the room is large and aligned enough, and this test's.
        let array = unsafe { &mut *ArrayCache::place(place, 4, 2, 7, 3, false).as_ptr() };
        let mut objects = [0u8; 4];
        let at: Vec<_> = objects.iter_mut().map(NonNull::from).collect();
        assert!(array.pop().is_none());
        for &o in &at {
            assert!(array.has_room());
            array.push(o);
        }
        assert!(!array.has_room());
        assert_eq!(array.objects(), &at[..]);
        array.forget_oldest(1);
        assert_eq!(array.objects(), &at[1..]);
        assert_eq!(array.take(0).map(|t| t.ptr), Some(at[1]));
        assert_eq!(array.objects(), &[at[3], at[2]]);
        assert!(array.take(2).is_none());
        assert_eq!(array.pop().map(|t| (t.ptr, t.zero_bytes)), Some((at[2], 7)));
        array.forget_oldest(9);
        assert!(array.objects().is_empty());
    }
}
