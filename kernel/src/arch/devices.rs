//! Devices' interrupts: how they come to the boot CPU, and who is told. With an
//! I/O APIC through that; on a machine without any APIC through the pair of 8259.
//! A local APIC without an I/O APIC has its pin taken by the watchdog's NMI:
//! then nothing comes, and the devices are looked at by the timer. Calls
//! `ioapic`, `pic`, `apic`, `console`, `drivers`.

use crate::arch::{apic, ioapic, pic};
use crate::console::input;
use crate::drivers::pin_interrupt;

/// Vector of ISA interrupt 0.
pub(crate) const FIRST: u8 = 0x50;
/// Vector of ISA interrupt 15.
pub(crate) const LAST: u8 = FIRST + 15;

/// How a device's interrupts come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Delivery {
    /// Through an I/O APIC.
    IoApic,
    /// Through the 8259.
    Pic,
    /// Not at all.
    Polled,
}

/// Has ISA interrupt `irq` come to this CPU, the boot CPU.
pub(crate) fn open(irq: u8) -> Delivery {
    if apic::is_on() {
        if ioapic::open(irq, FIRST + irq) { Delivery::IoApic } else { Delivery::Polled }
    } else {
        pic::open(irq);
        Delivery::Pic
    }
}

/// Has the interrupt that PCI devices share as `line` come to this CPU, the boot
/// CPU.
pub(crate) fn open_shared(line: u8) -> Delivery {
    if apic::is_on() {
        if ioapic::open_shared(line, FIRST + line) { Delivery::IoApic } else { Delivery::Polled }
    } else {
        pic::open(line);
        Delivery::Pic
    }
}

/// Closes what [`open_shared`] has opened.
pub(crate) fn close_shared(line: u8) {
    if apic::is_on() {
        ioapic::close_shared(line);
    } else {
        pic::close(line);
    }
}

/// Handles an I/O APIC's vector. All devices are looked at, whichever it was:
/// that costs a few microseconds, and bears with wrong tables.
pub(crate) fn interrupt(vector: u8) {
    input::poll();
    pin_interrupt(vector - FIRST);
    // Not before: a signal that is still asserted would come again.
    apic::end_of_interrupt();
}

/// Handles a vector of the 8259 pair.
pub(crate) fn pic_interrupt(vector: u8) {
    if pic::is_real(vector) {
        input::poll();
        pin_interrupt(vector - pic::FIRST);
        pic::acknowledge(vector);
    }
}
