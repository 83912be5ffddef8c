//! What lies behind the memory map: frames for the descriptors and block words
//! of all RAM, taken once, from early memory, as near to what they describe as
//! can be and in runs that large pages can map. Descriptors are not touched
//! here. May call: `early`, `memmap`, `platform`.

use crate::early::EarlyMem;
use crate::firmware::{DMA_END, DMA32_END};
use crate::memmap::{MemMap, PFN_LIMIT};
use crate::platform::Platform;
use crate::setup::{Config, SetupError};
use crate::types::{
    MigrateType, NodeId, Order, PAGE_SIZE, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, Pfn, PfnRange,
    ZoneKind,
};

/// Name of the map's frames in early memory.
const NAME: &str = "memory map";
/// A large page of the processor's: 2 MiB.
const LARGE: Order = Order(9);

/// The memory map of all RAM in `early`, its frames reserved there: each
/// pageblock known, none populated; and how many frames those are.
///
/// # Errors
/// When there are too few frames, or the platform has no room.
pub(crate) fn make_map<P: Platform>(
    platform: &P,
    early: &mut EarlyMem<'_>,
    config: &Config,
) -> Result<(MemMap, u64), SetupError> {
    // Addresses cost nothing: there is room for memory that comes later.
    let limit = early.end_of_ram().max(config.hotplug_end.min(PFN_LIMIT));
    let pages = platform.memmap_base(0, MemMap::pages_bytes(limit)).ok_or(SetupError::NoSpace)?;
    let words = platform.memmap_base(1, MemMap::blocks_bytes(limit)).ok_or(SetupError::NoSpace)?;
    // SAFETY: the platform gave two arrays of that size to nobody else; parts
    // are backed below before they are added.
    let map = unsafe { MemMap::new(pages, words, limit) };
    let mut backer = Backer { platform, early, pages: 0 };
    // Where the block words that are backed end.
    let mut backed = words;
    let mut next = 0;
    while let Some((blocks, node)) = backer.next_blocks(&mut next) {
        let [(ptr, bytes), (words_ptr, words_bytes)] = map.backing(blocks);
        backer.back(ptr, ptr.addr() - pages.addr(), bytes, node)?;
        let words_end = words_ptr.wrapping_add(words_bytes);
        let words_start = words_ptr.max(backed);
        if words_start < words_end {
            let bytes = words_end.addr() - words_start.addr();
            backer.back(words_start, words_start.addr() - words.addr(), bytes, node)?;
            // SAFETY: backed just now; nobody else knows of it.
            unsafe { words_start.write_bytes(0, bytes) };
            backed = words_end;
        }
    }
    let taken = backer.pages;
    for ram in early.ram() {
        let movable = config.movable_start.get(usize::from(ram.node.0));
        let movable = movable.copied().unwrap_or(Pfn(u64::MAX));
        let mut at = ram.range.start.pageblock();
        // A block that two ranges share is the first one's.
        if map.info(at).is_some() {
            at = at.add(PAGEBLOCK_PAGES);
        }
        let end = ram.range.end.align_up(PAGEBLOCK_ORDER);
        while at < end {
            let kind = kind_of(at, movable);
            let next = [DMA_END, DMA32_END, movable].into_iter().filter(|&border| border > at);
            // A zone begins with a whole block.
            let next = next.min().map_or(end, |border| Pfn(border.0.min(end.0)));
            let blocks = PfnRange::new(at, next.align_up(PAGEBLOCK_ORDER));
            // SAFETY: both arrays were backed for all RAM.
            unsafe { map.add_blocks(blocks, ram.node, kind, MigrateType::Movable) };
            at = blocks.end;
        }
    }
    Ok((map, taken))
}

/// The kind of zone that a frame belongs to.
pub(crate) fn kind_of(pfn: Pfn, movable_start: Pfn) -> ZoneKind {
    if pfn >= movable_start {
        ZoneKind::Movable
    } else if pfn < DMA_END {
        ZoneKind::Dma
    } else if pfn < DMA32_END {
        ZoneKind::Dma32
    } else {
        ZoneKind::Normal
    }
}

struct Backer<'a, 'e, P> {
    platform: &'a P,
    early: &'a mut EarlyMem<'e>,
    /// Frames that were taken.
    pages: u64,
}

impl<P: Platform> Backer<'_, '_, P> {
    /// The pageblocks that hold the RAM from range number `next` on, as far as
    /// they follow each other on one node; moves `next` on.
    fn next_blocks(&self, next: &mut usize) -> Option<(PfnRange, NodeId)> {
        let ram = self.early.ram();
        loop {
            let first = ram.get(*next)?;
            // What the range before shares with this one is backed.
            let before = next.checked_sub(1).map_or(Pfn(0), |i| ram[i].range.end);
            let start = first.range.start.pageblock().max(before.align_up(PAGEBLOCK_ORDER));
            let mut end = start;
            while let Some(more) = ram.get(*next)
                && more.node == first.node
                && more.range.start.pageblock() <= end
            {
                end = end.max(more.range.end.align_up(PAGEBLOCK_ORDER));
                *next += 1;
            }
            if start < end {
                return Some((PfnRange::new(start, end), first.node));
            }
        }
    }

    /// Puts frames behind `bytes` (whole pages) from `ptr` on, which is `offset`
    /// bytes into its array; of `node` if it has any left.
    fn back(
        &mut self,
        ptr: *mut u8,
        offset: usize,
        bytes: usize,
        node: NodeId,
    ) -> Result<(), SetupError> {
        let (first, pages) = (offset / PAGE_SIZE, (bytes / PAGE_SIZE) as u64);
        let mut at = 0;
        while at < pages {
            let place = first as u64 + at;
            let frames = self.run(place, pages - at, node).ok_or(SetupError::TooLittleRam)?;
            let here = ptr.wrapping_add(at as usize * PAGE_SIZE);
            let early = &mut *self.early;
            let mut tables = || early.alloc(1, Order(0), None, NAME);
            if !self.platform.memmap_back(here, frames, &mut tables) {
                return Err(SetupError::TooLittleRam);
            }
            at += frames.pages();
        }
        self.pages += pages;
        Ok(())
    }

    /// Frames for up to `pages` pages at page `place` of an array: as many as
    /// there are in one run, in whole large pages where they fit.
    fn run(&mut self, place: u64, pages: u64, node: NodeId) -> Option<PfnRange> {
        let large = LARGE.pages();
        let into = place % large;
        if into == 0 && pages >= large {
            let most = pages / large * large;
            let halves = (0..).map(|n| (most >> n) / large * large).take_while(|&n| n > 0);
            if let Some(found) = self.first_of(halves, LARGE, node) {
                return Some(found);
            }
        }
        let most = pages.min(large - into);
        self.first_of((0..).map(|n| most >> n).take_while(|&n| n > 0), Order(0), node)
    }

    /// The first of the sizes that can be had, better on `node` than larger.
    fn first_of(
        &mut self,
        sizes: impl Iterator<Item = u64> + Clone,
        align: Order,
        node: NodeId,
    ) -> Option<PfnRange> {
        let all = PfnRange::new(Pfn(0), Pfn(u64::MAX));
        let places = [Some(node), None];
        places.into_iter().flat_map(|on| sizes.clone().map(move |n| (on, n))).find_map(|(on, n)| {
            let start = self.early.alloc_in(n, align, all, on, NAME)?;
            Some(PfnRange::sized(start, n))
        })
    }
}
