//! Which slot a page gets. Slots come in clusters; each CPU fills one cluster of
//! a device at a time, so that what leaves memory together lies together on the
//! device, and CPUs do not mix theirs (Linux `struct swap_cluster_info`). All of
//! it is guarded by the device's lock. May call: `array`, `slot`.
//!
//! ```text
//!             taken by a CPU                 full
//!   free ----------------------> current ------------> full
//!    ^  \                          ^                     |
//!    |   last slot given back      | none are free       | a slot given back
//!    +------------------------- partial <----------------+
//! ```

use super::array::PageArray;
use super::slot::Slot;
use crate::gfp::AllocError;
use crate::mm::Mm;
use crate::page::NIL;
use crate::platform::Platform;
use crate::types::CpuId;

/// Slots in a cluster.
pub(crate) const CLUSTER: u32 = 256;

/// Where a cluster is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// In no list: all its slots are in use.
    Full = 0,
    /// In the list of those without a slot in use.
    Free = 1,
    /// In the list of those with some in use.
    Partial = 2,
    /// Some CPU's, in no list.
    Current = 3,
}

/// The first and the last of a list of clusters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct List {
    head: u32,
    tail: u32,
}

const EMPTY: List = List { head: NIL, tail: NIL };

/// What a cluster's second word says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct State {
    /// Slots whose word is not 0.
    pub(crate) used: u32,
    pub(crate) place: Place,
}

impl State {
    const fn bits(self) -> u64 {
        self.used as u64 | (self.place as u64) << 32
    }

    const fn from_bits(bits: u64) -> Self {
        let place = match bits >> 32 {
            1 => Place::Free,
            2 => Place::Partial,
            3 => Place::Current,
            _ => Place::Full,
        };
        Self { used: bits as u32, place }
    }
}

/// The slots of a device.
pub(crate) struct SlotMap {
    slots: PageArray,
    /// Two words each: the links in its list, and its state.
    clusters: PageArray,
    /// By CPU: its cluster plus one, and in the upper half where it goes on.
    cursors: PageArray,
    len: u32,
    /// Slots whose word is 0.
    free: u32,
    free_clusters: List,
    partial: List,
    /// The first of the slots that are to be discarded.
    freed: Option<u32>,
    /// Slots that somebody is discarding.
    pub(crate) discarding: u32,
}

impl<P: Platform> Mm<P> {
    /// The map of a device with `len` slots, all free. May wait.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(crate) fn new_slot_map(&self, len: u32) -> Result<SlotMap, AllocError> {
        let clusters = len.div_ceil(CLUSTER);
        let slots = self.new_array(clusters * CLUSTER)?;
        let states = match self.new_array(clusters * 2) {
            Ok(states) => states,
            Err(e) => {
                self.free_array(slots);
                return Err(e);
            }
        };
        let cursors = match self.new_array(u32::from(self.platform.cpus())) {
            Ok(cursors) => cursors,
            Err(e) => {
                self.free_array(slots);
                self.free_array(states);
                return Err(e);
            }
        };
        let (free_clusters, partial) = (EMPTY, EMPTY);
        let (freed, discarding) = (None, 0);
        let clusters = states;
        let mut map = SlotMap {
            slots,
            clusters,
            cursors,
            len,
            free: len,
            free_clusters,
            partial,
            freed,
            discarding,
        };
        map.fill(self);
        Ok(map)
    }

    /// Frees what [`new_slot_map`](Self::new_slot_map) made. Any context.
    pub(crate) fn free_slot_map(&self, map: SlotMap) {
        self.free_array(map.slots);
        self.free_array(map.clusters);
        self.free_array(map.cursors);
    }
}

impl SlotMap {
    /// Lists all clusters. Of the last one those slots are bad that the device
    /// does not have.
    fn fill<P: Platform>(&mut self, mm: &Mm<P>) {
        for cluster in 0..self.clusters() {
            let missing = ((cluster + 1) * CLUSTER).saturating_sub(self.len);
            let place = if missing > 0 { Place::Partial } else { Place::Free };
            for slot in (cluster + 1) * CLUSTER - missing..(cluster + 1) * CLUSTER {
                self.slots.set(mm, slot, Slot::BAD.0);
            }
            self.push(mm, cluster, State { used: missing, place });
        }
    }

    /// Slots that the device has, bad ones included.
    pub(crate) const fn len(&self) -> u32 {
        self.len
    }

