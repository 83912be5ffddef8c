//! A cache: its configuration, its descriptor and its nodes, which live in slab
//! memory of their own. May call: `geometry`, `node`.

use super::geometry::{ArraySizes, Debug, Geometry};
use super::node::{Alien, CacheNode};
use crate::gfp::Gfp;
use crate::sync::{AtomicU32, Lock, LockRank, Ordering::Relaxed};
use crate::types::NodeId;
use core::fmt;
use core::num::NonZeroU32;
use core::ptr::NonNull;

/// A handle to a cache. It says nothing about the memory behind it: after the
/// cache is destroyed, each use of the handle is refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CacheId {
    pub(crate) index: u16,
    pub(crate) generation: NonZeroU32,
}

/// How a cache is to be.
#[derive(Clone, Copy, Debug)]
pub struct CacheConfig {
    /// Bytes of an object.
    pub size: usize,
    /// Alignment of the objects, a power of two up to 4096; 0: a word's.
    pub align: usize,
    /// Run once for each object when its slab is made; a freed object is to be
    /// left in the state in which it was handed out. It must not call the
    /// manager.
    pub ctor: Option<fn(NonNull<u8>)>,
    /// Align to cache lines, as far as the size makes sense of it.
    pub hwcache_align: bool,
    /// Objects can be given up on demand: pages count as reclaimable.
    pub reclaim_account: bool,
    /// From zone DMA.
    pub dma: bool,
    /// Checks. Those for which the objects leave no room are dropped.
    pub debug: Debug,
    /// The cache may share its slabs with others whose objects are alike.
    pub merge: bool,
}

impl CacheConfig {
    /// Objects of `size` bytes without anything special.
    pub const fn new(size: usize) -> Self {
        Self {
            size,
            align: 0,
            ctor: None,
            hwcache_align: false,
            reclaim_account: false,
            dma: false,
            debug: Debug::empty(),
            merge: true,
        }
    }
}

/// The name of a cache: a copy, so that it may outlive the caller's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Name {
    len: u8,
    bytes: [u8; Self::MAX],
}

impl Name {
    /// Most bytes of a name.
    pub(crate) const MAX: usize = 31;

    /// None if the name is empty, too long, or would break a line of slabinfo.
    pub(crate) fn new(name: &str) -> Option<Self> {
        if name.is_empty() || name.len() > Self::MAX || name.chars().any(char::is_control) {
            return None;
        }
        let mut bytes = [0; Self::MAX];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Some(Self { len: name.len() as u8, bytes })
    }

    pub(crate) fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("?")
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// The descriptor of a cache, followed by its nodes. Fields that change are
/// atomics; the rest is written once.
#[derive(Debug)]
pub(crate) struct Cache {
    pub(crate) name: Name,
    /// Its own number in the table of caches.
    pub(crate) index: u16,
    pub(crate) geometry: Geometry,
    /// Bytes of an object; the most that any user of a merged cache asked for.
    pub(crate) object_size: AtomicU32,
    pub(crate) ctor: Option<fn(NonNull<u8>)>,
    /// Zone and mobility of its pages.
    pub(crate) gfp: Gfp,
    /// Others may share it.
    pub(crate) mergeable: bool,
    /// Handles that name it; under the registry's lock.
    pub(crate) users: AtomicU32,
    /// Its place in the order of creation.
    pub(crate) seq: u64,
    pub(crate) limit: AtomicU32,
    pub(crate) batch: AtomicU32,
    pub(crate) shared: AtomicU32,
    nodes: NonNull<CacheNode>,
    /// For each node a row of what its CPUs have freed of each node's.
    aliens: NonNull<Lock<Alien>>,
    nr_nodes: u16,
}

impl Cache {
    /// Bytes of a descriptor on a machine of `nodes` nodes.
    pub(crate) const fn bytes(nodes: usize) -> usize {
        Self::aliens_offset(nodes) + nodes * nodes * size_of::<Lock<Alien>>()
    }

