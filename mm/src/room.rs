//! The manager's own answer to the `Pressure` hook: which layers above the
//! allocator are asked for room, and how. The last resort is to ask those who
//! lent memory out, and then to kill. May call: everything.

use crate::gfp::Gfp;
use crate::list::PageList;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::pressure::{Attempt, CompactPriority, CompactResult, Pressure, Relief};
use crate::types::Pfn;

impl<P: Platform> Pressure for Mm<P> {
    fn compact(
        &self,
        attempt: &Attempt,
        priority: CompactPriority,
    ) -> (CompactResult, Option<Pfn>) {
        self.compact_for(attempt, priority)
    }

    fn reclaim(&self, attempt: &Attempt) -> u64 {
        self.reclaim_for(attempt)
    }

    fn reclaimable(&self, zone: usize) -> u64 {
        self.zones().get(zone).map_or(0, |zone| self.reclaimable_pages(zone))
    }

    fn reclaim_in_zone(&self, zone: usize, pages: u64, gfp: Gfp) -> u64 {
        self.zones().get(zone).map_or(0, |zone| self.reclaim_in(zone, pages, gfp))
    }

    fn discard(&self, pages: &mut PageList, gfp: Gfp) -> u64 {
        self.reclaim_isolated(pages, gfp)
    }

    fn out_of_memory(&self, attempt: &Attempt, eased: &mut dyn FnMut() -> bool) -> Relief {
        self.kill_for(attempt, eased)
    }
}
