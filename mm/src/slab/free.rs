//! Giving objects back: to this CPU's array, and from full arrays to the shared
//! array or the slabs. Whether an object is of the reserves plays no part here:
//! its slab says so, whatever way it takes. May call: `node`, `grow`, `debug`.

use super::SlabError;
use super::alloc::Target;
use super::array::ArrayCache;
use super::cache::{Cache, CacheId};
use super::geometry::free_limit;
use super::node::NodeLists;
use super::slabs::Owner;
use crate::list::PageList;
use crate::mm::Mm;
use crate::page::{PageDesc, PageType};
use crate::platform::{LogLevel, Platform};
use crate::stats::Event;
use crate::sync::{Cpu, Ordering::Relaxed};
use crate::types::{NodeId, Pfn};
use core::panic::Location;
use core::ptr::NonNull;

impl<P: Platform> Mm<P> {
    /// Frees an object of a cache, from any context.
    ///
    /// # Errors
    /// For a pointer that is no object of that cache, or one that the cache's
    /// checks find wrong: nothing has changed then but a counter and a line in
    /// the log. A cache without checks finds a double free only once the object
    /// has left the array of its CPU; it is then dropped and logged.
    #[track_caller]
    #[inline]
    pub fn cache_free(&self, id: CacheId, ptr: NonNull<u8>) -> Result<(), SlabError> {
        let target = Target { index: id.index, id: Some(id), arrays: true };
        self.free_object(target, ptr, Location::caller())
    }

    /// Frees an object of `target`.
    #[inline]
    pub(crate) fn free_object(
        &self,
        target: Target,
        ptr: NonNull<u8>,
        at: &'static Location<'static>,
    ) -> Result<(), SlabError> {
        let Some((pfn, desc)) = self.slab_of(ptr) else {
            return Err(self.refuse_object(None, ptr, SlabError::NotSlab));
        };
        if self.push(target, Owner::of(desc).cache, pfn, ptr) {
            return Ok(());
        }
        self.free_object_slow(target, ptr, (pfn, desc), at)
    }

    /// The head of the slab that `ptr` points into.
    #[inline]
    pub(crate) fn slab_of(&self, ptr: NonNull<u8>) -> Option<(Pfn, &PageDesc)> {
        let pfn = self.platform.pfn_of(ptr.as_ptr())?;
        let desc = self.map.try_page(pfn)?;
        if desc.head().ty() == PageType::Slab {
            return Some((pfn, desc));
        }
        let (head, word) = self.map.head_of(pfn)?;
        (word.ty() == PageType::Slab).then(|| (head, self.map.page(head)))
    }

    /// Puts an object of the cache `owner` into this CPU's array for `target`.
    /// False if it does not go in there just like that.
    #[inline]
    pub(crate) fn push(&self, target: Target, owner: u16, pfn: Pfn, ptr: NonNull<u8>) -> bool {
        let cpu = self.enter();
        if target.id.is_some_and(|id| !self.slab.is_live(id)) {
            return false;
        }
        if self.nodes() > 1 && self.map.block(pfn).node() != self.slab_node(&cpu) {
            return false;
        }
        // SAFETY: `cpu` is this CPU's token; the closure does not nest.
        unsafe {
            self.slab.arrays(&cpu).with(|arrays| match arrays.get(target.index) {
                Some(array) if array.has_room() && array.cache == owner && !array.extra => {
                    array.push(ptr);
                    true
                }
                _ => false,
            })
        }
    }

    /// Frees what does not simply go into the array.
    #[cold]
    #[inline(never)]
    pub(crate) fn free_object_slow(
        &self,
        target: Target,
        ptr: NonNull<u8>,
        (pfn, desc): (Pfn, &PageDesc),
        at: &'static Location<'static>,
    ) -> Result<(), SlabError> {
        if target.arrays {
            self.ensure_array(target.index);
        }
        let cpu = self.enter();
        let Ok(cache) = self.resolve(&cpu, target) else {
            return Err(self.refuse_object(None, ptr, SlabError::NoSuchCache));
        };
        if cache.index != Owner::of(desc).cache {
            return Err(self.refuse_object(Some(cache), ptr, SlabError::WrongCache));
        }
        if self.slab_at(cache, pfn).number(ptr).is_none() {
            return Err(self.refuse_object(Some(cache), ptr, SlabError::NotObject));
        }
        if self.needs_extra(cache) {
            self.retire(&cpu, cache, pfn, ptr, at)?;
        }
        let node = self.map.block(pfn).node();
        let mut surplus = PageList::new();
        let home = self.slab_node(&cpu);
        // SAFETY: `cpu` is this CPU's token, and nothing below reaches the
        // arrays again.
        let result = unsafe {
            self.slab.arrays(&cpu).with(|arrays| {
                let array =
                    if target.arrays && node == home { arrays.get(target.index) } else { None };
                if let Some(array) = array {
                    if !array.has_room() {
                        self.flush(&cpu, cache, home, array, array.batch, &mut surplus);
                    }
                    array.push(ptr);
                    return Ok(());
                }
                let mut lists = cache.node(node).lists.lock(&cpu);
                if self.put_objects(cache, node, &mut lists, &[ptr], &mut surplus) == 0 {
                    return Ok(());
                }
                Err(SlabError::DoubleFree)
            })
        };
        self.release_slabs(cache, surplus);
        result
    }

