//! Per-CPU lists: free pages of the common orders that one CPU takes and gives
//! back without a lock. Only the holder of the CPU's token comes here. May
//! call: `buddy`, `fallback`.

use crate::boot_slice::Handle;
use crate::buddy::{Buddy, Placement};
use crate::fallback::Source;
use crate::gfp::AllocFlags;
use crate::memmap::{MemMap, natural_blocks};
use crate::page::{HeadWord, NIL, PageDesc, PageType, link, linked};
use crate::types::{
    COSTLY_ORDER, MigrateType, NR_PCPTYPES, Order, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, Pfn, PfnRange,
};
use crate::zone::Zone;

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
const MAX_FACTOR: u8 = 7;
/// Most pages that a run makes of a batch: the lock is held for all of them.
const MAX_RUN: u32 = 2048;

/// Blocks of one order and type, newest first. What is taken off the front is
/// handed out at once, so the front's back link, and both links of what was
/// taken, say nothing: a hit reads one word of the map, a free writes two links.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PcpList {
    head: u32,
    /// Of an empty list: nothing.
    tail: u32,
}

impl Default for PcpList {
    fn default() -> Self {
        Self { head: NIL, tail: NIL }
    }
}

impl PcpList {
    pub(crate) const fn is_empty(&self) -> bool {
        self.head == NIL
    }

    /// The oldest block.
    pub(crate) fn last(&self) -> Option<Pfn> {
        if self.is_empty() { None } else { linked(self.tail) }
    }

    /// Puts a block, whose descriptor is `page`, at the front.
    #[inline]
    fn push(&mut self, map: &MemMap, pfn: Pfn, page: &PageDesc) {
        page.set_next(self.head);
        match linked(self.head) {
            Some(old) => map.page(old).set_prev(link(pfn)),
            None => self.tail = link(pfn),
        }
        self.head = link(pfn);
    }

    /// Puts the blocks of `order` that a range consists of at the end, the
    /// first first, with `word` for their heads.
    fn append(&mut self, map: &MemMap, range: PfnRange, order: Order, word: HeadWord) {
        match self.last() {
            Some(old) => map.page(old).set_next(link(range.start)),
            None => self.head = link(range.start),
        }
        // What the front's back link says does not matter.
        let mut prev = self.tail;
        let mut pfn = range.start;
        while pfn < range.end {
            let page = map.page(pfn);
            page.set_head(word);
            page.set_prev(prev);
            prev = link(pfn);
            pfn = pfn.add(order.pages());
            page.set_next(link(pfn));
        }
        self.tail = prev;
        map.page(Pfn(u64::from(prev))).set_next(NIL);
    }

    /// Takes the oldest block and as many of the next as lie behind each other
    /// in its pageblock, up or down, up to `most`: what was freed in a row comes
    /// back as a range. The descriptors of all its pages are a tail's then, so
    /// the zone lock is wanted.
    #[inline(always)]
    fn pop_oldest(&mut self, map: &MemMap, order: Order, most: u64) -> Option<PfnRange> {
        let oldest = self.last()?;
        let mut next = None;
        if most > 1 && link(oldest) != self.head {
            let prev = Pfn(u64::from(map.page(oldest).prev()));
            next = Some(prev).filter(|prev| prev.0.abs_diff(oldest.0) == order.pages());
        }
        if let Some(next) = next {
            return Some(self.pop_oldest_run(map, order, oldest, next, most));
        }
        self.pop_last(map, oldest);
        Some(PfnRange::sized(oldest, order.pages()))
    }

    /// [`pop_oldest`](Self::pop_oldest) where `next` lies beside `oldest`, on
    /// the side where the rest is looked for.
    #[inline(never)]
    fn pop_oldest_run(
        &mut self,
        map: &MemMap,
        order: Order,
        oldest: Pfn,
        next: Pfn,
        most: u64,
    ) -> PfnRange {
        let step = next.0.wrapping_sub(oldest.0);
        let below = oldest.0 - oldest.pageblock().0;
        let room = if next > oldest { PAGEBLOCK_PAGES - below } else { below + order.pages() };
        let mut left = most.min(room >> order.0);
        // All of the run but the last of it, whose neighbour is the list's end
        // then.
        let mut last = oldest;
        while left > 1 && link(last) != self.head {
            let page = map.page(last);
            let prev = Pfn(u64::from(page.prev()));
            if prev.0 != last.0.wrapping_add(step) {
                break;
            }
            page.set_head(HeadWord::TAIL);
            page.set_next(0);
            page.set_prev(0);
            last = prev;
            left -= 1;
        }
        self.pop_last(map, last);
        PfnRange::sized(oldest.min(last), oldest.0.abs_diff(last.0) + order.pages())
    }

