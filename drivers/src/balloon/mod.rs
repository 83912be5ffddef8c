//! virtio-balloon (virtio 1.2, 5.5; Linux drivers/virtio/virtio_balloon.c): the
//! host says how much of its memory the guest should lend it, asks how the guest
//! is off, and is told what is free anyway. The pages themselves are
//! [`mm::balloon`]'s, the blocks that are reported [`mm::report`]'s; here is the
//! device. May call: `device`, `queue`, `mm`.
//!
//! [`VirtioBalloon`] is shared: whoever moves a page of the balloon, or is out
//! of memory, tells the device through it. [`Service`] is one thread's: it
//! follows what the host wants and answers its questions. Nothing is allocated
//! on the way; buffers and rings are there from the start.
//!
//! Which queue has which number is said in two ways: the standard gives the
//! reporting queue 4, QEMU counts those queues that it has. A device with a
//! queue 4 means that one, whichever way it counts; else it is 3.

mod driver;
mod host;
mod service;
mod stats;

pub use driver::VirtioBalloon;
pub use service::{Next, Service};
pub use stats::{BYTES as STATS_BYTES, Stat, Tag, encode as encode_stats, stats_of};

/// Feature: pages are to be wanted back before they are used.
pub const FEATURE_MUST_TELL_HOST: u64 = 1 << 0;
/// Feature: the host can ask how the guest is off.
pub const FEATURE_STATS_VQ: u64 = 1 << 1;
/// Feature: the guest may take pages back when it is out of memory.
pub const FEATURE_DEFLATE_ON_OOM: u64 = 1 << 2;
/// Feature: the host is told what free pages hold.
pub const FEATURE_PAGE_POISON: u64 = 1 << 4;
/// Feature: the host is told what is free.
pub const FEATURE_REPORTING: u64 = 1 << 5;

/// Where the configuration has the pages that the host wants (u32).
pub const CONFIG_NUM_PAGES: usize = 0;
/// Where it has the pages that the guest has lent (u32, written by the driver).
pub const CONFIG_ACTUAL: usize = 4;
/// Where it has what free pages hold (u32, written by the driver).
pub const CONFIG_POISON_VAL: usize = 12;

/// Queue of pages that are lent.
pub const QUEUE_INFLATE: u16 = 0;
/// Queue of pages that are wanted back.
pub const QUEUE_DEFLATE: u16 = 1;
/// Queue of answers about the guest.
pub const QUEUE_STATS: u16 = 2;
/// Queue of free blocks, by the standard.
pub const QUEUE_REPORTING: u16 = 4;
/// Queue of free blocks where queues are counted and none gives hints.
pub const QUEUE_REPORTING_COUNTED: u16 = 3;

/// Frame numbers are 32 bits, little-endian, of pages of 4 KiB.
const PFN_BYTES: usize = 4;
