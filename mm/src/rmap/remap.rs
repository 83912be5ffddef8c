//! A page that could not be written to its slot goes back to where it was. May
//! call: `walk`, swap.

use crate::mm::Mm;
use crate::mmu::{Entry, MapSize, Mapping, SwapEntry};
use crate::platform::Platform;
use crate::types::Pfn;

impl<P: Platform> Mm<P> {
    /// Has each entry that names `slot` map the page again that belongs there: to
    /// be read, for whoever writes finds out then whether it is his alone. The
    /// caller has the page lock and a reference; no other lock held. What is on
    /// its way from one space to another just now still names the slot.
    pub(crate) fn remap_swapped(&self, pfn: Pfn, slot: SwapEntry) {
        let Ok(mmu) = self.tables() else { return };
        let desc = self.map.page(pfn);
        let Some(key) = self.rmap_key(desc) else { return };
        let mapping =
            Mapping { pfn, size: MapSize::Small, writable: false, dirty: false, young: false };
        self.walk_places(key, &mut |cpu, region, va| {
            let space = region.space();
            let _entries = space.entry_lock(va).lock(cpu);
            if mmu.get(space.root(), va) == Entry::Swap(slot) {
                desc.get();
                self.add_mapping(pfn);
                self.swap_free(slot);
                space.count_swap(-1);
                self.counted(space, &mapping);
                mmu.replace(space.root(), va, MapSize::Small, Entry::Page(mapping));
            }
            true
        });
    }
}
