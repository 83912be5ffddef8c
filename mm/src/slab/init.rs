//! Setting the layer up: a cache for the descriptors of caches, whose own
//! descriptor is its first object, then the general caches. May call: `create`.

use super::array::ArrayCache;
use super::cache::{Cache, CacheConfig, Name, NewCache};
use super::create::shape;
use super::geometry::array_sizes;
use super::kmalloc::{CLASSES, Family, GENERAL, cache_index};
use super::slabs::Key;
use super::state::{COMING, DOWN, UP};
use super::{SlabError, max_order};
use crate::gfp::Gfp;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::sync::Ordering::{AcqRel, Acquire, Release};
use crate::types::CpuId;
use core::fmt::Write;

/// A name being put together.
#[derive(Default)]
struct Text {
    bytes: [u8; Name::MAX],
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        let end = self.len + s.len();
        self.bytes.get_mut(self.len..end).ok_or(core::fmt::Error)?.copy_from_slice(s.as_bytes());
        self.len = end;
        Ok(())
    }
}

impl Text {
    fn name(&self) -> Option<Name> {
        Name::new(core::str::from_utf8(self.bytes.get(..self.len)?).ok()?)
    }
}

impl<P: Platform> Mm<P> {
    /// Sets the slab layer up; before that there is neither kmalloc nor any
    /// cache. Once, from a context that may wait. If it fails it can be called
    /// again and goes on where it stopped.
    ///
    /// # Errors
    /// [`SlabError::NotUp`] if it runs or ran already; [`SlabError::NoMemory`].
    pub fn slab_init(&self) -> Result<(), SlabError> {
        let phase = &self.slab.phase;
        phase.compare_exchange(DOWN, COMING, AcqRel, Acquire).map_err(|_| SlabError::NotUp)?;
        self.slab.set_max_order(max_order(self.managed_pages()));
        let result = self.first_caches();
        phase.store(if result.is_ok() { UP } else { DOWN }, Release);
        result
    }

    fn first_caches(&self) -> Result<(), SlabError> {
        if !self.has_cache(0) {
            for cpu in (0..self.platform.cpus()).map(CpuId) {
                let node = self.memory_node(self.platform.node_of_cpu(cpu));
                self.slab.set_home(cpu, node);
            }
            self.cache_of_caches()?;
        }
        for family in Family::ALL {
            for (class, size) in CLASSES.into_iter().enumerate() {
                let index = cache_index(family, class);
                if self.has_cache(index) {
                    continue;
                }
                let name = class_name(family, size).ok_or(SlabError::Invalid(&"name"))?;
                let config = CacheConfig {
                    align: if size.is_power_of_two() { size.min(4096) as usize } else { 0 },
                    hwcache_align: true,
                    reclaim_account: family == Family::Reclaimable,
                    dma: family == Family::Dma,
                    merge: false,
                    ..CacheConfig::new(size as usize)
                };
                let config = self.with_defaults(name.as_str(), config);
                let made = self.create_at(Some(index), name, &config)?;
                debug_assert!(made.index == index && made.generation == GENERAL);
            }
        }
        Ok(())
    }

    fn has_cache(&self, index: u16) -> bool {
        let cpu = self.enter();
        self.slab.cache(&cpu, index).is_some()
    }

    /// The cache whose objects are descriptors. Its own is the first object of
    /// its first slab.
    fn cache_of_caches(&self) -> Result<(), SlabError> {
        let config = CacheConfig {
            align: align_of::<Cache>().max(align_of::<ArrayCache>()),
            hwcache_align: true,
            merge: false,
            ..CacheConfig::new(Cache::bytes(self.nodes()))
        };
        let geometry = shape(self, &config).ok_or(SlabError::Invalid(&"size"))?;
        let name = Name::new("kmem_cache").ok_or(SlabError::Invalid(&"name"))?;
        let (pfn, place) =
            self.first_slab(geometry, Gfp::KERNEL).map_err(|_| SlabError::NoMemory)?;
        let new = NewCache {
            name,
            index: 0,
            geometry,
            object_size: config.size as u32,
            ctor: None,
            gfp: Gfp::empty(),
            mergeable: false,
            seq: 0,
            sizes: array_sizes(geometry.size, self.platform.cpus(), false),
        };
        // SAFETY: the object has room for a descriptor, aligned as it wants.
        let cache = unsafe { Cache::place(place, self.nodes(), new) };
        let cpu = self.enter();
        self.slab.enter(0, cache.as_ptr());
        let Some(cache) = self.slab.cache(&cpu, 0) else { return Err(SlabError::NoSuchCache) };
        let slab = self.slab_at(cache, pfn);
        self.count_slab(cache, &slab, 1);
        let mut lists = cache.node(Key::of(slab.desc).node()).lists.lock(&cpu);
        lists.insert(&self.map, &slab);
        Ok(())
    }
}

/// The name of a general cache: sizes from 1024 on in units of that.
fn class_name(family: Family, size: u32) -> Option<Name> {
    let mut text = Text::default();
    let prefix = family.prefix();
    match size {
        1024.. => write!(text, "{prefix}{}k", size / 1024),
        _ => write!(text, "{prefix}{size}"),
    }
    .ok()?;
    text.name()
}
