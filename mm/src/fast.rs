//! The fast path: a plain block from, or to, this CPU's own lists, with nothing
//! looked at that a plain request does not need and nothing called while the
//! CPU's token is held. A miss, and what is not of a small order, is served
//! here too, out of line, with the zone's lock. Whatever is not plain goes the general way in `alloc` and
//! `free`, which do the same and more. May call: `pcp`, `buddy`, `zone`,
//! `memmap`.

use crate::boot_slice::BootSlice;
use crate::buddy::{Buddy, Placement};
use crate::gfp::{Gfp, Page, Request};
use crate::mm::Mm;
use crate::page::{HeadWord, PageFlags, PageType};
use crate::pcp::{Pcp, large_list, list_at, list_index, type_from};
use crate::platform::Platform;
use crate::sync::{AtomicPtr, AtomicU32, Cpu, CpuCell, Ordering::Relaxed};
use crate::types::{
    COSTLY_ORDER, CpuId, MAX_ORDER, MigrateType, NR_ZONES, NodeId, Order, PAGEBLOCK_ORDER,
    PAGEBLOCK_PAGES, Pfn, ZoneKind,
};
use crate::zone::Zone;
use core::ptr::null_mut;

/// What the bits of a gfp that name a place and a mobility come to: class in
/// the low two bits, type above, or 0xff where they contradict each other.
const PLACES: [u8; 32] = {
    let mut table = [0xff; 32];
    let mut bits = 0;
    while bits < 32 {
        let dma = bits & Gfp::DMA.bits() != 0;
        let highmem = bits & Gfp::HIGHMEM.bits() != 0;
        let dma32 = bits & Gfp::DMA32.bits() != 0;
        let movable = bits & Gfp::MOVABLE.bits() != 0;
        let reclaimable = bits & Gfp::RECLAIMABLE.bits() != 0;
        let class = match (dma, highmem, dma32) {
            (false, false, false) => Some(ZoneKind::Normal),
            (false, true, false) if movable => Some(ZoneKind::Movable),
            (false, true, false) => Some(ZoneKind::Normal),
            (true, false, false) => Some(ZoneKind::Dma),
            (false, false, true) => Some(ZoneKind::Dma32),
            _ => None,
        };
        if let Some(class) = class
            && !(movable && reclaimable)
        {
            let ty = if movable {
                MigrateType::Movable
            } else if reclaimable {
                MigrateType::Reclaimable
            } else {
                MigrateType::Unmovable
            };
            table[bits as usize] = class as u8 | (ty as u8) << 2;
        }
        bits += 1;
    }
    table
};

/// The bits of a gfp that name a place and a mobility.
const PLACE: u32 = 0x1f;

/// Flags for which the general way is the right one.
const NOT_PLAIN: Gfp = Gfp::ZERO.union(Gfp::THISNODE).union(Gfp::PINNED);

/// What plain requests of one kind come to on one CPU.
#[derive(Debug)]
struct Home {
    /// The CPU's lists of the zone that comes first; null where there is none,
    /// the flags contradict each other, or nothing is plain on this machine.
    lists: AtomicPtr<CpuCell<Pcp>>,
    class: AtomicU32,
    /// The first list of the migratetype.
    lists_from: AtomicU32,
}

/// What one CPU's plain requests come to, by the bits of [`PLACE`]. A power of
/// two in size, so that a CPU's is found by a shift.
#[derive(Debug)]
#[repr(align(1024))]
pub(crate) struct Homes {
    /// The CPU's lists of the first zone; null if nothing is plain.
    cells: AtomicPtr<CpuCell<Pcp>>,
    homes: [Home; 1 + PLACE as usize],
}

impl Default for Homes {
    fn default() -> Self {
        Self {
            cells: AtomicPtr::new(null_mut()),
            homes: [const {
                Home {
                    lists: AtomicPtr::new(null_mut()),
                    class: AtomicU32::new(0),
                    lists_from: AtomicU32::new(0),
                }
            }; _],
        }
    }
}

impl Homes {
    /// Nothing is plain any more.
    fn forget(&self) {
        self.cells.store(null_mut(), Relaxed);
        for home in &self.homes {
            home.lists.store(null_mut(), Relaxed);
        }
    }
}

