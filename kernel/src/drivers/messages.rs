//! Interrupts that devices send as messages (MSI-X): vectors of their own, each
//! for one device. Calls `apic`, `smp`, `env`.

use super::env;
use crate::arch::apic;
use crate::smp;
use ::drivers::pci::{Entry, message};
use core::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

/// The first vector: above those of the I/O APICs.
pub(crate) const FIRST: u8 = 0x60;
/// The last vector: below those that CPUs send each other.
pub(crate) const LAST: u8 = 0xef;

const COUNT: usize = (LAST - FIRST) as usize + 1;

/// Whose vector it is: 0 for nobody's, else twice the events' number plus 2, and
/// 1 more where it tells of the configuration.
static OWNERS: [AtomicU16; COUNT] = [const { AtomicU16::new(0) }; COUNT];
/// Vectors that were taken.
static TAKEN: AtomicUsize = AtomicUsize::new(0);
/// Where the next device's go.
static NEXT_CPU: AtomicUsize = AtomicUsize::new(0);

/// A vector for the device with events `number`, and the message that raises it,
/// on a CPU that takes turns with the others. None if vectors have run out, or
/// on a machine without APICs.
pub(super) fn take(number: usize, config: bool) -> Option<Entry> {
    if !apic::is_on() {
        return None;
    }
    let at = TAKEN.fetch_add(1, Ordering::Relaxed);
    let owner = OWNERS.get(at)?;
    let online = smp::online();
    let turn = NEXT_CPU.fetch_add(1, Ordering::Relaxed) % online.len().max(1);
    let mut cpus = online.iter().skip(turn).chain(online.iter());
    let entry = cpus.find_map(|cpu| {
        let apic = smp::cpus()?.get(cpu)?.apic_id;
        message(apic.0, FIRST + at as u8)
    })?;
    owner.store(2 * number as u16 + 2 + u16::from(config), Ordering::Release);
    Some(entry)
}

/// Handles a vector. Nothing is read from the device: which queue it means, its
/// driver sees.
pub(crate) fn interrupt(vector: u8) {
    let owner = OWNERS[usize::from(vector - FIRST)].load(Ordering::Acquire);
    if let Some(number) = owner.checked_sub(2)
        && let Some(events) = env::get(usize::from(number / 2))
    {
        events.note(number % 2 != 0);
    }
    apic::end_of_interrupt();
}
