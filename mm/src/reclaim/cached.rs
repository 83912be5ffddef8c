//! What a page cache does for its pages, so that reclaim and migration can have
//! them: write one, forget one, have another in its place. May call: whoever has
//! registered.

use crate::mm::Mm;
use crate::page::PageDesc;
use crate::platform::Platform;
use crate::swap::IoFailed;
use crate::sync::{Lock, LockRank, Once};
use crate::types::Pfn;

/// A cache whose pages are reclaimed: those of type Lru without ANON whose
/// `owner` is its id. It has a reference to each, and finds them by `index`.
///
/// All are called with the page locked, no other lock held, and may be called on
/// any CPU at the same time for different pages.
pub trait CacheOps<P: Platform>: Sync {
    /// Writes the page where it belongs. DIRTY was cleared and WRITEBACK set
    /// before; whoever writes to the page meanwhile sets DIRTY again. May wait;
    /// what memory it asks for is for freeing memory (`PF_MEMALLOC`).
    ///
    /// # Errors
    /// When it cannot: the page stays dirty.
    fn write_page(&self, mm: &Mm<P>, page: Pfn) -> Result<(), IoFailed>;

    /// Forgets the page, which is clean and frozen: whoever finds it in the cache
    /// before this returns can get no reference, and has to look again. The
    /// caller frees it.
    fn release(&self, mm: &Mm<P>, page: Pfn);

    /// Has `dst` in the place of `src`, which is frozen. `dst` is a copy of it in
    /// all that its descriptor says, and the reference of the cache is counted
    /// there already.
    fn replace(&self, mm: &Mm<P>, dst: Pfn, src: Pfn);

    /// Pages that the cache has, for the audit to compare.
    fn pages(&self) -> u64;
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
    pub fn register_cache(
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
}
