//! Completion by tab: the longest prefix that all words have which could stand
//! at the cursor, and a list of them in columns. Calls `display`.

use super::display::put;
use core::fmt;

/// Knows which words could stand somewhere.
pub trait Complete {
    /// Calls `each` with words that could stand after `before`, the line up to
    /// the word that is to be completed. They need not begin with `word`, what
    /// there is of it; saying only those that do is a courtesy. A word that ends
    /// in `.`, `/`, `=`, `[` or `|` is the start of one.
    fn words(&self, before: &str, word: &str, each: &mut dyn FnMut(&str));
}

/// Nobody knows any word.
impl Complete for () {
    fn words(&self, _before: &str, _word: &str, _each: &mut dyn FnMut(&str)) {}
}

/// Longest word that is completed.
const WORD_MAX: usize = 128;

/// What can be said about all words that fit.
#[derive(Debug)]
pub(super) struct Candidates {
    /// What they have in common at the start.
    common: [u8; WORD_MAX],
    len: usize,
    count: usize,
    longest: usize,
}

/// Where the last word of `text` begins. `|` joins words.
pub(super) fn word_start(text: &str) -> usize {
    text.rfind([' ', '|']).map_or(0, |at| at + 1)
}

/// Calls `each` with every word that can go on from `text`. None that the line
/// could not hold.
fn fitting(from: &dyn Complete, text: &str, each: &mut dyn FnMut(&str)) {
    let (before, word) = text.split_at(word_start(text));
    from.words(before, word, &mut |found| {
        let printable = found.bytes().all(|byte| byte.is_ascii_graphic());
        if found.starts_with(word) && found.len() <= WORD_MAX && printable {
            each(found);
        }
    });
}

impl Candidates {
    /// Of the words that go on from `text`.
    pub(super) fn of(from: &dyn Complete, text: &str) -> Self {
        let mut found = Self { common: [0; WORD_MAX], len: 0, count: 0, longest: 0 };
        fitting(from, text, &mut |word| found.add(word.as_bytes()));
        found
    }

    fn add(&mut self, word: &[u8]) {
        if self.count == 1 && self.common() == word {
            // Two sources may know the same word.
            return;
        }
        if self.count == 0 {
            self.common[..word.len()].copy_from_slice(word);
            self.len = word.len();
        } else {
            let common = self.common[..self.len].iter().zip(word);
            self.len = common.take_while(|(a, b)| a == b).count();
        }
        self.count += 1;
        self.longest = self.longest.max(word.len());
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// What all of them begin with.
    pub(super) fn common(&self) -> &[u8] {
        &self.common[..self.len]
    }

    /// Whether the only one is a whole word.
    pub(super) fn is_whole(&self) -> bool {
        let ends = |byte| matches!(byte, b'.' | b'/' | b'=' | b'[' | b'|');
        self.count == 1 && !self.common().last().copied().is_some_and(ends)
    }

    /// Lists them, in rows of at most `width` columns.
    pub(super) fn list(
        &self,
        from: &dyn Complete,
        text: &str,
        width: usize,
        out: &mut dyn fmt::Write,
    ) {
        let cell = self.longest + 2;
        let columns = (width / cell).max(1);
        // Words in the row so far, and the blanks up to the next one.
        let (mut at, mut blanks) = (0, 0);
        fitting(from, text, &mut |word| {
            if at == columns {
                put(b"\r\n", out);
                (at, blanks) = (0, 0);
            }
            (0..blanks).for_each(|_| put(b" ", out));
            put(word.as_bytes(), out);
            (at, blanks) = (at + 1, cell - word.len());
        });
        put(b"\r\n", out);
    }
}
