//! ACPI's System Description Tables as the firmware left them: plain bytes that
//! may be anything. Finds all tables from the root pointer on, and reads the
//! lists of processors and interrupt controllers, and how to switch the machine
//! off. Nothing here faults on what it reads; what is odd gives a
//! [`Warning`]. Pure.

mod cpus;
mod irqs;
mod madt;
mod mcfg;
pub mod power;
mod root;
mod spcr;
mod warning;

pub use cpus::{ApicId, Cpu, CpuList, Limits, MAX_CPUS, Presence};
pub use irqs::{IoApic, Irqs, MAX_IO_APICS, Route, Signal};
pub use madt::{Entry, Lint, LintPin, Madt};
pub use mcfg::{Ecam, EcamError, add_ecam, ecams};
pub use root::{Located, MAX_TABLES, Memory, TableList, walk};
pub use spcr::{Registers, Spcr};
pub use warning::{Flaw, Warning};

use core::fmt;

/// Bytes of the header that every table begins with.
pub const HEADER: usize = 36;

/// Bytes of a table at most: more is taken for a broken length.
pub const MAX_LENGTH: u32 = 4 << 20;

/// The four characters that name a table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Signature(pub [u8; 4]);

impl Signature {
    /// The list of processors and interrupt controllers.
    pub const MADT: Self = Self(*b"APIC");
    /// The serial line that is the firmware's console.
    pub const SPCR: Self = Self(*b"SPCR");
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What a table's header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Which table it is.
    pub signature: Signature,
    /// Bytes of the table, header included.
    pub length: u32,
    /// Version of its layout.
    pub revision: u8,
    /// Who made the machine.
    pub oem: [u8; 6],
    /// Which of its machines it is.
    pub oem_table: [u8; 8],
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    ///
    /// [`Flaw::Truncated`] if there are too few bytes for one, [`Flaw::Length`]
    /// if it tells an absurd length.
    pub fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        let header = bytes.first_chunk::<HEADER>().ok_or(Flaw::Truncated)?;
        let length = u32_at(header, 4).ok_or(Flaw::Truncated)?;
        if !(HEADER as u32..=MAX_LENGTH).contains(&length) {
            return Err(Flaw::Length(length));
        }
        let mut found = Self {
            signature: Signature([header[0], header[1], header[2], header[3]]),
            length,
            revision: header[8],
            oem: [0; 6],
            oem_table: [0; 8],
        };
        found.oem.copy_from_slice(&header[10..16]);
        found.oem_table.copy_from_slice(&header[16..24]);
        Ok(found)
    }
}

/// As Linux's log describes a table: length, version and makers.
impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06X} (v{:02} {})", self.length, self.revision, Maker(self))
    }
}

/// Who made the machine and which of theirs it is, in their own words.
#[derive(Clone, Copy, Debug)]
pub struct Maker<'a>(pub &'a Header);

impl fmt::Display for Maker<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let oem = unpadded(&self.0.oem).escape_ascii();
        let table = unpadded(&self.0.oem_table).escape_ascii();
        write!(f, "{oem} {table}")
    }
}

/// Text without what pads it at its end.
fn unpadded(text: &[u8]) -> &[u8] {
    let len = text.iter().rposition(|&byte| byte != 0 && byte != b' ').map_or(0, |at| at + 1);
    &text[..len]
}

/// The table that `bytes` begin with, and no byte more.
///
/// # Errors
///
/// As [`Header::parse`]; also [`Flaw::Truncated`] if the table is longer than
/// `bytes`, and [`Flaw::Checksum`].
pub fn table(bytes: &[u8]) -> Result<(Header, &[u8]), Flaw> {
    let header = Header::parse(bytes)?;
    let table = bytes.get(..header.length as usize).ok_or(Flaw::Truncated)?;
    if sum(table) != 0 {
        return Err(Flaw::Checksum);
    }
    Ok((header, table))
}

/// The sum of all bytes, which is 0 where a checksum is right.
fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests;
