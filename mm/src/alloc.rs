//! The page allocator's front: who may take what from where. The walk over the
//! zonelist, the per-CPU fast path. What has to wait is in `slow`. May call: `pcp`, `fallback`, `buddy`, `zone`.

use crate::buddy::Buddy;
use crate::fallback::Source;
use crate::gfp::{AllocError, AllocFlags, Gfp, Page, Request};
use crate::mm::Mm;
use crate::page::{HeadWord, PageFlags, PageType};
use crate::pcp::{large_list, list_at, list_index};
use crate::platform::{LogLevel, Platform};
use crate::pressure::Attempt;
use crate::stats::Event;
use crate::sync::{Ordering::Relaxed, may_wait};
use crate::types::{
    COSTLY_ORDER, MAX_ORDER, MigrateType, NodeId, Order, PAGEBLOCK_ORDER, Pfn, ZoneKind,
};
use crate::zone::{Mark, Zone};
use core::panic::Location;

/// What page poisoning fills free pages with.
pub(crate) const POISON: u8 = 0xaa;

/// Rights beyond the ordinary ones that an attempt may fall back on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reserves {
    /// None.
    No,
    /// A victim's: half of what is left, and HighAtomic blocks.
    Oom,
    /// All there is.
    All,
}

impl<P: Platform> Mm<P> {
    /// Allocates a block as `req` says. Its content is whatever was there,
    /// unless ZERO was asked for.
    ///
    /// May wait (reclaim, compact) if the gfp has DIRECT_RECLAIM: then it is to
    /// be called with interrupts on and no lock held; without, from anywhere.
    ///
    /// # Errors
    /// [`AllocError::Invalid`] for an order above 10 or flags that contradict
    /// each other; [`AllocError::NoMemory`] when nothing may be taken;
    /// [`AllocError::Injected`] while [`set_faults`](Self::set_faults) is armed.
    #[track_caller]
    #[inline(always)]
    pub fn alloc_pages(&self, req: Request) -> Result<Page, AllocError> {
        if req.gfp.can_block() {
            may_wait(&self.platform, "memory");
        }
        if req.order <= COSTLY_ORDER
            && let Some(page) = self.alloc_hit(&req)
        {
            return Ok(page);
        }
        self.alloc_missed(req, Location::caller())
    }

    /// Allocates what this CPU's lists of small blocks do not have, by order:
    /// each function below knows its own and is the shorter for it.
    #[inline(never)]
    fn alloc_missed(
        &self,
        req: Request,
        at: &'static Location<'static>,
    ) -> Result<Page, AllocError> {
        match req.order {
            MAX_ORDER => self.alloc_largest(req, at),
            PAGEBLOCK_ORDER => self.alloc_block(req, at),
            order if order > COSTLY_ORDER => self.alloc_large(req, at),
            _ => self.alloc_small(req, at),
        }
    }

    #[inline(never)]
    fn alloc_small(
        &self,
        req: Request,
        at: &'static Location<'static>,
    ) -> Result<Page, AllocError> {
        match self.alloc_refilled(&req) {
            Some(page) => Ok(page),
            None => self.alloc_general(req, at),
        }
    }

    #[inline(never)]
    fn alloc_block(
        &self,
        req: Request,
        at: &'static Location<'static>,
    ) -> Result<Page, AllocError> {
        match self.alloc_block_hit(&req) {
            Some(page) => Ok(page),
            None => self.alloc_large(req, at),
        }
    }

    #[inline(never)]
    fn alloc_large(
        &self,
        req: Request,
        at: &'static Location<'static>,
    ) -> Result<Page, AllocError> {
        match self.alloc_plain::<false>(&req) {
            Some(page) => Ok(page),
            None => self.alloc_general(req, at),
        }
    }

    #[inline(never)]
    fn alloc_largest(
        &self,
        req: Request,
        at: &'static Location<'static>,
    ) -> Result<Page, AllocError> {
        match self.alloc_plain::<true>(&req) {
            Some(page) => Ok(page),
            None => self.alloc_general(req, at),
        }
    }

    /// Allocates in every way there is, unless it is to fail.
    #[inline(never)]
    fn alloc_general(
        &self,
        req: Request,
        at: &'static Location<'static>,
    ) -> Result<Page, AllocError> {
        if self.fault_strikes(req.gfp) {
            return Err(AllocError::Injected);
        }
        self.alloc_unfailed(req, at)
    }

    /// Allocates in every way there is.
    #[inline]
    pub(crate) fn alloc_unfailed(
        &self,
        req: Request,
        at: &'static Location<'static>,
    ) -> Result<Page, AllocError> {
        if req.order > MAX_ORDER {
            return Err(AllocError::Invalid("order above 10"));
        }
        let attempt = self.attempt(req)?;
        let taken = match self.walk(&attempt, Some(Mark::Low), Reserves::No) {
            Some(taken) => taken,
            None => self.alloc_slow(&attempt)?,
        };
        Ok(self.hand_out(&attempt.request, taken, at))
    }

