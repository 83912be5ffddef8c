//! Spaces come, are found, and go. May call: `map`, `slab`.

use super::region::Region;
use super::{Caches, MapError, Space, SpaceName, SpaceRef};
use crate::gfp::Gfp;
use crate::mm::Mm;
use crate::mmu::Mmu;
use crate::platform::Platform;
use crate::slab::{CacheConfig, CacheId};
use crate::sync::{Ordering, may_wait};
use crate::types::Pfn;
use core::marker::PhantomData;
use core::ptr::NonNull;
use intrusive_collections::UnsafeRef;

impl<P: Platform> Mm<P> {
    /// The tables of this machine's address spaces.
    #[inline]
    pub(crate) fn tables(&self) -> Result<&dyn Mmu, MapError> {
        self.platform.mmu().ok_or(MapError::Unsupported)
    }

    /// The caches of spaces and regions; made when they are first wanted.
    fn space_caches(&self) -> Result<Caches, MapError> {
        if let Some(&caches) = self.spaces.caches.get() {
            return Ok(caches);
        }
        let make = |name, size| {
            let config =
                CacheConfig { merge: false, hwcache_align: true, ..CacheConfig::new(size) };
            self.cache_create(name, config).map_err(|_| MapError::NoMemory)
        };
        let spaces = make("mm_struct", size_of::<Space>())?;
        let regions = make("vm_area_struct", size_of::<Region>()).inspect_err(|_| {
            let _ = self.cache_destroy(spaces);
        })?;
        let made = Caches { spaces, regions };
        let caches = *self.spaces.caches.call_once(|| made);
        if caches != made {
            // Somebody else was quicker.
            let _ = self.cache_destroy(made.spaces);
            let _ = self.cache_destroy(made.regions);
        }
        Ok(caches)
    }

    fn new_object<T>(&self, cache: CacheId, value: T) -> Result<NonNull<T>, MapError> {
        let object = self.cache_alloc(cache, Gfp::KERNEL).map_err(|_| MapError::NoMemory)?.cast();
        // SAFETY: an object of that cache has room for such a value, and is ours.
        unsafe { object.write(value) };
        Ok(object)
    }

    /// Frees an object that nobody else can reach.
    ///
    /// # Safety
    /// It is from [`new_object`](Self::new_object) of that cache.
    unsafe fn free_object_of<T>(&self, cache: CacheId, object: NonNull<T>) {
        // SAFETY: it holds a value, which nobody else can reach.
        unsafe { object.drop_in_place() };
        let freed = self.cache_free(cache, object.cast());
        debug_assert!(freed.is_ok(), "an object of that cache");
    }

    pub(super) fn new_region(&self, region: Region) -> Result<NonNull<Region>, MapError> {
        self.new_object(self.space_caches()?.regions, region)
    }

    /// Frees a region that is in no tree and no list.
    pub(super) fn free_region(&self, region: NonNull<Region>) {
        if let Ok(caches) = self.space_caches() {
            // SAFETY: from `new_region`, and nobody finds it any more.
            unsafe { self.free_object_of(caches.regions, region) };
        }
    }

