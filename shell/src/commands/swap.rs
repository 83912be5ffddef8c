//! Devices to swap to, switched on and off. May call `mm`.

use crate::errno::{Errno, Error};
use crate::lab::{Done, Lab};
use crate::parse::{Args, small};
use crate::world::World;
use mm::swap::{SwapOffError, SwapOnError};

impl From<SwapOnError> for Error {
    fn from(why: SwapOnError) -> Self {
        match why {
            SwapOnError::AlreadyOn => Self::new(Errno::EBUSY, "it is on already"),
            SwapOnError::TooMany => Self::new(Errno::EPERM, "as many are on as there may be"),
            SwapOnError::Empty => Self::new(Errno::EINVAL, "it has no room for a page"),
            SwapOnError::NoMemory => Self::new(Errno::ENOMEM, "out of memory"),
        }
    }
}

impl From<SwapOffError> for Error {
    fn from(why: SwapOffError) -> Self {
        match why {
            SwapOffError::NotOn => Self::new(Errno::EINVAL, "it is not on"),
            SwapOffError::NoMemory => Self::new(Errno::ENOMEM, "no memory for all that is on it"),
            SwapOffError::Io => Self::new(Errno::EIO, "the device has failed"),
            SwapOffError::Busy => Self::new(Errno::EBUSY, "it is in use"),
        }
    }
}

impl<W: World> Lab<W> {
    /// Pages may go to a device from now on.
    pub(super) fn swapon(&mut self, mut args: Args<'_>) -> Done {
        let on = self.subject()?;
        let priority = args.option("prio").map(small).transpose()?;
        let path = args.need("swapon DEVICE [prio=N]")?;
        args.done()?;
        let none = Error::new(Errno::ENOENT, "no such device").about(path);
        let device = self.world.swap_device(path).ok_or(none)?;
        on.mm.swapon(device, priority).map_err(Error::from)?;
        Ok(())
    }

    /// What is on a device comes back, and nothing goes there any more.
    pub(super) fn swapoff(&mut self, mut args: Args<'_>) -> Done {
        let on = self.subject()?;
        let path = args.need("swapoff DEVICE")?;
        args.done()?;
        on.mm.swapoff(path).map_err(Error::from)?;
        Ok(())
    }
}
