//! Per-CPU lists: free pages of the common orders that one CPU takes and gives
//! back without a lock. Only the holder of the CPU's token comes here. May
//! call: `buddy`, `fallback`.

use crate::boot_slice::Handle;
use crate::buddy::{Buddy, Placement};
use crate::fallback::Source;
use crate::gfp::AllocFlags;
use crate::memmap::{MemMap, natural_blocks};
use crate::page::{HeadWord, PageDesc, PageType, linked};
use crate::types::{
    COSTLY_ORDER, MigrateType, NR_PCPTYPES, Order, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, Pfn, PfnRange,
};
use crate::zone::Zone;
use list::{PcpList, WHOLE};

mod list;

/// Lists: by type those of orders 0 to 3, then order 9 by type; a power of two,
/// of which one is not used.
pub(crate) const NR_PCP_LISTS: usize = 16;
/// Lists of a type, of orders 0 to 3.
const SMALL: usize = COSTLY_ORDER.index() + 1;
/// The first list of order 9.
const LARGE: usize = SMALL * NR_PCPTYPES;

/// Most that a run of requests, or of frees, multiplies a batch by, as a power
/// of two. On small zones, whose batch may be a page, their lists' limit comes
/// first.
const MAX_FACTOR: u16 = 8;
/// What a refill brings at least where there is plenty of all: less is not worth
/// the lock.
const FEW: u32 = 8;
/// Most pages that a run makes of a batch: the lock is held for all of them.
const MAX_RUN: u32 = 2048;

/// How many blocks a list is to get at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Demand {
    /// From other types' lists too, and below the low mark.
    pub(crate) least: u32,
    /// From the list's own type.
    pub(crate) most: u32,
}

/// One CPU's free pages of one zone.
pub(crate) struct Pcp {
    zone: Handle<Zone>,
    pub(crate) lists: [PcpList; NR_PCP_LISTS],
    /// Pages on the lists of orders 0 to 3.
    pub(crate) count: u32,
    /// Blocks on the lists of order 9, which have a budget of their own: one
    /// weighs as much as a batch or many, and counted with the small ones it
    /// would be given back with every few frees, or push those out.
    pub(crate) large: u32,
    /// Frees in a row double what the next drain takes.
    free_factor: u16,
    /// What `allocated` was then: each page allocated since halves it again.
    allocated_then: u64,
    /// Refills in a row of one list double what the next one brings.
    alloc_factor: u16,
    /// That list.
    refilled: u8,
    /// What `freed` was then: each page freed since halves it again.
    freed_then: u64,
    /// Pages allocated and freed by this CPU in this zone, whatever the path.
    pub(crate) allocated: u64,
    pub(crate) freed: u64,
}

/// The list for blocks of `order`, 0 to 3, and the type with index `ty`, one of
/// the three that have lists.
#[inline]
pub(crate) const fn list_at(order: Order, ty: usize) -> usize {
    (ty * SMALL + order.index()) % NR_PCP_LISTS
}

/// The list for blocks of `order` and `ty`, if it is a small order and a type
/// that has lists.
#[inline]
pub(crate) const fn list_index(order: Order, ty: MigrateType) -> Option<usize> {
    if order.0 <= COSTLY_ORDER.0 && ty.index() < NR_PCPTYPES {
        Some(list_at(order, ty.index()))
    } else {
        None
    }
}

/// The list for blocks of order 9 of the type whose first list is `from`.
#[inline]
pub(crate) const fn large_list(from: usize) -> usize {
    (LARGE + from / SMALL) % NR_PCP_LISTS
}

/// The type whose first list is `from`.
#[inline]
pub(crate) const fn type_from(from: u32) -> MigrateType {
    MigrateType::from_bits(from / SMALL as u32)
}

/// The order of the blocks on list `index`.
pub(crate) const fn list_order(index: usize) -> Order {
    if index < LARGE { Order((index % SMALL) as u8) } else { PAGEBLOCK_ORDER }
}