    /// Slots that are free to be taken.
    pub(crate) const fn free(&self) -> u32 {
        self.free
    }

    /// Clusters.
    pub(crate) const fn clusters(&self) -> u32 {
        self.len.div_ceil(CLUSTER)
    }

    /// A slot's word; a bad one's beyond the end.
    #[inline]
    pub(crate) fn get<P: Platform>(&self, mm: &Mm<P>, slot: u32) -> Slot {
        if slot < self.len { Slot(self.slots.get(mm, slot)) } else { Slot::BAD }
    }

    /// Writes the word of a slot that is in use and stays so.
    pub(crate) fn set<P: Platform>(&mut self, mm: &Mm<P>, slot: u32, word: Slot) {
        debug_assert!(!self.get(mm, slot).is_free() && !word.is_free());
        if slot < self.len {
            self.slots.set(mm, slot, word.0);
        }
    }

    /// Takes a free slot for `cpu` and writes `word` there; None if none is free.
    pub(crate) fn take<P: Platform>(&mut self, mm: &Mm<P>, cpu: CpuId, word: Slot) -> Option<u32> {
        if self.free == 0 {
            return None;
        }
        let cpu = u32::from(cpu.0);
        let cursor = self.cursors.get(mm, cpu);
        if let Some(cluster) = (cursor as u32).checked_sub(1) {
            if let Some(slot) = self.take_from(mm, cluster, (cursor >> 32) as u32, word) {
                self.point(mm, cpu, cluster, slot + 1);
                return Some(slot);
            }
            let State { used, .. } = self.state(mm, cluster);
            self.set_state(mm, cluster, State { used, place: Place::Full });
            self.cursors.set(mm, cpu, 0);
        }
        if let Some(cluster) = self.next_cluster(mm) {
            let State { used, .. } = self.state(mm, cluster);
            self.set_state(mm, cluster, State { used, place: Place::Current });
            let slot = self.take_from(mm, cluster, 0, word)?;
            self.point(mm, cpu, cluster, slot + 1);
            return Some(slot);
        }
        // What is left is in clusters that other CPUs are at.
        (0..u32::from(mm.platform.cpus())).find_map(|other| {
            let cluster = (self.cursors.get(mm, other) as u32).checked_sub(1)?;
            self.take_from(mm, cluster, 0, word)
        })
    }

    /// A cluster that nobody is at, with room, off its list.
    fn next_cluster<P: Platform>(&mut self, mm: &Mm<P>) -> Option<u32> {
        let head = match self.free_clusters.head {
            NIL => self.partial.head,
            head => head,
        };
        (head != NIL).then(|| {
            self.unlink(mm, head);
            head
        })
    }

    fn point<P: Platform>(&mut self, mm: &Mm<P>, cpu: u32, cluster: u32, next: u32) {
        let offset = u64::from(next % CLUSTER);
        self.cursors.set(mm, cpu, u64::from(cluster + 1) | offset << 32);
    }

    /// Takes a slot of `cluster`, the first free one from `offset` on or else
    /// from its start.
    fn take_from<P: Platform>(
        &mut self,
        mm: &Mm<P>,
        cluster: u32,
        offset: u32,
        word: Slot,
    ) -> Option<u32> {
        let state = self.state(mm, cluster);
        if state.used == CLUSTER {
            return None;
        }
        let first = cluster * CLUSTER;
        let mut slots = (offset..CLUSTER).chain(0..offset).map(|at| first + at);
        let slot = slots.find(|&slot| self.slots.get(mm, slot) == Slot::FREE.0)?;
        self.slots.set(mm, slot, word.0);
        self.set_state(mm, cluster, State { used: state.used + 1, ..state });
        self.free -= 1;
        Some(slot)
    }

    /// Makes a slot free that is in use, or being discarded.
    pub(crate) fn give<P: Platform>(&mut self, mm: &Mm<P>, slot: u32) {
        debug_assert!(!self.get(mm, slot).is_free() && !self.get(mm, slot).is_bad());
        self.slots.set(mm, slot, Slot::FREE.0);
        self.free += 1;
        let cluster = slot / CLUSTER;
        let State { used, place } = self.state(mm, cluster);
        let used = used - 1;
        if place == Place::Current {
            self.set_state(mm, cluster, State { used, place });
            return;
        }
        let now = if used == 0 { Place::Free } else { Place::Partial };
        if now == place {
            self.set_state(mm, cluster, State { used, place });
            return;
        }
        if place == Place::Partial {
            self.unlink(mm, cluster);
        }
        self.push(mm, cluster, State { used, place: now });
    }

