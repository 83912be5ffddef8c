//! What pages are used for, counted by zone as that begins and ends (Linux
//! mm/vmstat.c, `zone_page_state`, `node_page_state`). What is free is counted
//! by `zone`, what is on LRU lists by `lru`, slabs by `slab`. May call: `memmap`.

use crate::audit::{AuditError, Auditor};
use crate::mm::Mm;
use crate::page::{LruFlags, PageDesc};
use crate::platform::Platform;
use crate::sync::{AtomicU64, Ordering::Relaxed};
use crate::types::{MAX_NODES, NR_ZONES, NodeId, Pfn, ZoneKind};
use crate::zone::Zone;

/// Zones that there can be.
const ZONES: usize = MAX_NODES * NR_ZONES;

macro_rules! page_stats {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What is counted of pages.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum PageStat { $($(#[$doc])* $variant,)* }

        impl PageStat {
            const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The key that the files of a node or zone give it.
            pub(crate) const fn name(self) -> &'static str {
                [$($name,)*][self as usize]
            }
        }
    };
}

page_stats! {
    /// Anonymous pages that entries map.
    Anon = "nr_anon_pages",
    /// Of these, those in large pages.
    AnonHuge = "nr_anon_transparent_hugepages",
    /// Anonymous pages with a slot in swap.
    SwapCached = "nr_swapcached",
    /// Pages that are kept in memory.
    Mlocked = "nr_mlock",
    /// Pages of caches.
    File = "nr_file_pages",
    /// Of these, those that are newer than what their device has.
    Dirty = "nr_dirty",
    /// Of these, those on their way there.
    Writeback = "nr_writeback",
}

const STATS: usize = PageStat::ALL.len();

/// All that is counted, by zone.
#[derive(Debug)]
pub(crate) struct PageStats([[AtomicU64; STATS]; ZONES]);

impl PageStats {
    pub(crate) const fn new() -> Self {
        Self([const { [const { AtomicU64::new(0) }; STATS] }; ZONES])
    }

    fn of(&self, zone: &Zone, what: PageStat) -> u64 {
        self.0[zone.index() % ZONES][what as usize].load(Relaxed)
    }
}

impl<P: Platform> Mm<P> {
    #[inline]
    fn page_stat(&self, pfn: Pfn, what: PageStat) -> &AtomicU64 {
        &self.page_stats.0[self.map.block(pfn).zone_index() % ZONES][what as usize]
    }

    /// Counts `pages`, of which `pfn` is one. Any context.
    #[inline]
    pub(crate) fn count_pages(&self, pfn: Pfn, what: PageStat, pages: u64) {
        self.page_stat(pfn, what).fetch_add(pages, Relaxed);
    }

    /// Takes [`count_pages`](Self::count_pages) back.
    #[inline]
    pub(crate) fn uncount_pages(&self, pfn: Pfn, what: PageStat, pages: u64) {
        self.page_stat(pfn, what).fetch_sub(pages, Relaxed);
    }

    /// Counts what is counted of `src` as `dst`'s, which has just become all that
    /// it was; caches count their own.
    #[inline]
    pub(crate) fn count_moved(&self, dst: Pfn, src: Pfn, page: &PageDesc) {
        if self.map.block(dst).zone_index() != self.map.block(src).zone_index() {
            self.count_moved_away(dst, src, page);
        }
    }

    #[cold]
    fn count_moved_away(&self, dst: Pfn, src: Pfn, page: &PageDesc) {
        each_stat(page, &mut |what, pages| {
            if matches!(what, PageStat::Anon | PageStat::AnonHuge | PageStat::Mlocked) {
                self.count_pages(dst, what, pages);
                self.uncount_pages(src, what, pages);
            }
        });
    }

    /// Pages of a zone. Any context, as the following. Who looks while others count
    /// may find one gone that has not come yet: that is none.
    pub(crate) fn zone_pages(&self, zone: &Zone, what: PageStat) -> u64 {
        let pages = self.page_stats.of(zone, what);
        if pages > i64::MAX as u64 { 0 } else { pages }
    }

    /// Pages of a node.
    pub(crate) fn node_pages(&self, node: NodeId, what: PageStat) -> u64 {
        let zones = ZoneKind::ALL.into_iter().filter_map(|kind| self.zone(node, kind));
        zones.map(|zone| self.zone_pages(zone, what)).sum()
    }

    /// Pages of the machine.
    pub(crate) fn pages_of(&self, what: PageStat) -> u64 {
        self.zones.iter().map(|zone| self.zone_pages(zone, what)).sum()
    }
}

/// What a page of type Lru is counted as, with the pages that makes.
fn each_stat(page: &PageDesc, f: &mut dyn FnMut(PageStat, u64)) {
    let word = page.head();
    let (flags, pages) = (word.lru(), word.order().pages());
    let anon = flags.contains(LruFlags::ANON);
    let mapped = anon && page.mapcount() > 0;
    for (what, counts) in [
        (PageStat::Anon, mapped),
        (PageStat::AnonHuge, mapped && pages > 1),
        (PageStat::SwapCached, flags.contains(LruFlags::SWAPCACHE)),
        (PageStat::Mlocked, flags.contains(LruFlags::MLOCKED)),
        (PageStat::File, !anon),
        (PageStat::Dirty, !anon && flags.contains(LruFlags::DIRTY)),
        (PageStat::Writeback, !anon && flags.contains(LruFlags::WRITEBACK)),
    ] {
        if counts {
            f(what, pages);
        }
    }
}

/// What a walk over a zone has found.
#[derive(Clone, Copy, Default)]
pub(crate) struct PageStatCount([u64; STATS]);

impl PageStatCount {
    pub(crate) const fn new() -> Self {
        Self([0; STATS])
    }

    /// Counts a page of type Lru; `cached` if it is some cache's.
    pub(crate) fn add(&mut self, page: &PageDesc, cached: bool) {
        let file = !page.head().lru().contains(LruFlags::ANON);
        each_stat(page, &mut |what, pages| {
            if cached || !file || what == PageStat::Mlocked {
                self.0[what as usize] += pages;
            }
        });
    }

    /// Compares what was found with the counters of `zone`.
    pub(crate) fn compare<P: Platform>(
        &self,
        mm: &Mm<P>,
        auditor: &mut Auditor,
        zone: &Zone,
    ) -> Result<(), AuditError> {
        PageStat::ALL.iter().zip(self.0).try_for_each(|(&what, found)| {
            auditor.equal(what.name(), None, mm.page_stats.of(zone, what), found)
        })
    }
}