    /// The rights of a first attempt at `req`.
    #[inline]
    pub(crate) fn attempt(&self, req: Request) -> Result<Attempt, AllocError> {
        let class = req.gfp.zone()?;
        let migratetype = req.gfp.migratetype()?;
        let mut flags = AllocFlags::empty();
        if req.gfp.contains(Gfp::KSWAPD_RECLAIM) {
            flags |= AllocFlags::KSWAPD;
        }
        if migratetype == MigrateType::Movable && !req.gfp.contains(Gfp::PINNED) {
            flags |= AllocFlags::CMA;
        }
        let mut request = req;
        let node = self.node_for(req);
        request.node = Some(node);
        flags |= self.nofragment(node, class);
        Ok(Attempt { request, class, migratetype, flags })
    }

    /// The node a request starts from.
    #[inline]
    fn node_for(&self, req: Request) -> NodeId {
        match req.node {
            Some(node) if (node.0 as usize) < self.nodes() => node,
            _ if self.nodes() == 1 => NodeId(0),
            _ => {
                let cpu = self.enter();
                let node = self.platform.node_of_cpu(cpu.id());
                if (node.0 as usize) < self.nodes() { node } else { NodeId(0) }
            }
        }
    }

    /// Types are kept apart at first where another zone can still help: that
    /// is, when Normal is preferred and there is a DMA32 to fall to.
    #[inline]
    fn nofragment(&self, node: NodeId, class: ZoneKind) -> AllocFlags {
        let first = self.zonelist(node, class).find(|z| z.managed() > 0);
        let has_dma32 =
            |node| self.zone(node, ZoneKind::Dma32).is_some_and(|z: &Zone| z.managed() > 0);
        match first {
            Some(zone) if zone.kind == ZoneKind::Normal && has_dma32(zone.node) => {
                AllocFlags::NOFRAGMENT
            }
            _ => AllocFlags::empty(),
        }
    }

    /// One walk over the zonelist (Linux `get_page_from_freelist`): the first
    /// zone that stays above `mark` (None: whatever it has) gives the block.
    /// Returned with it: whether only `reserves` made it possible.
    pub(crate) fn walk(
        &self,
        attempt: &Attempt,
        mark: Option<Mark>,
        reserves: Reserves,
    ) -> Option<(Pfn, bool)> {
        let mut flags = attempt.flags;
        loop {
            if let Some(found) = self.walk_with(attempt, flags, mark, reserves) {
                return Some(found);
            }
            // Better to mix types than to go without.
            if !flags.contains(AllocFlags::NOFRAGMENT) {
                return None;
            }
            flags -= AllocFlags::NOFRAGMENT;
        }
    }

    #[inline]
    fn walk_with(
        &self,
        attempt: &Attempt,
        flags: AllocFlags,
        mark: Option<Mark>,
        reserves: Reserves,
    ) -> Option<(Pfn, bool)> {
        let Request { order, gfp, node } = attempt.request;
        let node = node.unwrap_or_default();
        let mark = mark.unwrap_or(Mark::Min);
        // The node itself, or the nearest where it has no memory.
        let mut home = None;
        for zone in self.zonelist(node, attempt.class) {
            if zone.node != node && gfp.contains(Gfp::THISNODE) {
                break;
            }
            if zone.managed() == 0 {
                continue;
            }
            // A local block of mixed types beats a remote one.
            if *home.get_or_insert(zone.node) != zone.node && flags.contains(AllocFlags::NOFRAGMENT)
            {
                return None;
            }
            let mut rights = flags;
            let mut from_reserves = false;
            if !zone.watermark_fast(order, mark, attempt.class, flags) {
                match reserves {
                    Reserves::No => continue,
                    Reserves::Oom => {
                        rights |= AllocFlags::OOM;
                        if !zone.watermark_fast(order, mark, attempt.class, rights) {
                            continue;
                        }
                    }
                    Reserves::All => rights |= AllocFlags::NO_WATERMARKS,
                }
                from_reserves = true;
            }
            if let Some(pfn) = self.rmqueue(zone, order, attempt.migratetype, rights) {
                return Some((pfn, from_reserves));
            }
        }
        None
    }

