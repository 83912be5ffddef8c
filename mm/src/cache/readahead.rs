//! Reading ahead: whoever reads one block after the other gets the next ones
//! before he asks, in a window that doubles (Linux mm/readahead.c). May call:
//! `pages`, `io`.

use super::io::Locked;
use super::{CacheError, CacheFile, PageCache};
use crate::gfp::Gfp;
use crate::mm::Mm;
use crate::platform::Platform;
use core::ops::Range;

/// The largest window, in blocks: 128 KiB.
pub(super) const MAX_WINDOW: u32 = 32;

/// How far somebody has read, and what was read ahead for him. Blocks.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Readahead {
    /// The window.
    start: u32,
    size: u32,
    /// Its last part, as much as this: when the first of it is wanted the next
    /// window is read.
    ahead: u32,
    /// The block that was read last.
    last: Option<u32>,
}

/// The first window of who wants `wanted` blocks.
fn first_size(wanted: u32) -> u32 {
    let size = wanted.clamp(1, MAX_WINDOW).next_power_of_two();
    match size {
        _ if size <= MAX_WINDOW / 32 => size * 4,
        _ if size <= MAX_WINDOW / 4 => size * 2,
        _ => MAX_WINDOW,
    }
}

/// The window after one of `size`.
fn next_size(size: u32) -> u32 {
    match size {
        _ if size < MAX_WINDOW / 16 => size * 4,
        _ if size <= MAX_WINDOW / 2 => size * 2,
        _ => MAX_WINDOW,
    }
}

impl Readahead {
    /// What to read when block `index` is not there, of which and of the blocks
    /// after it `wanted` are asked for.
    fn on_miss(&mut self, index: u32, wanted: u32) -> Range<u32> {
        let wanted = wanted.max(1);
        let end = self.start.saturating_add(self.size);
        if self.size > 0 && index == end {
            return self.advance();
        }
        let sequential = match self.last {
            Some(last) => index == last || index == last.saturating_add(1),
            None => index == 0,
        };
        if !sequential && wanted <= MAX_WINDOW {
            // Here and there: no more than is asked for.
            return index..index.saturating_add(wanted);
        }
        let size = first_size(wanted);
        let ahead = if size > wanted { size - wanted } else { size };
        (self.start, self.size, self.ahead) = (index, size, ahead);
        index..index.saturating_add(size)
    }

    /// What to read now that `index` is there and is being read, if anything.
    fn on_hit(&mut self, index: u32) -> Option<Range<u32>> {
        let mark = self.start.saturating_add(self.size - self.ahead);
        (self.ahead > 0 && index == mark).then(|| self.advance())
    }

    /// On to the next window.
    fn advance(&mut self) -> Range<u32> {
        self.start = self.start.saturating_add(self.size);
        self.size = next_size(self.size);
        self.ahead = self.size;
        self.start..self.start.saturating_add(self.size)
    }

    /// Notes that a block has been read; whether it was another one than before.
    pub(super) fn note(&mut self, index: u32) -> bool {
        self.last.replace(index) != Some(index)
    }
}

impl PageCache {
    /// Reads block `index`, which is not cached, and what is to be read with it.
    ///
    /// # Errors
    /// When there is no memory for that block; that it could not be read shows
    /// when it is looked at.
    pub(super) fn read_missing<P: Platform>(
        &self,
        mm: &Mm<P>,
        file: &mut CacheFile,
        index: u32,
        wanted: u32,
    ) -> Result<(), CacheError> {
        let window = file.ahead.on_miss(index, wanted);
        let Some(first) = self.add(mm, index, file.gfp)? else { return Ok(()) };
        let mut pages = Locked::new();
        pages.push(first);
        self.read_window(mm, file.gfp, index + 1..window.end, pages);
        Ok(())
    }

    /// Reads the next window if `index`, which is cached, says that it is time to.
    pub(super) fn read_on<P: Platform>(&self, mm: &Mm<P>, file: &mut CacheFile, index: u32) {
        if let Some(window) = file.ahead.on_hit(index) {
            self.read_window(mm, file.gfp, window, Locked::new());
        }
    }

    /// Reads what is not cached of a window together with `pages`, which are
    /// locked. Nobody asks for it yet: memory is not worth much effort.
    fn read_window<P: Platform>(
        &self,
        mm: &Mm<P>,
        gfp: Gfp,
        window: Range<u32>,
        mut pages: Locked,
    ) {
        let gfp = (gfp | Gfp::NORETRY | Gfp::NOWARN) - (Gfp::RETRY_MAYFAIL | Gfp::NOFAIL);
        let end = u64::from(window.end).min(self.device.blocks()) as u32;
        for index in window.start..end {
            if pages.is_full() {
                break;
            }
            match self.add(mm, index, gfp) {
                Ok(Some(pfn)) => pages.push(pfn),
                Ok(None) => {}
                Err(_) => break,
            }
        }
        if !pages.is_empty() {
            self.fill(mm, &pages);
        }
        for pfn in pages {
            mm.map.page(pfn).unlock();
            mm.lru_add(pfn);
            mm.put_lru(pfn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_double() {
        assert_eq!([1, 2, 4, 8, 16, 32, 100].map(first_size), [4, 4, 8, 16, 32, 32, 32]);
        assert_eq!([1, 2, 4, 8, 16, 32].map(next_size), [4, 4, 8, 16, 32, 32]);
    }

    #[test]
    fn who_reads_on_is_read_ahead_for() {
        let mut ahead = Readahead::default();
        assert_eq!(ahead.on_miss(0, 1), 0..4);
        let mut windows = std::vec::Vec::new();
        for index in 0..100 {
            windows.extend(ahead.on_hit(index));
            ahead.note(index);
        }
        // Each begins where the last one ends, and is read when that one's turn
        // comes.
        assert_eq!(windows, [4..12, 12..28, 28..60, 60..92, 92..124, 124..156]);
    }

    #[test]
    fn who_jumps_gets_what_he_asks_for() {
        let mut ahead = Readahead::default();
        assert_eq!(ahead.on_miss(70, 1), 70..71);
        ahead.note(70);
        assert_eq!((ahead.on_miss(7, 3), ahead.on_hit(7)), (7..10, None));
        ahead.note(9);
        // The second in a row is the beginning of something.
        assert_eq!(ahead.on_miss(10, 1), 10..14);
        assert_eq!(ahead.on_hit(11), Some(14..22));
        // More than a window is one.
        assert_eq!(ahead.on_miss(500, 100), 500..532);
        assert_eq!(ahead.on_miss(532, 68), 532..564);
    }

    #[test]
    fn nothing_is_beyond_the_last_number() {
        let mut ahead = Readahead::default();
        ahead.note(u32::MAX - 2);
        assert_eq!(ahead.on_miss(u32::MAX - 1, 1), u32::MAX - 1..u32::MAX);
        assert_eq!(ahead.on_miss(u32::MAX, 1), u32::MAX..u32::MAX);
    }
}
