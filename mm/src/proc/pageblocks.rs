//! The census of all pageblocks, a line for each run of equal ones, between a
//! first and a last line of its own: it is found again in any log that it was
//! printed to. No file of Linux's. May call: `census`.

use crate::mm::Mm;
use crate::platform::Platform;
use crate::types::PAGEBLOCK_PAGES;
use core::fmt;

/// How the first and the last line begin.
pub const PAGEBLOCKS: &str = "pageblocks: ";

impl<P: Platform> Mm<P> {
    /// Writes `/sys/kernel/debug/quarry/pageblocks`: `pageblocks: N pages each`,
    /// the runs, and `pageblocks: end, N blocks`.
    pub(super) fn write_pageblocks(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(out, "{PAGEBLOCKS}{PAGEBLOCK_PAGES} pages each")?;
        let mut blocks = 0;
        for run in self.pageblock_runs() {
            blocks += run.blocks();
            writeln!(out, "{run}")?;
        }
        writeln!(out, "{PAGEBLOCKS}end, {blocks} blocks")
    }
}
