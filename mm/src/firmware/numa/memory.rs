//! Nodes' memory: ranges from the tables, checked against each other and
//! against the RAM there is, and joined where they are one (Linux
//! `numa_cleanup_meminfo`).

use super::{Flaw, NumaNote, Tell};
use crate::early::RamRange;
use crate::table::Table;
use crate::types::{NodeId, PAGE_SHIFT, Pfn, PfnRange};

/// A range of addresses on one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryAffinity {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// Where it is.
    pub node: NodeId,
}

/// RAM that may be on no node at all, in pages: 1 MiB. Firmware keeps some for
/// itself and forgets it here.
const SLACK: u64 = 1 << (20 - PAGE_SHIFT);

impl MemoryAffinity {
    /// Something to fill a table with.
    pub const EMPTY: Self = Self { start: 0, end: 0, node: NodeId(0) };

    pub(super) fn new(start: u64, bytes: u64, node: NodeId) -> Result<Self, Flaw> {
        let end = start.checked_add(bytes).ok_or(Flaw::Wraps { start })?;
        Ok(Self { start, end, node })
    }

    /// The frames that begin in the range.
    pub(super) fn frames(&self) -> PfnRange {
        PfnRange::new(Pfn::containing(self.start), Pfn::containing(self.end))
    }
}

/// The ranges as they come, sorted.
#[derive(Debug)]
pub(super) struct Memory<'a>(Table<'a, MemoryAffinity>);

impl<'a> Memory<'a> {
    pub(super) fn new(room: &'a mut [MemoryAffinity]) -> Self {
        Self(Table::new(room))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes a range in; an empty one does not count.
    pub(super) fn add(&mut self, new: MemoryAffinity, tell: Tell<'_>) -> Result<(), Flaw> {
        if new.start == new.end {
            return Ok(());
        }
        let at = self.0.partition_point(|m| m.start <= new.start);
        // Sorted by where they begin: of those below only the one that reaches
        // furthest would do, but there are few.
        for old in self.0.iter().filter(|old| old.start < new.end && new.start < old.end) {
            if old.node != new.node {
                return Err(Flaw::Overlap { first: *old, second: new });
            }
            tell(NumaNote::Overlap { first: *old, second: new });
        }
        if self.0.insert(at, new) {
            Ok(())
        } else {
            Err(Flaw::TooManyRanges { room: self.0.capacity() })
        }
    }

    /// Leaves out what has no RAM, joins what belongs together, and sees
    /// whether all RAM is on some node.
    pub(super) fn settle(
        mut self,
        ram: &[RamRange],
        tell: Tell<'_>,
    ) -> Result<Table<'a, MemoryAffinity>, Flaw> {
        let low = ram.first().map_or(0, |r| r.range.start.addr());
        let high = ram.last().map_or(0, |r| r.range.end.addr());
        let mut kept = 0;
        for i in 0..self.0.len() {
            let mut block = self.0[i];
            block.start = block.start.max(low);
            block.end = block.end.min(high);
            if block.start >= block.end || ram_in(ram, block.frames()) == 0 {
                // Where memory may be plugged in one day.
                continue;
            }
            // Nothing of another node lies between, for they are sorted.
            if let Some(before) = self.0[..kept].last_mut()
                && before.node == block.node
            {
                let whole = MemoryAffinity { end: before.end.max(block.end), ..*before };
                tell(NumaNote::Joined { first: *before, second: block, whole });
                *before = whole;
                continue;
            }
            self.0[kept] = block;
            kept += 1;
        }
        self.0.truncate(kept);
        let total: u64 = ram.iter().map(|r| r.range.pages()).sum();
        let covered: u64 = self.0.iter().map(|m| ram_in(ram, m.frames())).sum();
        let missing = total.saturating_sub(covered);
        if missing >= SLACK || kept == 0 {
            return Err(Flaw::NotCovered { pages: missing, total });
        }
        Ok(self.0)
    }
}

/// RAM in `range`, in pages.
fn ram_in(ram: &[RamRange], range: PfnRange) -> u64 {
    ram.iter().map(|r| r.range.intersect(range).pages()).sum()
}
