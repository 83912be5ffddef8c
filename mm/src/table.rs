//! A vector over a slice that somebody else owns: the tables of early boot,
//! when there is no allocator and the stack is small. Calls nothing.

use core::ops::{Deref, DerefMut};

/// The first `len` elements of a borrowed slice, which is the capacity.
#[derive(Debug)]
pub(crate) struct Table<'a, T> {
    slots: &'a mut [T],
    len: usize,
}

impl<'a, T: Copy> Table<'a, T> {
    /// An empty table that can hold `slots.len()` elements.
    pub(crate) const fn new(slots: &'a mut [T]) -> Self {
        Self { slots, len: 0 }
    }

    /// Elements it can hold.
    pub(crate) const fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Whether the next insertion would fail.
    pub(crate) const fn is_full(&self) -> bool {
        self.len == self.slots.len()
    }

    /// Inserts before index `at`; false when the table is full or `at` lies
    /// beyond its end.
    pub(crate) fn insert(&mut self, at: usize, value: T) -> bool {
        if self.is_full() || at > self.len {
            return false;
        }
        self.slots.copy_within(at..self.len, at + 1);
        self.slots[at] = value;
        self.len += 1;
        true
    }

    /// Appends; false when the table is full.
    pub(crate) fn push(&mut self, value: T) -> bool {
        self.insert(self.len, value)
    }

    /// Takes element `at` out, if there is one.
    pub(crate) fn remove(&mut self, at: usize) -> Option<T> {
        let value = *self.get(at)?;
        self.slots.copy_within(at + 1..self.len, at);
        self.len -= 1;
        Some(value)
    }

    /// Forgets all elements from index `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The elements, for as long as the slice was lent.
    pub(crate) fn into_slice(self) -> &'a mut [T] {
        &mut self.slots[..self.len]
    }
}

impl<T> Deref for Table<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.slots[..self.len]
    }
}

impl<T> DerefMut for Table<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.slots[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_the_slice_holds() {
        let mut slots = [0u8; 3];
        let mut table = Table::new(&mut slots);
        assert!(table.push(1) && table.push(3) && table.insert(1, 2));
        assert!(!table.push(4) && !table.insert(0, 4));
        assert_eq!(*table, [1, 2, 3]);
        assert_eq!(table.remove(0), Some(1));
        assert_eq!(table.remove(2), None);
        assert!(!table.insert(3, 9), "no gap may be left");
        table.truncate(1);
        assert_eq!(table.into_slice(), [2]);
    }
}
