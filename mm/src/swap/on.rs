//! Switching a device on. May call: `registry`, `cluster`.

use super::registry::{Phase, Registered};
use super::{Active, SwapDevice};
use crate::mm::Mm;
use crate::mmu::SwapEntry;
use crate::platform::{LogLevel, Platform};
use crate::sync::Ordering::Relaxed;
use crate::types::PAGE_SIZE;

/// Why a device was not switched on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SwapOnError {
    /// One of that name is on already (`EBUSY`).
    AlreadyOn,
    /// As many as there may be are on (`EPERM`).
    TooMany,
    /// It has no room for a page (`EINVAL`).
    Empty,
    /// There is no memory for its tables (`ENOMEM`).
    NoMemory,
}

impl core::fmt::Display for SwapOnError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::AlreadyOn => f.write_str("it is on already"),
            Self::TooMany => write!(f, "{} swap devices are on already", SwapEntry::DEVICES),
            Self::Empty => f.write_str("it has no room for a page"),
            Self::NoMemory => f.write_str("out of memory"),
        }
    }
}

impl core::error::Error for SwapOnError {}

impl<P: Platform> Mm<P> {
    /// Switches a device on: pages may go there from now on. What it holds is
    /// overwritten. Devices of a higher priority (0 to 32,767) are filled first,
    /// those of the same one in turns; one that is given none comes after all
    /// that are on. Interrupts on, no lock held; may wait for memory. Returns the
    /// device's number.
    ///
    /// # Errors
    /// See [`SwapOnError`].
    pub fn swapon(
        &self,
        device: &'static dyn SwapDevice,
        priority: Option<u16>,
    ) -> Result<usize, SwapOnError> {
        let slots = device.slots().min(SwapEntry::SLOTS);
        if slots == 0 {
            return Err(SwapOnError::Empty);
        }
        let index = self.with_registry(|registry| {
            if registry.find(device.name()).is_some() {
                return Err(SwapOnError::AlreadyOn);
            }
            let free = registry.devices.iter_mut().enumerate().find(|(_, d)| d.is_none());
            let (index, place) = free.ok_or(SwapOnError::TooMany)?;
            *place = Some(Registered { device, priority: 0, phase: Phase::Coming });
            Ok(index)
        })?;
        let Some(area) = self.swap.areas.get(index) else { return Err(SwapOnError::TooMany) };
        let Ok(map) = self.new_slot_map(slots) else {
            self.with_registry(|registry| registry.remove(index));
            return Err(SwapOnError::NoMemory);
        };
        let cpu = self.enter();
        *area.active.lock(&cpu) = Some(Active { device, map, leaving: false });
        drop(cpu);
        area.usable.store(u64::from(slots), Relaxed);
        let priority = priority.map(|p| i16::try_from(p).unwrap_or(i16::MAX));
        let priority = self.with_registry(|registry| registry.switch_on(index, priority));
        let (name, kib) = (device.name(), u64::from(slots) * (PAGE_SIZE as u64 / 1024));
        self.platform.log(
            LogLevel::Info,
            format_args!("swap: {name} is on: {kib} KiB, priority {priority}"),
        );
        Ok(index)
    }
}
