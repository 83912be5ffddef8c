//! Slab objects: kmalloc of all sizes, caches of the test's own, bulk.

use crate::world::World;
use core::ptr::NonNull;
use mm::slab::geometry::Debug;
use mm::slab::{CacheConfig, CacheId, SlabError};
use mm::types::NodeId;
use mm::{AllocError, Gfp};

struct Held {
    ptr: NonNull<u8>,
    size: usize,
    /// None: from kmalloc.
    cache: Option<usize>,
    byte: u8,
}

/// The objects that are held, and the caches they are from.
#[derive(Default)]
pub(crate) struct Objects {
    held: Vec<Held>,
    caches: Vec<(CacheId, usize)>,
    pub(crate) served: u64,
    pub(crate) reserve: u64,
}

impl World<'_> {
    /// Pages that the slab layer has.
    pub(crate) fn slab_pages(&self) -> u64 {
        let nodes = (0..self.mm.nodes()).map(|node| self.mm.slab_pages(NodeId(node as u8)));
        let slabs: u64 = nodes.map(|(reclaimable, other)| reclaimable + other).sum();
        slabs + self.mm.kmalloc_large_pages()
    }

    pub(crate) fn allocate_objects(&mut self) {
        let gfp = self.rng.pick(&[
            Gfp::KERNEL,
            Gfp::KERNEL | Gfp::NORETRY,
            Gfp::ATOMIC,
            Gfp::KERNEL | Gfp::MEMALLOC,
            Gfp::KERNEL | Gfp::ZERO,
        ]) | Gfp::NOWARN;
        for _ in 0..1 + self.rng.below(16) {
            let caches = self.objects.caches.len() as u64;
            let cache =
                (caches > 0 && self.rng.percent(50)).then(|| self.rng.below(caches) as usize);
            let (size, result) = match cache {
                Some(index) => {
                    let (id, size) = self.objects.caches[index];
                    (size, self.mm.cache_alloc(id, gfp))
                }
                None => {
                    let class = 3 + self.rng.below(12);
                    let size = 1 + self.rng.below(1 << class) as usize;
                    (size, self.mm.kmalloc(size, gfp))
                }
            };
            match result {
                Ok(ptr) => self.receive_object(ptr, size, cache, gfp),
                Err(why) => {
                    assert_eq!(why, AllocError::NoMemory, "{size} bytes, {gfp:?}");
                    break;
                }
            }
        }
    }

    fn receive_object(&mut self, ptr: NonNull<u8>, size: usize, cache: Option<usize>, gfp: Gfp) {
        // SAFETY: so many bytes were just handed out to this test.
        let bytes = unsafe { core::slice::from_raw_parts_mut(ptr.as_ptr(), size) };
        if gfp.contains(Gfp::ZERO) {
            assert!(*bytes == *vec![0; size], "{ptr:?} of {size} bytes is not zeroed");
        }
        if self.mm.object_is_pfmemalloc(ptr) == Ok(true) {
            let context = mm::platform::Platform::context(self.mm.platform());
            assert!(gfp.may_use_reserves(context), "a reserve object for {gfp:?}");
            self.objects.reserve += 1;
        }
        let byte = self.rng.bits() as u8;
        bytes.fill(byte);
        self.objects.held.push(Held { ptr, size, cache, byte });
        self.objects.served += 1;
    }

    pub(crate) fn free_objects(&mut self) {
        for _ in 0..1 + self.rng.below(16) {
            if self.objects.held.is_empty() {
                return;
            }
            let index = self.rng.below(self.objects.held.len() as u64) as usize;
            let Held { ptr, size, cache, byte } = self.objects.held.swap_remove(index);
            // SAFETY: the object is this test's.
            let bytes = unsafe { core::slice::from_raw_parts(ptr.as_ptr(), size) };
            assert!(*bytes == *vec![byte; size], "{ptr:?} of {size} bytes was overwritten");
            let freed = match cache.filter(|_| self.rng.percent(80)) {
                Some(index) => self.mm.cache_free(self.objects.caches[index].0, ptr),
                // It knows by itself where objects belong.
                None => self.mm.kfree(ptr),
            };
            assert_eq!(freed, Ok(()), "{ptr:?} of {size} bytes");
        }
    }

    /// Caches come, go, shrink.
    pub(crate) fn change_caches(&mut self) {
        match self.rng.below(4) {
            0 if self.objects.caches.len() < 6 => {
                let class = 4 + self.rng.below(9);
                let size = 8 + self.rng.below(1 << class) as usize;
                let debug = self.rng.pick(&[Debug::empty(), Debug::all(), Debug::RED_ZONE]);
                let config = CacheConfig {
                    hwcache_align: self.rng.percent(30),
                    reclaim_account: self.rng.percent(30),
                    dma: self.rng.percent(20),
                    debug,
                    merge: self.rng.percent(30),
                    ..CacheConfig::new(size)
                };
                match self.mm.cache_create("model", config) {
                    Ok(id) => self.objects.caches.push((id, size)),
                    Err(why) => assert_eq!(why, SlabError::NoMemory, "{config:?}"),
                }
            }
            1 => {
                let Some(&(id, _)) = self.objects.caches.last() else { return };
                let last = self.objects.caches.len() - 1;
                let live = self.objects.held.iter().filter(|held| held.cache == Some(last)).count();
                match self.mm.cache_destroy(id) {
                    // A cache that others share goes on without this handle.
                    Ok(()) if live == 0 => {
                        self.objects.caches.pop();
                    }
                    Ok(()) => {
                        self.objects.caches.pop();
                        let orphans = self.objects.held.iter_mut();
                        for held in orphans.filter(|held| held.cache == Some(last)) {
                            held.cache = None;
                        }
                    }
                    Err(SlabError::Busy { live: found }) => {
                        assert!(found >= live as u64 && found > 0);
                    }
                    Err(why) => panic!("{why}"),
                }
            }
            2 => {
                self.mm.slab_shrink();
            }
            _ => {
                self.mm.cache_reap();
            }
        }
    }

    pub(crate) fn free_slabs(&mut self) {
        while !self.objects.held.is_empty() {
            self.free_objects();
        }
        for (id, _) in core::mem::take(&mut self.objects.caches) {
            assert_eq!(self.mm.cache_destroy(id), Ok(()));
        }
        self.mm.slab_shrink();
    }
}
