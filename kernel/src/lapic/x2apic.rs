//! Model-specific registers. Calls nothing.

use super::{Command, Destination, LocalApic, NotSent, OTHERS, Register};
use crate::sdt::ApicId;

/// The command register, 64 bits at once.
const COMMAND: u32 = 0x830;

/// A CPU's model-specific registers.
pub trait Msrs: Sync {
    /// Reads register `number`.
    fn read(&self, number: u32) -> u64;
    /// Writes register `number`.
    fn write(&self, number: u32, value: u64);
    /// All stores before are visible to other CPUs before anything after: what
    /// a write to these registers alone does not say.
    fn fence(&self);
}

/// A local APIC in x2APIC mode; it has 32 bits of number.
#[derive(Debug)]
pub struct X2Apic<M>(pub M);

const fn number(register: Register) -> u32 {
    0x800 + register as u32 / 16
}

impl<M: Msrs> LocalApic for X2Apic<M> {
    fn read(&self, register: Register) -> u32 {
        self.0.read(number(register)) as u32
    }

    fn write(&self, register: Register, value: u32) {
        self.0.write(number(register), value.into());
    }

    fn id(&self) -> ApicId {
        ApicId(self.read(Register::Id))
    }

    fn send(&self, command: Command, to: Destination) -> Result<(), NotSent> {
        let (high, shorthand) = match to {
            Destination::One(ApicId(u32::MAX)) => {
                return Err(NotSent::OutOfReach(ApicId(u32::MAX)));
            }
            Destination::One(id) => (id.0, 0),
            Destination::Others => (0, OTHERS),
        };
        self.0.fence();
        self.0.write(COMMAND, u64::from(high) << 32 | u64::from(command.low() | shorthand));
        Ok(())
    }
}
