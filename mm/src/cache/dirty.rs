//! What is newer in memory than on its device: counted by cache and by node, and
//! kept within limits by having those write it back who make it so (Linux
//! mm/page-writeback.c, `balance_dirty_pages`). May call: `policy`, `writeback`.

use super::entry::Tags;
use super::policy::{self, Limits};
use super::{CacheError, PageCache};
use crate::lru::LruList;
use crate::mm::Mm;
use crate::page::{LruFlags, PageFlags};
use crate::page_stats::PageStat;
use crate::platform::{Platform, Worker};
use crate::stats::Event;
use crate::sync::{AtomicU32, AtomicU64, Ordering::Relaxed};
use crate::types::Pfn;
use crate::zone::Zone;

/// Pages that are written to between two looks at the limits.
const RATELIMIT: u64 = 8;
/// Pages that a writer has written back at a time who is over the limit.
const SHARE: u64 = 64;
/// The longest that such a writer waits for others to do so, in ms.
const MAX_PAUSE_MS: u64 = 200;
/// And how often at most, for a clock that stands still.
const MAX_STALLS: u32 = 1000;

/// The knobs in `/proc/sys/vm`, under Linux's names.
#[derive(Debug)]
pub(crate) struct DirtyKnobs {
    pub(crate) dirty_background_ratio: AtomicU32,
    pub(crate) dirty_ratio: AtomicU32,
    /// Instead of the ratio, if it is not 0.
    pub(crate) dirty_background_bytes: AtomicU64,
    /// Instead of the ratio, if it is not 0.
    pub(crate) dirty_bytes: AtomicU64,
    pub(crate) dirty_expire_centisecs: AtomicU32,
    pub(crate) dirty_writeback_centisecs: AtomicU32,
}

impl DirtyKnobs {
    pub(crate) const fn new() -> Self {
        Self {
            dirty_background_ratio: AtomicU32::new(policy::BACKGROUND_RATIO),
            dirty_ratio: AtomicU32::new(policy::RATIO),
            dirty_background_bytes: AtomicU64::new(0),
            dirty_bytes: AtomicU64::new(0),
            dirty_expire_centisecs: AtomicU32::new(policy::EXPIRE_CENTISECS),
            dirty_writeback_centisecs: AtomicU32::new(policy::WRITEBACK_CENTISECS),
        }
    }
}

impl<P: Platform> Mm<P> {
    /// How many pages may be dirty: of the memory that is free or holds cached
    /// pages, without what nobody may count on.
    pub(crate) fn dirty_limits(&self) -> Limits {
        let cached = self.zones().iter().map(|zone| {
            self.lru_pages(zone, LruList::ActiveFile) + self.lru_pages(zone, LruList::InactiveFile)
        });
        let kept: u64 = self.zones().iter().map(Zone::kept).sum();
        let dirtyable = self.free_pages_total().saturating_sub(kept) + cached.sum::<u64>();
        let knobs = &self.dirty_knobs;
        Limits::of(
            dirtyable,
            (
                knobs.dirty_background_ratio.load(Relaxed),
                knobs.dirty_background_bytes.load(Relaxed),
            ),
            (knobs.dirty_ratio.load(Relaxed), knobs.dirty_bytes.load(Relaxed)),
        )
    }
}

impl PageCache {
    /// Notes that a page, which the caller has locked and a reference to, is newer
    /// than what the device has.
    pub(super) fn mark_dirty<P: Platform>(&self, mm: &Mm<P>, pfn: Pfn) {
        let desc = mm.map.page(pfn);
        debug_assert!(desc.head().flags().contains(PageFlags::LOCKED));
        let first = {
            let cpu = mm.enter();
            let mut tree = self.tree.lock(&cpu);
            if desc.set_lru(LruFlags::DIRTY).contains(LruFlags::DIRTY) {
                return;
            }
            tree.retag(mm, desc.index(), Tags::DIRTY, Tags::empty());
            self.count_dirty(mm)
        };
        mm.count_pages(pfn, PageStat::Dirty, 1);
        mm.stats.count(Event::Dirtied);
        if first {
            mm.platform.wake(Worker::Flusher);
        }
    }

