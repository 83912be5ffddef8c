//! The System Resource Affinity Table, entry by entry (ACPI 6.5, 5.2.16).

use super::Flaw;
use super::tables::{HEADER, check, u32_at, u64_at};
use crate::types::NodeId;

/// The node of a processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuAffinity {
    /// Its local APIC's number, as its own registers tell it.
    pub apic_id: u32,
    /// Where it is.
    pub node: NodeId,
}

impl CpuAffinity {
    /// Something to fill a table with.
    pub const EMPTY: Self = Self { apic_id: 0, node: NodeId(0) };
}

/// Where the entries begin: after the header there are 12 reserved bytes.
const ENTRIES: usize = HEADER + 12;
/// The bit that makes an entry count, in the flags of each kind.
const ENABLED: u32 = 1 << 0;
const HOT_PLUGGABLE: u32 = 1 << 1;
const NON_VOLATILE: u32 = 1 << 2;

/// What an entry says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entry {
    Cpu {
        domain: u32,
        apic_id: u32,
        x2apic: bool,
    },
    Memory {
        domain: u32,
        start: u64,
        bytes: u64,
        hotplug: bool,
        non_volatile: bool,
    },
    /// Not enabled, or something else altogether.
    Other,
}

/// A table that is whole, its entries not looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Srat<'t> {
    entries: &'t [u8],
    revision: u8,
}

impl<'t> Srat<'t> {
    pub(super) fn new(bytes: &'t [u8]) -> Result<Self, Flaw> {
        let table = check(bytes, b"SRAT", ENTRIES)?;
        Ok(Self { entries: &table[ENTRIES..], revision: table[8] })
    }

    /// The entries in order, and as the last one what is wrong with them if
    /// something is.
    pub(super) fn entries(self) -> impl Iterator<Item = Result<Entry, Flaw>> + use<'t> {
        let mut rest = self.entries;
        core::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let result = self.entry(&mut rest);
            if result.is_err() {
                rest = &[];
            }
            Some(result)
        })
    }

    /// Takes one entry off `rest`.
    fn entry(self, rest: &mut &'t [u8]) -> Result<Entry, Flaw> {
        let [kind, length, ..] = **rest else { return Err(Flaw::Truncated) };
        let length = usize::from(length);
        if length < 2 {
            return Err(Flaw::EntryTooShort { kind });
        }
        let entry = rest.get(..length).ok_or(Flaw::Truncated)?;
        *rest = &rest[length..];
        self.decode(kind, entry).ok_or(Flaw::EntryTooShort { kind })
    }

    /// None if the entry is too short for what it is.
    fn decode(self, kind: u8, entry: &[u8]) -> Option<Entry> {
        // The whole of an entry must be there, reserved parts at its end too.
        let least = match kind {
            0 => 16,
            1 => 40,
            2 => 24,
            _ => return Some(Entry::Other),
        };
        if entry.len() < least {
            return None;
        }
        let flags = u32_at(entry, [4, 28, 12][usize::from(kind)])?;
        if flags & ENABLED == 0 {
            return Some(Entry::Other);
        }
        // At first domains had eight bits, and what is the rest of them now
        // was reserved and need not be zero.
        let wide = self.revision >= 2;
        Some(match kind {
            0 => {
                let high = if wide { u32_at(entry, 8)? & 0xffff_ff00 } else { 0 };
                let domain = high | u32::from(entry[2]);
                Entry::Cpu { domain, apic_id: u32::from(entry[3]), x2apic: false }
            }
            1 => {
                let domain = u32_at(entry, 2)?;
                Entry::Memory {
                    domain: if wide { domain } else { domain & 0xff },
                    start: u64_at(entry, 8)?,
                    bytes: u64_at(entry, 16)?,
                    hotplug: flags & HOT_PLUGGABLE != 0,
                    non_volatile: flags & NON_VOLATILE != 0,
                }
            }
            _ => Entry::Cpu { domain: u32_at(entry, 4)?, apic_id: u32_at(entry, 8)?, x2apic: true },
        })
    }
}
