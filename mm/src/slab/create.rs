//! Caches made, shared between users whose objects are alike, shrunk, and
//! destroyed. May call: `alloc`, `free`, `state`.

use super::alloc::Target;
use super::cache::{Cache, CacheConfig, CacheId, Name, NewCache};
use super::geometry::{Geometry, Want, array_sizes, geometry};
use super::state::UP;
use super::{MAX_CACHES, SlabError};
use crate::gfp::Gfp;
use crate::list::PageList;
use crate::mm::Mm;
use crate::platform::{LogLevel, Platform};
use crate::sync::{
    AtomicU64, Cpu,
    Ordering::{Acquire, Relaxed, Release},
};
use crate::types::NodeId;
use core::panic::Location;
use core::ptr::{NonNull, null_mut};

/// Merging may waste less than this per object.
const MERGE_WASTE: u32 = 8;

/// The geometry that `config` gets on this machine.
pub(crate) fn shape<P: Platform>(mm: &Mm<P>, config: &CacheConfig) -> Option<Geometry> {
    geometry(&Want {
        object_size: config.size,
        align: config.align,
        hwcache_align: config.hwcache_align,
        ctor: config.ctor.is_some(),
        reclaim_account: config.reclaim_account,
        init_on_free: mm.tunables.init_on_free.load(Relaxed),
        debug: config.debug,
        max_order: mm.slab.max_order(),
    })
}

/// Zone and mobility of the pages of such a cache.
fn place(config: &CacheConfig) -> Gfp {
    let mut gfp = Gfp::empty();
    if config.dma {
        gfp |= Gfp::DMA;
    }
    if config.reclaim_account {
        gfp |= Gfp::RECLAIMABLE;
    }
    gfp
}

/// Whether objects of `config` may share the slabs of others.
fn mergeable(config: &CacheConfig) -> bool {
    config.merge && config.ctor.is_none() && config.debug.is_empty()
}

impl<P: Platform> Mm<P> {
    /// Makes a cache of objects as `config` says, or a handle to one that
    /// serves such objects already (unless `config.merge` says no). The name is
    /// copied: 1 to 31 bytes. From a context that may wait.
    ///
    /// # Errors
    /// [`SlabError::Invalid`] for what no cache can be; [`SlabError::NotUp`];
    /// [`SlabError::NoMemory`], also when there are 1024 caches already.
    pub fn cache_create(&self, name: &str, config: CacheConfig) -> Result<CacheId, SlabError> {
        if self.slab.phase.load(Acquire) != UP {
            return Err(SlabError::NotUp);
        }
        let bad = SlabError::Invalid(&"a name is 1 to 31 bytes without control characters");
        let copy = Name::new(name).ok_or(bad)?;
        if name.contains(char::is_whitespace) {
            // Readers of slabinfo take fields by spaces.
            self.platform
                .log(LogLevel::Warn, format_args!("slab: cache name '{name}' contains a space"));
        }
        let config = self.with_defaults(name, config);
        let geometry = shape(self, &config).ok_or(SlabError::Invalid(&"size or alignment"))?;
        if mergeable(&config)
            && let Some(id) = self.merge(&config, &geometry)
        {
            return Ok(id);
        }
        self.create_at(None, copy, &config)
    }

    /// A handle to a cache that serves such objects already.
    fn merge(&self, config: &CacheConfig, wanted: &Geometry) -> Option<CacheId> {
        let cpu = self.enter();
        let mut registry = self.slab.registry.lock(&cpu);
        let fits = |cache: &Cache| {
            let has = &cache.geometry;
            cache.mergeable
                && cache.gfp == place(config)
                && has.size >= wanted.size
                && has.size - wanted.size < MERGE_WASTE
                && has.align >= wanted.align
                && has.size.is_multiple_of(wanted.align)
        };
        let cache = self.slab.caches(&cpu).find(|cache| fits(cache))?;
        let index = self.slab.free_slot()?;
        let descriptor = self.slab.slots[usize::from(cache.index)].cache.load(Acquire);
        cache.users.fetch_add(1, Relaxed);
        cache.object_size.fetch_max(config.size as u32, Relaxed);
        registry.created += 1;
        Some(self.slab.enter(index, descriptor))
    }

