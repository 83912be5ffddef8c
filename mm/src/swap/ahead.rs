//! Reading before anybody asks: whoever comes back for a page may soon want those
//! beside it, which a device reads at little more cost (Linux `mm/swap_state.c`,
//! the readahead of regions). Which pages these are is for the address space to
//! say: it knows what is beside a page, and whose pages they are. How many is
//! arithmetic on what was of use before. May call: `cache`.

use super::cache::Inserted;
use crate::mm::Mm;
use crate::mmu::SwapEntry;
use crate::page::PageFlags;
use crate::platform::Platform;
use crate::sync::Ordering::Relaxed;
use crate::types::Pfn;
use arrayvec::ArrayVec;
use core::ops::Range;

/// Pages that are read at a time at most, log2, unless somebody says otherwise.
pub(super) const DEFAULT_CLUSTER: u32 = 3;
/// The most that can be said.
pub(crate) const MOST_CLUSTER: u32 = 5;

/// Somebody who wants a page of swap back.
pub(crate) trait WantsBack {
    /// A page for it, as [`Mm::swap_in`] says.
    fn fresh(&mut self) -> Option<Pfn>;

    /// Runs `f` if the slot is still named where it was found, which does not
    /// change meanwhile: so the slot is still the same page's. `f` takes the lock
    /// of a device.
    fn if_named(&mut self, f: &mut dyn FnMut());

    /// Adds pages that may be wanted soon. The page that is wanted is locked; no
    /// other lock held. Must not wait for memory.
    fn around(&mut self, ahead: &mut ReadAhead);
}

/// Pages that are read with another one: in the cache, and locked.
pub(crate) struct ReadAhead {
    wanted: SwapEntry,
    pages: ArrayVec<(u32, Pfn), { Self::MOST }>,
}

impl ReadAhead {
    /// Most pages.
    pub(crate) const MOST: usize = (1 << MOST_CLUSTER) - 1;

    pub(super) fn new(wanted: SwapEntry) -> Self {
        Self { wanted, pages: ArrayVec::new() }
    }

    /// The slots and the pages for them.
    pub(super) fn pages(&self) -> &[(u32, Pfn)] {
        &self.pages
    }

    /// Whether a slot is of the device that is asked anyway.
    pub(crate) fn can_have(&self, entry: SwapEntry) -> bool {
        entry.device() == self.wanted.device() && !self.pages.is_full()
    }
}

impl<P: Platform> Mm<P> {
    /// Whether a slot has content that is not in memory, and that has to be read
    /// to be so. A moment's answer.
    pub(crate) fn swap_is_to_be_read(&self, entry: SwapEntry) -> bool {
        let is = self.with_swap(entry.device(), |on| {
            let word = on.slot(entry.slot());
            word.users() > 0 && word.page().is_none() && !word.is_zero() && !word.has_failed()
        });
        is == Some(true)
    }

    /// Has the slot's content read into `pfn`, which is new and locked. The lock
    /// is held of what names the slot. False if the slot needs it no more: the
    /// page is the caller's then.
    pub(crate) fn swap_read_too(&self, ahead: &mut ReadAhead, entry: SwapEntry, pfn: Pfn) -> bool {
        debug_assert!(self.map.page(pfn).head().flags().contains(PageFlags::LOCKED));
        // A slot becomes one of zeros only while its page is in the cache.
        let wanted = ahead.can_have(entry) && self.swap_is_to_be_read(entry);
        if !wanted || !matches!(self.swap_insert(entry, pfn), Inserted::Yes { .. }) {
            return false;
        }
        ahead.pages.push((entry.slot(), pfn));
        true
    }

    /// Pages that are read from swap at a time at most, log2 (Linux
    /// `page_cluster`).
    pub fn page_cluster(&self) -> u32 {
        self.swap.page_cluster.load(Relaxed)
    }

    /// Sets [`page_cluster`](Self::page_cluster); what is above 5 is 5.
    pub fn set_page_cluster(&self, log2: u32) {
        self.swap.page_cluster.store(log2.min(MOST_CLUSTER), Relaxed);
    }
}

