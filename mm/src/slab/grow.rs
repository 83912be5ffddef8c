//! New slabs, and slabs given back. May call: the page allocator, `node`.

use super::alloc::Target;
use super::array::Taken;
use super::cache::Cache;
use super::geometry::{Debug, Geometry};
use super::slabs::{Key, Slab};
use crate::gfp::{AllocError, Gfp, Page, Request};
use crate::list::PageList;
use crate::mm::Mm;
use crate::page::{PageFlags, PageType};
use crate::platform::Platform;
use crate::sync::{AtomicI64, Cpu, Ordering::Relaxed};
use crate::types::{NodeId, Pfn};
use core::ptr::NonNull;

/// What the caller says about where pages come from is the cache's to say.
const PLACE: Gfp = Gfp::DMA
    .union(Gfp::DMA32)
    .union(Gfp::HIGHMEM)
    .union(Gfp::MOVABLE)
    .union(Gfp::RECLAIMABLE)
    .union(Gfp::PINNED)
    .union(Gfp::ZERO);

/// All that is needed to make a slab while no lock and no token is held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    geometry: Geometry,
    object_size: u32,
    gfp: Gfp,
    ctor: Option<fn(NonNull<u8>)>,
    cache: u16,
    colour: u16,
}

impl Plan {
    /// The same, but only from the node itself, without waiting for it and
    /// without digging: memory that is far is better than what is kept back.
    pub(crate) fn near(&self) -> Self {
        let digs = Gfp::RECLAIM | Gfp::NOFAIL | Gfp::HIGH;
        let stays = Gfp::THISNODE | Gfp::NOMEMALLOC | Gfp::NOWARN;
        Self { gfp: (self.gfp - digs) | stays, ..*self }
    }
}

/// The most objects to move out of a slab: a batch, and what is left if that is
/// too little to come back for.
#[inline]
pub(crate) fn with_rest(batch: u32, slab: &Slab<'_>) -> u32 {
    let few = batch + batch / 4;
    // Without counting, if however many there are they are few.
    if slab.capacity() <= few || slab.free() <= few { few } else { batch }
}

impl<P: Platform> Mm<P> {
    /// How the next slab of `cache` is to be made.
    pub(crate) fn plan(&self, cpu: &Cpu<'_, P>, cache: &Cache, node: NodeId, gfp: Gfp) -> Plan {
        let colour = match cache.geometry.colours {
            0..=1 => 0,
            colours => cache.node(node).lists.lock(cpu).colour(colours),
        };
        Plan {
            geometry: cache.geometry,
            object_size: cache.object_size.load(Relaxed),
            gfp: (gfp - PLACE) | cache.gfp,
            ctor: cache.ctor,
            cache: cache.index,
            colour,
        }
    }

    /// Gets a slab, from `node` if there is one to be had, and hands out
    /// objects of it, as a refill would: what was grown for a request is that
    /// request's, before anybody else sees it.
    pub(crate) fn grow(
        &self,
        target: Target,
        plan: &Plan,
        node: NodeId,
        gfp: Gfp,
    ) -> Result<Taken, AllocError> {
        let entitled = self.entitled(gfp);
        let request = Request { order: plan.geometry.order, gfp: plan.gfp, node: Some(node) };
        let page = self.alloc_pages(request)?;
        let reserve = self.map.page(page.pfn).head().flags().contains(PageFlags::PFMEMALLOC);
        // The caller's rights were not enough, and somebody else's (an
        // interrupted task's) do not count. Only for a caller that may not
        // fail has the page allocator itself gone so deep.
        if reserve && !entitled && !plan.gfp.contains(Gfp::NOFAIL) {
            self.free_pages(page).ok();
            return Err(AllocError::NoMemory);
        }
        let slab = self.form_slab(plan, page.pfn);
        let cpu = self.enter();
        let Ok(cache) = self.resolve(&cpu, target) else {
            drop(cpu);
            self.free_as(page, PageType::Slab).ok();
            return Err(AllocError::Invalid("no such cache"));
        };
        let node = Key::of(slab.desc).node();
        self.count_slab(cache, &slab, 1);
        let mut one = [NonNull::dangling()];
        // SAFETY: `cpu` is this CPU's token, and nothing below reaches the
        // arrays again.
        unsafe {
            self.slab.arrays(&cpu).with(|all| {
                slab.take(&mut one);
                // Only an array of the same node's CPU takes what is left.
                if target.arrays
                    && let Some(array) = all.get(target.index)
                    && array.key.node() == node
                {
                    let n = slab.take(array.spare(with_rest(array.batch, &slab)));
                    array.add(n as u32);
                    array.touched = true;
                }
            });
        }
        let mut lists = cache.node(node).lists.lock(&cpu);
        lists.insert(&self.map, &slab);
        lists.free_touched = true;
        Ok(self.taken(cache, one[0]))
    }

