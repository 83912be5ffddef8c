//! Memory that a case holds: given back when it goes out of scope, whatever
//! the case's verdict. Needs no memory of its own. May call `mm`.

use crate::case::CaseResult;
use crate::{check, check_ok, fail};
use mm::platform::Platform;
use mm::types::{Order, PAGE_SIZE, Pfn};
use mm::{AllocError, FreeError, Mm, Page, Request};

/// Words of 64 bits in a page.
pub(crate) const WORDS: usize = PAGE_SIZE / 8;

/// An allocated block with one owner.
pub(crate) struct Block<'a, P: Platform> {
    mm: &'a Mm<P>,
    page: Page,
}

impl<'a, P: Platform> Block<'a, P> {
    /// Allocates as `request` says.
    pub(crate) fn alloc(mm: &'a Mm<P>, request: Request) -> Result<Self, AllocError> {
        mm.alloc_pages(request).map(|page| Self { mm, page })
    }

    /// The block's frames.
    pub(crate) fn page(&self) -> Page {
        self.page
    }

    /// The first frame.
    pub(crate) fn pfn(&self) -> Pfn {
        self.page.pfn
    }

    /// The content.
    pub(crate) fn words(&mut self) -> &mut [u64] {
        let words = WORDS << self.page.order.0;
        // SAFETY: the block is contiguous, aligned, and this value's alone;
        // the slice lives no longer than the borrow of it.
        unsafe {
            core::slice::from_raw_parts_mut(self.mm.platform().frame(self.page.pfn).cast(), words)
        }
    }

    /// Writes what [`check_stamp`](Self::check_stamp) looks for: the block's
    /// place and `tag` in the first and the last word of each page.
    pub(crate) fn stamp(&mut self, tag: u64) {
        let first = self.page.pfn.0;
        for (page, words) in (first..).zip(self.words().as_chunks_mut::<WORDS>().0) {
            words[0] = page << 16 ^ tag;
            words[WORDS - 1] = !words[0];
        }
    }

    /// Whether nobody has written over the stamp.
    pub(crate) fn check_stamp(&mut self, tag: u64) -> CaseResult {
        let first = self.page.pfn.0;
        for (page, words) in (first..).zip(self.words().as_chunks::<WORDS>().0) {
            let (head, tail) = (words[0], words[WORDS - 1]);
            check!(
                head == page << 16 ^ tag && tail == !head,
                "{:?} was overwritten: {head:#x} {tail:#x}, tag {tag:#x}",
                Pfn(page)
            );
        }
        Ok(())
    }

    /// Frees the block and says whether that worked.
    pub(crate) fn free(self) -> Result<(), FreeError> {
        let (mm, page) = (self.mm, self.keep());
        mm.free_pages(page)
    }

    /// Gives up ownership, for somebody else to [`adopt`](Self::adopt).
    pub(crate) fn keep(self) -> Page {
        let page = self.page;
        core::mem::forget(self);
        page
    }

    /// Owns a block again.
    ///
    /// # Safety
    /// `page` came from [`keep`](Self::keep) of a block of the same manager and
    /// has no other owner.
    pub(crate) unsafe fn adopt(mm: &'a Mm<P>, page: Page) -> Self {
        Self { mm, page }
    }
}

impl<P: Platform> Drop for Block<'_, P> {
    fn drop(&mut self) {
        // A refusal is logged by the manager, and seen by the runner's tally.
        let _ = self.mm.free_pages(self.page);
    }
}

/// Any number of blocks, last in, first out; each remembers the one before.
pub(crate) struct Hoard<'a, P: Platform> {
    mm: &'a Mm<P>,
    top: Option<Page>,
    pages: u64,
}

/// The end of a hoard's chain.
const BOTTOM: u64 = u64::MAX;

impl<'a, P: Platform> Hoard<'a, P> {
    /// No blocks.
    pub(crate) fn new(mm: &'a Mm<P>) -> Self {
        Self { mm, top: None, pages: 0 }
    }

