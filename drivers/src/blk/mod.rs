//! Virtio's block device (virtio 1.2, 5.2): a disk. Calls `device`, `queue`.
//!
//! One queue, shared by all who want something: under its lock a request is put
//! in, or what the device is done with is taken out, and nobody waits there. Who
//! waits takes out whatever is there, his own or another's. Blocks that follow
//! each other go in one request, as many as the device takes; what fails is asked
//! for once more, each alone, so that each has a result of its own.
//!
//! virtio-drivers has a driver for it, on a queue that does not check what the
//! device says; it is one caller's at a time, waits without end, and knows no
//! discard. What is used of that crate is what the other drivers here use.
//!
//! A disk outlives its device: whoever swaps to it, or has its pages cached, may
//! keep it for good. It fails what it is asked when the device has gone.

mod config;
mod driver;
mod ring;
mod run;

pub use config::{BlkConfig, ConfigError};
pub use driver::{Counts, VirtioBlk};

/// `VIRTIO_BLK_F_SEG_MAX`: it says how many pieces a request may have.
pub const FEATURE_SEG_MAX: u64 = 1 << 2;
/// `VIRTIO_BLK_F_RO`: it cannot be written.
pub const FEATURE_RO: u64 = 1 << 5;
/// `VIRTIO_BLK_F_BLK_SIZE`: it says how large its own blocks are.
pub const FEATURE_BLK_SIZE: u64 = 1 << 6;
/// `VIRTIO_BLK_F_FLUSH`: it has a cache, and can be told to empty it. One that
/// was not agreed on has none.
pub const FEATURE_FLUSH: u64 = 1 << 9;
/// `VIRTIO_BLK_F_DISCARD`: it can be told what is not needed any more.
pub const FEATURE_DISCARD: u64 = 1 << 13;

/// Bytes of what the standard counts in.
pub const SECTOR_BYTES: u64 = 512;
/// Sectors of a block of the manager's.
pub const SECTORS_PER_BLOCK: u64 = mm::types::PAGE_SIZE as u64 / SECTOR_BYTES;
