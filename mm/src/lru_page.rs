//! The life of a page that programs or files have: made of an allocated block,
//! counted, freed with its last reference. The lists it is on are `lru`'s. May
//! call: `alloc`, `free`, `page`.
//!
//! Its count is one for each page-table entry that maps it, one for a cache that
//! has it (the swap cache: SWAPCACHE; the page cache: not ANON), and one for
//! each short look at it. Its lists have none: whoever drops the last reference
//! takes it off its list and frees it.

use crate::gfp::Page;
use crate::migrate::NotAllocated;
use crate::mm::Mm;
use crate::page::{HeadWord, LruFlags, PageDesc, PageFlags, PageType};
use crate::page_stats::PageStat;
use crate::platform::Platform;
use crate::sync::Ordering::Release;
use crate::types::{Order, Pfn};

/// What a page of type Lru is besides that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LruPage {
    /// What is known of it.
    pub flags: LruFlags,
    /// Its anonymous group, or the mapping of its file.
    pub owner: u32,
    /// Its number in there.
    pub index: u32,
}

impl<P: Platform> Mm<P> {
    /// Makes an allocated block one that is mapped, aged and reclaimed; the
    /// caller has the only reference. It should have been allocated as movable.
    /// It is on no list yet. Any context.
    ///
    /// # Errors
    /// A block that is not the caller's to give. Nothing has changed then.
    pub fn make_lru(&self, page: Page, as_page: LruPage) -> Result<(), NotAllocated> {
        let desc = self.map.try_page(page.pfn).ok_or(NotAllocated)?;
        if !desc.head().is(PageType::Kernel, page.order) {
            return Err(NotAllocated);
        }
        self.count_locked(page, as_page.flags);
        // Whoever marks it bad waits for this CPU, and looks again.
        let _cpu = self.enter();
        dress(desc, page.order, as_page, 1, 0);
        Ok(())
    }

    /// Makes a block that the caller has just allocated a page that one entry
    /// maps, which the caller is about to write, and lists it. Any context.
    #[inline]
    pub(crate) fn make_mapped(&self, page: Page, as_page: LruPage) {
        self.count_locked(page, as_page.flags);
        dress(self.map.page(page.pfn), page.order, as_page, 1, 1);
        self.lru_add(page.pfn);
    }

    #[inline]
    fn count_locked(&self, page: Page, flags: LruFlags) {
        if flags.contains(LruFlags::MLOCKED) {
            self.count_pages(page.pfn, PageStat::Mlocked, page.order.pages());
        }
    }

    /// Counts a page that is about to be freed out of those that are kept in
    /// memory: nobody has to end that before.
    #[inline]
    pub(crate) fn end_locked(&self, pfn: Pfn, word: HeadWord) {
        if word.lru().contains(LruFlags::MLOCKED) {
            self.uncount_pages(pfn, PageStat::Mlocked, word.order().pages());
        }
    }

    /// Drops a reference to a page of type Lru; frees it if that was the last.
    /// Any context.
    pub fn put_lru(&self, pfn: Pfn) {
        let desc = self.map.page(pfn);
        if desc.put() {
            self.free_lru(pfn, desc);
        }
    }

    /// Frees a page to which nobody has a reference any more.
    pub(crate) fn free_lru(&self, pfn: Pfn, desc: &PageDesc) {
        let word = desc.head();
        debug_assert!(word.ty() == PageType::Lru && desc.mapcount() == 0, "{pfn:?}: {word:?}");
        debug_assert!(!word.flags().contains(PageFlags::ISOLATED), "isolated without a reference");
        if word.lru().contains(LruFlags::LISTED) {
            self.lru_unlist(pfn);
        }
        self.end_locked(pfn, word);
        self.free_owned(pfn, word.order(), desc);
    }

    /// Drops a reference to whatever a page is that is counted.
    #[cold]
    pub(crate) fn put_counted(&self, pfn: Pfn, desc: &PageDesc) {
        match desc.head().ty() {
            PageType::Lru => self.put_lru(pfn),
            _ => self.put_movable(pfn, desc),
        }
    }
}

/// Writes the descriptor of a page that nobody can reach yet, but to mark it bad: the
/// caller has it locked, or holds the CPU.
#[inline]
pub(crate) fn dress(desc: &PageDesc, order: Order, page: LruPage, count: u32, mapped: u32) {
    desc.set_owner(page.owner);
    desc.set_index_and_private(page.index, 0);
    desc.set_inuse(mapped);
    let kept = desc.head().flags() & (PageFlags::KEPT | PageFlags::LOCKED);
    desc.set_head(HeadWord::new(PageType::Lru, order).with(kept).with_lru(page.flags));
    // Until this store nobody can get a reference.
    desc.count_word().store(count, Release);
}
