//! One list of a CPU's free blocks: pushed and popped at the front, filled and
//! drained at the end by rows of blocks that lie beside each other. May call:
//! `page`, `memmap`.

use crate::memmap::MemMap;
use crate::page::{HeadWord, NIL, PageDesc, link, linked};
use crate::types::{Order, PAGEBLOCK_PAGES, Pfn, PfnRange};

/// Blocks of one order and type, newest first. What is taken off the front is
/// handed out at once, so the front's back link, and both links of what was
/// taken, say nothing: a hit reads one word of the map, a free writes two links.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PcpList {
    pub(super) head: u32,
    /// Of an empty list: nothing.
    tail: u32,
}

impl Default for PcpList {
    fn default() -> Self {
        Self { head: NIL, tail: NIL }
    }
}

impl PcpList {
    pub(crate) const fn is_empty(&self) -> bool {
        self.head == NIL
    }

    /// The oldest block.
    pub(crate) fn last(&self) -> Option<Pfn> {
        if self.is_empty() { None } else { linked(self.tail) }
    }

    /// Puts a block, whose descriptor is `page`, at the front.
    #[inline]
    pub(super) fn push(&mut self, map: &MemMap, pfn: Pfn, page: &PageDesc) {
        page.set_next(self.head);
        match linked(self.head) {
            Some(old) => map.page(old).set_prev(link(pfn)),
            None => self.tail = link(pfn),
        }
        self.head = link(pfn);
    }

    /// Puts the blocks of `order` that a range, part of one block, consists of at
    /// the end, the first first, with `word` for their heads.
    pub(super) fn append(&mut self, map: &MemMap, range: PfnRange, order: Order, word: HeadWord) {
        let pages = map.pages();
        match self.last() {
            Some(old) => pages.at(old).set_next(link(range.start)),
            None => self.head = link(range.start),
        }
        let last = Pfn(range.end.0 - order.pages());
        if order.0 == 0 {
            describe_row(pages.of(range), link(range.start), word);
        } else {
            let mut pfn = range.start;
            while pfn < range.end {
                let page = pages.at(pfn);
                page.set_head(word);
                page.set_prev((pfn.0 as u32).wrapping_sub(order.pages() as u32));
                pfn = pfn.add(order.pages());
                page.set_next(link(pfn));
            }
        }
        // What the front's back link says does not matter.
        pages.at(range.start).set_prev(self.tail);
        pages.at(last).set_next(NIL);
        self.tail = link(last);
    }

    /// Takes the oldest block and as many of the next as lie behind each other
    /// in its pageblock, up or down, up to `most`: what was freed in a row comes
    /// back as a range. The descriptors of all its pages are a tail's then, so
    /// the zone lock is wanted.
    #[inline(always)]
    pub(super) fn pop_oldest(&mut self, map: &MemMap, order: Order, most: u64) -> Option<PfnRange> {
        let oldest = self.last()?;
        let mut next = None;
        if most > 1 && link(oldest) != self.head {
            let prev = Pfn(u64::from(map.page(oldest).prev()));
            next = Some(prev).filter(|prev| prev.0.abs_diff(oldest.0) == order.pages());
        }
        if let Some(next) = next {
            return Some(self.pop_oldest_run(map, order, oldest, next, most));
        }
        self.pop_last(map, oldest);
        Some(PfnRange::sized(oldest, order.pages()))
    }

    /// [`pop_oldest`](Self::pop_oldest) where `next` lies beside `oldest`, on
    /// the side where the rest is looked for.
    #[inline(never)]
    fn pop_oldest_run(
        &mut self,
        map: &MemMap,
        order: Order,
        oldest: Pfn,
        next: Pfn,
        most: u64,
    ) -> PfnRange {
        let pages = map.pages();
        let upward = next > oldest;
        let below = oldest.0 - oldest.pageblock().0;
        let (from, room) = match upward {
            true => (below, PAGEBLOCK_PAGES - below),
            false => (below + order.pages(), below + order.pages()),
        };
        let most = most.min(room >> order.0) << order.0;
        let most = whole(most, from, upward).min(room) >> order.0;
        // The front's back link says nothing: it must not look like one more.
        pages.at(Pfn(u64::from(self.head))).set_prev(self.head);
        let (done, prev) = if upward && order.0 == 0 {
            forget_row(pages.of(PfnRange::sized(oldest, most)), link(oldest))
        } else {
            let step = next.0.wrapping_sub(oldest.0);
            let (mut done, mut at) = (0, oldest.0);
            loop {
                let page = pages.at(Pfn(at));
                let prev = page.prev();
                forget(page);
                done += 1;
                at = at.wrapping_add(step);
                if u64::from(prev) != at || done == most {
                    break (done, prev);
                }
            }
        };
        let all = done << order.0;
        let lowest = if upward { oldest } else { Pfn(oldest.0 + order.pages() - all) };
        let last = if upward { Pfn(oldest.0 + all - order.pages()) } else { lowest };
        if link(last) == self.head {
            self.head = NIL;
        } else {
            pages.at(Pfn(u64::from(prev))).set_next(NIL);
            self.tail = prev;
        }
        PfnRange::sized(lowest, all)
    }

    /// Takes `last`, the oldest block, off the list.
    #[inline(always)]
    fn pop_last(&mut self, map: &MemMap, last: Pfn) {
        let page = map.page(last);
        let prev = page.prev();
        forget(page);
        if link(last) == self.head {
            self.head = NIL;
            return;
        }
        map.page(Pfn(u64::from(prev))).set_next(NIL);
        self.tail = prev;
    }

