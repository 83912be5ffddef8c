//! Giving pages back: the checks, the per-CPU lists, draining them. May call:
//! `pcp`, `buddy`, `zone`.

use crate::buddy::{Buddy, Placement};
use crate::fast::Freed;
use crate::gfp::{FreeError, Page};
use crate::mm::Mm;
use crate::page::{HeadWord, PageDesc, PageFlags, PageType};
use crate::pcp::{Pcp, large_list, list_at, list_index};
use crate::platform::{LogLevel, Platform};
use crate::stats::Event;
use crate::sync::{AtomicU64, Cpu, Ordering::Relaxed};
use crate::types::{COSTLY_ORDER, MAX_ORDER, MigrateType, Order, PAGEBLOCK_ORDER, Pfn, PfnRange};
use crate::zone::Zone;

impl<P: Platform> Mm<P> {
    /// Frees a block from [`alloc_pages`](Self::alloc_pages), from any context.
    ///
    /// # Errors
    /// A block that is not allocated, or not in this way, or not of this order:
    /// nothing has changed then but a counter and a line in the log.
    #[inline(always)]
    pub fn free_pages(&self, page: Page) -> Result<(), FreeError> {
        if page.order > COSTLY_ORDER {
            return self.free_missed(page);
        }
        match self.free_hit(page) {
            Freed::Yes => Ok(()),
            Freed::Full(zone) => self.shed_zone(zone),
            Freed::No => self.free_missed(page),
        }
    }

    /// Frees what this CPU's lists of small blocks do not take, by order.
    #[inline(never)]
    fn free_missed(&self, page: Page) -> Result<(), FreeError> {
        match page.order {
            MAX_ORDER => self.free_largest(page),
            PAGEBLOCK_ORDER => self.free_block(page),
            order if order > COSTLY_ORDER => self.free_large(page),
            _ => self.free_as(page, PageType::Kernel),
        }
    }

    #[inline(never)]
    fn free_block(&self, page: Page) -> Result<(), FreeError> {
        if self.free_block_hit(page) { Ok(()) } else { self.free_large(page) }
    }

    #[inline(never)]
    fn free_large(&self, page: Page) -> Result<(), FreeError> {
        if self.free_plain::<false>(page) { Ok(()) } else { self.free_as(page, PageType::Kernel) }
    }

    #[inline(never)]
    fn free_largest(&self, page: Page) -> Result<(), FreeError> {
        if self.free_plain::<true>(page) { Ok(()) } else { self.free_as(page, PageType::Kernel) }
    }

    /// Gives what the per-CPU lists of a zone have too much back to the buddy;
    /// nothing if that is another CPU's business by now. Always Ok.
    #[cold]
    #[inline(never)]
    fn shed_zone(&self, zone: usize) -> Result<(), FreeError> {
        let zone = &self.zones[zone];
        let cpu = self.enter();
        // SAFETY: `cpu` is this CPU's token; the closure does not nest.
        let count = unsafe { self.pcp(cpu.id(), zone).with(|pcp| pcp.count) };
        if count >= zone.pcp_high() {
            self.shed(&cpu, zone);
        }
        Ok(())
    }

    /// Frees a block whose owner marked it as of type `ty`.
    #[inline(never)]
    pub(crate) fn free_as(&self, page: Page, ty: PageType) -> Result<(), FreeError> {
        let Page { pfn, order } = page;
        let Some(desc) = self.map.try_page(pfn) else {
            return Err(self.refuse(page, FreeError::NotManaged));
        };
        if !desc.head().is(ty, order) {
            return Err(self.refuse(page, self.why_not(pfn, desc, order)));
        }
        self.free_owned(pfn, order, desc);
        Ok(())
    }

