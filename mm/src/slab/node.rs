//! What a cache has on one node: its slabs by how full they are, reserve slabs
//! apart from the others, and the array that the node's CPUs share, all under
//! one lock; and for each other node an array of objects on their way home
//! (Linux calls them aliens), each under a lock of its own, which is never held
//! together with the other. May call: `slabs`, `array`, `list`.

use super::array::ArrayCache;
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
    pub(crate) shared: Option<NonNull<ArrayCache>>,
}

// SAFETY: the shared array is owned by this value.
unsafe impl Send for NodeLists {}

/// Objects of one other node that this node's CPUs have freed.
#[derive(Debug, Default)]
pub(crate) struct Alien(Option<NonNull<ArrayCache>>);

// SAFETY: the array is owned by this value.
unsafe impl Send for Alien {}

/// Objects that an alien array holds (Linux: 12, whatever the cache).
pub(crate) const ALIEN_LIMIT: u32 = 12;

impl Alien {
    /// The array, if there is one yet.
    pub(crate) fn array(&mut self) -> Option<&mut ArrayCache> {
        // SAFETY: it is alive while it is entered here, and reached from here
        // only, under the lock.
        self.0.map(|array| unsafe { &mut *array.as_ptr() })
    }

    /// Enters an array where there is none. False if there is one.
    ///
    /// # Safety
    /// The array is alive and the caller's, who gives it away.
    pub(crate) unsafe fn set(&mut self, array: NonNull<ArrayCache>) -> bool {
        let vacant = self.0.is_none();
        self.0 = self.0.or(Some(array));
        vacant
    }

    /// Takes the array out.
    pub(crate) fn remove(&mut self) -> Option<NonNull<ArrayCache>> {
        self.0.take()
    }
}

impl NodeLists {
    /// The list of slabs that are so full, of the reserves or not.
    pub(crate) fn list(&mut self, reserve: bool, fill: Fill) -> &mut PageList {
        &mut self.lists[usize::from(reserve)][fill as usize]
    }

    /// The shared array.
    pub(crate) fn shared(&mut self) -> Option<&mut ArrayCache> {
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

    /// Enters a slab that is on no list, on the list it belongs on by now.
    pub(crate) fn insert(&mut self, map: &MemMap, slab: &Slab<'_>) {
        self.free_objects += u64::from(slab.free());
        self.list(slab.is_reserve(), slab.fill()).push_front(map, slab.pfn);
    }

    /// Takes a slab off its list.
    pub(crate) fn remove(&mut self, map: &MemMap, slab: &Slab<'_>) {
        self.free_objects -= u64::from(slab.free());
        self.list(slab.is_reserve(), slab.fill()).remove(map, slab.pfn);
    }

    /// Takes objects out of a listed slab until `out` is full or the slab is
    /// empty, and moves it to the list it belongs on now. Returns how many.
    pub(crate) fn take(&mut self, map: &MemMap, slab: &Slab<'_>, out: &mut [NonNull<u8>]) -> usize {
        let before = slab.fill();
        let taken = slab.take(out);
        self.free_objects -= taken as u64;
        let after = slab.fill();
        if before != after {
            self.free_touched |= before == Fill::Free;
            let reserve = slab.is_reserve();
            self.list(reserve, before).remove(map, slab.pfn);
            self.list(reserve, after).push_front(map, slab.pfn);
        }
        taken
    }

    /// Makes the leading ones of `objects` free, as [`Slab::put`] does, and
    /// moves the slab, which is listed, to the list it belongs on now. Returns
    /// how many.
    pub(crate) fn put(&mut self, map: &MemMap, slab: &Slab<'_>, objects: &[NonNull<u8>]) -> usize {
        let before = slab.fill();
        let put = slab.put(objects);
        let after = slab.fill();
        if before != after {
            self.move_up(map, slab, before, after);
        }
        self.free_objects += put as u64;
        put
    }

    /// Moves a slab whose objects were put back from the list it is on to that
    /// where it belongs now.
    #[inline(never)]
    fn move_up(&mut self, map: &MemMap, slab: &Slab<'_>, before: Fill, after: Fill) {
        let reserve = slab.is_reserve();
        self.list(reserve, before).remove(map, slab.pfn);
        if after == Fill::Free {
            self.list(reserve, after).push_front(map, slab.pfn);
        } else {
            // To the tail: it has time to become free altogether.
            self.list(reserve, after).push_back(map, slab.pfn);
        }
    }

    /// A free slab that may be given back, one of the reserves first.
    pub(crate) fn surplus(&mut self) -> Option<crate::types::Pfn> {
        let reserve = self.list(true, Fill::Free).last();
        reserve.or_else(|| self.list(false, Fill::Free).last())
    }
}
