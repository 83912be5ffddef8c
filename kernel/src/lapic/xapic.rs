//! Registers in memory. Calls nothing.

use super::{Command, Destination, LocalApic, NotSent, OTHERS, Register};
use crate::sdt::ApicId;

/// The command register's halves.
const COMMAND_LOW: u16 = 0x300;
const COMMAND_HIGH: u16 = 0x310;
/// The last command is still on its way.
const PENDING: u32 = 1 << 12;

/// Looks at a command on its way before it counts as stuck; each takes a
/// fraction of a microsecond at least.
const PATIENCE: u32 = 1_000_000;

/// The page of registers, in 32-bit accesses.
pub trait Mmio: Sync {
    /// Reads the register at `offset`.
    fn read(&self, offset: u16) -> u32;
    /// Writes the register at `offset`.
    fn write(&self, offset: u16, value: u32);
}

/// A local APIC whose registers are in memory; it has 8 bits of number.
#[derive(Debug)]
pub struct XApic<M>(pub M);

impl<M: Mmio> LocalApic for XApic<M> {
    fn read(&self, register: Register) -> u32 {
        self.0.read(register as u16)
    }

    fn write(&self, register: Register, value: u32) {
        self.0.write(register as u16, value);
    }

    fn id(&self) -> ApicId {
        ApicId(self.read(Register::Id) >> 24)
    }

    fn send(&self, command: Command, to: Destination) -> Result<(), NotSent> {
        let (high, shorthand) = match to {
            // 0xff is everybody.
            Destination::One(id) if id.0 < 0xff => (id.0 << 24, 0),
            Destination::One(id) => return Err(NotSent::OutOfReach(id)),
            Destination::Others => (0, OTHERS),
        };
        if (0..PATIENCE).all(|_| self.0.read(COMMAND_LOW) & PENDING != 0) {
            return Err(NotSent::Stuck);
        }
        self.0.write(COMMAND_HIGH, high);
        // This one sends.
        self.0.write(COMMAND_LOW, command.low() | shorthand);
        Ok(())
    }
}
