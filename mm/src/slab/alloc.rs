//! Taking objects: this CPU's array, then the node's shared array and slabs.
//! Where both are empty, `grow` gets another slab. May call: `reserve`,
//! `grow`, `free`.

use super::array::{ArrayCache, Taken};
use super::cache::{Cache, CacheId};
use super::node::NodeLists;
use super::slabs::{Fill, Slab};
use crate::gfp::{AllocError, Gfp};
use crate::list::PageList;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::sync::{Cpu, Ordering::Relaxed};
use crate::types::{NodeId, Pfn};
use core::panic::Location;
use core::ptr::NonNull;

/// Objects that an array gets at most if nobody used it for a while.
const COLD_BATCH: u32 = 16;

/// Whose objects, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// The number of the cache, or of a handle to it.
    pub(crate) index: u16,
    /// The handle, to be checked; None for the layer's own caches.
    pub(crate) id: Option<CacheId>,
    /// Through the CPU's array; straight from the slabs otherwise.
    pub(crate) arrays: bool,
}

const NO_CACHE: AllocError = AllocError::Invalid("no such cache");

impl<P: Platform> Mm<P> {
    /// Allocates an object. Its content is whatever was there, unless there is
    /// a constructor or ZERO was asked for.
    ///
    /// May wait if the gfp has DIRECT_RECLAIM: then it is to be called with
    /// interrupts on and no lock held; without, from anywhere.
    ///
    /// # Errors
    /// [`AllocError::Invalid`] for a cache that was destroyed, or ZERO where
    /// there is a constructor; [`AllocError::NoMemory`] as for pages, and also
    /// when there are objects of the reserves only and the caller has no right
    /// to those.
    #[track_caller]
    #[inline]
    pub fn cache_alloc(&self, id: CacheId, gfp: Gfp) -> Result<NonNull<u8>, AllocError> {
        let target = Target { index: id.index, id: Some(id), arrays: true };
        self.alloc_object(target, gfp)
    }

    /// Allocates from `target`.
    #[track_caller]
    #[inline]
    pub(crate) fn alloc_object(&self, target: Target, gfp: Gfp) -> Result<NonNull<u8>, AllocError> {
        let hit = self.pop(target, gfp);
        let taken = match hit {
            Some(taken) => taken,
            None => self.alloc_object_slow(target, gfp)?,
        };
        if taken.extra || gfp.contains(Gfp::ZERO) {
            return self.finish(taken, target, gfp, Location::caller());
        }
        Ok(taken.ptr)
    }

    /// Takes an object from this CPU's array.
    #[inline]
    fn pop(&self, target: Target, gfp: Gfp) -> Option<Taken> {
        let cpu = self.enter();
        if target.id.is_some_and(|id| !self.slab.is_live(id)) {
            return None;
        }
        // SAFETY: `cpu` is this CPU's token, and nothing below reaches the
        // arrays again.
        unsafe {
            self.slab.arrays(&cpu).with(|arrays| {
                let array = arrays.get(target.index)?;
                if self.slab.reserve_slabs.load(Relaxed) != 0 {
                    return self.pop_guarded(array, gfp);
                }
                array.pop()
            })
        }
    }

    /// The array had nothing for this caller.
    #[cold]
    #[inline(never)]
    #[track_caller]
    pub(crate) fn alloc_object_slow(&self, target: Target, gfp: Gfp) -> Result<Taken, AllocError> {
        let entitled = gfp.may_use_reserves(self.platform.context());
        if target.arrays {
            self.ensure_array(target.index);
        }
        let (home, plan) = {
            let cpu = self.enter();
            let cache = self.resolve(&cpu, target)?;
            let home = self.slab_node(&cpu);
            if let Some(taken) = self.take_local(&cpu, cache, target, home, entitled) {
                return Ok(taken);
            }
            (home, self.plan(&cpu, cache, home, gfp))
        };
        if self.nodes() > 1 {
            // Close memory first, then what is far but there already.
            if let Ok(taken) = self.grow(target, &plan.near(), home, entitled) {
                return Ok(taken);
            }
            if !gfp.contains(Gfp::THISNODE)
                && let Some(taken) = self.take_remote(target, home, entitled)?
            {
                return Ok(taken);
            }
        }
        let failed = match self.grow(target, &plan, home, entitled) {
            Ok(taken) => return Ok(taken),
            Err(why) => why,
        };
        // The wait for memory may have brought objects of this very cache.
        let cpu = self.enter();
        let cache = self.resolve(&cpu, target)?;
        let node = self.slab_node(&cpu);
        self.take_local(&cpu, cache, target, node, entitled).ok_or(failed)
    }