    /// Makes a cache, with a number of the caller's choice or any.
    pub(crate) fn create_at(
        &self,
        index: Option<u16>,
        name: Name,
        config: &CacheConfig,
    ) -> Result<CacheId, SlabError> {
        let geometry = shape(self, config).ok_or(SlabError::Invalid(&"size or alignment"))?;
        let descriptors =
            Target { arrays: self.slab.phase.load(Relaxed) == UP, ..Target::number(0) };
        let place_of = self
            .alloc_object(descriptors, Gfp::KERNEL, Location::caller())
            .map_err(|_| SlabError::NoMemory)?;
        let cpu = self.enter();
        let mut registry = self.slab.registry.lock(&cpu);
        let Some(index) = index.or_else(|| self.slab.free_slot()) else {
            drop(registry);
            drop(cpu);
            self.free_object(descriptors, place_of, Location::caller()).ok();
            return Err(SlabError::NoMemory);
        };
        registry.created += 1;
        let new = NewCache {
            name,
            index,
            geometry,
            object_size: config.size as u32,
            ctor: config.ctor,
            gfp: place(config),
            mergeable: mergeable(config),
            seq: registry.created,
            sizes: array_sizes(geometry.size, self.platform.cpus(), !geometry.debug.is_empty()),
        };
        // SAFETY: an object of the cache of descriptors has room for one.
        let cache = unsafe { Cache::place(place_of, self.nodes(), new) };
        Ok(self.slab.enter(index, cache.as_ptr()))
    }

    /// Gives back what a cache holds free: empties the arrays of all CPUs and
    /// nodes and frees all slabs without objects in use. Returns the pages that
    /// were freed. With interrupts on and no lock held.
    ///
    /// # Errors
    /// [`SlabError::NoSuchCache`].
    pub fn cache_shrink(&self, id: CacheId) -> Result<u64, SlabError> {
        if !self.slab.is_live(id) {
            return Err(SlabError::NoSuchCache);
        }
        Ok(self.shrink(Target::of(id)))
    }

    /// As [`cache_shrink`](Self::cache_shrink), for the cache that slabinfo calls
    /// `name`, whoever made it.
    ///
    /// # Errors
    /// [`SlabError::NoSuchCache`].
    pub fn cache_shrink_named(&self, name: &str) -> Result<u64, SlabError> {
        let found = {
            let cpu = self.enter();
            self.slab.caches(&cpu).find(|c| c.name.as_str() == name).map(|c| c.index)
        };
        Ok(self.shrink(Target::number(found.ok_or(SlabError::NoSuchCache)?)))
    }

    /// Shrinks all caches; returns the pages that were freed. Context as for
    /// [`cache_shrink`](Self::cache_shrink).
    pub fn slab_shrink(&self) -> u64 {
        (0..MAX_CACHES as u16)
            .filter(|&index| {
                let cpu = self.enter();
                self.slab.own_cache(&cpu, index).is_some()
            })
            .map(|index| self.shrink(Target::number(index)))
            .sum()
    }

    pub(crate) fn shrink(&self, target: Target) -> u64 {
        let freed = AtomicU64::new(0);
        Cpu::on_each(&self.platform, &|cpu| {
            let Ok(cache) = self.resolve(cpu, target) else { return };
            let mut surplus = PageList::new();
            self.drain_array(cpu, cache, &mut surplus);
            freed.fetch_add(self.release_slabs(cache, surplus), Relaxed);
        });
        // What was in the hands of a CPU then is in an array or a slab now, and
        // what goes home from one node's arrays is in another's.
        for node in self.all_nodes() {
            let cpu = self.enter();
            let Ok(cache) = self.resolve(&cpu, target) else { break };
            let mut surplus = PageList::new();
            self.drain_aliens(&cpu, cache, node, &mut surplus);
            freed.fetch_add(self.release_slabs(cache, surplus), Relaxed);
        }
        for node in self.all_nodes() {
            let cpu = self.enter();
            let Ok(cache) = self.resolve(&cpu, target) else { break };
            freed.fetch_add(self.shrink_node(&cpu, cache, node), Relaxed);
        }
        freed.into_inner()
    }