impl<P: Platform> Mm<P> {
    /// A plain block of order 0 to 3 from this CPU's list of the best zone, if
    /// that is above its low mark. Its head word says Kernel.
    // Always inlined: most callers know flags and order while they are compiled,
    // and much of this is gone then.
    #[inline(always)]
    pub(crate) fn alloc_hit(&self, req: &Request) -> Option<Page> {
        let order = req.order;
        let bits = req.gfp.bits() & (PLACE | NOT_PLAIN.bits());
        if bits > PLACE || req.node.is_some() {
            return None;
        }
        let cpu = self.enter();
        let home = &self.homes(&cpu).homes[bits as usize];
        // SAFETY: what is not null here is a cell of this manager and this CPU,
        // whose token `cpu` is; the closure does not nest.
        let pfn = unsafe {
            home.lists.load(Relaxed).as_ref()?.with(|pcp| {
                let class = home.class.load(Relaxed) as usize;
                // Pages of CMA are left out, whoever asks: below the mark
                // without them, the general way has another look.
                // For small blocks as many pages as the largest of them has.
                let pages = order.max(COSTLY_ORDER).pages();
                if !pcp.zone().plainly_above_low(class, pages) {
                    return None;
                }
                let list = home.lists_from.load(Relaxed) as usize + order.index();
                pcp.pop(&self.map, list, order, HeadWord::new(PageType::Kernel, order))
            })?
        };
        Some(Page { pfn, order })
    }

    /// What [`alloc_hit`](Self::alloc_hit) has missed: this CPU's list is filled
    /// from the free lists of the request's own type.
    #[inline(always)]
    pub(crate) fn alloc_refilled(&self, req: &Request) -> Option<Page> {
        let order = req.order;
        let bits = req.gfp.bits() & (PLACE | NOT_PLAIN.bits());
        let place = *PLACES.get(bits as usize)?;
        if place == 0xff || !self.tunables.plain.load(Relaxed) {
            return None;
        }
        let (class, ty) = (usize::from(place & 3), MigrateType::from_index(place >> 2));
        let list = list_index(order, ty)?;
        let cpu = self.enter();
        let cell = match req.node {
            // SAFETY: what is not null here is a cell of this manager.
            None => unsafe { self.homes(&cpu).homes[bits as usize].lists.load(Relaxed).as_ref()? },
            Some(node) => {
                let first = self.first_zones.get(usize::from(node.0) * NR_ZONES + class)?;
                self.pcp(cpu.id(), self.zones.get(usize::from(first.load(Relaxed)))?)
            }
        };
        // SAFETY: `cpu` is this CPU's token; the closure does not nest. The zone
        // is of this manager.
        let pfn = unsafe {
            cell.with(|pcp| {
                let zone = pcp.zone();
                if !zone.plainly_above_low(class, order.pages()) {
                    return None;
                }
                if pcp.lists[list].is_empty() {
                    let mut buddy = Buddy::lock(&self.map, zone, &cpu);
                    if ty == MigrateType::Movable && buddy.prefers_cma() {
                        return None;
                    }
                    let want = pcp.demand(list, zone);
                    pcp.refill_own(&mut buddy, list, ty, want);
                }
                pcp.pop(&self.map, list, order, HeadWord::new(PageType::Kernel, order))
            })?
        };
        Some(Page { pfn, order })
    }

    /// A plain block of order 9 from this CPU's list of the best zone, if that is
    /// above its low mark.
    #[inline(always)]
    pub(crate) fn alloc_block_hit(&self, req: &Request) -> Option<Page> {
        let bits = req.gfp.bits() & (PLACE | NOT_PLAIN.bits());
        if bits > PLACE || req.node.is_some() {
            return None;
        }
        let cpu = self.enter();
        let home = &self.homes(&cpu).homes[bits as usize];
        // SAFETY: as in `alloc_hit`.
        let pfn = unsafe {
            home.lists.load(Relaxed).as_ref()?.with(|pcp| {
                let class = home.class.load(Relaxed) as usize;
                if !pcp.zone().plainly_above_low(class, PAGEBLOCK_PAGES) {
                    return None;
                }
                let list = large_list(home.lists_from.load(Relaxed) as usize);
                pcp.pop_large(&self.map, list, HeadWord::new(PageType::Kernel, PAGEBLOCK_ORDER))
            })?
        };
        Some(Page { pfn, order: PAGEBLOCK_ORDER })
    }

    /// A plain block of order 4 or more from the free lists of the request's own
    /// type in the best zone. Those that ask for the largest order say so when
    /// they are compiled: nothing is split then.
    #[inline(always)]
    pub(crate) fn alloc_plain<const LARGEST: bool>(&self, req: &Request) -> Option<Page> {
        let order = if LARGEST { MAX_ORDER } else { req.order };
        let bits = req.gfp.bits() & (PLACE | NOT_PLAIN.bits());
        if bits > PLACE || req.node.is_some() || order > MAX_ORDER {
            return None;
        }
        let cpu = self.enter();
        let home = &self.homes(&cpu).homes[bits as usize];
        // SAFETY: what is not null here is a cell of this manager and this CPU,
        // whose token `cpu` is; the closure does not nest.
        let pfn = unsafe {
            home.lists.load(Relaxed).as_ref()?.with(|pcp| {
                let zone = pcp.zone();
                if !zone.plainly_above_low(home.class.load(Relaxed) as usize, order.pages()) {
                    return None;
                }
                let kernel = HeadWord::new(PageType::Kernel, order);
                let ty = type_from(home.lists_from.load(Relaxed));
                let mut buddy = Buddy::lock(&self.map, zone, &cpu);
                if ty == MigrateType::Movable && buddy.prefers_cma() {
                    return None;
                }
                let pfn = buddy.take_one(order, ty)?;
                // Before the lock is dropped: no free may merge with it.
                self.map.page(pfn).set_head(kernel);
                pcp.allocated += order.pages();
                Some(pfn)
            })?
        };
        Some(Page { pfn, order })
    }

