//! An array of words in single pages of the manager's own: as long as a device
//! has slots, without a block of contiguous memory for it. May call: `alloc`,
//! `free`.
//!
//! ```text
//! root page [i >> 18] -> directory page [i >> 9 & 511] -> page of words [i & 511]
//! ```

use crate::gfp::{AllocError, Gfp, Page, Request};
use crate::mm::Mm;
use crate::page::{link, linked};
use crate::platform::Platform;
use crate::sync::{AtomicU64, Ordering::Relaxed};
use crate::types::{Order, PAGE_SIZE, Pfn};

/// Words in a page, log2.
const SHIFT: u32 = (PAGE_SIZE / size_of::<AtomicU64>()).ilog2();
const WORDS: u32 = 1 << SHIFT;

/// Most words that an array can have.
pub(crate) const MAX_WORDS: u32 = 1 << (3 * SHIFT);

/// An array of words, all 0 at first. It is not freed by being dropped: see
/// [`Mm::free_array`].
pub(crate) struct PageArray {
    root: Pfn,
    len: u32,
}

/// The word of that number in a page of words.
fn word_in<P: Platform>(mm: &Mm<P>, page: Pfn, i: u32) -> &AtomicU64 {
    let words = mm.platform.frame(page).cast::<AtomicU64>();
    // SAFETY: the page is one of an array's, came zeroed, which is a valid word,
    // and is reached in no other way; the index is below the words of a page.
    // Whoever frees the array has the only handle to it.
    unsafe { &*words.add((i % WORDS) as usize) }
}

/// What names a page in a directory; a word of 0 names none.
fn named(word: u64) -> Option<Pfn> {
    (word as u32).checked_sub(1).and_then(linked)
}

impl PageArray {
    /// The word of that number, if there are as many.
    #[inline]
    pub(crate) fn word<'a, P: Platform>(&'a self, mm: &'a Mm<P>, i: u32) -> Option<&'a AtomicU64> {
        if i >= self.len {
            return None;
        }
        let directory = named(word_in(mm, self.root, i >> (2 * SHIFT)).load(Relaxed))?;
        let page = named(word_in(mm, directory, i >> SHIFT).load(Relaxed))?;
        Some(word_in(mm, page, i))
    }

    /// Reads a word; 0 beyond the end.
    #[inline]
    pub(crate) fn get<P: Platform>(&self, mm: &Mm<P>, i: u32) -> u64 {
        self.word(mm, i).map_or(0, |word| word.load(Relaxed))
    }

    /// Writes a word, if there are as many. Callers hold a lock that guards it.
    #[inline]
    pub(crate) fn set<P: Platform>(&self, mm: &Mm<P>, i: u32, value: u64) {
        if let Some(word) = self.word(mm, i) {
            word.store(value, Relaxed);
        }
    }
}

impl<P: Platform> Mm<P> {
    /// An array of `len` words. May wait, but has nobody killed.
    ///
    /// # Errors
    /// When a page could not be had, or too many words are wanted; nothing is
    /// left allocated then.
    pub(crate) fn new_array(&self, len: u32) -> Result<PageArray, AllocError> {
        if len > MAX_WORDS {
            return Err(AllocError::Invalid("more words than an array can have"));
        }
        // Nobody's memory is taken in vain.
        if u64::from(len.div_ceil(WORDS)) > self.managed_pages() {
            return Err(AllocError::NoMemory);
        }
        let array = PageArray { root: self.array_page()?, len };
        for first in (0..len).step_by(WORDS as usize) {
            if let Err(e) = self.add_page(&array, first) {
                self.free_array(array);
                return Err(e);
            }
        }
        Ok(array)
    }

    fn array_page(&self) -> Result<Pfn, AllocError> {
        let gfp = Gfp::KERNEL | Gfp::ZERO | Gfp::RETRY_MAYFAIL | Gfp::NOWARN;
        Ok(self.alloc_pages(Request::new(Order(0), gfp))?.pfn)
    }

    fn add_page(&self, array: &PageArray, first: u32) -> Result<(), AllocError> {
        let root = word_in(self, array.root, first >> (2 * SHIFT));
        let directory = match named(root.load(Relaxed)) {
            Some(directory) => directory,
            None => {
                let page = self.array_page()?;
                root.store(u64::from(link(page)) + 1, Relaxed);
                page
            }
        };
        let page = self.array_page()?;
        word_in(self, directory, first >> SHIFT).store(u64::from(link(page)) + 1, Relaxed);
        Ok(())
    }

    /// Frees an array that nobody uses any more. Any context.
    pub(crate) fn free_array(&self, array: PageArray) {
        // The pages are the array's own, so nothing can be wrong with freeing them.
        let free = |pfn| {
            let _ = self.free_pages(Page { pfn, order: Order(0) });
        };
        for i in 0..WORDS {
            let Some(directory) = named(word_in(self, array.root, i).load(Relaxed)) else {
                continue;
            };
            (0..WORDS)
                .filter_map(|j| named(word_in(self, directory, j).load(Relaxed)))
                .for_each(free);
            free(directory);
        }
        free(array.root);
    }
}