impl Pcp {
    /// Empty lists of a zone.
    pub(crate) fn new(zone: Handle<Zone>) -> Self {
        let lists = [PcpList::default(); NR_PCP_LISTS];
        Self {
            zone,
            lists,
            count: 0,
            large: 0,
            free_factor: 0,
            allocated_then: 0,
            alloc_factor: 0,
            refilled: 0,
            freed_then: 0,
            allocated: 0,
            freed: 0,
        }
    }

    /// Pages on all lists.
    pub(crate) fn pages(&self) -> u64 {
        u64::from(self.count) + u64::from(self.large) * PAGEBLOCK_PAGES
    }

    /// Whose pages these are.
    ///
    /// # Safety
    /// As for [`Handle::get`].
    #[inline]
    pub(crate) unsafe fn zone<'a>(&self) -> &'a Zone {
        // SAFETY: handed on to the caller.
        unsafe { self.zone.get() }
    }

    /// Takes a block of order 9 off list `index` of that order, and writes `word`
    /// for its head.
    #[inline]
    pub(crate) fn pop_large(&mut self, map: &MemMap, index: usize, word: HeadWord) -> Option<Pfn> {
        let list = &mut self.lists[index % NR_PCP_LISTS];
        let pfn = linked(list.head)?;
        let page = map.page(pfn);
        page.set_head(word);
        list.head = page.next();
        self.large -= 1;
        self.allocated += PAGEBLOCK_PAGES;
        Some(pfn)
    }

    /// Puts a freed block of order 9 on list `index` of that order; whether the
    /// zone lets this CPU keep one more is the caller's to ask. Its descriptor
    /// `page` is clear but for links and head word, which becomes Pcp.
    #[inline]
    pub(crate) fn push_large(&mut self, map: &MemMap, index: usize, pfn: Pfn, page: &PageDesc) {
        page.set_head(HeadWord::new(PageType::Pcp, PAGEBLOCK_ORDER));
        self.lists[index % NR_PCP_LISTS].push(map, pfn, page);
        self.freed += PAGEBLOCK_PAGES;
        self.large += 1;
    }

    /// Takes a block of `order`, 0 to 3, off list `index` of that order, and
    /// writes `word` for its head.
    #[inline]
    pub(crate) fn pop(
        &mut self,
        map: &MemMap,
        index: usize,
        order: Order,
        word: HeadWord,
    ) -> Option<Pfn> {
        let list = &mut self.lists[index % NR_PCP_LISTS];
        let pfn = linked(list.head)?;
        let page = map.page(pfn);
        page.set_head(word);
        list.head = page.next();
        self.count -= order.pages() as u32;
        self.allocated += order.pages();
        Some(pfn)
    }

    /// Takes up to `out.len()` single pages off list `index`; returns how many.
    /// Each gets `word` for a head.
    pub(crate) fn pop_many(
        &mut self,
        map: &MemMap,
        index: usize,
        word: HeadWord,
        out: &mut [Pfn],
    ) -> usize {
        let mut list = self.lists[index];
        let mut got = 0;
        for slot in &mut *out {
            let Some(pfn) = linked(list.head) else { break };
            let page = map.page(pfn);
            page.set_head(word);
            list.head = page.next();
            *slot = pfn;
            got += 1;
        }
        self.lists[index] = list;
        self.count -= got as u32;
        self.allocated += got as u64;
        got
    }

    /// Puts a freed block of `order`, 0 to 3, on list `index` of that order;
    /// returns how many pages `count` is then. Its descriptor `page` is clear
    /// but for links and head word, which becomes Pcp.
    #[inline]
    pub(crate) fn push(
        &mut self,
        map: &MemMap,
        index: usize,
        pfn: Pfn,
        page: &PageDesc,
        order: Order,
    ) -> u32 {
        page.set_head(HeadWord::new(PageType::Pcp, order));
        self.lists[index % NR_PCP_LISTS].push(map, pfn, page);
        self.freed += order.pages();
        self.count += order.pages() as u32;
        self.count
    }

