//! Where in memory a platform finds what it needs for the two steps of the fast
//! path, if it can make them in one piece without masking interrupts
//! ([`steps`](crate::steps)). Calls nothing.
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
/// In an array: 32 bits, the key of its objects.
pub const KEY: usize = offset_of!(ArrayCache, key);
/// In an array: a byte, not 0 if an object was taken out lately.
pub const TOUCHED: usize = offset_of!(ArrayCache, touched);
/// In an array: the addresses of its objects, the newest last.
pub const OBJECTS: usize = size_of::<ArrayCache>();

const _: () = assert!(size_of::<CpuCell<CpuArrays>>().is_power_of_two());