/// What is known of the faults of a region on pages in swap: where the last one
/// was, how many pages were read for it, and how many of those that were read
/// before anybody asked have been asked for since.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Window {
    last: u32,
    size: u8,
    hits: u8,
}

impl Window {
    pub(crate) const fn bits(self) -> u64 {
        self.last as u64 | (self.size as u64) << 32 | (self.hits as u64) << 40
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self { last: bits as u32, size: (bits >> 32) as u8, hits: (bits >> 40) as u8 }
    }

    /// After a page was asked for that had been read ahead.
    #[must_use]
    pub(crate) const fn hit(self, page: u32) -> Self {
        Self { last: page, hits: self.hits.saturating_add(1), ..self }
    }

    /// The pages to read, `most` at most, when `page` has to be read; and what is
    /// known then.
    ///
    /// As many as were of use since the last time and two more, in powers of two
    /// from four on; alone, if none was, unless it follows the last one or comes
    /// before it. Half as many as the last time at least. On the side of the page
    /// that the last ones led to; else on both.
    #[must_use]
    pub(crate) fn next(self, page: u32, most: u32) -> (Self, Range<u32>) {
        let (up, down) = (page == self.last.wrapping_add(1), self.last == page.wrapping_add(1));
        let useful = match self.hits {
            0 if !up && !down => 1,
            0 => 2,
            hits => (u32::from(hits) + 2).next_power_of_two().max(4),
        };
        let size = useful.max(u32::from(self.size) / 2).min(most).max(1);
        let before = match (up, down) {
            (true, _) => 0,
            (_, true) => size - 1,
            _ => (size - 1) / 2,
        };
        let first = page.saturating_sub(before);
        let next = Self { last: page, size: size as u8, hits: 0 };
        (next, first..first.saturating_add(size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_one_is_read_alone() {
        let (window, range) = Window::default().next(1000, 8);
        assert_eq!((range, window.size), (1000..1001, 1));
        // So is what follows nothing.
        let (window, range) = window.next(5000, 8);
        assert_eq!((range, window.size), (5000..5001, 1));
    }

    #[test]
    fn it_grows_with_what_was_of_use_and_looks_ahead() {
        let (mut window, mut page, mut sizes) = (Window::default(), 100, [0; 6]);
        for size in &mut sizes {
            let range;
            (window, range) = window.next(page, 8);
            assert_eq!(range.start, page);
            *size = range.len();
            for at in page + 1..range.end {
                window = window.hit(at);
            }
            page = range.end;
        }
        assert_eq!(sizes, [1, 2, 4, 8, 8, 8]);
    }

    #[test]
    fn downwards_it_looks_behind() {
        let (window, _) = Window::default().next(100, 8);
        let (window, range) = window.next(99, 8);
        assert_eq!(range, 98..100);
        let (_, range) = window.hit(98).next(97, 8);
        assert_eq!(range, 94..98);
    }

    #[test]
    fn without_use_it_shrinks_by_halves() {
        let mut window = Window { last: 0, size: 8, hits: 0 };
        let mut sizes = [0; 4];
        for (size, page) in sizes.iter_mut().zip([1000, 3000, 9000, 100]) {
            let range;
            (window, range) = window.next(page, 8);
            assert!(range.contains(&page));
            *size = range.len();
        }
        assert_eq!(sizes, [4, 2, 1, 1]);
    }

    #[test]
    fn it_stays_within_bounds_and_keeps_what_it_knows() {
        for (last, page) in [(0, 0), (u32::MAX, 0), (u32::MAX - 1, u32::MAX), (7, u32::MAX)] {
            for (size, hits) in [(0, 0), (32, 0), (32, 255), (1, 7)] {
                let window = Window { last, size, hits };
                assert_eq!(Window::from_bits(window.bits()), window);
                let (next, range) = window.next(page, 8);
                assert!(range.len() <= 8 && next.size <= 8);
                assert!(range.contains(&page) || page == u32::MAX);
                // Switched off.
                assert!(window.next(page, 1).1.len() <= 1);
            }
        }
    }
}
