//! Lists of page heads, linked through their descriptors by frame number: what
//! is on a list stays untouched itself. May call: `page`, `memmap`.

use crate::memmap::MemMap;
use crate::page::{NIL, link, linked};
use crate::types::Pfn;

/// A doubly linked list of pages. All methods want whatever protects the list:
/// the zone lock, or the token of the CPU that owns it.
#[derive(Debug, Clone, Copy)]
pub struct PageList {
    head: u32,
    tail: u32,
    len: u32,
}

impl Default for PageList {
    fn default() -> Self {
        Self::new()
    }
}

impl PageList {
    /// An empty list.
    pub const fn new() -> Self {
        Self { head: NIL, tail: NIL, len: 0 }
    }

    /// A list of one page, which is on no list.
    #[inline]
    pub fn of_one(map: &MemMap, pfn: Pfn) -> Self {
        let page = map.page(pfn);
        page.set_next(NIL);
        page.set_prev(NIL);
        Self { head: link(pfn), tail: link(pfn), len: 1 }
    }

    /// Number of pages (heads) on the list.
    #[inline]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether nothing is on the list.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The page at the head.
    #[inline]
    pub fn first(&self) -> Option<Pfn> {
        linked(self.head)
    }

    /// The page at the tail.
    #[inline]
    pub fn last(&self) -> Option<Pfn> {
        linked(self.tail)
    }

    /// The page after `pfn`, which is on this list.
    pub fn next(&self, map: &MemMap, pfn: Pfn) -> Option<Pfn> {
        linked(map.page(pfn).next())
    }

    /// Puts `pfn`, which is on no list, at the head.
    #[inline]
    pub fn push_front(&mut self, map: &MemMap, pfn: Pfn) {
        let page = map.page(pfn);
        page.set_prev(NIL);
        page.set_next(self.head);
        match linked(self.head) {
            Some(old) => map.page(old).set_prev(link(pfn)),
            None => self.tail = link(pfn),
        }
        self.head = link(pfn);
        self.len += 1;
    }

    /// Puts `pfn`, which is on no list, at the tail.
    #[inline]
    pub fn push_back(&mut self, map: &MemMap, pfn: Pfn) {
        let page = map.page(pfn);
        page.set_next(NIL);
        page.set_prev(self.tail);
        match linked(self.tail) {
            Some(old) => map.page(old).set_next(link(pfn)),
            None => self.head = link(pfn),
        }
        self.tail = link(pfn);
        self.len += 1;
    }

    /// Takes `pfn`, which is on this list, off it; its links become zero.
    #[inline]
    pub fn remove(&mut self, map: &MemMap, pfn: Pfn) {
        let page = map.page(pfn);
        let (prev, next) = (page.prev(), page.next());
        debug_assert!(self.has(map, pfn), "{pfn:?} is not on this list");
        match linked(prev) {
            Some(p) => map.page(p).set_next(next),
            None => self.head = next,
        }
        match linked(next) {
            Some(n) => map.page(n).set_prev(prev),
            None => self.tail = prev,
        }
        page.set_next(0);
        page.set_prev(0);
        self.len -= 1;
    }

    /// Whether those beside `pfn` have it between them, or it is where the list
    /// begins and ends.
    fn has(&self, map: &MemMap, pfn: Pfn) -> bool {
        let (page, link) = (map.page(pfn), link(pfn));
        let after = linked(page.prev()).map_or(self.head, |prev| map.page(prev).next());
        let before = linked(page.next()).map_or(self.tail, |next| map.page(next).prev());
        self.len > 0 && after == link && before == link
    }

    /// Takes the page at the head off.
    #[inline]
    pub fn pop_front(&mut self, map: &MemMap) -> Option<Pfn> {
        let pfn = self.first()?;
        let page = map.page(pfn);
        self.head = page.next();
        self.check_second(map, pfn);
        match self.first() {
            Some(next) => map.page(next).set_prev(NIL),
            None => self.tail = NIL,
        }
        page.set_next(0);
        page.set_prev(0);
        self.len -= 1;
        Some(pfn)
    }

    /// Whether what came after `first`, and is the head now, says so too.
    #[inline]
    fn check_second(&self, map: &MemMap, first: Pfn) {
        debug_assert!(
            self.first().is_none_or(|next| map.page(next).prev() == link(first)),
            "the list goes another way back from behind {first:?}"
        );
    }

    /// Takes the page at the head off and leaves its links as they are, for
    /// those who write or ignore them.
    #[inline]
    pub(crate) fn take_front(&mut self, map: &MemMap) -> Option<Pfn> {
        let pfn = self.first()?;
        self.head = map.page(pfn).next();
        self.check_second(map, pfn);
        match self.first() {
            Some(next) => map.page(next).set_prev(NIL),
            None => self.tail = NIL,
        }
        self.len -= 1;
        Some(pfn)
    }

    /// Takes the page at the tail off.
    #[inline]
    pub fn pop_back(&mut self, map: &MemMap) -> Option<Pfn> {
        let pfn = self.last()?;
        self.remove(map, pfn);
        Some(pfn)
    }

    /// Turns the list so that it begins with `pfn`, which is on it; what stood
    /// before `pfn` comes last, in the same order.
    pub fn begin_with(&mut self, map: &MemMap, pfn: Pfn) {
        let Some(last) = linked(map.page(pfn).prev()) else { return };
        map.page(Pfn(u64::from(self.tail))).set_next(self.head);
        map.page(Pfn(u64::from(self.head))).set_prev(self.tail);
        map.page(last).set_next(NIL);
        map.page(pfn).set_prev(NIL);
        self.head = link(pfn);
        self.tail = link(last);
    }

    /// The pages from head to tail; the list must not change meanwhile.
    pub fn iter<'a>(&self, map: &'a MemMap) -> impl Iterator<Item = Pfn> + use<'a> {
        let mut at = self.first();
        core::iter::from_fn(move || {
            let pfn = at?;
            at = linked(map.page(pfn).next());
            Some(pfn)
        })
    }
}
