//! Giving objects back: to this CPU's array, and from full arrays to the shared
//! array or the slabs. Whether an object is of the reserves plays no part here:
//! its slab says so, whatever way it takes. May call: `alien`, `node`, `grow`,
//! `debug`.

use super::SlabError;
use super::alloc::Target;
use super::array::ArrayCache;
use super::cache::{Cache, CacheId};
use super::geometry::free_limit;

use super::node::NodeLists;
use super::slabs::Key;
use crate::list::PageList;
use crate::mm::Mm;
use crate::page::{PageDesc, PageType};
use crate::platform::{LogLevel, Platform};
use crate::stats::Event;
use crate::steps::Push;
use crate::sync::{Cpu, Ordering::Relaxed};
use crate::types::{NodeId, PAGE_SIZE, Pfn};
use core::num::NonZeroU32;
use core::panic::Location;
use core::ptr::NonNull;

/// Objects freed in no order after which is looked whether they come in order.
const STRAYS: usize = 8;

impl<P: Platform> Mm<P> {
    /// Frees an object of a cache, from any context.
    ///
    /// # Errors
    /// For a pointer that is no object of that cache, or one that the cache's
    /// checks find wrong: nothing has changed then but a counter and a line in
    /// the log. A cache without checks finds a double free, and a pointer into
    /// the midst of an object, only once it has left the array it went to; it is
    /// then dropped and logged.
    #[track_caller]
    #[inline]
    pub fn cache_free(&self, id: CacheId, ptr: NonNull<u8>) -> Result<(), SlabError> {
        let at = Location::caller();
        let rest = || self.free_object(Target::of(id), ptr, at);
        match self.key_at(ptr) {
            Some(key) => self.push_or(id.index, Some(id.generation), key, ptr, rest),
            None => rest(),
        }
    }

    /// Frees an object of `target`, by whatever way.
    #[inline(never)]
    pub(crate) fn free_object(
        &self,
        target: Target,
        ptr: NonNull<u8>,
        at: &'static Location<'static>,
    ) -> Result<(), SlabError> {
        match self.slab_of(ptr) {
            Some(head) => self.free_in_slab(target, ptr, head, at),
            None => Err(self.refuse_object(None, ptr, SlabError::NotSlab)),
        }
    }

    /// The key of the objects in the page that `ptr` points into if that is a
    /// slab's first, else one that no objects have; None for no page.
    #[inline]
    pub(crate) fn key_at(&self, ptr: NonNull<u8>) -> Option<Key> {
        let pfn = self.platform.frame_number(ptr.as_ptr());
        if !self.map.has_page(pfn) {
            return None;
        }
        Some(Key::of(self.map.page(pfn)))
    }

    /// The head of the slab that `ptr` points into.
    #[inline]
    pub(crate) fn slab_of(&self, ptr: NonNull<u8>) -> Option<(Pfn, &PageDesc)> {
        let pfn = self.platform.pfn_of(ptr.as_ptr())?;
        let desc = self.map.try_page(pfn)?;
        match desc.head().ty() {
            PageType::Slab => return Some((pfn, desc)),
            PageType::Tail => {}
            _ => return None,
        }
        let (head, word) = self.map.head_of(pfn)?;
        (word.ty() == PageType::Slab).then(|| (head, self.map.page(head)))
    }

    /// The head of the slab that an object lies in of which that has been asked
    /// before. Only whether it is a slab still can have changed (by somebody who
    /// frees twice), not whether it has a descriptor.
    #[inline]
    fn slab_of_known(&self, ptr: NonNull<u8>) -> Option<(Pfn, &PageDesc)> {
        let pfn = self.platform.frame_number(ptr.as_ptr());
        let desc = self.map.page(pfn);
        if desc.head().ty() == PageType::Slab {
            return Some((pfn, desc));
        }
        let (head, word) = self.map.head_of(pfn)?;
        (word.ty() == PageType::Slab).then(|| (head, self.map.page(head)))
    }

    /// Puts an object into this CPU's array for a number, and a handle if it is
    /// by a handle that it is freed, if that is all there is to it; `otherwise`
    /// is what else to do.
    #[inline]
    pub(crate) fn push_or(
        &self,
        index: u16,
        handle: Option<NonZeroU32>,
        key: Key,
        ptr: NonNull<u8>,
        otherwise: impl FnOnce() -> Result<(), SlabError>,
    ) -> Result<(), SlabError> {
        if P::LOCAL_STEPS {
            let entry = self.slab.entry(index);
            let (generation, object) = (handle.map(NonZeroU32::get), ptr.as_ptr());
            let push = Push { entry, generation, key: key.bits(), object };
            // SAFETY: it is an entry, and there is one for each CPU.
            return if unsafe { self.platform.local_push(push) } { Ok(()) } else { otherwise() };
        }
        let cpu = self.enter();
        // SAFETY: `cpu` is this CPU's token; the closure does not nest.
        let array = unsafe {
            self.slab.arrays(&cpu).with(|all| match handle {
                Some(generation) => all.ready(index, generation),
                None => all.ready_any(index),
            })
        };
        if let Some(array) = array
            // SAFETY: the array is this CPU's, whose token this is, and there
            // are no references into it.
            && unsafe { ArrayCache::push_at(array, key, ptr) }
        {
            drop(cpu);
            return Ok(());
        }
        drop(cpu);
        otherwise()
    }

