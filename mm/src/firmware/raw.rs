//! The firmware's entries as they come, in a table of fixed size.

use super::{Mem, RegionKind, Warning};
use crate::table::Table;
use core::fmt;

/// An entry of a firmware map: the bytes from `start` to before `end`. Nothing
/// is promised: it may be empty (`start == end`), wrap (`end < start`), and
/// overlap others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawRegion {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// What it is said to be.
    pub kind: RegionKind,
}

impl RawRegion {
    /// An empty entry, to fill a table with.
    pub const EMPTY: Self = Self { start: 0, end: 0, kind: RegionKind::Reserved };

    /// The entry `[start, end)`.
    pub const fn new(start: u64, end: u64, kind: RegionKind) -> Self {
        Self { start, end, kind }
    }

    /// The entry from `start` to `last` inclusive, as maps are printed. The last
    /// byte of the 64-bit address space cannot be said in half-open form and is
    /// left out, unless the entry begins at 0: then it is what an empty one
    /// prints as.
    pub const fn inclusive(start: u64, last: u64, kind: RegionKind) -> Self {
        let end = if last == u64::MAX && start != 0 { last } else { last.wrapping_add(1) };
        Self { start, end, kind }
    }

    /// The bytes, for printing.
    pub const fn mem(self) -> Mem {
        Mem { start: self.start, end: self.end }
    }

    /// Length in bytes; 0 for an entry that wraps.
    pub const fn len(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether `start == end`.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether the end lies before the start.
    pub const fn wraps(self) -> bool {
        self.end < self.start
    }
}

/// Linux's line in the boot log.
impl fmt::Display for RawRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BIOS-e820: {} {}", self.mem(), self.kind)
    }
}

/// A firmware map being collected. When the table is full, usable entries give
/// way to others, the smallest first: what is lost is RAM, never the word that
/// something is not RAM.
#[derive(Debug)]
pub struct RawMap<'a> {
    entries: Table<'a, RawRegion>,
    lost: usize,
}

impl<'a> RawMap<'a> {
    /// An empty map in the slice given, whose contents do not matter.
    pub const fn new(slots: &'a mut [RawRegion]) -> Self {
        Self { entries: Table::new(slots), lost: 0 }
    }

    /// Adds an entry, or loses RAM (see [`lost`](Self::lost)).
    pub fn push(&mut self, entry: RawRegion) {
        if self.entries.push(entry) {
            return;
        }
        self.lost += 1;
        // Least dear first: usable entries by size, then the loader's (without
        // usable entries nothing of theirs can be managed by mistake). When
        // neither is left there is no RAM, and no entry matters any more.
        let worth = |e: &RawRegion| {
            let rank = match e.kind {
                RegionKind::Usable => 0,
                RegionKind::Bootloader if !e.wraps() => 1,
                _ => 2,
            };
            (rank, e.len(), e.start, e.end)
        };
        let cheapest = (0..self.entries.len()).min_by_key(|&i| worth(&self.entries[i]));
        if let Some(i) = cheapest
            && worth(&self.entries[i]) < worth(&entry)
        {
            self.entries[i] = entry;
        }
    }

    /// The entries so far, in the order in which they came.
    pub fn entries(&self) -> &[RawRegion] {
        &self.entries
    }

    /// The entries, to be changed in place.
    pub(super) fn entries_mut(&mut self) -> &mut [RawRegion] {
        &mut self.entries
    }

    /// Forgets the entries that `keep` refuses.
    pub(super) fn retain(&mut self, keep: impl Fn(&RawRegion) -> bool) {
        let mut kept = 0;
        for i in 0..self.entries.len() {
            if keep(&self.entries[i]) {
                self.entries[kept] = self.entries[i];
                kept += 1;
            }
        }
        self.entries.truncate(kept);
    }

    /// Forgets all entries.
    pub fn clear(&mut self) {
        self.entries.truncate(0);
    }

    /// Entries for which there was no room.
    pub const fn lost(&self) -> usize {
        self.lost
    }

    /// The collected entries, after a warning if some were lost.
    pub fn finish(self, warn: &mut dyn FnMut(Warning)) -> &'a mut [RawRegion] {
        if self.lost > 0 {
            warn(Warning::TooManyEntries { room: self.entries.len(), lost: self.lost });
        }
        self.entries.into_slice()
    }
}
