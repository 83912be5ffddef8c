//! What memory blocks there are and what can be done with them, for listings
//! (Linux `/sys/devices/system/memory`), and what the audit knows of them. May
//! call: `contig`'s walk, `memmap`, the rest of this module.

use super::{MEMORY_BLOCK_ORDER, memory_block};
use crate::audit::{AuditError, Auditor};
use crate::contig::{Purpose, first_fixed, pageblocks};
use crate::mm::Mm;
use crate::platform::Platform;
use crate::types::{MigrateType, NodeId, PAGEBLOCK_PAGES, Pfn, PfnRange, ZoneKind};

/// Whether a memory block is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockState {
    /// Some of it is, in that zone; in None if it lies in several.
    Online(Option<ZoneKind>),
    /// None of it; where it could go, the zone first that it would go to if
    /// nobody says otherwise.
    Offline([ZoneKind; 2]),
}

/// A memory block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryBlock {
    /// Its frames, whether they are all RAM or not.
    pub range: PfnRange,
    /// The node of its first pageblock with RAM.
    pub node: NodeId,
    /// Whether it is in use.
    pub state: BlockState,
    /// Pages of pageblocks with RAM.
    pub pages: u64,
    /// Of these, pages in pageblocks that are out of use.
    pub offline: u64,
    /// Of these, pages that their device does not lend out.
    pub unplugged: u64,
    /// It came after the boot.
    pub added: bool,
}

impl MemoryBlock {
    /// Its number, by which it is named.
    pub const fn number(&self) -> u64 {
        self.range.start.0 >> MEMORY_BLOCK_ORDER.0
    }
}

impl<P: Platform> Mm<P> {
    /// The memory block with that number, if it has RAM. Needs no lock: a hint
    /// on a running machine.
    pub fn memory_block(&self, number: u64) -> Option<MemoryBlock> {
        let start = Pfn(number.checked_mul(super::MEMORY_BLOCK_PAGES)?);
        let range = memory_block(PfnRange::new(start, start));
        let (_, first) = self.map.described_blocks(range).next()?;
        let (mut pages, mut offline, mut unplugged, mut known) = (0, 0, 0, 0);
        for (_, word) in self.map.described_blocks(range) {
            let count = |yes: bool| if yes { PAGEBLOCK_PAGES } else { 0 };
            pages += PAGEBLOCK_PAGES;
            offline += count(word.is_offline());
            unplugged += count(!word.is_plugged());
            known += count(word.is_known());
        }
        let state = if known == 0 {
            BlockState::Offline(self.zones_to_join(range)?)
        } else {
            let zone = self.zone_of_memory_block(range).and_then(|zone| self.zones.get(zone));
            BlockState::Online(zone.map(|zone| zone.kind))
        };
        let (node, added) = (first.node(), first.is_added());
        Some(MemoryBlock { range, node, state, pages, offline, unplugged, added })
    }

    /// All memory blocks with RAM, lowest first. Context as
    /// [`memory_block`](Self::memory_block).
    pub fn memory_blocks(&self) -> impl Iterator<Item = MemoryBlock> + '_ {
        let mut from = Pfn(0);
        core::iter::from_fn(move || {
            let rest = PfnRange::new(from, self.map.end());
            let (pfn, _) = self.map.described_blocks(rest).next()?;
            let block = memory_block(PfnRange::new(pfn, pfn));
            from = block.end;
            self.memory_block(block.start.0 >> MEMORY_BLOCK_ORDER.0)
        })
    }

    /// Whether putting the block out of use is worth a try: whether it is in one
    /// zone, without holes, and nothing in it stays whatever is tried. Context as
    /// [`memory_block`](Self::memory_block).
    pub fn is_removable(&self, block: &MemoryBlock) -> bool {
        let _walk = self.look_around();
        let movable = |pfn| {
            let whole = PfnRange::sized(pfn, PAGEBLOCK_PAGES);
            match self.map.info(pfn) {
                // Not in use.
                None => true,
                Some(word) if word.is_offline() || !word.is_populated() => true,
                Some(word) if word.migratetype() == MigrateType::Cma => false,
                Some(_) => first_fixed(&self.map, whole, Purpose::Offline).is_none(),
            }
        };
        block.pages == block.range.pages()
            && block.state != BlockState::Online(None)
            && pageblocks(block.range).all(movable)
    }

    /// A memory block of no zone has nothing in use, one of a zone something, and
    /// is in one zone, unless it was not when the machine booted.
    pub(crate) fn audit_hotplug(&self, auditor: &mut Auditor) -> Result<(), AuditError> {
        for block in self.memory_blocks() {
            let at = Some(block.range.start);
            let mut known = 0;
            for (_, word) in self.map.described_blocks(block.range) {
                known += u64::from(word.is_known());
                let plugged = word.is_plugged() || word.is_offline();
                auditor.equal("memory in use that was not plugged", at, 1, u64::from(plugged))?;
            }
            let all = block.pages / PAGEBLOCK_PAGES;
            let together = known == 0 || known == all;
            auditor.equal("pageblocks of a memory block in a zone", at, 1, u64::from(together))?;
            let idle = block.pages == block.offline;
            let one_zone = self.zone_of_memory_block(block.range).is_some();
            auditor.equal(
                "a memory block out of use and in no zone",
                at,
                u64::from(idle && (known == 0 || one_zone)),
                u64::from(known == 0),
            )?;
        }
        Ok(())
    }
}
