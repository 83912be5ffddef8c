//! Moving pages: their content and their owner's references go to another
//! frame. Here are the operations a driver gives for its pages and the life of
//! such a page; isolating, moving and putting back are in the files below.
//! May call: `alloc`, `free`, `page`, `list`.
//!
//! A movable page is counted. The driver has one reference, each isolation has
//! one, and a look at the page takes one for its length; whoever drops the last
//! one frees the page. A page whose driver let go of it is marked *released*:
//! that may happen at any moment, also while the page is isolated, and then
//! migration has nothing to do but to drop its own reference.
//!
//! ```text
//!             register           isolate                migrate: Ok
//!   Kernel ---------------> Movable ---------> ISOLATED ---------> RELEASED, freed
//!                            ^   |                |  |
//!                            |   | release        |  | release (by the driver)
//!                            |   v                |  v
//!                            |  RELEASED, freed   | RELEASED: counts as moved
//!                            +--------------------+
//!                                   putback
//! ```
//!
//! Linux `mm/migrate.c`, `include/linux/migrate.h`; the mailing-list thread
//! "mm/compaction: enable mobile-page migration".

mod batch;
mod emptied;
mod isolate;
mod lru;

pub use batch::Migrated;
pub(crate) use emptied::Emptied;
pub use isolate::NotIsolated;

use crate::gfp::Page;
use crate::mm::Mm;
use crate::page::{HeadWord, PageDesc, PageFlags, PageType};
use crate::platform::Platform;
use crate::sync::{Lock, LockRank, Once, Ordering, Wait, may_wait};
use crate::types::{Order, Pfn};

/// How long migration may wait.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum MigrateMode {
    /// Not at all: the caller may be where nobody can.
    Atomic,
    /// For no lock that another has. A driver may wait for the answer of its
    /// device, if that comes at once.
    Async,
    /// For locks, but not for input or output.
    SyncLight,
    /// As long as it takes.
    Sync,
}

/// Why a page was not moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MigrateError {
    /// Something was in the way for the moment; a later try may succeed.
    Again,
    /// This page cannot be moved now, and trying again at once is no use.
    Busy,
    /// There is no frame to move it to.
    NoMemory,
}

/// What a driver does for its movable pages (seed "mobile-page migration",
/// Linux `struct movable_operations`).
///
/// All are called with the page locked and referenced, no other lock held, and
/// may be called on any CPU at the same time for different pages. To let go of
/// a page inside one of them is allowed ([`Mm::release_movable`]).
pub trait MovableOps<P: Platform>: Sync {
    /// Takes the page out of the driver's own lists, so that it can be moved.
    /// False if it cannot be moved now. From here to `migrate` or `putback` the
    /// links of its descriptor belong to the caller.
    fn isolate(&self, mm: &Mm<P>, page: Pfn, mode: MigrateMode) -> bool;

    /// Moves the content and every reference of the driver from `src` to `dst`,
    /// blocks of the same order. The descriptor of `dst` has owner, `index` and `private` of `src`
    /// already, and is locked. After success the driver has `dst` and must not
    /// know `src` any more.
    ///
    /// # Errors
    /// Nothing has changed then: the driver still has `src`.
    fn migrate(
        &self,
        mm: &Mm<P>,
        dst: Pfn,
        src: Pfn,
        mode: MigrateMode,
    ) -> Result<(), MigrateError>;

    /// Takes an isolated page back that was not moved.
    fn putback(&self, mm: &Mm<P>, page: Pfn);

    /// Pages the driver has, for the audit to compare, if it counts them.
    fn pages(&self) -> Option<u64> {
        None
    }

    /// Whether the driver's pages are lent to the host: programs that look at
    /// memory from outside are told that they are offline.
    fn is_balloon(&self) -> bool {
        false
    }
}

/// A driver with movable pages, as their descriptors name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnerId(pub(crate) u32);

/// Drivers that can be registered at a time.
pub(crate) const OWNERS: usize = 64;

