//! Sets of CPUs, plain and shared. Calls nothing.

use crate::sdt::MAX_CPUS;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use mm::types::CpuId;

const WORDS: usize = MAX_CPUS / 64;

/// Some of the machine's CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CpuSet([u64; WORDS]);

/// Word and bit of a CPU; one that cannot be has none.
const fn place(cpu: CpuId) -> Option<(usize, u64)> {
    let at = cpu.0 as usize;
    if at < MAX_CPUS { Some((at / 64, 1 << (at % 64))) } else { None }
}

/// The number of a CPU that can be.
fn number(digits: &str) -> Option<u16> {
    // `parse` would take a sign.
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|&cpu: &u16| plain && usize::from(cpu) < MAX_CPUS)
}

impl CpuSet {
    /// No CPU.
    pub const EMPTY: Self = Self([0; WORDS]);
    /// Every CPU that there may be.
    pub const ALL: Self = Self([u64::MAX; WORDS]);

    /// One CPU.
    pub const fn one(cpu: CpuId) -> Self {
        let mut set = Self::EMPTY;
        set.add(cpu);
        set
    }

    /// Takes `cpu` in; one beyond [`MAX_CPUS`] is in no set.
    pub const fn add(&mut self, cpu: CpuId) {
        if let Some((word, bit)) = place(cpu) {
            self.0[word] |= bit;
        }
    }

    /// Takes `cpu` out.
    pub fn remove(&mut self, cpu: CpuId) {
        if let Some((word, bit)) = place(cpu) {
            self.0[word] &= !bit;
        }
    }

    /// Whether `cpu` is in it.
    pub fn contains(&self, cpu: CpuId) -> bool {
        place(cpu).is_some_and(|(word, bit)| self.0[word] & bit != 0)
    }

    /// The set without `cpu`.
    pub fn without(mut self, cpu: CpuId) -> Self {
        self.remove(cpu);
        self
    }

    /// The set that a list in Linux's syntax names, such as `0-3,7` (Linux
    /// `lib/bitmap.c`); None if it is no such list, or names a CPU beyond
    /// [`MAX_CPUS`].
    pub fn parse(list: &str) -> Option<Self> {
        let mut set = Self::EMPTY;
        for part in list.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return None;
            }
            (first..=last).for_each(|cpu| set.add(CpuId(cpu)));
        }
        Some(set)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; WORDS]
    }

    /// The CPUs, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = CpuId> + Clone + use<> {
        let words = self.0;
        words.into_iter().enumerate().flat_map(|(at, word)| {
            let bits = core::iter::successors(Some(word), |word| Some(word & word.wrapping_sub(1)));
            bits.take_while(|&word| word != 0)
                .map(move |word| CpuId((at * 64) as u16 + word.trailing_zeros() as u16))
        })
    }
}

impl FromIterator<CpuId> for CpuSet {
    fn from_iter<I: IntoIterator<Item = CpuId>>(cpus: I) -> Self {
        let mut set = Self::EMPTY;
        cpus.into_iter().for_each(|cpu| set.add(cpu));
        set
    }
}

/// As Linux lists CPUs: `0-3,7`.
impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if(|next| next.0 == last.0 + 1) {
                last = next;
            }
            write!(f, "{separator}{}", first.0)?;
            if last != first {
                write!(f, "-{}", last.0)?;
            }
            separator = ",";
        }
        Ok(())
    }
}

/// A set that CPUs change and read at the same time. Each change is seen by all
/// in the same order as the other changes of sets and mailboxes (sequentially
/// consistent).
#[derive(Debug)]
pub struct AtomicCpuSet([AtomicU64; WORDS]);

impl AtomicCpuSet {
    /// No CPU.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; WORDS])
    }

    /// Takes `cpu` in.
    pub fn add(&self, cpu: CpuId) {
        if let Some((word, bit)) = place(cpu) {
            self.0[word].fetch_or(bit, Ordering::SeqCst);
        }
    }

    /// Takes `cpu` out.
    pub fn remove(&self, cpu: CpuId) {
        if let Some((word, bit)) = place(cpu) {
            self.0[word].fetch_and(!bit, Ordering::SeqCst);
        }
    }

    /// Whether `cpu` is in it.
    pub fn contains(&self, cpu: CpuId) -> bool {
        place(cpu).is_some_and(|(word, bit)| self.0[word].load(Ordering::SeqCst) & bit != 0)
    }

    /// What is in it at some moment, word by word.
    pub fn get(&self) -> CpuSet {
        CpuSet(core::array::from_fn(|word| self.0[word].load(Ordering::SeqCst)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_was_put_in() {
        let numbers = [0, 1, 63, 64, 127, 200, 255];
        let mut set: CpuSet = numbers.into_iter().map(CpuId).collect();
        assert_eq!(set.iter().map(|cpu| cpu.0).collect::<Vec<_>>(), numbers);
        assert_eq!((set.len(), set.is_empty()), (7, false));
        for cpu in (0..300).map(CpuId) {
            assert_eq!(set.contains(cpu), numbers.contains(&cpu.0), "{cpu:?}");
        }
        set.add(CpuId(256));
        set.remove(CpuId(63));
        assert_eq!((set.len(), set.contains(CpuId(63))), (6, false));
        assert_eq!(set.without(CpuId(64)).len(), 5);
        assert!(CpuSet::one(CpuId(9)).without(CpuId(9)).is_empty());
        let shared = AtomicCpuSet::new();
        numbers.into_iter().for_each(|cpu| shared.add(CpuId(cpu)));
        shared.remove(CpuId(63));
        assert_eq!(shared.get(), set);
        assert!(shared.contains(CpuId(255)) && !shared.contains(CpuId(63)));
    }

    #[test]
    fn lists_are_linuxs() {
        let list = |cpus: &[u16]| cpus.iter().copied().map(CpuId).collect::<CpuSet>().to_string();
        assert_eq!(list(&[]), "");
        assert_eq!(list(&[5]), "5");
        assert_eq!(list(&[0, 1, 2, 3]), "0-3");
        assert_eq!(list(&[0, 2, 3, 63, 64, 255]), "0,2-3,63-64,255");
    }

    #[test]
    fn lists_are_read() {
        for (list, same) in [("5", "5"), ("1,3", "1,3"), ("0-3,7", "0-3,7"), ("7,2,0-2", "0-2,7")] {
            let set = CpuSet::parse(list).expect(list);
            assert_eq!(set.to_string(), same, "{list}");
        }
        assert_eq!(CpuSet::parse("0-255"), Some(CpuSet::ALL));
        for list in
            ["", ",", "1,", "a", "1-", "-1", "3-1", "256", "0-256", "+1", "1 ", "1--2", "99999"]
        {
            assert_eq!(CpuSet::parse(list), None, "{list}");
        }
    }
}
