//! The buddy: free blocks of orders 0 to 10 on lists by order and migratetype,
//! split and merged in constant time. Everything here happens under the zone
//! lock, which [`Buddy`] holds. A free block's list always agrees with the type
//! of its pageblock (Linux 6.12). May call: `zone`, `list`, `memmap`, `page`.

use crate::list::PageList;
use crate::memmap::MemMap;
use crate::page::{HeadWord, PageType};
use crate::platform::Platform;
use crate::sync::{Cpu, LockGuard, Ordering::Relaxed};
use crate::types::{
    MAX_ORDER, MigrateType, Order, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, Pfn, PfnRange,
};
use crate::zone::{FreeLists, Zone};

/// Where a block goes on its list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Placement {
    /// The head, or the tail where it will likely merge soon.
    Auto,
    /// The tail: to be used late.
    Tail,
}

/// A zone's free lists, locked.
pub(crate) struct Buddy<'a> {
    pub(crate) map: &'a MemMap,
    pub(crate) zone: &'a Zone,
    pub(crate) inner: LockGuard<'a, FreeLists>,
}

impl<'a> Buddy<'a> {
    /// Takes the lock of `zone`. The token shows that interrupts are masked.
    #[inline]
    pub(crate) fn lock<P: Platform>(map: &'a MemMap, zone: &'a Zone, cpu: &Cpu<'a, P>) -> Self {
        Self { map, zone, inner: zone.lock.lock(cpu) }
    }

    #[inline]
    pub(crate) fn list(&mut self, order: Order, ty: MigrateType) -> &mut PageList {
        &mut self.inner.lists[order.index()][ty.index()]
    }

    /// Counts `pages` more (or fewer) free pages of type `ty`.
    #[inline]
    pub(crate) fn account(&self, pages: i64, ty: MigrateType) {
        self.zone.free.add(ty, pages);
    }

    /// Lists a block that is free already; counts nothing.
    #[inline]
    pub(crate) fn link(&mut self, pfn: Pfn, order: Order, ty: MigrateType, tail: bool) {
        self.map.page(pfn).set_head(HeadWord::new(PageType::Buddy, order));
        let map = self.map;
        let list = self.list(order, ty);
        if tail {
            list.push_back(map, pfn);
        } else {
            list.push_front(map, pfn);
        }
        if list.len() == 1 {
            let avail = &self.zone.avail[ty.index()];
            avail.store(avail.load(Relaxed) | 1 << order.0, Relaxed);
        }
    }

    /// Takes a block off its list; counts nothing. Its head word is the
    /// caller's to write next.
    #[inline]
    pub(crate) fn unlink(&mut self, pfn: Pfn, order: Order, ty: MigrateType) {
        let map = self.map;
        let list = self.list(order, ty);
        list.remove(map, pfn);
        if list.is_empty() {
            let avail = &self.zone.avail[ty.index()];
            avail.store(avail.load(Relaxed) & !(1 << order.0), Relaxed);
            if order == MAX_ORDER {
                self.list_deferred();
            }
        }
    }

    /// The buddy of a block if it is free, whole, and may merge with a block of
    /// type `ty`; with its type.
    #[inline]
    pub(crate) fn mergeable_buddy(
        &self,
        pfn: Pfn,
        order: Order,
        ty: MigrateType,
    ) -> Option<(Pfn, MigrateType)> {
        let buddy = pfn.buddy(order);
        let mut buddy_ty = ty;
        // Below a pageblock, zone and type are the same by construction.
        if order >= PAGEBLOCK_ORDER {
            let block = self.map.try_block(buddy)?;
            buddy_ty = block.migratetype();
            let same_zone = block.zone_index() == self.zone.index();
            let types_agree = buddy_ty == ty || buddy_ty.is_mergeable() && ty.is_mergeable();
            if !same_zone || !types_agree {
                return None;
            }
        }
        self.map.page(buddy).head().is(PageType::Buddy, order).then_some((buddy, buddy_ty))
    }

