//! Arrays of free objects of one cache and node: a CPU's own, which only the
//! holder of its token comes near, and those that the CPUs of a node fill for
//! each other and for other nodes, under locks. May call: `slabs` (for keys).

use super::MAX_CACHES;
use super::slabs::Key;
use core::mem::size_of;
use core::num::NonZeroU32;
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

/// What an array starts from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewArray {
    /// Entries.
    pub(crate) limit: u32,
    /// Objects moved at a time.
    pub(crate) batch: u32,
    pub(crate) zero_bytes: u32,
    pub(crate) key: Key,
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
    /// Whose objects it takes.
    pub(crate) key: Key,
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
    pub(crate) unsafe fn place(place: NonNull<u8>, new: NewArray) -> NonNull<Self> {
        let NewArray { limit, batch, zero_bytes, key, extra } = new;
        let head = place.cast::<Self>();
        // SAFETY: the caller gives room for the head and the entries after it.
        unsafe {
            let entries = place.add(size_of::<Self>()).cast();
            for i in 0..limit as usize {
                // Never read before it is written again, but safe to borrow.
                entries.add(i).write(NonNull::dangling());
            }
            let touched = false;
            head.write(Self { avail: 0, limit, batch, zero_bytes, key, touched, extra, entries });
        }
        head
    }

    /// Takes the newest object out of an array: the fast path, which borrows
    /// nothing and follows one pointer only.
    ///
    /// # Safety
    /// The array is alive, and the caller's alone meanwhile.
    #[inline]
    pub(crate) unsafe fn pop_at(this: NonNull<Self>) -> Option<NonNull<u8>> {
        let array = this.as_ptr();
        // SAFETY: the array is the caller's; the entries lie after its head,
        // and those below `avail` name objects.
        unsafe {
            let last = (*array).avail.checked_sub(1)?;
            let object = this.add(1).cast::<NonNull<u8>>().add(last as usize).read();
            (*array).avail = last;
            (*array).touched = true;
            Some(object)
        }
    }

    /// Puts an object into an array if it is of the array's kind and there is
    /// room: the fast path's way.
    ///
    /// # Safety
    /// The array is alive, and the caller's alone meanwhile.
    #[inline]
    pub(crate) unsafe fn push_at(this: NonNull<Self>, key: Key, object: NonNull<u8>) -> bool {
        let array = this.as_ptr();
        // SAFETY: the array is the caller's; the entries lie after its head,
        // and there is one for each number below the limit.
        unsafe {
            let avail = (*array).avail;
            if avail >= (*array).limit || (*array).key != key {
                return false;
            }
            this.add(1).cast::<NonNull<u8>>().add(avail as usize).write(object);
            (*array).avail = avail + 1;
        }
        true
    }

    /// How many more objects fit in.
    #[inline]
    pub(crate) fn room(&self) -> u32 {
        self.limit - self.avail
    }

    /// Puts an object in; there is room.
    pub(crate) fn push(&mut self, object: NonNull<u8>) {
        self.append(&[object]);
    }

    /// Takes the newest object out.
    pub(crate) fn pop(&mut self) -> Option<Taken> {
        let ptr = *self.objects().last()?;
        self.avail -= 1;
        self.touched = true;
        Some(Taken { ptr, zero_bytes: self.zero_bytes, extra: self.extra })
    }

    /// The objects, oldest first.
    #[inline]
    pub(crate) fn objects(&self) -> &[NonNull<u8>] {
        // SAFETY: entries below `avail` have been written.
        unsafe {
            core::slice::from_raw_parts(self.entries.as_ptr().cast_const(), self.avail as usize)
        }
    }

    /// The next `n` entries, to be filled and then [`added`](Self::add). Fewer
    /// if there is no room for so many.
    #[inline]
    pub(crate) fn spare(&mut self, n: u32) -> &mut [NonNull<u8>] {
        let n = n.min(self.room()) as usize;
        // SAFETY: there is an entry for each number below the limit, and all
        // were written when the array was made.
        unsafe {
            core::slice::from_raw_parts_mut(self.entries.add(self.avail as usize).as_ptr(), n)
        }
    }

    /// Counts entries that were filled through [`spare`](Self::spare).
    #[inline]
    pub(crate) fn add(&mut self, n: u32) {
        debug_assert!(n <= self.room());
        self.avail += n;
    }

    /// Puts objects in, in their order, as many as there is room for; returns
    /// how many.
    pub(crate) fn append(&mut self, objects: &[NonNull<u8>]) -> u32 {
        let spare = self.spare(objects.len() as u32);
        let n = spare.len();
        spare.copy_from_slice(&objects[..n]);
        self.add(n as u32);
        n as u32
    }

    /// Takes the newest objects out, up to as many as `out` has room for;
    /// returns how many. They stand in the order in which they came.
    pub(crate) fn take_newest(&mut self, out: &mut [NonNull<u8>]) -> usize {
        let n = out.len().min(self.avail as usize);
        let objects = self.objects();
        out[..n].copy_from_slice(&objects[objects.len() - n..]);
        self.avail -= n as u32;
        self.touched |= n > 0;
        n
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

/// An array of a CPU, and whether it may be used just like that.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Entry {
    pub(super) array: Option<NonNull<ArrayCache>>,
    /// 0: not without a look at the cache. Else there is an array whose objects
    /// need no [`extra`](ArrayCache::extra), and this is the generation of the
    /// number when that was last looked at: a valid handle's, or the even one
    /// after it. Making a handle invalid includes telling all CPUs.
    pub(super) ready: u32,
}

