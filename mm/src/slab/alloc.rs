//! Taking objects: this CPU's array, then the node's shared array and slabs.
//! Where both are empty, `grow` gets another slab. May call: `reserve`,
//! `grow`, `free`.

use super::array::{ArrayCache, Taken};
use super::cache::{Cache, CacheId};
use super::grow::with_rest;
use super::node::NodeLists;
use super::reserve::Right;
use super::slabs::{Fill, Slab};
use crate::gfp::{AllocError, Gfp};
use crate::list::PageList;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::steps::Pop;
use crate::sync::{Cpu, Ordering::Relaxed};
use crate::types::{NodeId, Pfn};
use core::num::NonZeroU32;
use core::panic::Location;
use core::ptr::NonNull;

/// Objects that an array gets at most if nobody used it for a while.
const COLD_BATCH: u32 = 16;

/// Whose objects, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// The number of the cache, or of a handle to it.
    pub(crate) index: u16,
    /// Through the CPU's array; straight from the slabs otherwise.
    pub(crate) arrays: bool,
    /// The handle's generation, to be checked; None for the layer's own caches.
    pub(crate) handle: Option<NonZeroU32>,
}

// It goes with every call off the fast path: in a register.
const _: () = assert!(size_of::<Target>() == 8);

impl Target {
    /// The cache that a handle names.
    #[inline]
    pub(crate) fn of(id: CacheId) -> Self {
        Self { index: id.index, arrays: true, handle: Some(id.generation) }
    }

