//! The machine's memory in short: `/proc/meminfo` (Linux fs/proc/meminfo.c). May
//! call: everything that counts.
//!
//! What is cached of block devices is `Buffers`, as in Linux; `Cached` would be of
//! files. It and `Shmem` are there for `free`, `top` and others that take them for
//! granted: their number is always 0.

use crate::lru::LruList;
use crate::mm::Mm;
use crate::page_stats::PageStat;
use crate::platform::Platform;
use crate::sync::Ordering::Relaxed;
use crate::types::{NodeId, PAGE_SIZE};
use crate::zone::Zone;
use core::fmt;

impl<P: Platform> Mm<P> {
    /// Writes `/proc/meminfo`.
    pub(super) fn meminfo(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        use LruList::{ActiveAnon, ActiveFile, InactiveAnon, InactiveFile, Unevictable};
        let lru = |list| self.zones().iter().map(|zone| self.lru_pages(zone, list)).sum::<u64>();
        let sum = |pages: fn(&Zone) -> u64| self.zones().iter().map(pages).sum::<u64>();
        let (reclaimable, unreclaimable) = self.slab_totals();
        let swap = self.swap_totals();
        for (key, pages) in [
            ("MemTotal", self.managed_pages()),
            ("MemFree", self.free_pages_total()),
            ("MemAvailable", self.available_pages()),
            ("Buffers", self.pages_of(PageStat::File)),
            ("Cached", 0),
            ("SwapCached", swap.cached),
            ("Active", lru(ActiveAnon) + lru(ActiveFile)),
            ("Inactive", lru(InactiveAnon) + lru(InactiveFile)),
            ("Active(anon)", lru(ActiveAnon)),
            ("Inactive(anon)", lru(InactiveAnon)),
            ("Active(file)", lru(ActiveFile)),
            ("Inactive(file)", lru(InactiveFile)),
            ("Unevictable", lru(Unevictable)),
            ("Mlocked", self.pages_of(PageStat::Mlocked)),
            ("SwapTotal", swap.total),
            ("SwapFree", swap.total.saturating_sub(swap.used)),
            ("Dirty", self.pages_of(PageStat::Dirty)),
            ("Writeback", self.pages_of(PageStat::Writeback)),
            ("AnonPages", self.pages_of(PageStat::Anon)),
            ("Shmem", 0),
            ("KReclaimable", reclaimable),
            ("Slab", reclaimable + unreclaimable),
            ("SReclaimable", reclaimable),
            ("SUnreclaim", unreclaimable),
            ("PageTables", self.spaces.tables.load(Relaxed)),
            ("HardwareCorrupted", self.bad_pages()),
            ("AnonHugePages", self.pages_of(PageStat::AnonHuge)),
            ("CmaTotal", sum(Zone::cma_pages)),
            ("CmaFree", sum(Zone::free_cma_pages)),
        ] {
            let kb = pages * (PAGE_SIZE as u64 / 1024);
            // The longest key leaves less room for its number.
            let width = 23 - key.len();
            writeln!(out, "{key}:{kb:>width$} kB")?;
        }
        Ok(())
    }

    /// Pages of slabs, reclaimable and not.
    pub(super) fn slab_totals(&self) -> (u64, u64) {
        let nodes = (0..self.nodes() as u8).map(|node| self.slab_pages(NodeId(node)));
        nodes.fold((0, 0), |sum, node| (sum.0 + node.0, sum.1 + node.1))
    }

    /// Pages that programs could get without anybody's being short of memory:
    /// what is free beyond the marks and reserves, and of file-like pages and of
    /// what slabs could give back half, or all but a low mark (Linux
    /// `si_mem_available`). An estimate; any context without a lock.
    pub fn available_pages(&self) -> u64 {
        let (reclaimable, _) = self.slab_totals();
        let kept: u64 = self.zones().iter().map(Zone::kept).sum();
        let low: u64 = self.zones().iter().map(|zone| zone.marks().low).sum();
        let cached = self.zones().iter().map(|zone| {
            self.lru_pages(zone, LruList::ActiveFile) + self.lru_pages(zone, LruList::InactiveFile)
        });
        let cached = cached.sum::<u64>();
        let spare = |pages: u64| pages - low.min(pages / 2);
        (self.free_pages_total() + spare(cached) + spare(reclaimable)).saturating_sub(kept)
    }
}
