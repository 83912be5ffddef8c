//! Linux's report files, byte for byte as Linux 6.12 writes them (`slabinfo` as
//! 6.1 with SLAB), and its knobs, so that tools which know Linux read this
//! machine too. Each kind of file has a module of its own; here is which path is
//! which. May call: everything.
//!
//! A key stands in Linux's place in Linux's order where it says something that
//! is true of this manager: what is counted, and the zeros of what cannot have
//! happened yet (nothing reclaims, so nothing was stolen). Keys of subjects that
//! do not exist here at all (page cache, huge pages, NUMA hits) are left
//! out, as kernels built without them do, except where common tools want them;
//! `meminfo` says which those are.

mod buddyinfo;
mod huge_pages;
mod iomem;
mod kpage;
mod lines;
mod meminfo;
mod memory;
mod pageblocks;
mod reporting;
mod space;
mod sysctl;
mod vmstat;
mod zoneinfo;

pub use iomem::{IoRange, write_iomem};
pub use kpage::KPageFlags;
pub use memory::{BLOCK_FILES, MEMORY_BLOCKS};
pub use pageblocks::PAGEBLOCKS;
pub use reporting::{REPORT_ORDER, REPORTING};
pub use space::SPACE_FILES;

use crate::mm::Mm;
use crate::platform::Platform;
use core::fmt;
use lines::Lines;

/// Why a file could not be read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileError {
    /// There is no such file (`ENOENT`).
    NotFound,
    /// It is not to be read, or not to be written (`EPERM`).
    NotPermitted,
    /// What was written to it makes no sense; nothing has changed (`EINVAL`).
    Invalid,
    /// What is wanted cannot be done just now, for something is in use
    /// (`EBUSY`); nothing has changed.
    Busy,
    /// There is too little memory for it (`ENOMEM`); nothing has changed.
    NoMemory,
    /// Whoever took the text wanted no more of it.
    Stopped,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "no such file",
            Self::NotPermitted => "not permitted",
            Self::Invalid => "invalid value",
            Self::Busy => "busy",
            Self::NoMemory => "out of memory",
            Self::Stopped => "stopped",
        })
    }
}

impl core::error::Error for FileError {}

impl From<fmt::Error> for FileError {
    fn from(_: fmt::Error) -> Self {
        Self::Stopped
    }
}

/// The paths of all files that [`Mm::proc_read`] or [`Mm::proc_write`] knows.
pub const FILES: &[&str] = &[
    "/proc/buddyinfo",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/meminfo",
    "/proc/pagetypeinfo",
    "/proc/slabinfo",
    "/proc/swaps",
    "/proc/sys/vm/compact_memory",
    "/proc/sys/vm/compact_unevictable_allowed",
    "/proc/sys/vm/compaction_proactiveness",
    "/proc/sys/vm/dirty_background_bytes",
    "/proc/sys/vm/dirty_background_ratio",
    "/proc/sys/vm/dirty_bytes",
    "/proc/sys/vm/dirty_expire_centisecs",
    "/proc/sys/vm/dirty_ratio",
    "/proc/sys/vm/dirty_writeback_centisecs",
    "/proc/sys/vm/drop_caches",
    "/proc/sys/vm/extfrag_threshold",
    "/proc/sys/vm/lowmem_reserve_ratio",
    "/proc/sys/vm/min_free_kbytes",
    "/proc/sys/vm/oom_dump_tasks",
    "/proc/sys/vm/oom_kill_allocating_task",
    "/proc/sys/vm/page-cluster",
    "/proc/sys/vm/panic_on_oom",
    "/proc/sys/vm/percpu_pagelist_high_fraction",
    "/proc/sys/vm/swappiness",
    "/proc/sys/vm/watermark_boost_factor",
    "/proc/sys/vm/watermark_scale_factor",
    "/proc/vmstat",
    "/proc/zoneinfo",
    "/sys/devices/system/memory/auto_online_blocks",
    "/sys/devices/system/memory/block_size_bytes",
    "/sys/kernel/debug/extfrag/extfrag_index",
    "/sys/kernel/debug/extfrag/unusable_index",
    REPORTING,
    MEMORY_BLOCKS,
    LONGEST_WAIT,
    "/sys/kernel/debug/quarry/pageblocks",
    POISONED,
    HUGE_PAGES,
    REPORT_ORDER,
];

