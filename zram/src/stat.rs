//! The device's figures, as Linux's zram shows them in `/sys/block/zram0`
//! (Documentation/admin-guide/blockdev/zram.rst). Calls `device`.

use crate::device::Zram;
use core::fmt;
use mm::Mm;
use mm::platform::Platform;
use mm::sync::Ordering::Relaxed;
use mm::types::PAGE_SIZE;

/// `mm_stat`, in its order. Displays as the file's line.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MmStat {
    /// Bytes of the pages stored.
    pub orig_data_size: u64,
    /// Bytes that the coder made of them; nothing for pages of one word.
    pub compr_data_size: u64,
    /// Bytes of memory that hold them: whole pages, and those of the tables too,
    /// which Linux leaves out.
    pub mem_used_total: u64,
    /// The limit of that, 0 if there is none.
    pub mem_limit: u64,
    /// The most that it has been.
    pub mem_used_max: u64,
    /// Pages of one word.
    pub same_pages: u64,
    /// Pages that the store's compaction has freed.
    pub pages_compacted: u64,
    /// Pages stored whole: none ever is.
    pub huge_pages: u64,
    /// Pages that were refused because they do not shrink.
    pub huge_pages_since: u64,
}

impl fmt::Display for MmStat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { orig_data_size, compr_data_size, mem_used_total, mem_limit, .. } = *self;
        let Self {
            mem_used_max, same_pages, pages_compacted, huge_pages, huge_pages_since, ..
        } = *self;
        write!(f, "{orig_data_size:8} {compr_data_size:8} {mem_used_total:8} {mem_limit:8} ")?;
        write!(f, "{mem_used_max:8} {same_pages:8} {pages_compacted:8} ")?;
        write!(f, "{huge_pages:8} {huge_pages_since:8}")
    }
}

/// `io_stat`, in its order. Displays as the file's line.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct IoStat {
    /// Reads that failed.
    pub failed_reads: u64,
    /// Writes that failed for want of memory; not those that were refused.
    pub failed_writes: u64,
    /// Reads and writes of slots that do not exist.
    pub invalid_io: u64,
    /// Slots that held something and were discarded.
    pub notify_free: u64,
}

impl fmt::Display for IoStat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { failed_reads, failed_writes, invalid_io, notify_free } = self;
        write!(f, "{failed_reads:8} {failed_writes:8} {invalid_io:8} {notify_free:8}")
    }
}

impl<P: Platform> Zram<P> {
    /// What is stored, and in how much memory. Any context in which a lock of
    /// rank Driver may be taken.
    pub fn mm_stat(&self, mm: &Mm<P>) -> MmStat {
        let page = PAGE_SIZE as u64;
        let figures = self.lock(mm).figures;
        MmStat {
            orig_data_size: figures.stored * page,
            compr_data_size: figures.compressed,
            mem_used_total: (figures.pages + figures.tables) * page,
            mem_limit: self.limit() * page,
            mem_used_max: figures.most * page,
            same_pages: figures.same,
            pages_compacted: figures.compacted,
            huge_pages: 0,
            huge_pages_since: self.refused.load(Relaxed),
        }
    }

    /// What has gone wrong, and what was discarded. Any context.
    pub fn io_stat(&self) -> IoStat {
        IoStat {
            failed_reads: self.failed_reads.load(Relaxed),
            failed_writes: self.failed_writes.load(Relaxed),
            invalid_io: self.invalid.load(Relaxed),
            notify_free: self.discards.load(Relaxed),
        }
    }

    /// Pages read and written so far, whether that went well or not. Any context.
    pub fn io(&self) -> (u64, u64) {
        (self.reads.load(Relaxed), self.writes.load(Relaxed))
    }

    /// Pages that the device has besides: one to work in, and what it compresses
    /// with. They do not grow with what is stored. Any context.
    pub fn working_pages(&self) -> u64 {
        match self.benches.pages() {
            0 => 0,
            benches => benches + 1,
        }
    }
}