    /// Frees a block: merges it as far as it goes, lists the result under the
    /// type its pageblock has now, and counts it. The block's descriptor must
    /// be clear but for the head word. Returns the order that the block came to
    /// be listed at, for [`Mm::note_freed`](crate::Mm::note_freed).
    #[inline(never)]
    pub(crate) fn free(&mut self, pfn: Pfn, order: Order, placement: Placement) -> Order {
        self.free_here(pfn, order, placement)
    }

    /// [`free`](Self::free) for those who do little else.
    #[inline(always)]
    pub(crate) fn free_here(&mut self, pfn: Pfn, order: Order, placement: Placement) -> Order {
        let map = self.map;
        let ty = map.block(pfn).migratetype();
        if order > PAGEBLOCK_ORDER && self.types_differ(pfn, ty) {
            return self.free_halves(pfn, placement);
        }
        self.account(order.pages() as i64, ty);
        if self.inner.capture.is_some() {
            return self.merge_or_hand_over(pfn, order, ty, placement);
        }
        let (mut head, mut at) = (pfn, order);
        if order < PAGEBLOCK_ORDER {
            // Below a pageblock, zone and type are the same by construction: the
            // buddy's head word tells all.
            let lists = &mut self.inner.lists;
            let avail = &self.zone.avail[ty.index()];
            let mut orders = avail.load(Relaxed);
            for row in &mut lists[order.index()..PAGEBLOCK_ORDER.index()] {
                let buddy = head.buddy(at);
                let page = map.page(buddy);
                if !page.head().is(PageType::Buddy, at) {
                    break;
                }
                let list = &mut row[ty.index()];
                list.remove(map, buddy);
                if list.is_empty() {
                    orders &= !(1 << at.0);
                }
                map.page(head.max(buddy)).set_head(HeadWord::TAIL);
                head = head.min(buddy);
                at = Order(at.0 + 1);
            }
            avail.store(orders, Relaxed);
        }
        if at == PAGEBLOCK_ORDER && self.may_merge_block(head) {
            (head, at) = self.merge_blocks(head, at, ty);
        }
        self.place(head, at, ty, placement);
        at
    }

    /// [`free`](Self::free) for a block of the largest order, if that takes no
    /// more than to list it. False: nothing has changed.
    #[inline(always)]
    pub(crate) fn free_largest(&mut self, pfn: Pfn) -> bool {
        let ty = self.map.block(pfn).migratetype();
        if self.types_differ(pfn, ty) || self.inner.capture.is_some() {
            return false;
        }
        self.account(MAX_ORDER.pages() as i64, ty);
        self.link(pfn, MAX_ORDER, ty, false);
        true
    }

    /// Frees a largest block of which one half has changed its type while it was
    /// allocated (isolated, or kept as HighAtomic): each goes to its own list.
    #[cold]
    fn free_halves(&mut self, pfn: Pfn, placement: Placement) -> Order {
        for half in [pfn, pfn.add(PAGEBLOCK_PAGES)] {
            self.free(half, PAGEBLOCK_ORDER, placement);
        }
        PAGEBLOCK_ORDER
    }

    /// Whether a pageblock that is being freed and its buddy are perhaps one
    /// block: whether the buddy is, if it has descriptors, free as a whole.
    #[inline]
    fn may_merge_block(&self, block: Pfn) -> bool {
        let buddy = block.buddy(PAGEBLOCK_ORDER);
        let page = self.map.try_page(buddy);
        page.is_some_and(|page| page.head().is(PageType::Buddy, PAGEBLOCK_ORDER))
    }

    /// Merges whole pageblocks, which may be of different zones and types.
    #[inline(never)]
    fn merge_blocks(&mut self, mut head: Pfn, mut at: Order, ty: MigrateType) -> (Pfn, Order) {
        while at < MAX_ORDER {
            let Some((buddy, buddy_ty)) = self.mergeable_buddy(head, at, ty) else { break };
            head = self.merge_with(head, buddy, buddy_ty, at, ty);
            at = Order(at.0 + 1);
        }
        (head, at)
    }

