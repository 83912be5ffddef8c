//! What can be wrong with a firmware's map, one value per oddity.

use super::{Mem, RegionKind};
use core::fmt;

/// Something odd in a firmware's map, and what was done about it. Displays as
/// one line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Warning {
    /// An entry without a byte; ignored.
    Empty {
        /// The entry.
        mem: Mem,
        /// Its kind.
        kind: RegionKind,
    },
    /// An entry of RAM whose end lies before its start; dropped.
    WrapDropped {
        /// The entry.
        mem: Mem,
        /// Its kind.
        kind: RegionKind,
    },
    /// Another entry whose end lies before its start; taken to reach to the top
    /// of the address space.
    WrapClamped {
        /// The entry.
        mem: Mem,
        /// Its kind.
        kind: RegionKind,
    },
    /// Addresses that the CPU does not have; cut off.
    BeyondWidth {
        /// The range as it was.
        mem: Mem,
        /// Its kind.
        kind: RegionKind,
        /// Width of a physical address.
        phys_bits: u32,
    },
    /// A type without a meaning; taken as reserved.
    UnknownKind {
        /// The range.
        mem: Mem,
        /// The type number.
        number: u32,
    },
    /// Listed more than once with the same kind.
    Repeated {
        /// The part that is listed again.
        mem: Mem,
        /// Its kind.
        kind: RegionKind,
    },
    /// Listed with kinds that contradict each other.
    Conflict {
        /// The part they disagree about.
        mem: Mem,
        /// The least of the kinds.
        low: RegionKind,
        /// The greatest of the kinds: it is believed.
        high: RegionKind,
    },
    /// RAM above 1 MiB that does not begin and end at page borders; the rest of
    /// the pages at its ends is not used. (Below 1 MiB a PC's BIOS data area
    /// ends where it likes.)
    PartialPage {
        /// The RAM before rounding.
        mem: Mem,
    },
    /// RAM that holds no whole page; dropped.
    NoWholePage {
        /// The RAM before rounding.
        mem: Mem,
    },
    /// More entries than the table has room for; RAM was left out.
    TooManyEntries {
        /// Entries kept.
        room: usize,
        /// Entries lost.
        lost: usize,
    },
    /// More ranges than the result has room for; nothing from here up is used.
    TooManyRanges {
        /// The first byte left out.
        start: u64,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Empty { mem, kind } => write!(f, "{mem} {kind}: empty, ignored"),
            Self::WrapDropped { mem, kind } => {
                write!(f, "{mem} {kind}: ends before it starts, dropped")
            }
            Self::WrapClamped { mem, kind } => {
                write!(f, "{mem} {kind}: ends before it starts, taken to reach to the top")
            }
            Self::BeyondWidth { mem, kind, phys_bits } => {
                write!(f, "{mem} {kind}: beyond {phys_bits} bits of address, cut off")
            }
            Self::UnknownKind { mem, number } => {
                write!(f, "{mem} type {number}: unknown type, taken as reserved")
            }
            Self::Repeated { mem, kind } => write!(f, "{mem} {kind}: listed more than once"),
            Self::Conflict { mem, low, high } => {
                write!(f, "{mem} is listed as {low} and as {high}: taken as {high}")
            }
            Self::PartialPage { mem } => write!(f, "{mem} usable: not whole pages, rounded"),
            Self::NoWholePage { mem } => write!(f, "{mem} usable: holds no whole page, dropped"),
            Self::TooManyEntries { room, lost } => write!(
                f,
                "the map has {lost} entries more than the {room} there is room for: RAM is left out"
            ),
            Self::TooManyRanges { start } => {
                write!(f, "the map has too many ranges: nothing from {start:#x} up is used")
            }
        }
    }
}