    /// An address space without memory, for a thread of that name. May wait; no
    /// lock held.
    ///
    /// # Errors
    /// [`MapError::Unsupported`] on a platform without address spaces;
    /// [`MapError::NoMemory`].
    pub fn space_new(&self, name: &str) -> Result<SpaceRef<'_>, MapError> {
        let mmu = self.tables()?;
        let caches = self.space_caches()?;
        let mut taken = 0;
        let root = mmu.new_root(&mut || {
            let frame = self.alloc_table();
            taken += u64::from(frame.is_some());
            frame
        });
        self.spaces.tables.fetch_add(taken, Ordering::Relaxed);
        let root = root.ok_or(MapError::NoMemory)?;
        let home = core::ptr::from_ref(self).addr();
        let value = Space::new(SpaceName::new(name), root, taken, home);
        let space = self.new_object(caches.spaces, value).inspect_err(|_| {
            mmu.free_root(root, &mut |pfn| self.root_freed(pfn));
        })?;
        let cpu = self.enter();
        // SAFETY: alive until it is taken off the list.
        let listed = unsafe { UnsafeRef::from_raw(space.as_ptr()) };
        self.spaces.all.lock(&cpu).push_back(listed);
        drop(cpu);
        Ok(SpaceRef { space, _of: PhantomData })
    }

    /// Frees a table of a space that is gone.
    fn root_freed(&self, pfn: Pfn) {
        self.spaces.tables.fetch_sub(1, Ordering::Relaxed);
        self.free_table(pfn);
    }

    /// Counts `tables` more frames of a space's page tables, or fewer.
    pub(crate) fn count_tables(&self, space: &Space, tables: i64) {
        space.tables.fetch_add(tables as u64, Ordering::Relaxed);
        self.spaces.tables.fetch_add(tables as u64, Ordering::Relaxed);
    }

    /// A further user of a space.
    pub fn space_get<'m>(&'m self, space: &SpaceRef<'m>) -> SpaceRef<'m> {
        space.users.fetch_add(1, Ordering::Relaxed);
        SpaceRef { space: space.space, _of: PhantomData }
    }

    /// Gives a user up; with the last one the space's memory goes. No CPU uses
    /// it any more then. May wait; no lock held.
    pub fn space_put(&self, space: SpaceRef<'_>) {
        may_wait(&self.platform, "a space to go");
        if space.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.unmap_all(&space);
            self.unpin_space(space.space);
        }
    }

    /// Keeps a space from going, not its memory. Any context.
    pub(crate) fn pin_space(&self, space: &Space) -> NonNull<Space> {
        space.pins.fetch_add(1, Ordering::Relaxed);
        NonNull::from(space)
    }

    /// Ends [`pin_space`](Self::pin_space). No lock held.
    pub(crate) fn unpin_space(&self, space: NonNull<Space>) {
        // SAFETY: it is pinned by the caller.
        let pinned = unsafe { space.as_ref() };
        if pinned.pins.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let cpu = self.enter();
        let mut all = self.spaces.all.lock(&cpu);
        // SAFETY: a space is on the list until here.
        let _ = unsafe { all.cursor_mut_from_ptr(space.as_ptr()) }.remove();
        drop(all);
        drop(cpu);
        let root = pinned.root;
        if let Ok(caches) = self.space_caches() {
            // SAFETY: from `new_object`; without pins, and off the list.
            unsafe { self.free_object_of(caches.spaces, space) };
        }
        if let Ok(mmu) = self.tables() {
            mmu.free_root(root, &mut |pfn| self.root_freed(pfn));
        }
    }

    /// Calls `f` with each space there is, oldest first, until it says false.
    /// It may wait and lock what it likes; a space that has no users any more
    /// may be among them. No lock held.
    pub fn each_space(&self, f: &mut dyn FnMut(&Space) -> bool) {
        let mut last: Option<NonNull<Space>> = None;
        loop {
            let next = {
                let cpu = self.enter();
                let all = self.spaces.all.lock(&cpu);
                let mut cursor = match last {
                    // SAFETY: pinned, and so still on the list.
                    Some(last) => unsafe { all.cursor_from_ptr(last.as_ptr()) },
                    None => all.cursor(),
                };
                cursor.move_next();
                // Those without pins are about to leave.
                while cursor.get().is_some_and(|space| !space.try_pin()) {
                    cursor.move_next();
                }
                cursor.get().map(NonNull::from)
            };
            if let Some(last) = last.take() {
                self.unpin_space(last);
            }
            let Some(next) = next else { return };
            last = Some(next);
            // SAFETY: pinned.
            if !f(unsafe { next.as_ref() }) {
                self.unpin_space(next);
                return;
            }
        }
    }
}

impl Space {
    /// Pins it unless nobody has it pinned.
    fn try_pin(&self) -> bool {
        let mut seen = self.pins.load(Ordering::Relaxed);
        while seen > 0 {
            let (to, from) = (Ordering::Acquire, Ordering::Relaxed);
            match self.pins.compare_exchange_weak(seen, seen + 1, to, from) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Whether it has users still.
    pub fn is_used(&self) -> bool {
        self.users.load(Ordering::Relaxed) > 0
    }
}