    const fn aliens_offset(nodes: usize) -> usize {
        (Self::nodes_offset() + nodes * size_of::<CacheNode>())
            .next_multiple_of(align_of::<Lock<Alien>>())
    }

    const fn nodes_offset() -> usize {
        size_of::<Self>().next_multiple_of(align_of::<CacheNode>())
    }

    /// Writes a descriptor with empty nodes to `place`.
    ///
    /// # Safety
    /// `place` has [`bytes`](Self::bytes)`(nodes)` bytes, aligned to 64, that
    /// nobody else uses.
    pub(crate) unsafe fn place(place: NonNull<u8>, nodes: usize, new: NewCache) -> NonNull<Self> {
        let cache = place.cast::<Self>();
        // SAFETY: the caller gives room for the descriptor and the nodes.
        unsafe {
            let first = place.add(Self::nodes_offset()).cast::<CacheNode>();
            for i in 0..nodes {
                first.add(i).write(CacheNode::default());
            }
            let aliens = place.add(Self::aliens_offset(nodes)).cast::<Lock<Alien>>();
            for i in 0..nodes * nodes {
                aliens.add(i).write(Lock::new(LockRank::SlabNode, Alien::default()));
            }
            cache.write(Self {
                name: new.name,
                index: new.index,
                geometry: new.geometry,
                object_size: AtomicU32::new(new.object_size),
                ctor: new.ctor,
                gfp: new.gfp,
                mergeable: new.mergeable,
                users: AtomicU32::new(1),
                seq: new.seq,
                limit: AtomicU32::new(new.sizes.limit),
                batch: AtomicU32::new(new.sizes.batch),
                shared: AtomicU32::new(new.sizes.shared),
                nodes: first,
                aliens,
                nr_nodes: nodes as u16,
            });
        }
        cache
    }

    /// The nodes, by number.
    pub(crate) fn nodes(&self) -> &[CacheNode] {
        // SAFETY: they were written when the descriptor was, in the same piece
        // of memory, and live as long.
        unsafe { core::slice::from_raw_parts(self.nodes.as_ptr(), usize::from(self.nr_nodes)) }
    }

    /// One node; the first if there is no such.
    #[inline]
    pub(crate) fn node(&self, node: NodeId) -> &CacheNode {
        let nodes = self.nodes();
        nodes.get(usize::from(node.0)).unwrap_or(&nodes[0])
    }

    /// What CPUs of node `by` have freed of the objects of node `of`, on its way
    /// there. None if there is no such node.
    pub(crate) fn alien(&self, by: NodeId, of: NodeId) -> Option<&Lock<Alien>> {
        let (by, of) = (usize::from(by.0), usize::from(of.0));
        let n = usize::from(self.nr_nodes);
        // SAFETY: the table was written with the descriptor, and has a row of
        // `n` for each of `n` nodes.
        (by < n && of < n).then(|| unsafe { self.aliens.add(by * n + of).as_ref() })
    }

    /// The sizes of its arrays now.
    pub(crate) fn sizes(&self) -> ArraySizes {
        ArraySizes {
            limit: self.limit.load(Relaxed),
            batch: self.batch.load(Relaxed),
            shared: self.shared.load(Relaxed),
        }
    }

    /// Whether its pages count as reclaimable.
    pub(crate) fn reclaimable(&self) -> bool {
        self.gfp.contains(Gfp::RECLAIMABLE)
    }
}

/// What a new descriptor starts from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewCache {
    pub(crate) name: Name,
    pub(crate) index: u16,
    pub(crate) geometry: Geometry,
    pub(crate) object_size: u32,
    pub(crate) ctor: Option<fn(NonNull<u8>)>,
    pub(crate) gfp: Gfp,
    pub(crate) mergeable: bool,
    pub(crate) seq: u64,
    pub(crate) sizes: ArraySizes,
}
