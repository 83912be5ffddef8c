//! Entropy devices: what the host throws dice for. Calls `drivers::entropy`.

use super::bind::{Found, Link};
use super::dma::DeviceMemory;
use super::env::Events;
use crate::platform::Machine;
use crate::task::Mutex;
use ::drivers::Error;
use ::drivers::entropy::Entropy;
use mm::Mm;

/// The first device that works.
static DEVICE: Mutex<Option<Entropy<Link, &'static Events, DeviceMemory>>> = Mutex::new(None);

/// Takes a device over.
pub(super) fn start(_: &'static Mm<Machine>, found: Found) {
    let mut device = DEVICE.lock();
    if device.is_none() {
        // What is wrong was said.
        *device = Entropy::new(found.number, found.link, found.events).ok();
    }
}

/// Takes the device with that number from its driver, whether or not it is there
/// still.
pub(super) fn remove(number: usize) {
    let mut device = DEVICE.lock();
    if let Some(dice) = device.take_if(|it| it.device().number() as usize == number) {
        dice.stop();
    }
}

/// Interrupts of the device so far; None if there is no device, or it has none.
pub(crate) fn interrupts() -> Option<u32> {
    DEVICE.lock().as_ref()?.device().env().interrupts()
}

/// Fills `bytes` by the host's dice; None if there is no device for that.
///
/// # Errors
///
/// The device is broken, and shut off.
pub(crate) fn fill(bytes: &mut [u8]) -> Option<Result<(), Error>> {
    DEVICE.lock().as_mut().map(|device| device.fill(bytes))
}