/// One CPU's arrays, by the number of a cache or of a second name for it.
pub(crate) struct CpuArrays([Entry; MAX_CACHES]);

// SAFETY: the arrays are owned by this table (a second name is the same array,
// reached through the table only).
unsafe impl Send for CpuArrays {}

/// Numbers of caches are below `MAX_CACHES`; this tells the compiler so.
const MASK: usize = MAX_CACHES - 1;
const _: () = assert!(MAX_CACHES.is_power_of_two());

impl CpuArrays {
    pub(crate) const fn new() -> Self {
        Self([Entry { array: None, ready: 0 }; MAX_CACHES])
    }

    /// The array for a handle, if it may be used just like that.
    #[inline]
    pub(crate) fn ready(&self, index: u16, generation: NonZeroU32) -> Option<NonNull<ArrayCache>> {
        let entry = &self.0[usize::from(index) & MASK];
        if entry.ready != generation.get() {
            return None;
        }
        debug_assert!(entry.array.is_some());
        // SAFETY: `set` makes an entry ready only if there is an array.
        Some(unsafe { entry.array.unwrap_unchecked() })
    }

    /// The array of a cache by its number, if it may be used just like that.
    #[inline]
    pub(crate) fn ready_any(&self, index: u16) -> Option<NonNull<ArrayCache>> {
        let entry = &self.0[usize::from(index) & MASK];
        if entry.ready == 0 {
            return None;
        }
        debug_assert!(entry.array.is_some());
        // SAFETY: as in `ready`.
        Some(unsafe { entry.array.unwrap_unchecked() })
    }

    /// The array of a cache, if this CPU has one.
    #[inline]
    pub(crate) fn get(&mut self, index: u16) -> Option<&mut ArrayCache> {
        // SAFETY: arrays in the table are alive, and `&mut self` makes this the
        // only way to them.
        self.at(index).map(|array| unsafe { &mut *array.as_ptr() })
    }

    /// Which array that is.
    pub(crate) fn at(&self, index: u16) -> Option<NonNull<ArrayCache>> {
        self.0[usize::from(index) & MASK].array
    }

    /// Enters an array under a number whose generation is now `generation`, or
    /// none.
    pub(crate) fn set(&mut self, index: u16, array: Option<NonNull<ArrayCache>>, generation: u32) {
        // SAFETY: arrays that are entered are alive.
        let plain = array.is_some_and(|array| unsafe { !array.as_ref().extra });
        let ready = if plain { generation } else { 0 };
        self.0[usize::from(index) & MASK] = Entry { array, ready };
    }

