//! Per-CPU lists: free pages of the common orders that one CPU takes and gives
//! back without a lock. Only the holder of the CPU's token comes here. May
//! call: `buddy`, `fallback`, `list`.

use crate::buddy::{Buddy, Placement};
use crate::fallback::Source;
use crate::gfp::AllocFlags;
use crate::list::PageList;
use crate::memmap::MemMap;
use crate::page::{HeadWord, PageType};
use crate::types::{COSTLY_ORDER, MigrateType, NR_PCPTYPES, Order, PAGEBLOCK_ORDER, Pfn};

/// Lists: orders 0 to 3 by three types, then order 9 movable and other.
pub(crate) const NR_PCP_LISTS: usize = 4 * NR_PCPTYPES + 2;

/// Most consecutive frees that let a list grow, as a power of two.
const MAX_FREE_FACTOR: u8 = 5;

/// One CPU's free pages of one zone.
#[derive(Debug, Default)]
pub(crate) struct Pcp {
    pub(crate) lists: [PageList; NR_PCP_LISTS],
    /// Pages on all lists.
    pub(crate) count: u32,
    /// Frees in a row double what the next drain takes.
    free_factor: u8,
    /// Pages allocated and freed by this CPU in this zone, whatever the path.
    pub(crate) allocated: u64,
    pub(crate) freed: u64,
}

/// The list for blocks of `order` and `ty`, if per-CPU lists keep such.
#[inline]
pub(crate) fn list_index(order: Order, ty: MigrateType) -> Option<usize> {
    if order <= COSTLY_ORDER {
        return Some(order.index() * NR_PCPTYPES + ty.index());
    }
    if order == PAGEBLOCK_ORDER {
        return Some(4 * NR_PCPTYPES + usize::from(ty == MigrateType::Movable));
    }
    None
}

/// The order of the blocks on list `index`.
pub(crate) const fn list_order(index: usize) -> Order {
    if index < 4 * NR_PCPTYPES { Order((index / NR_PCPTYPES) as u8) } else { PAGEBLOCK_ORDER }
}

impl Pcp {
    /// Takes a block off list `index`. Its head word still says Pcp.
    #[inline]
    pub(crate) fn pop(&mut self, map: &MemMap, index: usize) -> Option<Pfn> {
        self.pop_of(map, index, list_order(index))
    }

    /// [`pop`](Self::pop) where the order of list `index` is known.
    #[inline]
    pub(crate) fn pop_of(&mut self, map: &MemMap, index: usize, order: Order) -> Option<Pfn> {
        let pfn = self.lists.get_mut(index)?.pop_front(map)?;
        self.count -= order.pages() as u32;
        self.free_factor >>= 1;
        Some(pfn)
    }

    /// [`push`](Self::push) where the order of list `index` is known.
    #[inline]
    pub(crate) fn push_of(&mut self, map: &MemMap, index: usize, pfn: Pfn, order: Order) {
        map.page(pfn).set_head(HeadWord::new(PageType::Pcp, order));
        self.lists[index].push_front(map, pfn);
        self.count += order.pages() as u32;
    }

    /// Puts a freed block, whose descriptor is clear, on list `index`.
    #[inline]
    pub(crate) fn push(&mut self, map: &MemMap, index: usize, pfn: Pfn) {
        self.push_of(map, index, pfn, list_order(index));
    }

    /// Fills list `index` with up to a batch of blocks of type `ty`; returns
    /// how many came.
    pub(crate) fn refill(
        &mut self,
        buddy: &mut Buddy<'_>,
        index: usize,
        ty: MigrateType,
        flags: AllocFlags,
        boost_factor: u32,
    ) -> u32 {
        let order = list_order(index);
        let batch = buddy.zone.pcp_batch();
        let want = if batch > 1 { (batch >> order.0).max(2) } else { 1 };
        let mut source = Source::default();
        let mut got = 0;
        while got < want {
            let Some(pfn) = buddy.rmqueue(order, ty, flags, boost_factor, &mut source) else {
                break;
            };
            buddy.map.page(pfn).set_head(HeadWord::new(PageType::Pcp, order));
            // In the order they come: callers like rising addresses.
            self.lists[index].push_back(buddy.map, pfn);
            got += 1;
        }
        self.count += got * order.pages() as u32;
        got
    }

    /// Pages to give back now that a free has raised the count to `high` or
    /// more: a batch, doubled by each such moment in a run of frees.
    pub(crate) fn surplus(&mut self, batch: u32, high: u32) -> u32 {
        let most = high.saturating_sub(batch).max(batch);
        let pages = batch << self.free_factor;
        if pages < most {
            self.free_factor = (self.free_factor + 1).min(MAX_FREE_FACTOR);
        }
        pages.clamp(batch, most)
    }

    /// Gives up to `pages` pages back to the buddy, oldest first, all lists in
    /// turn. Each goes where its pageblock's type now says.
    pub(crate) fn drain(&mut self, buddy: &mut Buddy<'_>, pages: u32) {
        let mut left = pages.min(self.count);
        let mut index = 0;
        while left > 0 && self.count > 0 {
            let order = list_order(index);
            if let Some(pfn) = self.lists[index].pop_back(buddy.map) {
                let n = order.pages() as u32;
                self.count -= n;
                left = left.saturating_sub(n);
                buddy.free(pfn, order, Placement::Auto);
            }
            index = (index + 1) % NR_PCP_LISTS;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_indices_are_distinct_and_know_their_order() {
        let mut seen = [false; NR_PCP_LISTS];
        for order in [0, 1, 2, 3, 9] {
            for ty in [MigrateType::Unmovable, MigrateType::Movable, MigrateType::Reclaimable] {
                let Some(i) = list_index(Order(order), ty) else {
                    panic!("order {order} uncached")
                };
                assert_eq!(list_order(i), Order(order));
                seen[i] = true;
            }
        }
        assert!(seen.iter().all(|&s| s));
        assert_eq!(list_index(Order(4), MigrateType::Movable), None);
        assert_eq!(list_index(Order(10), MigrateType::Movable), None);
    }

    #[test]
    fn runs_of_frees_drain_more_each_time() {
        let mut pcp = Pcp::default();
        let drained: std::vec::Vec<u32> = (0..7).map(|_| pcp.surplus(31, 853)).collect();
        assert_eq!(drained, [31, 62, 124, 248, 496, 822, 822]);
    }
}
