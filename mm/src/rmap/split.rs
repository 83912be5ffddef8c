//! A large page made small ones, wherever it is mapped (Linux mm/huge_memory.c,
//! `split_huge_page_to_list`). May call: `moving`, `alloc`, `lru_page`.
//!
//! While it is split the page is mapped nowhere and has no references but the
//! splitter's, so that nobody sees it half done; whoever touches it waits. The
//! frames for the tables that take its place are got before.

use super::walk::Key;
use crate::list::PageList;
use crate::lru::Turn;
use crate::lru_page::{LruPage, dress};
use crate::mm::Mm;
use crate::mmu::{Entry, MapSize, Mapping, Mmu, VirtAddr};
use crate::page::{HeadWord, LruFlags, PageFlags, PageType};
use crate::platform::Platform;
use crate::space::{MapError, Region};
use crate::stats::Event;
use crate::sync::Ordering::Release;
use crate::types::{Order, PAGE_SIZE, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, Pfn};

impl<P: Platform> Mm<P> {
    /// Makes 512 small pages of a large one, each mapped where it was mapped as
    /// a part. The caller has the page lock and a reference to `pfn`, which
    /// afterwards are to the first of the small ones, and has not isolated it.
    /// `turn`: when reclaim is to look at them. May wait; no other lock held.
    ///
    /// # Errors
    /// [`MapError::NoMemory`]: there is none for the tables.
    /// [`MapError::Busy`]: somebody else uses the page. It is as it was.
    pub(crate) fn split_page(&self, pfn: Pfn, turn: Turn) -> Result<(), MapError> {
        let desc = self.map.page(pfn);
        if !desc.head().is(PageType::Lru, PAGEBLOCK_ORDER) {
            return Ok(());
        }
        let key = self.rmap_key(desc).ok_or(MapError::Invalid)?;
        let mut tables = PageList::new();
        let result = self.split_with(pfn, key, turn, &mut tables);
        while let Some(table) = tables.pop_front(&self.map) {
            self.free_table(table);
        }
        let event = match result {
            Ok(()) => Event::ThpSplitPage,
            Err(_) => Event::ThpSplitPageFailed,
        };
        self.stats.count(event);
        result
    }

    fn split_with(
        &self,
        pfn: Pfn,
        key: Key,
        turn: Turn,
        tables: &mut PageList,
    ) -> Result<(), MapError> {
        let desc = self.map.page(pfn);
        while tables.len() < desc.mapcount() {
            let table = self.alloc_table().ok_or(MapError::NoMemory)?;
            tables.push_back(&self.map, table);
        }
        let isolated = self.lru_isolate(pfn);
        let references = 1 + u32::from(isolated);
        // Another space that has the page may have been copied meanwhile.
        let stopped = self.start_moving(pfn).filter(|&entries| entries <= tables.len());
        let frozen = stopped.is_some() && desc.freeze(references);
        if !frozen {
            self.end_moving(key, pfn, pfn);
            if isolated {
                self.lru_putback(pfn);
            }
            return Err(MapError::Busy);
        }
        if isolated {
            self.lru_end_isolation(pfn);
        }
        self.write_heads(pfn, key);
        let mmu = self.tables()?;
        self.walk_places(key, &mut |cpu, region, va| {
            let space = region.space();
            let _entries = space.entry_lock(va).lock(cpu);
            if let Entry::Moving(m) = mmu.get(space.root(), va)
                && m.pfn == pfn
                && m.size == MapSize::Large
            {
                self.enter_small(mmu, region, va, m, tables);
            }
            true
        });
        self.list_parts(pfn, turn);
        Ok(())
    }

    /// Lists the small pages so that reclaim comes to them in the order of their
    /// addresses. The first one keeps its lock and the caller's reference.
    fn list_parts(&self, pfn: Pfn, turn: Turn) {
        let mut parts = PageList::new();
        for i in 0..PAGEBLOCK_PAGES {
            let part = pfn.add(i);
            if i == 0 {
                self.map.page(part).get();
            } else {
                self.map.page(part).unlock();
            }
            match turn {
                Turn::Last => parts.push_back(&self.map, part),
                Turn::Next => parts.push_front(&self.map, part),
            }
        }
        self.lru_list_list(&mut parts, turn);
    }

    /// Writes the descriptors of the small pages, each with one reference, and
    /// locked: while not all entries are there nobody is to think that a page is
    /// his alone.
    fn write_heads(&self, pfn: Pfn, key: Key) {
        let desc = self.map.page(pfn);
        let word = desc.head();
        let flags = word.lru() - LruFlags::LISTED;
        let kept = word.flags() & (PageFlags::KEPT | PageFlags::LOCKED);
        // The first one last: until then it stands for all of them. Whoever walks
        // heads, under the zone lock or not, passes over the block or comes to each
        // of its parts, and ends where it ends either way.
        for i in 1..PAGEBLOCK_PAGES {
            let part = self.map.page(pfn.add(i));
            part.set_head(HeadWord::TAIL.with(kept & PageFlags::KEPT | PageFlags::LOCKED));
            let as_page = LruPage { flags, owner: key.group, index: key.index + i as u32 };
            dress(part, Order(0), as_page, 1, 0);
        }
        desc.set_head(HeadWord::new(PageType::Lru, Order(0)).with(kept).with_lru(flags));
        desc.count_word().store(1, Release);
    }

    /// Puts small entries in place of a large one that says Moving, whose lock
    /// the caller has.
    fn enter_small(
        &self,
        mmu: &dyn Mmu,
        region: &Region,
        va: VirtAddr,
        was: Mapping,
        tables: &mut PageList,
    ) {
        let space = region.space();
        // In one step: whoever looks without the lock is to find that something is
        // there, or a fork would leave it out and an unmapping leave it behind.
        let mut table = tables.pop_front(&self.map);
        let made = mmu.split(space.root(), va, &mut || table.take());
        debug_assert!(made, "a table for each entry");
        match table {
            Some(unused) => tables.push_back(&self.map, unused),
            None => self.count_tables(space, 1),
        }
        for i in 0..PAGEBLOCK_PAGES {
            let part = was.pfn.add(i);
            let entry = Mapping { pfn: part, size: MapSize::Small, ..was };
            self.map.page(part).get();
            self.add_mapping(part);
            let at = va.add(i * PAGE_SIZE as u64);
            mmu.replace(space.root(), at, MapSize::Small, Entry::Page(entry));
        }
        space.count_huge(-(PAGEBLOCK_PAGES as i64));
        self.stats.count(Event::ThpSplitPmd);
    }
}
