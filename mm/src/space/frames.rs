//! Frames for page tables. Tables are made with a spin lock held, where nobody
//! may wait for memory: so frames are got before, and kept here until they are
//! used. May call: `alloc`.

use super::{FaultError, Space};
use crate::gfp::{Gfp, Page, Request};
use crate::mm::Mm;
use crate::platform::Platform;
use crate::types::{Order, Pfn};

/// Levels of tables below the root that one entry may need.
const LEVELS: usize = 3;

/// Frames that nobody uses yet. To be ended with [`Mm::drop_stash`].
#[derive(Default)]
pub(super) struct Stash {
    frames: [Pfn; LEVELS],
    len: usize,
    used: u64,
    /// Somebody asked for more than there was.
    dry: bool,
}

impl Stash {
    /// Takes a frame.
    pub(super) fn take(&mut self) -> Option<Pfn> {
        if self.len == 0 {
            self.dry = true;
            return None;
        }
        self.len -= 1;
        self.used += 1;
        Some(self.frames[self.len])
    }

    /// Whether [`take`](Self::take) has been in vain.
    pub(super) fn is_dry(&self) -> bool {
        self.dry
    }
}

impl<P: Platform> Mm<P> {
    /// Has enough frames there for one entry. May wait; no lock held.
    pub(super) fn fill_stash(&self, stash: &mut Stash) -> Result<(), FaultError> {
        stash.dry = false;
        while stash.len < LEVELS {
            let pfn = self.alloc_table().ok_or(FaultError::NoMemory)?;
            stash.frames[stash.len] = pfn;
            stash.len += 1;
        }
        Ok(())
    }

    /// A frame for a table, zeroed.
    pub(crate) fn alloc_table(&self) -> Option<Pfn> {
        let request = Request::new(Order(0), Gfp::KERNEL | Gfp::ZERO);
        Some(self.alloc_pages(request).ok()?.pfn)
    }

    /// Gives a frame back that is no table, or none any more.
    pub(crate) fn free_table(&self, pfn: Pfn) {
        let freed = self.free_pages(Page { pfn, order: Order(0) });
        debug_assert!(freed.is_ok(), "a table is an allocated page");
    }

    /// Counts what `space` used of it and gives the rest back. Any context.
    pub(super) fn drop_stash(&self, space: &Space, stash: &mut Stash) {
        if stash.used > 0 {
            self.count_tables(space, core::mem::take(&mut stash.used) as i64);
        }
        while stash.len > 0 {
            stash.len -= 1;
            self.free_table(stash.frames[stash.len]);
        }
    }
}