    /// Puts a slot that is not in use any more among those to be discarded.
    pub(crate) fn push_freed<P: Platform>(&mut self, mm: &Mm<P>, slot: u32) {
        self.slots.set(mm, slot, Slot::freed(self.freed).0);
        self.freed = Some(slot);
    }

    /// Takes the slot that was put there last.
    pub(crate) fn pop_freed<P: Platform>(&mut self, mm: &Mm<P>) -> Option<u32> {
        let slot = self.freed?;
        self.freed = self.get(mm, slot).next();
        self.slots.set(mm, slot, Slot::freed(None).0);
        self.discarding += 1;
        Some(slot)
    }

    /// The slot that would be taken next, to see whether it is a neighbour.
    pub(crate) const fn peek_freed(&self) -> Option<u32> {
        self.freed
    }

    /// A cluster's state.
    pub(crate) fn state<P: Platform>(&self, mm: &Mm<P>, cluster: u32) -> State {
        State::from_bits(self.clusters.get(mm, cluster * 2 + 1))
    }

    fn set_state<P: Platform>(&mut self, mm: &Mm<P>, cluster: u32, state: State) {
        self.clusters.set(mm, cluster * 2 + 1, state.bits());
    }

    fn list(&mut self, place: Place) -> Option<&mut List> {
        match place {
            Place::Free => Some(&mut self.free_clusters),
            Place::Partial => Some(&mut self.partial),
            Place::Full | Place::Current => None,
        }
    }

    /// Next and previous cluster in the list that a cluster is in.
    fn links<P: Platform>(&self, mm: &Mm<P>, cluster: u32) -> (u32, u32) {
        let word = self.clusters.get(mm, cluster * 2);
        (word as u32, (word >> 32) as u32)
    }

    fn set_links<P: Platform>(&mut self, mm: &Mm<P>, cluster: u32, next: u32, prev: u32) {
        self.clusters.set(mm, cluster * 2, u64::from(next) | u64::from(prev) << 32);
    }

    /// Puts a cluster at the end of the list that its new state names.
    fn push<P: Platform>(&mut self, mm: &Mm<P>, cluster: u32, state: State) {
        self.set_state(mm, cluster, state);
        let Some(list) = self.list(state.place) else { return };
        let tail = core::mem::replace(&mut list.tail, cluster);
        if tail == NIL {
            list.head = cluster;
        }
        self.set_links(mm, cluster, NIL, tail);
        if tail != NIL {
            let (_, prev) = self.links(mm, tail);
            self.set_links(mm, tail, cluster, prev);
        }
    }

    /// Takes a cluster out of its list.
    fn unlink<P: Platform>(&mut self, mm: &Mm<P>, cluster: u32) {
        let (next, prev) = self.links(mm, cluster);
        let place = self.state(mm, cluster).place;
        let Some(list) = self.list(place) else { return };
        if next == NIL {
            list.tail = prev;
        }
        if prev == NIL {
            list.head = next;
        }
        if next != NIL {
            let (after, _) = self.links(mm, next);
            self.set_links(mm, next, after, prev);
        }
        if prev != NIL {
            let (_, before) = self.links(mm, prev);
            self.set_links(mm, prev, next, before);
        }
    }

    /// The clusters of a list from its first on, as far as the links lead, with
    /// the previous one that each names. For the audit.
    pub(crate) fn listed<'a, P: Platform>(
        &'a self,
        mm: &'a Mm<P>,
        place: Place,
    ) -> impl Iterator<Item = (u32, u32)> + 'a {
        let mut at = match place {
            Place::Free => self.free_clusters.head,
            Place::Partial => self.partial.head,
            Place::Full | Place::Current => NIL,
        };
        core::iter::from_fn(move || {
            if at == NIL {
                return None;
            }
            let cluster = at;
            let (next, prev) = self.links(mm, cluster);
            at = next;
            Some((cluster, prev))
        })
    }

    /// The cluster that a CPU is at.
    pub(crate) fn current<P: Platform>(&self, mm: &Mm<P>, cpu: CpuId) -> Option<u32> {
        (self.cursors.get(mm, u32::from(cpu.0)) as u32).checked_sub(1)
    }
}
