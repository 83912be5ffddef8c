//! The regions of a group. May call: `table`.

use crate::mm::Mm;
use crate::platform::Platform;
use crate::space::region::{ByGroup, Region};
use crate::sync::{AtomicU32, Cpu, Lock, LockGuard, LockRank};
use core::ptr::NonNull;
use intrusive_collections::{LinkedList, UnsafeRef};

/// The regions that may have a group's pages, oldest first.
pub(crate) type Members = LinkedList<ByGroup>;

/// Regions whose pages are told apart by one set of numbers.
pub(super) struct Group {
    members: Lock<Members>,
    /// The next free group of its table, of one that is free.
    pub(super) next_free: AtomicU32,
}

impl Group {
    /// A free group, and which is the next.
    pub(super) fn new(next_free: u32) -> Self {
        let members = Lock::new(LockRank::Rmap, LinkedList::new(ByGroup::new()));
        Self { members, next_free: AtomicU32::new(next_free) }
    }
}

impl<P: Platform> Mm<P> {
    /// The regions of a group, locked; None if there is no such group.
    pub(crate) fn members<'a>(
        &'a self,
        group: u32,
        cpu: &Cpu<'a, P>,
    ) -> Option<LockGuard<'a, Members>> {
        // SAFETY: the token is to outlive the guard.
        Some(unsafe { self.group(group) }?.members.lock(cpu))
    }

    /// Has a region found by whoever walks its group. It is alive until
    /// [`group_leave`](Self::group_leave).
    pub(crate) fn group_join(&self, region: NonNull<Region>) {
        // SAFETY: the caller's region is alive.
        let group = unsafe { region.as_ref() }.group;
        let cpu = self.enter();
        if let Some(mut members) = self.members(group, &cpu) {
            // SAFETY: alive until it leaves, and nobody has a `&mut` to it.
            members.push_back(unsafe { UnsafeRef::from_raw(region.as_ptr()) });
        }
    }

    /// Takes a region that maps nothing any more out of its group, and gives the
    /// group up if it was the last.
    pub(crate) fn group_leave(&self, region: &Region) {
        let cpu = self.enter();
        let Some(mut members) = self.members(region.group, &cpu) else { return };
        // SAFETY: a region is in the list of the group that it names.
        let _ = unsafe { members.cursor_mut_from_ptr(region) }.remove();
        let empty = members.is_empty();
        drop(members);
        drop(cpu);
        // Who joins does so as a copy of a member: there will be none.
        if empty {
            self.group_free(region.group);
        }
    }
}
