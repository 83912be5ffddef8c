//! Pages that migration has moved the content of, or that were reclaimed: they go back to the buddy a
//! batch at a time, and those that lie beside each other as the blocks they
//! make. May call: `buddy`, `free`.

use crate::buddy::{Buddy, Placement};
use crate::memmap::natural_blocks;
use crate::mm::Mm;
use crate::page::{HeadWord, PageDesc, PageType};
use crate::platform::Platform;
use crate::types::{Order, Pfn, PfnRange};

/// Pages that wait at most.
const BATCH: usize = 32;

/// Single pages on their way to the buddy; their head words say Held. To be
/// given to [`Mm::free_emptied`] at the end.
#[derive(Debug)]
pub(crate) struct Emptied {
    pages: [Pfn; BATCH],
    len: usize,
}

impl Emptied {
    pub(crate) const fn new() -> Self {
        Self { pages: [Pfn(0); BATCH], len: 0 }
    }
}

impl Drop for Emptied {
    fn drop(&mut self) {
        debug_assert!(self.len == 0, "pages that nobody has freed");
    }
}

impl Buddy<'_> {
    /// Frees a range of single pages in one pageblock that nobody else has;
    /// returns the largest order that one came to be listed at.
    fn free_singles(&mut self, range: PfnRange) -> Order {
        let map = self.map;
        if range.pages() == 1 {
            map.page(range.start).clear();
            return self.free(range.start, Order(0), Placement::Auto);
        }
        (range.start.0..range.end.0).for_each(|pfn| map.page(Pfn(pfn)).clear());
        let blocks = natural_blocks(range);
        let listed = blocks.map(|(pfn, order)| self.free(pfn, order, Placement::Auto));
        listed.max().unwrap_or_default()
    }
}

impl<P: Platform> Mm<P> {
    /// As [`put_movable`](Self::put_movable), but past the per-CPU lists: what
    /// migration empties is to merge, single pages though not before `emptied`
    /// is full or at its end.
    #[inline(always)]
    pub(super) fn put_migrated(
        &self,
        pfn: Pfn,
        order: Order,
        desc: &PageDesc,
        emptied: &mut Emptied,
    ) {
        if desc.put() {
            self.free_emptied_page(pfn, order, desc, emptied);
        }
    }

    /// Frees a block that nobody has a reference to any more, past the per-CPU
    /// lists, a single page though not before `emptied` is full or at its end.
    #[inline(always)]
    pub(crate) fn free_emptied_page(
        &self,
        pfn: Pfn,
        order: Order,
        desc: &PageDesc,
        emptied: &mut Emptied,
    ) {
        if desc.head().is_bad() {
            return self.free_owned(pfn, order, desc);
        }
        if order.0 > 0 {
            self.free_emptied_block(pfn, desc, order);
            return;
        }
        desc.reset(HeadWord::new(PageType::Held, Order(0)));
        emptied.pages[emptied.len] = pfn;
        emptied.len += 1;
        if emptied.len == BATCH {
            self.free_emptied(emptied);
        }
    }

    #[cold]
    #[inline(never)]
    fn free_emptied_block(&self, pfn: Pfn, desc: &PageDesc, order: Order) {
        self.scrub(pfn, order);
        desc.reset(HeadWord::new(PageType::Held, order));
        self.put_back(pfn, order, Placement::Auto);
        let cpu = self.enter();
        self.count_freed(self.zone_at(pfn), order.pages(), &cpu);
    }

    /// Frees what has been collected.
    pub(crate) fn free_emptied(&self, emptied: &mut Emptied) {
        let mut pages = &emptied.pages[..core::mem::take(&mut emptied.len)];
        pages.iter().for_each(|&pfn| self.scrub(pfn, Order(0)));
        while let Some(&first) = pages.first() {
            let zone = self.zone_at(first);
            let cpu = self.enter();
            let mut buddy = Buddy::lock(&self.map, zone, &cpu);
            let (mut freed, mut largest) = (0, Order(0));
            while let Some(&start) = pages.first().filter(|&&pfn| zone.owns(&self.map, pfn)) {
                let mut run = 1;
                while pages.get(run).is_some_and(|&pfn| {
                    pfn == start.add(run as u64) && pfn.pageblock() == start.pageblock()
                }) {
                    run += 1;
                }
                largest = largest.max(buddy.free_singles(PfnRange::sized(start, run as u64)));
                freed += run as u64;
                pages = &pages[run..];
            }
            drop(buddy);
            self.count_freed(zone, freed, &cpu);
            self.note_freed(zone, largest);
        }
    }
}
