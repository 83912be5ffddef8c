//! The local APIC: what is done with its registers, whichever way they are
//! reached. Two ways implement [`LocalApic`]: memory ([`XApic`]) and
//! model-specific registers ([`X2Apic`]), both over raw accesses that the kernel
//! or a test brings. Calls nothing.

mod mode;
mod timer;
mod x2apic;
mod xapic;

pub use mode::{APIC_BASE, Mode, frame, mode, switch_on};
pub use timer::{measure_timer, start_timer, stop_timer};
pub use x2apic::{Msrs, X2Apic};
pub use xapic::{Mmio, XApic};

use crate::sdt::{ApicId, Lint, LintPin};

/// A register, by its offset in memory; its model-specific register's number is
/// 0x800 plus a sixteenth of that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Register {
    /// The APIC's number.
    Id = 0x20,
    /// Interrupts below this priority wait.
    TaskPriority = 0x80,
    /// Written when an interrupt has been handled.
    EndOfInterrupt = 0xb0,
    /// The switch, and the vector of interrupts that went away.
    Spurious = 0xf0,
    /// What went wrong; written before it is read.
    ErrorStatus = 0x280,
    /// The timer's interrupt.
    LvtTimer = 0x320,
    /// The first pin's.
    LvtLint0 = 0x350,
    /// The second pin's.
    LvtLint1 = 0x360,
    /// That of errors.
    LvtError = 0x370,
    /// Where the timer begins to count down.
    InitialCount = 0x380,
    /// Where it is.
    CurrentCount = 0x390,
    /// By what its clock is divided.
    DivideConfig = 0x3e0,
}

const SOFTWARE_ENABLE: u32 = 1 << 8;
const LVT_MASKED: u32 = 1 << 16;
const LVT_NMI: u32 = 0b100 << 8;
const LVT_ACTIVE_LOW: u32 = 1 << 13;
const LVT_LEVEL: u32 = 1 << 15;

/// What one CPU tells others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// An interrupt with this vector.
    Interrupt(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// Stop whatever it does and wait for [`Self::StartUp`].
    Init,
    /// Begin in real mode at this page of 4 KiB.
    StartUp(u8),
}

/// Whom it tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// One CPU.
    One(ApicId),
    /// All but the sender.
    Others,
}

/// Why nothing was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotSent {
    /// This APIC cannot address that one.
    OutOfReach(ApicId),
    /// The last command has not left yet.
    Stuck,
}

impl core::fmt::Display for NotSent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::OutOfReach(id) => write!(f, "APIC id {id} is out of reach"),
            Self::Stuck => f.write_str("the local APIC does not get rid of the last command"),
        }
    }
}

impl Command {
    /// The lower half of the command register.
    const fn low(self) -> u32 {
        const ASSERT: u32 = 1 << 14;
        let mode = match self {
            Self::Interrupt(vector) => vector as u32,
            Self::Nmi => 0b100 << 8,
            Self::Init => 0b101 << 8,
            Self::StartUp(page) => 0b110 << 8 | page as u32,
        };
        mode | ASSERT
    }
}

/// Shorthand for everybody but the sender, in the lower half of the command
/// register.
const OTHERS: u32 = 0b11 << 18;

/// The registers of the local APIC of the CPU that asks. Calls from an
/// interrupt handler must not come between two of the same CPU: interrupts are
/// masked around [`send`](Self::send).
pub trait LocalApic: Sync {
    /// Reads a register.
    fn read(&self, register: Register) -> u32;

    /// Writes a register.
    fn write(&self, register: Register, value: u32);

    /// The APIC's number.
    fn id(&self) -> ApicId;

    /// Sends `command`.
    ///
    /// # Errors
    ///
    /// [`NotSent`]; nothing has happened then.
    fn send(&self, command: Command, to: Destination) -> Result<(), NotSent>;
}

/// Prepares the APIC: interrupts of all priorities, spurious ones at
/// `spurious`, the timer off, NMIs at the pin of `nmi`. With `lint0_nmi` what
/// an 8259 sends to the first pin becomes an NMI too.
pub fn enable(apic: &dyn LocalApic, spurious: u8, nmi: Option<Lint>, lint0_nmi: bool) {
    // Pins can be opened only while the APIC is on.
    apic.write(Register::Spurious, SOFTWARE_ENABLE | u32::from(spurious));
    apic.write(Register::TaskPriority, 0);
    apic.write(Register::LvtTimer, LVT_MASKED);
    apic.write(Register::LvtError, LVT_MASKED);
    let entry = |pin| match nmi.filter(|nmi| nmi.pin == pin) {
        Some(nmi) => {
            let low = if nmi.active_low { LVT_ACTIVE_LOW } else { 0 };
            LVT_NMI | low | if nmi.level { LVT_LEVEL } else { 0 }
        }
        None if pin == LintPin::Lint0 && lint0_nmi => LVT_NMI,
        None => LVT_MASKED,
    };
    apic.write(Register::LvtLint0, entry(LintPin::Lint0));
    apic.write(Register::LvtLint1, entry(LintPin::Lint1));
    apic.write(Register::ErrorStatus, 0);
}

/// Says that the interrupt being handled has been handled.
#[inline]
pub fn end_of_interrupt(apic: &dyn LocalApic) {
    apic.write(Register::EndOfInterrupt, 0);
}

#[cfg(test)]
mod tests;