    /// Puts an allocated block of order 0 to 3 on this CPU's list, if nothing
    /// about it is special.
    ///
    /// A block freed twice, at another order or in its middle has another head
    /// word than is asked for, and that is seen here. What is not seen: two CPUs
    /// that free the same block at the same moment may both read the word before
    /// either has changed it; without an atomic read-modify-write in each free
    /// nothing can tell them apart. The block is then on two lists, which an
    /// audit finds.
    #[inline(always)]
    pub(crate) fn free_hit(&self, page: Page) -> Freed {
        let Page { pfn, order } = page;
        if !self.map.has_word(pfn) {
            return Freed::No;
        }
        let block = self.map.word(pfn);
        let cpu = self.enter();
        // The type is read with the token held, and that is what keeps pages of
        // a block that is being isolated, or kept as HighAtomic, off the lists
        // of all CPUs: whoever changes it drains each CPU afterwards, holding
        // its token. A free that came before is on the list by then and is
        // drained; one that comes after sees the new type.
        let Some((zone, ty)) = block.plain() else { return Freed::No };
        let list = list_at(order, ty.index());
        let page = self.map.page(pfn);
        if !may_free(page.head(), order) {
            return Freed::No;
        }
        let cells = self.homes(&cpu).cells.load(Relaxed);
        if cells.is_null() {
            return Freed::No;
        }
        page.forget_owner();
        // SAFETY: `cpu` is this CPU's token; the closure does not nest. The
        // CPU's cells are one for each zone, of which the pageblock names one.
        let full = unsafe {
            (*cells.add(zone)).with(|pcp| {
                let count = pcp.push(&self.map, list, pfn, page, order);
                count >= pcp.zone().pcp_high()
            })
        };
        if full { Freed::Full(zone) } else { Freed::Yes }
    }

    /// Puts an allocated block of order 9 on this CPU's list, if nothing about it
    /// is special and there is room. False: nothing has changed. Looks at the
    /// same as [`free_hit`](Self::free_hit), in the same order.
    #[inline(always)]
    pub(crate) fn free_block_hit(&self, page: Page) -> bool {
        let pfn = page.pfn;
        if !self.map.has_word(pfn) {
            return false;
        }
        let block = self.map.word(pfn);
        let cpu = self.enter();
        let Some((zone, ty)) = block.plain() else { return false };
        let page = self.map.page(pfn);
        let cells = self.homes(&cpu).cells.load(Relaxed);
        if !may_free(page.head(), PAGEBLOCK_ORDER) || cells.is_null() {
            return false;
        }
        // SAFETY: as in `free_hit`.
        unsafe {
            (*cells.add(zone)).with(|pcp| {
                let has_room = pcp.large < pcp.zone().pcp_large();
                if has_room {
                    page.forget_owner();
                    pcp.push_large(&self.map, large_list(list_at(Order(0), ty.index())), pfn, page);
                }
                has_room
            })
        }
    }

    /// Frees a block of order 4 or more to the buddy, if nothing about it is
    /// special. False: nothing has changed. Looks at the same as
    /// [`free_hit`](Self::free_hit), in the same order. Those that free one of the
    /// largest order say so when they are compiled: nothing is merged then.
    #[inline(always)]
    pub(crate) fn free_plain<const LARGEST: bool>(&self, page: Page) -> bool {
        let pfn = page.pfn;
        let order = if LARGEST { MAX_ORDER } else { page.order };
        if !self.map.has_word(pfn) || order > MAX_ORDER {
            return false;
        }
        let block = self.map.word(pfn);
        let cpu = self.enter();
        let Some((zone, _)) = block.plain() else { return false };
        let page = self.map.page(pfn);
        if !may_free(page.head(), order) {
            return false;
        }
        let cells = self.homes(&cpu).cells.load(Relaxed);
        if cells.is_null() {
            return false;
        }
        page.forget_owner();
        // SAFETY: `cpu` is this CPU's token; the closure does not nest. The
        // CPU's cells are one for each zone, of which the pageblock names one.
        let zone = unsafe {
            (*cells.add(zone)).with(|pcp| {
                pcp.freed += order.pages();
                pcp.zone()
            })
        };
        page.set_next(0);
        page.set_prev(0);
        let mut buddy = Buddy::lock(&self.map, zone, &cpu);
        let listed = if !LARGEST {
            buddy.free_here(pfn, order, Placement::Auto)
        } else if buddy.free_largest(pfn) {
            MAX_ORDER
        } else {
            return self.free_to_buddy(buddy, cpu, pfn);
        };
        drop(buddy);
        drop(cpu);
        self.note_freed(zone, listed);
        true
    }

