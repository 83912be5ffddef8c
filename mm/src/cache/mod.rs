//! The page cache of a block device: what was read stays in memory for as long as
//! nobody needs that for anything else, and what is written goes to the device
//! some time later (Linux mm/filemap.c, mm/page-writeback.c). May call: `alloc`,
//! `lru`, `reclaim`'s hooks, `block`.
//!
//! ```text
//!   read, write (file) -- readahead --+
//!      |                              v
//!      +--> find, add (pages) --> tree: block -> page, its tags, or its memory
//!      |                              ^
//!      +--> dirty: counts, limits     +-- ops: reclaim, migration
//!               |                     |
//!   flusher, sync, throttled writers -+--> writeback --> io --> device
//! ```
//!
//! A page of it is of type Lru without ANON; `owner` is the cache, `index` the
//! block. The cache has one reference, and whoever else uses the page one more:
//! as long as he has it the page stays in the cache, and neither moves nor goes.
//!
//! Who may do what with the content:
//! - reading it from the device, writing to it and writing it to the device is
//!   for who has the page lock; so what is on its way to the device holds still;
//! - a page's content may be looked at once UPTODATE is set;
//! - who copies from or to it has one of `PageCache::copying` besides, shared
//!   or alone, in which UPTODATE is set too: so readers need not wait for a
//!   device that is being written to.
//!
//! A page that could not be read is in the cache, but not UPTODATE: whoever wants
//! it tries again, and is told that it failed. A page that could not be written
//! stays dirty and FAILED: neither reclaim nor a throttled writer asks the device
//! again, the flusher does after `dirty_expire_centisecs` and
//! [`PageCache::sync`] at once, and the first `sync` after a failure says so
//! (Linux AS_EIO, but that Linux takes such a page for clean). So nothing that
//! was written is ever dropped. If too much of it comes together, writers are
//! told that the device fails before they write.
//!
//! Locks: page lock > one of `copying` > the tree's spin lock (rank PageCache).

mod audit;
mod dirty;
mod entry;
mod evict;
mod file;
mod flusher;
mod io;
mod ops;
mod pages;
pub mod policy;
mod readahead;
mod tree;
mod workingset;
mod writeback;

pub(crate) use dirty::DirtyKnobs;
pub use file::CacheFile;
pub use readahead::Readahead;
pub(crate) use workingset::ShadowNodes;

use crate::block::BlockDevice;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::reclaim::{CacheOwner, TooManyCaches};
use crate::sync::{
    AtomicBool, AtomicU32, AtomicU64, Lock, LockRank, Once, Ordering::Relaxed, SleepLock,
};
use core::fmt;
use tree::Tree;

/// Locks that those who copy share, by block.
const COPYING: usize = 32;

/// What is cached of a block device. It is for one manager, which it has to be
/// known to ([`register`](Self::register)) before anything is read or written.
pub struct PageCache {
    device: &'static dyn BlockDevice,
    owner: Once<CacheOwner>,
    tree: Lock<Tree>,
    /// Had while a page's content is copied.
    copying: [SleepLock<()>; COPYING],
    /// Pages cached; written under the tree's lock.
    pages: AtomicU64,
    /// Of these, dirty ones; as `pages`.
    dirty: AtomicU64,
    /// Of `pages`, those on their way to the device; as `pages`.
    writing: AtomicU64,
    /// Of the dirty ones, those that the device has failed to write; as `pages`.
    failing: AtomicU64,
    /// When the oldest dirty page became so, at the latest, in ms.
    dirty_since: AtomicU64,
    /// A write has failed since somebody was told.
    failed: AtomicBool,
    /// Pages that were written to, to look at the limits now and then.
    dirtied: AtomicU64,
    /// Where who writes back only some goes on.
    cursor: AtomicU32,
    /// Failures of the device that the log may have been told of.
    failures: AtomicU64,
}

impl fmt::Debug for PageCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageCache")
            .field("device", &self.device.name())
            .field("pages", &self.pages())
            .field("dirty", &self.dirty_pages())
            .finish_non_exhaustive()
    }
}

/// Why something was not read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CacheError {
    /// The device has failed, now or when it was to write what was written
    /// before.
    Io,
    /// There is no memory for a page.
    NoMemory,
    /// That goes beyond the end of the device.
    OutOfRange,
    /// The device cannot be written.
    ReadOnly,
    /// No manager knows the cache.
    NotRegistered,
}

impl fmt::Display for CacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Io => "the device has failed",
            Self::NoMemory => "out of memory",
            Self::OutOfRange => "beyond the end of the device",
            Self::ReadOnly => "the device cannot be written",
            Self::NotRegistered => "the cache is not registered",
        })
    }
}

impl core::error::Error for CacheError {}

impl PageCache {
    /// An empty cache of `device`. Of what is written past it the cache knows
    /// nothing.
    pub const fn new(device: &'static dyn BlockDevice) -> Self {
        Self {
            device,
            owner: Once::new(),
            tree: Lock::new(LockRank::PageCache, Tree::new()),
            copying: [const { SleepLock::new(()) }; COPYING],
            pages: AtomicU64::new(0),
            dirty: AtomicU64::new(0),
            writing: AtomicU64::new(0),
            failing: AtomicU64::new(0),
            dirty_since: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            dirtied: AtomicU64::new(0),
            cursor: AtomicU32::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// Has `mm` know the cache, for as long as it lives. Any context; a second
    /// time changes nothing.
    ///
    /// # Errors
    /// When it knows as many as it can.
    pub fn register<P: Platform>(&'static self, mm: &Mm<P>) -> Result<(), TooManyCaches> {
        if self.owner.get().is_none() {
            let owner = mm.register_cache(self)?;
            self.owner.call_once(|| owner);
        }
        Ok(())
    }

    /// The device.
    pub fn device(&self) -> &'static dyn BlockDevice {
        self.device
    }

    /// Pages cached. Any context.
    pub fn pages(&self) -> u64 {
        self.pages.load(Relaxed)
    }

    /// Pages that are newer than what the device has, those on their way to it
    /// aside. Any context.
    pub fn dirty_pages(&self) -> u64 {
        self.dirty.load(Relaxed)
    }

    /// Pages on their way to the device. Any context.
    pub fn writeback_pages(&self) -> u64 {
        self.writing.load(Relaxed)
    }

    /// Dirty pages that the device has failed to write. Any context.
    pub fn failing_pages(&self) -> u64 {
        self.failing.load(Relaxed)
    }

    /// What those who copy a block's content share.
    fn copying(&self, index: u32) -> &SleepLock<()> {
        &self.copying[index as usize % COPYING]
    }
}
