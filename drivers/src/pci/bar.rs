//! Base address registers: where a device's registers lie, and how many bytes of
//! them there are. Calls `function`.

use super::{Function, read};
use core::fmt;
use pci_types::{CommandRegister, ConfigRegionAccess, HeaderType};

/// Base address registers of an ordinary function.
pub const MAX_BARS: usize = 6;

/// The first register's offset.
const FIRST: u16 = 0x10;

/// What one register (or a pair) says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bar {
    /// Registers in memory.
    Memory {
        /// Physical address of the first byte.
        addr: u64,
        /// Bytes, a power of two.
        bytes: u64,
        /// Reading has no effects.
        prefetchable: bool,
    },
    /// Registers in I/O space.
    Io {
        /// The first port.
        port: u32,
        /// Ports, a power of two.
        ports: u32,
    },
    /// The firmware has not given it an address.
    Unassigned {
        /// Bytes that it wants.
        bytes: u64,
    },
}

/// Why a register is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BarError {
    /// Of a type that does not exist.
    Type,
    /// It decodes a number of bytes that is no power of two, or none at all.
    Size,
    /// Its address is not a multiple of its size, or beyond the end.
    Address,
    /// It does not keep what is written to it.
    Unsteady,
}

impl fmt::Display for BarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Type => "has a reserved type",
            Self::Size => "has an impossible size",
            Self::Address => "has an impossible address",
            Self::Unsteady => "does not keep its address",
        })
    }
}

/// All registers of a function: None where there is none, or where the upper
/// half of the one before is.
pub type Bars = [Option<Result<Bar, BarError>>; MAX_BARS];

impl Function {
    /// Reads the base address registers. The function decodes nothing
    /// meanwhile. None for what is no ordinary function (a bridge).
    ///
    /// # Safety
    ///
    /// Nobody may use the function's registers meanwhile.
    pub unsafe fn bars(&self, access: &dyn ConfigRegionAccess) -> Option<Bars> {
        if self.header != HeaderType::Endpoint {
            return None;
        }
        let command = self.command(access);
        let decodes = CommandRegister::IO_ENABLE | CommandRegister::MEMORY_ENABLE;
        // SAFETY: it decodes less than before.
        unsafe { self.set_command(access, command - decodes) };
        let mut bars = [None; MAX_BARS];
        let mut at = 0;
        while at < MAX_BARS {
            // SAFETY: it decodes nothing just now, and the caller's word.
            let (bar, registers) = unsafe { self.bar(access, at) };
            bars[at] = bar;
            at += registers;
        }
        // SAFETY: as it was.
        unsafe { self.set_command(access, command) };
        Some(bars)
    }

    /// Register `at`, and how many belong to it.
    ///
    /// # Safety
    ///
    /// The function must decode nothing, and nobody may use its registers.
    unsafe fn bar(
        &self,
        access: &dyn ConfigRegionAccess,
        at: usize,
    ) -> (Option<Result<Bar, BarError>>, usize) {
        let offset = FIRST + 4 * at as u16;
        let first = read(access, self.address, offset);
        let io = first & 1 != 0;
        let wide = !io && first & 6 == 4;
        if !io && (first & 6 == 2 || first & 6 == 6 || (wide && at + 1 == MAX_BARS)) {
            return (Some(Err(BarError::Type)), 1);
        }
        // SAFETY: passed on.
        let (value, mask) = unsafe {
            let (low, low_mask) = self.probe(access, offset, if io { !3 } else { !15 });
            let upper = |offset| self.probe(access, offset, !0);
            let (high, high_mask) = if wide { upper(offset + 4) } else { (0, 0) };
            let high_mask = if wide || low_mask == 0 { high_mask } else { !0 };
            (join(low, high), join(low_mask, high_mask))
        };
        let registers = 1 + usize::from(wide);
        if read(access, self.address, offset) != first {
            return (Some(Err(BarError::Unsteady)), registers);
        }
        if mask == 0 {
            return (None, registers);
        }
        // Devices may decode 16 bits of I/O space only.
        let bytes = if io { (!mask & 0xffff) + 1 } else { (!mask).wrapping_add(1) };
        let bar = if !bytes.is_power_of_two() {
            Err(BarError::Size)
        } else if value == 0 {
            Ok(Bar::Unassigned { bytes })
        } else if value % bytes != 0 || value.checked_add(bytes).is_none() {
            Err(BarError::Address)
        } else if io {
            Ok(Bar::Io { port: value as u32, ports: bytes as u32 })
        } else {
            Ok(Bar::Memory { addr: value, bytes, prefetchable: first & 8 != 0 })
        };
        (Some(bar), registers)
    }

    /// The address bits in the register at `offset`, and which of them it has.
    ///
    /// # Safety
    ///
    /// As for [`Self::bar`].
    unsafe fn probe(
        &self,
        access: &dyn ConfigRegionAccess,
        offset: u16,
        address: u32,
    ) -> (u32, u32) {
        let value = read(access, self.address, offset);
        // SAFETY: the function decodes nothing meanwhile, and gets the register
        // back as it was.
        let mask = unsafe {
            access.write(self.address, offset, !0);
            let mask = access.read(self.address, offset);
            access.write(self.address, offset, value);
            mask
        };
        (value & address, mask & address)
    }
}

fn join(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}
