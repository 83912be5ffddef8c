//! Page tables of address spaces, in the processor's format: what an entry says,
//! and walking and changing the four levels, whose frames somebody else reaches.
//! No hardware is touched and nothing is flushed. Calls `mm::mmu` for its types.

mod entry;
mod free;
mod walk;

#[cfg(test)]
mod tests;

pub use free::Freed;

use core::ops::Range;
use core::sync::atomic::AtomicU64;
use mm::mmu::{Root, VirtAddr};
use mm::types::Pfn;

/// Entries of a table.
pub const ENTRIES: usize = 512;

/// One table of any level. The processor reads it, and sets bits in it, at any
/// time.
pub type Table = [AtomicU64; ENTRIES];

/// The entry of the fourth level behind the last that address spaces use: it
/// says "nothing" to the processor, and in its address bits where a chain begins
/// of frames that were handed in and not needed.
const SPARES: usize = ENTRIES / 2 - 1;

/// The addresses that an address space has: not the first 64 KiB, so that a
/// pointer to nothing never works, and not the last 512 GiB of the lower half.
pub const SPAN: Range<VirtAddr> = VirtAddr(0x1_0000)..VirtAddr((SPARES as u64) << 39);

/// Where tables lie.
///
/// # Safety
///
/// [`table`](Self::table) of a frame that was given for a table is that frame's
/// 4 KiB, which live and are used by nobody for anything else until the frame
/// has been handed back.
pub unsafe trait TableFrames {
    /// The table in frame `pfn`.
    fn table(&self, pfn: Pfn) -> &Table;
}

/// The tables of one address space. Who changes entries keeps others from
/// changing the same ones; tables on the way there may be made by several at
/// once.
#[derive(Debug)]
pub struct Tables<'a, F> {
    frames: &'a F,
    root: Pfn,
}

impl<'a, F: TableFrames> Tables<'a, F> {
    /// Those that begin at `root`, which are there as long as this is used.
    pub fn new(frames: &'a F, root: Root) -> Self {
        Self { frames, root: Pfn::containing(root.0) }
    }

    /// What names these tables.
    pub fn root(&self) -> Root {
        Root(self.root.addr())
    }
}
