//! Drivers of the devices that a machine of physical memory needs, for whatever
//! kernel gives them an [`Env`] and a [`Memory`]. May call: `mm`, and the crates
//! for PCI and virtio.
//!
//! Everything that reads what a device writes lives here, so that the host can
//! test it against devices that lie (`model`, with the feature `host`). A device
//! is never trusted: whatever it says is checked before it is used, whatever is
//! waited for has a limit, and the first piece of nonsense shuts the device off
//! with one line in the log ([`Device::shut_off`]).
//!
//! In layers, each calling only what stands above it:
//!
//! * [`Env`], [`Memory`], [`Mmio`]: what the kernel gives.
//! * [`pci`]: finding devices and what they have.
//! * [`Link`]: a virtio device's registers, on top of virtio-drivers'
//!   `Transport`; [`virtio_pci`]: the one for PCI.
//! * [`Device`]: status, features, configuration, and the shutting off.
//! * [`Queue`]: a virtqueue under guard.
//! * the drivers: [`entropy`].
//!
//! No `alloc`, no statics: a test has as many devices as it likes.
#![no_std]
#[cfg(any(test, feature = "host"))]
extern crate std;

pub mod balloon;
pub mod blk;
pub mod config;
pub mod device;
pub mod dma;
pub mod entropy;
pub mod env;
pub mod error;
pub mod link;
pub mod mmio;
#[cfg(feature = "host")]
pub mod model;
pub mod pci;
pub mod queue;
pub mod virtio_mem;
pub mod virtio_pci;

pub use config::Config;
pub use device::Device;
pub use dma::{Coherent, Memory};
pub use env::Env;
pub use error::{Error, Fault};
pub use link::{Bell, Link};
pub use mmio::Mmio;
pub use queue::{Buffer, Done, Queue, Token};
pub use virtio_drivers::transport::{DeviceStatus, DeviceType, Transport};
pub use virtio_drivers::{BufferDirection, Hal, PhysAddr};
