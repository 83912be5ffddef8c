//! The page descriptor: one 32-byte record for each page frame, all of it
//! atomics, and never a `&mut` to it. May call: `types`, `sync`.
//!
//! A descriptor of all zero bits is a *tail*: it belongs to the head before it
//! (or to nothing yet). So a block of any order is described by one record, and
//! allocating, freeing, splitting or merging it writes one or two.

use crate::sync::{AtomicU32, AtomicU64, Ordering::Relaxed};
use crate::types::{Order, Pfn};
use bitflags::bitflags;

/// The one state a head is in. There is no second place that says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PageType {
    /// Not a head: a tail of the head before it, or not set up yet.
    Tail = 0,
    /// Free, on its zone's free list of that order.
    Buddy = 1,
    /// Free, on a per-CPU list.
    Pcp = 2,
    /// Free, taken off the lists by the manager itself for a moment: a target
    /// of migration, a block on its way to the host.
    Held = 3,
    /// Allocated, frozen, one owner.
    Kernel = 4,
    /// Allocated to a slab; the upper half of the word is its cache and node.
    Slab = 5,
    /// Allocated for one large `kmalloc`; `index` is the size in pages.
    LargeKmalloc = 6,
    /// Mapped memory on an LRU list, counted.
    Lru = 7,
    /// A driver's page that can be moved, counted; `owner` is the driver.
    Movable = 8,
    /// Part of a contiguous allocation.
    Contig = 9,
    /// Taken out of use.
    Offline = 10,
    /// RAM that never came to the buddy: kernel image, boot data.
    Reserved = 11,
    /// Inside a populated pageblock, but not RAM.
    Hole = 12,
    /// Found bad; never to be used again.
    Poisoned = 13,
}

impl PageType {
    const ALL: [Self; 14] = [
        Self::Tail,
        Self::Buddy,
        Self::Pcp,
        Self::Held,
        Self::Kernel,
        Self::Slab,
        Self::LargeKmalloc,
        Self::Lru,
        Self::Movable,
        Self::Contig,
        Self::Offline,
        Self::Reserved,
        Self::Hole,
        Self::Poisoned,
    ];

    /// A bit for each type.
    pub(crate) const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Whether the page is allocated to somebody who will free it.
    pub const fn is_allocated(self) -> bool {
        matches!(
            self,
            Self::Kernel
                | Self::Slab
                | Self::LargeKmalloc
                | Self::Lru
                | Self::Movable
                | Self::Contig
        )
    }
}

bitflags! {
    /// Flags of a head, beside its type and order in the same word.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct PageFlags: u32 {
        /// Somebody holds the page lock.
        const LOCKED = 1 << 9;
        /// Isolated for migration: off its owner's lists.
        const ISOLATED = 1 << 10;
        /// The host knows that this free block is unused; of a Held block, that
        /// it may do as it likes with it for good.
        const REPORTED = 1 << 11;
        /// Came from below the watermarks by right of the reserves.
        const PFMEMALLOC = 1 << 12;
        /// A movable page whose driver has let go of it, maybe while it was
        /// isolated: whoever still has a reference only has to drop it.
        const RELEASED = 1 << 13;
        /// Allocated, with a frame that was found bad: it is to be freed the slow
        /// way.
        const BAD = 1 << 14;
    }
}

impl PageFlags {
    /// Flags that an allocated block keeps whatever it is made.
    pub const KEPT: Self = Self::PFMEMALLOC.union(Self::BAD);
}

bitflags! {
    /// What is known of a page of type [`PageType::Lru`], in the upper half of its
    /// head word, where a slab has its key (Linux include/linux/page-flags.h).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct LruFlags: u32 {
        /// On the list of its node that the flags below name.
        const LISTED = 1 << 16;
        /// On, or bound for, an active list.
        const ACTIVE = 1 << 17;
        /// Used since reclaim last looked, other than through page tables.
        const REFERENCED = 1 << 18;
        /// Anonymous: goes to swap. Else it is a page of a file or a device.
        const ANON = 1 << 19;
        /// Not to be reclaimed: its list is never scanned.
        const UNEVICTABLE = 1 << 20;
        /// Some region that maps it is locked into memory.
        const MLOCKED = 1 << 21;
        /// Newer than what its swap slot or its device has.
        const DIRTY = 1 << 22;
        /// On its way to swap or to a device.
        const WRITEBACK = 1 << 23;
        /// In the swap cache; `private` is its slot.
        const SWAPCACHE = 1 << 24;
        /// Its content has arrived.
        const UPTODATE = 1 << 25;
        /// To be freed first, once it is written.
        const RECLAIM = 1 << 26;
        /// Nobody needs its content any more, unless it is written again
        /// (`MADV_FREE`).
        const LAZYFREE = 1 << 27;
        /// Was active when it was reclaimed before.
        const WORKINGSET = 1 << 28;
        /// Reading or writing it has failed.
        const FAILED = 1 << 29;
        /// A swap device did not take it: to be swapped to one that takes any.
        const REFUSED = 1 << 30;
        /// Was read before anybody asked for it, and nobody has asked since.
        const READAHEAD = 1 << 31;
    }
}

