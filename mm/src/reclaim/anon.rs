//! What becomes of an anonymous page that is not used: it goes to swap, or is
//! dropped if nobody needs its content. May call: `lru`, `swap`.

use super::Scan;
use super::pages::Fate;
use crate::mm::Mm;
use crate::page::{LruFlags, PageDesc};
use crate::platform::Platform;
use crate::types::Pfn;

impl<P: Platform> Mm<P> {
    /// Whether an anonymous page that has no slot could get one.
    pub(super) fn has_swap_room(&self) -> bool {
        false
    }

    /// Whether a page was used through page tables since that was last asked,
    /// which this forgets: through how many entries.
    pub(super) fn used_by(&self, _pfn: Pfn, _page: &PageDesc) -> u32 {
        0
    }

    /// Reclaims an anonymous page that is isolated and locked.
    pub(super) fn reclaim_anon(&self, _scan: &Scan, _pfn: Pfn, page: &PageDesc) -> Fate {
        if page.mapcount() > 0 {
            return Fate::Keep;
        }
        if !page.head().lru().contains(LruFlags::LAZYFREE) {
            return Fate::Activate;
        }
        if page.head().lru().contains(LruFlags::DIRTY) {
            page.clear_lru(LruFlags::LAZYFREE);
            return Fate::Activate;
        }
        if page.freeze(1) { Fate::Freed } else { Fate::Keep }
    }
}