    /// Puts the first of `pages` on list `index`, single pages of the
    /// pageblock `block` whose head words `may_free` lets pass, up to the first
    /// that is another's or does not pass; returns how many.
    pub(crate) fn push_many(
        &mut self,
        map: &MemMap,
        index: usize,
        block: Pfn,
        pages: &[Pfn],
        may_free: impl Fn(HeadWord) -> bool,
    ) -> usize {
        let mut list = self.lists[index];
        let mut done = 0;
        for &pfn in pages {
            if pfn.pageblock() != block {
                break;
            }
            let page = map.page(pfn);
            if !may_free(page.head()) {
                break;
            }
            page.forget_owner();
            page.set_head(HeadWord::new(PageType::Pcp, Order(0)));
            list.push(map, pfn, page);
            done += 1;
        }
        self.lists[index] = list;
        self.count += done as u32;
        self.freed += done as u64;
        done
    }

    /// What list `index` gets now that it is empty and one of its blocks is asked
    /// for: a batch, doubled by each such moment in a run of requests, up to about
    /// half of the room on this CPU's lists and to what the zone can spare
    /// (after Linux 6.12, `nr_pcp_alloc`, which takes all of the room: what is
    /// left of that when the run ends has to be given back).
    pub(crate) fn demand(&mut self, index: usize, zone: &Zone) -> Demand {
        let freed = self.freed - core::mem::replace(&mut self.freed_then, self.freed);
        self.alloc_factor >>= freed.min(u64::from(MAX_FACTOR));
        // One list's run says nothing about another, which would fill the room.
        if usize::from(self.refilled) != index {
            self.refilled = index as u8;
            self.alloc_factor = 0;
        }
        let batch = zone.pcp_batch();
        let room = zone.pcp_high().saturating_sub(self.count).saturating_sub(batch);
        let pages = self.ramp(batch, room, zone.pcp_spare());
        let least = if batch > 1 { 2 } else { 1 };
        let blocks = |pages: u32| (pages >> list_order(index).0).max(least);
        Demand { least: blocks(batch), most: blocks(pages) }
    }

    /// Pages for one list at this point of a run of requests: from `batch`, or a
    /// few where that is less, up to a part of the `room`, if that is more, and
    /// to what the zone can `spare`. A batch is one less than a power of two.
    /// With that one, and powers of two all the way, what comes is whole blocks
    /// of the buddy's, which otherwise were cut into ever smaller pieces.
    fn ramp(&mut self, batch: u32, room: u32, spare: u32) -> u32 {
        let whole = batch + 1;
        // From three tenths to three fifths, of which one is a power of two.
        let most = (room / 5 * 3).min(spare).min(MAX_RUN);
        if most < whole {
            // The run starts anew once there is room again.
            self.alloc_factor = 0;
            return if spare < whole { batch } else { whole };
        }
        let most = 1 << most.ilog2();
        let pages = whole.max(FEW.min(most)) << self.alloc_factor;
        if pages < most {
            self.alloc_factor = (self.alloc_factor + 1).min(MAX_FACTOR);
        }
        pages.min(most)
    }

    /// Fills list `index` with as many blocks as are wanted at most from the free
    /// lists of `ty` itself, in runs: all blocks of a run lie in one block of the
    /// buddy's. Where more than the least is wanted it is a guess, and a run ends
    /// rather with a whole block than with the last that was asked for. Returns
    /// how many came.
    pub(crate) fn refill_own(
        &mut self,
        buddy: &mut Buddy<'_>,
        index: usize,
        ty: MigrateType,
        want: Demand,
    ) -> u32 {
        let order = list_order(index);
        let word = HeadWord::new(PageType::Pcp, order);
        let (least, most) = (u64::from(want.least), u64::from(want.most));
        // If each refill cut from a larger block just what it still lacks, it
        // would leave small pieces, and the next one begin with them and cut again.
        let cut = |left: u64| match most - left {
            _ if most <= least => left,
            got if got < least || got < most / 2 => most,
            _ => 0,
        };
        let mut got = 0;
        while got < most {
            let Some(run) = buddy.take_run(order, ty, most - got, cut) else { break };
            // In the order they come: callers like rising addresses.
            self.lists[index].append(buddy.map, run, order, word);
            got += run.pages() >> order.0;
        }
        self.count += (got << order.0) as u32;
        got as u32
    }

