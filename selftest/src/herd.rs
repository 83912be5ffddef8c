//! Pages that may move at any time, held by a case: each is full of numbers
//! that follow from its handle, and remembers the one before. Given back when
//! it goes out of scope. May call `mm`.

use crate::case::CaseResult;
use crate::suites::Ground;
use crate::{check_ok, fail};
use mm::arena::Handle;
use mm::platform::Platform;
use mm::types::{PAGE_SIZE, Pfn};
use mm::{AllocError, Gfp};

/// The end of a herd's chain.
const BOTTOM: u64 = u64::MAX;
/// Words of a page that are written and checked when a herd is not thorough:
/// the first two and every 64th of the rest.
const SPARSE: usize = 64;

/// Any number of movable pages, last in, first out.
pub(crate) struct Herd<P: Platform> {
    ground: Ground<P>,
    top: Option<Handle>,
    pages: u64,
    step: usize,
}

impl<P: Platform> Herd<P> {
    /// No pages. Of those to come every byte will be written and checked.
    pub(crate) fn thorough(ground: &Ground<P>) -> Self {
        Self { ground: *ground, top: None, pages: 0, step: 1 }
    }

    /// No pages. Of those to come every 64th word will be written and checked:
    /// for herds of many pages.
    pub(crate) fn sparse(ground: &Ground<P>) -> Self {
        Self { ground: *ground, top: None, pages: 0, step: SPARSE }
    }

    /// Number of pages.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// Allocates pages with `gfp` until there are `limit` of them or no more
    /// are to be had.
    pub(crate) fn fill(&mut self, gfp: Gfp, limit: u64) -> CaseResult {
        while self.pages < limit {
            match self.ground.arena.alloc(self.ground.mm, gfp) {
                Ok(handle) => self.push(handle)?,
                Err(AllocError::NoMemory) => break,
                Err(why) => fail!("movable page, {gfp:?}: {why}"),
            }
        }
        Ok(())
    }

    /// Takes a page in and fills it.
    fn push(&mut self, handle: Handle) -> CaseResult {
        let step = self.step;
        let written = self.ground.arena.with(self.ground.mm, handle, |bytes| {
            let words = bytes.as_chunks_mut::<8>().0;
            for i in places(step) {
                words[i] = content(handle, i).to_le_bytes();
            }
        });
        check_ok!(written);
        self.chain(handle)
    }

    /// Takes a page in that is full already.
    fn chain(&mut self, handle: Handle) -> CaseResult {
        let below = self.top.map_or(BOTTOM, Handle::to_bits);
        check_ok!(self.ground.arena.with(self.ground.mm, handle, |bytes| {
            bytes[..8].copy_from_slice(&below.to_le_bytes());
        }));
        self.top = Some(handle);
        self.pages += 1;
        Ok(())
    }

    /// The page below one.
    fn below(&self, handle: Handle) -> CaseResult<Option<Handle>> {
        let read = |bytes: &mut [u8; PAGE_SIZE]| bytes.first_chunk().copied().unwrap_or_default();
        let below =
            u64::from_le_bytes(check_ok!(self.ground.arena.with(self.ground.mm, handle, read)));
        Ok((below != BOTTOM).then(|| Handle::from_bits(below)))
    }

    /// Checks a page; returns the one below it.
    fn check(&self, handle: Handle) -> CaseResult<Option<Handle>> {
        let wrong = check_ok!(self.ground.arena.with(self.ground.mm, handle, |bytes| {
            let words = bytes.as_chunks::<8>().0;
            let word = |i: usize| u64::from_le_bytes(words[i]);
            let wrong = places(self.step).find(|&i| word(i) != content(handle, i));
            wrong.map(|i| (i, word(i)))
        }));
        if let Some((i, found)) = wrong {
            let frame = self.ground.arena.frame(self.ground.mm, handle);
            fail!("word {i} of {handle:?}, now in {frame:?}, became {found:#x}");
        }
        self.below(handle)
    }

