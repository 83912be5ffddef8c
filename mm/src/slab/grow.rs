//! New slabs, and slabs given back. May call: the page allocator, `node`.

use super::alloc::{Target, zero_bytes};
use super::array::{ArrayCache, Taken};
use super::cache::Cache;
use super::geometry::{Debug, Geometry};
use super::slabs::{Owner, Slab};
use crate::gfp::{AllocError, Gfp, Page, Request};
use crate::list::PageList;
use crate::mm::Mm;
use crate::page::{HeadWord, PageFlags, PageType};
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

impl<P: Platform> Mm<P> {
    /// How the next slab of `cache` is to be made.
    pub(crate) fn plan(&self, cpu: &Cpu<'_, P>, cache: &Cache, node: NodeId, gfp: Gfp) -> Plan {
        let colour = cache.node(node).lists.lock(cpu).colour(cache.geometry.colours);
        Plan {
            geometry: cache.geometry,
            object_size: cache.object_size.load(Relaxed),
            gfp: (gfp - PLACE) | cache.gfp,
            ctor: cache.ctor,
            cache: cache.index,
            colour,
        }
    }

    /// Gets a slab and hands out objects of it, as a refill would: what was
    /// grown for a request is that request's, before anybody else sees it.
    pub(crate) fn grow(
        &self,
        target: Target,
        plan: &Plan,
        home: NodeId,
        entitled: bool,
    ) -> Result<Taken, AllocError> {
        let request = Request { order: plan.geometry.order, gfp: plan.gfp, node: Some(home) };
        let page = self.alloc_pages(request)?;
        let reserve = self.is_pfmemalloc(page.pfn);
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
        let node = self.map.block(page.pfn).node();
        self.count_slab(cache, &slab, 1);
        // Only an array of the same node's CPU takes what is left.
        let arrays = target.arrays && node == self.slab_node(&cpu);
        // SAFETY: `cpu` is this CPU's token, and nothing below reaches the
        // arrays again.
        unsafe {
            self.slab.arrays(&cpu).with(|all| {
                let array = if arrays { all.get(target.index) } else { None };
                let mut lists = cache.node(node).lists.lock(&cpu);
                lists.insert(&self.map, &slab, u64::from(cache.geometry.objects));
                let mut first = None;
                let more = array.as_ref().map_or(0, |a| a.batch.min(a.limit - a.avail));
                let mut rest = array;
                lists.take(&self.map, &slab, 1 + more, &mut |object| match &mut rest {
                    _ if first.is_none() => first = Some(object),
                    Some(array) => array.push(object),
                    None => {}
                });
                if let Some(array) = rest {
                    array.touched = true;
                }
                first.map(|ptr| self.taken(cache, ptr)).ok_or(AllocError::NoMemory)
            })
        }
    }

    /// Makes a block that is the caller's a slab that is on no list.
    fn form_slab(&self, plan: &Plan, pfn: Pfn) -> Slab<'_> {
        let desc = self.map.page(pfn);
        // The mark of the reserves stays; nothing else does.
        let mark = desc.head().flags() & PageFlags::PFMEMALLOC;
        desc.set_head(HeadWord::new(PageType::Slab, plan.geometry.order).with(mark));
        Owner { cache: plan.cache, colour: plan.colour }.write(desc);
        let slab = Slab::new(pfn, desc, plan.geometry, self.platform.frame(pfn));
        slab.format();
        if !plan.geometry.debug.is_empty() {
            self.debug_format(&slab, &plan.geometry, plan.object_size);
        }
        // With poison the constructor runs when an object is handed out.
        if let Some(ctor) = plan.ctor.filter(|_| !plan.geometry.debug.contains(Debug::POISON)) {
            slab.objects().for_each(ctor);
        }
        slab
    }

    /// The very first slab, for the descriptor of the cache it belongs to.
    pub(crate) fn first_slab(&self, geometry: Geometry, gfp: Gfp) -> Result<Slab<'_>, AllocError> {
        let page = self.alloc_pages(Request::new(geometry.order, gfp))?;
        let plan = Plan { geometry, object_size: 0, gfp, ctor: None, cache: 0, colour: 0 };
        Ok(self.form_slab(&plan, page.pfn))
    }

    /// Counts a slab that comes (`sign` 1) or goes (-1).
    pub(crate) fn count_slab(&self, cache: &Cache, slab: &Slab<'_>, sign: i64) {
        let pages = &self.slab.pages[usize::from(self.map.block(slab.pfn).node().0)];
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

    /// Sees to it that this CPU has an array for the cache with that number,
    /// and its node a shared one if it is to have one. Where there is no memory
    /// for them the cache works without.
    pub(crate) fn ensure_array(&self, index: u16) {
        let Some(want) = self.missing_array(index) else { return };
        let bytes = ArrayCache::bytes(want.entries);
        // Never from the reserves: an array lives longer than any emergency.
        let gfp = Gfp::NOWAIT | Gfp::NOWARN | Gfp::NOMEMALLOC;
        let Ok(place) = self.kmalloc_direct(bytes, gfp) else { return };
        let cpu = self.enter();
        let stale = match self.slab.cache(&cpu, index) {
            // The number may have gone to another cache meanwhile.
            Some(cache) if cache.seq == want.seq => {
                let batch = cache.batch.load(Relaxed);
                // SAFETY: kmalloc gave so many bytes, aligned to 64 since they
                // are more than 32.
                let array = unsafe {
                    ArrayCache::place(
                        place,
                        want.entries,
                        batch,
                        zero_bytes(cache),
                        cache.index,
                        self.needs_extra(cache),
                    )
                };
                if want.shared {
                    let node = self.slab_node(&cpu);
                    let mut lists = cache.node(node).lists.lock(&cpu);
                    let stale = lists.shared.is_some();
                    if !stale {
                        lists.shared = Some(array);
                    }
                    stale
                } else {
                    // SAFETY: `cpu` is this CPU's token; the closure does not
                    // nest.
                    unsafe {
                        self.slab.arrays(&cpu).with(|arrays| match arrays.slot(cache.index) {
                            Some(slot @ None) => {
                                *slot = Some(array);
                                false
                            }
                            _ => true,
                        })
                    }
                }
            }
            _ => true,
        };
        drop(cpu);
        if stale {
            self.kfree_direct(place);
            return;
        }
        // There may be a second array to make, or a second name to enter.
        self.ensure_array(index);
    }

    /// What this CPU lacks for the cache with that number.
    fn missing_array(&self, index: u16) -> Option<MissingArray> {
        let cpu = self.enter();
        if self.slab.phase.load(Relaxed) != super::state::UP {
            return None;
        }
        let cache = self.slab.cache(&cpu, index)?;
        let sizes = cache.sizes();
        let node = self.slab_node(&cpu);
        // SAFETY: `cpu` is this CPU's token; the closure does not nest.
        let has_array = unsafe {
            self.slab.arrays(&cpu).with(|arrays| {
                let own = arrays.slot(cache.index).and_then(|slot| *slot);
                if index != cache.index
                    && let Some(second) = arrays.slot(index)
                {
                    *second = own;
                }
                own.is_some()
            })
        };
        let shared = has_array;
        if shared && (sizes.shared == 0 || cache.node(node).lists.lock(&cpu).shared.is_some()) {
            return None;
        }
        let entries = if shared { sizes.shared * sizes.batch } else { sizes.limit };
        Some(MissingArray { entries, shared, seq: cache.seq })
    }
}

/// An array that is to be made.
#[derive(Clone, Copy, Debug)]
struct MissingArray {
    entries: u32,
    shared: bool,
    seq: u64,
}