    /// Moves the oldest `n` objects out of an array: into the shared array as
    /// far as that has room, else into their slabs.
    pub(crate) fn flush(
        &self,
        cpu: &Cpu<'_, P>,
        cache: &Cache,
        node: NodeId,
        array: &mut ArrayCache,
        n: u32,
        surplus: &mut PageList,
    ) {
        let mut lists = cache.node(node).lists.lock(cpu);
        let n = n.min(array.avail) as usize;
        let mut moved = 0;
        if let Some(shared) = lists.shared() {
            while moved < n && shared.has_room() {
                shared.push(array.objects()[moved]);
                moved += 1;
            }
        }
        if moved == 0 {
            self.put_objects(cache, node, &mut lists, &array.objects()[..n], surplus);
            moved = n;
        }
        array.forget_oldest(moved as u32);
    }

    /// Puts objects that are in nobody's hands into their slabs on `node`.
    /// Slabs beyond what the node keeps free come off the lists and go to
    /// `surplus`, to be released when the lock is given up. Returns how many
    /// were refused (and logged) because they were free there already or were
    /// none.
    pub(crate) fn put_objects(
        &self,
        cache: &Cache,
        node: NodeId,
        lists: &mut NodeLists,
        objects: &[NonNull<u8>],
        surplus: &mut PageList,
    ) -> usize {
        let mut refused = 0;
        for &ptr in objects {
            let slab = self.slab_of(ptr).map(|(pfn, _)| self.slab_at(cache, pfn));
            let place = slab.and_then(|slab| Some((slab, slab.number(ptr)?)));
            let why = match place {
                None => SlabError::NotObject,
                Some((slab, _)) if Owner::of(slab.desc).cache != cache.index => {
                    SlabError::WrongCache
                }
                Some((slab, i)) => {
                    if lists.put(&self.map, &slab, i) {
                        continue;
                    }
                    SlabError::DoubleFree
                }
            };
            self.refuse_object(Some(cache), ptr, why);
            refused += 1;
        }
        let batch = cache.batch.load(Relaxed);
        let most = free_limit(batch, cache.geometry.objects, self.slab.cpus_of_node(node));
        while lists.free_objects > most {
            if !self.take_surplus(cache, lists, surplus) {
                break;
            }
        }
        refused
    }

    /// Takes one free slab off the lists. False if there is none.
    pub(crate) fn take_surplus(
        &self,
        cache: &Cache,
        lists: &mut NodeLists,
        surplus: &mut PageList,
    ) -> bool {
        let Some(pfn) = lists.surplus() else { return false };
        let slab = self.slab_at(cache, pfn);
        lists.remove(&self.map, &slab, u64::from(cache.geometry.objects));
        surplus.push_back(&self.map, pfn);
        true
    }

    /// Says why an object is not taken.
    #[cold]
    pub(crate) fn refuse_object(
        &self,
        cache: Option<&Cache>,
        ptr: NonNull<u8>,
        why: SlabError,
    ) -> SlabError {
        self.stats.count(Event::BadObject);
        let name = cache.map_or("?", |c| c.name.as_str());
        self.platform.log(
            LogLevel::Error,
            format_args!("slab error in cache '{name}': object {ptr:p}: {why}"),
        );
        why
    }

    /// Empties one CPU's array of a cache into the slabs; the array stays.
    pub(crate) fn drain_array(&self, cpu: &Cpu<'_, P>, cache: &Cache, surplus: &mut PageList) {
        let node = self.slab_node(cpu);
        // SAFETY: `cpu` is that CPU's token; the closure does not nest.
        unsafe {
            self.slab.arrays(cpu).with(|arrays| {
                if let Some(array) = arrays.get(cache.index) {
                    self.empty_array(cpu, cache, node, array, surplus);
                }
            });
        }
    }

    /// Empties an array into the slabs of its node.
    pub(crate) fn empty_array(
        &self,
        cpu: &Cpu<'_, P>,
        cache: &Cache,
        node: NodeId,
        array: &mut ArrayCache,
        surplus: &mut PageList,
    ) {
        let mut lists = cache.node(node).lists.lock(cpu);
        self.put_objects(cache, node, &mut lists, array.objects(), surplus);
        array.forget_oldest(array.avail);
    }

    /// Empties the array that the CPUs of `node` share.
    pub(crate) fn drain_shared(
        &self,
        cpu: &Cpu<'_, P>,
        cache: &Cache,
        node: NodeId,
        surplus: &mut PageList,
    ) {
        let mut lists = cache.node(node).lists.lock(cpu);
        while let Some(taken) = lists.shared().and_then(ArrayCache::pop) {
            self.put_objects(cache, node, &mut lists, &[taken.ptr], surplus);
        }
    }
}