    /// The page that was put in last, checked.
    pub(crate) fn pop(&mut self) -> CaseResult<Option<Handle>> {
        let Some(handle) = self.top else { return Ok(None) };
        self.top = self.check(handle)?;
        self.pages -= 1;
        Ok(Some(handle))
    }

    /// The page that was put in last.
    pub(crate) fn top(&self) -> Option<Handle> {
        self.top
    }

    /// The frames in which the pages that were put in last are now, one for
    /// each place in `out`; fails if there are not so many.
    pub(crate) fn frames(&self, out: &mut [Pfn]) -> CaseResult {
        let mut next = self.top;
        for frame in out {
            let handle = check_ok!(next);
            *frame = check_ok!(self.ground.arena.frame(self.ground.mm, handle));
            next = self.check(handle)?;
        }
        Ok(())
    }

    /// Some page whose frame `is` so.
    pub(crate) fn find(&self, is: impl Fn(Pfn) -> bool) -> CaseResult<Option<Handle>> {
        let mut next = self.top;
        while let Some(handle) = next {
            if is(check_ok!(self.ground.arena.frame(self.ground.mm, handle))) {
                return Ok(Some(handle));
            }
            next = self.below(handle)?;
        }
        Ok(None)
    }

    /// How many pages' frames are so.
    pub(crate) fn count(&self, is: impl Fn(Pfn) -> bool) -> CaseResult<u64> {
        let (mut next, mut count) = (self.top, 0);
        while let Some(handle) = next {
            count += u64::from(is(check_ok!(self.ground.arena.frame(self.ground.mm, handle))));
            next = self.below(handle)?;
        }
        Ok(count)
    }

    /// Checks all pages.
    pub(crate) fn verify(&self) -> CaseResult {
        let mut next = self.top;
        while let Some(handle) = next {
            next = self.check(handle)?;
        }
        Ok(())
    }

    /// Frees the pages whose frames are not to `stay`.
    pub(crate) fn thin(&mut self, mut stay: impl FnMut(Pfn) -> bool) -> CaseResult {
        let Ground { mm, arena, .. } = self.ground;
        let mut kept = Self { ground: self.ground, top: None, pages: 0, step: self.step };
        let result = (|| {
            while let Some(handle) = self.top {
                self.top = self.below(handle)?;
                self.pages -= 1;
                if stay(check_ok!(arena.frame(mm, handle))) {
                    kept.chain(handle)?;
                } else {
                    check_ok!(arena.free(mm, handle));
                }
            }
            Ok(())
        })();
        // What is left of self after an error is freed as `kept` is dropped.
        core::mem::swap(self, &mut kept);
        if result.is_ok() {
            // The arena's tables stay, for those who fill this herd again.
            core::mem::forget(kept);
        }
        result
    }

    /// Frees all pages; fails if one has changed.
    pub(crate) fn release(mut self) -> CaseResult {
        while let Some(handle) = self.pop()? {
            check_ok!(self.ground.arena.free(self.ground.mm, handle));
        }
        Ok(())
    }
}

impl<P: Platform> Drop for Herd<P> {
    fn drop(&mut self) {
        let Ground { mm, arena, .. } = self.ground;
        // Not checked: what has changed is told already, and has to go too. A
        // broken chain ends here; the runner's tally tells of the rest.
        while let Some(handle) = self.top {
            self.top = self.below(handle).ok().flatten();
            let _ = arena.free(mm, handle);
        }
        // In vain as long as there is another herd: the last one does it.
        let _ = arena.release_tables(mm);
    }
}

/// The words of a page that have content; word 0 is the chain's.
fn places(step: usize) -> impl Iterator<Item = usize> {
    let words = PAGE_SIZE / 8;
    (1..words).step_by(step).chain([words - 1])
}

/// What word `i` of a page holds.
fn content(handle: Handle, i: usize) -> u64 {
    (handle.to_bits() ^ (i as u64) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