    /// Puts a page on its way to the device if it is dirty; whether it is. The
    /// caller has it locked, and a reference, until [`end_write`](Self::end_write).
    pub(super) fn begin_write<P: Platform>(&self, mm: &Mm<P>, pfn: Pfn) -> bool {
        let desc = mm.map.page(pfn);
        debug_assert!(desc.head().flags().contains(PageFlags::LOCKED));
        {
            let cpu = mm.enter();
            let mut tree = self.tree.lock(&cpu);
            if !desc.clear_lru(LruFlags::DIRTY).contains(LruFlags::DIRTY) {
                return false;
            }
            desc.set_lru(LruFlags::WRITEBACK);
            tree.retag(mm, desc.index(), Tags::WRITEBACK, Tags::DIRTY);
            self.dirty.fetch_sub(1, Relaxed);
            self.writing.fetch_add(1, Relaxed);
            if desc.clear_lru(LruFlags::FAILED).contains(LruFlags::FAILED) {
                self.failing.fetch_sub(1, Relaxed);
            }
        }
        mm.uncount_pages(pfn, PageStat::Dirty, 1);
        mm.count_pages(pfn, PageStat::Writeback, 1);
        true
    }

    /// A page has arrived at the device, or has not: then it is dirty as before,
    /// and said to have failed. The flusher need not be told: it does not rest while
    /// something is on its way.
    pub(super) fn end_write<P: Platform>(&self, mm: &Mm<P>, pfn: Pfn, arrived: bool) {
        let desc = mm.map.page(pfn);
        {
            let cpu = mm.enter();
            let mut tree = self.tree.lock(&cpu);
            let tags = if arrived { Tags::empty() } else { Tags::DIRTY };
            if !arrived {
                desc.set_lru(LruFlags::DIRTY | LruFlags::FAILED);
                self.count_dirty(mm);
                self.failing.fetch_add(1, Relaxed);
            }
            desc.clear_lru(LruFlags::WRITEBACK);
            tree.retag(mm, desc.index(), tags, Tags::WRITEBACK);
            self.writing.fetch_sub(1, Relaxed);
        }
        mm.uncount_pages(pfn, PageStat::Writeback, 1);
        if !arrived {
            mm.count_pages(pfn, PageStat::Dirty, 1);
        }
    }

    /// Whether nothing is dirty, nor on its way to the device and so may be again.
    pub(super) fn is_clean<P: Platform>(&self, mm: &Mm<P>) -> bool {
        let cpu = mm.enter();
        let _tree = self.tree.lock(&cpu);
        self.dirty.load(Relaxed) + self.writing.load(Relaxed) == 0
    }

    /// Counts one more dirty page, under the tree's lock; whether it is the only one.
    fn count_dirty<P: Platform>(&self, mm: &Mm<P>) -> bool {
        let first = self.dirty.fetch_add(1, Relaxed) == 0;
        if first {
            self.dirty_since.store(mm.platform.now_ms(), Relaxed);
        }
        first
    }

    /// Called by who is about to make a page dirty, with nothing held: wakes the
    /// flusher when there is much to do, and beyond the limit has the caller do it
    /// himself, or wait.
    ///
    /// # Errors
    /// [`CacheError::Io`] beyond the limit while the device fails.
    pub(super) fn balance_dirty<P: Platform>(&self, mm: &Mm<P>) -> Result<(), CacheError> {
        if !self.dirtied.fetch_add(1, Relaxed).is_multiple_of(RATELIMIT) {
            return Ok(());
        }
        let (mut began, mut stalls) = (None, 0);
        loop {
            let limits = mm.dirty_limits();
            let dirty = mm.pages_of(PageStat::Dirty) + mm.pages_of(PageStat::Writeback);
            if dirty > limits.background {
                mm.platform.wake(Worker::Flusher);
            }
            if dirty <= limits.most {
                return Ok(());
            }
            if self.write_some(mm, SHARE) > 0 {
                continue;
            }
            // Its own device has nothing to do, or cannot.
            if self.failing_pages() > 0 {
                return Err(CacheError::Io);
            }
            let now = mm.platform.now_ms();
            let waited = now.saturating_sub(*began.get_or_insert(now));
            stalls += 1;
            if waited >= MAX_PAUSE_MS || stalls >= MAX_STALLS {
                return Ok(());
            }
            mm.platform.stall();
        }
    }
}
