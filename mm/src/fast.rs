//! The fast path: a plain block from, or to, this CPU's own list or the buddy,
//! with nothing looked at that a plain request does not need. Whatever is not
//! plain goes the general way in `alloc` and `free`, which do the same and more.
//! May call: `pcp`, `buddy`, `zone`, `memmap`.

use crate::buddy::{Buddy, Placement};
use crate::gfp::{Gfp, Page, Request};
use crate::mm::{Homes, Mm};
use crate::page::{HeadWord, PageFlags, PageType};
use crate::pcp::{Pcp, list_index, list_order};
use crate::platform::Platform;
use crate::sync::{Cpu, CpuCell, Ordering::Relaxed};
use crate::types::{CpuId, MAX_ORDER, MigrateType, NR_ZONES, NodeId, Order, Pfn, ZoneKind};
use crate::zone::Zone;

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

/// Flags for which the general way is the right one.
const NOT_PLAIN: Gfp = Gfp::ZERO.union(Gfp::THISNODE).union(Gfp::PINNED);

impl<P: Platform> Mm<P> {
    /// A plain block of any order out of the best zone: from this CPU's list if
    /// it keeps such blocks, else from the buddy, but only of the request's own
    /// type and above the low mark. Its head word says Kernel.
    // Always inlined: most callers know flags and order while they are compiled,
    // and half of this is gone then.
    #[inline(always)]
    pub(crate) fn alloc_fast(&self, req: &Request) -> Option<Page> {
        let place = PLACES[(req.gfp.bits() & 0x1f) as usize];
        if place == 0xff
            || req.order > MAX_ORDER
            || req.gfp.intersects(NOT_PLAIN)
            || !self.tunables.plain.load(Relaxed)
        {
            return None;
        }
        let (class, ty) = (usize::from(place & 3), MigrateType::from_bits(u32::from(place >> 2)));
        let order = req.order;
        let cpu = self.enter();
        let home = match req.node {
            None => self.home(&cpu).0[class].load(Relaxed) as usize,
            Some(node) => {
                let first = self.first_zones.get(usize::from(node.0) * NR_ZONES + class)?;
                let zone = usize::from(first.load(Relaxed));
                if zone >= self.zones.len() {
                    return None;
                }
                self.pcp_index(cpu.id(), zone)
            }
        };
        let cell = self.pcps.get(home)?;
        let word = HeadWord::new(PageType::Kernel, order);
        // SAFETY: `cpu` is this CPU's token; the closure does not nest. The zone
        // is of this manager.
        let hit = unsafe {
            cell.with(|pcp| {
                let zone = pcp.zone();
                if !zone.plainly_above_low(class, ty == MigrateType::Movable, order.pages()) {
                    return Err(None);
                }
                list_index(order, ty)
                    .and_then(|list| pcp.pop(&self.map, list, order, word))
                    .ok_or(Some(zone))
            })
        };
        let pfn = match (hit, list_index(order, ty)) {
            (Ok(pfn), _) => pfn,
            (Err(zone), Some(list)) => self.refill_and_pop(&cpu, cell, zone?, list, ty)?,
            (Err(zone), None) => self.take_plain(&cpu, cell, zone?, order, ty)?,
        };
        Some(Page { pfn, order })
    }

    /// Fills an empty list of this CPU from the free lists of its own type, and
    /// takes the first block.
    #[inline(never)]
    fn refill_and_pop(
        &self,
        cpu: &Cpu<'_, P>,
        cell: &CpuCell<Pcp>,
        zone: &Zone,
        list: usize,
        ty: MigrateType,
    ) -> Option<Pfn> {
        let mut buddy = Buddy::lock(&self.map, zone, cpu);
        if ty == MigrateType::Movable && buddy.prefers_cma() {
            return None;
        }
        let order = list_order(list);
        let want = Pcp::batch_of(list, zone.pcp_batch());
        // SAFETY: `cpu` is this CPU's token; the closure does not nest.
        unsafe {
            cell.with(|pcp| {
                pcp.refill_own(&mut buddy, list, ty, want);
                pcp.pop(&self.map, list, order, HeadWord::new(PageType::Kernel, order))
            })
        }
    }

    /// Takes a block of an order that per-CPU lists do not keep.
    #[inline(never)]
    fn take_plain(
        &self,
        cpu: &Cpu<'_, P>,
        cell: &CpuCell<Pcp>,
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
        drop(buddy);
        // SAFETY: `cpu` is this CPU's token; the closure does not nest.
        unsafe { cell.with(|pcp| pcp.allocated += order.pages()) };
        Some(pfn)
    }