    /// Frees what does not simply go into the array, or has not been tried
    /// there because the slab's first page is another one.
    pub(crate) fn free_in_slab(
        &self,
        target: Target,
        ptr: NonNull<u8>,
        (pfn, desc): (Pfn, &PageDesc),
        at: &'static Location<'static>,
    ) -> Result<(), SlabError> {
        let key = Key::of(desc);
        if !target.arrays {
            return self.free_the_long_way(target, ptr, (pfn, desc), at);
        }
        self.push_or(target.index, target.handle, key, ptr, || {
            self.free_the_long_way(target, ptr, (pfn, desc), at)
        })
    }

    fn free_the_long_way(
        &self,
        target: Target,
        ptr: NonNull<u8>,
        (pfn, desc): (Pfn, &PageDesc),
        at: &'static Location<'static>,
    ) -> Result<(), SlabError> {
        let key = Key::of(desc);
        let mut look = target.arrays;
        loop {
            let cpu = self.enter();
            let Ok(cache) = self.resolve(&cpu, target) else {
                return Err(self.refuse_object(None, ptr, SlabError::NoSuchCache));
            };
            if look {
                let lacks_own = !self.renew_array(&cpu, cache, target.index);
                let lacks_alien = self.lacks_alien(&cpu, cache, key.node());
                if lacks_own || lacks_alien {
                    drop(cpu);
                    self.ensure_array(target.index);
                    self.ensure_alien(target.index, key.node());
                    look = false;
                    continue;
                }
            }
            if cache.index != key.cache() {
                return Err(self.refuse_object(Some(cache), ptr, SlabError::WrongCache));
            }
            if self.slab_at(cache, pfn).number(ptr).is_none() {
                return Err(self.refuse_object(Some(cache), ptr, SlabError::NotObject));
            }
            if self.needs_extra(cache) {
                self.retire(&cpu, cache, pfn, ptr, at)?;
            }
            return self.put_away(&cpu, cache, target, key.node(), ptr);
        }
    }

    /// Puts an object, which is one, where it belongs: into this CPU's array,
    /// the array for its node, or its slab.
    fn put_away(
        &self,
        cpu: &Cpu<'_, P>,
        cache: &Cache,
        target: Target,
        node: NodeId,
        ptr: NonNull<u8>,
    ) -> Result<(), SlabError> {
        let mut surplus = PageList::new();
        let home = self.slab_node(cpu);
        let local = target.arrays && node == home;
        // SAFETY: `cpu` is this CPU's token, and nothing below reaches the
        // arrays again.
        let kept = unsafe {
            self.slab.arrays(cpu).with(|arrays| {
                let Some(array) = arrays.get(target.index).filter(|_| local) else { return false };
                if array.room() == 0 {
                    self.flush(cpu, cache, array, array.batch, &mut surplus);
                }
                array.push(ptr);
                true
            })
        };
        let mut result = Ok(());
        if !kept {
            if target.arrays && node != home {
                self.send_home(cpu, cache, (home, node), &[ptr], &mut surplus);
            } else {
                let mut lists = cache.node(node).lists.lock(cpu);
                if self.put_objects(cache, node, &mut lists, &[ptr], &mut surplus) > 0 {
                    result = Err(SlabError::DoubleFree);
                }
            }
        }
        self.release_slabs(cache, surplus);
        result
    }

    /// Moves the oldest `n` objects out of an array: into the shared array as
    /// far as that has room, else into their slabs.
    pub(crate) fn flush(
        &self,
        cpu: &Cpu<'_, P>,
        cache: &Cache,
        array: &mut ArrayCache,
        n: u32,
        surplus: &mut PageList,
    ) {
        let node = array.key.node();
        let mut lists = cache.node(node).lists.lock(cpu);
        let n = n.min(array.avail);
        let oldest = &array.objects()[..n as usize];
        let shared = lists.shared().map_or(0, |shared| shared.append(oldest));
        if shared == 0 {
            self.put_objects(cache, node, &mut lists, oldest, surplus);
        }
        array.forget_oldest(if shared == 0 { n } else { shared });
    }