    /// Number of pages.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// Takes `block` in. Its first words are the hoard's from now on.
    pub(crate) fn push(&mut self, mut block: Block<'a, P>) {
        let seal = seal(block.page);
        let below = self.top.map_or(BOTTOM, |page| page.pfn.0 << 8 | u64::from(page.order.0));
        block.words()[..2].copy_from_slice(&[seal, below]);
        self.pages += block.page.order.pages();
        self.top = Some(block.keep());
    }

    /// The block that was put in last; fails if its content has changed.
    pub(crate) fn pop(&mut self) -> CaseResult<Option<Block<'a, P>>> {
        let Some(page) = self.top.take() else { return Ok(None) };
        // SAFETY: `push` kept it, and the chain names each block once.
        let mut block = unsafe { Block::adopt(self.mm, page) };
        self.pages -= page.order.pages();
        let &mut [found, below, ..] = block.words() else { fail!("a block without words") };
        check!(found == seal(page), "{:?} was overwritten: {found:#x}", page.pfn);
        if below != BOTTOM {
            self.top = Some(Page { pfn: Pfn(below >> 8), order: Order(below as u8) });
        }
        Ok(Some(block))
    }

    /// Allocates blocks as `request` says until there are `limit` of them or
    /// no more are to be had. Returns how many came.
    pub(crate) fn fill(&mut self, request: Request, limit: u64) -> u64 {
        for got in 0..limit {
            match Block::alloc(self.mm, request) {
                Ok(block) => self.push(block),
                Err(_) => return got,
            }
        }
        limit
    }

    /// Frees all blocks; fails if one has changed or is refused.
    pub(crate) fn release(mut self) -> CaseResult {
        while let Some(block) = self.pop()? {
            check_ok!(block.free());
        }
        Ok(())
    }
}

impl<P: Platform> Drop for Hoard<'_, P> {
    fn drop(&mut self) {
        // A broken chain ends here; the runner's tally tells of the rest.
        while let Ok(Some(block)) = self.pop() {
            drop(block);
        }
    }
}

/// Blocks in the scratch space of a case, reached in any order.
pub(crate) struct Held<'a, 'm, P: Platform> {
    mm: &'m Mm<P>,
    slots: &'a mut [u64],
    len: usize,
    pages: u64,
}

impl<'a, 'm, P: Platform> Held<'a, 'm, P> {
    /// No blocks; at most as many as there are `slots`.
    pub(crate) fn new(mm: &'m Mm<P>, slots: &'a mut [u64]) -> Self {
        Self { mm, slots, len: 0, pages: 0 }
    }

    /// Number of blocks.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Number of pages.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// Whether no slot is left.
    pub(crate) fn is_full(&self) -> bool {
        self.len == self.slots.len()
    }

    /// Takes `block` in; frees it if there is no slot left.
    pub(crate) fn put(&mut self, block: Block<'m, P>) {
        let page = block.page;
        if let Some(slot) = self.slots.get_mut(self.len) {
            *slot = page.pfn.0 << 8 | u64::from(page.order.0);
            self.len += 1;
            self.pages += page.order.pages();
            block.keep();
        }
    }

    /// Takes block number `index` out; the last one takes its number.
    pub(crate) fn take(&mut self, index: usize) -> Option<Block<'m, P>> {
        if index >= self.len {
            return None;
        }
        self.len -= 1;
        let slot = self.slots[index];
        self.slots[index] = self.slots[self.len];
        let page = Page { pfn: Pfn(slot >> 8), order: Order(slot as u8) };
        self.pages -= page.order.pages();
        // SAFETY: `put` kept it, and each slot in use names one block.
        Some(unsafe { Block::adopt(self.mm, page) })
    }
}

impl<P: Platform> Drop for Held<'_, '_, P> {
    fn drop(&mut self) {
        while let Some(block) = self.take(0) {
            drop(block);
        }
    }
}

fn seal(page: Page) -> u64 {
    0x5175_6172_7279_0000 ^ page.pfn.0 << 8 ^ u64::from(page.order.0)
}
