//! Interrupts of devices that send no messages: a pin, which the firmware has
//! routed to an interrupt that several devices may share. Calls
//! `arch::devices`, `env`.

use super::env;
use super::registers::Registers;
use crate::arch::devices::{self, Delivery};
use ::drivers::Mmio;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use spin::Once;

/// Devices that can use pins.
const PINS: usize = 16;
/// Interrupts that the firmware can route pins to.
const LINES: usize = 16;
/// Those that are an ISA bus's alone: timer, keyboard, cascade, serial lines,
/// clock, mouse, floating point.
const ISA: u16 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 8 | 1 << 12 | 1 << 13;

/// In the interrupt status register: the configuration has changed.
const CONFIG: u8 = 2;

/// After so many interrupts in a row that no device owns to, the interrupt is
/// masked: some device without a driver holds it (as in Linux).
const NOBODY: u32 = 100_000;

struct Pin {
    line: u8,
    events: usize,
    /// Reading it tells why the device interrupts, and ends that.
    status: Registers,
}

static USERS: [Once<Pin>; PINS] = [const { Once::new() }; PINS];
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// Of each line: 0 where it is not open, else 1 and how many interrupts nobody
/// owned to.
static UNOWNED: [AtomicU32; LINES] = [const { AtomicU32::new(0) }; LINES];

/// Has interrupt `line` noted in the events with number `events`; reading
/// `status` tells whether it is this device that interrupts. Returns how the
/// interrupts come; if they do not, the driver looks now and then.
pub(super) fn open(line: u8, events: usize, status: Registers) -> Delivery {
    let Some(unowned) = UNOWNED.get(usize::from(line)) else { return Delivery::Polled };
    if ISA >> line & 1 != 0 {
        return Delivery::Polled;
    }
    // One that comes back to where it was has its place.
    let same = |it: &Pin| it.line == line && it.events == events && it.status == status;
    if !USERS.iter().filter_map(Once::get).any(same) {
        let Some(pin) = USERS.get(TAKEN.fetch_add(1, Ordering::Relaxed)) else {
            return Delivery::Polled;
        };
        pin.call_once(|| Pin { line, events, status });
    }
    unowned.store(1, Ordering::Relaxed);
    devices::open_shared(line)
}

/// Handles interrupt `line`.
pub(crate) fn interrupt(line: u8) {
    let Some(unowned) = UNOWNED.get(usize::from(line)) else { return };
    if unowned.load(Ordering::Relaxed) == 0 {
        return;
    }
    let mut owned = false;
    for pin in USERS.iter().filter_map(Once::get).filter(|pin| pin.line == line) {
        let status = pin.status.read8(0);
        // All ones: it is gone.
        if status != 0 && status != u8::MAX {
            owned = true;
            if let Some(events) = env::get(pin.events) {
                events.note(status & CONFIG != 0);
            }
        }
    }
    if owned {
        unowned.store(1, Ordering::Relaxed);
    } else if unowned.fetch_add(1, Ordering::Relaxed) == NOBODY {
        devices::close_shared(line);
        log::error!("irq {line}: nobody cared, switched off");
    }
}
