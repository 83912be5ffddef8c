//! Address spaces: regions of memory as programs use it, filled when it is first
//! touched, shared until it is written (Linux mm/mmap.c, mm/memory.c). Here is a
//! space and its life; what is done with it is in the files below. May call:
//! `rmap`, `alloc`, `slab`, trait `Mmu`.
//!
//! What protects what, outermost first:
//! - A space's regions are a [`SleepLock`]: read by whoever faults or advises,
//!   written by whoever maps, unmaps or copies. Reclaim and migration take it
//!   never: they come from the page, through `rmap`.
//! - The entries of 2 MiB of a space are under one of its entry locks, which
//!   come after the lock of a group. Each change of an entry that took a page
//!   away is followed by a flush, and only then is the page let go of: so the
//!   lock is given up first, and references are kept meanwhile.
//! - An entry that says Moving is its page's mover's. Whoever meets one waits
//!   with nothing locked but regions, and looks again.
//!
//! A space has *users* (handles) and *pins*: with the last user its memory goes,
//! with the last pin the space itself. `rmap` pins a space to flush it later.

mod access;
mod advise;
mod area;
mod audit;
mod copy;
mod fault;
mod fork;
mod frames;
mod huge;
mod life;
mod map;
pub(crate) mod region;
mod swapped;
mod usage;
mod zap;

pub use advise::Advice;
pub use huge::HugePages;
pub use map::{MapError, MapFlags};
pub use region::{Prot, Region, RegionFlags};
pub use usage::Usage;

use crate::mmu::{Root, VirtAddr};
use crate::page::NIL;
use crate::slab::CacheId;
use crate::sync::{
    AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Lock, LockRank, Once, Ordering::Relaxed,
    SleepLock,
};
use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::NonNull;
use intrusive_collections::{LinkedList, LinkedListAtomicLink, UnsafeRef, intrusive_adapter};
use region::Regions;

/// Why an access could not be made good. The thread that made it cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultError {
    /// The address is in no region (`SIGSEGV`).
    NoRegion,
    /// The region does not allow it (`SIGSEGV`).
    Protection,
    /// There is no memory for it, and nobody could be made to give some.
    NoMemory,
    /// The page could not be read back (`SIGBUS`).
    Io,
    /// The space's threads are to end: the OOM killer chose it.
    Killed,
}

impl fmt::Display for FaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoRegion => "address not mapped",
            Self::Protection => "access not permitted",
            Self::NoMemory => "out of memory",
            Self::Io => "page could not be read",
            Self::Killed => "killed",
        })
    }
}

impl core::error::Error for FaultError {}

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// It reads.
    Read,
    /// It writes.
    Write,
}

/// The name of a space: up to 16 bytes, as a task's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SpaceName([u8; Self::MAX]);

impl SpaceName {
    /// Most bytes of a name.
    pub const MAX: usize = 16;

    /// That name, cut off if it is too long.
    pub fn new(name: &str) -> Self {
        let mut len = name.len().min(Self::MAX);
        while !name.is_char_boundary(len) {
            len -= 1;
        }
        let mut bytes = [0; Self::MAX];
        bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
        Self(bytes)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|&b| b == 0).unwrap_or(Self::MAX);
        core::str::from_utf8(&self.0[..len]).unwrap_or("?")
    }
}

impl fmt::Debug for SpaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for SpaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Locks of a space's entries.
const PTE_LOCKS: usize = 16;

/// An address space (Linux `struct mm_struct`).
pub struct Space {
    by_age: LinkedListAtomicLink,
    root: Root,
    name: SpaceName,
    /// The manager it is of, to refuse those of others.
    home: usize,
    regions: SleepLock<Regions>,
    entries: [Lock<()>; PTE_LOCKS],
    users: AtomicU32,
    pins: AtomicU32,
    /// Pages that entries map, zero pages aside.
    anon: AtomicU64,
    /// Entries that name a place in swap.
    swap: AtomicU64,
    /// Pages mapped in large ones, of `anon`.
    huge: AtomicU64,
    /// Frames of its page tables: who asks must not walk what may be going.
    tables: AtomicU64,
    /// Faults, and those that had to wait for a device.
    faults: AtomicU64,
    major: AtomicU64,
    oom_score_adj: AtomicI64,
    killed: AtomicBool,
    protected: AtomicBool,
}

