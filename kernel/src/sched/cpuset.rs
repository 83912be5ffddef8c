//! A set of CPUs. Pure.

use crate::sdt::MAX_CPUS;
use mm::types::CpuId;

/// A set of CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuSet([u64; MAX_CPUS / 64]);

impl CpuSet {
    /// No CPU.
    pub const EMPTY: Self = Self([0; MAX_CPUS / 64]);
    /// Every CPU there may be.
    pub const ALL: Self = Self([u64::MAX; MAX_CPUS / 64]);

    /// `cpu` alone.
    pub const fn one(cpu: CpuId) -> Self {
        let mut set = Self::EMPTY;
        set.add(cpu);
        set
    }

    /// Takes `cpu` in. One beyond [`MAX_CPUS`] is in no set.
    pub const fn add(&mut self, cpu: CpuId) {
        if (cpu.0 as usize) < MAX_CPUS {
            self.0[cpu.0 as usize / 64] |= 1 << (cpu.0 % 64);
        }
    }

    /// Whether `cpu` is in it.
    pub const fn contains(&self, cpu: CpuId) -> bool {
        (cpu.0 as usize) < MAX_CPUS && self.0[cpu.0 as usize / 64] >> (cpu.0 % 64) & 1 != 0
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        let (mut sum, mut at) = (0, 0);
        while at < self.0.len() {
            sum += self.0[at].count_ones() as usize;
            at += 1;
        }
        sum
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_was_put_in() {
        let mut set = CpuSet::EMPTY;
        assert!(set.is_empty());
        for (number, cpu) in [0, 63, 64, 255, 256, 65535].into_iter().enumerate() {
            assert!(!set.contains(CpuId(cpu)));
            set.add(CpuId(cpu));
            assert_eq!(set.contains(CpuId(cpu)), cpu < 256);
            assert_eq!(set.len(), (number + 1).min(4));
        }
        assert!(CpuSet::ALL.contains(CpuId(255)) && !CpuSet::ALL.contains(CpuId(256)));
        assert_eq!(CpuSet::one(CpuId(3)).len(), 1);
    }
}
