//! The Multiple APIC Description Table (ACPI 6.5, 5.2.12): its entries about
//! APICs. Pure.

use super::{ApicId, Flaw, HEADER, Header, IoApic, Signal, Signature, Warning};
use super::{u16_at, u32_at, u64_at};

/// First byte of the entries.
const ENTRIES: usize = HEADER + 8;

const FLAG_ENABLED: u32 = 1 << 0;
const FLAG_ONLINE_CAPABLE: u32 = 1 << 1;

/// The table; entries are read as they are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Madt<'a> {
    bytes: &'a [u8],
    revision: u8,
    /// Where the local APICs' registers are, unless an entry says otherwise.
    pub local_apic: u32,
    /// The machine also has a pair of 8259 interrupt controllers.
    pub has_8259: bool,
}

/// One of the two pins of a local APIC for local interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LintPin {
    /// LINT0.
    Lint0,
    /// LINT1.
    Lint1,
}

/// A pin and how its signal looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lint {
    /// Which pin.
    pub pin: LintPin,
    /// Low means asserted.
    pub active_low: bool,
    /// Triggered by the level, not by the edge.
    pub level: bool,
}

/// An entry that matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// A processor.
    Cpu {
        /// Its number in other tables and in the firmware's code.
        uid: u32,
        /// Of its local APIC.
        id: ApicId,
        /// It can be used.
        enabled: bool,
        /// It cannot be used yet, but may be one day. Before version 5 of the
        /// table nothing tells, so every one that is disabled may be.
        online_capable: bool,
        /// Listed with 32 bits of id (a processor local x2APIC).
        wide: bool,
    },
    /// NMIs come to a pin.
    Nmi {
        /// Of which processor; None: of all.
        uid: Option<u32>,
        /// The pin.
        lint: Lint,
    },
    /// An I/O APIC.
    IoApic(IoApic),
    /// An interrupt of the ISA bus that does not arrive under its own number, or
    /// looks unusual.
    Moved {
        /// Its number on the bus.
        irq: u8,
        /// Its global number.
        to: u32,
        /// Its signal.
        signal: Signal,
    },
    /// Where the local APICs' registers are, in 64 bits.
    LocalApic(u64),
    /// Anything else.
    Other(u8),
}

impl<'a> Madt<'a> {
    /// Takes a whole table.
    ///
    /// # Errors
    ///
    /// As [`super::table`], or it is another table, or too short for its fixed
    /// part.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Flaw> {
        let (Header { signature, revision, .. }, bytes) = super::table(bytes)?;
        if signature != Signature::MADT {
            return Err(Flaw::Signature(signature));
        }
        let local_apic = u32_at(bytes, HEADER).ok_or(Flaw::Truncated)?;
        let flags = u32_at(bytes, HEADER + 4).ok_or(Flaw::Truncated)?;
        Ok(Self { bytes, revision, local_apic, has_8259: flags & 1 != 0 })
    }

    /// The entries in their order, or what is wrong with one. After one whose
    /// length is impossible nothing follows.
    pub fn entries(&self) -> impl Iterator<Item = Result<Entry, Warning>> + use<'a> {
        let (bytes, revision) = (self.bytes, self.revision);
        let mut next = ENTRIES;
        core::iter::from_fn(move || {
            let at = next;
            let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
            let length = rest.get(1).map_or(0, |&length| usize::from(length));
            let Some(entry) = rest.get(..length).filter(|_| length >= 2) else {
                next = bytes.len();
                return Some(Err(Warning::EntryLength { at }));
            };
            next = at + length;
            let kind = entry[0];
            Some(parse(entry, revision).ok_or(Warning::EntryShort { at, kind }))
        })
    }
}

fn parse(entry: &[u8], revision: u8) -> Option<Entry> {
    let byte = |at: usize| entry.get(at).copied();
    let cpu = |uid, id, flags: u32, wide| Entry::Cpu {
        uid,
        id: ApicId(id),
        enabled: flags & FLAG_ENABLED != 0,
        online_capable: revision < 5 || flags & FLAG_ONLINE_CAPABLE != 0,
        wide,
    };
    Some(match byte(0)? {
        0 => cpu(byte(2)?.into(), byte(3)?.into(), u32_at(entry, 4)?, false),
        1 => Entry::IoApic(IoApic { addr: u32_at(entry, 4)?, base: u32_at(entry, 8)? }),
        2 => {
            let (irq, to, flags) = (byte(3)?, u32_at(entry, 4)?, u16_at(entry, 8)?);
            Entry::Moved { irq, to, signal: signal(flags) }
        }
        4 => {
            let (uid, flags, pin) = (byte(2)?, u16_at(entry, 3)?, byte(5)?);
            Entry::Nmi { uid: (uid != 0xff).then_some(uid.into()), lint: lint(flags, pin) }
        }
        5 => Entry::LocalApic(u64_at(entry, 4)?),
        9 => cpu(u32_at(entry, 12)?, u32_at(entry, 4)?, u32_at(entry, 8)?, true),
        10 => {
            let (flags, uid, pin) = (u16_at(entry, 2)?, u32_at(entry, 4)?, byte(8)?);
            Entry::Nmi { uid: (uid != u32::MAX).then_some(uid), lint: lint(flags, pin) }
        }
        kind => Entry::Other(kind),
    })
}

/// A pin from its number (Linux, too, takes everything but 0 for 1) and its
/// signal.
fn lint(flags: u16, pin: u8) -> Lint {
    Lint {
        pin: if pin == 0 { LintPin::Lint0 } else { LintPin::Lint1 },
        active_low: signal(flags).active_low,
        level: signal(flags).level,
    }
}

/// Polarity and trigger mode; by default as an ISA bus has it.
fn signal(flags: u16) -> Signal {
    Signal { active_low: flags & 0b11 == 0b11, level: flags >> 2 & 0b11 == 0b11 }
}
