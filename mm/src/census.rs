//! What is in each pageblock: how many of its pages are free and in what pieces,
//! and what the others are used for. For pictures and for those who want to see
//! where fragmentation sits; its text is a file of `proc`. May call: `memmap`,
//! `page`.

mod room;

pub use room::MovableRoom;

use crate::mm::Mm;
use crate::page::{HeadWord, PageDesc, PageType};
use crate::platform::Platform;
use crate::types::{
    MAX_NODES, MigrateType, NR_ZONES, NodeId, Order, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, Pfn,
    PfnRange, ZoneKind,
};
use core::fmt;

/// What a page is used for, as far as a census tells it apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Usage {
    /// In a free block of the buddy.
    Free = 0,
    /// Free, on a per-CPU list or held back for a moment.
    Pcp = 1,
    /// Allocated and staying where it is, large `kmalloc`s too.
    Kernel = 2,
    /// In a slab.
    Slab = 3,
    /// Allocated, and its owner can be asked to move it.
    Movable = 4,
    /// Part of a contiguous allocation.
    Contig = 5,
    /// RAM that never came to the buddy.
    Reserved = 6,
    /// Not RAM.
    Hole = 7,
    /// Found bad, or taken out of use.
    Bad = 8,
    /// Changed hands while it was looked at.
    Unsettled = 9,
}

/// Number of usages.
pub const NR_USAGES: usize = 10;

impl Usage {
    /// All usages in index order.
    pub const ALL: [Self; NR_USAGES] = [
        Self::Free,
        Self::Pcp,
        Self::Kernel,
        Self::Slab,
        Self::Movable,
        Self::Contig,
        Self::Reserved,
        Self::Hole,
        Self::Bad,
        Self::Unsettled,
    ];

    /// Its key in the census' text.
    pub const fn name(self) -> &'static str {
        [
            "free",
            "pcp",
            "kernel",
            "slab",
            "movable",
            "contig",
            "reserved",
            "hole",
            "bad",
            "unsettled",
        ][self as usize]
    }

    const fn of(ty: PageType) -> Self {
        match ty {
            PageType::Tail => Self::Unsettled,
            PageType::Buddy => Self::Free,
            PageType::Pcp | PageType::Held => Self::Pcp,
            PageType::Kernel | PageType::LargeKmalloc => Self::Kernel,
            PageType::Slab => Self::Slab,
            PageType::Lru | PageType::Movable => Self::Movable,
            PageType::Contig => Self::Contig,
            PageType::Reserved => Self::Reserved,
            PageType::Hole => Self::Hole,
            PageType::Offline | PageType::Poisoned => Self::Bad,
        }
    }
}

/// A pageblock's census.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pageblock {
    /// The node it belongs to.
    pub node: NodeId,
    /// The kind of its zone.
    pub zone: ZoneKind,
    /// Its migratetype.
    pub ty: MigrateType,
    /// Free since boot: its pages have no descriptors yet.
    pub deferred: bool,
    /// Free blocks that its free pages make, one that reaches into the next
    /// pageblock among them.
    pub pieces: u16,
    /// Order of the largest of them, at most that of the pageblock; None if
    /// nothing is free.
    pub largest: Option<Order>,
    /// Pages by usage.
    pages: [u16; NR_USAGES],
}

impl Pageblock {
    /// A block with no page counted yet.
    const fn empty(node: NodeId, zone: ZoneKind, ty: MigrateType) -> Self {
        let pages = [0; NR_USAGES];
        Self { node, zone, ty, deferred: false, pieces: 0, largest: None, pages }
    }

    /// Its pages of that usage.
    pub const fn pages(&self, usage: Usage) -> u64 {
        self.pages[usage as usize] as u64
    }

    /// Whether all of it is one free piece.
    pub const fn is_whole(&self) -> bool {
        self.pages(Usage::Free) == PAGEBLOCK_PAGES && self.pieces == 1
    }

    /// Free pages outside the largest free piece: what is free, and yet of no
    /// use to a request that large.
    pub const fn splintered(&self) -> u64 {
        match self.largest {
            Some(order) => self.pages(Usage::Free).saturating_sub(order.pages()),
            None => 0,
        }
    }

    fn count(&mut self, ty: PageType, order: Order, pages: u64) {
        let usage = match Usage::of(ty) {
            // It has changed since: no free block reaches over a border.
            Usage::Free if order.min(PAGEBLOCK_ORDER).pages() != pages => Usage::Unsettled,
            usage => usage,
        };
        // No more than a pageblock's.
        self.pages[usage as usize] += pages as u16;
        if usage == Usage::Free {
            self.pieces += 1;
            self.largest = self.largest.max(Some(order.min(PAGEBLOCK_ORDER)));
        }
    }
}

