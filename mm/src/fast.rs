//! The fast path: a block of a common order from, or to, this CPU's own list,
//! with nothing looked at that this CPU does not need. Whatever is not plain
//! goes the general way in `alloc` and `free`, which do the same and more. May
//! call: `pcp`, `zone`, `memmap`.

use crate::gfp::{Gfp, Page, Request};
use crate::mm::Mm;
use crate::page::{HeadWord, PageFlags, PageType};
use crate::platform::Platform;
use crate::sync::Ordering::Relaxed;
use crate::types::{COSTLY_ORDER, MigrateType, NR_PCPTYPES, NR_ZONES, NodeId, ZoneKind};

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
    /// A block from this CPU's list of the best zone, if the list has one and
    /// the zone is above its low mark. Its head word says Kernel.
    #[inline]
    pub(crate) fn alloc_fast(&self, req: &Request) -> Option<Page> {
        let place = PLACES[(req.gfp.bits() & 0x1f) as usize];
        if place == 0xff
            || req.order > COSTLY_ORDER
            || req.gfp.intersects(NOT_PLAIN)
            || !self.tunables.plain.load(Relaxed)
            || self.owners.is_on()
        {
            return None;
        }
        let (class, ty) = (usize::from(place & 3), usize::from(place >> 2));
        let cpu = self.enter();
        let node = match req.node {
            Some(node) => usize::from(node.0),
            None if self.nodes() == 1 => 0,
            None => usize::from(self.platform.node_of_cpu(cpu.id()).0),
        };
        let first = self.first_zones.get(node * NR_ZONES + class)?;
        let index = usize::from(first.load(Relaxed));
        let zone = self.zones.get(index)?;
        if !zone.plainly_above_low(class, ty == MigrateType::Movable as usize) {
            return None;
        }
        let cell = self.pcps.get(usize::from(cpu.id().0) * self.zones.len() + index)?;
        // SAFETY: `cpu` is this CPU's token; the closure does not nest.
        let pfn = unsafe {
            cell.with(|pcp| {
                let pfn = pcp.pop_of(&self.map, req.order.index() * NR_PCPTYPES + ty, req.order)?;
                pcp.allocated += req.order.pages();
                Some(pfn)
            })?
        };
        self.map.page(pfn).set_head(HeadWord::new(PageType::Kernel, req.order));
        Some(Page { pfn, order: req.order })
    }

    /// Puts an allocated block on this CPU's list, if nothing about it is
    /// special and the list stays short. False: nothing has changed.
    #[inline]
    pub(crate) fn free_fast(&self, page: Page) -> bool {
        let Page { pfn, order } = page;
        let Some(block) = self.map.try_block(pfn) else { return false };
        let desc = self.map.page(pfn);
        let word = desc.head();
        if order > COSTLY_ORDER
            || word.0 & !PageFlags::PFMEMALLOC.bits() != HeadWord::new(PageType::Kernel, order).0
            || !self.tunables.plain.load(Relaxed)
        {
            return false;
        }
        let index = block.zone_index();
        let zone = &self.zones[index];
        let cpu = self.enter();
        // Only now, as in `free_owned`: whoever isolates the block drains this
        // CPU afterwards, and must not miss a page on its way to the list.
        let ty = block.migratetype();
        if !ty.is_mergeable() {
            return false;
        }
        let Some(cell) = self.pcps.get(usize::from(cpu.id().0) * self.zones.len() + index) else {
            return false;
        };
        // SAFETY: `cpu` is this CPU's token; the closure does not nest.
        unsafe {
            cell.with(|pcp| {
                if pcp.count + (order.pages() as u32) >= zone.pcp_high() {
                    return false;
                }
                desc.reset(HeadWord::new(PageType::Held, order));
                pcp.push_of(&self.map, order.index() * NR_PCPTYPES + ty.index(), pfn, order);
                pcp.freed += order.pages();
                true
            })
        }
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