intrusive_adapter!(pub(crate) ByAge = UnsafeRef<Space>: Space { by_age => LinkedListAtomicLink });

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space")
            .field("name", &self.name)
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl Space {
    fn new(name: SpaceName, root: Root, tables: u64, home: usize) -> Self {
        Self {
            by_age: LinkedListAtomicLink::new(),
            root,
            name,
            home,
            regions: SleepLock::new(Regions::default()),
            entries: [const { Lock::new(LockRank::Pte, ()) }; PTE_LOCKS],
            users: AtomicU32::new(1),
            pins: AtomicU32::new(1),
            anon: AtomicU64::new(0),
            swap: AtomicU64::new(0),
            huge: AtomicU64::new(0),
            tables: AtomicU64::new(tables),
            faults: AtomicU64::new(0),
            major: AtomicU64::new(0),
            oom_score_adj: AtomicI64::new(0),
            killed: AtomicBool::new(false),
            protected: AtomicBool::new(false),
        }
    }

    /// Its page tables.
    pub fn root(&self) -> Root {
        self.root
    }

    /// What it was called.
    pub fn name(&self) -> SpaceName {
        self.name
    }

    /// Pages that it maps, zero pages aside (`VmRSS`).
    pub fn rss(&self) -> u64 {
        self.anon.load(Relaxed)
    }

    /// Of these, pages in large ones (`AnonHugePages`).
    pub fn huge(&self) -> u64 {
        self.huge.load(Relaxed)
    }

    /// Pages of it that are in swap (`VmSwap`).
    pub fn swapped(&self) -> u64 {
        self.swap.load(Relaxed)
    }

    /// Frames that its page tables take.
    pub fn tables(&self) -> u64 {
        self.tables.load(Relaxed)
    }

    /// Faults so far, and how many of them waited for a device.
    pub fn faults(&self) -> (u64, u64) {
        (self.faults.load(Relaxed), self.major.load(Relaxed))
    }

    /// Thousandths of the machine's memory that the OOM killer adds to what it
    /// uses, -1000 to 1000; -1000: it is never chosen.
    pub fn oom_score_adj(&self) -> i64 {
        self.oom_score_adj.load(Relaxed)
    }

    /// Sets [`oom_score_adj`](Self::oom_score_adj), within its limits.
    pub fn set_oom_score_adj(&self, adj: i64) {
        self.oom_score_adj.store(adj.clamp(-1000, 1000), Relaxed);
    }

    /// Whether its threads are to end.
    pub fn is_killed(&self) -> bool {
        self.killed.load(Relaxed)
    }

    /// Has all further faults fail: its threads are to end.
    pub fn kill(&self) {
        self.killed.store(true, Relaxed);
    }

    /// Whether the OOM killer may not choose it, whatever it uses.
    pub fn is_protected(&self) -> bool {
        self.protected.load(Relaxed)
    }

    /// Has the OOM killer never choose it, or not.
    pub fn set_protected(&self, protected: bool) {
        self.protected.store(protected, Relaxed);
    }

    /// The lock of the entries of the 2 MiB around `va`.
    pub(crate) fn entry_lock(&self, va: VirtAddr) -> &Lock<()> {
        &self.entries[(va.0 >> 21) as usize % PTE_LOCKS]
    }

    /// Counts entries that came to map `pages` pages, or ceased to.
    pub(crate) fn count_anon(&self, pages: i64) {
        self.anon.fetch_add(pages as u64, Relaxed);
    }

    /// As [`count_anon`](Self::count_anon), for entries that name swap.
    pub(crate) fn count_swap(&self, entries: i64) {
        self.swap.fetch_add(entries as u64, Relaxed);
    }

    /// As [`count_anon`](Self::count_anon), for pages in large ones.
    pub(crate) fn count_huge(&self, pages: i64) {
        self.huge.fetch_add(pages as u64, Relaxed);
    }
}

/// A user of an address space. It is to be given back with
/// [`space_put`](crate::Mm::space_put): what is only dropped stays for ever.
pub struct SpaceRef<'m> {
    space: NonNull<Space>,
    _of: PhantomData<&'m ()>,
}

// SAFETY: a space is all locks and atomics, and alive as long as it has users.
unsafe impl Send for SpaceRef<'_> {}
// SAFETY: as above.
unsafe impl Sync for SpaceRef<'_> {}

impl Deref for SpaceRef<'_> {
    type Target = Space;

    fn deref(&self) -> &Space {
        // SAFETY: this is a user, and its manager is borrowed.
        unsafe { self.space.as_ref() }
    }
}

impl fmt::Debug for SpaceRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// The slab caches of spaces and regions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Caches {
    spaces: CacheId,
    regions: CacheId,
}

/// All spaces of a machine and what they share.
pub(crate) struct Spaces {
    caches: Once<Caches>,
    /// Not to be walked when the manager goes: what it names may be gone before.
    all: Lock<ManuallyDrop<LinkedList<ByAge>>>,
    /// The page that all memory shows that was read before it was written.
    zero: AtomicU32,
    huge: AtomicU8,
    /// Frames of page tables.
    pub(crate) tables: AtomicU64,
}

impl Spaces {
    pub(crate) const fn new() -> Self {
        Self {
            caches: Once::new(),
            all: Lock::new(LockRank::AddressSpace, ManuallyDrop::new(LinkedList::new(ByAge::NEW))),
            zero: AtomicU32::new(NIL),
            huge: AtomicU8::new(HugePages::Always as u8),
            tables: AtomicU64::new(0),
        }
    }
}
