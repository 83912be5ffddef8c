//! Pages of a cache: found, or made and entered. May call: `tree`, `alloc`,
//! `workingset`.

use super::entry::Entry;
use super::tree::Refused;
use super::{CacheError, PageCache, workingset};
use crate::gfp::{Gfp, Page, Request};
use crate::list::PageList;
use crate::lru_page::LruPage;
use crate::mm::Mm;
use crate::page::LruFlags;
use crate::page_stats::PageStat;
use crate::platform::Platform;
use crate::sync::Ordering::Relaxed;
use crate::types::{Order, Pfn};

impl PageCache {
    /// The page of a block, with a reference, if it is cached. Waits for a moment
    /// for one that just moves or leaves: no lock held.
    pub(super) fn find<P: Platform>(&self, mm: &Mm<P>, index: u32) -> Option<Pfn> {
        loop {
            {
                let cpu = mm.enter();
                let tree = self.tree.lock(&cpu);
                let pfn = tree.get(mm, index).pfn()?;
                if mm.map.page(pfn).get_unless_zero() {
                    return Some(pfn);
                }
            }
            mm.platform.stall();
        }
    }

    /// The frame of a cached block: a hint, without a reference.
    pub fn frame_of<P: Platform>(&self, mm: &Mm<P>, block: u64) -> Option<Pfn> {
        let cpu = mm.enter();
        self.tree.lock(&cpu).get(mm, u32::try_from(block).ok()?).pfn()
    }

    /// Enters a new page for a block: locked, without content, on no list yet,
    /// with a reference for the caller. None if there is one meanwhile. May wait
    /// if `gfp` allows; no spin lock held.
    ///
    /// # Errors
    /// NoMemory, for the page or for nodes of the tree.
    pub(super) fn add<P: Platform>(
        &self,
        mm: &Mm<P>,
        index: u32,
        gfp: Gfp,
    ) -> Result<Option<Pfn>, CacheError> {
        let owner = self.owner.get().ok_or(CacheError::NotRegistered)?.word();
        let page = mm.alloc_pages(Request::new(Order(0), gfp)).map_err(|_| CacheError::NoMemory)?;
        let new = LruPage { flags: LruFlags::empty(), owner, index };
        if mm.make_lru(page, new).is_err() {
            debug_assert!(false, "a page that was just allocated");
            return Err(CacheError::NoMemory);
        }
        let desc = mm.map.page(page.pfn);
        // The cache's and the caller's. Nobody knows it who would lock it.
        desc.get();
        mm.lock_page(desc);
        let entered = self.enter(mm, index, page.pfn, gfp);
        if entered != Ok(true) {
            desc.unlock();
            mm.put_lru(page.pfn);
            mm.put_lru(page.pfn);
        }
        entered.map(|entered| entered.then_some(page.pfn))
    }

    /// Enters a page; false if there is one for that block.
    fn enter<P: Platform>(
        &self,
        mm: &Mm<P>,
        index: u32,
        pfn: Pfn,
        gfp: Gfp,
    ) -> Result<bool, CacheError> {
        let mut spare = PageList::new();
        let entered = loop {
            let inserted = {
                let cpu = mm.enter();
                let mut tree = self.tree.lock(&cpu);
                let inserted = tree.insert(mm, index, pfn, &mut spare);
                if inserted.is_ok() {
                    self.pages.fetch_add(1, Relaxed);
                }
                inserted
            };
            match inserted {
                Ok(before) => {
                    mm.count_pages(pfn, PageStat::File, 1);
                    if let Some(memory) = before.memory() {
                        workingset::refault(mm, pfn, memory);
                    }
                    break Ok(true);
                }
                Err(Refused::Present) => break Ok(false),
                Err(Refused::Nodes(needed)) => {
                    if !add_nodes(mm, &mut spare, needed, gfp) {
                        break Err(CacheError::NoMemory);
                    }
                }
            }
        };
        free_nodes(mm, &mut spare);
        entered
    }

    /// Takes a frozen page out of the tree; what is remembered of it is left
    /// there if so asked. The page is nobody's then.
    pub(super) fn leave<P: Platform>(&self, mm: &Mm<P>, pfn: Pfn, instead: Entry) {
        let index = mm.map.page(pfn).index();
        let mut freed = PageList::new();
        {
            let cpu = mm.enter();
            let mut tree = self.tree.lock(&cpu);
            let was_there = tree.remove(mm, index, instead, &mut freed);
            debug_assert!(was_there, "a page leaves a cache that does not have it");
            self.pages.fetch_sub(1, Relaxed);
        }
        mm.uncount_pages(pfn, PageStat::File, 1);
        free_nodes(mm, &mut freed);
    }
}

/// Gets nodes until there are so many. False when there is no memory.
fn add_nodes<P: Platform>(mm: &Mm<P>, spare: &mut PageList, needed: u32, gfp: Gfp) -> bool {
    // They can be neither moved nor reclaimed.
    let gfp = (gfp - (Gfp::MOVABLE | Gfp::HIGHMEM)) | Gfp::ZERO;
    while spare.len() < needed {
        let Ok(page) = mm.alloc_pages(Request::new(Order(0), gfp)) else { return false };
        spare.push_back(&mm.map, page.pfn);
    }
    true
}

/// Frees nodes that no tree has. Any context with no lock held.
pub(super) fn free_nodes<P: Platform>(mm: &Mm<P>, nodes: &mut PageList) {
    while let Some(pfn) = nodes.pop_front(&mm.map) {
        let freed = mm.free_pages(Page { pfn, order: Order(0) });
        debug_assert!(freed.is_ok(), "a node is an allocated page");
    }
}
