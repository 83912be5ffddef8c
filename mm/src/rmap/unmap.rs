//! Entries of a page that is to be reclaimed, and what they tell of its use
//! (Linux `try_to_unmap`, `folio_referenced`). May call: `walk`, swap.

use super::walk::Changed;
use crate::mm::Mm;
use crate::mmu::{Entry, SwapEntry};
use crate::page::LruFlags;
use crate::platform::Platform;
use crate::space::RegionFlags;
use crate::types::Pfn;

/// What an entry says when its page is taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmap {
    /// Where in swap the page is: the caller has put it into the swap cache.
    Swap(SwapEntry),
    /// Nothing: the page is not needed any more, unless it was written since
    /// that was said.
    Discard,
}

/// What entries tell of a page's use.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct References {
    /// Entries through which it was used since that was last asked.
    pub young: u32,
    /// Some region that maps it keeps it in memory.
    pub locked: bool,
}

impl<P: Platform> Mm<P> {
    /// Takes a small anonymous page out of all tables. The caller has the page
    /// lock and a reference; no other lock held. True if nobody maps it any more
    /// and no CPU uses it: its content is final then, and the page says DIRTY if
    /// it was written. False if it stays, maybe not in all tables: it is in a
    /// region that is locked into memory (MLOCKED is set then), or was to be
    /// discarded and has been written (LAZYFREE is cleared then) or may be just
    /// now, or somebody is just copying the mapping.
    pub fn try_unmap(&self, pfn: Pfn, how: Unmap) -> bool {
        let desc = self.map.page(pfn);
        if desc.head().order().0 > 0 {
            return false;
        }
        let unmapped = self.unmap_with(pfn, &mut |mmu, region, va, m| {
            let space = region.space();
            if region.flags().contains(RegionFlags::LOCKED) {
                let locked = LruFlags::MLOCKED | LruFlags::UNEVICTABLE;
                self.lru_change(pfn, locked, LruFlags::ACTIVE);
                return Changed::Stop;
            }
            let size = crate::mmu::MapSize::Small;
            let entry = match how {
                Unmap::Swap(slot) if self.swap_dup(slot).is_ok() => Entry::Swap(slot),
                Unmap::Swap(_) => return Changed::Stop,
                // Not None before it is known that it goes: whoever looks without
                // the lock would take that for an answer.
                Unmap::Discard => Entry::Moving(m),
            };
            let Entry::Page(old) = mmu.replace(space.root(), va, size, entry) else {
                return Changed::Stop;
            };
            if how == Unmap::Discard {
                // Besides the caller's there is one reference for each entry. One
                // more is somebody's who writes past the tables, perhaps: he got it
                // under the lock that is held here, and says DIRTY before it goes.
                let used = desc.count() > desc.mapcount() + 1;
                let dirty = old.dirty || desc.head().lru().contains(LruFlags::DIRTY);
                if dirty {
                    desc.set_lru(LruFlags::DIRTY);
                    self.lru_change(pfn, LruFlags::empty(), LruFlags::LAZYFREE);
                }
                if dirty || used {
                    mmu.replace(space.root(), va, size, Entry::Page(old));
                    return Changed::Stop;
                }
            }
            self.uncounted(space, &old);
            match how {
                Unmap::Swap(_) => space.count_swap(1),
                Unmap::Discard => drop(mmu.replace(space.root(), va, size, Entry::None)),
            }
            Changed::Gone
        });
        unmapped.is_some() && desc.mapcount() == 0
    }

    /// Asks all entries of a page whether it was used, and has them forget it. If
    /// some region keeps it in memory it is marked as not to be reclaimed.
    /// The caller has a reference. Any context.
    pub fn referenced(&self, pfn: Pfn) -> References {
        let mut found = References::default();
        let Ok(mmu) = self.tables() else { return found };
        let Some(key) = self.rmap_key(self.map.page(pfn)) else { return found };
        self.walk_places(key, &mut |cpu, region, va| {
            let space = region.space();
            let _entries = space.entry_lock(va).lock(cpu);
            if let Entry::Page(m) = mmu.get(space.root(), va)
                && m.pfn == pfn
                && m.size == key.size
            {
                // At once: whoever unlocks the region takes it back under this lock.
                if region.flags().contains(RegionFlags::LOCKED) && !found.locked {
                    found.locked = true;
                    let locked = LruFlags::MLOCKED | LruFlags::UNEVICTABLE;
                    self.lru_change(pfn, locked, LruFlags::ACTIVE);
                }
                found.young += u32::from(mmu.make_old(space.root(), va));
            }
            true
        });
        found
    }
}
