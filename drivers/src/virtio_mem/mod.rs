//! virtio-mem (virtio 1.2, 5.15): memory that the host plugs into a region of
//! the machine and takes out again, a block at a time, by telling the guest what
//! size it wants. The driver asks for blocks and gives them to the memory
//! manager, or has the manager move everything out of some and hands those back.
//! Memory that is not plugged is never touched, nor does the manager have its
//! descriptors there.
//!
//! The driver is a value without a thread: [`VirtioMem::round`] does what can be
//! done now and says when to call again. What it reads from the device is
//! checked by pure functions ([`MemConfig::check_successor`],
//! [`Response::decode`]); device and memory manager come through two small
//! traits, [`Port`] and [`MemorySink`]. May call: `device`, `queue`.

mod config;
mod driver;
mod geometry;
mod groups;
mod grow;
mod manager;
mod memory;
mod port;
mod request;
mod shrink;
mod status;

pub use config::{ConfigError, MemConfig};
pub use driver::{MemFault, Next, Port, RETRY_MAX_MS, RETRY_MIN_MS, VirtioMem};
pub use geometry::{Geometry, GroupId, MEMORY_BLOCK_BYTES, Run};
pub use groups::{Group, Groups, Known, highest_run, lowest_run};
pub use memory::{MemoryError, MemorySink, Usage};
pub use port::MemPort;
pub use request::{
    BadResponse, BlockState, Blocks, REQUEST_BYTES, RESPONSE_BYTES, Request, Response,
};
pub use status::{Status, Tally};

/// Feature: the configuration says which proximity domain the memory is of.
pub const FEATURE_ACPI_PXM: u64 = 1 << 0;
/// Feature: memory that is not plugged must not be touched, not even read.
pub const FEATURE_UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;
