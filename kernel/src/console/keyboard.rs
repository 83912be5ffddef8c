//! The PS/2 keyboard, if there is one. Calls `quarry_kernel::tty`, which knows
//! what to tell its controller and what its codes mean.

use quarry_kernel::tty::Keys;
use quarry_kernel::tty::i8042::{self, NoKeyboard, Ports};
use x86_64::instructions::port::Port;

/// Its interrupt on the ISA bus.
pub(super) const IRQ: u8 = 1;

const DATA: u16 = 0x60;
const CONTROL: u16 = 0x64;

/// The controller's ports.
struct Controller;

impl Ports for Controller {
    fn status(&mut self) -> u8 {
        // SAFETY: reading the status changes nothing; where there is no
        // controller, nothing answers.
        unsafe { Port::new(CONTROL).read() }
    }

    fn data(&mut self) -> u8 {
        // SAFETY: takes a byte from the controller, whose only user this is.
        unsafe { Port::new(DATA).read() }
    }

    fn send(&mut self, byte: u8) {
        // SAFETY: the controller's only user; it is told about keys only.
        unsafe { Port::new(DATA).write(byte) };
    }

    fn command(&mut self, byte: u8) {
        // SAFETY: as above.
        unsafe { Port::new(CONTROL).write(byte) };
    }
}

/// A keyboard.
pub(super) struct Keyboard {
    controller: Controller,
    keys: Keys,
}

impl Keyboard {
    /// Finds it.
    ///
    /// # Errors
    ///
    /// [`NoKeyboard`].
    pub(super) fn open() -> Result<Self, NoKeyboard> {
        let mut controller = Controller;
        i8042::init(&mut controller)?;
        Ok(Self { controller, keys: Keys::new() })
    }

    /// Takes the next code, if one has come, and hands to `typed` what that
    /// types. False if none has.
    pub(super) fn receive(&mut self, typed: &mut dyn FnMut(u8)) -> bool {
        let Some(code) = i8042::receive(&mut self.controller) else { return false };
        self.keys.code(code, typed);
        true
    }
}