/// "No page" in a link.
pub const NIL: u32 = u32::MAX;

const TYPE_MASK: u32 = 0x1f;
const ORDER_SHIFT: u32 = 5;
const KIND_MASK: u32 = 0x1ff;
const KEY_SHIFT: u32 = 16;

/// Type, order and flags of a page in one word; for a slab, in the upper half,
/// a key that says whose it is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct HeadWord(pub u32);

impl HeadWord {
    /// The word of a tail.
    pub const TAIL: Self = Self(0);

    /// A head of `ty` and `order` without flags.
    #[inline]
    pub const fn new(ty: PageType, order: Order) -> Self {
        Self(ty as u32 | (order.0 as u32) << ORDER_SHIFT)
    }

    /// The same with `flags` too.
    #[inline]
    #[must_use]
    pub const fn with(self, flags: PageFlags) -> Self {
        Self(self.0 | flags.bits())
    }

    /// The same without `flags`.
    #[must_use]
    pub(crate) const fn without(self, flags: PageFlags) -> Self {
        Self(self.0 & !flags.bits())
    }

    /// The type.
    #[inline]
    pub const fn ty(self) -> PageType {
        let n = (self.0 & TYPE_MASK) as usize;
        if n < PageType::ALL.len() { PageType::ALL[n] } else { PageType::Poisoned }
    }

    /// The [`bit`](PageType::bit) of the type.
    #[inline]
    pub(crate) const fn type_bit(self) -> u32 {
        1 << (self.0 & TYPE_MASK)
    }

    /// The order; 0 for a tail.
    #[inline]
    pub const fn order(self) -> Order {
        Order((self.0 >> ORDER_SHIFT & 0xf) as u8)
    }

    /// A head of a slab of `order` with that key and without flags.
    #[inline]
    pub(crate) const fn slab(order: Order, key: u16) -> Self {
        Self(Self::new(PageType::Slab, order).0 | (key as u32) << KEY_SHIFT)
    }

    /// The word without order and flags: type and, for a slab, key. All slabs
    /// with the same key have the same, and nothing else has it.
    #[inline]
    #[must_use]
    pub(crate) const fn type_and_key(self) -> Self {
        Self(self.0 & (TYPE_MASK | (u16::MAX as u32) << KEY_SHIFT))
    }

    /// The key of a slab's head; 0 for other types.
    #[inline]
    pub(crate) const fn key(self) -> u16 {
        (self.0 >> KEY_SHIFT) as u16
    }

    /// The flags.
    #[inline]
    pub const fn flags(self) -> PageFlags {
        PageFlags::from_bits_truncate(self.0)
    }

    /// What is known of a page on the LRU lists; nothing for other types.
    #[inline]
    pub const fn lru(self) -> LruFlags {
        match self.ty() {
            PageType::Lru => LruFlags::from_bits_truncate(self.0),
            _ => LruFlags::empty(),
        }
    }

    /// The same with `flags` of a page on the LRU lists too.
    #[inline]
    #[must_use]
    pub const fn with_lru(self, flags: LruFlags) -> Self {
        Self(self.0 | flags.bits())
    }

    /// Whether type and order are these, whatever the flags.
    #[inline]
    pub const fn is(self, ty: PageType, order: Order) -> bool {
        self.0 & KIND_MASK == Self::new(ty, order).0
    }
}

impl core::fmt::Debug for HeadWord {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?} order {} {:?}", self.ty(), self.order().0, self.flags())
    }
}

