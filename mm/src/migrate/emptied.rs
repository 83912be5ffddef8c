//! Pages that migration has moved the content of, or that were reclaimed: they
//! go back to the buddy a batch at a time, and those that have only free blocks
//! between them with these, as the blocks that all make. May call: `buddy`, `free`.

use crate::buddy::{Buddy, Placement};
use crate::memmap::natural_blocks;
use crate::mm::Mm;
use crate::page::{HeadWord, PageDesc, PageType};
use crate::platform::Platform;
use crate::types::{MigrateType, Order, PAGEBLOCK_PAGES, Pfn, PfnRange};

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
    /// Frees single pages of one pageblock that nobody else has: as many of
    /// `pages`, which are not none, as lie beside each other, or have only free
    /// blocks between them. These come off the lists first: so what is freed is
    /// the large blocks that all make. Returns how many pages, and the largest
    /// order that one came to be listed at.
    fn free_singles(&mut self, pages: &[Pfn]) -> (usize, Order) {
        let map = self.map;
        let start = pages[0];
        let ty = map.block(start).migratetype();
        let block_end = start.pageblock().add(PAGEBLOCK_PAGES);
        let (mut end, mut freed, mut absorbed) = (start, 0, 0);
        for &pfn in pages {
            if pfn >= block_end || pfn < end {
                break;
            }
            if pfn > end {
                if !self.is_free_between(end, pfn) {
                    break;
                }
                absorbed += pfn.0 - end.0;
                self.take_between(end, pfn, ty);
            }
            let page = map.page(pfn);
            debug_assert_eq!(page.head().ty(), PageType::Held, "{pfn:?} is freed twice");
            page.clear();
            freed += 1;
            end = pfn.add(1);
        }
        // They are counted once more with what is freed.
        if absorbed > 0 {
            self.account(-(absorbed as i64), ty);
        }
        if end == start.add(1) {
            return (freed, self.free(start, Order(0), Placement::Auto));
        }
        let blocks = natural_blocks(PfnRange::new(start, end));
        let listed = blocks.map(|(pfn, order)| self.free(pfn, order, Placement::Auto));
        (freed, listed.max().unwrap_or_default())
    }

    /// Whether there is nothing but free blocks from `from`, where a block
    /// begins, to `to`, where another does, in the same pageblock.
    fn is_free_between(&self, from: Pfn, to: Pfn) -> bool {
        let mut at = from;
        while at < to {
            let word = self.map.page(at).head();
            if word.ty() != PageType::Buddy {
                return false;
            }
            at = at.add(word.order().pages());
        }
        // Who waits for a block of some order is to see it made.
        self.inner.capture.is_none()
    }

    /// Takes these blocks, of type `ty`, off the lists; counts nothing.
    fn take_between(&mut self, from: Pfn, to: Pfn, ty: MigrateType) {
        let mut at = from;
        while at < to {
            let order = self.map.page(at).head().order();
            self.unlink(at, order, ty);
            self.map.page(at).set_head(HeadWord::TAIL);
            at = at.add(order.pages());
        }
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
        debug_assert!(
            matches!(desc.head().ty(), PageType::Lru | PageType::Movable) || cfg!(test),
            "{pfn:?} is not a page that moves"
        );
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
            while pages.first().is_some_and(|&pfn| zone.owns(&self.map, pfn)) {
                let (len, listed) = buddy.free_singles(pages);
                largest = largest.max(listed);
                freed += len as u64;
                pages = &pages[len..];
            }
            drop(buddy);
            self.count_freed(zone, freed, &cpu);
            self.note_freed(zone, largest);
        }
    }
}

#[cfg(all(test, feature = "host"))]
mod tests {
    use super::*;
    use crate::gfp::{Gfp, Page, Request};
    use crate::host::{Machine, pc};
    use crate::setup::Config;
    use crate::types::PAGEBLOCK_ORDER;
    use std::vec::Vec;

    /// SplitMix64.
    struct Rng(u64);