    /// All nodes, with memory or without.
    pub(crate) fn all_nodes(&self) -> impl Iterator<Item = NodeId> + use<P> {
        (0..self.nodes() as u8).map(NodeId)
    }

    /// Frees what a node has free of `cache`.
    fn shrink_node(&self, cpu: &Cpu<'_, P>, cache: &Cache, node: NodeId) -> u64 {
        let mut surplus = PageList::new();
        self.drain_shared(cpu, cache, node, &mut surplus);
        let mut lists = cache.node(node).lists.lock(cpu);
        while self.take_surplus(cache, &mut lists, &mut surplus) {}
        drop(lists);
        self.release_slabs(cache, surplus)
    }

    /// Objects in use; exact only once the arrays are empty.
    fn live_objects(&self, cpu: &Cpu<'_, P>, cache: &Cache) -> u64 {
        let per_slab = u64::from(cache.geometry.objects);
        cache
            .nodes()
            .iter()
            .map(|node| {
                let lists = node.lists.lock(cpu);
                lists.slabs() * per_slab - lists.free_objects
            })
            .sum()
    }

    /// Gives a handle up; with the last one the cache goes. With interrupts on
    /// and no lock held; nobody else may be using this handle.
    ///
    /// # Errors
    /// [`SlabError::Busy`] with the number of objects in use if this is the
    /// last handle and there are any: cache and handle stay as they are.
    /// [`SlabError::NoSuchCache`].
    pub fn cache_destroy(&self, id: CacheId) -> Result<(), SlabError> {
        let target = Target::of(id);
        self.shrink(target);
        let last = {
            let cpu = self.enter();
            let registry = self.slab.registry.lock(&cpu);
            let cache = self.slab.by_id(&cpu, id)?;
            let last = cache.users.load(Relaxed) == 1;
            if last {
                let live = self.live_objects(&cpu, cache);
                if live > 0 {
                    drop(registry);
                    return Err(self.still_busy(cache, live));
                }
            } else {
                cache.users.fetch_sub(1, Relaxed);
            }
            self.slab.revoke(id);
            drop(registry);
            last
        };
        self.tell_cpus(id.index);
        if last { self.destroy_last(id) } else { self.drop_handle(id) }
    }

    /// Makes it known to all CPUs that a handle is not valid any more. None of
    /// them takes it after that.
    fn tell_cpus(&self, index: u16) {
        Cpu::on_each(&self.platform, &|cpu| {
            let generation = self.slab.generation(index);
            // SAFETY: `cpu` is that CPU's token; the closure does not nest.
            unsafe { self.slab.arrays(cpu).with(|arrays| arrays.renew(index, generation)) };
        });
    }

    #[cold]
    fn still_busy(&self, cache: &Cache, live: u64) -> SlabError {
        self.platform.log(
            LogLevel::Error,
            format_args!(
                "slab: cache '{}' not destroyed: {live} objects in use",
                cache.name.as_str()
            ),
        );
        SlabError::Busy { live }
    }

    /// Forgets a second handle to a cache that stays.
    fn drop_handle(&self, id: CacheId) -> Result<(), SlabError> {
        let own = {
            let cpu = self.enter();
            self.slab.own_cache(&cpu, id.index).is_some()
        };
        // The cache's own number goes on naming its slabs.
        if !own {
            self.forget_number(id.index, None);
        }
        Ok(())
    }

    /// Takes a number out of all tables; `own` is the cache's, if it goes too.
    fn forget_number(&self, index: u16, own: Option<u16>) {
        let slot = &self.slab.slots[usize::from(index)];
        slot.cache.store(null_mut(), Release);
        // Whoever found the cache under it before has left once each CPU has
        // been seen, and left no array behind.
        Cpu::on_each(&self.platform, &|cpu| {
            // SAFETY: `cpu` is that CPU's token; the closure does not nest.
            let array = unsafe { self.slab.arrays(cpu).with(|arrays| arrays.remove(index)) };
            if let Some(array) = array.filter(|_| own == Some(index)) {
                self.drop_array(array);
            }
        });
        slot.give_up();
    }