    /// A cache by its number: one of the layer's own, or one that an object of
    /// it has named.
    #[inline]
    pub(crate) fn number(index: u16) -> Self {
        Self { index, arrays: true, handle: None }
    }
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
        let at = Location::caller();
        if gfp.contains(Gfp::ZERO) {
            return self.alloc_object(Target::of(id), gfp, at);
        }
        self.pop_or(id.index, id.generation, || self.alloc_object(Target::of(id), gfp, at))
    }

    /// Allocates an object of a slab on `node`, or, unless THISNODE says no, of
    /// one that is near it where `node` has no more memory. A node without
    /// memory stands for the nearest that has some. Content, context and errors
    /// as for [`cache_alloc`](Self::cache_alloc).
    #[track_caller]
    pub fn cache_alloc_node(
        &self,
        id: CacheId,
        gfp: Gfp,
        node: NodeId,
    ) -> Result<NonNull<u8>, AllocError> {
        self.alloc_object_on(Target::of(id), gfp, node)
    }

    /// Takes an object from this CPU's array, if that is all there is to it;
    /// `otherwise` is what else to do.
    #[inline]
    pub(crate) fn pop_or(
        &self,
        index: u16,
        generation: NonZeroU32,
        otherwise: impl FnOnce() -> Result<NonNull<u8>, AllocError>,
    ) -> Result<NonNull<u8>, AllocError> {
        if P::LOCAL_STEPS {
            let entry = self.slab.entry(index);
            let reserves = self.slab.reserve_slabs.as_ptr().cast_const();
            let pop = Pop { entry, generation: generation.get(), reserves };
            // SAFETY: it is an entry, and there is one for each CPU.
            return match unsafe { self.platform.local_pop(pop) } {
                Some(object) => Ok(object),
                None => otherwise(),
            };
        }
        let cpu = self.enter();
        // SAFETY: `cpu` is this CPU's token, and nothing below reaches the
        // table again.
        let array = unsafe { self.slab.arrays(&cpu).with(|all| all.ready(index, generation)) };
        if let Some(array) = array
            // As long as there are reserves, each array is looked at for what
            // it has.
            && self.slab.reserve_slabs.load(Relaxed) == 0
            // SAFETY: the array is this CPU's, whose token this is, and there
            // are no references into it.
            && let Some(object) = unsafe { ArrayCache::pop_at(array) }
        {
            drop(cpu);
            return Ok(object);
        }
        drop(cpu);
        otherwise()
    }

    /// Allocates from `target`, by whatever way.
    #[inline(never)]
    pub(crate) fn alloc_object(
        &self,
        target: Target,
        gfp: Gfp,
        at: &'static Location<'static>,
    ) -> Result<NonNull<u8>, AllocError> {
        let taken = self.alloc_object_slow(target, gfp)?;
        self.give_object(taken, target, gfp, at)
    }

    /// Allocates from `target` on a node of the caller's choice.
    #[track_caller]
    pub(crate) fn alloc_object_on(
        &self,
        target: Target,
        gfp: Gfp,
        node: NodeId,
    ) -> Result<NonNull<u8>, AllocError> {
        let node = self.memory_node(node);
        let here = {
            let cpu = self.enter();
            self.slab_node(&cpu) == node
        };
        let taken = if here {
            self.alloc_object_slow(target, gfp)?
        } else {
            self.alloc_remote(target, gfp, node)?
        };
        self.give_object(taken, target, gfp, Location::caller())
    }

    /// Takes an object from this CPU's array or its node, or grows. (The array
    /// first, even if the fast path has just found it empty: it may not have
    /// been allowed to look.)
    pub(crate) fn alloc_object_slow(&self, target: Target, gfp: Gfp) -> Result<Taken, AllocError> {
        let mut look = target.arrays;
        let (home, plan) = loop {
            let cpu = self.enter();
            let cache = self.resolve(&cpu, target)?;
            if look && !self.renew_array(&cpu, cache, target.index) {
                drop(cpu);
                self.ensure_array(target.index);
                look = false;
                continue;
            }
            let home = self.slab_node(&cpu);
            if let Some(taken) = self.take_local(&cpu, cache, target, home, gfp) {
                return Ok(taken);
            }
            break (home, self.plan(&cpu, cache, home, gfp));
        };
        if self.nodes() > 1 {
            // Close memory first, then what is far but there already.
            if let Ok(taken) = self.grow(target, &plan.near(), home, gfp) {
                return Ok(taken);
            }
            if !gfp.contains(Gfp::THISNODE)
                && let Some(taken) = self.take_elsewhere(target, home, gfp)?
            {
                return Ok(taken);
            }
        }
        let failed = match self.grow(target, &plan, home, gfp) {
            Ok(taken) => return Ok(taken),
            Err(why) => why,
        };
        // The wait for memory may have brought objects of this very cache.
        let cpu = self.enter();
        let cache = self.resolve(&cpu, target)?;
        let node = self.slab_node(&cpu);
        self.take_local(&cpu, cache, target, node, gfp).ok_or(failed)
    }

    /// Takes an object from the lists of a node that is not this CPU's, or
    /// grows there, or takes it from as near as possible.
    fn alloc_remote(&self, target: Target, gfp: Gfp, node: NodeId) -> Result<Taken, AllocError> {
        if let Some(taken) = self.take_at(target, node, gfp)? {
            return Ok(taken);
        }
        let plan = {
            let cpu = self.enter();
            let cache = self.resolve(&cpu, target)?;
            self.plan(&cpu, cache, node, gfp)
        };
        if let Ok(taken) = self.grow(target, &plan.near(), node, gfp) {
            return Ok(taken);
        }
        if !gfp.contains(Gfp::THISNODE)
            && let Some(taken) = self.take_elsewhere(target, node, gfp)?
        {
            return Ok(taken);
        }
        match self.grow(target, &plan, node, gfp) {
            Ok(taken) => Ok(taken),
            Err(why) => self.take_at(target, node, gfp)?.ok_or(why),
        }
    }

    /// The cache that `target` names.
    pub(crate) fn resolve<'c>(
        &self,
        cpu: &'c Cpu<'_, P>,
        target: Target,
    ) -> Result<&'c Cache, AllocError> {
        if let Some(handle) = target.handle
            && self.slab.generation(target.index) != handle.get()
        {
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
        gfp: Gfp,
    ) -> Option<Taken> {
        let mut surplus = PageList::new();
        // SAFETY: `cpu` is this CPU's token, and nothing below reaches the
        // arrays again.
        let taken = unsafe {
            self.slab.arrays(cpu).with(|arrays| {
                let mut array = if target.arrays { arrays.get(target.index) } else { None };
                if let Some(array) = array.as_deref_mut()
                    && array.avail > 0
                    && let Some(taken) = self.pop_allowed(array, self.right(gfp))
                {
                    return Some(taken);
                }
                let mut lists = cache.node(node).lists.lock(cpu);
                self.refill(cache, node, &mut lists, array, gfp, &mut surplus)
            })
        };
        self.release_slabs(cache, surplus);
        taken
    }

    /// Takes one object from the lists of `node`.
    fn take_at(&self, target: Target, node: NodeId, gfp: Gfp) -> Result<Option<Taken>, AllocError> {
        let cpu = self.enter();
        let cache = self.resolve(&cpu, target)?;
        let mut surplus = PageList::new();
        let mut lists = cache.node(node).lists.lock(&cpu);
        if let Some(shared) = lists.shared()
            && let Some(taken) = self.pop_allowed(shared, self.right(gfp))
        {
            return Ok(Some(taken));
        }
        let taken = self.refill(cache, node, &mut lists, None, gfp, &mut surplus);
        drop(lists);
        self.release_slabs(cache, surplus);
        Ok(taken)
    }

    /// Takes one object from any node but `home`, the nearest first; then from
    /// what nodes have gathered for each other, which is sent home for that.
    fn take_elsewhere(
        &self,
        target: Target,
        home: NodeId,
        gfp: Gfp,
    ) -> Result<Option<Taken>, AllocError> {
        for sent_home in [false, true] {
            if sent_home {
                self.send_all_home(target)?;
            }
            for node in self.nearest_nodes(home).filter(|&node| node != home) {
                if let Some(taken) = self.take_at(target, node, gfp)? {
                    return Ok(Some(taken));
                }
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
        gfp: Gfp,
        surplus: &mut PageList,
    ) -> Option<Taken> {
        // Under the lock: what others have put into the shared array is known
        // for what it is then.
        let right = self.right(gfp);
        if right == Right::Kept && self.pressure_is_over(lists, array.as_deref()) {
            self.demote(cache, lists);
            // What lay in the array is everybody's now.
            if let Some(taken) = array.as_deref_mut().and_then(ArrayCache::pop) {
                return Some(taken);
            }
        }
        let Some(array) = array else {
            let mut one = [NonNull::dangling()];
            let n = self.take_from_lists(cache, lists, &mut one, 1, right);
            return (n == 1).then(|| self.taken(cache, one[0]));
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
        if self.take_shared(lists, array, want, right) == 0 {
            let out = array.spare(want + want / 4);
            let n = self.take_from_lists(cache, lists, out, want, right);
            array.add(n as u32);
        }
        self.pop_allowed(array, right)
    }

    /// Moves up to `want` objects from the shared array.
    fn take_shared(
        &self,
        lists: &mut NodeLists,
        array: &mut ArrayCache,
        want: u32,
        right: Right,
    ) -> u32 {
        let Some(shared) = lists.shared() else { return 0 };
        if right != Right::Kept {
            let n = shared.take_newest(array.spare(want)) as u32;
            array.add(n);
            return n;
        }
        let mut moved = 0;
        while moved < want {
            let Some(taken) = self.pop_allowed(shared, right) else { break };
            array.push(taken.ptr);
            moved += 1;
        }
        moved
    }

    /// Takes objects out of slabs that the caller may use, `want` of them and, if
    /// `out` has room for it, what little is left of the last slab then. Returns
    /// how many.
    pub(crate) fn take_from_lists(
        &self,
        cache: &Cache,
        lists: &mut NodeLists,
        out: &mut [NonNull<u8>],
        want: u32,
        right: Right,
    ) -> usize {
        let want = out.len().min(want as usize);
        // Whoever may use the reserves leaves the rest to those who may not.
        const ALL: [(bool, Fill); 4] = [
            (true, Fill::Partial),
            (false, Fill::Partial),
            (true, Fill::Free),
            (false, Fill::Free),
        ];
        let mut taken = 0;
        for (reserve, fill) in ALL {
            if reserve && right != Right::Entitled {
                continue;
            }
            while taken < want {
                let Some(pfn) = lists.list(reserve, fill).first() else { break };
                let slab = self.slab_at(cache, pfn);
                let n = with_rest((want - taken) as u32, &slab) as usize;
                let end = out.len().min(taken + n);
                let n = lists.take(&self.map, &slab, &mut out[taken..end]);
                debug_assert!(n > 0, "{pfn:?} is listed as having free objects");
                taken += n;
            }
        }
        taken
    }

    /// The slab with head `pfn`.
    #[inline]
    pub(crate) fn slab_at<'c>(&'c self, cache: &'c Cache, pfn: Pfn) -> Slab<'c> {
        Slab::new(pfn, self.map.page(pfn), &cache.geometry, self.platform.frame(pfn))
    }

    /// An object of `cache` that came out of no array.
    pub(crate) fn taken(&self, cache: &Cache, ptr: NonNull<u8>) -> Taken {
        Taken { ptr, zero_bytes: zero_bytes(cache), extra: self.needs_extra(cache) }
    }

    /// Whether objects need more than to be handed out and taken back.
    pub(crate) fn needs_extra(&self, cache: &Cache) -> bool {
        !cache.geometry.debug.is_empty()
            || cache.ctor.is_none()
                && (self.tunables.init_on_alloc.load(Relaxed)
                    || self.tunables.init_on_free.load(Relaxed))
    }

    /// An object as its caller gets it.
    pub(crate) fn give_object(
        &self,
        taken: Taken,
        target: Target,
        gfp: Gfp,
        at: &'static Location<'static>,
    ) -> Result<NonNull<u8>, AllocError> {
        if taken.extra || gfp.contains(Gfp::ZERO) {
            return self.finish(taken, target, gfp, at);
        }
        Ok(taken.ptr)
    }

    /// What most objects do not need: checks, initialisation, zeroes.
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
