//! Forgetting pages that nobody uses, because somebody asks and not because
//! memory is short (Linux mm/truncate.c). May call: `pages`, `tree`.

use super::PageCache;
use super::entry::Entry;
use super::tree::Which;
use crate::mm::Mm;
use crate::page::{LruFlags, PageDesc};
use crate::platform::Platform;
use crate::types::Pfn;
use core::ops::Range;

impl PageCache {
    /// Forgets clean pages of `blocks` that nobody uses just now; returns how
    /// many. After a [`sync`](Self::sync) without anybody else about these are
    /// all. Interrupts on, no lock held.
    pub fn invalidate<P: Platform>(&self, mm: &Mm<P>, blocks: Range<u64>) -> u64 {
        // What CPUs have put by has references.
        mm.lru_drain_all();
        let (mut at, mut dropped) = (blocks.start, 0);
        while let Some((index, pfn)) = self.next_page(mm, at..blocks.end) {
            at = u64::from(index) + 1;
            if let Some(pfn) = pfn {
                dropped += u64::from(self.drop_page(mm, pfn));
            }
        }
        dropped
    }

    /// The first of some blocks that is cached, and its page with a reference,
    /// unless it just moves or leaves.
    fn next_page<P: Platform>(&self, mm: &Mm<P>, blocks: Range<u64>) -> Option<(u32, Option<Pfn>)> {
        let from = u32::try_from(blocks.start).ok()?;
        let cpu = mm.enter();
        let (index, entry) = self.tree.lock(&cpu).next(mm, from, Which::Page)?;
        if u64::from(index) >= blocks.end {
            return None;
        }
        let pfn = entry.pfn().filter(|&pfn| mm.map.page(pfn).get_unless_zero());
        Some((index, pfn))
    }

    /// Drops a page that the caller has a reference to, and the reference. Whether
    /// it could be.
    fn drop_page<P: Platform>(&self, mm: &Mm<P>, pfn: Pfn) -> bool {
        let desc = mm.map.page(pfn);
        if !desc.try_lock() {
            mm.put_lru(pfn);
            return false;
        }
        // The cache's and ours; whoever writes to it has another one.
        if is_idle(desc) && desc.freeze(2) {
            self.leave(mm, pfn, Entry::EMPTY);
            desc.unlock();
            mm.free_lru(pfn, desc);
            return true;
        }
        desc.unlock();
        mm.put_lru(pfn);
        false
    }
}

/// Whether a locked page is the same on the device, and mapped by nobody.
fn is_idle(desc: &PageDesc) -> bool {
    let busy = LruFlags::DIRTY | LruFlags::WRITEBACK;
    desc.mapcount() == 0 && !desc.head().lru().intersects(busy)
}
