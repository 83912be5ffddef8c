//! What owners of pages, migration and reclaim ask of the lists. May call:
//! `batch`, `lru_page`.

use super::batch::Step;
use super::take::is_listed;
use super::{LruKind, NodeLru};
use crate::list::PageList;
use crate::mm::Mm;
use crate::page::{HeadWord, LruFlags, PageDesc, PageFlags, PageType};
use crate::page_stats::PageStat;
use crate::platform::Platform;
use crate::stats::Event;
use crate::sync::Ordering::Relaxed;
use crate::types::{NodeId, Order, Pfn};

/// When pages that are listed will be looked at by reclaim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    /// After all that are on their list.
    Last,
    /// Before these.
    Next,
}

/// Pages put back under one hold of the lock.
const PUT_BACK: usize = 32;

/// Which of a node's counts of isolated pages a page is in: what it is does not
/// change while it is isolated, where it is to be listed may.
const fn isolated_kind(flags: LruFlags) -> LruKind {
    if flags.contains(LruFlags::ANON) { LruKind::Anon } else { LruKind::File }
}

impl NodeLru {
    /// Counts a page that has been isolated, of which `word` tells.
    pub(super) fn count_isolated(&self, word: HeadWord) {
        let kind = isolated_kind(word.lru());
        self.isolated[kind as usize].fetch_add(word.order().pages(), Relaxed);
    }

    /// Ends that.
    pub(super) fn end_isolation(&self, page: &PageDesc) {
        let word = page.head();
        debug_assert!(word.flags().contains(PageFlags::ISOLATED), "{word:?}");
        let kind = isolated_kind(word.lru());
        self.isolated[kind as usize].fetch_sub(word.order().pages(), Relaxed);
        page.clear_flags(PageFlags::ISOLATED);
    }
}

impl<P: Platform> Mm<P> {
    /// Lists a new page of type Lru, soon. Its flags say where; the caller has a
    /// reference. Any context.
    pub fn lru_add(&self, pfn: Pfn) {
        self.lru_put_by(pfn, Step::Add);
    }

    /// Notes a use of a page other than through page tables, by somebody with a
    /// reference to it: the second makes it active (Linux `folio_mark_accessed`).
    /// Any context.
    pub fn lru_mark_accessed(&self, pfn: Pfn) {
        let page = self.map.page(pfn);
        let flags = page.head().lru();
        if !flags.contains(LruFlags::REFERENCED) {
            page.set_lru(LruFlags::REFERENCED);
        } else if !flags.intersects(LruFlags::ACTIVE | LruFlags::UNEVICTABLE) {
            self.lru_activate(pfn);
        }
    }

    /// Puts a page on the active list, soon; the caller has a reference. Any
    /// context.
    pub fn lru_activate(&self, pfn: Pfn) {
        self.lru_put_by(pfn, Step::Activate);
    }

    /// Puts a page on the inactive list, soon; the caller has a reference. Any
    /// context.
    pub fn lru_deactivate(&self, pfn: Pfn) {
        self.lru_put_by(pfn, Step::Deactivate);
    }

    /// Puts a page where it will be reclaimed next, soon; the caller has a
    /// reference. Any context.
    pub fn lru_rotate(&self, pfn: Pfn) {
        self.lru_put_by(pfn, Step::Rotate);
    }

    /// Changes flags that say where a page belongs, at once: `set` and `clear`
    /// of ACTIVE, LAZYFREE, MLOCKED, UNEVICTABLE and REFERENCED. The caller has
    /// a reference; any context.
    pub fn lru_change(&self, pfn: Pfn, set: LruFlags, clear: LruFlags) {
        debug_assert!(!(set | clear).intersects(LruFlags::LISTED | LruFlags::ANON));
        let cpu = self.enter();
        let mut lists = self.lru_of(pfn).lock(&self.map, &cpu);
        let before = lists.change(pfn, set, clear, true);
        // Under the lock: nobody counts it out before it is counted in.
        let pages = || self.map.page(pfn).head().order().pages();
        if (set - before).contains(LruFlags::MLOCKED) {
            self.count_pages(pfn, PageStat::Mlocked, pages());
        } else if (clear & before).contains(LruFlags::MLOCKED) {
            self.uncount_pages(pfn, PageStat::Mlocked, pages());
        }
    }

    /// Marks an anonymous page as one whose content nobody needs: it is dropped
    /// and not written to swap, unless it is written again (Linux
    /// `mark_page_lazyfree`). The caller has a reference; any context.
    pub fn lru_mark_lazyfree(&self, pfn: Pfn) {
        let word = self.map.page(pfn).head();
        let not = LruFlags::LAZYFREE | LruFlags::UNEVICTABLE | LruFlags::SWAPCACHE;
        if !word.lru().contains(LruFlags::ANON) || word.lru().intersects(not) {
            return;
        }
        self.lru_change(pfn, LruFlags::LAZYFREE, LruFlags::ACTIVE | LruFlags::REFERENCED);
        self.stats.add(Event::Lazyfree, word.order().pages());
    }

