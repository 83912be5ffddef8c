//! `IA32_APIC_BASE`: whether the local APIC is on, and how it is reached. Calls
//! nothing.

use super::Msrs;
use mm::types::Pfn;

/// The register's number.
pub const APIC_BASE: u32 = 0x1b;

const ENABLED: u64 = 1 << 11;
const X2APIC: u64 = 1 << 10;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// How the registers are reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Not at all.
    Off,
    /// In memory.
    XApic,
    /// As model-specific registers.
    X2Apic,
}

/// The mode that the register's content says.
pub const fn mode(base: u64) -> Mode {
    match (base & ENABLED != 0, base & X2APIC != 0) {
        (false, _) => Mode::Off,
        (true, false) => Mode::XApic,
        (true, true) => Mode::X2Apic,
    }
}

/// The frame of the registers in memory, from the register's content.
pub const fn frame(base: u64) -> Pfn {
    Pfn::containing(base & FRAME)
}

/// Switches the local APIC on, as an x2APIC if `x2apic` says that there is one.
/// One that is an x2APIC already stays so: the only way back is by a reset of
/// all its state. Returns the mode it is in now, read back from the register.
pub fn switch_on(msrs: &impl Msrs, x2apic: bool) -> Mode {
    // Each mode is reached from the one before it only.
    loop {
        let base = msrs.read(APIC_BASE);
        let next = match mode(base) {
            Mode::Off => base & !X2APIC | ENABLED,
            Mode::XApic if x2apic => base | X2APIC,
            done => return done,
        };
        msrs.write(APIC_BASE, next);
        // One that cannot be switched on stays off.
        if msrs.read(APIC_BASE) != next {
            return mode(msrs.read(APIC_BASE));
        }
    }
}
