//! Virtio over PCI (virtio 1.2, 4.1): where a device's structures are, and the
//! [`Link`](crate::Link) to it. Calls `pci`, `mmio`.
//!
//! virtio-drivers has a PCI transport too. It does not know MSI-X, so that a
//! device could only be polled or use a pin; adds offset and length in 32 bits,
//! so that a structure may seem to lie inside of a range that it does not; reads
//! the place of a queue's bell from the device at each ring, and panics if that
//! is outside; and waits for a reset for ever when it is dropped.

mod layout;
mod link;

pub use layout::{Layout, NotVirtio, Part};
pub use link::{MmioBell, PciLink, Vectors};