    /// Puts objects that are in nobody's hands into their slabs on `node`, as
    /// many at a time as follow each other out of one slab. Slabs beyond what
    /// the node keeps free come off the lists and go to `surplus`, to be
    /// released when the lock is given up. Returns how many were refused (and
    /// logged) because they were free there already or were none.
    pub(crate) fn put_objects(
        &self,
        cache: &Cache,
        node: NodeId,
        lists: &mut NodeLists,
        objects: &[NonNull<u8>],
        surplus: &mut PageList,
    ) -> usize {
        let ours = Key::new(cache.index, node);
        let mut refused = 0;
        let mut rest = objects;
        loop {
            let strays = self.put_strays(cache, ours, rest);
            lists.free_objects += strays as u64;
            rest = &rest[strays..];
            let Some(&ptr) = rest.first() else { break };
            let n = match self.slab_of_known(ptr) {
                Some((pfn, desc)) if Key::of(desc) == ours => {
                    lists.put(&self.map, &self.slab_at(cache, pfn), rest)
                }
                _ => 0,
            };
            if n == 0 {
                self.refuse_put(cache, ours, ptr);
                refused += 1;
            }
            rest = &rest[n.max(1)..];
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

    /// The quick part of [`put_objects`](Self::put_objects): the leading ones of
    /// `objects`, as long as each lies in a slab's first page and leaves the slab
    /// on the list it is on, and they do not come as neighbours (a look now and
    /// then is enough for that: the other way is quicker for many, not for few).
    /// Returns how many; counting them among the free ones is the caller's. On
    /// its own, so that all it needs is in registers: objects freed in no order
    /// come this way.
    #[inline(never)]
    fn put_strays(&self, cache: &Cache, ours: Key, objects: &[NonNull<u8>]) -> usize {
        let geometry = cache.geometry;
        if !geometry.in_descriptor() {
            return 0;
        }
        let (size, all_free) = (geometry.size as usize, geometry.all_free);
        let pages = self.map.pages();
        for (chunk, few) in objects.chunks(STRAYS).enumerate() {
            if let [first, second, ..] = *few {
                let step = second.addr().get().wrapping_sub(first.addr().get());
                if step == size || step == size.wrapping_neg() {
                    return chunk * STRAYS;
                }
            }
            for (i, &ptr) in few.iter().enumerate() {
                let desc = pages.at(self.platform.frame_number(ptr.as_ptr()));
                if Key::of(desc) != ours {
                    return chunk * STRAYS + i;
                }
                let in_page = ptr.addr().get() % PAGE_SIZE;
                let at = in_page.wrapping_sub(desc.owner() as usize);
                let Some(number) = geometry.number(at) else { return chunk * STRAYS + i };
                let before = desc.both();
                let after = before | 1 << number;
                // Of a full slab, free already, the last one in use.
                if before == 0 || after == before || after == all_free {
                    return chunk * STRAYS + i;
                }
                desc.set_both(after);
            }
        }
        objects.len()
    }

    /// Says why an object cannot be put into a slab.
    #[cold]
    #[inline(never)]
    fn refuse_put(&self, cache: &Cache, ours: Key, ptr: NonNull<u8>) {
        let why = match self.slab_of_known(ptr) {
            None => SlabError::NotObject,
            Some((_, desc)) if Key::of(desc) != ours => SlabError::WrongCache,
            Some((pfn, _)) => match self.slab_at(cache, pfn).number(ptr) {
                Some(_) => SlabError::DoubleFree,
                None => SlabError::NotObject,
            },
        };
        self.refuse_object(Some(cache), ptr, why);
    }

    /// Takes one free slab off the lists. False if there is none.
    pub(crate) fn take_surplus(
        &self,
        cache: &Cache,
        lists: &mut NodeLists,
        surplus: &mut PageList,
    ) -> bool {
        let Some(pfn) = lists.surplus() else { return false };
        lists.remove(&self.map, &self.slab_at(cache, pfn));
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
        // SAFETY: `cpu` is that CPU's token; the closure does not nest.
        unsafe {
            self.slab.arrays(cpu).with(|arrays| {
                let Some(array) = arrays.get(cache.index) else { return };
                let node = array.key.node();
                let mut lists = cache.node(node).lists.lock(cpu);
                self.put_objects(cache, node, &mut lists, array.objects(), surplus);
                array.forget_oldest(array.avail);
            });
        }
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
        let mut out = [NonNull::dangling(); 16];
        loop {
            let n = lists.shared().map_or(0, |shared| shared.take_newest(&mut out));
            if n == 0 {
                return;
            }
            self.put_objects(cache, node, &mut lists, &out[..n], surplus);
        }
    }
}
