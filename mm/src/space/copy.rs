//! Pages that are shared until somebody writes: copy-on-write (Linux
//! `do_wp_page`). May call: `fault`, `lru_page`.

use super::fault::{Attempted, new_page};
use super::region::Region;
use super::{FaultError, MapError, Space};
use crate::gfp::{Gfp, Page};
use crate::mm::Mm;
use crate::mmu::{Entry, MapSize, Mapping, Mmu, VirtAddr};
use crate::page::{LruFlags, PageType};
use crate::platform::Platform;
use crate::types::{Order, Pfn};

impl<P: Platform> Mm<P> {
    /// A write to a page that is mapped as `seen`, not to be written.
    pub(super) fn fault_shared(
        &self,
        mmu: &dyn Mmu,
        space: &Space,
        region: &Region,
        va: VirtAddr,
        seen: Mapping,
    ) -> Result<Attempted, FaultError> {
        if self.is_zero_page(seen.pfn) {
            let page = self.zeroed_page(Order(0), Gfp::HIGHUSER_MOVABLE)?;
            return Ok(self.take_over(mmu, space, region, va, seen, page));
        }
        let start = va.align_down(seen.size);
        {
            let cpu = self.enter();
            let _entries = space.entry_lock(va).lock(&cpu);
            let Some(mapping) = same(mmu.get(space.root, start), seen) else {
                return Ok(Attempted::Retry);
            };
            if self.is_sole_user(seen.pfn) {
                mmu.replace(space.root, start, seen.size, Entry::Page(written(mapping)));
                return Ok(Attempted::Done);
            }
            // It stays what it is until it is copied; a large one is not.
            if seen.size == MapSize::Small {
                self.map.page(seen.pfn).get();
            }
        }
        if seen.size == MapSize::Large {
            return match self.split_mapped(space, va) {
                Ok(()) | Err(MapError::Busy) => Ok(Attempted::Retry),
                Err(_) => Err(FaultError::NoMemory),
            };
        }
        let result = self.anon_page(Order(0), Gfp::HIGHUSER_MOVABLE).map(|page| {
            self.copy_frame(page.pfn, seen.pfn);
            self.take_over(mmu, space, region, va, seen, page)
        });
        self.put_lru(seen.pfn);
        result
    }

    /// Whether one entry alone has to do with a page, which the caller has
    /// locked. A page that is in swap too may be somebody's who has not come
    /// back for it; one whose page lock somebody has may be on its way to or from
    /// others' entries, which do not count as mapping it meanwhile.
    fn is_sole_user(&self, pfn: Pfn) -> bool {
        let desc = self.map.page(pfn);
        debug_assert!(desc.head().ty() == PageType::Lru);
        if desc.mapcount() != 1 || !desc.try_lock() {
            return false;
        }
        let cached = desc.head().lru().contains(LruFlags::SWAPCACHE);
        let sole = desc.mapcount() == 1 && (!cached || self.swap_take_over(pfn));
        desc.unlock();
        sole
    }

    /// Maps `page`, the caller's, in place of what is mapped as `seen`; frees it
    /// if that has changed.
    fn take_over(
        &self,
        mmu: &dyn Mmu,
        space: &Space,
        region: &Region,
        va: VirtAddr,
        seen: Mapping,
        page: Page,
    ) -> Attempted {
        // Not to be written until no CPU reads what is old any more.
        let copy = Mapping { pfn: page.pfn, dirty: true, young: true, ..seen };
        let old = {
            let cpu = self.enter();
            let _entries = space.entry_lock(va).lock(&cpu);
            same(mmu.get(space.root, va), seen).map(|_| {
                self.make_mapped(page, new_page(region, va));
                self.counted(space, &copy);
                self.note_mapped(page.pfn, 1);
                mmu.replace(space.root, va, MapSize::Small, Entry::Page(copy))
            })
        };
        let Some(old) = old else {
            let freed = self.free_pages(page);
            debug_assert!(freed.is_ok(), "an allocated page");
            return Attempted::Retry;
        };
        mmu.flush(space.root, va..va.add(MapSize::Small.bytes()));
        if let Entry::Page(mapping) = old
            && self.uncounted(space, &mapping)
        {
            self.unmapped(mapping.pfn);
        }
        self.let_write(mmu, space, va, copy)
    }

    /// Has a page written that is this entry's alone.
    fn let_write(&self, mmu: &dyn Mmu, space: &Space, va: VirtAddr, seen: Mapping) -> Attempted {
        let cpu = self.enter();
        let _entries = space.entry_lock(va).lock(&cpu);
        let Some(mapping) = same(mmu.get(space.root, va), seen) else { return Attempted::Retry };
        if !self.is_sole_user(seen.pfn) {
            return Attempted::Retry;
        }
        mmu.replace(space.root, va, seen.size, Entry::Page(written(mapping)));
        Attempted::Done
    }
}

/// The mapping, if the entry still maps the same page, not to be written.
fn same(entry: Entry, seen: Mapping) -> Option<Mapping> {
    match entry {
        Entry::Page(m) if m.pfn == seen.pfn && m.size == seen.size && !m.writable => Some(m),
        _ => None,
    }
}

/// The same mapping, written just now.
fn written(mapping: Mapping) -> Mapping {
    Mapping { writable: true, dirty: true, young: true, ..mapping }
}