/// The drivers with movable pages: entered one after the other, never taken
/// out, so that nobody who looks one up has to wait.
pub(crate) struct MovableOwners<P: Platform> {
    entering: Lock<()>,
    owners: [Once<&'static dyn MovableOps<P>>; OWNERS],
}

impl<P: Platform> MovableOwners<P> {
    pub(crate) fn new() -> Self {
        let entering = Lock::new(LockRank::MovableOwners, ());
        Self { entering, owners: [const { Once::new() }; OWNERS] }
    }
}

impl<P: Platform> Mm<P> {
    /// Registers a driver. It stays registered as long as the manager lives:
    /// its pages may be met at any time.
    ///
    /// # Errors
    /// When 64 are registered already.
    pub fn register_movable(
        &self,
        ops: &'static dyn MovableOps<P>,
    ) -> Result<OwnerId, TooManyOwners> {
        let cpu = self.enter();
        let _alone = self.movable_owners.entering.lock(&cpu);
        let owners = &self.movable_owners.owners;
        let free = owners.iter().position(|slot| slot.get().is_none()).ok_or(TooManyOwners)?;
        owners[free].call_once(|| ops);
        Ok(OwnerId(free as u32))
    }

    /// The drivers registered, by what descriptors name them.
    pub(crate) fn movable_drivers(
        &self,
    ) -> impl Iterator<Item = (OwnerId, &'static dyn MovableOps<P>)> {
        let owners = self.movable_owners.owners.iter().map_while(Once::get);
        owners.enumerate().map(|(id, ops)| (OwnerId(id as u32), *ops))
    }

    /// The operations of a movable page's driver.
    #[inline]
    pub(crate) fn movable_ops(&self, page: &PageDesc) -> Option<&'static dyn MovableOps<P>> {
        self.movable_owners.owners.get(page.owner() as usize)?.get().copied()
    }

    /// Makes an allocated block one that can be moved, as a whole. It should
    /// have been allocated as movable. `index` and `private` are the driver's
    /// words in the descriptor, which migration carries along; from now on the
    /// block is given back by [`release_movable`](Self::release_movable) only.
    /// Compaction moves blocks that are smaller than what it makes, each as a
    /// whole.
    ///
    /// # Errors
    /// A block that is not the caller's to give: not allocated, or of another
    /// order. Nothing has changed then.
    pub fn make_movable(
        &self,
        page: Page,
        owner: OwnerId,
        index: u32,
        private: u32,
    ) -> Result<(), NotAllocated> {
        let desc = self.map.try_page(page.pfn).ok_or(NotAllocated)?;
        let word = desc.head();
        if !word.is(PageType::Kernel, page.order) {
            return Err(NotAllocated);
        }
        desc.set_owner(owner.0);
        desc.set_index_and_private(index, private);
        desc.remake(HeadWord::new(PageType::Movable, page.order));
        // Until this store nobody can get a reference.
        desc.publish(1);
        Ok(())
    }

    /// Gives a movable block back. The driver has taken it out of its tables
    /// first and does not touch it any more. If it is isolated just now, it is
    /// freed when migration lets go of it. Any context.
    pub fn release_movable(&self, pfn: Pfn) {
        let Some(desc) = self.map.try_page(pfn) else { return };
        desc.set_flags(PageFlags::RELEASED);
        self.put_movable(pfn, desc);
    }

    /// Drops a reference to a movable block; frees it if that was the last.
    pub(crate) fn put_movable(&self, pfn: Pfn, desc: &PageDesc) {
        if desc.put() {
            self.free_owned(pfn, desc.head().order(), desc);
        }
    }

    /// Copies a page's content.
    pub fn copy_frame(&self, dst: Pfn, src: Pfn) {
        if dst == src {
            return;
        }
        // SAFETY: two different frames, both allocated to the caller.
        unsafe { self.platform.copy_frame(dst, src) };
    }

    /// Copies the content of a block of several pages.
    #[cold]
    #[inline(never)]
    pub(crate) fn copy_block(&self, dst: Pfn, src: Pfn, order: Order) {
        for i in 0..order.pages() {
            self.copy_frame(dst.add(i), src.add(i));
        }
    }

    /// Waits for the page lock, with no lock held.
    pub(crate) fn lock_page(&self, desc: &PageDesc) {
        may_wait(&self.platform, "a page lock");
        let mut wait = Wait::new();
        while !desc.try_lock() {
            wait.go_on(&self.platform);
        }
    }
}

/// There is no room for another driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyOwners;

/// The block is not allocated to the caller as one of that order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAllocated;

impl core::fmt::Display for TooManyOwners {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{OWNERS} drivers with movable pages are registered already")
    }
}

impl core::fmt::Display for NotAllocated {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("not an allocated block of that order")
    }
}

impl core::error::Error for TooManyOwners {}
impl core::error::Error for NotAllocated {}

impl PageDesc {
    /// Sets the count of a page that nobody can have a reference to yet; what
    /// was written to the descriptor before is seen by whoever gets one.
    fn publish(&self, count: u32) {
        self.count_word().store(count, Ordering::Release);
    }
}