    /// Takes a cache apart to which no valid handle is left.
    fn destroy_last(&self, id: CacheId) -> Result<(), SlabError> {
        let own = {
            let cpu = self.enter();
            self.slab.cache(&cpu, id.index).ok_or(SlabError::NoSuchCache)?.index
        };
        // Its handle is refused from now on: once the arrays are empty again,
        // they stay so.
        self.shrink(Target::number(own));
        {
            let cpu = self.enter();
            let _registry = self.slab.registry.lock(&cpu);
            let cache = self.slab.cache(&cpu, own).ok_or(SlabError::NoSuchCache)?;
            let live = self.live_objects(&cpu, cache);
            if live > 0 {
                // Somebody was faster, with the handle while it was good.
                self.slab.revive(id);
                return Err(self.still_busy(cache, live));
            }
        }
        let descriptor = self.slab.slots[usize::from(own)].cache.load(Acquire);
        if own != id.index {
            self.forget_number(id.index, Some(own));
        }
        self.forget_number(own, Some(own));
        let place = NonNull::new(descriptor).ok_or(SlabError::NoSuchCache)?;
        // SAFETY: it is out of all tables, and all CPUs have been seen since:
        // this is the last way to it.
        let cache = unsafe { place.as_ref() };
        for node in self.all_nodes() {
            self.drop_shared(cache, node);
            self.drop_aliens(cache, node);
        }
        let descriptors = Target::number(0);
        self.free_object(descriptors, place.cast(), Location::caller()).ok();
        Ok(())
    }

    /// Empties and frees the arrays that CPUs and nodes have of a cache. They
    /// are made again where the cache is used.
    pub(crate) fn drop_arrays(&self, own: u16) {
        Cpu::on_each(&self.platform, &|cpu| {
            let Some(cache) = self.slab.cache(cpu, own) else { return };
            let mut surplus = PageList::new();
            self.drain_array(cpu, cache, &mut surplus);
            self.release_slabs(cache, surplus);
            let names = |i: u16| {
                let named = self.slab.cache(cpu, i);
                named.is_some_and(|c| c.index == own)
            };
            // SAFETY: `cpu` is that CPU's token; the closure does not nest.
            let array = unsafe {
                self.slab.arrays(cpu).with(|arrays| {
                    let array = arrays.remove(own);
                    for i in (0..MAX_CACHES as u16).filter(|&i| names(i)) {
                        arrays.remove(i);
                    }
                    array
                })
            };
            if let Some(array) = array {
                self.drop_array(array);
            }
        });
        for node in self.all_nodes() {
            let cpu = self.enter();
            if let Some(cache) = self.slab.cache(&cpu, own) {
                let mut surplus = PageList::new();
                self.drain_aliens(&cpu, cache, node, &mut surplus);
                self.drain_shared(&cpu, cache, node, &mut surplus);
                self.drop_shared(cache, node);
                self.release_slabs(cache, surplus);
            }
        }
    }

    /// Frees the array that the CPUs of a node share, which was emptied.
    fn drop_shared(&self, cache: &Cache, node: NodeId) {
        let cpu = self.enter();
        let mut lists = cache.node(node).lists.lock(&cpu);
        // Filled again meanwhile: it stays, in its old size, until next time.
        let empty = lists.shared().is_some_and(|array| array.avail == 0);
        let array = if empty { lists.shared.take() } else { None };
        drop(lists);
        drop(cpu);
        if let Some(array) = array {
            self.drop_array(array);
        }
    }

    /// Frees the arrays of a node for the objects of others, which are empty.
    fn drop_aliens(&self, cache: &Cache, by: NodeId) {
        for of in self.all_nodes() {
            let array = {
                let cpu = self.enter();
                cache.alien(by, of).and_then(|alien| alien.lock(&cpu).remove())
            };
            if let Some(array) = array {
                self.drop_array(array);
            }
        }
    }
}
