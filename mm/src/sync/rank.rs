//! The order in which locks are taken, and what proves on every run of a debug
//! build that it is kept: each CPU notes what it holds. Calls nothing.

#[cfg(debug_assertions)]
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Every lock's place in the order, outermost first: with one held, only those
/// that stand below it here may be waited for. So no two CPUs can wait for each
/// other. None is taken twice, not even another lock of the same rank.
///
/// The page lock is a bit of a descriptor that tasks hold with interrupts on;
/// whoever waits for it holds none of these at all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum LockRank {
    /// An audit's report, written by one CPU after the other.
    Audit,
    /// Memory that comes and goes.
    Hotplug,
    /// The list of slab caches.
    CacheList,
    /// What new slab caches get on top of what they ask for.
    SlabDefaults,
    /// Regions and page tables of an address space.
    AddressSpace,
    /// A page's own lock.
    Page,
    /// What a driver knows of its movable pages.
    Driver,
    /// The table of drivers with movable pages.
    MovableOwners,
    /// Who has mapped a page.
    Rmap,
    /// The entries of page tables.
    Pte,
    /// Which pages a page cache has.
    PageCache,
    /// Swap slots.
    Swap,
    /// Lists of pages by their last use.
    Lru,
    /// The slabs of a cache on one node.
    SlabNode,
    /// The kernel's page tables.
    PageTables,
    /// The bitmap of a CMA area: the last reference to a bad page may be dropped under
    /// any of the above.
    CmaArea,
    /// What follows from how much memory the zones have.
    Watermarks,
    /// The free lists of a zone.
    Zone,
    /// Messages to a CPU.
    Mailbox,
    /// Threads that wait for something.
    WaitQueue,
    /// Threads that are to run on a CPU.
    RunQueue,
    /// Something small that is never held while another lock is taken, the
    /// log's aside.
    Leaf,
    /// The log and its devices.
    Log,
}

impl LockRank {
    #[cfg(debug_assertions)]
    const ALL: [Self; 23] = [
        Self::Audit,
        Self::Hotplug,
        Self::CacheList,
        Self::SlabDefaults,
        Self::AddressSpace,
        Self::Page,
        Self::Driver,
        Self::MovableOwners,
        Self::Rmap,
        Self::Pte,
        Self::PageCache,
        Self::Swap,
        Self::Lru,
        Self::SlabNode,
        Self::PageTables,
        Self::CmaArea,
        Self::Watermarks,
        Self::Zone,
        Self::Mailbox,
        Self::WaitQueue,
        Self::RunQueue,
        Self::Leaf,
        Self::Log,
    ];
}

/// What a CPU holds: tokens, nested, and locks by rank. A platform has one for
/// each CPU ([`Platform::held_locks`](crate::platform::Platform::held_locks)),
/// which is touched with that CPU's token only. In a release build it is empty
/// and costs nothing.
#[derive(Debug, Default)]
pub struct HeldLocks {
    #[cfg(debug_assertions)]
    tokens: AtomicU32,
    /// A bit for each rank.
    #[cfg(debug_assertions)]
    ranks: AtomicU32,
}

#[cfg(debug_assertions)]
impl HeldLocks {
    /// Nothing held.
    pub const fn new() -> Self {
        Self { tokens: AtomicU32::new(0), ranks: AtomicU32::new(0) }
    }

    /// The innermost lock held.
    fn innermost(&self) -> Option<LockRank> {
        let bit = self.ranks.load(Relaxed).checked_ilog2()?;
        LockRank::ALL.get(bit as usize).copied()
    }

    /// Notes a token. Called with the token just taken.
    pub fn enter(&self) {
        self.tokens.store(self.tokens.load(Relaxed) + 1, Relaxed);
    }

