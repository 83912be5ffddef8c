//! The pair of 8259 interrupt controllers: out of the way of the exceptions
//! and masked. Calls nothing.

use x86_64::instructions::port::Port;

/// First vector of the pair.
pub(crate) const FIRST: u8 = 0x20;
/// Last vector of the pair.
pub(crate) const LAST: u8 = FIRST + 15;

const COMMAND: [u16; 2] = [0x20, 0xa0];
const DATA: [u16; 2] = [0x21, 0xa1];

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
        // The second controller hangs on line 2 of the first.
        write(DATA[chip], if chip == 0 { 1 << 2 } else { 2 });
        write(DATA[chip], ICW4);
        write(DATA[chip], 0xff);
    }
}

/// Handles a vector of the pair: with all lines masked only spurious ones
/// (lines 7 and 15) come. Those are not to be acknowledged at the controller
/// that sent them.
pub(crate) fn unexpected(vector: u8) {
    if vector == LAST {
        write(COMMAND[0], EOI);
    }
}
