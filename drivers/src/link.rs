//! A device's registers: virtio-drivers' `Transport`, and what it does not have.
//! Calls nothing.

use crate::Fault;
use virtio_drivers::transport::Transport;

/// Tells a device that a queue has buffers for it. From any thread, without a
/// lock: where the device is a program of the host, it may do its work before
/// this returns.
pub trait Bell: Send + Sync {
    /// Rings.
    fn ring(&self);
}

/// A way to a device. Implementations answer whatever the device says without
/// panicking or waiting, and keep `DeviceStatus` bits that they do not know: a
/// device that is gone answers all ones.
pub trait Link: Transport + Send {
    /// Rings one queue.
    type Bell: Bell;

    /// Has the device interrupt when its configuration changes; after a reset.
    ///
    /// # Errors
    ///
    /// [`Fault::NoInterrupt`].
    fn config_interrupt(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    /// The bell of queue `queue`, which [`Transport::queue_set`] has set up.
    ///
    /// # Errors
    ///
    /// The [`Fault`] that the device shows: the queue did not come up, its bell
    /// lies outside of the device, its interrupt was refused.
    fn bell(&mut self, queue: u16) -> Result<Self::Bell, Fault>;

    /// Takes the device's access to memory away by other means than its own
    /// status register (PCI: bus mastering). True if it certainly has none any
    /// more.
    fn cut_off(&mut self) -> bool;
}
