//! The fast path: a plain block from, or to, this CPU's own list or the buddy,
//! with nothing looked at that a plain request does not need. Whatever is not
//! plain goes the general way in `alloc` and `free`, which do the same and more.
//! May call: `pcp`, `buddy`, `zone`, `memmap`.

use crate::buddy::{Buddy, Placement};
use crate::gfp::{Gfp, Page, Request};
use crate::mm::Mm;
use crate::page::{HeadWord, PageFlags, PageType};
use crate::pcp::{Pcp, list_index};
use crate::platform::Platform;
use crate::sync::{Cpu, Ordering::Relaxed};
use crate::types::{MAX_ORDER, MigrateType, NR_ZONES, NodeId, Order, Pfn, ZoneKind};
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
    #[inline]
    pub(crate) fn alloc_fast(&self, req: &Request) -> Option<Page> {
        let place = PLACES[(req.gfp.bits() & 0x1f) as usize];
        if place == 0xff
            || req.order > MAX_ORDER
            || req.gfp.intersects(NOT_PLAIN)
            || !self.tunables.plain.load(Relaxed)
            || self.owners.is_on()
        {
            return None;
        }
        let (class, ty) = (usize::from(place & 3), MigrateType::from_bits(u32::from(place >> 2)));
        let order = req.order;
        let cpu = self.enter();
        let node = match req.node {
            Some(node) => usize::from(node.0),
            None if self.nodes() == 1 => 0,
            None => usize::from(self.platform.node_of_cpu(cpu.id()).0),
        };
        let first = self.first_zones.get(node * NR_ZONES + class)?;
        let index = usize::from(first.load(Relaxed));
        let zone = self.zones.get(index)?;
        if !zone.plainly_above_low(class, ty == MigrateType::Movable, order.pages()) {
            return None;
        }
        let cell = self.pcps.get(usize::from(cpu.id().0) * self.zones.len() + index)?;
        // SAFETY: `cpu` is this CPU's token; the closure does not nest.
        let pfn = unsafe {
            cell.with(|pcp| match list_index(order, ty) {
                Some(list) => match pcp.pop(&self.map, list, order) {
                    Some(pfn) => Some(pfn),
                    None => self.refill_and_pop(pcp, zone, &cpu, order, ty),
                },
                None => self.take_plain(pcp, zone, &cpu, order, ty),
            })?
        };
        self.map.page(pfn).set_head(HeadWord::new(PageType::Kernel, order));
        Some(Page { pfn, order })
    }

    /// Fills an empty per-CPU list from the free lists of its own type and takes
    /// the first block.
    #[inline(never)]
    fn refill_and_pop(
        &self,
        pcp: &mut Pcp,
        zone: &Zone,
        cpu: &Cpu<'_, P>,
        order: Order,
        ty: MigrateType,
    ) -> Option<Pfn> {
        let list = list_index(order, ty)?;
        let mut buddy = Buddy::lock(&self.map, zone, cpu);
        if ty == MigrateType::Movable && buddy.prefers_cma() {
            return None;
        }
        pcp.refill_own(&mut buddy, list, ty, Pcp::batch_of(list, zone.pcp_batch()));
        pcp.pop(&self.map, list, order)
    }

    /// Takes a block of an order that per-CPU lists do not keep.
    #[inline(never)]
    fn take_plain(
        &self,
        pcp: &mut Pcp,
        zone: &Zone,
        cpu: &Cpu<'_, P>,
        order: Order,
        ty: MigrateType,
    ) -> Option<Pfn> {
        let mut buddy = Buddy::lock(&self.map, zone, cpu);
        if ty == MigrateType::Movable && buddy.prefers_cma() {
            return None;
        }
        let pfn = buddy.take_smallest(order, ty)?;
        // Before the lock is dropped: no free may merge with it.
        self.map.page(pfn).set_head(HeadWord::new(PageType::Kernel, order));
        pcp.allocated += order.pages();
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
    #[inline]
    pub(crate) fn free_fast(&self, page: Page) -> bool {
        let Page { pfn, order } = page;
        let Some(block) = self.map.try_block(pfn) else { return false };
        if !self.tunables.plain.load(Relaxed) {
            return false;
        }
        let desc = self.map.page(pfn);
        let cpu = self.enter();
        let word = desc.head();
        if word.0 & !PageFlags::PFMEMALLOC.bits() != HeadWord::new(PageType::Kernel, order).0 {
            return false;
        }
        // The type is read with the token held, and that is what keeps pages of
        // a block that is being isolated, or kept as HighAtomic, off the lists
        // of all CPUs: whoever changes it drains each CPU afterwards, holding
        // its token. A free that came before is on the list by then and is
        // drained; one that comes after sees the new type.
        let (zone_index, ty) = block.zone_and_type();
        if !ty.is_mergeable() {
            return false;
        }
        let Some(cell) = self.pcps.get(usize::from(cpu.id().0) * self.zones.len() + zone_index)
        else {
            return false;
        };
        let zone = &self.zones[zone_index];
        desc.forget_owner();
        // SAFETY: `cpu` is this CPU's token; the closure does not nest.
        unsafe {
            cell.with(|pcp| match list_index(order, ty) {
                Some(list) => {
                    pcp.push(&self.map, list, pfn, order);
                    if pcp.count >= zone.pcp_high() {
                        self.shed(pcp, zone, &cpu);
                    }
                }
                None => self.give_plain(pcp, zone, &cpu, pfn, order),
            });
        }
        true
    }

    /// Frees a block of an order that per-CPU lists do not keep, whose owner is
    /// forgotten.
    #[inline(never)]
    fn give_plain(&self, pcp: &mut Pcp, zone: &Zone, cpu: &Cpu<'_, P>, pfn: Pfn, order: Order) {
        let mut buddy = Buddy::lock(&self.map, zone, cpu);
        let desc = self.map.page(pfn);
        desc.set_next(0);
        desc.set_prev(0);
        buddy.free(pfn, order, Placement::Auto);
        pcp.freed += order.pages();
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
