//! What becomes of an anonymous page that is not used: it goes to swap, or is
//! dropped if nobody needs its content. May call: `lru`, `rmap`, `swap`.

use super::Scan;
use super::pages::Fate;
use crate::lru::Turn;
use crate::mm::Mm;
use crate::page::{LruFlags, PageDesc};
use crate::platform::Platform;
use crate::rmap::Unmap;
use crate::stats::Event;
use crate::swap::{Leaving, SwapOutError, SwapOuts};
use crate::types::{Order, Pfn};

impl<P: Platform> Mm<P> {
    /// Whether an anonymous page that has no slot could get one.
    pub(super) fn has_swap_room(&self) -> bool {
        self.swap_free_slots() > 0
    }

    /// Whether a page was used through page tables since that was last asked,
    /// which this forgets: through how many entries. If some region keeps it in
    /// memory it is marked as not to be reclaimed.
    pub(super) fn used_by(&self, pfn: Pfn) -> u32 {
        self.referenced(pfn).young
    }

    /// Reclaims an anonymous page that is isolated and locked. If it has to be
    /// written it is one of `outs` then.
    pub(super) fn reclaim_anon(
        &self,
        scan: &Scan,
        pfn: Pfn,
        page: &PageDesc,
        outs: &mut SwapOuts,
    ) -> Fate {
        if page.head().order() > Order(0) {
            // Without swap its parts would stay as well.
            let useful = scan.may_swap || page.head().lru().contains(LruFlags::LAZYFREE);
            return if useful { self.reclaim_large(pfn) } else { Fate::Keep };
        }
        if page.head().lru().contains(LruFlags::LAZYFREE) {
            return self.drop_lazyfree(pfn, page);
        }
        if !scan.may_swap {
            return Fate::Keep;
        }
        let unmap = &mut |entry| {
            self.try_unmap(pfn, Unmap::Swap(entry));
        };
        match self.swap_out_begin(pfn, unmap, outs) {
            Ok(Leaving::Waits) => {
                self.stats.count(Event::VmscanWrite);
                Fate::Waits
            }
            Ok(Leaving::Gone) => Fate::Freed,
            Err(why) => Self::fate_of_swap_out(Err(why)),
        }
    }

    /// What becomes of a page that was to go to swap.
    pub(super) fn fate_of_swap_out(result: Result<(), SwapOutError>) -> Fate {
        match result {
            Ok(()) => Fate::Freed,
            Err(SwapOutError::InUse) => Fate::Keep,
            // Not to be looked at again soon.
            Err(SwapOutError::NoSlot | SwapOutError::Mapped) => Fate::Activate,
            Err(SwapOutError::Refused | SwapOutError::Io) => Fate::Activate,
        }
    }

    /// Makes small pages of a large one, which has had its turn: theirs is next.
    fn reclaim_large(&self, pfn: Pfn) -> Fate {
        self.lru_end_isolation(pfn);
        if self.split_page(pfn, Turn::Next).is_err() {
            self.lru_add(pfn);
        }
        Fate::Left
    }

    /// Drops a page whose content nobody needs, unless it was written since that
    /// was said.
    fn drop_lazyfree(&self, pfn: Pfn, page: &PageDesc) -> Fate {
        if page.mapcount() > 0 && !self.try_unmap(pfn, Unmap::Discard) {
            let wanted = !page.head().lru().contains(LruFlags::LAZYFREE);
            return if wanted { Fate::Activate } else { Fate::Keep };
        }
        if page.head().lru().contains(LruFlags::DIRTY) {
            self.lru_change(pfn, LruFlags::empty(), LruFlags::LAZYFREE);
            return Fate::Activate;
        }
        // Its last entry may be gone, and somebody may look at it still.
        if !page.freeze(1) {
            return Fate::Keep;
        }
        self.stats.count(Event::Lazyfreed);
        Fate::Freed
    }
}
