//! The machine's counters: `/proc/vmstat`. After Linux's keys, in its order,
//! come those that Linux has no name for. May call: everything that counts.

use crate::lru::{LruKind, LruList};
use crate::mm::Mm;
use crate::page_stats::PageStat;
use crate::platform::Platform;
use crate::stats::Event;
use crate::sync::Ordering::Relaxed;
use crate::types::{NR_ZONES, NodeId, PAGEBLOCK_PAGES};
use crate::zone::Zone;
use core::fmt;

/// What is counted of pages that come back, in Linux's order.
const WORKINGSET: [Event; 4] = [
    Event::WorkingsetRefaultFile,
    Event::WorkingsetActivateFile,
    Event::WorkingsetRestoreFile,
    Event::WorkingsetNodeReclaim,
];

/// What reclaim counts, in Linux's order.
const RECLAIM: [Event; 16] = [
    Event::Lazyfreed,
    Event::Refill,
    Event::StealKswapd,
    Event::StealDirect,
    Event::ScanKswapd,
    Event::ScanDirect,
    Event::ScanDirectThrottle,
    Event::ScanAnon,
    Event::ScanFile,
    Event::StealAnon,
    Event::StealFile,
    Event::SlabsScanned,
    Event::PageOutRun,
    Event::Rotated,
    Event::DropPagecache,
    Event::DropSlab,
];

impl<P: Platform> Mm<P> {
    /// Every counter of `/proc/vmstat` with its key, in the order of the file,
    /// until `each` fails. Context as [`proc_read`](Self::proc_read).
    ///
    /// # Errors
    /// What `each` fails with.
    pub fn vmstat_each<E>(
        &self,
        mut each: impl FnMut(&'static str, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        each("nr_free_pages", self.free_pages_total())?;
        for list in LruList::ALL {
            let pages = self.zones().iter().map(|zone| self.lru_pages(zone, list)).sum();
            each(list.zone_key(), pages)?;
        }
        let pages_of = |what: PageStat| (what.name(), self.pages_of(what));
        let [file, dirty, writeback] =
            [PageStat::File, PageStat::Dirty, PageStat::Writeback].map(pages_of);
        each("nr_zone_write_pending", dirty.1 + writeback.1)?;
        let (key, pages) = pages_of(PageStat::Mlocked);
        each(key, pages)?;
        each("nr_free_cma", self.zones().iter().map(Zone::free_cma_pages).sum())?;
        let of_nodes = |pages: &dyn Fn(NodeId) -> u64| self.lru_nodes().map(pages).sum();
        for list in LruList::ALL {
            each(list.key(), of_nodes(&|node| self.node_lru_pages(node, list)))?;
        }
        let (reclaimable, unreclaimable) = self.slab_totals();
        each("nr_slab_reclaimable", reclaimable)?;
        each("nr_slab_unreclaimable", unreclaimable)?;
        for (key, kind) in
            [("nr_isolated_anon", LruKind::Anon), ("nr_isolated_file", LruKind::File)]
        {
            each(key, of_nodes(&|node| self.node_isolated_pages(node, kind)))?;
        }
        let remembering = self.cache_owners().map(|cache| cache.shadow_nodes(self));
        each("workingset_nodes", remembering.sum())?;
        for event in WORKINGSET {
            each(event.name(), self.stats.get(event))?;
        }
        let [anon, huge, swapcached] =
            [PageStat::Anon, PageStat::AnonHuge, PageStat::SwapCached].map(pages_of);
        each(anon.0, anon.1)?;
        // What is in the swap cache counts as Linux counts it.
        each(file.0, file.1 + swapcached.1)?;
        each(dirty.0, dirty.1)?;
        each(writeback.0, writeback.1)?;
        // In large pages.
        each(huge.0, huge.1 / PAGEBLOCK_PAGES)?;
        each(Event::VmscanWrite.name(), self.stats.get(Event::VmscanWrite))?;
        each(Event::Dirtied.name(), self.stats.get(Event::Dirtied))?;
        each(Event::Written.name(), self.stats.get(Event::Written))?;
        each("nr_page_table_pages", self.spaces.tables.load(Relaxed))?;
        each(swapcached.0, swapcached.1)?;
        let limits = self.dirty_limits();
        each("nr_dirty_threshold", limits.most)?;
        each("nr_dirty_background_threshold", limits.background)?;
        // All of the memory map comes from early memory.
        each("nr_memmap_pages", self.added_map_pages())?;
        each("nr_memmap_boot_pages", self.map_pages)?;

        let (mut allocated, mut freed) = ([0; NR_ZONES], 0);
        for zone in self.zones() {
            let events = self.page_events(zone);
            allocated[zone.kind.index()] += events.0;
            freed += events.1;
        }
        let event = |event: Event| (event.name(), self.stats.get(event));
        let mut count = |counted: (&'static str, u64)| each(counted.0, counted.1);
        count(event(Event::PgPgIn))?;
        count(event(Event::PgPgOut))?;
        count(event(Event::PswpIn))?;
        count(event(Event::PswpOut))?;
        for (key, pages) in ["pgalloc_dma", "pgalloc_dma32", "pgalloc_normal", "pgalloc_movable"]
            .into_iter()
            .zip(allocated)
        {
            count((key, pages))?;
        }
        count(event(Event::AllocStallDma))?;
        count(event(Event::AllocStallDma32))?;
        count(event(Event::AllocStallNormal))?;
        count(event(Event::AllocStallMovable))?;
        count(("pgfree", freed))?;
        count(event(Event::Activate))?;
        count(event(Event::Deactivate))?;
        count(event(Event::Lazyfree))?;
        count(event(Event::PgFault))?;
        count(event(Event::PgMajFault))?;
        for counted in RECLAIM {
            count(event(counted))?;
        }
        count(event(Event::OomKill))?;
        let rest = Event::ALL.iter().skip_while(|&&e| e != Event::MigrateSuccess);
        for &e in rest {
            count(event(e))?;
        }
        let of_zones = |counter: fn(&Zone) -> u64| self.zones().iter().map(counter).sum();
        count(("extfrag_fallbacks", of_zones(|z| z.events.fallbacks.load(Relaxed))))?;
        count(("extfrag_claims", of_zones(|z| z.events.claims.load(Relaxed))))
    }

    /// One counter of `/proc/vmstat`, if there is such a key. Context as
    /// [`proc_read`](Self::proc_read).
    pub fn vmstat_value(&self, key: &str) -> Option<u64> {
        let found = self.vmstat_each(|k, value| if k == key { Err(value) } else { Ok(()) });
        found.err()
    }

    /// Writes `/proc/vmstat`.
    pub(super) fn vmstat(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        self.vmstat_each(|key, value| writeln!(out, "{key} {value}"))
    }
}
