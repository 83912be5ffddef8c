//! Counters of what happened, machine-wide, and the text of Linux's report
//! files. Counting needs no lock; reading is never exact on a running machine.
//! May call: `sync`.

use crate::sync::{AtomicU64, Ordering::Relaxed};

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

events! {
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
    /// Contiguous allocations from CMA that succeeded.
    CmaAllocSuccess = "cma_alloc_success",
    /// Contiguous allocations from CMA that failed.
    CmaAllocFail = "cma_alloc_fail",
    /// Requests that entered the slow path able to wait.
    AllocStall = "allocstall",
    /// Requests that failed.
    AllocFailed = "alloc_failed",
    /// Pages that were handed out marked pfmemalloc.
    Pfmemalloc = "pgalloc_pfmemalloc",
    /// Frees that were refused: double, foreign, wrong order.
    BadFree = "free_refused",
    /// Objects that were refused or found damaged by the slab layer.
    BadObject = "slab_refused",
    /// Free pages or objects whose poison was found overwritten.
    PoisonOverwritten = "poison_overwritten",
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