    /// Takes a block out of one zone: from this CPU's list if it keeps such,
    /// else from the buddy.
    #[inline]
    pub(crate) fn rmqueue(
        &self,
        zone: &Zone,
        order: Order,
        ty: MigrateType,
        flags: AllocFlags,
    ) -> Option<Pfn> {
        let cpu = self.enter();
        // The movable list holds CMA pages too, which not everyone may have.
        let from_pcp = ty != MigrateType::Movable || flags.contains(AllocFlags::CMA);
        let cell = self.pcp(cpu.id(), zone);
        let held = HeadWord::new(PageType::Held, order);
        let mut found = None;
        if let Some(index) = list_index(order, ty).filter(|_| from_pcp) {
            // SAFETY: `cpu` is this CPU's token, and nothing below reaches the
            // cell again.
            found = unsafe {
                cell.with(|pcp| {
                    if pcp.lists[index].is_empty() {
                        let mut buddy = Buddy::lock(&self.map, zone, &cpu);
                        let boost = self.tunables.boost_factor.load(Relaxed);
                        let want = pcp.demand(index, zone);
                        pcp.refill(&mut buddy, index, ty, want, flags, boost);
                    }
                    pcp.pop(&self.map, index, order, held)
                })
            };
        } else if order == PAGEBLOCK_ORDER && from_pcp {
            let list = large_list(list_at(Order(0), ty.index()));
            // SAFETY: as above.
            found = unsafe { cell.with(|pcp| pcp.pop_large(&self.map, list, held)) };
        }
        if found.is_none() {
            found = self.rmqueue_buddy(zone, order, ty, flags, &cpu);
        }
        if let Some(pfn) = found.filter(|_| flags.contains(AllocFlags::HIGHATOMIC)) {
            Buddy::lock(&self.map, zone, &cpu).reserve_highatomic(pfn, order);
        }
        drop(cpu);
        if zone.boosted.load(Relaxed) && zone.boosted.swap(false, Relaxed) {
            self.wake_kswapd(zone.node, Order(0), zone.kind);
        }
        found
    }

    #[cold]
    pub(crate) fn count_allocated(&self, zone: &Zone, pages: u64, cpu: &crate::sync::Cpu<'_, P>) {
        // SAFETY: `cpu` is this CPU's token; the closure does not nest.
        unsafe { self.pcp(cpu.id(), zone).with(|pcp| pcp.allocated += pages) };
    }

    fn rmqueue_buddy(
        &self,
        zone: &Zone,
        order: Order,
        ty: MigrateType,
        flags: AllocFlags,
        cpu: &crate::sync::Cpu<'_, P>,
    ) -> Option<Pfn> {
        let mut buddy = Buddy::lock(&self.map, zone, cpu);
        let mut pfn = None;
        if flags.contains(AllocFlags::HIGHATOMIC) {
            pfn = buddy.take_smallest(order, MigrateType::HighAtomic);
        }
        if pfn.is_none() {
            let boost = self.tunables.boost_factor.load(Relaxed);
            pfn = buddy.rmqueue(order, ty, flags, boost, &mut Source::default());
        }
        if pfn.is_none() && flags.intersects(AllocFlags::OOM | AllocFlags::NON_BLOCK) {
            // Better the reserve than a failure that cannot wait.
            pfn = buddy.take_smallest(order, MigrateType::HighAtomic);
        }
        let pfn = pfn?;
        // Off the lists and not handed out yet: no free may merge with it.
        self.map.page(pfn).set_head(HeadWord::new(PageType::Held, order));
        drop(buddy);
        self.count_allocated(zone, order.pages(), cpu);
        Some(pfn)
    }

    /// Makes a block that is off the lists the caller's.
    #[inline]
    pub(crate) fn hand_out(
        &self,
        req: &Request,
        (pfn, from_reserves): (Pfn, bool),
        at: &'static Location<'static>,
    ) -> Page {
        let page = self.map.page(pfn);
        let mut word = HeadWord::new(PageType::Kernel, req.order);
        if from_reserves {
            word = word.with(PageFlags::PFMEMALLOC);
            self.stats.count(Event::Pfmemalloc);
        }
        page.set_head(word);
        let t = &self.tunables;
        if t.page_poison.load(Relaxed) {
            self.check_poison(pfn, req.order);
        }
        if req.gfp.contains(Gfp::ZERO) || t.init_on_alloc.load(Relaxed) {
            self.clear(pfn, req.order);
        }
        if self.owners.is_on() {
            page.set_owner(self.owners.intern(at).0);
        }
        Page { pfn, order: req.order }
    }

    /// Fills a block that the caller owns with zeros.
    #[inline]
    pub(crate) fn clear(&self, pfn: Pfn, order: Order) {
        // SAFETY: the frames are contiguous and the caller's alone.
        unsafe { self.platform.clear_frames(pfn, order.pages()) };
    }

    /// Fills a block that the caller owns with one byte.
    pub(crate) fn fill(&self, pfn: Pfn, order: Order, byte: u8) {
        // SAFETY: the frames are contiguous and the caller's alone.
        unsafe { self.platform.frame(pfn).write_bytes(byte, order.bytes()) };
    }

    /// Poisons a block that is being freed.
    pub(crate) fn poison(&self, pfn: Pfn, order: Order) {
        self.fill(pfn, order, POISON);
    }

    /// Reports if somebody wrote to a block while it was free.
    #[cold]
    pub(crate) fn check_poison(&self, pfn: Pfn, order: Order) {
        // SAFETY: the frames are contiguous and the caller's alone.
        let bytes = unsafe { core::slice::from_raw_parts(self.platform.frame(pfn), order.bytes()) };
        if let Some(at) = bytes.iter().position(|&b| b != POISON) {
            self.stats.count(Event::PoisonOverwritten);
            self.platform.log(
                LogLevel::Error,
                format_args!(
                    "page poison: {pfn:?} was written to while free: byte {at:#x} of order {order} is {:#04x}",
                    bytes[at]
                ),
            );
        }
    }
}
