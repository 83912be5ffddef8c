//! Where a block comes from when its own type has none: CMA, a whole block
//! claimed from another type, or one page stolen; and the HighAtomic reserve
//! (Linux 6.12 mm/page_alloc.c). All under the zone lock. May call: `buddy` and
//! what that calls.

use crate::buddy::Buddy;
use crate::gfp::AllocFlags;
use crate::page::{HeadWord, PageDesc, PageFlags, PageType};
use crate::sync::Ordering::Relaxed;
use crate::types::{MAX_ORDER, MigrateType, Order, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, Pfn};
use crate::watermark;

/// Where the last block of a bulk refill came from: the next one is looked for
/// there first, since what was empty a moment ago still is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Source {
    #[default]
    Own,
    Cma,
    Steal,
}

/// Types that may help out, in order of preference.
const fn fallbacks(ty: MigrateType) -> [MigrateType; 2] {
    match ty {
        MigrateType::Movable => [MigrateType::Reclaimable, MigrateType::Unmovable],
        MigrateType::Reclaimable => [MigrateType::Unmovable, MigrateType::Movable],
        _ => [MigrateType::Reclaimable, MigrateType::Movable],
    }
}

/// Pages of a pageblock by what could become of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct BlockCount {
    pub(crate) free: u64,
    pub(crate) movable: u64,
    /// A block that begins or ends outside covers part of this one.
    pub(crate) straddled: bool,
}