/// The descriptor of a page frame.
///
/// | field | free | slab | movable / LRU | kernel |
/// |---|---|---|---|---|
/// | `count` | 0 | 0 | references | 0 (frozen) |
/// | `next`, `prev` | free list | node list | owner's list | owner's |
/// | `owner` | - | first object's place | driver | page-owner tag |
/// | `inuse` | - | objects in use of many | mapcount | - |
/// | `index` | - | free objects | owner's | owner's |
/// | `private` | - | free objects | owner's | owner's |
#[repr(C, align(32))]
#[derive(Debug, Default)]
pub struct PageDesc {
    head: AtomicU32,
    count: AtomicU32,
    next: AtomicU32,
    prev: AtomicU32,
    owner: AtomicU32,
    inuse: AtomicU32,
    /// `index` in the lower half, `private` in the upper one.
    own: AtomicU64,
}

const _: () = assert!(size_of::<PageDesc>() == 32);

macro_rules! word {
    ($(#[$doc:meta])* $get:ident, $set:ident, $field:ident) => {
        $(#[$doc])*
        #[inline]
        pub fn $get(&self) -> u32 {
            self.$field.load(Relaxed)
        }
        #[doc = concat!("Writes [`", stringify!($get), "`](Self::", stringify!($get), "); the caller owns the page or holds its list's lock.")]
        #[inline]
        pub fn $set(&self, value: u32) {
            self.$field.store(value, Relaxed);
        }
    };
}

impl PageDesc {
    /// Type, order and flags. May be read without a lock: it is then a hint.
    #[inline]
    pub fn head(&self) -> HeadWord {
        HeadWord(self.head.load(Relaxed))
    }

    /// Writes type, order and flags at once; the caller owns the page.
    #[inline]
    pub fn set_head(&self, word: HeadWord) {
        self.head.store(word.0, Relaxed);
    }

    /// Writes type, order and flags at once if they are still those that `seen`
    /// says; whether they were.
    pub(crate) fn replace_head(&self, seen: HeadWord, word: HeadWord) -> bool {
        self.head.compare_exchange(seen.0, word.0, Relaxed, Relaxed).is_ok()
    }

    /// Writes type, order and flags at once and returns what they were, so that no
    /// flag that somebody sets just now is missed; the caller owns the page.
    #[inline]
    pub(crate) fn swap_head(&self, word: HeadWord) -> HeadWord {
        HeadWord(self.head.swap(word.0, Relaxed))
    }

    /// Makes an allocated block another sort of allocated block: writes `word`
    /// and the flags that such a block keeps, those too that somebody sets just
    /// now. Returns the word that was there. The caller owns the block.
    #[inline]
    pub(crate) fn remake(&self, word: HeadWord) -> HeadWord {
        let mut seen = self.head();
        loop {
            let next = word.with(seen.flags() & PageFlags::KEPT);
            match self.head.compare_exchange(seen.0, next.0, Relaxed, Relaxed) {
                Ok(_) => return seen,
                Err(now) => seen = HeadWord(now),
            }
        }
    }

    /// Sets `flags`, whatever else changes the word meanwhile.
    pub fn set_flags(&self, flags: PageFlags) {
        self.head.fetch_or(flags.bits(), Relaxed);
    }

    /// Clears `flags`, whatever else changes the word meanwhile.
    pub fn clear_flags(&self, flags: PageFlags) {
        self.head.fetch_and(!flags.bits(), Relaxed);
    }

    /// Sets `flags` of a page of type Lru, to which the caller has a reference;
    /// returns those that it had.
    pub fn set_lru(&self, flags: LruFlags) -> LruFlags {
        HeadWord(self.head.fetch_or(flags.bits(), Relaxed)).lru()
    }

    /// Clears `flags` of a page of type Lru, to which the caller has a reference;
    /// returns those that it had.
    pub fn clear_lru(&self, flags: LruFlags) -> LruFlags {
        HeadWord(self.head.fetch_and(!flags.bits(), Relaxed)).lru()
    }

    /// Turns LISTED, which is set, into ISOLATED, which is not, in one step; under
    /// the lock of the page's list.
    pub(crate) fn isolate_listed(&self) {
        self.head.fetch_xor(LruFlags::LISTED.bits() | PageFlags::ISOLATED.bits(), Relaxed);
    }

    /// Page-table entries that map a page of type Lru (Linux `_mapcount` + 1).
    pub fn mapcount(&self) -> u32 {
        self.inuse()
    }

    /// Counts one more mapping; returns how many there are now.
    pub fn add_mapping(&self) -> u32 {
        self.inuse.fetch_add(1, Relaxed) + 1
    }

    /// Counts one mapping less; returns how many are left.
    pub fn drop_mapping(&self) -> u32 {
        let old = self.inuse.fetch_sub(1, Relaxed);
        debug_assert!(old > 0, "a mapping less than none");
        old - 1
    }

    /// Takes the page lock if it is free. What the last holder wrote is seen.
    pub fn try_lock(&self) -> bool {
        let bit = PageFlags::LOCKED.bits();
        self.head.fetch_or(bit, core::sync::atomic::Ordering::Acquire) & bit == 0
    }

    /// Gives the page lock back.
    pub fn unlock(&self) {
        let bit = PageFlags::LOCKED.bits();
        let old = self.head.fetch_and(!bit, core::sync::atomic::Ordering::Release);
        debug_assert!(old & bit != 0, "unlock of a page that was not locked");
    }

    word!(
        /// Reference count of LRU and movable pages; 0 for all others.
        count,
        set_count,
        count
    );
    word!(
        /// The next page on the same list, or [`NIL`].
        next,
        set_next,
        next
    );
    word!(
        /// The previous page on the same list, or [`NIL`].
        prev,
        set_prev,
        prev
    );
    word!(
        /// Who owns an allocated page: an index into the table of its type.
        owner,
        set_owner,
        owner
    );
    word!(
        /// Objects in use of a slab that has many, or times mapped.
        inuse,
        set_inuse,
        inuse
    );

    /// A word for the owner (see the table above).
    #[inline]
    pub fn index(&self) -> u32 {
        self.both() as u32
    }

    /// Writes [`index`](Self::index); the caller owns the page or holds its
    /// list's lock.
    #[inline]
    pub fn set_index(&self, value: u32) {
        self.set_both(self.both() >> 32 << 32 | u64::from(value));
    }

    /// A word for the owner (see the table above).
    #[inline]
    pub fn private(&self) -> u32 {
        (self.both() >> 32) as u32
    }

    /// Writes [`private`](Self::private); the caller owns the page or holds its
    /// list's lock.
    #[inline]
    pub fn set_private(&self, value: u32) {
        self.set_both(u64::from(self.index()) | u64::from(value) << 32);
    }

    /// Writes [`index`](Self::index) and [`private`](Self::private) at once; the
    /// caller owns the page or holds its list's lock.
    #[inline]
    pub(crate) fn set_index_and_private(&self, index: u32, private: u32) {
        self.set_both(u64::from(index) | u64::from(private) << 32);
    }

    /// [`index`](Self::index) and [`private`](Self::private), the upper half,
    /// as one.
    #[inline]
    pub(crate) fn both(&self) -> u64 {
        self.own.load(Relaxed)
    }

    /// Writes [`both`](Self::both); the caller owns the page or holds its list's
    /// lock.
    #[inline]
    pub(crate) fn set_both(&self, value: u64) {
        self.own.store(value, Relaxed);
    }

    /// The count itself, for those who need an ordering of their own.
    pub(crate) fn count_word(&self) -> &AtomicU32 {
        &self.count
    }

    /// Takes a reference unless the count is zero, which means that the page is
    /// free, frozen or about to be freed.
    pub fn get_unless_zero(&self) -> bool {
        let mut seen = self.count.load(Relaxed);
        loop {
            if seen == 0 {
                return false;
            }
            match self.count.compare_exchange_weak(
                seen,
                seen + 1,
                core::sync::atomic::Ordering::Acquire,
                Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
    }

    /// Takes a further reference; the caller has one already.
    pub fn get(&self) {
        let old = self.count.fetch_add(1, Relaxed);
        debug_assert!(old > 0, "get on a page without references");
    }

    /// Drops a reference; true when it was the last one and the caller now
    /// owns the (frozen) page and has to free it.
    #[must_use]
    pub fn put(&self) -> bool {
        let old = self.count.fetch_sub(1, core::sync::atomic::Ordering::AcqRel);
        debug_assert!(old > 0, "put on a page without references");
        old == 1
    }

    /// Takes all `expect` references away at once, leaving the page frozen.
    /// Fails, changing nothing, if there are more or fewer.
    #[must_use]
    pub fn freeze(&self, expect: u32) -> bool {
        self.count
            .compare_exchange(expect, 0, core::sync::atomic::Ordering::AcqRel, Relaxed)
            .is_ok()
    }

    /// Ends a [`freeze`](Self::freeze): the page has `count` references again.
    pub(crate) fn unfreeze(&self, count: u32) {
        self.count.store(count, core::sync::atomic::Ordering::Release);
    }

    /// Makes the record that of a tail again: what a block that ends leaves.
    #[inline]
    pub fn clear(&self) {
        self.reset(HeadWord::TAIL);
    }

    /// Leaves nothing in the record but `word`. Not even for a moment is it a
    /// tail's in between, which whoever walks heads would take for a part of
    /// some other block.
    #[inline]
    pub fn reset(&self, word: HeadWord) {
        self.set_head(word);
        for word in [&self.count, &self.next, &self.prev, &self.owner, &self.inuse] {
            word.store(0, Relaxed);
        }
        self.set_both(0);
    }

    /// [`reset`](Self::reset) of a frozen page that is about to be put on a
    /// list: its count is zero and its links are about to be written.
    #[inline]
    pub(crate) fn forget_owner(&self) {
        self.set_owner(0);
        self.set_inuse(0);
        self.set_both(0);
    }

    /// Whether all words are zero, as a tail's must be.
    pub fn is_clear(&self) -> bool {
        self.head().0 == 0
            && self.count() == 0
            && self.next() == 0
            && self.prev() == 0
            && self.owner() == 0
            && self.inuse() == 0
            && self.both() == 0
    }
}

/// A frame number as a link.
#[inline]
pub fn link(pfn: Pfn) -> u32 {
    debug_assert!(pfn.0 < u64::from(NIL));
    pfn.0 as u32
}

/// The frame a link names, if any.
#[inline]
pub fn linked(link: u32) -> Option<Pfn> {
    (link != NIL).then_some(Pfn(u64::from(link)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives_the_word() {
        for ty in PageType::ALL {
            for order in 0..=10 {
                let word = HeadWord::new(ty, Order(order)).with(PageFlags::REPORTED);
                assert_eq!(word.ty(), ty);
                assert_eq!(word.order(), Order(order));
                assert_eq!(word.flags(), PageFlags::REPORTED);
                assert!(word.is(ty, Order(order)));
                assert!(!word.is(ty, Order(order ^ 1)));
            }
        }
    }

    #[test]
    fn a_slab_head_has_room_for_any_key_beside_the_rest() {
        for key in [0, 1, 0x8000, u16::MAX] {
            let word = HeadWord::slab(Order(3), key).with(PageFlags::all());
            assert!(word.is(PageType::Slab, Order(3)));
            assert_eq!((word.key(), word.flags()), (key, PageFlags::all()));
            assert_eq!(word.type_and_key(), HeadWord::slab(Order(0), key));
            assert_ne!(word.type_and_key(), HeadWord::slab(Order(0), key ^ 0x8000));
        }
        let kernel = HeadWord::new(PageType::Kernel, Order(3)).with(PageFlags::all());
        assert_ne!(kernel.type_and_key(), HeadWord::slab(Order(0), 0));
    }

    #[test]
    fn the_owners_words_are_halves_of_one() {
        let page = PageDesc::default();
        page.set_index(1);
        page.set_private(2);
        assert_eq!((page.index(), page.private(), page.both()), (1, 2, 2 << 32 | 1));
        page.set_index(u32::MAX);
        assert_eq!((page.index(), page.private()), (u32::MAX, 2));
        page.set_private(u32::MAX);
        page.set_index(0);
        assert_eq!((page.index(), page.private()), (0, u32::MAX));
    }

    #[test]
    fn references() {
        let page = PageDesc::default();
        assert!(!page.get_unless_zero());
        page.set_count(1);
        assert!(page.get_unless_zero());
        assert!(!page.freeze(1));
        assert!(!page.put());
        assert!(page.freeze(1));
        assert!(!page.get_unless_zero());
    }

    #[test]
    fn lock_is_exclusive_and_keeps_the_type() {
        let page = PageDesc::default();
        page.set_head(HeadWord::new(PageType::Movable, Order(0)));
        assert!(page.try_lock());
        assert!(!page.try_lock());
        page.unlock();
        assert!(page.head().is(PageType::Movable, Order(0)));
    }
}
