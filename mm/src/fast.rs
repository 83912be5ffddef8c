//! The fast path: a plain block from, or to, this CPU's own lists, with nothing
//! looked at that a plain request does not need and nothing called while the
//! CPU's token is held. A miss is tried once more here, out of line, with the
//! zone's lock. Whatever is not plain goes the general way in `alloc` and
//! `free`, which do the same and more. May call: `pcp`, `buddy`, `zone`,
//! `memmap`.

use crate::boot_slice::BootSlice;
use crate::buddy::{Buddy, Placement};
use crate::gfp::{Gfp, Page, Request};
use crate::mm::Mm;
use crate::page::{HeadWord, PageFlags, PageType};
use crate::pcp::{Pcp, is_listed, list_at, list_from, list_index, list_order};
use crate::platform::Platform;
use crate::sync::{AtomicPtr, AtomicU32, Cpu, CpuCell, Ordering::Relaxed};
use crate::types::{
    COSTLY_ORDER, CpuId, MAX_ORDER, MigrateType, NR_ZONES, NodeId, Order, Pfn, ZoneKind,
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

impl<P: Platform> Mm<P> {
    /// A plain block of a listed order from this CPU's list of the best zone, if
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
                let list = list_from(order, home.lists_from.load(Relaxed) as usize);
                pcp.pop(&self.map, list, order, HeadWord::new(PageType::Kernel, order))
            })?
        };
        Some(Page { pfn, order })
    }

    /// What [`alloc_hit`](Self::alloc_hit) has missed, for plain requests of any
    /// order: this CPU's list is filled from the free lists of the request's own
    /// type, or the block is taken from those.
    #[inline(always)]
    pub(crate) fn alloc_plain(&self, req: &Request) -> Option<Page> {
        let order = req.order;
        let bits = req.gfp.bits() & (PLACE | NOT_PLAIN.bits());
        let place = *PLACES.get(bits as usize)?;
        if place == 0xff || order > MAX_ORDER || !self.tunables.plain.load(Relaxed) {
            return None;
        }
        let (class, ty) = (usize::from(place & 3), MigrateType::from_index(place >> 2));
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
                match list_index(order, ty).filter(|_| zone.keeps(order)) {
                    Some(list) => self.pop_or_refill(&cpu, pcp, zone, list, ty),
                    None => self.take_plain(&cpu, pcp, zone, order, ty),
                }
            })?
        };
        Some(Page { pfn, order })
    }

    /// Takes the first block of a list of this CPU; if there is none, the list
    /// is filled from the free lists of its own type first.
    #[inline(always)]
    fn pop_or_refill(
        &self,
        cpu: &Cpu<'_, P>,
        pcp: &mut Pcp,
        zone: &Zone,
        list: usize,
        ty: MigrateType,
    ) -> Option<Pfn> {
        let order = list_order(list);
        if pcp.lists[list].is_empty() {
            let mut buddy = Buddy::lock(&self.map, zone, cpu);
            if ty == MigrateType::Movable && buddy.prefers_cma() {
                return None;
            }
            pcp.refill_own(&mut buddy, list, ty, Pcp::batch_of(list, zone.pcp_batch()));
        }
        pcp.pop(&self.map, list, order, HeadWord::new(PageType::Kernel, order))
    }

    /// Takes a block of an order that per-CPU lists do not keep.
    #[inline(always)]
    fn take_plain(
        &self,
        cpu: &Cpu<'_, P>,
        pcp: &mut Pcp,
        zone: &Zone,
        order: Order,
        ty: MigrateType,
    ) -> Option<Pfn> {
        let mut buddy = Buddy::lock(&self.map, zone, cpu);
        if ty == MigrateType::Movable && buddy.prefers_cma() {
            return None;
        }
        let pfn = buddy.take_run(order, ty, 1)?.start;
        // Before the lock is dropped: no free may merge with it.
        self.map.page(pfn).set_head(HeadWord::new(PageType::Kernel, order));
        pcp.allocated += order.pages();
        Some(pfn)
    }

    /// Puts an allocated block of a listed order on this CPU's list, if nothing
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
        if cells.is_null() || !(order <= COSTLY_ORDER || self.zones[zone].keeps(order)) {
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

    /// Frees a block of an order that per-CPU lists do not keep, if nothing
    /// about it is special. False: nothing has changed.
    #[inline(always)]
    pub(crate) fn free_plain(&self, page: Page) -> bool {
        let Page { pfn, order } = page;
        let Some(block) = self.map.try_block_word(pfn) else { return false };
        if order <= COSTLY_ORDER || order > MAX_ORDER || !self.tunables.plain.load(Relaxed) {
            return false;
        }
        let cpu = self.enter();
        let Some((zone, _)) = block.plain() else { return false };
        let zone = &self.zones[zone];
        let page = self.map.page(pfn);
        if is_listed(order) && zone.keeps(order) || !may_free(page.head(), order) {
            return false;
        }
        let mut buddy = Buddy::lock(&self.map, zone, &cpu);
        page.forget_owner();
        page.set_next(0);
        page.set_prev(0);
        buddy.free_here(pfn, order, Placement::Auto);
        drop(buddy);
        self.count_freed(zone, order.pages(), &cpu);
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
        if self.tunables.plain.load(Relaxed) {
            for (cpu, homes) in (0..).map(CpuId).zip(self.homes.iter()) {
                self.note_homes(cpu, homes);
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