impl Buddy<'_> {
    /// A block of `order` for a request of type `ty`, from wherever the rules
    /// allow. The head word is the caller's to write.
    pub(crate) fn rmqueue(
        &mut self,
        order: Order,
        ty: MigrateType,
        flags: AllocFlags,
        boost_factor: u32,
        source: &mut Source,
    ) -> Option<Pfn> {
        let may_cma = flags.contains(AllocFlags::CMA);
        // Keep CMA from being the last memory that is free: use it in turn.
        if may_cma
            && self.prefers_cma()
            && let Some(pfn) = self.take_smallest(order, MigrateType::Cma)
        {
            return Some(pfn);
        }
        if *source == Source::Own
            && let Some(pfn) = self.take_smallest(order, ty)
        {
            return Some(pfn);
        }
        if may_cma
            && matches!(*source, Source::Own | Source::Cma)
            && let Some(pfn) = self.take_smallest(order, MigrateType::Cma)
        {
            *source = Source::Cma;
            return Some(pfn);
        }
        if *source != Source::Steal
            && let Some(pfn) = self.claim(order, ty, flags, boost_factor)
        {
            // The own lists have the rest of the block now.
            *source = Source::Own;
            return Some(pfn);
        }
        if !flags.contains(AllocFlags::NOFRAGMENT)
            && let Some(pfn) = self.steal(order, ty)
        {
            *source = Source::Steal;
            return Some(pfn);
        }
        None
    }

    /// Whether movable requests are to be served from CMA first.
    #[inline]
    pub(crate) fn prefers_cma(&self) -> bool {
        let cma = self.zone.free.cma();
        cma > 0 && cma > self.zone.free.total() / 2
    }

    /// Changes a whole pageblock to `ty` and takes from it, looking at the
    /// largest free blocks first: what is claimed whole is mixed least.
    fn claim(
        &mut self,
        order: Order,
        ty: MigrateType,
        flags: AllocFlags,
        boost_factor: u32,
    ) -> Option<Pfn> {
        let lowest =
            if flags.contains(AllocFlags::NOFRAGMENT) { order.max(PAGEBLOCK_ORDER) } else { order };
        for at in (lowest.0..=MAX_ORDER.0).rev().map(Order) {
            // Half a pageblock is worth a claim; for less only those claim who
            // would otherwise leave unmovable pages in movable blocks.
            let claimable = at.0 >= PAGEBLOCK_ORDER.0 / 2 || ty != MigrateType::Movable;
            if !claimable {
                break;
            }
            for from in fallbacks(ty) {
                let Some(pfn) = self.list(at, from).first() else { continue };
                if let Some(pfn) = self.claim_block(pfn, at, order, from, ty, flags, boost_factor) {
                    return Some(pfn);
                }
                // One try an order: the first type that has blocks decides.
                break;
            }
        }
        None
    }

    fn claim_block(
        &mut self,
        pfn: Pfn,
        at: Order,
        order: Order,
        from: MigrateType,
        ty: MigrateType,
        flags: AllocFlags,
        boost_factor: u32,
    ) -> Option<Pfn> {
        if at >= PAGEBLOCK_ORDER {
            self.unlink(pfn, at, from);
            let mut block = pfn;
            while block < pfn.add(at.pages()) {
                self.map.block(block).set_migratetype(ty);
                block = block.add(PAGEBLOCK_PAGES);
            }
            self.split(pfn, at, order, ty);
            self.account(-(order.pages() as i64), ty);
            self.zone.events.claims.fetch_add(1, Relaxed);
            return Some(pfn);
        }
        self.boost(flags, boost_factor);
        let block = pfn.pageblock();
        let count = self.count_block(block);
        if count.straddled {
            return None;
        }
        let alike = match (ty, from) {
            (MigrateType::Movable, _) => count.movable,
            (_, MigrateType::Movable) => PAGEBLOCK_PAGES.saturating_sub(count.free + count.movable),
            // Unmovable and Reclaimable pages cannot be told apart here.
            _ => 0,
        };
        if count.free + alike < PAGEBLOCK_PAGES / 2 {
            return None;
        }
        self.retype_block(block, ty);
        self.zone.events.claims.fetch_add(1, Relaxed);
        self.take_smallest(order, ty)
    }

    /// Takes one block from another type, the smallest that will do, and leaves
    /// the rest there.
    fn steal(&mut self, order: Order, ty: MigrateType) -> Option<Pfn> {
        for at in order.0..=MAX_ORDER.0 {
            for from in fallbacks(ty) {
                if self.list(Order(at), from).is_empty() {
                    continue;
                }
                self.zone.events.fallbacks.fetch_add(1, Relaxed);
                return self.take_smallest(order, from);
            }
        }
        None
    }

    /// Types are about to mix: raise the marks, so that kswapd makes room for
    /// this not to go on.
    fn boost(&self, flags: AllocFlags, factor: u32) {
        let zone = self.zone;
        let marks = zone.marks();
        let Some(new) = watermark::boosted(zone.boost(), marks.high, zone.managed(), factor) else {
            return;
        };
        zone.set_boost(new);
        if flags.contains(AllocFlags::KSWAPD) {
            zone.boosted.store(true, Relaxed);
        }
    }

    /// Counts the pages of a pageblock that are free or could be moved.
    pub(crate) fn count_block(&self, block: Pfn) -> BlockCount {
        let mut count = BlockCount::default();
        let end = block.add(PAGEBLOCK_PAGES);
        let mut pfn = block;
        while pfn < end {
            let word = self.map.page(pfn).head();
            let pages = word.order().pages();
            match word.ty() {
                PageType::Buddy => count.free += pages,
                PageType::Lru | PageType::Movable => count.movable += pages,
                PageType::Tail => {
                    count.straddled = true;
                    return count;
                }
                _ => {}
            }
            pfn = pfn.add(pages);
        }
        count.straddled = pfn != end;
        count
    }

    /// Splits the free order-10 block that covers `block`, if there is one, at
    /// the pageblock border, so that the halves can have types of their own.
    pub(crate) fn split_at_block(&mut self, block: Pfn) {
        let head = block.align_down(MAX_ORDER);
        let Some(page) = self.map.try_page(head) else { return };
        if !page.head().is(PageType::Buddy, MAX_ORDER) {
            return;
        }
        let ty = self.map.block(head).migratetype();
        let known = page.head().flags();
        self.unlink(head, MAX_ORDER, ty);
        for half in [head, head.add(PAGEBLOCK_PAGES)] {
            self.link(half, PAGEBLOCK_ORDER, ty, true);
            self.add_flags(half, known);
        }
    }

    /// Gives a free block that has just been listed anew the flags back that
    /// still hold.
    fn add_flags(&self, pfn: Pfn, flags: PageFlags) {
        let page = self.map.page(pfn);
        page.set_head(page.head().with(flags));
    }

    /// Changes the type of a pageblock and moves its free pages to that type's
    /// lists. Returns how many pages were moved.
    pub(crate) fn retype_block(&mut self, block: Pfn, to: MigrateType) -> u64 {
        self.split_at_block(block);
        let from = self.map.block(block).migratetype();
        let end = block.add(PAGEBLOCK_PAGES);
        let mut moved = 0;
        let mut pfn = block;
        let lower = block.align_down(MAX_ORDER);
        let largest = |page: &PageDesc| page.head().order() == MAX_ORDER;
        if lower != block && self.map.try_page(lower).is_some_and(largest) {
            // The upper half of a largest block that somebody has: nothing of it
            // is free, and there are no heads to go by.
            pfn = end;
        }
        while pfn < end {
            let word = self.map.page(pfn).head();
            if word.ty() == PageType::Buddy {
                let flags = word.flags();
                self.unlink(pfn, word.order(), from);
                self.link(pfn, word.order(), to, true);
                self.add_flags(pfn, flags);
                moved += word.order().pages();
            }
            pfn = pfn.add(word.order().pages());
        }
        self.map.block(block).set_migratetype(to);
        self.account(-(moved as i64), from);
        self.account(moved as i64, to);
        self.merge_block(block, to);
        moved
    }

    /// Merges a pageblock that is free as a whole with its buddy of the same
    /// type: a type that has just changed may be all that kept them apart.
    fn merge_block(&mut self, block: Pfn, ty: MigrateType) {
        let is_free = self.map.page(block).head().is(PageType::Buddy, PAGEBLOCK_ORDER);
        match self.mergeable_buddy(block, PAGEBLOCK_ORDER, ty) {
            Some((buddy, buddy_ty)) if is_free && buddy_ty == ty => {
                // Reported is what both halves are.
                let flags = |pfn| self.map.page(pfn).head().flags();
                let known = flags(block) & flags(buddy);
                self.unlink(block, PAGEBLOCK_ORDER, ty);
                self.unlink(buddy, PAGEBLOCK_ORDER, ty);
                self.map.page(block.max(buddy)).set_head(HeadWord::TAIL);
                self.link(block.min(buddy), MAX_ORDER, ty, true);
                self.add_flags(block.min(buddy), known);
            }
            _ => {}
        }
    }

    /// Keeps the pageblocks of a block that an urgent request just got for more
    /// of its kind, up to a hundredth of the zone.
    pub(crate) fn reserve_highatomic(&mut self, pfn: Pfn, order: Order) {
        let zone = self.zone;
        let pages = order.pages().max(PAGEBLOCK_PAGES);
        let limit = watermark::highatomic_limit(zone.managed());
        let reserved = zone.reserved_highatomic.load(Relaxed);
        if reserved + pages > limit || !self.map.block(pfn).migratetype().is_mergeable() {
            return;
        }
        if order < PAGEBLOCK_ORDER {
            self.retype_block(pfn.pageblock(), MigrateType::HighAtomic);
        } else {
            // All of it: when it is freed, one list has to be right for it.
            for block in (0..pages).step_by(PAGEBLOCK_PAGES as usize) {
                self.map.block(pfn.add(block)).set_migratetype(MigrateType::HighAtomic);
            }
        }
        zone.reserved_highatomic.store(reserved + pages, Relaxed);
    }

    /// Gives one HighAtomic block with free pages to `ty`. Unless forced, the
    /// last block stays. True if pages became free for `ty`.
    pub(crate) fn unreserve_highatomic(&mut self, ty: MigrateType, force: bool) -> bool {
        let zone = self.zone;
        let reserved = zone.reserved_highatomic.load(Relaxed);
        if reserved == 0 || !force && reserved <= PAGEBLOCK_PAGES {
            return false;
        }
        for order in 0..=MAX_ORDER.0 {
            let Some(pfn) = self.list(Order(order), MigrateType::HighAtomic).first() else {
                continue;
            };
            let moved = self.retype_block(pfn.pageblock(), ty);
            zone.reserved_highatomic.store(reserved.saturating_sub(PAGEBLOCK_PAGES), Relaxed);
            return moved > 0;
        }
        false
    }
}
