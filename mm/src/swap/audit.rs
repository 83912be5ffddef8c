//! Whether what is known of slots is true. May call: the parts of swap.

use super::Locked;
use super::cluster::{CLUSTER, Place};
use super::slot::Slot;
use crate::audit::{AuditError, Auditor};
use crate::mm::Mm;
use crate::mmu::SwapEntry;
use crate::page::{LruFlags, PageType};
use crate::platform::Platform;
use crate::sync::Ordering::Relaxed;
use crate::types::{CpuId, Pfn};

/// How often slots are named: a sum that differs, all but surely, if one slot's
/// number does. Whoever names slots and whoever counts them add to one each.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SwapNames {
    names: u64,
    mixed: u64,
}

impl SwapNames {
    /// `times` more of `entry`.
    pub fn add(&mut self, entry: SwapEntry, times: u64) {
        // SplitMix64's finaliser: entries that differ in a bit differ in half.
        let mut z = u64::from(entry.bits()).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.names += times;
        self.mixed = self.mixed.wrapping_add((z ^ z >> 31).wrapping_mul(times));
    }

    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { names: self.names + other.names, mixed: self.mixed.wrapping_add(other.mixed) }
    }
}

/// What a walk over a device's slots counted.
#[derive(Default)]
struct Count {
    free: u64,
    bad: u64,
    freed: u64,
    used: u64,
    cached: u64,
}

impl<P: Platform> Mm<P> {
    /// Checks slots, clusters and the cache, and that slots are named as often as
    /// `named` says; `cached` is how many pages say that they are in the cache.
    /// For a machine at rest.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(crate) fn audit_swap(
        &self,
        auditor: &mut Auditor,
        named: SwapNames,
        cached: u64,
    ) -> Result<(), AuditError> {
        let (mut names, mut pages, mut to_discard) = (SwapNames::default(), 0, 0);
        for (index, area) in self.swap.areas.iter().enumerate() {
            let counted = self.with_swap(index, |on| on.audit(auditor, &mut names)).transpose()?;
            let Count { free, bad, freed, used, cached } = counted.unwrap_or_default();
            let slots = free + freed + used;
            auditor.equal("swap slots that are not bad", None, slots, area.usable.load(Relaxed))?;
            auditor.equal("swap slots in use", None, used, area.used.load(Relaxed))?;
            auditor.equal("swap slots with a page", None, cached, area.cached.load(Relaxed))?;
            pages += cached;
            to_discard += freed;
            let len = self.with_swap(index, |on| u64::from(on.active.map.len())).unwrap_or(0);
            auditor.equal("swap slots", None, len, slots + bad)?;
        }
        let counted = self.swap.to_discard.load(Relaxed);
        auditor.equal("swap slots to discard", None, to_discard, counted)?;
        auditor.equal("pages in the swap cache", None, pages, cached)?;
        auditor.equal("entries that name swap slots", None, named.names, names.names)?;
        auditor.equal("which swap slots entries name", None, named.mixed, names.mixed)
    }
}

impl<P: Platform> Locked<'_, P> {
    fn audit(&self, auditor: &mut Auditor, names: &mut SwapNames) -> Result<Count, AuditError> {
        let (mm, map) = (self.mm, &self.active.map);
        let mut count = Count::default();
        for cluster in 0..map.clusters() {
            let mut used = 0;
            for slot in cluster * CLUSTER..(cluster + 1) * CLUSTER {
                let word = map.get(mm, slot);
                used += u32::from(!word.is_free());
                if slot < map.len() {
                    self.audit_slot(auditor, slot, word, &mut count, names)?;
                }
            }
            let state = map.state(mm, cluster);
            let (found, counted) = (u64::from(state.used), u64::from(used));
            auditor.equal("slots in use of a cluster", None, counted, found)?;
            let right = match state.place {
                Place::Free => used == 0,
                Place::Partial => 0 < used && used < CLUSTER,
                Place::Full => used == CLUSTER,
                Place::Current => true,
            };
            auditor.equal("place of a cluster", None, 1, u64::from(right))?;
        }
        auditor.equal("free slots", None, count.free, u64::from(map.free()))?;
        self.audit_lists(auditor)?;
        Ok(count)
    }

    fn audit_slot(
        &self,
        auditor: &mut Auditor,
        slot: u32,
        word: Slot,
        count: &mut Count,
        names: &mut SwapNames,
    ) -> Result<(), AuditError> {
        let states = [word.is_free(), word.is_bad(), word.is_freed(), word.is_used()];
        let one = states.into_iter().filter(|&is| is).count();
        auditor.equal("states of a swap slot", None, 1, one as u64)?;
        count.free += u64::from(word.is_free());
        count.bad += u64::from(word.is_bad());
        count.freed += u64::from(word.is_freed());
        count.used += u64::from(word.is_used());
        let Some(entry) = SwapEntry::new(self.index, slot) else { return Ok(()) };
        names.add(entry, u64::from(word.users()));
        let Some(pfn) = word.page() else { return Ok(()) };
        count.cached += 1;
        self.audit_cached(auditor, pfn, entry)
    }

    /// A slot's page knows that it is.
    fn audit_cached(
        &self,
        auditor: &mut Auditor,
        pfn: Pfn,
        entry: SwapEntry,
    ) -> Result<(), AuditError> {
        let desc = self.mm.map.page(pfn);
        let (word, flags) = (desc.head(), desc.head().lru());
        auditor.holds("type of a page in the swap cache", pfn, word.ty() == PageType::Lru)?;
        let both = LruFlags::SWAPCACHE | LruFlags::ANON;
        auditor.holds("flags of a page in the swap cache", pfn, flags.contains(both))?;
        let (expected, found) = (u64::from(entry.bits()), u64::from(desc.private()));
        auditor.equal("slot of a page in the swap cache", Some(pfn), expected, found)?;
        auditor.holds("references to a page in the swap cache", pfn, desc.count() > desc.mapcount())
    }

    fn audit_lists(&self, auditor: &mut Auditor) -> Result<(), AuditError> {
        let (mm, map) = (self.mm, &self.active.map);
        let all = u64::from(map.clusters());
        let places = (0..map.clusters()).map(|cluster| map.state(mm, cluster).place);
        let mut counts = [0; 4];
        for place in places {
            counts[place as usize] += 1;
        }
        for place in [Place::Free, Place::Partial] {
            let (mut length, mut last) = (0, crate::page::NIL);
            for (cluster, prev) in map.listed(mm, place) {
                let is = map.state(mm, cluster).place == place;
                auditor.equal("place of a listed cluster", None, 1, u64::from(is))?;
                auditor.equal("back link of a cluster", None, last.into(), prev.into())?;
                last = cluster;
                length += 1;
                // A loop would never end.
                auditor.equal("list of clusters ends", None, 1, u64::from(length <= all))?;
            }
            auditor.equal("clusters of a list", None, counts[place as usize], length)?;
        }
        let mut current = 0;
        for cluster in (0..mm.platform.cpus()).filter_map(|cpu| map.current(mm, CpuId(cpu))) {
            let is = map.state(mm, cluster).place == Place::Current;
            auditor.equal("place of a CPU's cluster", None, 1, u64::from(is))?;
            current += 1;
        }
        auditor.equal("clusters that CPUs are at", None, counts[Place::Current as usize], current)
    }
}