    /// Frees a block of the largest order that is not to be listed just so.
    /// Always true.
    #[cold]
    #[inline(never)]
    fn free_to_buddy(&self, mut buddy: Buddy<'_>, cpu: Cpu<'_, P>, pfn: Pfn) -> bool {
        let zone = buddy.zone;
        let listed = buddy.free(pfn, MAX_ORDER, Placement::Auto);
        drop(buddy);
        drop(cpu);
        self.note_freed(zone, listed);
        true
    }

    /// What this CPU's plain requests come to.
    #[inline]
    fn homes(&self, cpu: &Cpu<'_, P>) -> &Homes {
        // SAFETY: a platform names CPUs below its number of CPUs only, and there
        // is an entry for each.
        unsafe { self.homes.get_unchecked(usize::from(cpu.id().0)) }
    }

    /// Enters for each node and class the zone that comes first, and for each
    /// CPU what follows from that, anew after zones gained or lost all their
    /// pages.
    pub(crate) fn note_first_zones(&self) {
        for node in 0..self.nodes() {
            for class in ZoneKind::ALL {
                let first = self.zonelist(NodeId(node as u8), class).find(|z| z.managed() > 0);
                let index = first.map_or(u8::MAX, |z| z.index() as u8);
                self.first_zones[node * NR_ZONES + class.index()].store(index, Relaxed);
            }
        }
        self.decide_plain();
    }

    /// Lets plain requests go the fast way, or not, as is right by now: knobs
    /// may want to see each page, or somebody each allocation. A CPU that is on
    /// the fast way just now finishes it. Any context.
    pub(crate) fn decide_plain(&self) {
        let t = &self.tunables;
        let cpu = self.enter();
        let _deciding = self.faults.deciding.lock(&cpu);
        let special = [&t.init_on_alloc, &t.init_on_free, &t.page_poison];
        let plain = !special.iter().any(|knob| knob.load(Relaxed))
            && !self.owners.is_on()
            && !self.faults.are_armed();
        t.plain.store(plain, Relaxed);
        for (cpu, homes) in (0..).map(CpuId).zip(self.homes.iter()) {
            if plain {
                self.note_homes(cpu, homes);
            } else {
                homes.forget();
            }
        }
    }

    fn note_homes(&self, cpu: CpuId, homes: &Homes) {
        let cell = |zone: &Zone| core::ptr::from_ref(self.pcp(cpu, zone)).cast_mut();
        let cells = BootSlice::from(&self.pcps, usize::from(cpu.0) * self.zones.len());
        homes.cells.store(cells.cast_mut(), Relaxed);
        let node = usize::from(self.platform.node_of_cpu(cpu).0);
        for (home, place) in homes.homes.iter().zip(PLACES) {
            if place == 0xff {
                continue;
            }
            let (class, ty) = (place & 3, place >> 2);
            home.class.store(u32::from(class), Relaxed);
            let from = list_at(Order(0), usize::from(ty));
            home.lists_from.store(from as u32, Relaxed);
            let first = self.first_zones.get(node * NR_ZONES + usize::from(class));
            let zone = first.and_then(|first| self.zones.get(usize::from(first.load(Relaxed))));
            home.lists.store(zone.map_or(null_mut(), cell), Relaxed);
        }
    }
}

/// What became of a block that was given to [`Mm::free_hit`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Freed {
    /// Nothing: it is special, or not of a common order.
    No,
    /// It is on its list.
    Yes,
    /// The same, and the CPU's lists of that zone have too much.
    Full(usize),
}

/// Whether a head word is that of an allocated block of `order`.
#[inline]
pub(crate) fn may_free(word: HeadWord, order: Order) -> bool {
    word.0 & !PageFlags::PFMEMALLOC.bits() == HeadWord::new(PageType::Kernel, order).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_agree_with_the_general_way() {
        for bits in 0..32 {
            let gfp = Gfp::from_bits_retain(bits);
            match (gfp.zone(), gfp.migratetype()) {
                (Ok(class), Ok(ty)) => {
                    assert_eq!(PLACES[bits as usize], class as u8 | (ty as u8) << 2, "{gfp:?}");
                }
                _ => assert_eq!(PLACES[bits as usize], 0xff, "{gfp:?}"),
            }
        }
    }
}