/// The longest that a request has waited (ms); 0 is written there to begin anew.
const LONGEST_WAIT: &str = "/sys/kernel/debug/quarry/longest_wait_ms";

/// The frames that are known to be bad.
const POISONED: &str = "/sys/kernel/debug/quarry/poisoned";

/// Where memory comes in large pages.
const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// Where the knobs are.
const SYSCTL: &str = "/proc/sys/vm/";

impl<P: Platform> Mm<P> {
    /// Writes the content of the file at `path` to `out`; what is binary, as the
    /// block of base64 that `uuencode -m` makes of it. Each line goes out as a
    /// whole. Interrupts on, no lock
    /// held: it may wait for other CPUs. On a machine at rest the numbers of all
    /// files agree with each other.
    ///
    /// # Errors
    /// [`FileError::NotFound`]; [`FileError::NotPermitted`] for a file that can
    /// only be written; [`FileError::Stopped`] when `out` fails.
    pub fn proc_read(&self, path: &str, out: &mut dyn fmt::Write) -> Result<(), FileError> {
        let mut lines = Lines::new(out);
        self.write_file(path, &mut lines)?;
        Ok(lines.flush()?)
    }

    fn write_file(&self, path: &str, out: &mut dyn fmt::Write) -> Result<(), FileError> {
        match path {
            "/proc/buddyinfo" => self.buddyinfo(out)?,
            "/proc/kpagecount" => {
                self.write_words("kpagecount", |pfn| self.kpagecount(pfn), out)?;
            }
            "/proc/kpageflags" => {
                self.write_words("kpageflags", |pfn| self.kpageflags(pfn).bits(), out)?;
            }
            "/proc/meminfo" => self.meminfo(out)?,
            "/proc/pagetypeinfo" => self.pagetypeinfo(out)?,
            "/proc/slabinfo" => self.slabinfo(out)?,
            "/proc/swaps" => self.write_swaps(out)?,
            "/proc/vmstat" => self.vmstat(out)?,
            "/proc/zoneinfo" => self.zoneinfo(out)?,
            "/sys/kernel/debug/extfrag/extfrag_index" => self.extfrag_index(out)?,
            "/sys/kernel/debug/extfrag/unusable_index" => self.unusable_index(out)?,
            MEMORY_BLOCKS => self.write_memory_blocks(out)?,
            "/sys/kernel/debug/quarry/pageblocks" => self.write_pageblocks(out)?,
            REPORTING => self.write_reporting(out)?,
            LONGEST_WAIT => writeln!(out, "{}", self.longest_wait_ms())?,
            POISONED => self.write_poisoned(out)?,
            HUGE_PAGES => self.write_huge_pages(out)?,
            REPORT_ORDER => writeln!(out, "{}", self.report_order_knob())?,
            _ => {
                if let Some(path) = path.strip_prefix(memory::DIRECTORY) {
                    return self.memory_read(path, out);
                }
                return match path.strip_prefix(SYSCTL) {
                    Some(name) => self.sysctl_read(name, out),
                    None => self.space_read(path, out),
                };
            }
        }
        Ok(())
    }

    /// Writes `text` to the file at `path`, as `echo text > path` does. Context
    /// as [`proc_read`](Self::proc_read).
    ///
    /// # Errors
    /// [`FileError::NotFound`]; [`FileError::NotPermitted`] for a file that is
    /// only to be read; [`FileError::Invalid`] for what Linux answers with
    /// `EINVAL`; [`FileError::Busy`] and [`FileError::NoMemory`] where memory is
    /// to go.
    pub fn proc_write(&self, path: &str, text: &str) -> Result<(), FileError> {
        if let Some(name) = path.strip_prefix(SYSCTL) {
            return self.sysctl_write(name, text);
        }
        if let Some(path) = path.strip_prefix(memory::DIRECTORY) {
            return self.memory_write(path, text);
        }
        match path {
            "/proc/slabinfo" => self.slabinfo_write(text).map_err(|_| FileError::Invalid),
            REPORT_ORDER => self.report_order_write(text),
            HUGE_PAGES => self.huge_pages_write(text),
            LONGEST_WAIT => match text.trim() {
                "0" => {
                    self.reset_longest_wait();
                    Ok(())
                }
                _ => Err(FileError::Invalid),
            },
            _ if FILES.contains(&path) => Err(FileError::NotPermitted),
            _ => self.space_write(path, text),
        }
    }
}