    /// Forgets a token, just before it is given up.
    ///
    /// # Panics
    /// If it was the last and a lock is still held.
    #[track_caller]
    pub fn leave(&self) {
        let left = self.tokens.load(Relaxed) - 1;
        self.tokens.store(left, Relaxed);
        if let Some(held) = self.innermost().filter(|_| left == 0) {
            self.ranks.store(0, Relaxed);
            panic!("lock order: interrupts unmasked with {held:?} held");
        }
    }

    /// Notes a lock that is about to be waited for.
    ///
    /// # Panics
    /// If a lock is held that may not be held then.
    #[track_caller]
    pub fn acquire(&self, rank: LockRank) {
        if let Some(held) = self.innermost().filter(|&held| held >= rank) {
            panic!("lock order: {rank:?} taken with {held:?} held");
        }
        self.ranks.store(self.ranks.load(Relaxed) | 1 << rank as u32, Relaxed);
    }

    /// Notes a lock that was free and taken without waiting, which is allowed in
    /// any order. False, and it need not be released here, if one of that rank
    /// is noted already.
    pub fn acquired(&self, rank: LockRank) -> bool {
        let (ranks, bit) = (self.ranks.load(Relaxed), 1 << rank as u32);
        self.ranks.store(ranks | bit, Relaxed);
        ranks & bit == 0
    }

    /// Forgets a lock that is about to be released.
    pub fn release(&self, rank: LockRank) {
        self.ranks.store(self.ranks.load(Relaxed) & !(1 << rank as u32), Relaxed);
    }

    /// Checks that the caller may wait for others, other CPUs among them: it
    /// has no lock, and no token but the one that this is asked with.
    ///
    /// # Panics
    /// If it has.
    #[track_caller]
    pub fn may_wait(&self, what: &str) {
        if let Some(held) = self.innermost() {
            panic!("lock order: waits for {what} with {held:?} held");
        }
        assert!(
            self.tokens.load(Relaxed) <= 1,
            "lock order: waits for {what} with this CPU's token held"
        );
    }
}

/// In a release build nothing is noted and nothing checked.
#[cfg(not(debug_assertions))]
#[allow(clippy::unused_self, missing_docs)]
impl HeldLocks {
    pub const fn new() -> Self {
        Self {}
    }

    #[inline]
    pub fn enter(&self) {}

    #[inline]
    pub fn leave(&self) {}

    #[inline]
    pub fn acquire(&self, _rank: LockRank) {}

    #[inline]
    pub fn acquired(&self, _rank: LockRank) -> bool {
        false
    }

    #[inline]
    pub fn release(&self, _rank: LockRank) {}

    #[inline]
    pub fn may_wait(&self, _what: &str) {}
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::{HeldLocks, LockRank};

    #[test]
    fn what_was_free_is_noted_once_and_counts() {
        let held = HeldLocks::new();
        held.enter();
        held.acquire(LockRank::RunQueue);
        // Allowed, though it stands further out; the second one is not noted.
        assert!(held.acquired(LockRank::WaitQueue));
        assert!(!held.acquired(LockRank::WaitQueue) && !held.acquired(LockRank::RunQueue));
        held.release(LockRank::RunQueue);
        assert_eq!(held.innermost(), Some(LockRank::WaitQueue));
        held.release(LockRank::WaitQueue);
        held.leave();
        held.enter();
        held.may_wait("nobody");
        held.leave();
    }

    #[test]
    #[should_panic(expected = "lock order: WaitQueue taken with Leaf held")]
    fn what_was_free_forbids_what_stands_outside() {
        let held = HeldLocks::new();
        held.enter();
        assert!(held.acquired(LockRank::Leaf));
        held.acquire(LockRank::WaitQueue);
    }

    #[test]
    fn ranks_are_listed_in_order() {
        for (i, rank) in LockRank::ALL.into_iter().enumerate() {
            assert_eq!(rank as usize, i, "{rank:?}");
        }
        assert_eq!(LockRank::ALL.last(), Some(&LockRank::Log));
    }
}
