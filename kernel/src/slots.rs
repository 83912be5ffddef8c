//! Numbers handed out and taken back, lowest first. Pure.

/// Which of `64 * WORDS` numbers are in use: a bit each.
#[derive(Debug)]
pub struct Slots<const WORDS: usize>([u64; WORDS]);

impl<const WORDS: usize> Slots<WORDS> {
    /// All are free.
    pub const fn new() -> Self {
        Self([0; WORDS])
    }

    /// Takes the lowest number that is free.
    pub fn take(&mut self) -> Option<usize> {
        let (at, word) = self.0.iter_mut().enumerate().find(|(_, word)| **word != u64::MAX)?;
        let bit = word.trailing_ones() as usize;
        *word |= 1 << bit;
        Some(at * 64 + bit)
    }

    /// Makes `number` free again; one that is free already stays so.
    pub fn give_back(&mut self, number: usize) {
        if let Some(word) = self.0.get_mut(number / 64) {
            *word &= !(1 << (number % 64));
        }
    }

    /// How many are in use.
    pub fn used(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_one_is_next() {
        let mut slots = Slots::<2>::new();
        for number in 0..128 {
            assert_eq!((slots.used(), slots.take()), (number, Some(number)));
        }
        assert_eq!(slots.take(), None);
        for number in [127, 64, 63, 5] {
            slots.give_back(number);
        }
        slots.give_back(5);
        slots.give_back(1000);
        for number in [5, 63, 64, 127] {
            assert_eq!(slots.take(), Some(number));
        }
        assert_eq!((slots.used(), slots.take()), (128, None));
    }
}
