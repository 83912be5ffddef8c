//! The flusher: writes in the background what has been dirty for long, or is too
//! much (Linux fs/fs-writeback.c, `wb_do_writeback`). May call: `writeback`,
//! `dirty`.

use super::CacheError;
use crate::mm::Mm;
use crate::page_stats::PageStat;
use crate::platform::Platform;
use crate::reclaim::WriteBack;
use crate::stats::Event;
use crate::sync::Ordering::Relaxed;

/// Pages of one cache that are written before it is the next one's turn.
const TURN: u64 = 1024;
/// Milliseconds in a hundredth of a second.
const CENTISEC_MS: u64 = 10;

impl<P: Platform> Mm<P> {
    /// One round of the flusher: writes until no more is dirty than what
    /// `dirty_background_ratio` allows, and whatever has been dirty for longer
    /// than `dirty_expire_centisecs`. Returns in how many milliseconds it is to be
    /// called again, though nobody wakes it: none if nothing is dirty or on its way, or
    /// `dirty_writeback_centisecs` is 0. Interrupts on, no lock held; may wait.
    pub(crate) fn flusher_work(&self) -> Option<u64> {
        self.stats.count(Event::FlusherRun);
        while self.pages_of(PageStat::Dirty) > self.dirty_limits().background {
            let some = |cache: &dyn crate::reclaim::CacheOps<P>| {
                cache.write_back(self, WriteBack::Some(TURN))
            };
            if self.cache_owners().map(some).sum::<u64>() == 0 {
                break;
            }
        }
        let knobs = &self.dirty_knobs;
        let expire = u64::from(knobs.dirty_expire_centisecs.load(Relaxed)) * CENTISEC_MS;
        for cache in self.cache_owners() {
            let now = self.platform.now_ms();
            if cache.dirty_since().is_some_and(|since| now.saturating_sub(since) >= expire) {
                cache.write_back(self, WriteBack::All);
            }
        }
        let interval = u64::from(knobs.dirty_writeback_centisecs.load(Relaxed)) * CENTISEC_MS;
        let any = || self.cache_owners().any(|cache| !cache.is_clean(self));
        (interval > 0 && any()).then_some(interval)
    }

    /// Writes what is dirty in all caches, as
    /// [`PageCache::sync`](super::PageCache::sync) does for one. Interrupts on,
    /// no lock held; may wait.
    ///
    /// # Errors
    /// If that fails for one of them; the others are written all the same.
    pub fn sync_all(&self) -> Result<(), CacheError> {
        let results = self.cache_owners().map(|cache| cache.sync(self));
        results.fold(Ok(()), Result::and)
    }
}