    /// Makes a block that is the caller's a slab that is on no list.
    fn form_slab<'p>(&'p self, plan: &'p Plan, pfn: Pfn) -> Slab<'p> {
        let desc = self.map.page(pfn);
        let key = Key::new(plan.cache, self.map.block(pfn).node());
        let slab = Slab::new(pfn, desc, &plan.geometry, self.platform.frame(pfn));
        // The type last: who sees it may go by the rest.
        slab.set_colour(plan.colour);
        slab.format();
        // The mark of the reserves stays, and that of bad memory.
        desc.remake(key.head(plan.geometry.order));
        if !plan.geometry.debug.is_empty() {
            self.debug_format(&slab, &plan.geometry, plan.object_size);
        }
        // With poison the constructor runs when an object is handed out.
        if let Some(ctor) = plan.ctor.filter(|_| !plan.geometry.debug.contains(Debug::POISON)) {
            slab.objects().for_each(ctor);
        }
        slab
    }

    /// The very first slab, for the descriptor of the cache it belongs to: its
    /// head, and an object of it.
    pub(crate) fn first_slab(
        &self,
        geometry: Geometry,
        gfp: Gfp,
    ) -> Result<(Pfn, NonNull<u8>), AllocError> {
        let page = self.alloc_pages(Request::new(geometry.order, gfp))?;
        let plan = Plan { geometry, object_size: 0, gfp, ctor: None, cache: 0, colour: 0 };
        let mut first = [NonNull::dangling()];
        self.form_slab(&plan, page.pfn).take(&mut first);
        Ok((page.pfn, first[0]))
    }

    /// Counts a slab that comes (`sign` 1) or goes (-1).
    pub(crate) fn count_slab(&self, cache: &Cache, slab: &Slab<'_>, sign: i64) {
        let pages = &self.slab.pages[usize::from(Key::of(slab.desc).node().0)];
        let counter: &AtomicI64 =
            if cache.reclaimable() { &pages.reclaimable } else { &pages.unreclaimable };
        counter.fetch_add(sign * cache.geometry.order.pages() as i64, Relaxed);
        if slab.is_reserve() {
            // Before its objects go anywhere: whoever gets hold of one then
            // knows that there are such.
            self.slab.reserve_slabs.fetch_add(sign as u64, Relaxed);
        }
    }

    /// Gives slabs back that are free altogether and on no list of the cache.
    pub(crate) fn release_slabs(&self, cache: &Cache, mut slabs: PageList) -> u64 {
        let mut pages = 0;
        while let Some(pfn) = slabs.pop_front(&self.map) {
            let slab = self.slab_at(cache, pfn);
            if !cache.geometry.debug.is_empty() {
                self.debug_check_free(cache, &slab);
            }
            self.count_slab(cache, &slab, -1);
            let order = cache.geometry.order;
            if self.free_as(Page { pfn, order }, PageType::Slab).is_ok() {
                pages += order.pages();
            }
        }
        pages
    }
}
