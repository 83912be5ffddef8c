//! A host's stand-ins for what drivers meet: memory that a device reaches
//! ([`HostMemory`]), surroundings with a clock of their own ([`HostEnv`]), and
//! simulated devices ([`Board`]) that do what a [`Script`] says, honest or evil.
//! For tests.
//!
//! Nothing here depends on time: the device does its work when its bell is rung,
//! and when its driver waits; the clock goes on only while the driver waits.
//!
//! ```
//! use drivers::model::{self, Board, HostMemory, Script};
//! use drivers::{Coherent, Device, DeviceType};
//!
//! /// Answers each request with its length.
//! struct Honest;
//! impl Script for Honest {
//!     fn work(&mut self, board: &mut Board) {
//!         while let Some(chain) = board.next(0) {
//!             let len = chain.read(board).len() as u32;
//!             chain.write(board, &len.to_le_bytes());
//!             board.push_used(0, chain.id(), 4);
//!         }
//!     }
//! }
//!
//! let (link, env, _handle) = model::device(DeviceType::Memory, &[64], Honest);
//! let mut device = Device::new(0, link, env, 0).unwrap();
//! let mut queue = device.queue::<HostMemory, 16>(0).unwrap();
//! device.start().unwrap();
//! let mut request = Coherent::new(1).unwrap();
//! let mut answer = Coherent::new(1).unwrap();
//! let len = queue.exchange(&device, (&mut request, 24), (&mut answer, 8), 1000);
//! assert_eq!(len, Ok(4));
//! assert_eq!(answer.read::<u32>(0), Some(24));
//! assert!(device.stop());
//! queue.free(&device);
//! ```

mod board;
mod env;
mod link;
mod memory;

pub use board::{Board, Chain, Handle, Script};
pub use env::HostEnv;
pub use link::{HostBell, HostLink};
pub use memory::{HostMemory, dma_pages, fail_allocations};

use crate::DeviceType;

/// A device of the given kind that does what `script` says, with a queue of each
/// of the `sizes`: its registers, its surroundings, and the test's hand on it.
/// It offers version 1 and nothing more, and has no configuration, until the
/// test says otherwise ([`Handle::with`]).
pub fn device(
    kind: DeviceType,
    sizes: &[u16],
    script: impl Script + 'static,
) -> (HostLink, HostEnv, Handle) {
    let handle = Handle::new(kind, sizes, script);
    (HostLink::new(handle.clone()), HostEnv::new(handle.clone()), handle)
}
