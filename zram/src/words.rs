//! A table of 32-bit numbers that grows in pages of the manager's, through a
//! directory: slots, and frames of pages. Whoever has it locks it. May call:
//! `mm` for its pages' addresses, not for pages.

use mm::Mm;
use mm::page::{NIL, link, linked};
use mm::platform::Platform;
use mm::sync::{AtomicU32, Ordering::Relaxed};
use mm::types::{PAGE_SIZE, Pfn};

/// Numbers in a page.
const WORDS: u32 = (PAGE_SIZE / size_of::<u32>()) as u32;
/// Directories. Each is for 4 GiB of device, or of memory for it.
const DIRS: usize = 32;

/// Numbers a table can hold.
pub(crate) const MOST: u32 = DIRS as u32 * WORDS * WORDS;

/// The table. A number that was never written is 0.
pub(crate) struct Words {
    dirs: [u32; DIRS],
}

/// Word `i` of a page of words.
fn at<P: Platform>(mm: &Mm<P>, page: Pfn, i: u32) -> &AtomicU32 {
    // SAFETY: the page is a table's, zeroed or filled with such words before it
    // was put there, and stays until the table is emptied under its lock; the
    // index is below the number of words.
    unsafe { &*mm.platform().frame(page).cast::<AtomicU32>().add((i % WORDS) as usize) }
}

impl Words {
    pub(crate) const fn new() -> Self {
        Self { dirs: [NIL; DIRS] }
    }

    fn page<P: Platform>(&self, mm: &Mm<P>, i: u32) -> Option<Pfn> {
        let page = i / WORDS;
        let dir = linked(*self.dirs.get((page / WORDS) as usize)?)?;
        linked(at(mm, dir, page).load(Relaxed))
    }

    /// Number `i`, if there is a page for it.
    pub(crate) fn get<P: Platform>(&self, mm: &Mm<P>, i: u32) -> Option<u32> {
        Some(at(mm, self.page(mm, i)?, i).load(Relaxed))
    }

    /// Writes number `i`; what it was, if there is a page for it.
    pub(crate) fn set<P: Platform>(&mut self, mm: &Mm<P>, i: u32, value: u32) -> Option<u32> {
        let word = at(mm, self.page(mm, i)?, i);
        let old = word.load(Relaxed);
        word.store(value, Relaxed);
        Some(old)
    }

    /// The first number from `i` on for which there is a page; [`MOST`] if there
    /// is none.
    pub(crate) fn next_present<P: Platform>(&self, mm: &Mm<P>, mut i: u32) -> u32 {
        while i < MOST {
            let dir = (i / WORDS / WORDS) as usize;
            if self.dirs[dir] == NIL {
                i = (dir as u32 + 1) * WORDS * WORDS;
            } else if self.page(mm, i).is_none() {
                i = (i / WORDS + 1) * WORDS;
            } else {
                return i;
            }
        }
        MOST
    }

    /// Takes pages, zeroed or not and the caller's, until number `i` has its
    /// place; true when it has, false when there are more pages to be had.
    /// `i` is below [`MOST`].
    pub(crate) fn grow<P: Platform>(
        &mut self,
        mm: &Mm<P>,
        i: u32,
        pages: &mut impl Iterator<Item = Pfn>,
    ) -> bool {
        let page = i / WORDS;
        let Some(entry) = self.dirs.get_mut((page / WORDS) as usize) else { return false };
        if *entry == NIL {
            let Some(new) = pages.next() else { return false };
            // SAFETY: the page is the caller's, that is, ours now.
            unsafe { mm.platform().frame(new).write_bytes(0xff, PAGE_SIZE) };
            *entry = link(new);
        }
        let Some(dir) = linked(*entry) else { return false };
        if at(mm, dir, page).load(Relaxed) == NIL {
            let Some(new) = pages.next() else { return false };
            // SAFETY: as above.
            unsafe { mm.platform().frame(new).write_bytes(0, PAGE_SIZE) };
            at(mm, dir, page).store(link(new), Relaxed);
        }
        true
    }

    /// Takes a page of the table away; none when it is empty.
    pub(crate) fn shrink<P: Platform>(&mut self, mm: &Mm<P>) -> Option<Pfn> {
        for entry in &mut self.dirs {
            let Some(dir) = linked(*entry) else { continue };
            let full = (0..WORDS).find(|&i| at(mm, dir, i).load(Relaxed) != NIL);
            return match full {
                Some(i) => linked(at(mm, dir, i).swap(NIL, Relaxed)),
                None => linked(core::mem::replace(entry, NIL)),
            };
        }
        None
    }

    /// Pages that the table has.
    pub(crate) fn pages<P: Platform>(&self, mm: &Mm<P>) -> u64 {
        let dirs = self.dirs.iter().filter_map(|&dir| linked(dir));
        dirs.map(|dir| {
            1 + (0..WORDS).filter(|&i| at(mm, dir, i).load(Relaxed) != NIL).count() as u64
        })
        .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mm::host::pc;
    use mm::types::Order;
    use mm::{Config, Gfp, Page, Request};
    use std::vec::Vec;

    #[test]
    fn numbers_keep_their_places_while_the_table_grows() {
        let mm = pc(if cfg!(miri) { 2 } else { 8 }, 1, &Config::default()).expect("a machine");
        let mut words = Words::new();
        let places = [0, 1, WORDS - 1, WORDS, WORDS * WORDS, MOST - 1];
        for (n, &i) in places.iter().enumerate() {
            let mut had = Vec::new();
            let mut more = core::iter::from_fn(|| {
                let page = mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).ok()?;
                had.push(page);
                Some(page.pfn)
            });
            assert!(words.grow(&mm, i, &mut more));
            assert!(words.grow(&mm, i, &mut core::iter::empty()), "nothing is missing");
            assert_eq!(words.set(&mm, i, n as u32 + 1), Some(0));
        }
        for (n, &i) in places.iter().enumerate() {
            assert_eq!(words.get(&mm, i), Some(n as u32 + 1));
        }
        assert_eq!(words.next_present(&mm, 2 * WORDS), WORDS * WORDS);
        assert_eq!(words.next_present(&mm, WORDS * WORDS + WORDS), MOST - WORDS);
        assert!(!words.grow(&mm, MOST, &mut core::iter::empty()));
        let mut pages = words.pages(&mm);
        while let Some(pfn) = words.shrink(&mm) {
            mm.free_pages(Page { pfn, order: Order(0) }).expect("a page of the table");
            pages -= 1;
        }
        assert_eq!((pages, words.get(&mm, 0)), (0, None));
        mm.audit().expect("whole");
    }
}
