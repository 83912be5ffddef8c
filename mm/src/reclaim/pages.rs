//! What becomes of each page that reclaim has isolated (Linux
//! `shrink_folio_list`). May call: `anon`, the caches, `migrate` (to free
//! pages in batches), `lru`.

use super::Scan;
use crate::list::PageList;
use crate::lru::LruKind;
use crate::migrate::Emptied;
use crate::mm::Mm;
use crate::page::{LruFlags, PageDesc};
use crate::platform::Platform;
use crate::stats::Event;
use crate::swap::SwapOuts;
use crate::types::Pfn;

/// What becomes of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// It is frozen and nobody's, to be freed.
    Freed,
    /// It is in use.
    Activate,
    /// It gets another chance.
    Keep,
    /// It is isolated no more; what is left is a reference.
    Left,
    /// It stays locked until it is written, with others.
    Waits,
}

/// What a pass over isolated pages came to, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Passed {
    pub(super) reclaimed: u64,
    pub(super) activated: u64,
    /// Of those that were reclaimed or tried, pages that a device was asked to
    /// write.
    pub(super) written: u64,
}

impl<P: Platform> Mm<P> {
    /// Reclaims what can be reclaimed of isolated pages; the others are left on
    /// the list, with flags that say where they belong. `forced`: what was used
    /// lately is not spared.
    pub(super) fn reclaim_pages(&self, scan: &Scan, pages: &mut PageList, forced: bool) -> Passed {
        let mut passed = Passed::default();
        let mut kept = PageList::new();
        let mut emptied = Emptied::new();
        let written = self.stats.get(Event::VmscanWrite);
        let mut outs = SwapOuts::new();
        let mut settle = |pfn: Pfn, fate: Fate| {
            let page = self.map.page(pfn);
            let order = page.head().order();
            match fate {
                Fate::Freed => {
                    self.lru_end_isolation(pfn);
                    self.end_locked(pfn, page.head());
                    self.free_emptied_page(pfn, order, page, &mut emptied);
                    passed.reclaimed += order.pages();
                }
                Fate::Activate => {
                    self.lru_change(pfn, LruFlags::ACTIVE, LruFlags::empty());
                    passed.activated += order.pages();
                    kept.push_back(&self.map, pfn);
                }
                Fate::Keep => kept.push_back(&self.map, pfn),
                Fate::Left => self.put_lru(pfn),
                Fate::Waits => {}
            }
        };
        while let Some(pfn) = pages.pop_front(&self.map) {
            let page = self.map.page(pfn);
            let fate = self.reclaim_page(scan, pfn, page, forced, &mut outs);
            settle(pfn, fate);
            if outs.is_full() {
                self.reclaim_outs(&mut outs, &mut settle);
            }
        }
        self.reclaim_outs(&mut outs, &mut settle);
        self.free_emptied(&mut emptied);
        passed.written = self.stats.get(Event::VmscanWrite) - written;
        self.stats.add(Event::Activate, passed.activated);
        *pages = kept;
        passed
    }

    /// Writes the pages that wait for it, all at a time, and lets go of them.
    fn reclaim_outs(&self, outs: &mut SwapOuts, settle: &mut dyn FnMut(Pfn, Fate)) {
        self.swap_out_write(outs, &mut |pfn, written| {
            let fate = Self::fate_of_swap_out(written);
            self.map.page(pfn).unlock();
            settle(pfn, fate);
        });
    }

    fn reclaim_page(
        &self,
        scan: &Scan,
        pfn: Pfn,
        page: &PageDesc,
        forced: bool,
        outs: &mut SwapOuts,
    ) -> Fate {
        // Whoever has it locked uses it.
        if !page.try_lock() {
            return Fate::Keep;
        }
        let fate = self.reclaim_locked(scan, pfn, page, forced, outs);
        if fate != Fate::Waits {
            page.unlock();
        }
        fate
    }

    fn reclaim_locked(
        &self,
        scan: &Scan,
        pfn: Pfn,
        page: &PageDesc,
        forced: bool,
        outs: &mut SwapOuts,
    ) -> Fate {
        let flags = page.head().lru();
        if flags.contains(LruFlags::MLOCKED) {
            self.lru_change(pfn, LruFlags::UNEVICTABLE, LruFlags::ACTIVE);
            return Fate::Keep;
        }
        if flags.intersects(LruFlags::UNEVICTABLE | LruFlags::WRITEBACK) {
            return Fate::Keep;
        }
        let use_of = if forced { Use::No } else { self.use_of(pfn, page) };
        match use_of {
            Use::Again => return Fate::Activate,
            Use::Once => return Fate::Keep,
            Use::Elsewhere | Use::No => {}
        }
        if flags.contains(LruFlags::ANON) {
            // That may just have been found out.
            if page.head().lru().contains(LruFlags::UNEVICTABLE) {
                return Fate::Keep;
            }
            return self.reclaim_anon(scan, pfn, page, outs);
        }
        // What was used once other than by mapping it is not worth writing yet.
        let may_write = scan.may_write && use_of == Use::No;
        self.reclaim_cached(pfn, page, may_write)
    }

    /// Second chance: a page that is used through a page table is kept the first
    /// time, and active the second (Linux `folio_check_references`).
    fn use_of(&self, pfn: Pfn, page: &PageDesc) -> Use {
        let entries = if page.mapcount() > 0 { self.used_by(pfn) } else { 0 };
        let before = page.clear_lru(LruFlags::REFERENCED).contains(LruFlags::REFERENCED);
        if entries > 0 {
            page.set_lru(LruFlags::REFERENCED);
            return if before || entries > 1 { Use::Again } else { Use::Once };
        }
        if before && !page.head().lru().contains(LruFlags::ANON) {
            return Use::Elsewhere;
        }
        Use::No
    }

    /// Takes a locked and isolated page out of its cache, written if need be.
    fn reclaim_cached(&self, pfn: Pfn, page: &PageDesc, may_write: bool) -> Fate {
        let Some(ops) = self.cache_ops(page) else { return Fate::Keep };
        if page.mapcount() > 0 {
            return Fate::Keep;
        }
        if page.head().lru().contains(LruFlags::DIRTY) {
            if !may_write || page.head().lru().contains(LruFlags::FAILED) {
                return Fate::Keep;
            }
            self.stats.count(Event::VmscanWrite);
            if ops.write_page(self, pfn).is_err() {
                return Fate::Activate;
            }
        }
        // The cache's reference and ours. A reference more is somebody's who
        // uses it.
        if !page.freeze(2) {
            return Fate::Keep;
        }
        // Whoever wrote to it had a reference: by now it would be seen.
        if page.head().lru().contains(LruFlags::DIRTY) {
            page.unfreeze(2);
            return Fate::Keep;
        }
        ops.release(self, pfn);
        Fate::Freed
    }

    /// Counts what was scanned and reclaimed of a kind.
    pub(super) fn count_reclaim(&self, scan: &Scan, kind: LruKind, scanned: u64, reclaimed: u64) {
        self.stats.add(scan.scan_event(), scanned);
        self.stats.add(scan.steal_event(), reclaimed);
        let (scan_event, steal_event) = match kind {
            LruKind::Anon => (Event::ScanAnon, Event::StealAnon),
            LruKind::File => (Event::ScanFile, Event::StealFile),
        };
        self.stats.add(scan_event, scanned);
        self.stats.add(steal_event, reclaimed);
    }
}

/// How a page was used since it was last looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    /// Not at all.
    No,
    /// Once, through a page table.
    Once,
    /// More than that.
    Again,
    /// Other than through page tables, and it has a copy elsewhere.
    Elsewhere,
}