    /// Takes `last`, the oldest block, off the list.
    #[inline(always)]
    fn pop_last(&mut self, map: &MemMap, last: Pfn) {
        let page = map.page(last);
        let prev = page.prev();
        page.set_head(HeadWord::TAIL);
        page.set_next(0);
        page.set_prev(0);
        if link(last) == self.head {
            self.head = NIL;
            return;
        }
        map.page(Pfn(u64::from(prev))).set_next(NIL);
        self.tail = prev;
    }

    /// The blocks, newest first; the list must not change meanwhile.
    pub(crate) fn iter<'a>(&self, map: &'a MemMap) -> impl Iterator<Item = Pfn> + use<'a> {
        let mut at = linked(self.head);
        core::iter::from_fn(move || {
            let pfn = at?;
            at = linked(map.page(pfn).next());
            Some(pfn)
        })
    }
}

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
    free_factor: u8,
    /// What `allocated` was then: each page allocated since halves it again.
    allocated_then: u64,
    /// Refills in a row of one list double what the next one brings.
    alloc_factor: u8,
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
    /// for: a batch, doubled by each such moment in a run of requests, up to a
    /// quarter of the room on this CPU's lists and to what the zone can spare
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
        let pages = self.ramp(batch, (room / 4).min(zone.pcp_spare()));
        let least = if batch > 1 { 2 } else { 1 };
        let blocks = |pages: u32| (pages >> list_order(index).0).max(least);
        Demand { least: blocks(batch), most: blocks(pages) }
    }

    /// Pages for one list at this point of a run of requests: from `batch` up to
    /// `most`, if that is more.
    fn ramp(&mut self, batch: u32, most: u32) -> u32 {
        // The run starts anew once there is room again.
        if most <= batch {
            self.alloc_factor = 0;
            return batch;
        }
        let most = most.min(MAX_RUN);
        let pages = batch << self.alloc_factor;
        if pages < most {
            self.alloc_factor = (self.alloc_factor + 1).min(MAX_FACTOR);
        }
        pages.min(most)
    }

    /// Fills list `index` with up to `want` blocks from the free lists of `ty`
    /// itself, in runs: all blocks of a run lie in one block of the buddy's.
    /// Returns how many came.
    pub(crate) fn refill_own(
        &mut self,
        buddy: &mut Buddy<'_>,
        index: usize,
        ty: MigrateType,
        want: u32,
    ) -> u32 {
        let order = list_order(index);
        let word = HeadWord::new(PageType::Pcp, order);
        let mut got = 0;
        while got < want {
            let Some(run) = buddy.take_run(order, ty, u64::from(want - got)) else { break };
            // In the order they come: callers like rising addresses.
            self.lists[index].append(buddy.map, run, order, word);
            got += (run.pages() >> order.0) as u32;
        }
        self.count += got * order.pages() as u32;
        got
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
                got += self.refill_own(buddy, index, ty, want.most - got);
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
    /// more: a batch, doubled by each such moment in a run of frees.
    pub(crate) fn surplus(&mut self, batch: u32, high: u32) -> u32 {
        let allocated =
            self.allocated - core::mem::replace(&mut self.allocated_then, self.allocated);
        self.free_factor >>= allocated.min(u64::from(MAX_FACTOR));
        let most = high.saturating_sub(batch).min(MAX_RUN).max(batch);
        let pages = batch << self.free_factor;
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

    /// Gives up to `pages` pages in small blocks back to the buddy, oldest
    /// first, as many of each list as of the others. Each goes where its
    /// pageblock's type now says. Returns the largest order that one came to be
    /// listed at.
    pub(crate) fn drain(&mut self, buddy: &mut Buddy<'_>, pages: u32) -> Order {
        let mut largest = Order(0);
        let mut left = u64::from(pages.min(self.count));
        while left > 0 && self.count > 0 {
            let small = &self.lists[..LARGE];
            let busy = small.iter().filter(|list| !list.is_empty()).count() as u64;
            let share = (left / busy.max(1)).max(1);
            for index in 0..LARGE {
                let given = self.drain_list(buddy, index, share.min(left), &mut largest);
                self.count -= given as u32;
                left = left.saturating_sub(given);
                if left == 0 {
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
        let mut brought = |batch, most| pcp.ramp(batch, most);
        assert_eq!([3; 7].map(|batch| brought(batch, 277)), [3, 6, 12, 24, 48, 96, 192]);
        // No more than there is room for, and from the start when there was none.
        assert_eq!([50, 3, 0, 277, 277].map(|most| brought(3, most)), [50, 3, 3, 3, 6]);
        assert_eq!([1, 6, 6, 6, 6, 6].map(|most| brought(1, most)), [1, 1, 2, 4, 6, 6]);
    }

    #[test]
    fn runs_of_frees_drain_more_each_time() {
        let mut pcp = empty();
        let drained: std::vec::Vec<u32> = (0..7).map(|_| pcp.surplus(31, 853)).collect();
        assert_eq!(drained, [31, 62, 124, 248, 496, 822, 822]);
    }
}