    /// Takes an array out.
    pub(crate) fn remove(&mut self, index: u16) -> Option<NonNull<ArrayCache>> {
        let array = self.at(index);
        self.set(index, None, 0);
        array
    }

    /// Notes the generation that a number has now.
    pub(crate) fn renew(&mut self, index: u16, generation: u32) {
        self.set(index, self.at(index), generation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;
    use std::vec::Vec;

    #[repr(align(64))]
    struct Room([u8; 64 + 4 * 8]);

    fn new() -> NewArray {
        let key = Key::new(3, NodeId(1));
        NewArray { limit: 4, batch: 2, zero_bytes: 7, key, extra: false }
    }

    #[test]
    fn first_in_last_out_and_the_oldest_leave_first() {
        let mut room = Room([0; 96]);
        assert_eq!(ArrayCache::bytes(4), 96);
        let place = NonNull::from(&mut room.0).cast::<u8>();
        // SAFETY: the room is large and aligned enough, and this test's.
        let array = unsafe { &mut *ArrayCache::place(place, new()).as_ptr() };
        let mut objects = [0u8; 4];
        let at: Vec<_> = objects.iter_mut().map(NonNull::from).collect();
        assert!(array.pop().is_none());
        for &o in &at {
            assert!(array.room() > 0);
            array.push(o);
        }
        assert_eq!(array.room(), 0);
        assert_eq!(array.objects(), &at[..]);
        array.forget_oldest(1);
        assert_eq!(array.objects(), &at[1..]);
        assert_eq!(array.take(0).map(|t| t.ptr), Some(at[1]));
        assert_eq!(array.objects(), &[at[3], at[2]]);
        assert!(array.take(2).is_none());
        assert_eq!(array.pop().map(|t| (t.ptr, t.zero_bytes)), Some((at[2], 7)));
        array.forget_oldest(9);
        assert!(array.objects().is_empty());
        assert_eq!(array.append(&at), 4);
        assert_eq!(array.append(&at), 0);
        let mut out = [NonNull::dangling(); 3];
        assert_eq!(array.take_newest(&mut out), 3);
        assert_eq!(out, at[1..]);
        assert_eq!(array.take_newest(&mut out), 1);
        assert_eq!(out[0], at[0]);
        assert_eq!(array.take_newest(&mut out), 0);
    }

    #[test]
    fn the_fast_way_takes_what_fits_and_nothing_else() {
        let mut room = Room([0; 96]);
        let place = NonNull::from(&mut room.0).cast::<u8>();
        let mut object = 0u8;
        let object = NonNull::from(&mut object);
        let mut arrays = std::boxed::Box::new(CpuArrays::new());
        // SAFETY: the room is large and aligned enough, and this test's.
        unsafe {
            let array = ArrayCache::place(place, new());
            assert_eq!(ArrayCache::pop_at(array), None);
            for wrong in [Key::new(3, NodeId(0)), Key::new(2, NodeId(1))] {
                assert!(!ArrayCache::push_at(array, wrong, object));
            }
            for _ in 0..4 {
                assert!(ArrayCache::push_at(array, new().key, object));
            }
            assert!(!ArrayCache::push_at(array, new().key, object));
            assert_eq!(ArrayCache::pop_at(array), Some(object));
            let one = NonZeroU32::MIN;
            assert_eq!(arrays.ready(3, one), None);
            arrays.set(3, Some(array), 1);
            assert_eq!((arrays.ready(3, one), arrays.ready_any(3)), (Some(array), Some(array)));
            // The handle is invalid, the cache is there still.
            arrays.renew(3, 2);
            assert_eq!((arrays.ready(3, one), arrays.ready_any(3)), (None, Some(array)));
            (*array.as_ptr()).extra = true;
            arrays.renew(3, 1);
            assert_eq!((arrays.ready(3, one), arrays.ready_any(3)), (None, None));
            assert_eq!(arrays.at(3), Some(array));
            assert_eq!(arrays.remove(3), Some(array));
            assert_eq!((arrays.ready_any(3), arrays.at(3)), (None, None));
        }
    }
}
