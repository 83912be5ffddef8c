//! Where PCI Express configuration spaces appear in memory (PCI Firmware
//! Specification 3.3, 4.1.2). Pure.

use super::{HEADER, Signature, u16_at, u64_at};
use core::fmt;

impl Signature {
    /// The list of memory-mapped configuration spaces.
    pub const MCFG: Self = Self(*b"MCFG");
}

/// Bytes before the first entry, and of each.
const FIRST: usize = HEADER + 8;
const ENTRY: usize = 16;
/// Bytes of a bus's configuration spaces.
const BUS: u64 = 1 << 20;

/// The configuration spaces of some buses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ecam {
    /// The segment.
    pub segment: u16,
    /// The first bus.
    pub first: u8,
    /// The last bus.
    pub last: u8,
    /// Physical address of the first bus's first byte.
    pub addr: u64,
}

impl Ecam {
    /// Bytes.
    pub const fn bytes(&self) -> u64 {
        (self.last as u64 - self.first as u64 + 1) * BUS
    }

    /// Whether both show the same bus, or lie at the same addresses: a device
    /// would be found twice.
    pub const fn overlaps(&self, other: &Self) -> bool {
        let buses =
            self.segment == other.segment && self.first <= other.last && other.first <= self.last;
        let bytes = self.addr < other.addr + other.bytes() && other.addr < self.addr + self.bytes();
        buses || bytes
    }
}

impl fmt::Display for Ecam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, first, last, addr } = self;
        let end = addr + (self.bytes() - 1);
        write!(
            f,
            "[mem {addr:#010x}-{end:#010x}] for domain {segment:04x} [bus {first:02x}-{last:02x}]"
        )
    }
}

/// Why an entry is not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EcamError<E> {
    /// It overlaps one that is.
    Overlaps(Ecam),
    /// There is no room for more.
    NoRoom,
    /// It cannot be mapped.
    NotMapped(E),
}

/// Puts `ecam` among those that are used, with what `map` makes of it.
///
/// # Errors
///
/// [`EcamError`]; then nothing has changed. It is not mapped if it would be no
/// use.
pub fn add_ecam<T, E>(
    used: &mut [Option<(Ecam, T)>],
    ecam: Ecam,
    map: impl FnOnce(&Ecam) -> Result<T, E>,
) -> Result<(), EcamError<E>> {
    if let Some((other, _)) = used.iter().flatten().find(|(it, _)| it.overlaps(&ecam)) {
        return Err(EcamError::Overlaps(*other));
    }
    let slot = used.iter_mut().find(|slot| slot.is_none()).ok_or(EcamError::NoRoom)?;
    *slot = Some((ecam, map(&ecam).map_err(EcamError::NotMapped)?));
    Ok(())
}

/// The entries of `table` (header and all) that make sense: aligned, with buses,
/// and where a processor has addresses.
pub fn ecams(table: &[u8]) -> impl Iterator<Item = Ecam> {
    (0..).map_while(move |at| table.get(FIRST + at * ENTRY..)?.first_chunk::<ENTRY>()).filter_map(
        |entry| {
            let (first, last) = (entry[10], entry[11]);
            // The table has the address of bus 0, there or not.
            let base = u64_at(entry, 0)?;
            let addr = base.checked_add(u64::from(first) * BUS)?;
            let ecam = Ecam { segment: u16_at(entry, 8)?, first, last, addr };
            let sound = first <= last && base != 0 && base.is_multiple_of(BUS);
            (sound && addr < 1 << 52).then_some(ecam)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sdt::table;
    use acpi_tables::Aml;
    use acpi_tables::mcfg::MCFG;
    use std::vec::Vec;

    #[test]
    fn entries_that_make_sense() {
        let mut mcfg = MCFG::new(*b"QUARRY", *b"TESTTEST", 1);
        mcfg.add_ecam(0xb000_0000, 0, 0, 255);
        mcfg.add_ecam(0x10_0000_0000, 1, 0x80, 0x8f);
        // Buses the wrong way round, and no alignment.
        mcfg.add_ecam(0xc000_0000, 2, 9, 8);
        mcfg.add_ecam(0xc000_1000, 3, 0, 0);
        let mut bytes = Vec::new();
        mcfg.to_aml_bytes(&mut bytes);
        let (header, bytes) = table(&bytes).unwrap();
        assert_eq!(header.signature, Signature::MCFG);
        let found: Vec<Ecam> = ecams(bytes).collect();
        let whole = Ecam { segment: 0, first: 0, last: 255, addr: 0xb000_0000 };
        let part = Ecam { segment: 1, first: 0x80, last: 0x8f, addr: 0x10_0800_0000 };
        assert_eq!(found, [whole, part]);
        assert_eq!((whole.bytes(), part.bytes()), (256 << 20, 16 << 20));
        for len in 0..bytes.len() {
            assert!(ecams(&bytes[..len]).count() < 2 || len >= FIRST + 2 * ENTRY);
        }
    }

    #[test]
    fn what_overlaps_is_not_used() {
        let ecam = |segment, first, last, addr| Ecam { segment, first, last, addr };
        let whole = ecam(0, 0, 255, 0xb000_0000);
        let mut used = [None; 3];
        let mut add =
            |ecam, fails| add_ecam(&mut used, ecam, |it| if fails { Err(()) } else { Ok(it.addr) });
        // One that cannot be mapped is in nobody's way.
        assert_eq!(add(ecam(0, 0, 255, 0x1000_0000), true), Err(EcamError::NotMapped(())));
        assert_eq!(add(whole, false), Ok(()));
        for other in [
            whole,
            ecam(0, 0x80, 0x8f, 0x10_0000_0000),
            ecam(0, 255, 255, 0x10_0000_0000),
            ecam(1, 0, 255, 0xb000_0000),
            ecam(1, 0, 0, 0xbff0_0000),
            ecam(1, 0, 1, 0xaff0_0000),
        ] {
            assert_eq!(add(other, false), Err(EcamError::Overlaps(whole)), "{other}");
        }
        assert_eq!(add(ecam(1, 0, 0, 0xaff0_0000), false), Ok(()));
        assert_eq!(add(ecam(2, 0, 255, 0xc000_0000), false), Ok(()));
        assert_eq!(add(ecam(3, 0, 0, 0x10_0000_0000), false), Err(EcamError::NoRoom));
        let said = "[mem 0xb0000000-0xbfffffff] for domain 0000 [bus 00-ff]";
        assert_eq!(whole.to_string(), said);
    }
}