    /// Gives an allocated block back to this CPU's list, or to the buddy where
    /// lists keep no such block, if nothing about it is special. False: nothing
    /// has changed.
    ///
    /// A block freed twice, at another order or in its middle has another head
    /// word than is asked for, and that is seen here. What is not seen: two CPUs
    /// that free the same block at the same moment may both read the word before
    /// either has changed it; without an atomic read-modify-write in each free
    /// nothing can tell them apart. The block is then on two lists, which an
    /// audit finds.
    #[inline(always)]
    pub(crate) fn free_fast(&self, page: Page) -> bool {
        let Page { pfn, order } = page;
        let Some(block) = self.map.try_block_word(pfn) else { return false };
        if !self.tunables.plain.load(Relaxed) {
            return false;
        }
        let cpu = self.enter();
        // The type is read with the token held, and that is what keeps pages of
        // a block that is being isolated, or kept as HighAtomic, off the lists
        // of all CPUs: whoever changes it drains each CPU afterwards, holding
        // its token. A free that came before is on the list by then and is
        // drained; one that comes after sees the new type.
        let Some((zone, ty)) = block.plain() else { return false };
        let page = self.map.page(pfn);
        let word = page.head();
        if word.0 & !PageFlags::PFMEMALLOC.bits() != HeadWord::new(PageType::Kernel, order).0 {
            return false;
        }
        let Some(cell) = self.pcps.get(self.pcp_index(cpu.id(), zone)) else { return false };
        let Some(list) = list_index(order, ty) else {
            if order > MAX_ORDER {
                return false;
            }
            self.give_plain(&cpu, cell, pfn, order);
            return true;
        };
        page.forget_owner();
        // SAFETY: `cpu` is this CPU's token; the closure does not nest. The zone
        // is of this manager.
        let (zone, count) =
            unsafe { cell.with(|pcp| (pcp.zone(), pcp.push(&self.map, list, pfn, page, order))) };
        if count >= zone.pcp_high() {
            self.shed(&cpu, zone);
        }
        true
    }

    /// Frees a block of an order that per-CPU lists do not keep.
    #[inline(never)]
    fn give_plain(&self, cpu: &Cpu<'_, P>, cell: &CpuCell<Pcp>, pfn: Pfn, order: Order) {
        // SAFETY: `cpu` is this CPU's token; the closure does not nest. The zone
        // is of this manager.
        let zone = unsafe {
            cell.with(|pcp| {
                pcp.freed += order.pages();
                pcp.zone()
            })
        };
        let mut buddy = Buddy::lock(&self.map, zone, cpu);
        let page = self.map.page(pfn);
        page.forget_owner();
        page.set_next(0);
        page.set_prev(0);
        buddy.free_here(pfn, order, Placement::Auto);
    }

    /// The lists of a CPU's nearest zones.
    #[inline]
    fn home(&self, cpu: &Cpu<'_, P>) -> &Homes {
        // SAFETY: a platform names CPUs below its number of CPUs only, and there
        // is an entry for each.
        unsafe { self.homes.get_unchecked(usize::from(cpu.id().0)) }
    }

    /// Where in `pcps` a CPU's lists of a zone are.
    #[inline]
    fn pcp_index(&self, cpu: CpuId, zone: usize) -> usize {
        usize::from(cpu.0) * self.zones.len() + zone
    }

    /// Enters for each node and class the zone that comes first, anew after
    /// zones gained or lost all their pages.
    pub(crate) fn note_first_zones(&self) {
        for node in 0..self.nodes() {
            for class in ZoneKind::ALL {
                let first = self.zonelist(NodeId(node as u8), class).find(|z| z.managed() > 0);
                let index = first.map_or(u8::MAX, |z| z.index() as u8);
                self.first_zones[node * NR_ZONES + class.index()].store(index, Relaxed);
            }
        }
        for (cpu, homes) in (0..).map(CpuId).zip(self.homes.iter()) {
            let node = usize::from(self.platform.node_of_cpu(cpu).0);
            for (class, home) in homes.0.iter().enumerate() {
                let first = self.first_zones.get(node * NR_ZONES + class);
                let zone = first.map_or(u8::MAX, |first| first.load(Relaxed));
                let index = match zone {
                    u8::MAX => u32::MAX,
                    zone => self.pcp_index(cpu, usize::from(zone)) as u32,
                };
                home.store(index, Relaxed);
            }
        }
    }
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
