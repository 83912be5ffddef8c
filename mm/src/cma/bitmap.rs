//! The bitmap of a contiguous area: which parts are allocated. Every call wants
//! the area's lock. Calls nothing but `sync`.

use crate::sync::{AtomicU64, Ordering::Relaxed};
use core::ops::Range;

const BITS: u64 = u64::BITS as u64;

/// `bits` bits in words that are somebody else's.
#[derive(Clone, Copy)]
pub(super) struct Bitmap<'a> {
    words: &'a [AtomicU64],
    bits: u64,
}

/// Words that `bits` bits take.
pub(super) const fn words(bits: u64) -> usize {
    bits.div_ceil(BITS) as usize
}

impl<'a> Bitmap<'a> {
    pub(super) fn new(words: &'a [AtomicU64], bits: u64) -> Self {
        debug_assert!(words.len() as u64 * BITS >= bits);
        Self { words, bits }
    }

    fn word(&self, index: u64) -> u64 {
        self.words[index as usize].load(Relaxed)
    }

    pub(super) fn is_set(&self, bit: u64) -> bool {
        self.word(bit / BITS) >> (bit % BITS) & 1 != 0
    }

    /// The first bit of `range` that is set (or clear, if `flip` is all ones).
    fn next(&self, range: Range<u64>, flip: u64) -> Option<u64> {
        let mut at = range.start;
        while at < range.end {
            let word = (self.word(at / BITS) ^ flip) >> (at % BITS);
            if word != 0 {
                return Some(at + u64::from(word.trailing_zeros())).filter(|&b| b < range.end);
            }
            at = (at / BITS + 1) * BITS;
        }
        None
    }

    /// The first run of `nr` clear bits from `start` on whose first bit, moved
    /// up by `offset`, is a multiple of `mask` + 1 (a power of two).
    pub(super) fn find_clear(&self, start: u64, nr: u64, mask: u64, offset: u64) -> Option<u64> {
        let mut at = start;
        loop {
            at = self.next(at..self.bits, u64::MAX)?;
            at = (at.checked_add(offset)?.checked_add(mask)? & !mask) - offset;
            let end = at.checked_add(nr).filter(|&end| end <= self.bits)?;
            match self.next(at..end, 0) {
                None => return Some(at),
                Some(taken) => at = taken + 1,
            }
        }
    }

    fn update(&self, range: Range<u64>, f: impl Fn(u64, u64) -> u64) {
        let mut at = range.start;
        while at < range.end {
            let end = ((at / BITS + 1) * BITS).min(range.end);
            let mask = u64::MAX >> (BITS - (end - at)) << (at % BITS);
            let word = &self.words[(at / BITS) as usize];
            word.store(f(word.load(Relaxed), mask), Relaxed);
            at = end;
        }
    }

    pub(super) fn set(&self, range: Range<u64>) {
        self.update(range, |word, mask| word | mask);
    }

    pub(super) fn clear(&self, range: Range<u64>) {
        self.update(range, |word, mask| word & !mask);
    }

    /// Bits that are set.
    pub(super) fn count(&self) -> u64 {
        self.words.iter().map(|w| u64::from(w.load(Relaxed).count_ones())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn new(bits: u64) -> Vec<AtomicU64> {
        (0..words(bits)).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn against_a_vector_of_flags() {
        let bits = 300;
        let store = new(bits);
        let map = Bitmap::new(&store, bits);
        let mut model = std::vec![false; bits as usize];
        let mut seed = 1u64;
        let mut below = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % n
        };
        for _ in 0..if cfg!(miri) { 200 } else { 20_000 } {
            let start = below(bits);
            let most = if below(4) == 0 { 150 } else { 6 };
            let nr = 1 + below(most);
            let mask = (1 << below(5)) - 1;
            let offset = below(mask + 1);
            let found = map.find_clear(start, nr, mask, offset);
            let expected = (start..bits).find(|&b| {
                (b + offset) & mask == 0
                    && b + nr <= bits
                    && !model[b as usize..(b + nr) as usize].contains(&true)
            });
            assert_eq!(found, expected);
            match found {
                Some(b) if below(2) == 0 => {
                    map.set(b..b + nr);
                    model[b as usize..(b + nr) as usize].fill(true);
                }
                _ => {
                    let end = (start + nr).min(bits);
                    map.clear(start..end);
                    model[start as usize..end as usize].fill(false);
                }
            }
            assert_eq!(map.count(), model.iter().filter(|&&set| set).count() as u64);
            let b = below(bits);
            assert_eq!(map.is_set(b), model[b as usize]);
        }
    }

    #[test]
    fn absurd_alignments_find_nothing() {
        let store = new(64);
        let map = Bitmap::new(&store, 64);
        assert_eq!(map.find_clear(0, 1, u64::MAX >> 1, 7), None);
        assert_eq!(map.find_clear(0, u64::MAX, 0, 0), None);
        assert_eq!(map.find_clear(0, 65, 0, 0), None);
        assert_eq!(map.find_clear(64, 1, 0, 0), None);
        assert_eq!(map.find_clear(0, 64, 0, 0), Some(0));
    }
}
