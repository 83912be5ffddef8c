//! Switching a device off: every page comes back first, while programs go on.
//! May call: `registry`, `cache`, `io`, the address spaces.

use super::registry::Phase;
use super::{Active, SwapInError};
use crate::mm::Mm;
use crate::mmu::SwapEntry;
use crate::platform::{LogLevel, Platform};
use crate::sync::Ordering::Relaxed;

/// Why a device was not switched off. It is as much in use as before, and
/// nothing is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SwapOffError {
    /// None of that name is on (`EINVAL`).
    NotOn,
    /// Somebody else is switching it off, or slots are in use that nothing which
    /// could be found names (`EBUSY`).
    Busy,
    /// There is no memory for what is on it (`ENOMEM`).
    NoMemory,
    /// It cannot read what is on it (`EIO`).
    Io,
}

impl core::fmt::Display for SwapOffError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NotOn => "it is not on",
            Self::Busy => "it is in use",
            Self::NoMemory => "there is no memory for what is on it",
            Self::Io => "it cannot be read",
        })
    }
}

impl core::error::Error for SwapOffError {}

impl From<SwapInError> for SwapOffError {
    fn from(why: SwapInError) -> Self {
        match why {
            SwapInError::Stale => Self::Busy,
            SwapInError::NoMemory => Self::NoMemory,
            SwapInError::Io => Self::Io,
        }
    }
}

/// Rounds over all that may name slots, without one slot less in use, after
/// which it is given up. What is on its way between being named here and there
/// takes a few.
const VAIN_ROUNDS: u32 = 100;

impl<P: Platform> Mm<P> {
    /// Switches a device off, `unuse` being what brings back what it finds named
    /// of the device with the number it is given. Called again until nothing is
    /// left. Interrupts on, no lock held; may wait for long.
    ///
    /// # Errors
    /// See [`SwapOffError`]; what `unuse` fails with is returned.
    pub fn swapoff_with(
        &self,
        name: &str,
        unuse: &mut dyn FnMut(usize) -> Result<(), SwapOffError>,
    ) -> Result<(), SwapOffError> {
        let index = self.with_registry(|registry| {
            let index = registry.find(name).ok_or(SwapOffError::NotOn)?;
            match registry.devices.get(index).copied().flatten().map(|d| d.phase) {
                Some(Phase::On) => registry.set_phase(index, Phase::Leaving),
                Some(Phase::Leaving) => return Err(SwapOffError::Busy),
                Some(Phase::Coming) | None => return Err(SwapOffError::NotOn),
            }
            Ok(index)
        })?;
        self.set_swap_leaving(index, true);
        let emptied = self.empty_swap(index, unuse);
        let active = match emptied {
            Ok(active) => active,
            Err(why) => {
                self.set_swap_leaving(index, false);
                self.with_registry(|registry| registry.set_phase(index, Phase::On));
                return Err(why);
            }
        };
        let Active { device, map, .. } = active;
        self.free_slot_map(map);
        self.with_registry(|registry| registry.remove(index));
        self.platform.log(LogLevel::Info, format_args!("swap: {} is off", device.name()));
        Ok(())
    }

    /// Brings back everything; takes the device out of its place when nothing is
    /// left.
    fn empty_swap(
        &self,
        index: usize,
        unuse: &mut dyn FnMut(usize) -> Result<(), SwapOffError>,
    ) -> Result<Active, SwapOffError> {
        let (mut least, mut vain) = (u64::MAX, 0);
        loop {
            unuse(index)?;
            self.swap_drop_cached(index);
            self.swap_settle();
            if let Some(active) = self.take_empty(index) {
                return Ok(active);
            }
            let used = self.swap.areas.get(index).map_or(0, |area| area.used.load(Relaxed));
            vain = if used < least { 0 } else { vain + 1 };
            least = least.min(used);
            if vain == VAIN_ROUNDS {
                return Err(SwapOffError::Busy);
            }
            self.platform.stall();
        }
    }

    /// Takes pages out of the cache that no entry names the slot of any more.
    fn swap_drop_cached(&self, index: usize) {
        let slots = self.with_swap(index, |on| on.active.map.len()).unwrap_or(0);
        for entry in (0..slots).filter_map(|slot| SwapEntry::new(index, slot)) {
            if !matches!(self.swap_slot(entry), Some((0, Some(_)))) {
                continue;
            }
            let Some(pfn) = self.swap_lookup(entry) else { continue };
            let desc = self.map.page(pfn);
            self.lock_page(desc);
            if self.is_cached_as(pfn, entry) {
                self.swap_take_over(pfn);
            }
            desc.unlock();
            self.put_lru(pfn);
        }
    }

    fn take_empty(&self, index: usize) -> Option<Active> {
        let area = self.swap.areas.get(index)?;
        let cpu = self.enter();
        let mut active = area.active.lock(&cpu);
        let is_empty = |on: &Active| on.map.peek_freed().is_none() && on.map.discarding == 0;
        if area.used.load(Relaxed) > 0 || !active.as_ref().is_some_and(is_empty) {
            return None;
        }
        area.usable.store(0, Relaxed);
        area.leaving.store(false, Relaxed);
        area.failed.store(0, Relaxed);
        active.take()
    }
}
