//! Pages to the device and from it, several at a time. May call: `block`, `dirty`.

use super::PageCache;
use crate::block::{BlockRead, BlockWrite, PageBytes};
use crate::mm::Mm;
use crate::page::{LruFlags, PageFlags};
use crate::platform::{LogLevel, Platform};
use crate::stats::Event;
use crate::sync::Ordering::Relaxed;
use crate::types::{KIB_PER_PAGE, Pfn};
use arrayvec::ArrayVec;

/// Pages that a device is handed at a time.
pub(super) const BATCH: usize = 32;

/// Pages of a cache, each with a reference and locked by who has the list.
pub(super) type Locked = ArrayVec<Pfn, BATCH>;

impl PageCache {
    /// Reads pages that the caller has locked and that have no content yet. Those
    /// that could be read are UPTODATE after that. They stay locked.
    pub(super) fn fill<P: Platform>(&self, mm: &Mm<P>, pages: &[Pfn]) {
        let mut reads: ArrayVec<BlockRead<'_>, BATCH> = ArrayVec::new();
        for &pfn in pages {
            let desc = mm.map.page(pfn);
            let word = desc.head();
            debug_assert!(word.flags().contains(PageFlags::LOCKED));
            debug_assert!(!word.lru().contains(LruFlags::UPTODATE));
            // SAFETY: a frame is as large as that. The page is locked by the
            // caller, and nobody looks at it as long as it is not UPTODATE.
            let content = unsafe { &mut *mm.platform.frame(pfn).cast::<PageBytes>() };
            reads.push(BlockRead::new(u64::from(desc.index()), content));
        }
        {
            let _freeing = mm.freeing();
            self.device.read_batch(&mut reads);
        }
        let results: ArrayVec<_, BATCH> = reads.iter().map(|read| read.result).collect();
        drop(reads);
        for (&pfn, result) in pages.iter().zip(results) {
            let desc = mm.map.page(pfn);
            if result.is_ok() {
                let _alone = self.copying(desc.index()).write(&mm.platform);
                desc.set_lru(LruFlags::UPTODATE);
                mm.stats.add(Event::PgPgIn, KIB_PER_PAGE);
            } else {
                self.note_failure(mm, desc.index(), "read");
            }
        }
    }

    /// Writes pages that are on their way to the device by
    /// [`begin_write`](Self::begin_write); returns how many could be. They stay
    /// locked.
    pub(super) fn write_out<P: Platform>(&self, mm: &Mm<P>, pages: &[Pfn]) -> u64 {
        let mut writes: ArrayVec<BlockWrite<'_>, BATCH> = ArrayVec::new();
        for &pfn in pages {
            let desc = mm.map.page(pfn);
            debug_assert!(desc.head().flags().contains(PageFlags::LOCKED));
            // SAFETY: a frame is as large as that. The page is locked by the
            // caller, so nobody writes to it; others may read it.
            let content = unsafe { &*mm.platform.frame(pfn).cast::<PageBytes>() };
            writes.push(BlockWrite::new(u64::from(desc.index()), content));
        }
        {
            let _freeing = mm.freeing();
            self.device.write_batch(&mut writes);
        }
        let mut written = 0;
        for (&pfn, write) in pages.iter().zip(&writes) {
            self.end_write(mm, pfn, write.result.is_ok());
            if write.result.is_ok() {
                written += 1;
            } else {
                self.failed.store(true, Relaxed);
                self.note_failure(mm, mm.map.page(pfn).index(), "write");
            }
        }
        mm.stats.add(Event::PgPgOut, written * KIB_PER_PAGE);
        mm.stats.add(Event::Written, written);
        written
    }

    /// A broken device fails many times; the log is told of few.
    fn note_failure<P: Platform>(&self, mm: &Mm<P>, block: u32, what: &str) {
        let failures = self.failures.fetch_add(1, Relaxed) + 1;
        if failures.is_power_of_two() {
            let name = self.device.name();
            mm.platform.log(
                LogLevel::Warn,
                format_args!("{name}: cannot {what} block {block} (failure {failures})"),
            );
        }
    }
}
