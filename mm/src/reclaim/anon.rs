//! What becomes of an anonymous page that is not used: it goes to swap, or is
//! dropped if nobody needs its content. May call: `lru`, `swap`.

use super::Scan;
use super::pages::Fate;
use crate::mm::Mm;
use crate::page::{LruFlags, PageDesc};
use crate::platform::Platform;
use crate::stats::Event;
use crate::swap::SwapOutError;
use crate::types::{Order, Pfn};

impl<P: Platform> Mm<P> {
    /// Whether an anonymous page that has no slot could get one.
    pub(super) fn has_swap_room(&self) -> bool {
        self.swap_free_slots() > 0
    }

    /// Whether a page was used through page tables since that was last asked,
    /// which this forgets: through how many entries.
    pub(super) fn used_by(&self, _pfn: Pfn, page: &PageDesc) -> u32 {
        page.mapcount()
    }

    /// Reclaims an anonymous page that is isolated and locked.
    pub(super) fn reclaim_anon(&self, scan: &Scan, pfn: Pfn, page: &PageDesc) -> Fate {
        if page.head().lru().contains(LruFlags::LAZYFREE) {
            return self.drop_lazyfree(page);
        }
        if !scan.may_swap {
            return Fate::Keep;
        }
        if page.mapcount() > 0 || page.head().order() > Order(0) {
            return Fate::Keep;
        }
        self.stats.count(Event::VmscanWrite);
        match self.swap_out(pfn, &mut |_| {}) {
            Ok(()) => Fate::Freed,
            Err(SwapOutError::InUse) => Fate::Keep,
            // Not to be looked at again soon.
            Err(
                SwapOutError::NoSlot
                | SwapOutError::Mapped
                | SwapOutError::Refused
                | SwapOutError::Io,
            ) => Fate::Activate,
        }
    }

    /// Drops a page whose content nobody needs, unless it was written since that
    /// was said.
    fn drop_lazyfree(&self, page: &PageDesc) -> Fate {
        if page.mapcount() > 0 {
            return Fate::Keep;
        }
        if page.head().lru().contains(LruFlags::DIRTY) {
            page.clear_lru(LruFlags::LAZYFREE);
            return Fate::Activate;
        }
        // Its last entry may be gone, and somebody may look at it still.
        if page.freeze(1) { Fate::Freed } else { Fate::Keep }
    }
}
