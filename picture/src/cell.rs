//! A cell: a pageblock, or some next to each other where there are too many.

use crate::look::{Colour, RESERVED, shade};
use core::fmt;
use mm::census::{Pageblock, Usage};
use mm::types::{MigrateType, NR_MIGRATETYPES, PAGEBLOCK_PAGES};

/// What a cell shows of one or more pageblocks.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Cell {
    /// Pageblocks by migratetype.
    types: [u32; NR_MIGRATETYPES],
    /// Pages that somebody may be given or has been given.
    managed: u64,
    free: u64,
    splintered: u64,
}

impl Cell {
    /// Counts a pageblock in.
    pub fn add(&mut self, block: &Pageblock) {
        let lost = [Usage::Reserved, Usage::Hole, Usage::Bad].map(|usage| block.pages(usage));
        self.types[block.ty.index()] += 1;
        self.managed += PAGEBLOCK_PAGES - lost.iter().sum::<u64>();
        self.free += block.pages(Usage::Free) + block.pages(Usage::Pcp);
        self.splintered += block.splintered();
    }

    /// The type of most of its pageblocks; of several, the first. None if it has
    /// none.
    pub fn migratetype(&self) -> Option<MigrateType> {
        let most = self.types.iter().copied().max().filter(|&most| most > 0)?;
        MigrateType::ALL.into_iter().find(|ty| self.types[ty.index()] == most)
    }

    /// Its colour: that of its type, the darker the more of it is in use; grey
    /// if it was never anybody's to have. None if it has no pageblock.
    pub fn colour(&self) -> Option<Colour> {
        let ty = self.migratetype()?;
        let used = self.managed.saturating_sub(self.free);
        Some(if self.managed == 0 { RESERVED } else { shade(ty, used, self.managed) })
    }

    /// Edge of the mark, a square, in a cell with edges of `edge`: its part of
    /// the cell is that of the free pages which lie outside their pageblock's
    /// largest free piece. 0 where that is too little to see.
    pub fn mark(&self, edge: u64) -> u64 {
        let pages = u64::from(self.types.iter().sum::<u32>()) * PAGEBLOCK_PAGES;
        let part = (edge * edge * self.splintered).checked_div(pages).unwrap_or(0);
        match part.isqrt() {
            1 if edge > 6 => 0,
            mark => mark,
        }
    }
}

impl fmt::Display for Cell {
    /// Its pages, in words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} pages free", self.free, self.managed)?;
        if self.splintered > 0 {
            write!(f, ", {} of them beside the largest piece", self.splintered)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use mm::census::BlockRun;
    use std::format;

    fn cell(lines: &[&str]) -> Cell {
        let mut cell = Cell::default();
        for line in lines {
            let line = format!("0x0-0x1ff node=0 zone=DMA {line}");
            cell.add(&line.parse::<BlockRun>().expect("a block").block);
        }
        cell
    }

    #[test]
    fn it_shows_type_fullness_and_pieces() {
        let free = cell(&["type=Movable deferred"]);
        assert_eq!(free.colour(), Some(shade(MigrateType::Movable, 0, 512)));
        assert_eq!(free.mark(20), 0);
        let full = cell(&["type=CMA movable=512"]);
        assert_eq!(full.colour(), Some(shade(MigrateType::Cma, 512, 512)));
        assert_eq!(full.mark(20), 0);
        // Every second page is free: half the cell is marked.
        let splintered = cell(&["type=Movable free=256 pieces=256 largest=0 movable=256"]);
        assert_eq!(splintered.mark(20), 14);
        // One free half is no fragmentation in itself.
        let half = cell(&["type=Movable free=256 pieces=1 largest=8 movable=256"]);
        assert_eq!((half.mark(20), half.colour()), (0, splintered.colour()));
        assert_eq!(cell(&["type=Movable reserved=510 hole=2"]).colour(), Some(RESERVED));
        assert_eq!(Cell::default().colour(), None);
        assert_eq!(Cell::default().mark(20), 0);
        // What lies on CPUs' lists is free.
        assert_eq!(cell(&["type=Movable pcp=512"]).colour(), free.colour());
    }

    #[test]
    fn of_several_the_most_count() {
        let several = cell(&["type=Movable deferred", "type=CMA slab=512", "type=CMA slab=512"]);
        assert_eq!(several.migratetype(), Some(MigrateType::Cma));
        assert_eq!(several.colour(), Some(shade(MigrateType::Cma, 1024, 1536)));
    }
}