impl<P: Platform> Mm<P> {
    /// The census of the pageblock that holds `pfn`; None if that has no RAM.
    /// Needs no lock and writes nothing: on a running machine it is a hint.
    pub fn pageblock_census(&self, pfn: Pfn) -> Option<Pageblock> {
        let start = pfn.pageblock();
        let _walk = self.look_around();
        let info = self.map.info(start)?;
        let zone = ZoneKind::ALL[info.zone_index() % NR_ZONES];
        let mut block = Pageblock::empty(info.node(), zone, info.migratetype());
        if !info.is_populated() {
            block.deferred = true;
            block.count(PageType::Buddy, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES);
            return Some(block);
        }
        let end = start.add(PAGEBLOCK_PAGES);
        // A block of the largest order may have begun in the pageblock before.
        let reaching = self.map.head_of(start).filter(|(head, _)| *head < start);
        let mut at = start;
        if let Some((head, word)) = reaching {
            at = head.add(word.order().pages()).min(end);
            block.count(word.ty(), word.order(), at.0 - start.0);
        }
        while at < end {
            let word = self.map.try_page(at).map_or(HeadWord::TAIL, PageDesc::head);
            // A word of a block that has just changed may say anything.
            let next = at.add(word.order().pages()).min(end);
            block.count(word.ty(), word.order(), next.0 - at.0);
            at = next;
        }
        Some(block)
    }

    /// The census of each pageblock that `range` touches, lowest first; those
    /// without RAM are left out. Context as
    /// [`pageblock_census`](Self::pageblock_census).
    pub fn pageblocks(&self, range: PfnRange) -> impl Iterator<Item = (Pfn, Pageblock)> {
        let blocks = self.map.known_blocks(range);
        blocks.filter_map(|(pfn, _)| Some((pfn, self.pageblock_census(pfn)?)))
    }

    /// Runs of equal pageblocks of the whole machine, lowest first; blocks
    /// without RAM are left out. Context as
    /// [`pageblock_census`](Self::pageblock_census).
    pub fn pageblock_runs(&self) -> impl Iterator<Item = BlockRun> {
        let mut blocks = self.pageblocks(PfnRange::new(Pfn(0), self.map.end())).peekable();
        core::iter::from_fn(move || {
            let (start, block) = blocks.next()?;
            let mut end = start.add(PAGEBLOCK_PAGES);
            while blocks.next_if_eq(&(end, block)).is_some() {
                end = end.add(PAGEBLOCK_PAGES);
            }
            Some(BlockRun { range: PfnRange::new(start, end), block })
        })
    }
}

/// Pageblocks in a row with the same census, each of them. Its text is a line of
/// the file, and can be parsed again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockRun {
    /// The frames, whole pageblocks.
    pub range: PfnRange,
    /// The census of each.
    pub block: Pageblock,
}

impl BlockRun {
    /// Number of pageblocks.
    pub const fn blocks(&self) -> u64 {
        self.range.pages() / PAGEBLOCK_PAGES
    }
}

impl fmt::Display for BlockRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { range, block } = self;
        write!(f, "{}-{:#x} node={}", range.start, range.end.0 - 1, block.node.0)?;
        write!(f, " zone={} type={}", block.zone.name(), block.ty.name())?;
        if block.deferred {
            return f.write_str(" deferred");
        }
        for usage in Usage::ALL {
            if block.pages(usage) > 0 {
                write!(f, " {}={}", usage.name(), block.pages(usage))?;
            }
            if let (Usage::Free, Some(largest)) = (usage, block.largest) {
                write!(f, " pieces={} largest={largest}", block.pieces)?;
            }
        }
        Ok(())
    }
}

/// Why a line is no run of pageblocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotARun(&'static str);

impl fmt::Display for NotARun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl core::error::Error for NotARun {}

impl core::str::FromStr for BlockRun {
    type Err = NotARun;

    /// Reads a line that [`Display`](fmt::Display) wrote.
    ///
    /// # Errors
    /// What is wrong with it; counts that contradict each other are.
    fn from_str(line: &str) -> Result<Self, NotARun> {
        let mut words = line.split_ascii_whitespace();
        let range = parse_range(words.next().unwrap_or(""))?;
        let mut value = |key: &str, wrong| {
            let value = words.next().and_then(|word| word.strip_prefix(key));
            value.ok_or(NotARun(wrong))
        };
        let node = value("node=", "want node= after the frames")?;
        let node = node.parse().map_err(|_| NotARun("the node is no number"))?;
        if usize::from(node) >= MAX_NODES {
            return Err(NotARun("no machine has so many nodes"));
        }
        let zone = value("zone=", "want zone= after the node")?;
        let zone = ZoneKind::ALL.into_iter().find(|kind| kind.name() == zone);
        let ty = value("type=", "want type= after the zone")?;
        let ty = MigrateType::ALL.into_iter().find(|known| known.name() == ty);
        let (Some(zone), Some(ty)) = (zone, ty) else {
            return Err(NotARun("an unknown zone or type"));
        };
        let mut block = Pageblock::empty(NodeId(node), zone, ty);
        for word in words {
            block.parse_count(word)?;
        }
        block.check()?;
        Ok(Self { range, block })
    }
}

