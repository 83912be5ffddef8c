//! The store's pages make way: for compaction, for contiguous allocations. What
//! is in one stays there, and whoever reads or frees an object meanwhile finds
//! it in the old frame or in the new one. Called by `mm`.

use crate::device::Zram;
use crate::store::may_be_noted;
use mm::Mm;
use mm::migrate::{MigrateError, MigrateMode, MovableOps};
use mm::page::link;
use mm::platform::Platform;
use mm::sync::Ordering::Relaxed;
use mm::types::Pfn;

impl<P: Platform> MovableOps<P> for Zram<P> {
    /// From here on nothing is added to the page: its links are the caller's,
    /// and it is on no list. It may become empty and go, as the caller will see.
    fn isolate(&self, mm: &Mm<P>, page: Pfn, _mode: MigrateMode) -> bool {
        let mut store = self.lock(mm);
        let Some(desc) = store.own(mm, page) else { return false };
        // Its objects are about to go elsewhere, and then it is free.
        if store.victim == Some(desc.index()) || desc.inuse() != 0 {
            return false;
        }
        store.unlist(mm, page, desc);
        desc.set_inuse(1);
        true
    }

    fn migrate(
        &self,
        mm: &Mm<P>,
        dst: Pfn,
        src: Pfn,
        _mode: MigrateMode,
    ) -> Result<(), MigrateError> {
        let mut store = self.lock(mm);
        // It became empty; the core sees that it was released, now or when it is
        // put back.
        let from = store.own(mm, src).ok_or(MigrateError::Busy)?;
        let to = mm.map().try_page(dst).filter(|_| may_be_noted(dst)).ok_or(MigrateError::Busy)?;
        // As short as compressing one page; a lock for each page would cost more.
        mm.copy_frame(dst, src);
        to.set_index(from.index());
        // Objects may have been freed after the core copied this.
        to.set_private(from.private());
        to.set_inuse(0);
        store.pages.set(mm, to.index(), link(dst));
        store.list(mm, dst, to);
        Ok(())
    }

    fn putback(&self, mm: &Mm<P>, page: Pfn) {
        let mut store = self.lock(mm);
        if let Some(desc) = store.own(mm, page) {
            desc.set_inuse(0);
            store.list(mm, page, desc);
        }
    }

    fn pages(&self) -> Option<u64> {
        Some(self.pages.load(Relaxed))
    }
}
