//! What a cache has on one node: its slabs by how full they are, reserve slabs
//! apart from the others, and the array that the node's CPUs share. All under
//! one lock. May call: `slabs`, `list`.

use super::slabs::{Fill, Slab};
use crate::list::PageList;
use crate::memmap::MemMap;
use crate::sync::{Lock, LockRank};
use core::ptr::NonNull;

/// A cache's part of a node.
#[derive(Debug)]
pub(crate) struct CacheNode {
    pub(crate) lists: Lock<NodeLists>,
}

impl Default for CacheNode {
    fn default() -> Self {
        Self { lists: Lock::new(LockRank::SlabNode, NodeLists::default()) }
    }
}

/// What the node's lock protects.
#[derive(Debug, Default)]
pub(crate) struct NodeLists {
    /// Normal slabs, then reserve slabs; each full, partial, free.
    lists: [[PageList; 3]; 2],
    /// Free objects in all slabs (those in arrays are in use).
    pub(crate) free_objects: u64,
    /// The colour of the next slab.
    next_colour: u16,
    /// A free slab was used since the reaper last looked.
    pub(crate) free_touched: bool,
    /// When the reaper is due here, ms.
    pub(crate) next_reap: u64,
    /// Objects that the node's CPUs pass to each other.
    pub(crate) shared: Option<NonNull<super::array::ArrayCache>>,
}

// SAFETY: the shared array is owned by this value.
unsafe impl Send for NodeLists {}

impl NodeLists {
    /// The list of slabs that are so full, of the reserves or not.
    pub(crate) fn list(&mut self, reserve: bool, fill: Fill) -> &mut PageList {
        &mut self.lists[usize::from(reserve)][fill as usize]
    }

    /// The shared array.
    pub(crate) fn shared(&mut self) -> Option<&mut super::array::ArrayCache> {
        // SAFETY: it is alive while it is entered here, and reached from here
        // only, under the lock.
        self.shared.map(|array| unsafe { &mut *array.as_ptr() })
    }

    /// Slabs on all lists.
    pub(crate) fn slabs(&self) -> u64 {
        self.lists.iter().flatten().map(|l| u64::from(l.len())).sum()
    }

    /// Slabs without an object in use.
    pub(crate) fn free_slabs(&self) -> u64 {
        self.lists.iter().map(|l| u64::from(l[Fill::Free as usize].len())).sum()
    }

    /// Slabs of the reserves.
    pub(crate) fn reserve_slabs(&self) -> u64 {
        self.lists[1].iter().map(|l| u64::from(l.len())).sum()
    }

    /// Whether slabs of the reserves have free objects.
    pub(crate) fn has_reserve_objects(&self) -> bool {
        !self.lists[1][Fill::Partial as usize].is_empty()
            || !self.lists[1][Fill::Free as usize].is_empty()
    }

    /// The next colour of `colours`.
    pub(crate) fn colour(&mut self, colours: u16) -> u16 {
        self.next_colour += 1;
        if self.next_colour >= colours {
            self.next_colour = 0;
        }
        self.next_colour
    }

    /// Enters a slab that is on no list, with `free` free objects.
    pub(crate) fn insert(&mut self, map: &MemMap, slab: &Slab<'_>, free: u64) {
        self.free_objects += free;
        self.list(slab.is_reserve(), slab.fill()).push_front(map, slab.pfn);
    }

    /// Takes a slab off its list.
    pub(crate) fn remove(&mut self, map: &MemMap, slab: &Slab<'_>, free: u64) {
        self.free_objects -= free;
        self.list(slab.is_reserve(), slab.fill()).remove(map, slab.pfn);
    }

    /// Takes up to `want` objects out of a listed slab, and moves it to the
    /// list it belongs on now.
    pub(crate) fn take(
        &mut self,
        map: &MemMap,
        slab: &Slab<'_>,
        want: u32,
        sink: &mut dyn FnMut(NonNull<u8>),
    ) -> u32 {
        let (reserve, before) = (slab.is_reserve(), slab.fill());
        let taken = slab.take(want, sink);
        self.free_objects -= u64::from(taken);
        let after = slab.fill();
        if before == Fill::Free && taken > 0 {
            self.free_touched = true;
        }
        if before != after {
            self.list(reserve, before).remove(map, slab.pfn);
            self.list(reserve, after).push_front(map, slab.pfn);
        }
        taken
    }

    /// Makes object `i` of a listed slab free, and moves the slab to the list
    /// it belongs on now. False if the object was free already.
    #[must_use]
    pub(crate) fn put(&mut self, map: &MemMap, slab: &Slab<'_>, i: u16) -> bool {
        let (reserve, before) = (slab.is_reserve(), slab.fill());
        if !slab.put(i) {
            return false;
        }
        self.free_objects += 1;
        let after = slab.fill();
        if after == Fill::Free {
            self.list(reserve, before).remove(map, slab.pfn);
            self.list(reserve, after).push_front(map, slab.pfn);
        } else if self.list(reserve, after).last() != Some(slab.pfn) {
            // To the tail: it has time to become free altogether.
            self.list(reserve, before).remove(map, slab.pfn);
            self.list(reserve, after).push_back(map, slab.pfn);
        }
        true
    }

    /// A free slab that may be given back, one of the reserves first.
    pub(crate) fn surplus(&mut self) -> Option<crate::types::Pfn> {
        let reserve = self.list(true, Fill::Free).last();
        reserve.or_else(|| self.list(false, Fill::Free).last())
    }
}
