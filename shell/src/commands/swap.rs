//! Devices to swap to, switched on and off. May call `mm`.

use crate::errno::{Errno, Error};
use crate::lab::{Done, Lab, Subject};
use crate::parse::{Args, small};
use crate::world::World;
use mm::mmu::SwapEntry;
use mm::swap::{SwapOffError, SwapOnError};

/// What the lab has switched on.
#[derive(Debug)]
pub(crate) struct Switched {
    devices: [Option<&'static str>; SwapEntry::DEVICES],
    /// The device of compressed memory was given a size.
    pub(crate) zram: bool,
}

impl Switched {
    pub(crate) const NOTHING: Self = Self { devices: [None; SwapEntry::DEVICES], zram: false };
}

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

/// Whether the device of that path is switched on.
pub(super) fn is_swapped_to<W: World>(on: Subject<W>, path: &str) -> bool {
    let areas = (0..SwapEntry::DEVICES).filter_map(|index| on.mm.swap_area(index));
    areas.into_iter().any(|area| area.device.name() == path)
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
        // What is cached of a disk would be written over what is swapped there.
        if let Ok(Some(cache)) = self.world.page_cache(path)
            && !is_swapped_to(on, path)
        {
            cache.sync(on.mm).map_err(Error::from)?;
            cache.invalidate(on.mm, 0..cache.device().blocks());
        }
        on.mm.swapon(device, priority).map_err(Error::from)?;
        if let Some(place) = self.switched.devices.iter_mut().find(|place| place.is_none()) {
            *place = Some(device.name());
        }
        Ok(())
    }

    /// What is on a device comes back, and nothing goes there any more.
    pub(super) fn swapoff(&mut self, mut args: Args<'_>) -> Done {
        let on = self.subject()?;
        let path = args.need("swapoff DEVICE")?;
        args.done()?;
        on.mm.swapoff(path).map_err(Error::from)?;
        for place in self.switched.devices.iter_mut().filter(|place| **place == Some(path)) {
            *place = None;
        }
        Ok(())
    }

    /// Switches off what the lab has switched on. All that the lab has mapped is
    /// gone by then.
    pub(crate) fn switch_all_off(&mut self, on: Subject<W>) {
        for name in self.switched.devices.iter_mut().filter_map(Option::take) {
            // What others have there has to come back; if it cannot, it stays.
            if let Err(why) = on.mm.swapoff(name) {
                self.world.print(format_args!("{name} stays on: {}\n", Error::from(why).reason()));
            }
        }
        if core::mem::take(&mut self.switched.zram)
            && let Some(zram) = self.world.zram()
            && !zram.is_swap(on.mm)
        {
            zram.reset(on.mm);
        }
    }
}
