//! Memory tests: a pattern is written to all words of a range and read back,
//! and what reads back wrong is told (the idea of Linux `mm/memtest.c`). Works
//! on whatever reads and writes words. Pure.

use core::ops::Range;

/// Words of memory.
pub trait Words {
    /// How many.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Reads word `index`.
    fn read(&self, index: usize) -> u64;
    /// Writes word `index`.
    fn write(&mut self, index: usize, value: u64);
}

/// Nibbles that fill whole words: all bits alike, neighbours unlike, one bit in
/// four, two in four, three in four.
const NIBBLES: [u8; 16] =
    [0x0, 0xf, 0x5, 0xa, 0x1, 0x2, 0x4, 0x8, 0x3, 0x6, 0xc, 0x9, 0x7, 0xb, 0xd, 0xe];

/// What is written to a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pattern {
    /// The same in every word.
    Same(u64),
    /// Each word's own number in both halves, the upper one inverted: finds
    /// address lines that do not make a difference.
    Number,
}

impl Pattern {
    /// How many there are before they repeat.
    pub const COUNT: u32 = NIBBLES.len() as u32 + 1;

    /// The pattern with number `n`; the first is zero.
    pub fn numbered(n: u32) -> Self {
        match NIBBLES.get((n % Self::COUNT) as usize) {
            Some(&nibble) => Self::Same(u64::from(nibble) * 0x1111_1111_1111_1111),
            None => Self::Number,
        }
    }
}

/// Writes `pattern` to all of `memory`, then hands each run of words that do
/// not hold it to `bad`, lowest first.
pub fn check(memory: &mut impl Words, pattern: Pattern, bad: &mut dyn FnMut(Range<usize>)) {
    // A loop for each: the processor has billions of words to go through.
    match pattern {
        Pattern::Same(word) => check_words(memory, |_| word, bad),
        Pattern::Number => {
            let number = |index| (!(index as u64) << 32) | (index as u64 & 0xffff_ffff);
            check_words(memory, number, bad);
        }
    }
}

fn check_words(
    memory: &mut impl Words,
    want: impl Fn(usize) -> u64,
    bad: &mut dyn FnMut(Range<usize>),
) {
    let len = memory.len();
    for index in 0..len {
        memory.write(index, want(index));
    }
    let mut next = 0;
    while let Some(start) = (next..len).find(|&index| memory.read(index) != want(index)) {
        next = (start..len).find(|&index| memory.read(index) == want(index)).unwrap_or(len);
        bad(start..next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory with faults.
    struct Faulty {
        words: Vec<u64>,
        /// Words whose masked bits read as given.
        stuck: Vec<(usize, u64, u64)>,
        /// An address bit that makes no difference.
        dead_address_bit: Option<u32>,
    }

    impl Faulty {
        fn new(len: usize) -> Self {
            Self { words: vec![0; len], stuck: Vec::new(), dead_address_bit: None }
        }

        fn place(&self, index: usize) -> usize {
            self.dead_address_bit.map_or(index, |bit| index & !(1 << bit))
        }
    }

    impl Words for Faulty {
        fn len(&self) -> usize {
            self.words.len()
        }
        fn read(&self, index: usize) -> u64 {
            let mut word = self.words[self.place(index)];
            for &(_, mask, value) in self.stuck.iter().filter(|stuck| stuck.0 == index) {
                word = word & !mask | value;
            }
            word
        }
        fn write(&mut self, index: usize, value: u64) {
            let place = self.place(index);
            self.words[place] = value;
        }
    }

    fn bad_words(memory: &mut Faulty, patterns: u32) -> Vec<usize> {
        let mut found = Vec::new();
        for n in 0..patterns {
            check(memory, Pattern::numbered(n), &mut |run| found.extend(run));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    #[test]
    fn good_memory_is_good_and_left_with_the_pattern() {
        let mut memory = Faulty::new(300);
        assert!(bad_words(&mut memory, Pattern::COUNT).is_empty());
        check(&mut memory, Pattern::numbered(0), &mut |_| unreachable!());
        assert!(memory.words.iter().all(|&word| word == 0));
        check(&mut Faulty::new(0), Pattern::Number, &mut |_| unreachable!());
    }

    #[test]
    fn every_stuck_bit_is_found_by_two_patterns() {
        for bit in 0..64 {
            for value in [0, 1_u64 << bit] {
                let mut memory = Faulty::new(8);
                memory.stuck.push((5, 1 << bit, value));
                assert_eq!(bad_words(&mut memory, 2), [5], "bit {bit}");
            }
        }
    }

    #[test]
    fn runs_are_told_whole() {
        let mut memory = Faulty::new(10);
        for index in [0, 1, 2, 5, 8, 9] {
            memory.stuck.push((index, 1, 1));
        }
        let mut runs = Vec::new();
        check(&mut memory, Pattern::Same(0), &mut |run| runs.push(run));
        assert_eq!(runs, [0..3, 5..6, 8..10]);
    }

    #[test]
    fn dead_address_lines_are_found() {
        for bit in 0..8 {
            let mut memory = Faulty::new(256);
            memory.dead_address_bit = Some(bit);
            assert!(bad_words(&mut memory, Pattern::COUNT - 1).is_empty());
            assert!(!bad_words(&mut memory, Pattern::COUNT).is_empty(), "bit {bit}");
        }
    }

    #[test]
    fn patterns_repeat_and_begin_with_zero() {
        assert_eq!(Pattern::numbered(0), Pattern::Same(0));
        assert_eq!(Pattern::numbered(1), Pattern::Same(u64::MAX));
        assert_eq!(Pattern::numbered(16), Pattern::Number);
        assert_eq!(Pattern::numbered(17), Pattern::numbered(0));
    }
}
