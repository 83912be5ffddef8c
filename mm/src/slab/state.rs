//! The slab layer's part of the manager: the table of caches, the CPUs' arrays,
//! counters. May call: `cache`, `array`, `boot_slice`.

use super::array::{CpuArrays, Entry};
use super::cache::{Cache, CacheId};
use super::defaults::SlabDefaults;
use super::{MAX_CACHES, SlabError};
use crate::boot_slice::BootSlice;
use crate::early::EarlyMem;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::sync::{
    AtomicBool, AtomicI64, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Cpu, CpuCell,
    Lock, LockRank,
    Ordering::{Acquire, Relaxed, Release},
};
use crate::types::{CpuId, MAX_NODES, NodeId, Order};
use core::num::NonZeroU32;

/// A number that a cache, or a second handle to it, can have.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// The cache; null if there is none.
    pub(crate) cache: AtomicPtr<Cache>,
    /// Odd while a handle to it is valid; higher for each new one.
    generation: AtomicU32,
    /// Somebody has the number, or has not left altogether yet.
    taken: AtomicBool,
}

impl Slot {
    /// The number may be had again.
    pub(crate) fn give_up(&self) {
        self.taken.store(false, Release);
    }
}

/// What the registry's lock protects: who has which number.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    /// Caches and handles created so far.
    pub(crate) created: u64,
}

/// Pages in slabs of one node.
#[derive(Debug, Default)]
pub(crate) struct SlabPages {
    pub(crate) reclaimable: AtomicI64,
    pub(crate) unreclaimable: AtomicI64,
}

/// How far the layer is set up.
pub(crate) const DOWN: u8 = 0;
/// Being set up.
pub(crate) const COMING: u8 = 1;
/// Ready.
pub(crate) const UP: u8 = 2;

/// All that the slab layer keeps in the manager.
pub(crate) struct SlabState {
    pub(crate) slots: BootSlice<Slot>,
    /// Numbers from here on have never been had.
    used_slots: AtomicU16,
    cpus: BootSlice<CpuCell<CpuArrays>>,
    /// By CPU: the node whose lists serve it, from [`set_home`](Self::set_home)
    /// on always the same, so that all objects in its arrays are of one node.
    homes: BootSlice<AtomicU8>,
    /// Slabs of the reserves in the whole machine. While it is zero, nobody
    /// looks at anything that has to do with them.
    pub(crate) reserve_slabs: AtomicU64,
    pub(crate) registry: Lock<Registry>,
    pub(crate) phase: AtomicU8,
    pub(crate) defaults: Lock<SlabDefaults>,
    pub(crate) pages: [SlabPages; MAX_NODES],
    /// Pages in large kmalloc blocks.
    pub(crate) large_pages: AtomicI64,
    /// Order up to which slabs grow to waste less.
    max_order: AtomicU8,
    cpus_of_node: [AtomicU16; MAX_NODES],
    /// Arrays that caches have at this time, of objects of their own.
    pub(crate) arrays_made: AtomicU64,
}

impl SlabState {
    /// An empty state; None when early memory has no room for its tables.
    pub(crate) fn new<P: Platform>(platform: &P, early: &mut EarlyMem<'_>) -> Option<Self> {
        let cpus = usize::from(platform.cpus());
        Some(Self {
            slots: BootSlice::new(platform, early, "caches", MAX_CACHES, |_| Slot::default())?,
            used_slots: AtomicU16::new(0),
            cpus: BootSlice::new(platform, early, "slab arrays", cpus, |_| {
                CpuCell::new(CpuArrays::new())
            })?,
            homes: BootSlice::new(platform, early, "homes of CPUs", cpus, |_| AtomicU8::new(0))?,
            reserve_slabs: AtomicU64::new(0),
            registry: Lock::new(LockRank::CacheList, Registry::default()),
            phase: AtomicU8::new(DOWN),
            defaults: Lock::new(LockRank::SlabDefaults, SlabDefaults::default()),
            pages: Default::default(),
            large_pages: AtomicI64::new(0),
            max_order: AtomicU8::new(0),
            cpus_of_node: Default::default(),
            arrays_made: AtomicU64::new(0),
        })
    }

    /// CPUs of a node, as counted when the layer was set up.
    pub(crate) fn cpus_of_node(&self, node: NodeId) -> u32 {
        self.cpus_of_node.get(usize::from(node.0)).map_or(0, |n| u32::from(n.load(Relaxed)))
    }