    /// [`free`](Self::free) while a compactor waits for a block: after each
    /// merge it is asked whether this is the one.
    #[cold]
    fn merge_or_hand_over(
        &mut self,
        pfn: Pfn,
        order: Order,
        ty: MigrateType,
        placement: Placement,
    ) -> Order {
        let (mut head, mut at) = (pfn, order);
        loop {
            if self.capture(head, at, ty) {
                // Nothing has come to be listed.
                return Order(0);
            }
            if at >= MAX_ORDER {
                break;
            }
            let Some((buddy, buddy_ty)) = self.mergeable_buddy(head, at, ty) else { break };
            head = self.merge_with(head, buddy, buddy_ty, at, ty);
            at = Order(at.0 + 1);
        }
        self.place(head, at, ty, placement);
        at
    }

    /// Makes the free `buddy` of type `buddy_ty` and the block `head` of type
    /// `ty`, both of order `at`, one; returns its first frame. Its head word is
    /// to be written next.
    fn merge_with(
        &mut self,
        head: Pfn,
        buddy: Pfn,
        buddy_ty: MigrateType,
        at: Order,
        ty: MigrateType,
    ) -> Pfn {
        self.unlink(buddy, at, buddy_ty);
        if buddy_ty != ty {
            // Both halves get the freed page's type, so that a later split
            // finds blocks and lists agreeing.
            self.map.block(buddy).set_migratetype(ty);
        }
        self.map.page(head.max(buddy)).set_head(HeadWord::TAIL);
        head.min(buddy)
    }

    /// Lists a block that merges no further.
    #[inline(always)]
    fn place(&mut self, head: Pfn, at: Order, ty: MigrateType, placement: Placement) {
        let tail = placement == Placement::Tail || self.merge_likely(head, at, ty);
        self.link(head, at, ty, tail);
    }

    /// Whether the upper pageblock of a largest block is of another type than
    /// `ty`.
    fn types_differ(&self, pfn: Pfn, ty: MigrateType) -> bool {
        self.map.block(pfn.add(PAGEBLOCK_PAGES)).migratetype() != ty
    }

    /// Whether the block above this one's pair is free: then this one is best
    /// kept for last, so that its buddy has time to come back.
    #[inline]
    fn merge_likely(&self, pfn: Pfn, order: Order, ty: MigrateType) -> bool {
        if order.0 + 1 >= MAX_ORDER.0 {
            return false;
        }
        let up = Order(order.0 + 1);
        let pair = pfn.align_down(up);
        if up < PAGEBLOCK_ORDER {
            return self.map.page(pair.buddy(up)).head().is(PageType::Buddy, up);
        }
        self.mergeable_buddy(pair, up, ty).is_some()
    }

    /// Hands a block that a free has made to the compactor that waits for one.
    #[inline]
    fn capture(&mut self, pfn: Pfn, order: Order, ty: MigrateType) -> bool {
        let Some(wish) = &mut self.inner.capture else { return false };
        if wish.taken.is_some() || wish.order != order {
            return false;
        }
        if matches!(ty, MigrateType::Cma | MigrateType::Isolate) {
            return false;
        }
        // A small unmovable request would pollute a movable block.
        if order < PAGEBLOCK_ORDER && ty == MigrateType::Movable && wish.migratetype != ty {
            return false;
        }
        wish.taken = Some(pfn);
        self.map.page(pfn).set_head(HeadWord::new(PageType::Held, order));
        self.account(-(order.pages() as i64), ty);
        true
    }

    /// Takes the first block of the smallest sufficient order from the lists of
    /// `ty`, splits it, and counts it gone. The head word is the caller's to
    /// write.
    #[inline(never)]
    pub(crate) fn take_smallest(&mut self, order: Order, ty: MigrateType) -> Option<Pfn> {
        Some(self.take_run(order, ty, 1, |one| one)?.start)
    }