    /// The blocks, newest first; the list must not change meanwhile.
    pub(crate) fn iter<'a>(&self, map: &'a MemMap) -> impl Iterator<Item = Pfn> + use<'a> {
        let mut at = linked(self.head);
        core::iter::from_fn(move || {
            let pfn = at?;
            at = linked(map.page(pfn).next());
            Some(pfn)
        })
    }
}

/// Makes the descriptor of a block that was on a list a tail's.
#[inline(always)]
fn forget(page: &PageDesc) {
    page.set_head(HeadWord::TAIL);
    page.set_next(0);
    page.set_prev(0);
}

/// Pages that [`describe_row`] and [`forget_row`] do at a stretch: what is done
/// for each is little, and counting them would be as much.
const STRETCH: usize = 16;

/// Makes single pages, the first of which is `at`, a piece of a list: `word` for
/// their heads, and links to those beside them.
#[inline(always)]
fn describe_row(row: &[PageDesc], mut at: u32, word: HeadWord) {
    let describe = |page: &PageDesc, at: u32| {
        page.set_head(word);
        page.set_prev(at.wrapping_sub(1));
        page.set_next(at.wrapping_add(1));
    };
    let (stretches, rest) = row.as_chunks::<STRETCH>();
    for stretch in stretches {
        for (page, at) in stretch.iter().zip(at..) {
            describe(page, at);
        }
        at += STRETCH as u32;
    }
    for (page, at) in rest.iter().zip(at..) {
        describe(page, at);
    }
}

/// Makes the first of `row` tails, single pages from `at` on of which that one is
/// on a list: as many as follow each other there. Returns how many, and the back
/// link of the last of them.
#[inline(always)]
fn forget_row(row: &[PageDesc], at: u32) -> (u64, u32) {
    let (mut next, mut prev) = (at, at);
    let (stretches, _) = row.as_chunks::<STRETCH>();
    for stretch in stretches {
        let [inner @ .., last] = stretch;
        if inner.iter().zip(next + 1..).any(|(page, next)| page.prev() != next) {
            break;
        }
        prev = last.prev();
        stretch.iter().for_each(forget);
        next += STRETCH as u32;
        if prev != next {
            return (u64::from(next - at), prev);
        }
    }
    for page in row.get((next - at) as usize..).unwrap_or_default() {
        prev = page.prev();
        forget(page);
        next += 1;
        if prev != next {
            break;
        }
    }
    (u64::from(next - at), prev)
}

/// `pages` from a place in a pageblock on, up- or downward, and as many more as
/// it takes to end at the border of a larger block, up to half as many: what is
/// left then goes back in few pieces too.
pub(super) const fn whole(pages: u64, from: u64, upward: bool) -> u64 {
    let block = if pages < 2 { 1 } else { 1 << (pages.ilog2() - 1) };
    let block = if block > WHOLE { WHOLE } else { block };
    match upward {
        true => (from + pages).next_multiple_of(block) - from,
        false => pages + from.saturating_sub(pages) % block,
    }
}

/// Pages at whose borders long runs are cut, rather than anywhere.
pub(super) const WHOLE: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::PageType;
    use std::vec::Vec;

    #[test]
    fn long_runs_end_with_whole_blocks() {
        assert_eq!([0, 1, 2, 3].map(|pages| whole(pages, 5, true)), [0, 1, 2, 3]);
        assert_eq!([63, 64, 126, 189].map(|pages| whole(pages, 0, true)), [64, 64, 128, 192]);
        assert_eq!([189, 24].map(|pages| whole(pages, 10, true)), [246, 30]);
        // Downward, from the end of what is taken.
        assert_eq!([63, 64, 126, 189].map(|pages| whole(pages, 512, false)), [64, 64, 128, 192]);
        assert_eq!([189, 24].map(|pages| whole(pages, 266, false)), [202, 26]);
        assert_eq!(whole(64, 10, false), 64);
        for pages in 0..=512 {
            for from in 0..512 {
                let more = [whole(pages, from, true), whole(pages, from, false)];
                assert!(more.iter().all(|&got| got >= pages && got - pages <= pages / 2));
            }
        }
    }

    #[test]
    fn rows_are_forgotten_as_far_as_they_go() {
        let word = HeadWord::new(PageType::Pcp, Order(0));
        // A list's end: `long` pages from 100 on, then one that is elsewhere.
        for long in 1..=40 {
            for most in 1..=40 {
                let row: Vec<PageDesc> = (0..most).map(|_| PageDesc::default()).collect();
                for (at, page) in (100..).zip(&row) {
                    page.set_head(word);
                    page.set_next(at - 1);
                    page.set_prev(if at < 99 + long { at + 1 } else { 7000 });
                }
                let done = u64::from(long.min(most as u32));
                let prev = if long as usize > most { 100 + most as u32 } else { 7000 };
                assert_eq!(forget_row(&row, 100), (done, prev), "{long} of {most}");
                let clear = row.iter().take_while(|page| page.is_clear()).count();
                assert_eq!(clear as u64, done);
                assert!(row[clear..].iter().all(|page| page.head() == word));
            }
        }
    }

    #[test]
    fn rows_are_linked() {
        let word = HeadWord::new(PageType::Pcp, Order(0));
        for pages in 1..=40 {
            let row: Vec<PageDesc> = (0..pages).map(|_| PageDesc::default()).collect();
            describe_row(&row, 100, word);
            for (at, page) in (100..).zip(&row) {
                assert_eq!((page.head(), page.prev(), page.next()), (word, at - 1, at + 1));
            }
        }
    }
}