    /// Says which node's lists serve a CPU; once, while the layer is set up.
    pub(crate) fn set_home(&self, cpu: CpuId, node: NodeId) {
        self.homes[usize::from(cpu.0)].store(node.0, Relaxed);
        if let Some(n) = self.cpus_of_node.get(usize::from(node.0)) {
            n.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn max_order(&self) -> Order {
        Order(self.max_order.load(Relaxed))
    }

    pub(crate) fn set_max_order(&self, order: Order) {
        self.max_order.store(order.0, Relaxed);
    }

    /// The arrays of one CPU.
    #[inline]
    pub(crate) fn arrays<P: Platform>(&self, cpu: &Cpu<'_, P>) -> &CpuCell<CpuArrays> {
        // SAFETY: a platform names CPUs below its number of CPUs only, and there
        // is a table for each.
        unsafe { self.cpus.get_unchecked(usize::from(cpu.id().0)) }
    }

    /// The entry for `index` in the first CPU's table of arrays.
    #[inline]
    pub(crate) fn entry(&self, index: u16) -> *const u8 {
        let table = self.cpus.as_ptr().cast::<Entry>();
        table.wrapping_add(usize::from(index) % MAX_CACHES).cast()
    }

    /// The generation that a number has now; odd if a handle to it is valid.
    #[inline]
    pub(crate) fn generation(&self, index: u16) -> u32 {
        self.slots.get(usize::from(index)).map_or(0, |slot| slot.generation.load(Acquire))
    }

    /// Whether the handle is valid.
    #[inline]
    pub(crate) fn is_live(&self, id: CacheId) -> bool {
        self.generation(id.index) == id.generation.get()
    }

    /// The cache with a number, whoever asks. Caches go away only after each
    /// CPU has given up the token it held meanwhile: the reference is good for
    /// as long as this one is kept.
    #[inline]
    pub(crate) fn cache<'c, P: Platform>(
        &self,
        _cpu: &'c Cpu<'_, P>,
        index: u16,
    ) -> Option<&'c Cache> {
        let cache = self.slots.get(usize::from(index))?.cache.load(Acquire);
        // SAFETY: a descriptor is entered when it is complete, and freed when it
        // has been taken out and all CPUs have been outside since.
        unsafe { cache.as_ref() }
    }

    /// The cache whose own number this is, not a second handle's.
    pub(crate) fn own_cache<'c, P: Platform>(
        &self,
        cpu: &'c Cpu<'_, P>,
        index: u16,
    ) -> Option<&'c Cache> {
        self.cache(cpu, index).filter(|cache| cache.index == index)
    }

    /// How many numbers have to be looked at to see all caches.
    pub(crate) fn used_slots(&self) -> u16 {
        self.used_slots.load(Relaxed)
    }

    /// All caches.
    pub(crate) fn caches<'c, P: Platform>(
        &self,
        cpu: &'c Cpu<'_, P>,
    ) -> impl Iterator<Item = &'c Cache> {
        (0..MAX_CACHES as u16).filter_map(|index| self.own_cache(cpu, index))
    }

    /// The cache that a handle names.
    pub(crate) fn by_id<'c, P: Platform>(
        &self,
        cpu: &'c Cpu<'_, P>,
        id: CacheId,
    ) -> Result<&'c Cache, SlabError> {
        if !self.is_live(id) {
            return Err(SlabError::NoSuchCache);
        }
        self.cache(cpu, id.index).ok_or(SlabError::NoSuchCache)
    }

    /// The lowest number that nobody has; under the registry's lock.
    pub(crate) fn free_slot(&self) -> Option<u16> {
        self.slots.iter().position(|s| !s.taken.load(Acquire)).map(|i| i as u16)
    }

    /// Enters a cache under a number that is free, and makes a handle to it;
    /// under the registry's lock.
    pub(crate) fn enter(&self, index: u16, cache: *mut Cache) -> CacheId {
        let slot = &self.slots[usize::from(index)];
        slot.taken.store(true, Relaxed);
        self.used_slots.fetch_max(index + 1, Relaxed);
        slot.cache.store(cache, Release);
        let generation = NonZeroU32::MIN | slot.generation.load(Relaxed);
        slot.generation.store(generation.get(), Release);
        CacheId { index, generation }
    }

    /// Makes a handle invalid; under the registry's lock. A CPU that has an
    /// array ready for it takes it still, until it has been told
    /// ([`CpuArrays::renew`]).
    pub(crate) fn revoke(&self, id: CacheId) {
        let next = id.generation.get().wrapping_add(1);
        self.slots[usize::from(id.index)].generation.store(next, Release);
    }

    /// Makes a revoked handle valid again; under the registry's lock.
    pub(crate) fn revive(&self, id: CacheId) {
        self.slots[usize::from(id.index)].generation.store(id.generation.get(), Release);
    }
}

impl<P: Platform> Mm<P> {
    /// The node whose lists serve a CPU: its own, or the nearest that has
    /// memory.
    #[inline]
    pub(crate) fn slab_node(&self, cpu: &Cpu<'_, P>) -> NodeId {
        NodeId(self.slab.homes[usize::from(cpu.id().0)].load(Relaxed))
    }

    /// Pages in slabs of a node: reclaimable and not (`nr_slab_reclaimable`,
    /// `nr_slab_unreclaimable`).
    pub fn slab_pages(&self, node: NodeId) -> (u64, u64) {
        let read = |n: &AtomicI64| n.load(Relaxed).max(0) as u64;
        self.slab
            .pages
            .get(usize::from(node.0))
            .map_or((0, 0), |p| (read(&p.reclaimable), read(&p.unreclaimable)))
    }

    /// Pages that large kmalloc blocks take.
    pub fn kmalloc_large_pages(&self) -> u64 {
        self.slab.large_pages.load(Relaxed).max(0) as u64
    }

    /// Slabs in the whole machine whose pages came from the reserves.
    pub fn reserve_slabs(&self) -> u64 {
        self.slab.reserve_slabs.load(Relaxed)
    }
}
