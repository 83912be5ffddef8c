//! Arrays made where a cache is used: a CPU's own, the one that a node's CPUs
//! share, those for other nodes' objects. Where there is no memory for them the
//! cache works without. May call: `kmalloc`, `node`, `state`.

use super::alloc::zero_bytes;
use super::array::{ArrayCache, NewArray};
use super::cache::Cache;
use super::node::ALIEN_LIMIT;
use super::slabs::Key;
use super::state::UP;
use crate::gfp::Gfp;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::sync::{Cpu, Ordering::Relaxed};
use crate::types::NodeId;
use core::ptr::NonNull;

/// Which array of a cache is to be made.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// This CPU's.
    Own,
    /// Its node's.
    Shared,
    /// Its node's for the objects of another node.
    Alien(NodeId),
}

impl<P: Platform> Mm<P> {
    /// Notes what the number `index` stands for now in this CPU's table. False
    /// if the CPU has no array of the cache.
    pub(crate) fn renew_array(&self, cpu: &Cpu<'_, P>, cache: &Cache, index: u16) -> bool {
        let generation = self.slab.generation(index);
        // SAFETY: `cpu` is this CPU's token; the closure does not nest.
        unsafe {
            self.slab.arrays(cpu).with(|arrays| {
                let own = arrays.at(cache.index);
                arrays.set(index, own, generation);
                own.is_some()
            })
        }
    }

    /// Sees to it that this CPU has an array for the cache with that number,
    /// and its node a shared one if it is to have one.
    pub(crate) fn ensure_array(&self, index: u16) {
        self.make_array(index, Kind::Own);
        self.make_array(index, Kind::Shared);
    }

    /// Sees to it that this CPU's node has an array for the cache's objects of
    /// another node.
    pub(crate) fn ensure_alien(&self, index: u16, of: NodeId) {
        self.make_array(index, Kind::Alien(of));
    }

    fn make_array(&self, index: u16, kind: Kind) {
        let Some((seq, limit)) = self.missing_array(index, kind) else { return };
        // Never from the reserves: an array lives longer than any emergency.
        let gfp = Gfp::NOWAIT | Gfp::NOWARN | Gfp::NOMEMALLOC;
        let Ok(place) = self.kmalloc_direct(ArrayCache::bytes(limit), gfp) else { return };
        let cpu = self.enter();
        let taken = match self.slab.cache(&cpu, index) {
            // The number may have gone to another cache meanwhile.
            Some(cache) if cache.seq == seq => {
                let home = self.slab_node(&cpu);
                let node = if let Kind::Alien(of) = kind { of } else { home };
                let new = NewArray {
                    limit,
                    batch: cache.batch.load(Relaxed),
                    zero_bytes: zero_bytes(cache),
                    key: Key::new(cache.index, node),
                    extra: self.needs_extra(cache),
                };
                // SAFETY: kmalloc gave so many bytes, aligned to 64 since they
                // are more than 32.
                let array = unsafe { ArrayCache::place(place, new) };
                self.enter_array(&cpu, cache, (index, home, kind), array)
            }
            _ => false,
        };
        drop(cpu);
        if taken {
            self.slab.arrays_made.fetch_add(1, Relaxed);
        } else {
            self.kfree_direct(place);
        }
    }

    /// Frees an array that a cache had, and that nobody finds any more.
    pub(crate) fn drop_array(&self, array: NonNull<ArrayCache>) {
        self.slab.arrays_made.fetch_sub(1, Relaxed);
        self.kfree_direct(array.cast());
    }

    /// Arrays that the caches have made for CPUs and nodes that used them, each an
    /// object of a kmalloc cache: what grows by them is no leak. Any context; a
    /// moment's value.
    pub fn slab_arrays(&self) -> u64 {
        self.slab.arrays_made.load(Relaxed)
    }

    /// Whether an array is still to be made: for which cache, and how large.
    fn missing_array(&self, index: u16, kind: Kind) -> Option<(u64, u32)> {
        let cpu = self.enter();
        if self.slab.phase.load(Relaxed) != UP {
            return None;
        }
        let cache = self.slab.cache(&cpu, index)?;
        let sizes = cache.sizes();
        let home = self.slab_node(&cpu);
        let limit = match kind {
            Kind::Own => {
                if self.renew_array(&cpu, cache, index) {
                    return None;
                }
                sizes.limit
            }
            Kind::Shared => {
                if sizes.shared == 0 || cache.node(home).lists.lock(&cpu).shared.is_some() {
                    return None;
                }
                sizes.shared * sizes.batch
            }
            Kind::Alien(of) => {
                if of == home || cache.alien(home, of)?.lock(&cpu).array().is_some() {
                    return None;
                }
                if sizes.limit > 1 { ALIEN_LIMIT } else { 1 }
            }
        };
        Some((cache.seq, limit))
    }

    /// Puts a new array where it belongs. False if there is one by now.
    fn enter_array(
        &self,
        cpu: &Cpu<'_, P>,
        cache: &Cache,
        (index, home, kind): (u16, NodeId, Kind),
        array: NonNull<ArrayCache>,
    ) -> bool {
        match kind {
            Kind::Own => {
                // SAFETY: `cpu` is this CPU's token; the closure does not nest.
                let vacant = unsafe {
                    self.slab.arrays(cpu).with(|arrays| {
                        let vacant = arrays.at(cache.index).is_none();
                        if vacant {
                            let generation = self.slab.generation(cache.index);
                            arrays.set(cache.index, Some(array), generation);
                        }
                        vacant
                    })
                };
                // It may have been asked for by a second name.
                self.renew_array(cpu, cache, index);
                vacant
            }
            Kind::Shared => {
                let mut lists = cache.node(home).lists.lock(cpu);
                let vacant = lists.shared.is_none();
                if vacant {
                    lists.shared = Some(array);
                }
                vacant
            }
            // The thread may have come to that very node meanwhile.
            Kind::Alien(of) if of == home => false,
            Kind::Alien(of) => cache.alien(home, of).is_some_and(|alien| {
                let mut alien = alien.lock(cpu);
                // SAFETY: the array is alive and nobody else's.
                unsafe { alien.set(array) }
            }),
        }
    }
}
