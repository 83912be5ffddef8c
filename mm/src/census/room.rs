//! How much of the free memory that could be whole is whole: what compaction in
//! the background is for, in one number. May call: `census`.

use super::{Pageblock, Usage};
use crate::mm::Mm;
use crate::platform::Platform;
use crate::types::{MigrateType, PAGEBLOCK_PAGES, Pfn, PfnRange};

/// Free memory in pageblocks where nothing stays, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MovableRoom {
    /// Free, on per-CPU lists too.
    pub free: u64,
    /// Of these, pages of free blocks of a pageblock or more.
    pub whole: u64,
}

impl MovableRoom {
    /// The whole ones in hundredths, rounded down; 100 if nothing is free.
    pub const fn percent(&self) -> u64 {
        match (self.whole * 100).checked_div(self.free) {
            Some(percent) => percent,
            None => 100,
        }
    }

    /// Counts a pageblock, unless something in it stays or it is kept for others
    /// than programs.
    fn add(&mut self, block: &Pageblock) {
        let kept = matches!(block.ty, MigrateType::HighAtomic | MigrateType::Isolate);
        let moves = [Usage::Free, Usage::Pcp, Usage::Movable, Usage::Unsettled];
        let moving: u64 = moves.iter().map(|&usage| block.pages(usage)).sum();
        if kept || moving < PAGEBLOCK_PAGES {
            return;
        }
        self.free += block.pages(Usage::Free) + block.pages(Usage::Pcp);
        self.whole += if block.is_whole() { PAGEBLOCK_PAGES } else { 0 };
    }
}

impl<P: Platform> Mm<P> {
    /// The free memory that lies in pageblocks without any page that cannot be
    /// moved, and how much of it can be had in blocks of 2 MiB. Context as
    /// [`pageblock_census`](Self::pageblock_census).
    pub fn movable_room(&self) -> MovableRoom {
        let mut room = MovableRoom::default();
        for (_, block) in self.pageblocks(PfnRange::new(Pfn(0), self.map().end())) {
            room.add(&block);
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::census::BlockRun;

    #[test]
    fn blocks_with_pages_that_stay_do_not_count() {
        let mut room = MovableRoom::default();
        assert_eq!(room.percent(), 100);
        for (text, free, whole) in [
            ("0x0-0x1ff node=0 zone=DMA32 type=Movable free=512 pieces=1 largest=9", 512, 512),
            ("0x0-0x1ff node=0 zone=DMA32 type=CMA deferred", 1024, 1024),
            ("0x0-0x1ff node=0 zone=DMA32 type=Movable free=512 pieces=2 largest=8", 1536, 1024),
            (
                "0x0-0x1ff node=0 zone=DMA32 type=Unmovable free=400 pcp=12 movable=100 pieces=13 largest=5",
                1948,
                1024,
            ),
            ("0x0-0x1ff node=0 zone=DMA32 type=Movable free=511 kernel=1 pieces=9 largest=8", 0, 0),
            ("0x0-0x1ff node=0 zone=DMA32 type=Movable slab=1 movable=511", 0, 0),
            ("0x0-0x1ff node=0 zone=DMA32 type=HighAtomic free=512 pieces=1 largest=9", 0, 0),
            ("0x0-0x1ff node=0 zone=DMA32 type=Movable free=112 hole=400 pieces=9 largest=6", 0, 0),
        ] {
            let before = room;
            room.add(&text.parse::<BlockRun>().expect("a line").block);
            let expected = if free == 0 { before } else { MovableRoom { free, whole } };
            assert_eq!(room, expected, "{text}");
        }
        assert_eq!(room.percent(), 52);
    }
}
