//! The firmware's memory map: from entries in any order, overlapping and
//! wrapping, to sorted and disjoint ranges, and from those to zones. Pure: no
//! statics, no allocation, all tables the caller's. Calls `types`, `table` and,
//! to fill it, `early`.
//!
//! The way of a map: entries are pushed into a [`RawMap`], the command line's
//! edits are applied to it ([`MapEdit`]), [`sanitize`] makes a [`Map`] of it,
//! [`populate`] fills [`EarlyMem`](crate::early::EarlyMem) from that, and
//! [`numa::Topology`] says which node has what, and [`ZoneLayout`] where the
//! zones lie.

mod e820;
mod edit;
mod kind;
pub mod numa;
mod populate;
mod raw;
mod report;
mod sanitize;
mod warning;
mod zones;

pub use e820::{LineError, parse_e820_line, parse_kind};
pub use edit::{MapEdit, apply_edits};
pub use kind::RegionKind;
pub use populate::{MAX_PFN, MIN_RAM_BYTES, TooLittleRam, check_ram, populate, reserve_bootloader};
pub use raw::{RawMap, RawRegion};
pub use report::{MemoryLine, report_nodes, report_ram, report_total, report_zones};
pub use sanitize::{Map, Region, sanitize};
pub use warning::Warning;
pub use zones::{CoreSize, DMA_END, DMA32_END, MovableSplit, ZoneLayout};

use core::fmt;

/// The width of physical addresses when nobody says: what the architecture
/// allows at most.
pub const MAX_PHYS_BITS: u32 = 52;

/// A range of physical bytes as Linux prints it, its end inclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mem {
    /// First byte.
    pub start: u64,
    /// One past the last byte; equal to `start` for an empty range.
    pub end: u64,
}

impl fmt::Display for Mem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Half-open form cannot say the last byte of all: see RawRegion::inclusive.
        let last = if self.end == u64::MAX { u64::MAX } else { self.end.wrapping_sub(1) };
        write!(f, "[mem {:#018x}-{last:#018x}]", self.start)
    }
}
