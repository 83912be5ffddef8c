//! What a page cache does for its pages, so that reclaim, migration and the
//! flusher can have them: write one, forget one, have another in its place. May
//! call: whoever has registered.

use crate::audit::{AuditError, Auditor};
use crate::block::IoFailed;
use crate::cache::CacheError;
use crate::mm::Mm;
use crate::page::PageDesc;
use crate::page_stats::PageStat;
use crate::platform::Platform;
use crate::sync::{Lock, LockRank, Once};
use crate::types::Pfn;

/// What is to be written back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WriteBack {
    /// Up to so many pages, of those that have not failed.
    Some(u64),
    /// All that can be had without waiting for who uses it.
    All,
}

/// A cache whose pages are reclaimed: those of type Lru without ANON whose
/// `owner` is its id. It has a reference to each, and finds them by `index`. Of
/// these only it sets and clears DIRTY, WRITEBACK and FAILED.
///
/// The first three are called with the page locked; all with no other lock held,
/// and on any CPU at the same time for different pages.
pub(crate) trait CacheOps<P: Platform>: Sync {
    /// Writes the page, which is dirty, where it belongs; others with it if it
    /// likes. It is clean after that. May wait; what memory it asks for is for
    /// freeing memory (`PF_MEMALLOC`).
    ///
    /// # Errors
    /// When it cannot: the page stays dirty, and is FAILED.
    fn write_page(&self, mm: &Mm<P>, page: Pfn) -> Result<(), IoFailed>;

    /// Forgets the page, which is clean and frozen: whoever finds it in the cache
    /// before this returns can get no reference, and has to look again. The
    /// caller frees it.
    fn release(&self, mm: &Mm<P>, page: Pfn);

    /// Has `dst` in the place of `src`, which is frozen. `dst` is a copy of it in
    /// all that its descriptor says, and the reference of the cache is counted
    /// there already.
    fn replace(&self, mm: &Mm<P>, dst: Pfn, src: Pfn);

    /// Writes dirty pages; returns how many. May wait.
    fn write_back(&self, mm: &Mm<P>, what: WriteBack) -> u64;

    /// Writes all dirty pages, and has the device keep them. May wait.
    ///
    /// # Errors
    /// When one could not be written, now or since this was last asked.
    fn sync(&self, mm: &Mm<P>) -> Result<(), CacheError>;

    /// Since when something is dirty, in ms; None if nothing is.
    fn dirty_since(&self) -> Option<u64>;

    /// Whether nothing is dirty, nor on its way to where it is kept.
    fn is_clean(&self, mm: &Mm<P>) -> bool;

    /// Pages that the cache has, for the audit to compare.
    fn pages(&self) -> u64;

    /// Pages of its tree that only remember what is gone.
    fn shadow_nodes(&self, mm: &Mm<P>) -> u64;

    /// Frees such, up to `most`; returns how many pages are free for it.
    fn drop_shadow_nodes(&self, mm: &Mm<P>, most: u64) -> u64;

    /// Checks all that the cache knows of its pages; returns how many it has, how
    /// many are dirty, and how many on their way.
    ///
    /// # Errors
    /// The first thing that is wrong.
    fn audit(&self, mm: &Mm<P>, auditor: &mut Auditor) -> Result<[u64; 3], AuditError>;
}

/// A cache, as the descriptors of its pages name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheOwner(pub(crate) u32);

impl CacheOwner {
    /// What is in the `owner` word of its pages.
    pub const fn word(self) -> u32 {
        self.0
    }
}

/// Caches that can be registered.
pub(crate) const CACHES: usize = 64;

/// The table of caches: entered one after the other, never taken out, so that
/// nobody who looks one up has to wait.
pub(crate) struct Caches<P: Platform> {
    entering: Lock<()>,
    entries: [Once<&'static dyn CacheOps<P>>; CACHES],
}

impl<P: Platform> Caches<P> {
    pub(crate) const fn new() -> Self {
        let entering = Lock::new(LockRank::Leaf, ());
        Self { entering, entries: [const { Once::new() }; CACHES] }
    }
}

/// There is no room for another cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyCaches;

impl core::fmt::Display for TooManyCaches {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{CACHES} page caches are registered already")
    }
}

impl core::error::Error for TooManyCaches {}

impl<P: Platform> Mm<P> {
    /// Registers a page cache. It stays registered as long as the manager lives:
    /// its pages may be met at any time. Any context.
    ///
    /// # Errors
    /// When 64 are registered already.
    pub(crate) fn register_cache(
        &self,
        ops: &'static dyn CacheOps<P>,
    ) -> Result<CacheOwner, TooManyCaches> {
        let cpu = self.enter();
        let _alone = self.caches.entering.lock(&cpu);
        let entries = &self.caches.entries;
        let free = entries.iter().position(|slot| slot.get().is_none()).ok_or(TooManyCaches)?;
        entries[free].call_once(|| ops);
        Ok(CacheOwner(free as u32))
    }

    /// The operations of a cached page's cache.
    pub(crate) fn cache_ops(&self, page: &PageDesc) -> Option<&'static dyn CacheOps<P>> {
        self.caches.entries.get(page.owner() as usize)?.get().copied()
    }

    /// The caches registered, in the order of their ids.
    pub(crate) fn cache_owners(&self) -> impl Iterator<Item = &'static dyn CacheOps<P>> {
        self.caches.entries.iter().map_while(Once::get).copied()
    }

    /// Compares the caches with their pages that a walk over the descriptors has
    /// counted.
    pub(crate) fn audit_caches(
        &self,
        auditor: &mut Auditor,
        counted: &[u64; CACHES],
    ) -> Result<(), AuditError> {
        let mut all = [0; 3];
        for (cache, &pages) in self.cache_owners().zip(counted) {
            auditor.equal("pages of a cache", None, cache.pages(), pages)?;
            let found = cache.audit(self, auditor)?;
            all = core::array::from_fn(|i| all[i] + found[i]);
        }
        for (what, counter, found) in [
            ("cached pages", PageStat::File, all[0]),
            ("dirty pages", PageStat::Dirty, all[1]),
            ("pages that are written", PageStat::Writeback, all[2]),
        ] {
            auditor.equal(what, None, self.pages_of(counter), found)?;
        }
        Ok(())
    }
}
