//! Those who keep what could be made again: asked to let go of some of it as
//! pages are reclaimed, in proportion (Linux mm/vmscan.c, `do_shrink_slab`). The
//! slab layer is one, with the free slabs that it keeps. May call: whoever has
//! registered, `slab`.

use super::policy::{shrink_deferred, shrink_plan};
use crate::cache::ShadowNodes;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::rmap::FreeGroups;
use crate::stats::Event;
use crate::sync::{AtomicU64, Lock, LockRank, Once, Ordering::Relaxed};
use crate::types::{MAX_NODES, NodeId};

/// What a shrinker has let go of.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Shrunk {
    /// Objects freed.
    pub objects: u64,
    /// Pages that were free because of it when it returned.
    pub pages: u64,
}

/// Somebody with objects that could be made again. Called with interrupts on and
/// no lock held, by whoever frees memory: it may wait, but must not ask for
/// memory with DIRECT_RECLAIM.
pub trait Shrinker<P: Platform>: Sync {
    /// Objects on `node` that could be freed now; an estimate.
    fn count(&self, mm: &Mm<P>, node: NodeId) -> u64;

    /// Looks at up to `scan` of them and frees what was not used lately. None:
    /// nothing could be done just now, so there is no use in asking on.
    fn scan(&self, mm: &Mm<P>, node: NodeId, scan: u64) -> Option<Shrunk>;

    /// What it costs to make an object again, in accesses to a disk.
    fn seeks(&self) -> u32 {
        2
    }

    /// Objects that are scanned in one call.
    fn batch(&self) -> u64 {
        128
    }
}

/// Shrinkers that can be registered.
pub(crate) const SHRINKERS: usize = 16;

/// One of them, with what it still owes each node.
struct Entry<P: Platform> {
    shrinker: Once<&'static dyn Shrinker<P>>,
    deferred: [AtomicU64; MAX_NODES],
}

/// The table of shrinkers: entered one after the other, never taken out.
pub(crate) struct Shrinkers<P: Platform> {
    entering: Lock<()>,
    entries: [Entry<P>; SHRINKERS],
}

impl<P: Platform> Shrinkers<P> {
    /// The slab layer is the first, what caches remember the second, room for
    /// regions the third.
    pub(crate) fn new() -> Self {
        let entry =
            || Entry { shrinker: Once::new(), deferred: [const { AtomicU64::new(0) }; MAX_NODES] };
        let entries: [Entry<P>; SHRINKERS] = core::array::from_fn(|_| entry());
        entries[0].shrinker.call_once(|| &FreeSlabs);
        entries[1].shrinker.call_once(|| &ShadowNodes);
        entries[2].shrinker.call_once(|| &FreeGroups);
        Self { entering: Lock::new(LockRank::Leaf, ()), entries }
    }
}

/// There is no room for another shrinker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyShrinkers;

impl core::fmt::Display for TooManyShrinkers {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{SHRINKERS} shrinkers are registered already")
    }
}

impl core::error::Error for TooManyShrinkers {}

/// The slab layer's free slabs; an object is a page.
struct FreeSlabs;

impl<P: Platform> Shrinker<P> for FreeSlabs {
    fn count(&self, mm: &Mm<P>, node: NodeId) -> u64 {
        mm.free_slab_pages(node)
    }

    fn scan(&self, mm: &Mm<P>, node: NodeId, scan: u64) -> Option<Shrunk> {
        let pages = mm.shrink_free_slabs(node, scan);
        (pages > 0).then_some(Shrunk { objects: pages, pages })
    }

    /// They need not be read from anywhere.
    fn seeks(&self) -> u32 {
        1
    }
}

impl<P: Platform> Mm<P> {
    /// Has `shrinker` asked whenever memory is reclaimed, after those that came
    /// before it. It stays registered as long as the manager lives. Any context.
    ///
    /// # Errors
    /// When 16 are registered already.
    pub fn register_shrinker(
        &self,
        shrinker: &'static dyn Shrinker<P>,
    ) -> Result<(), TooManyShrinkers> {
        let cpu = self.enter();
        let _alone = self.shrinkers.entering.lock(&cpu);
        let mut free = self.shrinkers.entries.iter().filter(|e| e.shrinker.get().is_none());
        free.next().ok_or(TooManyShrinkers)?.shrinker.call_once(|| shrinker);
        Ok(())
    }

    /// Asks all shrinkers for their part of a scan of `node` at `priority`.
    pub(super) fn shrink_slabs(&self, node: NodeId, priority: u32) -> Shrunk {
        let mut all = Shrunk::default();
        for entry in &self.shrinkers.entries {
            let Some(&shrinker) = entry.shrinker.get() else { break };
            let owed = &entry.deferred[usize::from(node.0) % MAX_NODES];
            let shrunk = self.shrink_one(shrinker, owed, node, priority);
            all.objects += shrunk.objects;
            all.pages += shrunk.pages;
        }
        all
    }

    fn shrink_one(
        &self,
        shrinker: &dyn Shrinker<P>,
        owed: &AtomicU64,
        node: NodeId,
        priority: u32,
    ) -> Shrunk {
        let mut all = Shrunk::default();
        let freeable = shrinker.count(self, node);
        if freeable == 0 {
            return all;
        }
        // Whoever comes at the same time finds nothing owed.
        let deferred = owed.swap(0, Relaxed);
        let plan = shrink_plan(freeable, priority, shrinker.seeks(), deferred);
        let batch = shrinker.batch().max(1);
        let (mut left, mut scanned) = (plan.total, 0);
        // Less than a batch is not worth it, unless it is all there is.
        while left >= batch || (left >= freeable && left > 0) {
            let scan = left.min(batch);
            let Some(shrunk) = shrinker.scan(self, node, scan) else { break };
            all.objects += shrunk.objects;
            all.pages += shrunk.pages;
            self.stats.add(Event::SlabsScanned, scan);
            left -= scan;
            scanned += scan;
        }
        owed.fetch_add(shrink_deferred(plan, freeable, deferred, scanned), Relaxed);
        all
    }
}