/// Reads `0xFIRST-0xLAST`, whole pageblocks.
fn parse_range(text: &str) -> Result<PfnRange, NotARun> {
    let frame = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let ends = text.split_once('-').and_then(|(start, last)| Some((frame(start)?, frame(last)?)));
    let (start, last) = ends.ok_or(NotARun("want frames, as in 0x0-0x1ff"))?;
    if last >= crate::memmap::PFN_LIMIT.0 + PAGEBLOCK_PAGES {
        return Err(NotARun("the frames lie too high"));
    }
    let range = PfnRange::new(Pfn(start), Pfn(last + 1));
    let whole = range.start.is_aligned(PAGEBLOCK_ORDER) && range.end.is_aligned(PAGEBLOCK_ORDER);
    if !whole || range.is_empty() {
        return Err(NotARun("the frames are not whole pageblocks"));
    }
    Ok(range)
}

impl Pageblock {
    /// Reads `KEY=COUNT` or `deferred`.
    fn parse_count(&mut self, word: &str) -> Result<(), NotARun> {
        if word == "deferred" && !self.deferred {
            self.deferred = true;
            self.count(PageType::Buddy, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES);
            return Ok(());
        }
        let (key, count) = word.split_once('=').ok_or(NotARun("want KEY=COUNT"))?;
        let count: u16 = count.parse().map_err(|_| NotARun("a count is no number"))?;
        if u64::from(count) > PAGEBLOCK_PAGES {
            return Err(NotARun("a count is larger than a pageblock"));
        }
        match key {
            "pieces" => self.pieces = count,
            "largest" => self.largest = Some(Order(count.min(99) as u8)),
            _ => {
                let usage = Usage::ALL.into_iter().find(|usage| usage.name() == key);
                let usage = usage.ok_or(NotARun("an unknown key"))?;
                self.pages[usage as usize] = count;
            }
        }
        Ok(())
    }

    /// Whether its counts agree with each other.
    fn check(&self) -> Result<(), NotARun> {
        let sum: u64 = Usage::ALL.iter().map(|&usage| self.pages(usage)).sum();
        if sum != PAGEBLOCK_PAGES {
            return Err(NotARun("its pages are not as many as a pageblock has"));
        }
        let free = self.pages(Usage::Free);
        let fits = match self.largest {
            None => free == 0 && self.pieces == 0,
            Some(order) => {
                let others = u64::from(self.pieces).wrapping_sub(1);
                order <= PAGEBLOCK_ORDER
                    && self.pieces > 0
                    && order.pages().checked_add(others).is_some_and(|least| least <= free)
                    && free <= u64::from(self.pieces) * order.pages()
            }
        };
        if !fits || (self.deferred && !self.is_whole()) {
            return Err(NotARun("its free pages and their pieces contradict each other"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;
    use std::string::ToString;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        for line in [
            "0x0-0x1ff node=0 zone=DMA type=Unmovable free=10 pieces=3 largest=2 kernel=400 hole=102",
            "0x40000-0xfffff node=15 zone=Movable type=Isolate deferred",
            "0x200-0x3ff node=1 zone=DMA32 type=HighAtomic free=512 pieces=1 largest=9",
            "0x200-0x3ff node=1 zone=Normal type=CMA slab=510 unsettled=2",
        ] {
            assert_eq!(line.parse::<BlockRun>().unwrap().to_string(), line);
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let rest = "node=0 zone=DMA type=Movable";
        for line in [
            "",
            "0x0-0x1ff",
            "0-1ff node=0 zone=DMA type=Movable deferred",
            "0x1-0x200 node=0 zone=DMA type=Movable deferred",
            "0x200-0x1ff node=0 zone=DMA type=Movable deferred",
            "0x0-0xffffffffffffffff node=0 zone=DMA type=Movable deferred",
            "0x0-0x1ff node=16 zone=DMA type=Movable deferred",
            "0x0-0x1ff node=0 zone=DMA64 type=Movable deferred",
            "0x0-0x1ff zone=DMA node=0 type=Movable deferred",
        ] {
            assert!(line.parse::<BlockRun>().is_err(), "{line}");
        }
        for counts in [
            "",
            "free=512",
            "free=511 pieces=1 largest=9 kernel=1",
            "free=512 pieces=0 largest=9",
            "free=512 pieces=2 largest=9",
            "free=512 pieces=3 largest=7",
            "free=512 pieces=1 largest=10",
            "kernel=512 pieces=1",
            "kernel=513",
            "kernel=-1",
            "kernel",
            "cake=512",
            "deferred deferred",
            "deferred kernel=1",
        ] {
            let line = format!("0x0-0x1ff {rest} {counts}");
            assert!(line.parse::<BlockRun>().is_err(), "{line}");
        }
    }
}