    /// What is wrong with freeing `pfn` at `order`.
    #[cold]
    fn why_not(&self, pfn: Pfn, desc: &PageDesc, order: Order) -> FreeError {
        let word = desc.head();
        match word.ty() {
            PageType::Buddy | PageType::Pcp | PageType::Held => FreeError::DoubleFree,
            PageType::Tail => match self.map.head_of(pfn) {
                Some((_, head)) if head.ty().is_allocated() => FreeError::NotHead,
                Some((_, head)) if matches!(head.ty(), PageType::Buddy | PageType::Pcp) => {
                    FreeError::DoubleFree
                }
                _ => FreeError::NotManaged,
            },
            PageType::Kernel if word.order() != order => FreeError::WrongOrder { is: word.order() },
            PageType::Reserved | PageType::Hole | PageType::Offline | PageType::Poisoned => {
                FreeError::NotManaged
            }
            _ => FreeError::WrongOwner,
        }
    }

    #[cold]
    pub(crate) fn refuse(&self, page: Page, why: FreeError) -> FreeError {
        self.stats.count(Event::BadFree);
        let state = self.map.try_page(page.pfn).map(PageDesc::head);
        self.platform.log(
            LogLevel::Error,
            format_args!("free of {:?} order {} refused: {why} ({state:?})", page.pfn, page.order),
        );
        why
    }

    /// Frees a block that is the caller's alone: to this CPU's list, or to the
    /// buddy where lists keep no such block.
    #[inline]
    pub(crate) fn free_owned(&self, pfn: Pfn, order: Order, desc: &PageDesc) {
        // Until it is on a list: a free of the same block now is caught, and a mark that
        // comes from now on has not come in time.
        let held = HeadWord::new(PageType::Held, order);
        let was = desc.swap_head(held);
        desc.reset(held);
        if was.is_bad() {
            return self.free_without_bad(PfnRange::sized(pfn, order.pages()));
        }
        self.scrub(pfn, order);
        let block = self.map.block(pfn);
        let zone = &self.zones[block.zone_index()];
        let cpu = self.enter();
        // Only now: whoever isolates the block drains this CPU afterwards, and
        // must not miss a page that was on its way to the list.
        let ty = block.migratetype();
        let listed = match ty {
            // Nothing of a block that is being emptied may be handed out again,
            // and what was kept for emergencies is kept for them still.
            MigrateType::Isolate | MigrateType::HighAtomic => None,
            MigrateType::Cma => Some(MigrateType::Movable),
            _ => Some(ty),
        };
        let cell = self.pcp(cpu.id(), zone);
        let put = |pcp: &mut Pcp| {
            let ty = listed?;
            if order != PAGEBLOCK_ORDER {
                return Some(pcp.push(&self.map, list_index(order, ty)?, pfn, desc, order));
            }
            let has_room = pcp.large < zone.pcp_large();
            has_room.then(|| {
                let list = large_list(list_at(Order(0), ty.index()));
                pcp.push_large(&self.map, list, pfn, desc);
                0
            })
        };
        // SAFETY: `cpu` is this CPU's token; the closure does not nest.
        match unsafe { cell.with(put) } {
            Some(count) if count >= zone.pcp_high() => self.shed(&cpu, zone),
            Some(_) => {}
            None => {
                let listed = Buddy::lock(&self.map, zone, &cpu).free(pfn, order, Placement::Auto);
                self.count_freed(zone, order.pages(), &cpu);
                self.note_freed(zone, listed);
            }
        }
    }

    /// Gives what a per-CPU list has too much back to the buddy.
    #[cold]
    #[inline(never)]
    pub(crate) fn shed(&self, cpu: &Cpu<'_, P>, zone: &Zone) {
        let mut buddy = Buddy::lock(&self.map, zone, cpu);
        // SAFETY: `cpu` is this CPU's token; the closure does not nest.
        let listed = unsafe {
            self.pcp(cpu.id(), zone).with(|pcp| {
                let pages = pcp.surplus(zone.pcp_batch(), zone.pcp_high());
                pcp.drain(&mut buddy, pages)
            })
        };
        drop(buddy);
        self.note_freed(zone, listed);
    }

