//! The Serial Port Console Redirection table (Microsoft's, versions 1 to 4): the
//! serial line that the firmware itself uses as a console. Pure.

use super::{Flaw, Header, Signature, u32_at, u64_at};

/// Where a serial line's registers are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Registers {
    /// In I/O space, from this port on.
    Port(u16),
    /// In memory: physical address of the first, and bytes from one to the next.
    Memory {
        /// The first one.
        addr: u64,
        /// From one to the next.
        stride: u8,
    },
}

/// What the table says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spcr {
    /// Where the registers are.
    pub registers: Registers,
    /// The interrupt of the ISA bus, if it has one.
    pub irq: Option<u8>,
    /// Bits per second; None: as the firmware has set it.
    pub baud: Option<u32>,
}

/// Why the table is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unusable {
    /// The table is broken.
    Flaw(Flaw),
    /// The firmware has no serial console.
    NoConsole,
    /// It is no UART of the 16550 family; its type.
    Kind(u8),
    /// There can be no registers like that.
    Address,
}

impl core::fmt::Display for Unusable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Flaw(flaw) => flaw.fmt(f),
            Self::NoConsole => f.write_str("it names no serial line"),
            Self::Kind(kind) => write!(f, "its serial line is of type {kind:#x}, not a 16550"),
            Self::Address => f.write_str("its serial line has an impossible address"),
        }
    }
}

impl From<Flaw> for Unusable {
    fn from(flaw: Flaw) -> Self {
        Self::Flaw(flaw)
    }
}

const FULL_16550: u8 = 0;
const SUBSET_16550: u8 = 1;
/// A 16550 whose address says all there is to say, from version 2 on.
const GENERIC_16550: u8 = 0x12;

const MEMORY: u8 = 0;
const IO: u8 = 1;

/// Registers of a UART.
const UART: u64 = 8;
/// Addresses that a processor can have.
const PHYSICAL: u64 = 1 << 52;

impl Spcr {
    /// Takes a whole table.
    ///
    /// # Errors
    ///
    /// `Unusable`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Unusable> {
        let (Header { signature, .. }, bytes) = super::table(bytes)?;
        if signature != Signature::SPCR {
            return Err(Flaw::Signature(signature).into());
        }
        let byte = |at: usize| bytes.get(at).copied().ok_or(Flaw::Truncated);
        let kind = byte(36)?;
        let (space, width, access) = (byte(40)?, byte(41)?, byte(43)?);
        let addr = u64_at(bytes, 44).ok_or(Flaw::Truncated)?;
        let (interrupts, irq) = (byte(52)?, byte(53)?);
        let rate = byte(58)?;
        if !matches!(kind, FULL_16550 | SUBSET_16550 | GENERIC_16550) {
            return Err(Unusable::Kind(kind));
        }
        if addr == 0 {
            return Err(Unusable::NoConsole);
        }
        let registers = match space {
            IO => {
                let last = addr.checked_add(UART - 1).ok_or(Unusable::Address)?;
                if last > u16::MAX.into() {
                    return Err(Unusable::Address);
                }
                Registers::Port(addr as u16)
            }
            MEMORY => {
                let stride = stride(kind, width, access);
                let end = addr.checked_add(UART * u64::from(stride));
                // All in one page, which is what is mapped.
                if end.is_none_or(|end| end > PHYSICAL) || addr % 4096 > 4096 - UART * 4 {
                    return Err(Unusable::Address);
                }
                Registers::Memory { addr, stride }
            }
            _ => return Err(Unusable::Address),
        };
        // Bit 0: on the pair of 8259, thus of the ISA bus.
        let irq = (interrupts & 1 != 0 && irq < 16).then_some(irq);
        // Version 4 tells the rate as such, if it fits none of the numbers.
        let precise = u32_at(bytes, 80).filter(|&baud| baud != 0);
        let baud = match rate {
            3 => Some(9600),
            4 => Some(19_200),
            6 => Some(57_600),
            7 => Some(115_200),
            _ => precise,
        };
        Ok(Self { registers, irq, baud })
    }
}