    /// Takes up to `most` blocks of `order` at once out of the first block of
    /// the smallest sufficient order on the lists of `ty`: those at its start,
    /// which that many [`take_smallest`](Self::take_smallest) would have taken.
    /// Where that block has more of them, `cut` says of `most` how many are
    /// taken: none, or up to the next power of two. Counts them gone; their head
    /// words are the caller's to write.
    #[inline(always)]
    pub(crate) fn take_run(
        &mut self,
        order: Order,
        ty: MigrateType,
        most: u64,
        cut: impl Fn(u64) -> u64,
    ) -> Option<PfnRange> {
        let map = self.map;
        let avail = &self.zone.avail[ty.index()];
        let mut orders = avail.load(Relaxed);
        if orders >> order.0 == 0 {
            return None;
        }
        let found = Order(order.0 + (orders >> order.0).trailing_zeros() as u8);
        let whole = found.pages() >> order.0;
        let kept = if most < whole { cut(most).min(whole) } else { whole } << order.0;
        if kept == 0 {
            return None;
        }
        let lists = self.inner.lists.get_mut(..=found.index())?;
        let list = &mut lists[found.index()][ty.index()];
        let pfn = list.pop_front(map)?;
        let emptied = list.is_empty();
        if emptied {
            orders &= !(1 << found.0);
        }
        // The rest in natural blocks, each of an order of its own. There were
        // none of these orders, or the search would have ended there.
        let mut at = kept;
        while at < found.pages() {
            let rest = Order(at.trailing_zeros() as u8);
            map.page(pfn.add(at)).set_head(HeadWord::new(PageType::Buddy, rest));
            let list = &mut lists[rest.index()][ty.index()];
            debug_assert!(list.is_empty(), "{rest:?} was said to have none");
            *list = PageList::of_one(map, pfn.add(at));
            orders |= 1 << rest.0;
            at += rest.pages();
        }
        avail.store(orders, Relaxed);
        self.account(-(kept as i64), ty);
        if emptied && found == MAX_ORDER {
            self.list_deferred();
        }
        Some(PfnRange::sized(pfn, kept))
    }

    /// [`take_smallest`](Self::take_smallest) for those who do little else.
    #[inline(always)]
    pub(crate) fn take_one(&mut self, order: Order, ty: MigrateType) -> Option<Pfn> {
        let map = self.map;
        let avail = &self.zone.avail[ty.index()];
        let mut orders = avail.load(Relaxed);
        if orders >> order.0 == 0 {
            return None;
        }
        let found = Order(order.0 + (orders >> order.0).trailing_zeros() as u8);
        let lists = self.inner.lists.get_mut(..=found.index())?;
        let list = &mut lists[found.index()][ty.index()];
        let pfn = list.take_front(map)?;
        let emptied = list.is_empty();
        if emptied {
            orders &= !(1 << found.0);
        }
        // The rest, an order at a time. There were none of these orders, or the
        // search would have ended there.
        for rest in (order.0..found.0).map(Order) {
            let at = pfn.add(rest.pages());
            map.page(at).set_head(HeadWord::new(PageType::Buddy, rest));
            let list = &mut lists[rest.index()][ty.index()];
            debug_assert!(list.is_empty(), "{rest:?} was said to have none");
            *list = PageList::of_one(map, at);
        }
        // All orders from `order` to below `found`.
        orders |= (1 << found.0) - (1 << order.0);
        avail.store(orders, Relaxed);
        self.account(-(order.pages() as i64), ty);
        if emptied && found == MAX_ORDER {
            self.list_deferred();
        }
        Some(pfn)
    }

    /// Keeps the lowest `to` of a block of order `from` that is off the lists,
    /// and lists the rest under `ty`. Counts nothing.
    #[inline]
    pub(crate) fn split(&mut self, pfn: Pfn, from: Order, to: Order, ty: MigrateType) {
        let mut at = from;
        while at > to {
            at = Order(at.0 - 1);
            self.link(pfn.add(at.pages()), at, ty, false);
        }
    }

    /// Takes the free block `pfn` of `order`, which is on the lists, off them
    /// and counts it gone.
    pub(crate) fn take_block(&mut self, pfn: Pfn, order: Order) {
        let ty = self.map.block(pfn).migratetype();
        self.unlink(pfn, order, ty);
        self.account(-(order.pages() as i64), ty);
    }

    /// Free blocks of `order`, of all types, deferred ones included.
    pub(crate) fn blocks_of(&self, order: Order) -> u64 {
        let listed = self.inner.lists[order.index()].iter().map(|l| u64::from(l.len())).sum();
        if order == MAX_ORDER { listed + self.zone.deferred_blocks() } else { listed }
    }
}
