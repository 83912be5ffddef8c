//! Moving what can be moved out of an isolated range, a batch at a time. May
//! call: `migrate`, `alloc`.

use super::isolate::Isolated;
use super::walk::{Kind, heads};
use crate::gfp::{Gfp, Page, Request};
use crate::list::PageList;
use crate::migrate::{MigrateMode, Migrated};
use crate::mm::Mm;
use crate::platform::Platform;
use crate::types::{Order, PfnRange};

/// Pages that are isolated and moved at once.
const BATCH: u32 = 32;

/// What an attempt to empty a range came to. That a page has stayed is nothing
/// to be told: whether the range is free now decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Evacuation {
    /// All that could be moved was asked to.
    Done,
    /// There was no place to move a page to.
    OutOfMemory,
}

impl<P: Platform> Mm<P> {
    /// Asks the owners of all movable pages in `range`, which `isolated` covers,
    /// to move them elsewhere, to memory of the same node if there is any. May
    /// wait if `gfp` allows; no lock held.
    pub(crate) fn evacuate(
        &self,
        isolated: &Isolated<'_, P>,
        range: PfnRange,
        gfp: Gfp,
    ) -> Evacuation {
        debug_assert!(isolated.covers(range));
        let node = isolated.zone().node;
        let mode = if gfp.can_block() { MigrateMode::Sync } else { MigrateMode::Async };
        let mut list = PageList::new();
        for (pfn, word) in heads(&self.map, range) {
            if Kind::of(word.ty()) == Kind::Movable && self.isolate_movable(pfn, mode).is_ok() {
                list.push_back(&self.map, pfn);
            }
            if list.len() == BATCH && self.move_away(&mut list, node, gfp, mode).out_of_memory {
                return Evacuation::OutOfMemory;
            }
        }
        if self.move_away(&mut list, node, gfp, mode).out_of_memory {
            return Evacuation::OutOfMemory;
        }
        Evacuation::Done
    }

    /// Moves what is on the list; what stays goes back to its owners.
    fn move_away(
        &self,
        list: &mut PageList,
        node: crate::types::NodeId,
        gfp: Gfp,
        mode: MigrateMode,
    ) -> Migrated {
        // Never from the blocks that are being emptied: nothing is allocated
        // there. How hard to try is for the caller's gfp to say.
        let how = gfp & (Gfp::KERNEL | Gfp::NORETRY | Gfp::NOMEMALLOC);
        let gfp = Gfp::HIGHMEM | Gfp::MOVABLE | Gfp::RETRY_MAYFAIL | Gfp::NOWARN | how;
        let request = Request::new(Order(0), gfp).on(node);
        let mut target = || self.alloc_pages(request).ok().map(|page| page.pfn);
        let mut unused = |pfn| {
            let freed = self.free_pages(Page { pfn, order: Order(0) });
            debug_assert!(freed.is_ok(), "a target is an allocated page");
        };
        let result = self.migrate_pages(list, &mut target, &mut unused, mode);
        self.putback_list(list);
        result
    }
}
