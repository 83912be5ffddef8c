//! Reclaim: pages that nobody has used lately are taken from their owners, so
//! that somebody else can have the memory (Linux mm/vmscan.c). kswapd does it in
//! the background as the marks say, whoever finds too little does it himself.
//! May call: `lru`, `migrate`, `slab`, `swap`, the caches and shrinkers that
//! have registered.
//!
//! ```text
//!  reclaim_node (scan): how much of which list, by priority and swappiness
//!     |-- active list: used lately?  forget that, and on to the inactive one
//!     |-- inactive list (pages): used again?  back. Else, by what it is:
//!     |      anonymous      to swap, once nobody maps it
//!     |      lazily freed   dropped, unless it was written
//!     |      cached         written if it is dirty, then forgotten
//!     '-- shrinkers, in proportion
//! ```
//!
//! A page is isolated and locked while it is looked at; locks are tried and
//! never waited for. Writing is waited for: when a device says that a page is
//! written it can be freed at once.

mod anon;
mod cached;
mod direct;
mod drop;
mod kswapd;
mod pages;
pub mod policy;
mod scan;
mod shrinker;
mod throttle;

pub(crate) use cached::{CACHES, CacheOps, Caches, WriteBack};
pub use cached::{CacheOwner, TooManyCaches};
pub(crate) use shrinker::Shrinkers;
pub use shrinker::{Shrinker, Shrunk, TooManyShrinkers};

use crate::lru::Zones;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::stats::Event;
use crate::sync::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use crate::types::{MAX_NODES, NodeId, Order};
use policy::DEFAULT_SWAPPINESS;

/// On whose behalf pages are reclaimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    /// A node's worker.
    Kswapd,
    /// Whoever wants the memory.
    Direct,
}

/// A scan of a node: what it may do, and what it has come to.
#[derive(Clone, Debug)]
struct Scan {
    by: By,
    /// Whose pages are wanted.
    zones: Zones,
    order: Order,
    /// Pages that are wanted.
    target: u64,
    priority: u32,
    /// Dirty pages may be written.
    may_write: bool,
    /// Anonymous pages may go to swap.
    may_swap: bool,
    /// Nobody waits for what the request may hold (IO and FS).
    all_rights: bool,
    /// Pages in use follow to the inactive lists whatever there is on these.
    forced: bool,
    /// Pages in use were spared, for there were others.
    spared: bool,
    scanned: u64,
    reclaimed: u64,
}

impl Scan {
    fn is_done(&self) -> bool {
        self.reclaimed >= self.target
    }

    const fn scan_event(&self) -> Event {
        match self.by {
            By::Kswapd => Event::ScanKswapd,
            By::Direct => Event::ScanDirect,
        }
    }

    const fn steal_event(&self) -> Event {
        match self.by {
            By::Kswapd => Event::StealKswapd,
            By::Direct => Event::StealDirect,
        }
    }
}

/// What reclaim knows of a node.
#[derive(Debug)]
struct NodeState {
    /// What kswapd has been woken for and not looked at: the highest order, and
    /// one more than the highest class, 0 if nothing.
    order: AtomicU8,
    class: AtomicU8,
    /// Rounds of kswapd in a row that have freed nothing.
    failures: AtomicU32,
    /// What reclaiming anonymous and file-like pages has cost.
    costs: [AtomicU64; 2],
    /// Cached pages that have gone, or come into use.
    nonresident_age: AtomicU64,
}

impl NodeState {
    const fn new() -> Self {
        Self {
            order: AtomicU8::new(0),
            class: AtomicU8::new(0),
            failures: AtomicU32::new(0),
            costs: [AtomicU64::new(0), AtomicU64::new(0)],
            nonresident_age: AtomicU64::new(0),
        }
    }
}

/// What reclaim keeps in the manager.
#[derive(Debug)]
pub(crate) struct Reclaim {
    nodes: [NodeState; MAX_NODES],
    pub(crate) swappiness: AtomicU32,
    /// What was last written to `drop_caches`.
    pub(crate) dropped: AtomicU8,
}

impl Reclaim {
    pub(crate) const fn new() -> Self {
        Self {
            nodes: [const { NodeState::new() }; MAX_NODES],
            swappiness: AtomicU32::new(DEFAULT_SWAPPINESS),
            dropped: AtomicU8::new(0),
        }
    }

    fn node(&self, node: NodeId) -> &NodeState {
        &self.nodes[usize::from(node.0) % MAX_NODES]
    }

    /// Whether kswapd has given a node up (Linux `kswapd_failures`).
    pub(crate) fn is_hopeless(&self, node: NodeId) -> bool {
        self.node(node).failures.load(Relaxed) >= policy::MAX_FAILURES
    }
}

/// The rights of whoever frees memory, until this is dropped.
pub(crate) struct Freeing<'a, P: Platform> {
    platform: &'a P,
    before: bool,
}

impl<P: Platform> Drop for Freeing<'_, P> {
    fn drop(&mut self) {
        self.platform.set_memalloc(self.before);
    }
}

impl<P: Platform> Mm<P> {
    /// Has the caller's task free memory for a while: what it needs to do so may
    /// come from the reserves, and it does not reclaim on behalf of itself.
    pub(crate) fn freeing(&self) -> Freeing<'_, P> {
        Freeing { platform: &self.platform, before: self.platform.set_memalloc(true) }
    }

    /// The clock of what is remembered of cached pages of a node that are gone,
    /// moved on by `more`: what it was before.
    pub(crate) fn nonresident_age(&self, node: NodeId, more: u64) -> u64 {
        self.reclaim.node(node).nonresident_age.fetch_add(more, Relaxed)
    }

    /// How willingly anonymous pages are written to swap, 0 to 200.
    pub fn swappiness(&self) -> u32 {
        self.reclaim.swappiness.load(Relaxed)
    }

    /// Sets [`swappiness`](Self::swappiness); what is above 200 is 200.
    pub fn set_swappiness(&self, swappiness: u32) {
        self.reclaim.swappiness.store(swappiness.min(policy::MAX_SWAPPINESS), Relaxed);
    }
}
