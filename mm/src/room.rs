//! The manager's own answer to the `Pressure` hook: which layers above the
//! allocator are asked for room, and how. Reclaim and the OOM killer have
//! nothing to take yet, for no page is mapped or cached: the last resort is to
//! ask those who lent memory out. May call: everything.

use crate::mm::Mm;
use crate::platform::Platform;
use crate::pressure::{Attempt, CompactPriority, CompactResult, Pressure};
use crate::types::Pfn;

impl<P: Platform> Pressure for Mm<P> {
    fn compact(
        &self,
        attempt: &Attempt,
        priority: CompactPriority,
    ) -> (CompactResult, Option<Pfn>) {
        self.compact_for(attempt, priority)
    }

    fn reclaim(&self, _attempt: &Attempt) -> u64 {
        0
    }

    fn reclaimable(&self, _zone: usize) -> u64 {
        0
    }

    fn out_of_memory(&self, _attempt: &Attempt) -> bool {
        self.notify_oom() > 0
    }
}