    /// Takes a listed page off its list, for migration or reclaim. Then the
    /// caller has a reference, and the links of its descriptor;
    /// [`lru_putback`](Self::lru_putback) or
    /// [`lru_end_isolation`](Self::lru_end_isolation) end that. The page may be
    /// looked at without owning anything. False if it is not on a list, or just
    /// being freed. Any context.
    pub fn lru_isolate(&self, pfn: Pfn) -> bool {
        let order = self.map.try_page(pfn).map(|page| page.head().order());
        order.is_some_and(|order| self.lru_isolate_as(pfn, order))
    }

    /// The same for a page that is to be one of `order`.
    pub(crate) fn lru_isolate_as(&self, pfn: Pfn, order: Order) -> bool {
        let Some(page) = self.map.try_page(pfn) else { return false };
        if !page.head().lru().contains(LruFlags::LISTED) || !page.get_unless_zero() {
            return false;
        }
        // Between the look and the reference it may have become something else
        // that is counted, be it only a page of another size.
        let isolated = page.head().ty() == PageType::Lru && {
            let cpu = self.enter();
            let mut lists = self.lru_of(pfn).lock(&self.map, &cpu);
            let listed = is_listed(page, order);
            if listed {
                lists.isolate(pfn);
            }
            listed
        };
        if !isolated {
            self.put_counted(pfn, page);
        }
        isolated
    }

    /// Ends an isolation without listing the page: the caller does with it, and
    /// with the reference, what it likes. Any context.
    pub fn lru_end_isolation(&self, pfn: Pfn) {
        self.lru_of(pfn).end_isolation(self.map.page(pfn));
    }

    /// Lists an isolated page again and drops the reference of its isolation.
    /// Any context.
    pub fn lru_putback(&self, pfn: Pfn) {
        self.list_all(&[pfn], Turn::Last, NodeLru::end_isolation);
    }

    /// [`lru_putback`](Self::lru_putback) for all pages on a list.
    pub fn lru_putback_list(&self, list: &mut PageList) {
        self.empty_list(list, |pages| self.list_all(pages, Turn::Last, NodeLru::end_isolation));
    }

    /// [`lru_list_all`](Self::lru_list_all) for all pages on a list.
    pub(crate) fn lru_list_list(&self, list: &mut PageList, turn: Turn) {
        self.empty_list(list, |pages| self.lru_list_all(pages, turn));
    }

    /// Calls `f` with the pages of a list, some at a time.
    fn empty_list(&self, list: &mut PageList, f: impl Fn(&[Pfn])) {
        let mut pages = [Pfn(0); PUT_BACK];
        while !list.is_empty() {
            let mut n = 0;
            while let Some(slot) = pages.get_mut(n)
                && let Some(pfn) = list.pop_front(&self.map)
            {
                *slot = pfn;
                n += 1;
            }
            f(&pages[..n]);
        }
    }

    /// Lists pages that are on no list and that nobody else lists, one after the
    /// other, and drops a reference of the caller's to each. Any context.
    pub(crate) fn lru_list_all(&self, pages: &[Pfn], turn: Turn) {
        self.list_all(pages, turn, |_, _| {});
    }

    fn list_all(&self, pages: &[Pfn], turn: Turn, before: impl Fn(&NodeLru, &PageDesc)) {
        let mut rest = pages;
        while let Some(&first) = rest.first() {
            let node = self.lru_of(first);
            let cpu = self.enter();
            let mut lists = node.lock(&self.map, &cpu);
            while let Some((&pfn, others)) = rest.split_first()
                && core::ptr::eq(node, self.lru_of(pfn))
            {
                before(node, self.map.page(pfn));
                lists.insert(pfn, turn == Turn::Last);
                rest = others;
            }
        }
        // If it was the last reference the page goes off the list again.
        pages.iter().for_each(|&pfn| self.put_lru(pfn));
    }

    /// Takes a listed page that nobody has a reference to any more off its list.
    #[inline(never)]
    pub(crate) fn lru_unlist(&self, pfn: Pfn) {
        let cpu = self.enter();
        self.lru_of(pfn).lock(&self.map, &cpu).remove(pfn);
    }

    /// Nodes, as those who look after the lists of each need them.
    pub(crate) fn lru_nodes(&self) -> impl Iterator<Item = NodeId> + use<P> {
        (0..self.nodes() as u8).map(NodeId)
    }
}