/// Bytes from one register to the next. Old types have them side by side, but
/// that some firmware means the same by a width of 32 as the generic type does
/// (Linux `drivers/acpi/spcr.c`).
fn stride(kind: u8, width: u8, access: u8) -> u8 {
    let bits = match access {
        1 => 8,
        2 => 16,
        3 => 32,
        _ => width,
    };
    match (kind, bits.max(width)) {
        (_, 32..) => 4,
        (GENERIC_16550, 16) => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use acpi_tables::sdt::Sdt;
    use proptest::prelude::*;

    /// A table of `length` bytes, changed by `edit`.
    fn table(length: u32, edit: impl FnOnce(&mut Sdt)) -> Vec<u8> {
        let mut sdt = Sdt::new(*b"SPCR", length, 2, *b"QUARRY", *b"TEST    ", 1);
        if length >= 80 {
            sdt.write_u8(40, IO);
            sdt.write_u8(41, 8);
            sdt.write_u64(44, 0x3f8);
            sdt.write_u8(52, 3);
            sdt.write_u8(53, 4);
            sdt.write_u8(58, 7);
        }
        edit(&mut sdt);
        sdt.as_slice().to_vec()
    }

    #[test]
    fn a_usual_one() {
        let want = Spcr { registers: Registers::Port(0x3f8), irq: Some(4), baud: Some(115_200) };
        assert_eq!(Spcr::parse(&table(80, |_| {})), Ok(want));
        let slow = Spcr::parse(&table(80, |sdt| sdt.write_u8(58, 3))).unwrap();
        assert_eq!(slow.baud, Some(9600));
        let unset = Spcr::parse(&table(80, |sdt| sdt.write_u8(58, 0))).unwrap();
        assert_eq!(unset.baud, None);
        let precise = |sdt: &mut Sdt| {
            sdt.write_u8(58, 0);
            sdt.write_u32(80, 38_400);
        };
        assert_eq!(Spcr::parse(&table(90, precise)).unwrap().baud, Some(38_400));
        let no_irq = Spcr::parse(&table(80, |sdt| sdt.write_u8(52, 2))).unwrap();
        assert_eq!(no_irq.irq, None);
    }

    #[test]
    fn registers_in_memory() {
        let at = |kind, width, access| {
            let table = table(80, |sdt| {
                sdt.write_u8(36, kind);
                sdt.write_u8(40, MEMORY);
                sdt.write_u8(41, width);
                sdt.write_u8(43, access);
                sdt.write_u64(44, 0xfe03_1000);
            });
            Spcr::parse(&table).unwrap().registers
        };
        let memory = |stride| Registers::Memory { addr: 0xfe03_1000, stride };
        assert_eq!(at(FULL_16550, 8, 0), memory(1));
        assert_eq!(at(FULL_16550, 32, 0), memory(4));
        assert_eq!(at(GENERIC_16550, 32, 3), memory(4));
        assert_eq!(at(GENERIC_16550, 8, 3), memory(4));
        assert_eq!(at(GENERIC_16550, 16, 2), memory(2));
    }

    #[test]
    fn odd_ones() {
        let parse = |edit: fn(&mut Sdt)| Spcr::parse(&table(80, edit));
        assert_eq!(parse(|sdt| sdt.write_u64(44, 0)), Err(Unusable::NoConsole));
        assert_eq!(parse(|sdt| sdt.write_u8(36, 3)), Err(Unusable::Kind(3)));
        assert_eq!(parse(|sdt| sdt.write_u64(44, 0xfff9)), Err(Unusable::Address));
        assert_eq!(parse(|sdt| sdt.write_u64(44, u64::MAX)), Err(Unusable::Address));
        assert_eq!(parse(|sdt| sdt.write_u8(40, 2)), Err(Unusable::Address));
        let in_memory = |addr: u64| {
            let table = table(80, |sdt| {
                sdt.write_u8(40, MEMORY);
                sdt.write_u64(44, addr);
            });
            Spcr::parse(&table)
        };
        assert_eq!(in_memory(u64::MAX), Err(Unusable::Address));
        assert_eq!(in_memory(0xfe00_0ffc), Err(Unusable::Address));
        assert!(in_memory(0xfe00_0fe0).is_ok());
        let truncated = Err(Unusable::Flaw(Flaw::Truncated));
        assert_eq!(Spcr::parse(&table(58, |_| {})), truncated);
        let whole = table(80, |_| {});
        assert_eq!(Spcr::parse(&whole[..70]), truncated);
        let mut broken = whole.clone();
        broken[50] ^= 1;
        assert_eq!(Spcr::parse(&broken), Err(Unusable::Flaw(Flaw::Checksum)));
        let other = Sdt::new(*b"DBG2", 80, 2, *b"QUARRY", *b"TEST    ", 1);
        let signature = Flaw::Signature(Signature(*b"DBG2"));
        assert_eq!(Spcr::parse(other.as_slice()), Err(Unusable::Flaw(signature)));
    }

    proptest! {
        #[test]
        fn any_bytes_will_do(
            length in 36_u32..100,
            edits in proptest::collection::vec((36_usize..100, any::<u8>()), 0..40),
            cut in 0_usize..110,
        ) {
            let mut bytes = table(length, |sdt| {
                for &(at, value) in edits.iter().filter(|&&(at, _)| at < length as usize) {
                    sdt.write_u8(at, value);
                }
            });
            if let Ok(Spcr { registers: Registers::Port(port), .. }) = Spcr::parse(&bytes) {
                prop_assert!(port <= 0xfff8);
            }
            bytes.truncate(cut);
            let _ = Spcr::parse(&bytes);
        }
    }
}
