//! Slab caches and objects that a case holds: given back when they go out of
//! scope. May call `mm`.

use crate::case::CaseResult;
use crate::{check_eq, skip};
use core::ptr::NonNull;
use mm::platform::Platform;
use mm::slab::{CacheConfig, CacheId, SlabError};
use mm::{AllocError, Gfp, Mm};

/// A cache of the case's own.
pub(crate) struct OwnCache<P: Platform> {
    mm: &'static Mm<P>,
    id: CacheId,
    size: usize,
}

impl<P: Platform> OwnCache<P> {
    /// A cache that nobody shares. Skips the case where there is no slab layer.
    pub(crate) fn new(mm: &'static Mm<P>, name: &str, config: CacheConfig) -> CaseResult<Self> {
        let size = config.size;
        match mm.cache_create(name, CacheConfig { merge: false, ..config }) {
            Ok(id) => Ok(Self { mm, id, size }),
            Err(SlabError::NotUp) => skip!("the slab layer is not up"),
            Err(why) => crate::fail!("cache {name} of {size} bytes: {why}"),
        }
    }

    /// The handle.
    pub(crate) fn id(&self) -> CacheId {
        self.id
    }

    /// An object.
    pub(crate) fn alloc(&self, gfp: Gfp) -> Result<Object<P>, AllocError> {
        let ptr = self.mm.cache_alloc(self.id, gfp)?;
        Ok(Object { mm: self.mm, cache: Some(self.id), ptr, size: self.size })
    }

    /// Destroys the cache; fails if objects are left.
    pub(crate) fn destroy(self) -> CaseResult {
        let (mm, id) = (self.mm, self.id);
        core::mem::forget(self);
        check_eq!(mm.cache_destroy(id), Ok(()), "destruction of an empty cache");
        Ok(())
    }
}

impl<P: Platform> Drop for OwnCache<P> {
    fn drop(&mut self) {
        // Objects still in use are logged, and seen by the runner's tally.
        let _ = self.mm.cache_destroy(self.id);
    }
}

/// An object of a cache, or memory from kmalloc.
pub(crate) struct Object<P: Platform> {
    mm: &'static Mm<P>,
    /// None: kmalloc's.
    cache: Option<CacheId>,
    ptr: NonNull<u8>,
    size: usize,
}

impl<P: Platform> Object<P> {
    /// Memory from kmalloc; `size` is not 0.
    pub(crate) fn kmalloc(mm: &'static Mm<P>, size: usize, gfp: Gfp) -> Result<Self, AllocError> {
        let ptr = mm.kmalloc(size, gfp)?;
        Ok(Self { mm, cache: None, ptr, size })
    }

    /// Where it is.
    pub(crate) fn ptr(&self) -> NonNull<u8> {
        self.ptr
    }

    /// Its content.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: so many bytes were handed out, and they are this value's
        // alone.
        unsafe { core::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.size) }
    }

    /// Fills it with bytes that tell it from its neighbours.
    pub(crate) fn stamp(&mut self) {
        let byte = self.own_byte();
        self.bytes().fill(byte);
    }

    /// The first byte that is not as [`stamp`](Self::stamp) left it.
    pub(crate) fn damage(&mut self) -> Option<usize> {
        let byte = self.own_byte();
        self.bytes().iter().position(|&found| found != byte)
    }

    fn own_byte(&self) -> u8 {
        let at = self.ptr.addr().get();
        (at ^ at >> 8 ^ at >> 16) as u8 ^ 0x35
    }

    /// Whether it belongs to the reserves.
    pub(crate) fn is_reserve(&self) -> Result<bool, SlabError> {
        self.mm.object_is_pfmemalloc(self.ptr)
    }

    /// Makes it larger or smaller; it is as it was if that fails.
    pub(crate) fn resize(&mut self, size: usize, gfp: Gfp) -> Result<(), AllocError> {
        self.ptr = self.mm.krealloc(self.ptr, size, gfp)?;
        self.size = size;
        Ok(())
    }

    /// Gives it back and says whether that worked.
    pub(crate) fn free(self) -> Result<(), SlabError> {
        let result = self.try_free();
        core::mem::forget(self);
        result
    }

    fn try_free(&self) -> Result<(), SlabError> {
        match self.cache {
            Some(id) => self.mm.cache_free(id, self.ptr),
            None => self.mm.kfree(self.ptr),
        }
    }

    /// Gives up ownership, for somebody else to [`adopt`](Self::adopt).
    pub(crate) fn keep(self) -> u64 {
        let address = self.ptr.as_ptr().expose_provenance() as u64;
        core::mem::forget(self);
        address
    }

    /// Owns memory from kmalloc again.
    ///
    /// # Safety
    /// `address` came from [`keep`](Self::keep) of memory of `size` bytes from
    /// kmalloc of the same manager, and has no other owner.
    pub(crate) unsafe fn adopt(mm: &'static Mm<P>, address: u64, size: usize) -> Option<Self> {
        let ptr = NonNull::new(core::ptr::with_exposed_provenance_mut(address as usize))?;
        Some(Self { mm, cache: None, ptr, size })
    }
}

impl<P: Platform> Drop for Object<P> {
    fn drop(&mut self) {
        // A refusal is logged by the manager, and seen by the runner's tally.
        let _ = self.try_free();
    }
}