    impl Rng {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ z >> 31) % n
        }
    }

    const MOVABLE: Gfp = Gfp::HIGHMEM.union(Gfp::MOVABLE).union(Gfp::KERNEL);

    fn request(order: u8) -> Request {
        Request::new(Order(order), MOVABLE | Gfp::NORETRY | Gfp::NOWARN)
    }

    /// Frees these as migration does, in that order.
    fn free_all(mm: &Mm<Machine>, pages: &[Pfn]) {
        let mut emptied = Emptied::new();
        for &pfn in pages {
            mm.free_emptied_page(pfn, Order(0), mm.map.page(pfn), &mut emptied);
        }
        mm.free_emptied(&mut emptied);
    }

    fn set_type(mm: &Mm<Machine>, pfn: Pfn, ty: MigrateType) {
        let cpu = mm.enter();
        Buddy::lock(&mm.map, mm.zone_at(pfn), &cpu).retype_block(pfn.pageblock(), ty);
    }

    /// Free orders of a pageblock, in the order of addresses; None: in use.
    fn pieces(mm: &Mm<Machine>, block: Pfn) -> Vec<Option<u8>> {
        let (mut pfn, mut pieces) = (block, Vec::new());
        while pfn < block.add(PAGEBLOCK_PAGES) {
            let word = mm.map.page(pfn).head();
            pieces.push((word.ty() == PageType::Buddy).then_some(word.order().0));
            pfn = pfn.add(word.order().pages());
        }
        pieces
    }

    #[test]
    fn what_is_free_between_becomes_part_of_it() {
        let mm = pc(16, 1, &Config::default()).expect("a machine");
        let block = mm.alloc_pages(request(10)).expect("a block").pfn;
        let page = |i: u64| block.add(i);
        let set = |i, order| mm.map.page(page(i)).set_head(HeadWord::new(PageType::Kernel, order));
        (0..512).for_each(|i| set(i, Order(0)));
        // The other half stays, so that what is freed does not become part of more.
        set(512, PAGEBLOCK_ORDER);
        // Blocks of 2, 4 and 8 pages are free between single pages; 1 stays.
        free_all(&mm, &[2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23].map(page));
        free_all(&mm, &[0, 4, 5, 6, 7, 12, 13, 14, 15, 24].map(page));
        let low = pieces(&mm, block);
        // One end of what is freed is a page that nothing lies behind.
        assert_eq!(low[..5], [Some(0), None, Some(1), Some(2), Some(3)], "{low:?}");
        assert_eq!(low[5..8], [Some(3), Some(0), None], "{low:?}");
        free_all(&mm, &[page(1)]);
        free_all(&mm, &(25..512).rev().map(page).collect::<Vec<_>>());
        assert_eq!(pieces(&mm, block), [Some(9)]);
        mm.audit().expect("whole");
    }

    /// Single pages go at random, some at a time, sorted and not, beside some that
    /// stay, while others are taken, and while types of pageblocks change.
    #[test]
    fn any_pages_beside_any_others() {
        let (mut rng, rounds) = (Rng(1), if cfg!(miri) { 20 } else { 3000 });
        let mm = pc(if cfg!(miri) { 4 } else { 12 }, 1, &Config::default()).expect("a machine");
        let mut pages: Vec<Pfn> = Vec::new();
        let mut retyped: Option<Pfn> = None;
        for round in 0..rounds {
            let most = if rng.below(8) == 0 { 1500 } else { 60 };
            let wanted = rng.below(most);
            for _ in 0..wanted {
                let order = if rng.below(8) == 0 { rng.below(6) as u8 } else { 0 };
                let Ok(Page { pfn, .. }) = mm.alloc_pages(request(order)) else { break };
                for i in 0..1 << order {
                    let page = HeadWord::new(PageType::Kernel, Order(0));
                    mm.map.page(pfn.add(i)).set_head(page);
                    pages.push(pfn.add(i));
                }
            }
            if let Some(pfn) = retyped.take() {
                set_type(&mm, pfn, MigrateType::Movable);
            } else if round % 4 == 0 && !pages.is_empty() {
                let pfn = pages[rng.below(pages.len() as u64) as usize];
                if mm.map.block(pfn).migratetype() == MigrateType::Movable {
                    set_type(&mm, pfn, MigrateType::Reclaimable);
                    retyped = Some(pfn);
                }
            }
            pages.sort_unstable();
            let batch: Vec<Pfn> = match rng.below(3) {
                // Some of a row, or of all.
                0 => {
                    let from = rng.below(pages.len().max(1) as u64) as usize;
                    let row = pages.split_off(from);
                    let (gone, kept) = row.into_iter().partition(|_| rng.below(3) > 0);
                    pages.extend::<Vec<_>>(kept);
                    gone
                }
                1 => {
                    let of = 1 + rng.below(6);
                    let (gone, kept) = pages.iter().partition(|_| rng.below(of) == 0);
                    pages = kept;
                    gone
                }
                _ => (0..rng.below(100).min(pages.len() as u64))
                    .map(|_| pages.swap_remove(rng.below(pages.len() as u64) as usize))
                    .collect(),
            };
            if rng.below(4) == 0 {
                mm.drain_all(None);
            }
            free_all(&mm, &batch);
            if round % 16 == 0 {
                mm.audit().unwrap_or_else(|why| panic!("round {round}: {why}"));
            }
        }
        free_all(&mm, &pages);
        mm.audit().expect("whole");
    }
}
