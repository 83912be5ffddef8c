//! The two steps of the fast path for a platform that can make them in one
//! piece without masking interrupts: an interrupt that comes in between has
//! them begun again from the start. Here is what they are and where in memory
//! they find what they need; how, is the platform's
//! ([`Platform::local_pop`](crate::platform::Platform::local_pop)). Calls
//! nothing.
//!
//! Both look at what this CPU owns and change it by one store, their last: until
//! that, nothing has happened, and after it everything. Whatever else the CPU
//! does with its arrays, it does with interrupts masked or in an interrupt, and
//! so entirely before the step as it is finally made, or after.

use super::array::{ArrayCache, CpuArrays, Entry};
use crate::sync::CpuCell;
use core::mem::offset_of;

/// Bytes from one CPU's table of arrays to the next's, as a power of two.
pub const TABLE_SHIFT: u32 = size_of::<CpuCell<CpuArrays>>().trailing_zeros();
/// In an entry: the array's address.
pub const ENTRY_ARRAY: usize = offset_of!(Entry, array);
/// In an entry: 32 bits, the generation of the handle that may use the array; 0
/// if none may.
pub const ENTRY_READY: usize = offset_of!(Entry, ready);
/// In an array: 32 bits, how many objects it has.
pub const AVAIL: usize = offset_of!(ArrayCache, avail);
/// In an array: 32 bits, how many it has room for.
pub const LIMIT: usize = offset_of!(ArrayCache, limit);
/// In an array: 16 bits, the key of its objects.
pub const KEY: usize = offset_of!(ArrayCache, key);
/// In an array: a byte, not 0 if an object was taken out lately.
pub const TOUCHED: usize = offset_of!(ArrayCache, touched);
/// In an array: the addresses of its objects, the newest last.
pub const OBJECTS: usize = size_of::<ArrayCache>();

const _: () = assert!(size_of::<CpuCell<CpuArrays>>().is_power_of_two());

/// Taking an object: for [`Platform::local_pop`](crate::platform::Platform::local_pop).
///
/// In the table of the CPU this runs on, at the place of `entry` in the first
/// one's: if its generation is
/// `generation` and the word at `reserves` is 0 and the array is not empty, mark
/// the array touched, read the last object and store the count less one.
#[derive(Clone, Copy, Debug)]
pub struct Pop {
    /// The entry in the first CPU's table.
    pub entry: *const u8,
    /// The generation it has to have.
    pub generation: u32,
    /// A word of 64 bits.
    pub reserves: *const u64,
}

/// Giving an object back: for
/// [`Platform::local_push`](crate::platform::Platform::local_push).
///
/// In the table of the CPU this runs on, at the place of `entry` in the first
/// one's: if its generation is
/// `generation` (or any but 0, without one) and the array's key is `key` and it
/// has room, store the object after the last and then the count and one.
#[derive(Clone, Copy, Debug)]
pub struct Push {
    /// The entry in the first CPU's table.
    pub entry: *const u8,
    /// The generation it has to have, if that matters.
    pub generation: Option<u32>,
    /// The object's key.
    pub key: u16,
    /// The object.
    pub object: *mut u8,
}
