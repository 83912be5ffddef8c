//! What a range is used for, for a device's driver that looks for memory it can
//! give back at little cost. May call: `contig`'s walk, `memmap`.

use crate::contig::heads;
use crate::mm::Mm;
use crate::page::PageType;
use crate::platform::Platform;
use crate::types::{PAGEBLOCK_PAGES, PfnRange, ZoneKind};

/// What is done with a range of RAM.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RangeUse {
    /// None of it is in use by the manager.
    Offline,
    /// What of it is in use is free.
    Free,
    /// Something in it is allocated.
    Allocated,
}

impl<P: Platform> Mm<P> {
    /// What is done with `range`, whole pageblocks of RAM. Needs no lock: a hint
    /// on a running machine.
    pub fn range_use(&self, range: PfnRange) -> RangeUse {
        let mut result = RangeUse::Offline;
        let _walk = self.look_around();
        for (block, word) in self.map.described_blocks(range) {
            if word.is_offline() || !word.is_known() {
                continue;
            }
            result = RangeUse::Free;
            // What has no descriptors yet is free.
            let mut heads = heads(&self.map, PfnRange::sized(block, PAGEBLOCK_PAGES));
            // Bad memory that is out of use goes as it is.
            let free = |ty| matches!(ty, PageType::Buddy | PageType::Pcp | PageType::Poisoned);
            if word.is_populated() && heads.any(|(_, head)| !free(head.ty())) {
                return RangeUse::Allocated;
            }
        }
        result
    }

    /// Whether all of `range` that is in use lies in zone Movable, and some does.
    pub fn is_in_zone_movable(&self, range: PfnRange) -> bool {
        let mut zones = self
            .map
            .described_blocks(range)
            .filter(|(_, word)| word.is_known())
            .map(|(_, word)| word.zone_kind())
            .peekable();
        zones.peek().is_some() && zones.all(|kind| kind == ZoneKind::Movable)
    }
}
