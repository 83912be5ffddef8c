//! What reclaim, migration, the flusher and the audit ask of a cache. May call:
//! `pages`, `writeback`, `workingset`.

use super::entry::Tags;
use super::{CacheError, PageCache, workingset};
use crate::audit::{AuditError, Auditor};
use crate::block::IoFailed;
use crate::mm::Mm;
use crate::page_stats::PageStat;
use crate::platform::Platform;
use crate::reclaim::{CacheOps, WriteBack};
use crate::sync::Ordering::Relaxed;
use crate::types::Pfn;

impl<P: Platform> CacheOps<P> for PageCache {
    fn write_page(&self, mm: &Mm<P>, page: Pfn) -> Result<(), IoFailed> {
        self.write_around(mm, page).then_some(()).ok_or(IoFailed)
    }

    fn release(&self, mm: &Mm<P>, page: Pfn) {
        self.leave(mm, page, workingset::evict(mm, page));
    }

    fn replace(&self, mm: &Mm<P>, dst: Pfn, src: Pfn) {
        let tags = {
            let cpu = mm.enter();
            let mut tree = self.tree.lock(&cpu);
            let index = mm.map.page(src).index();
            let tags = tree.get(mm, index).tags();
            tree.replace(mm, index, dst);
            tags
        };
        debug_assert!(!tags.contains(Tags::WRITEBACK), "a page moves that is being written");
        // It may have gone to another zone.
        for (what, counted) in
            [(PageStat::File, true), (PageStat::Dirty, tags.contains(Tags::DIRTY))]
        {
            if counted {
                mm.count_pages(dst, what, 1);
                mm.uncount_pages(src, what, 1);
            }
        }
    }

    fn write_back(&self, mm: &Mm<P>, what: WriteBack) -> u64 {
        match what {
            WriteBack::Some(most) => self.write_some(mm, most),
            WriteBack::All => self.write_old(mm),
        }
    }

    fn sync(&self, mm: &Mm<P>) -> Result<(), CacheError> {
        PageCache::sync(self, mm)
    }

    fn dirty_since(&self) -> Option<u64> {
        (self.dirty_pages() > 0).then(|| self.dirty_since.load(Relaxed))
    }

    fn is_clean(&self, mm: &Mm<P>) -> bool {
        PageCache::is_clean(self, mm)
    }

    fn pages(&self) -> u64 {
        PageCache::pages(self)
    }

    fn shadow_nodes(&self, mm: &Mm<P>) -> u64 {
        self.count_shadow_nodes(mm)
    }

    fn drop_shadow_nodes(&self, mm: &Mm<P>, most: u64) -> u64 {
        self.free_shadow_nodes(mm, most)
    }

    fn audit(&self, mm: &Mm<P>, auditor: &mut Auditor) -> Result<[u64; 3], AuditError> {
        self.audit_tree(mm, auditor)
    }
}