    /// Fills list `index` for requests of type `ty`: with as many blocks as are
    /// wanted at most from the free lists of that type, and with as many as are
    /// wanted at least from wherever the rules allow. Returns how many came.
    pub(crate) fn refill(
        &mut self,
        buddy: &mut Buddy<'_>,
        index: usize,
        ty: MigrateType,
        want: Demand,
        flags: AllocFlags,
        boost_factor: u32,
    ) -> u32 {
        let order = list_order(index);
        let mut source = Source::default();
        let mut got = 0;
        while got < want.least {
            if source == Source::Own && !(flags.contains(AllocFlags::CMA) && buddy.prefers_cma()) {
                let left = Demand { least: want.least - got, most: want.most.saturating_sub(got) };
                got += self.refill_own(buddy, index, ty, left);
                if got >= want.least {
                    break;
                }
            }
            let Some(pfn) = buddy.rmqueue(order, ty, flags, boost_factor, &mut source) else {
                break;
            };
            let block = PfnRange::sized(pfn, order.pages());
            let word = HeadWord::new(PageType::Pcp, order);
            self.lists[index].append(buddy.map, block, order, word);
            self.count += order.pages() as u32;
            got += 1;
        }
        got
    }

    /// Pages to give back now that a free has raised the count to `high` or
    /// more: a batch (on small zones, where that may be a page, an eighth of
    /// `high`), doubled by each such moment in a run of frees.
    pub(crate) fn surplus(&mut self, batch: u32, high: u32) -> u32 {
        let allocated =
            self.allocated - core::mem::replace(&mut self.allocated_then, self.allocated);
        self.free_factor >>= allocated.min(u64::from(MAX_FACTOR));
        // What stays is a batch, or what it may take to end with a whole block.
        let stays = batch.max((WHOLE as u32 - 1).min(high / 4));
        let most = high.saturating_sub(stays).min(MAX_RUN).max(batch);
        let first = batch.max((high / 8).min(WHOLE as u32));
        let pages = first << self.free_factor;
        if pages < most {
            self.free_factor = (self.free_factor + 1).min(MAX_FACTOR);
        }
        pages.clamp(batch, most)
    }

    /// Gives all blocks of order 9 back to the buddy; returns the largest order
    /// that one came to be listed at.
    pub(crate) fn drain_large(&mut self, buddy: &mut Buddy<'_>) -> Order {
        let mut largest = Order(0);
        for index in LARGE..NR_PCP_LISTS {
            self.drain_list(buddy, index, u64::MAX, &mut largest);
        }
        self.large = 0;
        largest
    }

    /// Gives about `pages` pages in small blocks back to the buddy, oldest first,
    /// as many of each list as of the others; all if there are no more. Each goes
    /// where its pageblock's type now says. Returns the largest order that one
    /// came to be listed at.
    pub(crate) fn drain(&mut self, buddy: &mut Buddy<'_>, pages: u32) -> Order {
        let mut largest = Order(0);
        let all = pages >= self.count;
        let mut left = u64::from(pages);
        // The last few are not worth cutting blocks for.
        let few = if all { 0 } else { left / 4 };
        while left > few && self.count > 0 {
            let small = &self.lists[..LARGE];
            let busy = small.iter().filter(|list| !list.is_empty()).count() as u64;
            let share = if all { left } else { (left / busy.max(1)).max(1) };
            for index in 0..LARGE {
                let given = self.drain_list(buddy, index, share.min(left), &mut largest);
                self.count -= given as u32;
                left = left.saturating_sub(given);
                if left <= few {
                    return largest;
                }
            }
        }
        largest
    }

