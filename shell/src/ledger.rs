//! Where the lab notes what it holds: lists of words in chunks of a page. The
//! first chunks come from a pool, so that small experiments change nothing on
//! the machine; more come from the machine itself. May call `mm`.

use crate::errno::{Errno, Error};
use mm::gfp::{Gfp, Page, Request};
use mm::platform::Platform;
use mm::types::{Order, Pfn};
use mm::{AllocError, Mm};

/// Words in a chunk, the first of which names the next chunk.
const CHUNK: usize = 512;
/// Words of a list that a chunk holds.
pub(crate) const PIECE: usize = CHUNK - 1;
/// Chunks in the pool: 8176 words.
const POOL: usize = 16;

/// A chunk: 0 for none, from 1 on one of the pool, with the highest bit set a
/// frame of the machine.
type Chunk = u64;

const FRAME: u64 = 1 << 63;

/// A list of words; empty when new. It is given back by [`Ledger::clear`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct List {
    first: Chunk,
    last: Chunk,
    len: u64,
}

impl List {
    pub(crate) const NEW: Self = Self { first: 0, last: 0, len: 0 };

    /// Words in the list.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }
}

/// A place in a list, between two pieces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    chunk: Chunk,
    index: u64,
    left: u64,
}

impl Cursor {
    pub(crate) fn new(list: &List) -> Self {
        Self { chunk: list.first, index: 0, left: list.len }
    }
}

/// All chunks.
pub(crate) struct Ledger {
    pool: [[u64; CHUNK]; POOL],
    /// A bit for each chunk of the pool that is in use.
    used: u32,
}

impl Ledger {
    pub(crate) const fn new() -> Self {
        Self { pool: [[0; CHUNK]; POOL], used: 0 }
    }

    fn words<P: Platform>(&mut self, mm: &Mm<P>, chunk: Chunk) -> Option<&mut [u64; CHUNK]> {
        if chunk & FRAME == 0 {
            return self.pool.get_mut((chunk as usize).checked_sub(1)?);
        }
        let frame = mm.platform().frame(Pfn(chunk - FRAME)).cast::<[u64; CHUNK]>();
        // SAFETY: the frame was allocated for this ledger, which alone makes
        // chunks of it, and was filled with words when it was; the ledger is
        // borrowed as long as the reference lives.
        Some(unsafe { &mut *frame })
    }

    fn obtain<P: Platform>(&mut self, mm: &Mm<P>) -> Result<Chunk, Error> {
        let free = (!self.used).trailing_zeros();
        if (free as usize) < POOL {
            self.used |= 1 << free;
            self.pool[free as usize] = [0; CHUNK];
            return Ok(u64::from(free) + 1);
        }
        let page = page(mm).map_err(|_| {
            Error::new(Errno::ENOMEM, "no page is left to note down what the lab holds")
        })?;
        let frame = mm.platform().frame(page.pfn).cast::<[u64; CHUNK]>();
        // SAFETY: the page is ours alone.
        unsafe { frame.write([0; CHUNK]) };
        Ok(FRAME | page.pfn.0)
    }

    /// Sees to it that the next [`push`](Self::push) finds a place.
    ///
    /// # Errors
    /// ENOMEM.
    pub(crate) fn reserve<P: Platform>(
        &mut self,
        mm: &Mm<P>,
        list: &mut List,
    ) -> Result<(), Error> {
        let has_room = !list.len.is_multiple_of(PIECE as u64);
        let has_spare = self.next(mm, list.last) != 0 || list.len == 0 && list.first != 0;
        if has_room || has_spare {
            return Ok(());
        }
        let chunk = self.obtain(mm)?;
        match self.words(mm, list.last) {
            Some(words) => words[0] = chunk,
            None => list.first = chunk,
        }
        Ok(())
    }

    fn next<P: Platform>(&mut self, mm: &Mm<P>, chunk: Chunk) -> Chunk {
        self.words(mm, chunk).map_or(0, |words| words[0])
    }

    /// Words for which there is a place in the chunk that is filled next.
    pub(crate) fn room(list: &List) -> usize {
        PIECE - (list.len % PIECE as u64) as usize
    }

    /// Adds a word. False: there was no place [reserved](Self::reserve) for it.
    pub(crate) fn push<P: Platform>(&mut self, mm: &Mm<P>, list: &mut List, word: u64) -> bool {
        let at = (list.len % PIECE as u64) as usize;
        if at == 0 {
            let next = if list.len == 0 { list.first } else { self.next(mm, list.last) };
            if next == 0 {
                return false;
            }
            list.last = next;
        }
        let Some(words) = self.words(mm, list.last) else { return false };
        words[1 + at] = word;
        list.len += 1;
        true
    }

    /// The words from the cursor to the end of their chunk, and the index of
    /// the first; the cursor moves behind them. None at the end of the list.
    pub(crate) fn piece<P: Platform>(
        &mut self,
        mm: &Mm<P>,
        cursor: &mut Cursor,
    ) -> Option<(u64, &mut [u64])> {
        let index = cursor.index;
        let len = cursor.left.min(PIECE as u64);
        if len == 0 {
            return None;
        }
        let words = self.words(mm, cursor.chunk)?;
        cursor.chunk = words[0];
        cursor.index += len;
        cursor.left -= len;
        Some((index, &mut words[1..=len as usize]))
    }

    /// One word of a list.
    pub(crate) fn at<P: Platform>(
        &mut self,
        mm: &Mm<P>,
        list: &List,
        index: u64,
    ) -> Option<&mut u64> {
        if index >= list.len {
            return None;
        }
        let mut chunk = list.first;
        for _ in 0..index / PIECE as u64 {
            chunk = self.next(mm, chunk);
        }
        self.words(mm, chunk)?.get_mut(1 + (index % PIECE as u64) as usize)
    }

    /// Gives all of a list's chunks back; it is empty then.
    pub(crate) fn clear<P: Platform>(&mut self, mm: &Mm<P>, list: &mut List) {
        let mut chunk = core::mem::replace(list, List::NEW).first;
        while chunk != 0 {
            let next = self.next(mm, chunk);
            if chunk & FRAME == 0 {
                self.used &= !(1 << (chunk - 1));
            } else {
                // It was allocated so; nothing is lost but a page if not.
                let _ = mm.free_pages(Page { pfn: Pfn(chunk - FRAME), order: Order(0) });
            }
            chunk = next;
        }
    }
}

/// A page for notes. They are what the experiment is watched with: when nothing
/// is left but reserves, they come from there, and no fault is meant for them.
fn page<P: Platform>(mm: &Mm<P>) -> Result<Page, AllocError> {
    let plain = Gfp::NOWAIT | Gfp::NOWARN | Gfp::NOMEMALLOC;
    let deep = Gfp::NOWAIT | Gfp::NOWARN | Gfp::MEMALLOC;
    mm.alloc_pages_spared(Request::new(Order(0), plain))
        .or_else(|_| mm.alloc_pages_spared(Request::new(Order(0), deep)))
}
