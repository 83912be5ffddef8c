//! Counters of what happened, machine-wide. Counting needs no lock; reading is
//! never exact on a running machine. The text of Linux's report files is in
//! `proc`. May call: `sync`, `types`.

use crate::sync::{AtomicU64, Ordering::Relaxed};
use crate::types::{NR_ZONES, ZoneKind};

macro_rules! events {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// An event that is counted, by the name `/proc/vmstat` gives it.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        pub enum Event { $($(#[$doc])* $variant,)* }

        impl Event {
            /// All events in the order they are reported.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The key in `/proc/vmstat`.
            pub const fn name(self) -> &'static str {
                [$($name,)*][self as usize]
            }
        }
    };
}

// In Linux's order; those that Linux does not count come last.
events! {
    /// KiB that devices have read for page caches and swap.
    PgPgIn = "pgpgin",
    /// KiB that devices have written for page caches and swap.
    PgPgOut = "pgpgout",
    /// Pages read from swap.
    PswpIn = "pswpin",
    /// Pages written to swap.
    PswpOut = "pswpout",
    /// Times that requests of class DMA had to make room themselves.
    AllocStallDma = "allocstall_dma",
    /// As `AllocStallDma`, of class DMA32.
    AllocStallDma32 = "allocstall_dma32",
    /// As `AllocStallDma`, of class Normal.
    AllocStallNormal = "allocstall_normal",
    /// As `AllocStallDma`, of class Movable.
    AllocStallMovable = "allocstall_movable",
    /// Pages that became active.
    Activate = "pgactivate",
    /// Pages that became inactive.
    Deactivate = "pgdeactivate",
    /// Pages whose content nobody needs any more (`MADV_FREE`).
    Lazyfree = "pglazyfree",
    /// Of these, those that reclaim has dropped.
    Lazyfreed = "pglazyfreed",
    /// Pages of active lists that reclaim has looked at.
    Refill = "pgrefill",
    /// Pages that kswapd has reclaimed.
    StealKswapd = "pgsteal_kswapd",
    /// Pages that were reclaimed by those who wanted them.
    StealDirect = "pgsteal_direct",
    /// Pages of inactive lists that kswapd has looked at.
    ScanKswapd = "pgscan_kswapd",
    /// As `ScanKswapd`, by those who wanted memory.
    ScanDirect = "pgscan_direct",
    /// Times that one of these had to wait for kswapd first.
    ScanDirectThrottle = "pgscan_direct_throttle",
    /// Of the pages looked at, anonymous ones.
    ScanAnon = "pgscan_anon",
    /// Of the pages looked at, others.
    ScanFile = "pgscan_file",
    /// Of the pages reclaimed, anonymous ones.
    StealAnon = "pgsteal_anon",
    /// Of the pages reclaimed, others.
    StealFile = "pgsteal_file",
    /// Objects that shrinkers were asked to look at.
    SlabsScanned = "slabs_scanned",
    /// Accesses that the tables did not allow.
    PgFault = "pgfault",
    /// Of these, those that waited for a device.
    PgMajFault = "pgmajfault",
    /// Rounds of kswapd.
    PageOutRun = "pageoutrun",
    /// Address spaces that were killed for their memory.
    OomKill = "oom_kill",
    /// Pages that were put where they are reclaimed next.
    Rotated = "pgrotated",
    /// Times that somebody had cached pages dropped.
    DropPagecache = "drop_pagecache",
    /// Times that somebody had shrinkers let go of all they could.
    DropSlab = "drop_slab",
    /// Pages that reclaim has had written.
    VmscanWrite = "nr_vmscan_write",
    /// Cached pages that were made newer than what their device has.
    Dirtied = "nr_dirtied",
    /// Cached pages that were written to their devices.
    Written = "nr_written",
    /// Cached pages that are back after they were reclaimed.
    WorkingsetRefaultFile = "workingset_refault_file",
    /// Of these, those that were put among what is in use.
    WorkingsetActivateFile = "workingset_activate_file",
    /// Of these, those that had been there before.
    WorkingsetRestoreFile = "workingset_restore_file",
    /// Nodes of caches' trees that were freed with all they remembered.
    WorkingsetNodeReclaim = "workingset_nodereclaim",
    /// Pages moved.
    MigrateSuccess = "pgmigrate_success",
    /// Pages that could not be moved.
    MigrateFail = "pgmigrate_fail",
    /// Pages the migration scanner looked at.
    CompactMigrateScanned = "compact_migrate_scanned",
    /// Pages the free scanner looked at.
    CompactFreeScanned = "compact_free_scanned",
    /// Pages isolated by either scanner.
    CompactIsolated = "compact_isolated",
    /// Times a request waited for compaction.
    CompactStall = "compact_stall",
    /// Times it was in vain.
    CompactFail = "compact_fail",
    /// Times it was not.
    CompactSuccess = "compact_success",
    /// Times kcompactd was woken.
    CompactDaemonWake = "compact_daemon_wake",
    /// Of the pages the migration scanner looked at, those in the background.
    CompactDaemonMigrateScanned = "compact_daemon_migrate_scanned",
    /// Of the pages the free scanner looked at, those in the background.
    CompactDaemonFreeScanned = "compact_daemon_free_scanned",
    /// Contiguous allocations from CMA that succeeded.
    CmaAllocSuccess = "cma_alloc_success",
    /// Contiguous allocations from CMA that failed.
    CmaAllocFail = "cma_alloc_fail",
    /// Untouched memory that was filled with a large page.
    ThpFaultAlloc = "thp_fault_alloc",
    /// Times that there was no large page at hand.
    ThpFaultFallback = "thp_fault_fallback",
    /// Large pages that were made small ones.
    ThpSplitPage = "thp_split_page",
    /// Times that this could not be done.
    ThpSplitPageFailed = "thp_split_page_failed",
    /// Entries for large pages that were made tables of small ones.
    ThpSplitPmd = "thp_split_pmd",
    /// Pages that were lent to the host.
    BalloonInflate = "balloon_inflate",
    /// Pages that came back from it.
    BalloonDeflate = "balloon_deflate",
    /// Pages the host has been given in exchange for others.
    BalloonMigrate = "balloon_migrate",
    /// Pages that were read from swap before anybody asked for them.
    SwapRa = "swap_ra",
    /// Of these, pages that were asked for while they were there.
    SwapRaHit = "swap_ra_hit",
    /// Pages that came back from swap as zeros, which nobody had written.
    SwpInZero = "swpin_zero",
    /// Pages of zeros that went to swap without being written.
    SwpOutZero = "swpout_zero",
    /// Requests that failed.
    AllocFailed = "alloc_failed",
    /// Times that somebody who wanted memory had to wait until others had looked
    /// at the pages they had isolated.
    ScanIsolatedThrottle = "pgscan_isolated_throttle",
    /// Rounds of the flusher.
    FlusherRun = "flusher_run",
    /// Pages that were handed out marked pfmemalloc.
    Pfmemalloc = "pgalloc_pfmemalloc",
    /// Frees that were refused: double, foreign, wrong order.
    BadFree = "free_refused",
    /// Objects that were refused or found damaged by the slab layer.
    BadObject = "slab_refused",
    /// Free pages or objects whose poison was found overwritten.
    PoisonOverwritten = "poison_overwritten",
}

impl Event {
    /// A request of `class` entered the slow path able to wait.
    pub const fn alloc_stall(class: ZoneKind) -> Self {
        const BY_CLASS: [Event; NR_ZONES] = [
            Event::AllocStallDma,
            Event::AllocStallDma32,
            Event::AllocStallNormal,
            Event::AllocStallMovable,
        ];
        BY_CLASS[class.index()]
    }
}

/// Machine-wide event counters.
#[derive(Debug)]
pub struct Stats([AtomicU64; Event::ALL.len()]);

impl Default for Stats {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Event::ALL.len()])
    }
}

impl Stats {
    /// Counts `event` once.
    #[inline]
    pub fn count(&self, event: Event) {
        self.add(event, 1);
    }

    /// Counts `event` `n` times.
    #[inline]
    pub fn add(&self, event: Event, n: u64) {
        self.0[event as usize].fetch_add(n, Relaxed);
    }

    /// How often `event` has been counted.
    pub fn get(&self, event: Event) -> u64 {
        self.0[event as usize].load(Relaxed)
    }
}
