//! Reading a device's configuration space, every field at its own width. Calls
//! the transport, whose lock the caller holds.

use crate::Fault;
use virtio_drivers::transport::Transport;

/// A look at a device's configuration. What several fields say together is right
/// only if the device has not changed it meanwhile, which
/// [`Device::config`](crate::Device::config) sees to.
#[derive(Debug)]
pub struct Config<'a, T> {
    link: &'a T,
}

/// The device has no such field, or is gone.
fn missing(_: virtio_drivers::Error) -> Fault {
    Fault::ConfigTooSmall(0)
}

impl<'a, T: Transport> Config<'a, T> {
    pub(crate) const fn new(link: &'a T) -> Self {
        Self { link }
    }

    /// The 16-bit field at byte `offset`, an even number.
    ///
    /// # Errors
    ///
    /// [`Fault::ConfigTooSmall`].
    pub fn u16(&self, offset: usize) -> Result<u16, Fault> {
        self.link.read_config_space::<u16>(offset).map_err(missing)
    }

    /// The 32-bit field at byte `offset`, a multiple of 4.
    ///
    /// # Errors
    ///
    /// [`Fault::ConfigTooSmall`].
    pub fn u32(&self, offset: usize) -> Result<u32, Fault> {
        self.link.read_config_space::<u32>(offset).map_err(missing)
    }

    /// The 64-bit field at byte `offset`, a multiple of 4. In two halves, as the
    /// standard has it.
    ///
    /// # Errors
    ///
    /// [`Fault::ConfigTooSmall`].
    pub fn u64(&self, offset: usize) -> Result<u64, Fault> {
        let low = self.u32(offset)?;
        let high = self.u32(offset + 4)?;
        Ok(u64::from(high) << 32 | u64::from(low))
    }
}
