//! A page's entries while it is being moved (Linux `try_to_migrate`,
//! `remove_migration_ptes`). May call: `walk`.

use super::walk::{Changed, Key};
use crate::mm::Mm;
use crate::mmu::{Entry, Mapping};
use crate::platform::Platform;
use crate::types::Pfn;

impl<P: Platform> Mm<P> {
    /// Has whoever uses the page wait: each entry that maps it says Moving, and
    /// no CPU uses it any more. The caller has the page lock and a reference;
    /// no other lock held, and [`end_moving`](Self::end_moving) is to follow.
    /// False if somebody has it mapped still, whom nobody finds just now.
    pub(crate) fn start_moving(&self, pfn: Pfn) -> bool {
        self.unmap_with(pfn, &mut |mmu, region, va, m| {
            let root = region.space().root();
            if let Entry::Page(last) = mmu.replace(root, va, m.size, Entry::Moving(m))
                && last != m
            {
                // It has been used in between.
                mmu.replace(root, va, m.size, Entry::Moving(last));
            }
            Changed::Gone
        });
        self.map.page(pfn).mapcount() == 0
    }

    /// Ends [`start_moving`](Self::start_moving): each entry maps the page again, which
    /// is at `new` now. The caller has both page locks and a reference to `new`,
    /// whose place in its group is `key`.
    pub(crate) fn end_moving(&self, key: Key, old: Pfn, new: Pfn) {
        let Ok(mmu) = self.tables() else { return };
        let desc = self.map.page(new);
        self.walk_places(key, &mut |cpu, region, va| {
            let space = region.space();
            let _entries = space.entry_lock(va).lock(cpu);
            if let Entry::Moving(m) = mmu.get(space.root(), va)
                && m.pfn == old
                && m.size == key.size
            {
                desc.get();
                self.add_mapping(new);
                let entry = Entry::Page(Mapping { pfn: new, ..m });
                mmu.replace(space.root(), va, m.size, entry);
            }
            true
        });
    }
}
