//! What is plugged: a word of bits for each group, in memory that the caller
//! gives, so that a region of a terabyte costs what can be had or not. May call:
//! `geometry`.

use super::geometry::{GroupId, Run};

/// What the memory manager knows of a group.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(u8)]
pub enum Known {
    /// Nothing: it has no descriptors.
    #[default]
    No,
    /// It has been added.
    Added,
    /// The manager will not have it.
    Refused,
}

/// The state of one group.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Group {
    /// Units that the device has made memory, by what it answered.
    pub(super) plugged: u64,
    /// Those of them that are not the memory manager's: something went wrong
    /// between device and manager, and they have to wait.
    pub(super) withheld: u64,
    pub(super) known: Known,
}

impl Group {
    /// Nothing plugged, unknown.
    pub const EMPTY: Self = Self { plugged: 0, withheld: 0, known: Known::No };
}

/// All groups of a region.
#[derive(Debug)]
pub struct Groups<'a> {
    groups: &'a mut [Group],
    /// Units plugged in all of them.
    plugged: u64,
}

impl<'a> Groups<'a> {
    /// None plugged.
    #[must_use]
    pub fn new(groups: &'a mut [Group]) -> Self {
        groups.fill(Group::EMPTY);
        Self { groups, plugged: 0 }
    }

    /// Units plugged.
    #[must_use]
    pub const fn plugged(&self) -> u64 {
        self.plugged
    }

    /// All numbers, lowest first.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = GroupId> + use<> {
        (0..self.groups.len() as u32).map(GroupId)
    }

    /// A group's state.
    #[must_use]
    pub fn get(&self, id: GroupId) -> Group {
        self.groups[id.0 as usize]
    }

    /// Notes what the memory manager knows of a group.
    pub fn set_known(&mut self, id: GroupId, known: Known) {
        self.groups[id.0 as usize].known = known;
    }

    /// Notes that the device has made a run memory; it is withheld until
    /// [`set_provided`](Self::set_provided).
    pub fn set_plugged(&mut self, run: Run) {
        let group = &mut self.groups[run.group.0 as usize];
        debug_assert!(group.plugged & run.mask() == 0, "{run:?} is plugged");
        group.plugged |= run.mask();
        group.withheld |= run.mask();
        self.plugged += u64::from(run.count);
    }

    /// Notes that a run is no memory any more; it was withheld before.
    pub fn set_unplugged(&mut self, run: Run) {
        let group = &mut self.groups[run.group.0 as usize];
        debug_assert!(group.withheld & run.mask() == run.mask(), "{run:?} is in use");
        group.plugged &= !run.mask();
        group.withheld &= !run.mask();
        self.plugged -= u64::from(run.count);
    }

    /// Notes that a plugged run is the memory manager's.
    pub fn set_provided(&mut self, run: Run) {
        self.groups[run.group.0 as usize].withheld &= !run.mask();
    }

    /// Notes that a plugged run is not the memory manager's any more.
    pub fn set_withheld(&mut self, run: Run) {
        let group = &mut self.groups[run.group.0 as usize];
        debug_assert!(group.plugged & run.mask() == run.mask(), "{run:?} is not plugged");
        group.withheld |= run.mask();
    }
}

/// The lowest run of bits in `mask`, of at most `most` units (at least 1).
#[must_use]
pub fn lowest_run(group: GroupId, mask: u64, most: u64) -> Option<Run> {
    if mask == 0 || most == 0 {
        return None;
    }
    let first = mask.trailing_zeros();
    let count = (mask >> first).trailing_ones().min(most.min(64) as u32);
    Some(Run { group, first: first as u8, count: count as u8 })
}

/// The highest run of bits in `mask`, of at most `most` units (at least 1).
#[must_use]
pub fn highest_run(group: GroupId, mask: u64, most: u64) -> Option<Run> {
    if mask == 0 || most == 0 {
        return None;
    }
    let above = mask.leading_zeros();
    let count = (mask << above).leading_ones().min(most.min(64) as u32);
    Some(Run { group, first: (64 - above - count) as u8, count: count as u8 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: GroupId = GroupId(0);

    fn run(first: u8, count: u8) -> Option<Run> {
        Some(Run { group: G, first, count })
    }

    #[test]
    fn runs_from_either_end() {
        let mask = 0b0110_1110;
        assert_eq!(lowest_run(G, mask, 64), run(1, 3));
        assert_eq!(lowest_run(G, mask, 2), run(1, 2));
        assert_eq!(highest_run(G, mask, 64), run(5, 2));
        assert_eq!(highest_run(G, mask, 1), run(6, 1));
        for (mask, most) in [(0, 64), (u64::MAX, 0)] {
            assert_eq!(lowest_run(G, mask, most), None);
            assert_eq!(highest_run(G, mask, most), None);
        }
        for f in [lowest_run, highest_run] {
            assert_eq!(f(G, u64::MAX, u64::MAX), run(0, 64));
            assert_eq!(f(G, 1 << 63, 9), run(63, 1));
        }
    }

    #[test]
    fn units_are_counted_once() {
        let mut store = [Group { plugged: 7, withheld: 7, known: Known::Added }; 2];
        let mut groups = Groups::new(&mut store);
        assert_eq!(groups.plugged(), 0);
        let run = Run { group: GroupId(1), first: 4, count: 3 };
        groups.set_plugged(run);
        groups.set_provided(run);
        assert_eq!((groups.plugged(), groups.get(GroupId(1)).withheld), (3, 0));
        let one = Run { first: 5, count: 1, ..run };
        groups.set_withheld(one);
        groups.set_unplugged(one);
        assert_eq!((groups.plugged(), groups.get(GroupId(1)).plugged), (2, 0b101_0000));
        assert_eq!(groups.get(GroupId(0)), Group::EMPTY);
    }
}