    /// The cache that `target` names.
    pub(crate) fn resolve<'c>(
        &self,
        cpu: &'c Cpu<'_, P>,
        target: Target,
    ) -> Result<&'c Cache, AllocError> {
        if target.id.is_some_and(|id| !self.slab.is_live(id)) {
            return Err(NO_CACHE);
        }
        self.slab.cache(cpu, target.index).ok_or(NO_CACHE)
    }

    /// Takes an object from this CPU's array after all, or fills it from the
    /// node and takes one; without an array, one from the node.
    fn take_local(
        &self,
        cpu: &Cpu<'_, P>,
        cache: &Cache,
        target: Target,
        node: NodeId,
        entitled: bool,
    ) -> Option<Taken> {
        let mut surplus = PageList::new();
        // SAFETY: `cpu` is this CPU's token, and nothing below reaches the
        // arrays again.
        let taken = unsafe {
            self.slab.arrays(cpu).with(|arrays| {
                let mut array = if target.arrays { arrays.get(target.index) } else { None };
                if let Some(array) = array.as_deref_mut()
                    && let Some(taken) = self.pop_entitled(array, entitled)
                {
                    return Some(taken);
                }
                let mut lists = cache.node(node).lists.lock(cpu);
                self.refill(cache, node, &mut lists, array, entitled, &mut surplus)
            })
        };
        self.release_slabs(cache, surplus);
        taken
    }

    /// Takes one object from any other node, the nearest first.
    fn take_remote(
        &self,
        target: Target,
        home: NodeId,
        entitled: bool,
    ) -> Result<Option<Taken>, AllocError> {
        for node in self.nearest_nodes(home).filter(|&node| node != home) {
            let cpu = self.enter();
            let cache = self.resolve(&cpu, target)?;
            let mut surplus = PageList::new();
            let mut lists = cache.node(node).lists.lock(&cpu);
            let taken = self.refill(cache, node, &mut lists, None, entitled, &mut surplus);
            drop(lists);
            self.release_slabs(cache, surplus);
            if taken.is_some() {
                return Ok(taken);
            }
        }
        Ok(None)
    }

    /// Gets a batch of objects from a node into `array`, and one for the
    /// caller; without an array, that one only. None if the node has nothing
    /// that the caller may have.
    pub(crate) fn refill(
        &self,
        cache: &Cache,
        node: NodeId,
        lists: &mut NodeLists,
        mut array: Option<&mut ArrayCache>,
        entitled: bool,
        surplus: &mut PageList,
    ) -> Option<Taken> {
        let guarded = !entitled && self.slab.reserve_slabs.load(Relaxed) != 0;
        if guarded && self.pressure_is_over(lists, array.as_deref()) {
            self.demote(cache, lists);
            // What lay in the array is everybody's now.
            if let Some(taken) = array.as_deref_mut().and_then(ArrayCache::pop) {
                return Some(taken);
            }
        }
        let Some(array) = array else {
            let mut one = None;
            self.take_from_lists(cache, lists, 1, entitled, &mut |object| one = Some(object));
            return one.map(|ptr| self.taken(cache, ptr));
        };
        let mut want = array.batch.clamp(1, array.limit);
        if !array.touched && want > COLD_BATCH {
            want = COLD_BATCH;
        }
        // Objects of the reserves that are in the way go home.
        let over = (array.avail + want).saturating_sub(array.limit);
        if over > 0 {
            self.put_objects(cache, node, lists, &array.objects()[..over as usize], surplus);
            array.forget_oldest(over);
        }
        if self.take_shared(lists, array, want, guarded) == 0 {
            self.take_from_lists(cache, lists, want, entitled, &mut |object| array.push(object));
        }
        self.pop_entitled(array, entitled)
    }

    /// Moves up to `want` objects from the shared array.
    fn take_shared(
        &self,
        lists: &mut NodeLists,
        array: &mut ArrayCache,
        want: u32,
        guarded: bool,
    ) -> u32 {
        let Some(shared) = lists.shared() else { return 0 };
        let mut moved = 0;
        while moved < want {
            let taken = if guarded { self.pop_entitled(shared, false) } else { shared.pop() };
            let Some(taken) = taken else { break };
            array.push(taken.ptr);
            moved += 1;
        }
        moved
    }

    /// Takes up to `want` objects out of slabs that the caller may use.
    pub(crate) fn take_from_lists(
        &self,
        cache: &Cache,
        lists: &mut NodeLists,
        want: u32,
        entitled: bool,
        sink: &mut dyn FnMut(NonNull<u8>),
    ) {
        // Whoever may use the reserves leaves the rest to those who may not.
        const ALL: [(bool, Fill); 4] = [
            (true, Fill::Partial),
            (false, Fill::Partial),
            (true, Fill::Free),
            (false, Fill::Free),
        ];
        let mut left = want;
        for (reserve, fill) in ALL {
            if reserve && !entitled {
                continue;
            }
            while left > 0 {
                let Some(pfn) = lists.list(reserve, fill).first() else { break };
                let slab = self.slab_at(cache, pfn);
                let taken = lists.take(&self.map, &slab, left, sink);
                debug_assert!(taken > 0, "{pfn:?} is listed as having free objects");
                left -= taken;
            }
        }
    }

    /// The slab with head `pfn`.
    pub(crate) fn slab_at(&self, cache: &Cache, pfn: Pfn) -> Slab<'_> {
        Slab::new(pfn, self.map.page(pfn), cache.geometry, self.platform.frame(pfn))
    }

    /// An object of `cache` that came out of no array.
    pub(crate) fn taken(&self, cache: &Cache, ptr: NonNull<u8>) -> Taken {
        Taken { ptr, zero_bytes: zero_bytes(cache), extra: self.needs_extra(cache) }
    }

    /// Bytes to clear in an object of `target`.
    pub(crate) fn zero_bytes_of(&self, target: Target) -> u32 {
        let cpu = self.enter();
        self.resolve(&cpu, target).map_or(0, zero_bytes)
    }

    /// Whether objects need more than to be handed out and taken back.
    pub(crate) fn needs_extra(&self, cache: &Cache) -> bool {
        !cache.geometry.debug.is_empty()
            || cache.ctor.is_none()
                && (self.tunables.init_on_alloc.load(Relaxed)
                    || self.tunables.init_on_free.load(Relaxed))
    }

    /// What most objects do not need: checks, initialisation, zeroes.
    #[cold]
    #[inline(never)]
    pub(crate) fn finish(
        &self,
        taken: Taken,
        target: Target,
        gfp: Gfp,
        at: &'static Location<'static>,
    ) -> Result<NonNull<u8>, AllocError> {
        let zero = gfp.contains(Gfp::ZERO);
        let mut bytes = if zero { taken.zero_bytes } else { 0 };
        if taken.extra {
            let prepared = self.prepare(target, taken.ptr, at)?;
            bytes = if zero || prepared.zero { prepared.object_size } else { 0 };
        }
        if zero && taken.zero_bytes == 0 {
            self.free_object(target, taken.ptr, at).ok();
            return Err(AllocError::Invalid("zeroes where a constructor is at work"));
        }
        // SAFETY: the object is the caller's, and has so many bytes.
        unsafe { taken.ptr.write_bytes(0, bytes as usize) };
        Ok(taken.ptr)
    }
}

/// Bytes to clear in an object of `cache` for a caller that wants zeroes; 0 if
/// there is a constructor. All of the slot, since a merged cache's users want
/// different sizes.
pub(crate) fn zero_bytes(cache: &Cache) -> u32 {
    if cache.ctor.is_some() { 0 } else { cache.geometry.size - cache.geometry.offset }
}
