//! A block device of compressed RAM, to swap to (Linux `drivers/block/zram`).
//! Depends on `mm` and on `lz4_flex`; no `std`, no `alloc`: all its memory comes
//! from the manager it is set up with.
//!
//! ```text
//! device   slots and limits: write, read, discard, reset     stat, files, swap
//! ops      its pages move            compact    its pages become fewer
//! store    which object lies where; lists of pages by the room they have
//! leaf     one page of objects       words      growing tables of numbers
//! codec    a page to fewer bytes and back       bench   room to work in
//! ```
//!
//! **The store.** Linux's zsmalloc has a class for each 16 bytes of size, and an
//! object stays where it is until it is freed; what is lost is the rest of each
//! size, the end of each group of pages, and the half-empty group of each of two
//! hundred classes. Here a page is filled like a page of a database: objects of
//! any size one after the other, a directory growing towards them from the end.
//! What does not fit into any page is cut in two, so that a page is filled to
//! its last bytes before another is asked for. An object's name is a page
//! *number* and a place in its directory:
//!
//! ```text
//! slots[slot] -> page number, entry     pages[page number] -> frame
//!                                       frame: objects ... | ... directory
//! ```
//!
//! So when `mm` moves a page, one number changes, whatever is in it; when holes
//! in a page are joined, nothing outside of it changes; and when an object goes
//! elsewhere, its directory entry says which slot to tell. The cost is 4 bytes a
//! slot, 4 a page and 8 for each piece of an object.
//!
//! **What may be compressed.** A page that is one word over and over becomes
//! that word. A page that does not get smaller than [`Zram::REFUSED_ABOVE`] is
//! refused, and nothing has changed then: to store it would take as much memory
//! as it frees. Swap keeps such a page, or gives it to the next device.

#![no_std]

#[cfg(test)]
extern crate std;

mod audit;
mod bench;
mod codec;
mod compact;
mod device;
mod files;
mod leaf;
mod ops;
mod stat;
mod store;
mod swap;
mod words;

pub use audit::Audit;
pub use codec::{Corrupt, PageBytes, SIZE_OF_OUTPUT, compress, expand, same_filled};
pub use device::{ReadError, SetUpError, WriteError, Zram};
pub use files::FILES;
pub use stat::{IoStat, MmStat};
pub use swap::ZramSwap;
