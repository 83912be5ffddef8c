//! The slab layer: caches of objects over the page allocator (Linux 6.1
//! mm/slab.c), with objects of the reserves kept for those who may have them.
//!
//! A slab is a block of type Slab. All that is known of it stands in the
//! descriptor of its head: cache and node, where its first object is, a bit for
//! each free object (more than 64 objects: in the last words of the slab, and a
//! count of those in use), and the PFMEMALLOC flag, the only truth about whether
//! its objects are reserve objects. Each CPU has an array of free objects per cache, reached with its
//! token only; each node has lists of slabs per cache under a lock. Objects in
//! an array are in use by their slab's count.
//!
//! Who has what, when CPUs free what others allocated while caches are reaped,
//! shrunk and destroyed:
//! - An object is at each moment its user's, in one array, or free in its slab.
//!   It changes hands under what protects both places: the CPU's token for its
//!   own array, the lock for a node's lists or an array of aliens. On its way
//!   from such an array home it is in the hands of a CPU that keeps its token,
//!   and still in use by its slab's count.
//! - So a slab whose count is zero under its node's lock has no object anywhere
//!   else, and whoever takes it off the lists there (reaping, shrinking, a flush
//!   beyond the limit) may free it: nobody can come by one of its objects again
//!   but by freeing twice, which is noticed by the page's type, the key, or the
//!   bit, and refused.
//! - A cache goes in this order: its handle is made invalid, all CPUs are told
//!   (the fast path asks only its own table), all CPUs' arrays are emptied, then
//!   those of aliens, then the shared ones. Messages are served between two
//!   operations, so whatever held an object in its hands before has put it down
//!   by then. If all slabs are free after that, nobody has an object with which
//!   to come back, and no handle to get one. If not, somebody was faster: the
//!   handle is valid again. `kfree` of the last object may run beside it: it has
//!   either been counted as free by then or keeps the cache.
//! - Descriptor and arrays are freed when they are out of all tables and each
//!   CPU has been seen outside since.
//!
//! May call: `alloc`, `free` and everything below; nothing above.

mod alien;
mod alloc;
mod array;
mod arrays;
mod audit;
mod bulk;
mod cache;
mod create;
mod debug;
mod defaults;
mod free;
pub mod geometry;
mod grow;
mod info;
mod init;
mod kmalloc;
pub mod local;
mod node;
mod reap;
mod reserve;
mod shrink;
mod slabs;
mod state;

pub use cache::{CacheConfig, CacheId};
pub use defaults::SlabDefaults;
pub use info::CacheInfo;
pub use kmalloc::ZERO_SIZE;
pub(crate) use state::SlabState;

use crate::types::Order;
use core::fmt;

/// Why the slab layer refused. Nothing has changed then but a line in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlabError {
    /// [`slab_init`](crate::Mm::slab_init) has not run, or ran already.
    NotUp,
    /// There is no cache with this handle: it was destroyed.
    NoSuchCache,
    /// A cache cannot be made so: why. (Twice referenced, so that a result fits
    /// into two registers.)
    Invalid(&'static &'static str),
    /// No memory for the cache's own tables, or no number left for it.
    NoMemory,
    /// The pointer does not point to memory of the slab layer.
    NotSlab,
    /// The object belongs to another cache.
    WrongCache,
    /// The pointer points into a slab but not to the start of an object.
    NotObject,
    /// The object is free already.
    DoubleFree,
    /// Somebody wrote before or after the object. It stays allocated.
    Overrun,
    /// The cache still has objects in use.
    Busy {
        /// How many.
        live: u64,
    },
}

impl fmt::Display for SlabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUp => f.write_str("the slab layer is not up"),
            Self::NoSuchCache => f.write_str("no such cache"),
            Self::Invalid(why) => write!(f, "invalid cache: {why}"),
            Self::NoMemory => f.write_str("out of memory"),
            Self::NotSlab => f.write_str("not an object"),
            Self::WrongCache => f.write_str("the object of another cache"),
            Self::NotObject => f.write_str("not the start of an object"),
            Self::DoubleFree => f.write_str("double free"),
            Self::Overrun => f.write_str("written to outside of its bounds"),
            Self::Busy { live } => write!(f, "{live} objects in use"),
        }
    }
}

impl core::error::Error for SlabError {}

/// Caches there can be at a time, second handles counted. (An interpreter pays
/// for each byte of a table each time it is borrowed.)
pub(crate) const MAX_CACHES: usize = if cfg!(miri) { 64 } else { 1024 };

/// RAM above which slabs of two pages are made without need (Linux: 32 MiB).
pub(crate) const fn max_order(managed_pages: u64) -> Order {
    Order((managed_pages > (32 << 20) / crate::types::PAGE_SIZE as u64) as u8)
}
