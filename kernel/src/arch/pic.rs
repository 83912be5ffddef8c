//! The pair of 8259 interrupt controllers: out of the way of the exceptions
//! and masked, but for the timer that drives the watchdog's NMI, and for devices on
//! machines without APICs. Calls
//! nothing.

use x86_64::instructions::port::Port;

/// First vector of the pair.
pub(crate) const FIRST: u8 = 0x20;
/// Last vector of the pair.
pub(crate) const LAST: u8 = FIRST + 15;

const COMMAND: [u16; 2] = [0x20, 0xa0];
const DATA: [u16; 2] = [0x21, 0xa1];

/// Line of the first controller that the second one hangs on.
const CASCADE: u8 = 2;

/// Begins initialisation, with a fourth word to come.
const ICW1: u8 = 0x11;
/// 8086 mode.
const ICW4: u8 = 0x01;
/// Non-specific end of interrupt.
const EOI: u8 = 0x20;

fn write(port: u16, value: u8) {
    // SAFETY: the controllers' ports, touched by this module alone; where there
    // are none, nothing listens. The write to port 0x80 is the customary pause
    // for controllers that are slower than the processor.
    unsafe {
        Port::new(port).write(value);
        Port::new(0x80).write(0_u8);
    }
}

/// Moves the controllers' vectors to [`FIRST`] and masks all their lines, so
/// that a spurious one cannot be taken for an exception.
pub(crate) fn init() {
    for chip in 0..2 {
        write(COMMAND[chip], ICW1);
        write(DATA[chip], FIRST + 8 * chip as u8);
        write(DATA[chip], if chip == 0 { 1 << CASCADE } else { CASCADE });
        write(DATA[chip], ICW4);
        write(DATA[chip], 0xff);
    }
}

/// Lets the 8254's channel 0 raise line 0 some 18 times a second. With the
/// local APIC's line set to NMI this interrupts whatever runs: the oldest of
/// Linux's NMI watchdogs.
pub(crate) fn start_watchdog_timer() {
    // Channel 0, low byte then high byte, mode 2; 0 counts as 65536.
    write(0x43, 0b0011_0100);
    write(0x40, 0);
    write(0x40, 0);
    write(DATA[0], !1);
}

/// Takes the timer's interrupt from the controller, which gets no other
/// acknowledgement when its interrupt came as NMI.
pub(crate) fn acknowledge_timer() {
    /// Poll command: the next read acknowledges.
    const POLL: u8 = 0x0c;
    write(COMMAND[0], POLL);
    // SAFETY: the controller's port; reading acknowledges and changes nothing
    // else.
    let _: u8 = unsafe { Port::new(COMMAND[0]).read() };
    write(COMMAND[0], EOI);
}

/// Whether the chipset says that an NMI is about failed memory or a failed
/// device (system control port B, bits 7 and 6).
pub(crate) fn hardware_failure() -> bool {
    // SAFETY: reading the port changes nothing.
    let status: u8 = unsafe { Port::new(0x61).read() };
    // All ones: there is no such port.
    status & 0xc0 != 0 && status != 0xff
}

/// Unmasks `line`, below 16.
pub(crate) fn open(line: u8) {
    let unmask = |chip: usize, line: u8| {
        // SAFETY: reading the mask changes nothing.
        let mask: u8 = unsafe { Port::new(DATA[chip]).read() };
        write(DATA[chip], mask & !(1 << line));
    };
    if line < 8 {
        unmask(0, line);
    } else {
        unmask(0, CASCADE);
        unmask(1, line - 8);
    }
}

/// Masks `line`, below 16.
pub(crate) fn close(line: u8) {
    let chip = usize::from(line / 8);
    // SAFETY: reading the mask changes nothing.
    let mask: u8 = unsafe { Port::new(DATA[chip]).read() };
    write(DATA[chip], mask | 1 << (line % 8));
}

/// Whether a device sent `vector` of the pair. Else it is spurious (lines 7 and
/// 15, which nobody opens), and not to be acknowledged at the controller that
/// sent it.
pub(crate) fn is_real(vector: u8) -> bool {
    if vector == LAST {
        write(COMMAND[0], EOI);
    }
    (vector - FIRST) % 8 != 7
}

/// Makes way for the next interrupt of the line with `vector`, and of those
/// below it.
pub(crate) fn acknowledge(vector: u8) {
    if vector - FIRST >= 8 {
        write(COMMAND[1], EOI);
    }
    write(COMMAND[0], EOI);
}
