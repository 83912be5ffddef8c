//! Dropping what can be made again, for a person who asks (Linux
//! fs/drop_caches.c). May call: `direct`, `shrinker`, `slab`.

use crate::gfp::Gfp;
use crate::lru::{LruKind, Zones};
use crate::mm::Mm;
use crate::platform::{LogLevel, Platform};
use crate::stats::Event;
use crate::types::{NodeId, ZoneKind};

/// Pages that are looked at together.
const BATCH: u64 = 256;
/// Rounds of all shrinkers at most.
const ROUNDS: u32 = 64;
/// A round that frees less is the last.
const WORTH: u64 = 10;

impl<P: Platform> Mm<P> {
    /// Drops clean cached pages that nobody uses; returns how many. Interrupts
    /// on, no lock held; may wait.
    pub fn drop_page_cache(&self) -> u64 {
        self.stats.count(Event::DropPagecache);
        self.lru_drain_all();
        self.lru_nodes().map(|node| self.drop_cached_of(node)).sum()
    }

    fn drop_cached_of(&self, node: NodeId) -> u64 {
        let zones = Zones::up_to(ZoneKind::Movable);
        let mut freed = 0;
        for list in [LruKind::File.inactive(), LruKind::File.active()] {
            // Those that stay go to the front: each is looked at once.
            let mut left = self.lru_size(node, zones, list);
            while left > 0 {
                let mut taken = self.lru_take(node, zones, list, left.min(BATCH));
                if taken.scanned == 0 {
                    break;
                }
                left = left.saturating_sub(taken.scanned);
                // Nothing is written for it.
                freed += self.reclaim_isolated(&mut taken.pages, Gfp::empty());
                self.lru_putback_list(&mut taken.pages);
            }
        }
        freed
    }

    /// Has all shrinkers let go of what they can, and the slab layer of all that
    /// it keeps free; returns the pages that were freed. Context as
    /// [`drop_page_cache`](Self::drop_page_cache).
    pub fn drop_slab(&self) -> u64 {
        self.stats.count(Event::DropSlab);
        let mut pages = self.slab_shrink();
        for _ in 0..ROUNDS {
            let objects: u64 = self
                .lru_nodes()
                .map(|node| {
                    let shrunk = self.shrink_slabs(node, 0);
                    pages += shrunk.pages;
                    shrunk.objects
                })
                .sum();
            if objects < WORTH {
                break;
            }
        }
        // What they let go of lies in slabs that are free now.
        pages + self.slab_shrink()
    }

    /// What writing `what` to `drop_caches` does: 1 drops cached pages, 2 what
    /// shrinkers have, 3 both; 4 says that no line in the log is wanted any more.
    /// Context as [`drop_page_cache`](Self::drop_page_cache).
    pub(crate) fn drop_caches(&self, what: u8) {
        use crate::sync::Ordering::Relaxed;
        let quiet = self.reclaim.dropped.fetch_or(what & 4, Relaxed) & 4 != 0;
        self.reclaim.dropped.store(what | self.reclaim.dropped.load(Relaxed) & 4, Relaxed);
        if what & 1 != 0 {
            self.drop_page_cache();
        }
        if what & 2 != 0 {
            self.drop_slab();
        }
        if !quiet {
            self.platform.log(LogLevel::Info, format_args!("drop_caches: {what}"));
        }
    }
}
