//! Interrupts that devices send as messages (MSI-X): vectors of their own, each
//! for one device. Calls `apic`, `smp`, `env`.

use super::env;
use super::registers::Registers;
use crate::arch::apic;
use crate::arch::irq::IrqMutex;
use crate::smp;
use ::drivers::pci::{Entry, Msix, message};
use core::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use mm::sync::LockRank;
use mm::types::CpuId;

/// The first vector: above those of the I/O APICs.
pub(crate) const FIRST: u8 = 0x60;
/// The last vector: below those that CPUs send each other.
pub(crate) const LAST: u8 = 0xef;

const COUNT: usize = (LAST - FIRST) as usize + 1;

/// Whose vector it is: 0 for nobody's, else twice the events' number plus 2, and
/// 1 more where it tells of the configuration.
static OWNERS: [AtomicU16; COUNT] = [const { AtomicU16::new(0) }; COUNT];
/// Where the next device's go.
static NEXT_CPU: AtomicUsize = AtomicUsize::new(0);

/// Where a vector's message is kept: in entry `at` of a device's table.
#[derive(Clone, Copy)]
struct Place {
    msix: Msix,
    table: Registers,
    at: u16,
}

/// By vector, from [`FIRST`] on.
static PLACES: IrqMutex<[Option<Place>; COUNT]> = IrqMutex::new(LockRank::Leaf, [None; COUNT]);
/// The CPU that the vector comes to.
static CPUS: [AtomicU16; COUNT] = [const { AtomicU16::new(0) }; COUNT];

/// The next CPU whose turn it is, and the message that raises the vector with
/// index `at` there.
fn address(at: usize) -> Option<(CpuId, Entry)> {
    let online = smp::online();
    let turn = NEXT_CPU.fetch_add(1, Ordering::Relaxed) % online.len().max(1);
    let mut cpus = online.iter().skip(turn).chain(online.iter());
    cpus.find_map(|cpu| {
        let apic = smp::cpus()?.get(cpu)?.apic_id;
        Some((cpu, message(apic.0, FIRST + at as u8)?))
    })
}

/// Has entry `at` of a device's table, which is enabled, raise a vector of its
/// own, on a CPU that takes turns with the others; it is noted in the events with
/// number `number`. False if vectors have run out, or on a machine without APICs.
pub(super) fn open(number: usize, config: bool, msix: &Msix, table: Registers, at: u16) -> bool {
    if !apic::is_on() {
        return false;
    }
    let owner = 2 * number as u16 + 2 + u16::from(config);
    let take =
        |it: &AtomicU16| it.compare_exchange(0, owner, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    let Some(index) = OWNERS.iter().position(take) else { return false };
    let Some((cpu, entry)) = address(index) else {
        OWNERS[index].store(0, Ordering::Release);
        return false;
    };
    CPUS[index].store(cpu.0, Ordering::Relaxed);
    PLACES.lock()[index] = Some(Place { msix: *msix, table, at });
    // SAFETY: a message to a CPU's local APIC, whose vector has a handler.
    unsafe { msix.set(&table, at, Some(entry)) }
}

/// Gives the vectors back of the events with number `number`, whose device sends
/// nothing any more.
pub(super) fn close(number: usize) {
    for (index, owner) in OWNERS.iter().enumerate() {
        let whose = owner.load(Ordering::Acquire).checked_sub(2);
        if whose.is_some_and(|it| usize::from(it / 2) == number) {
            PLACES.lock()[index] = None;
            owner.store(0, Ordering::Release);
        }
    }
}

/// Has what came to `cpu`, which is offline, come to others. In a thread.
pub(crate) fn leave(cpu: CpuId) {
    for (index, on) in CPUS.iter().enumerate() {
        let place = PLACES.lock()[index];
        let Some(Place { msix, table, at }) = place else { continue };
        if on.load(Ordering::Relaxed) != cpu.0 {
            continue;
        }
        if let Some((to, entry)) = address(index) {
            on.store(to.0, Ordering::Relaxed);
            // SAFETY: as in `open`.
            unsafe { msix.set(&table, at, Some(entry)) };
        }
        // What came meanwhile was lost.
        note(index);
    }
}

/// Notes an interrupt by the vector with index `index`.
fn note(index: usize) {
    if let Some(number) = OWNERS[index].load(Ordering::Acquire).checked_sub(2)
        && let Some(events) = env::get(usize::from(number / 2))
    {
        events.note(number % 2 != 0);
    }
}

/// Handles a vector. Nothing is read from the device: which queue it means, its
/// driver sees.
pub(crate) fn interrupt(vector: u8) {
    note(usize::from(vector - FIRST));
    apic::end_of_interrupt();
}