    /// What becomes of a block's content when it is freed: nothing, unless the
    /// command line says otherwise.
    #[inline]
    pub(crate) fn scrub(&self, pfn: Pfn, order: Order) {
        let t = &self.tunables;
        if t.init_on_free.load(Relaxed) {
            self.clear(pfn, order);
        }
        if t.page_poison.load(Relaxed) {
            self.poison(pfn, order);
        }
    }

    /// Counts pages that were freed past the per-CPU lists.
    pub(crate) fn count_freed(&self, zone: &Zone, pages: u64, cpu: &Cpu<'_, P>) {
        // SAFETY: `cpu` is this CPU's token; the closure does not nest.
        unsafe { self.pcp(cpu.id(), zone).with(|pcp| pcp.freed += pages) };
    }

    /// Gives a block that the manager itself took off the lists (Held) back to
    /// the buddy, without a stop on a per-CPU list.
    pub(crate) fn put_back(&self, pfn: Pfn, order: Order, placement: Placement) {
        let zone = self.zone_at(pfn);
        let cpu = self.enter();
        let mut buddy = Buddy::lock(&self.map, zone, &cpu);
        self.map.page(pfn).clear();
        let listed = buddy.free(pfn, order, placement);
        drop(buddy);
        self.note_freed(zone, listed);
    }

    /// Notes that a free has listed a block of `order` in `zone`: the host may
    /// be to hear of it. No lock held.
    #[inline(always)]
    pub(crate) fn note_freed(&self, zone: &Zone, order: Order) {
        if order.0 >= zone.report_from.load(Relaxed) {
            self.request_report();
        }
    }

    /// Whether a page, or the block it belongs to, came from below the
    /// watermarks by right of the reserves. Any context; the caller owns the
    /// page.
    pub fn is_pfmemalloc(&self, pfn: Pfn) -> bool {
        self.map.head_of(pfn).is_some_and(|(_, word)| word.flags().contains(PageFlags::PFMEMALLOC))
    }

    /// Empties this CPU's lists of `zone` into the buddy; returns the pages.
    pub(crate) fn drain_cpu_zone(&self, cpu: &Cpu<'_, P>, zone: &Zone) -> u64 {
        // SAFETY: `cpu` is that CPU's token; the closure does not nest.
        let (pages, listed) = unsafe {
            self.pcp(cpu.id(), zone).with(|pcp| {
                let pages = pcp.pages();
                if pages == 0 {
                    return (0, Order(0));
                }
                let mut buddy = Buddy::lock(&self.map, zone, cpu);
                let listed = pcp.drain(&mut buddy, pcp.count);
                (pages, listed.max(pcp.drain_large(&mut buddy)))
            })
        };
        if pages > 0 {
            self.note_freed(zone, listed);
        }
        pages
    }

    /// Gives what this CPU's lists of `zone` have of order 9 back to the buddy;
    /// whether there was any.
    pub(crate) fn drain_large(&self, zone: &Zone) -> bool {
        let cpu = self.enter();
        // SAFETY: `cpu` is this CPU's token; the closure does not nest.
        let listed = unsafe {
            self.pcp(cpu.id(), zone).with(|pcp| {
                let any = pcp.large > 0;
                any.then(|| pcp.drain_large(&mut Buddy::lock(&self.map, zone, &cpu)))
            })
        };
        if let Some(listed) = listed {
            self.note_freed(zone, listed);
        }
        listed.is_some()
    }

    /// Empties the per-CPU lists of all CPUs, of one zone or of all, into the
    /// buddy; returns how many pages came back. Waits for every CPU: called
    /// with interrupts on and no lock held.
    pub fn drain_all(&self, only: Option<&Zone>) -> u64 {
        let total = AtomicU64::new(0);
        Cpu::on_each(&self.platform, &|cpu| {
            for zone in self.zones.iter() {
                if only.is_none_or(|o| core::ptr::eq(o, zone)) {
                    total.fetch_add(self.drain_cpu_zone(cpu, zone), Relaxed);
                }
            }
        });
        total.into_inner()
    }
}