    /// Gives `pages` pages of one list back, or somewhat more if its blocks are
    /// large, or all it has; returns how many. `largest` becomes the order of the
    /// largest block that comes to be listed, if it was less.
    fn drain_list(
        &mut self,
        buddy: &mut Buddy<'_>,
        index: usize,
        pages: u64,
        largest: &mut Order,
    ) -> u64 {
        let order = list_order(index);
        let mut most_so_far = *largest;
        let mut given = 0;
        while given < pages {
            let most = ((pages - given) >> order.0).max(1);
            let Some(range) = self.lists[index].pop_oldest(buddy.map, order, most) else { break };
            if range.pages() == order.pages() {
                let listed = buddy.free_here(range.start, order, Placement::Auto);
                most_so_far = most_so_far.max(listed);
            } else {
                for (pfn, order) in natural_blocks(range) {
                    let listed = buddy.free(pfn, order, Placement::Auto);
                    most_so_far = most_so_far.max(listed);
                }
            }
            given += range.pages();
        }
        *largest = most_so_far;
        given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_indices_are_distinct_and_know_their_order() {
        let mut seen = [false; NR_PCP_LISTS];
        for ty in [MigrateType::Unmovable, MigrateType::Movable, MigrateType::Reclaimable] {
            for order in [0, 1, 2, 3] {
                let Some(i) = list_index(Order(order), ty) else {
                    panic!("order {order} uncached")
                };
                assert_eq!(list_order(i), Order(order));
                assert!(!seen[i]);
                seen[i] = true;
            }
            let i = large_list(list_at(Order(0), ty.index()));
            assert_eq!(list_order(i), PAGEBLOCK_ORDER);
            assert!(!seen[i]);
            seen[i] = true;
        }
        assert_eq!(seen.iter().filter(|&&s| s).count(), 5 * NR_PCPTYPES);
        assert_eq!(list_index(Order(4), MigrateType::Movable), None);
        assert_eq!(list_index(Order(10), MigrateType::Movable), None);
        assert_eq!(list_index(Order(0), MigrateType::Isolate), None);
    }

    fn empty() -> Pcp {
        let zone = Zone::new(crate::types::NodeId(0), crate::types::ZoneKind::Normal);
        Pcp::new(Handle::of(std::boxed::Box::leak(zone.into())))
    }

    #[test]
    fn runs_of_requests_bring_more_each_time() {
        let mut pcp = empty();
        let mut brought = |batch, room| pcp.ramp(batch, room, u32::MAX);
        assert_eq!([3; 7].map(|batch| brought(batch, 850)), [8, 16, 32, 64, 128, 256, 256]);
        // No more than there is room for, and from the start when there was none.
        assert_eq!([130, 9, 0, 850, 850].map(|room| brought(3, room)), [64, 4, 4, 8, 16]);
        assert_eq!([1, 30, 30, 30, 30].map(|room| brought(1, room)), [2, 8, 16, 16, 16]);
    }

    #[test]
    fn a_zone_that_can_spare_little_gives_no_more_than_a_batch() {
        let mut pcp = empty();
        let mut brought = |spare| pcp.ramp(31, 10_000, spare);
        assert_eq!([9999, 9999, 33, 32, 31, 0].map(&mut brought), [32, 64, 32, 32, 31, 31]);
        assert_eq!(brought(9999), 32);
    }

    #[test]
    fn runs_of_frees_drain_more_each_time() {
        let mut pcp = empty();
        let drained: std::vec::Vec<u32> = (0..7).map(|_| pcp.surplus(31, 853)).collect();
        assert_eq!(drained, [64, 128, 256, 512, 790, 790, 790]);
    }

    /// From a border on, that is where the last one ended.
    #[test]
    fn drains_of_a_run_of_frees_are_whole_blocks_and_leave_some() {
        for (batch, high) in [(1, 4), (1, 75), (1, 238), (3, 300), (15, 60), (63, 252), (63, 500)] {
            let mut pcp = empty();
            let most = (0..12).map(|_| pcp.surplus(batch, high)).max().unwrap_or(0);
            assert!(list::whole(u64::from(most), 0, true) < u64::from(high), "{batch}, {high}");
        }
    }
}
