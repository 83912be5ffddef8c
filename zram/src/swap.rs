//! The device as swap sees it. Calls `device`.

use crate::codec::PageBytes;
use crate::device::{WriteError, Zram};
use core::ops::Range;
use mm::Mm;
use mm::platform::Platform;
use mm::swap::{IoFailed, SwapDevice, WriteFailed};

/// A device with its manager. Whoever
/// [resets](Zram::reset) the device has switched it off first.
pub struct ZramSwap<P: Platform> {
    mm: &'static Mm<P>,
    zram: &'static Zram<P>,
}

impl<P: Platform> ZramSwap<P> {
    /// That device, of that manager.
    pub const fn new(mm: &'static Mm<P>, zram: &'static Zram<P>) -> Self {
        Self { mm, zram }
    }
}

impl<P: Platform> core::fmt::Debug for ZramSwap<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ZramSwap").field("name", &self.zram.name()).finish_non_exhaustive()
    }
}

impl<P: Platform> SwapDevice for ZramSwap<P> {
    fn name(&self) -> &str {
        self.zram.name()
    }

    fn slots(&self) -> u32 {
        self.zram.slots(self.mm)
    }

    fn read(&self, slot: u32, page: &mut PageBytes) -> Result<(), IoFailed> {
        self.zram.read(self.mm, slot, page).map_err(|_| IoFailed)
    }

    /// What does not shrink is refused, and so is what there is no memory for
    /// just now: nothing is wrong with the slot.
    fn write(&self, slot: u32, page: &PageBytes) -> Result<(), WriteFailed> {
        self.zram.write(self.mm, slot, page).map_err(|why| match why {
            WriteError::NoSlot => WriteFailed::Io,
            WriteError::DoesNotShrink | WriteError::Limit | WriteError::NoMemory => {
                WriteFailed::Refused
            }
        })
    }

    fn is_synchronous(&self) -> bool {
        true
    }

    fn may_refuse(&self) -> bool {
        true
    }

    fn discards(&self) -> bool {
        true
    }

    fn discard(&self, slots: Range<u32>) {
        self.zram.discard(self.mm, slots);
    }
}
