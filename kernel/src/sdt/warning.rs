//! What can be wrong with the firmware's tables, one value per oddity.

use super::{ApicId, MAX_CPUS, MAX_TABLES, Signature};
use core::fmt;

/// Why a table cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// It ends before it is complete.
    Truncated,
    /// It claims a length that cannot be.
    Length(u32),
    /// Its bytes do not add up to 0.
    Checksum,
    /// It is not what it should be.
    Signature(Signature),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("it is cut off"),
            Self::Length(length) => write!(f, "it claims to have {length} bytes"),
            Self::Checksum => f.write_str("its checksum is wrong"),
            Self::Signature(found) => write!(f, "its signature is \"{found}\""),
        }
    }
}

/// Something odd in the firmware's tables, and what was done about it. Displays
/// as one line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Warning {
    /// No memory can be read at an address that should hold a table.
    Unreachable {
        /// The physical address.
        addr: u64,
    },
    /// The root pointer cannot be used, so there are no tables.
    Root(Flaw),
    /// A table cannot be used.
    Table {
        /// Where it is.
        addr: u64,
        /// What it calls itself, if that was to be read.
        signature: Option<Signature>,
        /// What is wrong.
        flaw: Flaw,
    },
    /// There are more tables than anybody needs; the rest is ignored.
    TooManyTables,
    /// An entry of the list of processors has an impossible length; what follows
    /// it is lost.
    EntryLength {
        /// Its offset in the table.
        at: usize,
    },
    /// An entry of the list of processors is too short for its type; ignored.
    EntryShort {
        /// Its offset in the table.
        at: usize,
        /// Its type.
        kind: u8,
    },
    /// A processor with an impossible APIC id; ignored.
    BadId(ApicId),
    /// A processor that is listed before; ignored.
    Repeated(ApicId),
    /// A processor whose id only an x2APIC can address; ignored.
    OutOfReach(ApicId),
    /// The processor that boots is not listed.
    BootCpuMissing(ApicId),
    /// Processors beyond [`MAX_CPUS`], which are ignored.
    TooManyCpus {
        /// How many.
        left_out: usize,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unreachable { addr } => {
                write!(f, "ACPI: no memory to be read at {addr:#x}, table ignored")
            }
            Self::Root(flaw) => write!(f, "ACPI: no tables: of the root pointer, {flaw}"),
            Self::Table { addr, signature: Some(signature), flaw } => {
                write!(f, "ACPI: table \"{signature}\" at {addr:#x} ignored: {flaw}")
            }
            Self::Table { addr, signature: None, flaw } => {
                write!(f, "ACPI: table at {addr:#x} ignored: {flaw}")
            }
            Self::TooManyTables => {
                write!(f, "ACPI: more than {MAX_TABLES} tables, the rest ignored")
            }
            Self::EntryLength { at } => {
                write!(f, "MADT: entry at offset {at:#x} has a bad length, the rest ignored")
            }
            Self::EntryShort { at, kind } => {
                write!(f, "MADT: entry at offset {at:#x} is too short for type {kind}, ignored")
            }
            Self::BadId(id) => write!(f, "MADT: no processor can have APIC id {id}, ignored"),
            Self::Repeated(id) => write!(f, "MADT: APIC id {id} is listed again, ignored"),
            Self::OutOfReach(id) => {
                write!(f, "MADT: APIC id {id} cannot be reached without x2APIC, ignored")
            }
            Self::BootCpuMissing(id) => {
                write!(f, "MADT: the boot CPU's APIC id {id} is not listed")
            }
            Self::TooManyCpus { left_out } => {
                write!(f, "smp: {left_out} CPUs beyond {MAX_CPUS} are left out")
            }
        }
    }
}
