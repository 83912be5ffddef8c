//! What reporting has done. Calls nothing but `sync`.

use crate::sync::{AtomicU64, Ordering::Relaxed};
use crate::types::PAGE_SIZE;

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// What reporting has done since boot, over all devices.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct ReportStats { $($(#[$doc])* pub $field: u64,)* }

        /// The same, being counted.
        #[derive(Debug, Default)]
        pub(super) struct Counters { $(pub(super) $field: AtomicU64,)* }

        impl Counters {
            pub(super) fn snapshot(&self) -> ReportStats {
                ReportStats { $($field: self.$field.load(Relaxed),)* }
            }
        }

        impl ReportStats {
            /// Every counter with its name, `bytes` among them.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field),)* ("bytes", self.bytes())].into_iter()
            }
        }
    };
}

counters! {
    /// Passes that were made.
    passes,
    /// Batches that a device took.
    batches,
    /// Blocks in them.
    blocks,
    /// Pages in them.
    pages,
    /// Batches that a device did not take.
    failures,
    /// Zones that a pass left alone because they had too little free.
    skipped_zones,
    /// Lists that a pass left because no more could be taken above the min mark.
    short_lists,
    /// Lists that a pass left because it had sent its share.
    spent_budgets,
    /// Pages that a device has which could not be shut off.
    lost_pages,
}

impl ReportStats {
    /// Bytes that were reported.
    pub const fn bytes(&self) -> u64 {
        self.pages.saturating_mul(PAGE_SIZE as u64)
    }
}

impl Counters {
    pub(super) fn pages(&self) -> u64 {
        self.pages.load(Relaxed)
    }
}

/// Counts `n` more.
pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Relaxed);
}
