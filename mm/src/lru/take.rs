//! Taking the oldest pages off a list, for reclaim to look at (Linux
//! `isolate_lru_folios`). May call: `list`, `memmap`.

use super::{Lists, LruList};
use crate::list::PageList;
use crate::mm::Mm;
use crate::page::{LruFlags, PageDesc, PageType, linked};
use crate::platform::Platform;
use crate::sync::Cpu;
use crate::types::{NR_ZONES, NodeId, Order, Pfn, ZoneKind};

/// Pages of other zones that are passed over at most under one hold of the lock.
const MAX_SKIPPED: u64 = 4096;

/// A set of kinds of zones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Zones(u8);

impl Zones {
    /// Those that a request of `class` may use.
    pub(crate) const fn up_to(class: ZoneKind) -> Self {
        Self((2 << class.index()) - 1)
    }

    /// One alone.
    pub(crate) const fn only(kind: ZoneKind) -> Self {
        Self(1 << kind.index())
    }

    /// Whether `kind` is one of them.
    pub(crate) const fn contains(self, kind: ZoneKind) -> bool {
        self.0 >> kind.index() & 1 != 0
    }

    /// The kinds, lowest first.
    pub(crate) fn iter(self) -> impl Iterator<Item = ZoneKind> {
        ZoneKind::ALL.into_iter().filter(move |&kind| self.contains(kind))
    }
}

/// What was taken off a list.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// The pages, isolated, the oldest first.
    pub(crate) pages: PageList,
    /// How many 4 KiB pages these are.
    pub(crate) taken: u64,
    /// How many were looked at, those of other zones aside.
    pub(crate) scanned: u64,
}

impl<P: Platform> Mm<P> {
    /// Pages of a node's zones on a list.
    pub(crate) fn lru_size(&self, node: NodeId, zones: Zones, list: LruList) -> u64 {
        zones.iter().map(|kind| self.lru.node(node).pages(kind, list)).sum()
    }

    /// Isolates the oldest pages of some zones on a list: as many as have to be
    /// looked at to see `scan` of them. Those of other zones go to the front, so
    /// that nobody has to pass over them again soon.
    pub(crate) fn lru_take(&self, node: NodeId, zones: Zones, list: LruList, scan: u64) -> Taken {
        let mut result = Taken::default();
        let cpu = self.enter();
        let mut lists = self.lru.node(node).lock(&self.map, &cpu);
        let mut skipped = 0;
        let mut left = lists.lists[list.index()].len();
        let mut at = lists.lists[list.index()].last();
        while let Some(pfn) = at.filter(|_| left > 0 && result.scanned < scan) {
            left -= 1;
            let page = self.map.page(pfn);
            at = linked(page.prev());
            let pages = page.head().order().pages();
            if !zones.contains(ZoneKind::ALL[self.map.block(pfn).zone_index() % NR_ZONES]) {
                skipped += pages;
                let list = &mut lists.lists[list.index()];
                list.remove(&self.map, pfn);
                list.push_front(&self.map, pfn);
                if skipped >= MAX_SKIPPED {
                    break;
                }
                continue;
            }
            result.scanned += pages;
            // Without references it is just being freed.
            if page.get_unless_zero() {
                lists.isolate(pfn);
                result.pages.push_back(&self.map, pfn);
                result.taken += pages;
            }
        }
        result
    }
}

/// Whether a page is on a list, as one of `order`. Final under the lists' lock, with
/// a reference.
pub(super) fn is_listed(page: &PageDesc, order: Order) -> bool {
    let word = page.head();
    word.is(PageType::Lru, order) && word.lru().contains(LruFlags::LISTED)
}

/// Isolates listed pages that a scanner comes past: the lists stay locked from
/// one to the next.
pub(crate) struct Isolator<'a, P: Platform> {
    mm: &'a Mm<P>,
    // The lock goes before the token that masks interrupts.
    held: Option<(Lists<'a>, Cpu<'a, P>)>,
}

impl<'a, P: Platform> Isolator<'a, P> {
    pub(crate) fn new(mm: &'a Mm<P>) -> Self {
        Self { mm, held: None }
    }

    /// As [`Mm::lru_isolate`], for a single page.
    #[inline]
    pub(crate) fn isolate(&mut self, pfn: Pfn) -> bool {
        let (mm, page) = (self.mm, self.mm.map.page(pfn));
        if !page.head().lru().contains(LruFlags::LISTED) || !page.get_unless_zero() {
            return false;
        }
        let node = mm.lru_of(pfn);
        if self.held.as_ref().is_none_or(|(lists, _)| !core::ptr::eq(lists.node, node)) {
            self.let_go();
            let cpu = mm.enter();
            self.held = Some((node.lock(&mm.map, &cpu), cpu));
        }
        let Some((lists, _)) = &mut self.held else { return false };
        // Between the look and the reference it may have become something else
        // that is counted, be it only a larger page.
        let listed = is_listed(page, Order(0));
        if listed {
            lists.isolate(pfn);
        } else {
            // It may be the last reference.
            self.let_go();
            mm.put_counted(pfn, page);
        }
        listed
    }

    /// Unlocks the lists: what comes next may wait, or lock others.
    #[inline]
    pub(crate) fn let_go(&mut self) {
        self.held = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_has_its_zone_and_those_below() {
        use ZoneKind::{Dma, Dma32, Movable, Normal};
        let kinds = |zones: Zones| zones.iter().collect::<std::vec::Vec<_>>();
        assert_eq!(kinds(Zones::up_to(Dma)), [Dma]);
        assert_eq!(kinds(Zones::up_to(Normal)), [Dma, Dma32, Normal]);
        assert_eq!(kinds(Zones::up_to(Movable)), ZoneKind::ALL);
        assert_eq!(kinds(Zones::only(Normal)), [Normal]);
    }
}
