//! What was typed and nobody has read yet. Calls nothing.

/// What ^C sends: end of text.
pub const INTERRUPT: u8 = 0x03;

/// A queue of bytes. A ^C throws away what was typed before it, as on Linux's
/// terminals; whether one is waiting to be read can be asked.
#[derive(Debug)]
pub struct Typed<const N: usize> {
    bytes: [u8; N],
    first: usize,
    len: usize,
    interrupts: usize,
}

impl<const N: usize> Typed<N> {
    /// Nothing was typed.
    pub const fn new() -> Self {
        Self { bytes: [0; N], first: 0, len: 0, interrupts: 0 }
    }

    /// Whether there is nothing to read.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether what is typed next is lost.
    pub const fn is_full(&self) -> bool {
        self.len == N
    }

    /// How much there is to read, in bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether a ^C is among what is to be read.
    pub const fn is_interrupted(&self) -> bool {
        self.interrupts > 0
    }

    /// Takes what was typed; false if there is no room for it, and it is lost.
    pub fn push(&mut self, byte: u8) -> bool {
        if byte == INTERRUPT {
            (self.len, self.interrupts) = (0, 1);
        } else if self.len == N {
            return false;
        }
        self.bytes[(self.first + self.len) % N] = byte;
        self.len += 1;
        true
    }

    /// Hands out what was typed first.
    pub fn pop(&mut self) -> Option<u8> {
        self.len = self.len.checked_sub(1)?;
        let byte = self.bytes[self.first];
        self.first = (self.first + 1) % N;
        self.interrupts -= usize::from(byte == INTERRUPT);
        Some(byte)
    }

    /// If a ^C is among what is to be read, drops it and what was typed before
    /// it.
    pub fn take_interrupt(&mut self) -> bool {
        let is = self.is_interrupted();
        while self.is_interrupted() {
            self.pop();
        }
        is
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(typed: &mut Typed<4>) -> Vec<u8> {
        core::iter::from_fn(|| typed.pop()).collect()
    }

    #[test]
    fn first_in_first_out_while_there_is_room() {
        let mut typed = Typed::<4>::new();
        for round in 0..10 {
            assert!(typed.is_empty());
            assert!((0..4).all(|byte| !typed.is_full() && typed.push(b'a' + round + byte)));
            assert!(typed.is_full());
            assert!(!typed.push(b'z'));
            assert_eq!(rest(&mut typed), [0, 1, 2, 3].map(|byte| b'a' + round + byte));
            assert!(typed.push(b'x'));
            assert_eq!(typed.pop(), Some(b'x'));
            assert_eq!(typed.pop(), None);
        }
    }

    /// It finds room even where there is none.
    #[test]
    fn an_interrupt_throws_away_what_came_before_it() {
        let mut typed = Typed::<4>::new();
        assert!(b"abcd".iter().all(|&byte| typed.push(byte)));
        assert!(!typed.is_interrupted() && !typed.take_interrupt());
        assert!(typed.push(INTERRUPT) && typed.push(b'e'));
        assert!(typed.is_interrupted());
        assert_eq!(rest(&mut typed), [INTERRUPT, b'e']);
        assert!(!typed.is_interrupted());
        for byte in [INTERRUPT, INTERRUPT, b'f'] {
            assert!(typed.push(byte));
        }
        assert!(typed.take_interrupt());
        assert!(!typed.take_interrupt() && !typed.is_interrupted());
        assert_eq!(rest(&mut typed), b"f");
    }
}
