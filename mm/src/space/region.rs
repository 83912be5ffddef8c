//! A region: a stretch of an address space with one set of rights, and the tree
//! of them. All of a region is atomics, so that who walks its group may look at
//! it while its owner changes it. May call: `mmu`, `sync`.

use super::Space;
use crate::mmu::{MapSize, VirtAddr};
use crate::swap::Window;
use crate::sync::{AtomicU32, AtomicU64, Ordering::Relaxed};
use crate::types::PAGE_SIZE;
use bitflags::bitflags;
use core::ops::Range;
use core::ptr::NonNull;
use intrusive_collections::{
    Bound, KeyAdapter, LinkedListAtomicLink, RBTree, RBTreeAtomicLink, UnsafeRef, intrusive_adapter,
};

bitflags! {
    /// What may be done with the memory of a region.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Prot: u32 {
        /// Read.
        const READ = 1 << 0;
        /// Write; what may be written may be read.
        const WRITE = 1 << 1;
    }
}

bitflags! {
    /// What a region is besides its rights (Linux `vm_flags`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct RegionFlags: u32 {
        /// May be read.
        const READ = Prot::READ.bits();
        /// May be written.
        const WRITE = Prot::WRITE.bits();
        /// Stays in memory (`mlock`).
        const LOCKED = 1 << 2;
        /// Large pages are wanted here (`MADV_HUGEPAGE`).
        const HUGE = 1 << 3;
        /// No large pages here (`MADV_NOHUGEPAGE`).
        const NOHUGE = 1 << 4;
    }
}

/// Pages of a region at most, 16 TiB of them: a page's number in its group is a
/// word of its descriptor.
pub(crate) const MAX_PAGES: u64 = 1 << 32;

/// A stretch of an address space. It is changed with the space's regions locked
/// for writing; who walks its group may see a part of it in two for a moment.
pub struct Region {
    by_start: RBTreeAtomicLink,
    by_group: LinkedListAtomicLink,
    space: NonNull<Space>,
    /// The group of its pages.
    pub(crate) group: u32,
    start: AtomicU64,
    end: AtomicU64,
    /// Where page 0 of the group is in this space.
    base: u64,
    flags: AtomicU32,
    /// What is known of its faults on pages in swap.
    window: AtomicU64,
}

intrusive_adapter!(pub(crate) ByStart = UnsafeRef<Region>: Region { by_start => RBTreeAtomicLink });
intrusive_adapter!(pub(crate) ByGroup = UnsafeRef<Region>: Region { by_group => LinkedListAtomicLink });

impl<'a> KeyAdapter<'a> for ByStart {
    type Key = u64;

    fn get_key(&self, region: &'a Region) -> u64 {
        region.start.load(Relaxed)
    }
}

// SAFETY: all that changes is atomic, and the space outlives its regions.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl core::fmt::Debug for Region {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Range { start, end } = self.range();
        write!(f, "{start}-{end} {:?}", self.flags())
    }
}

impl Region {
    /// A region of `space`, in no tree and no group's list yet, whose group has
    /// its page 0 at `base`.
    pub(crate) fn new(
        space: &Space,
        range: Range<VirtAddr>,
        base: VirtAddr,
        group: u32,
        flags: RegionFlags,
    ) -> Self {
        Self {
            by_start: RBTreeAtomicLink::new(),
            by_group: LinkedListAtomicLink::new(),
            space: NonNull::from(space),
            group,
            start: AtomicU64::new(range.start.0),
            end: AtomicU64::new(range.end.0),
            base: base.0,
            flags: AtomicU32::new(flags.bits()),
            window: AtomicU64::new(0),
        }
    }

    /// The addresses that it covers.
    pub fn range(&self) -> Range<VirtAddr> {
        VirtAddr(self.start.load(Relaxed))..VirtAddr(self.end.load(Relaxed))
    }

    /// What it is.
    pub fn flags(&self) -> RegionFlags {
        RegionFlags::from_bits_truncate(self.flags.load(Relaxed))
    }

    /// Changes what is known of its faults on pages in swap. Of two who do so at
    /// the same time one may be forgotten.
    pub(crate) fn with_window<R>(&self, f: impl FnOnce(Window) -> (Window, R)) -> R {
        let (window, result) = f(Window::from_bits(self.window.load(Relaxed)));
        self.window.store(window.bits(), Relaxed);
        result
    }

    pub(crate) fn set_flags(&self, flags: RegionFlags) {
        self.flags.store(flags.bits(), Relaxed);
    }

    /// Has it end at `end`: what it covered so far another one covers already, so
    /// that who walks the group misses nothing.
    fn set_end(&self, end: VirtAddr) {
        self.end.store(end.0, Relaxed);
    }

    pub(crate) fn base(&self) -> VirtAddr {
        VirtAddr(self.base)
    }

    /// The space it is of.
    pub(crate) fn space(&self) -> &Space {
        // SAFETY: a space goes after the last of its regions.
        unsafe { self.space.as_ref() }
    }

    /// The number within its group of the page at `va`.
    pub(crate) fn index(&self, va: VirtAddr) -> u32 {
        ((va.0 - self.base) / PAGE_SIZE as u64) as u32
    }

    /// Where page `index` of its group is, if a page of `size` there lies in the
    /// region as a whole.
    pub(crate) fn place(&self, index: u32, size: MapSize) -> Option<VirtAddr> {
        let va = self.base + u64::from(index) * PAGE_SIZE as u64;
        let range = self.range();
        (range.start.0 <= va && va + size.bytes() <= range.end.0).then_some(VirtAddr(va))
    }

    /// Whether `next`, which begins where this ends, is no different.
    pub(crate) fn goes_on_in(&self, next: &Self) -> bool {
        self.group == next.group && self.flags() == next.flags()
    }

    /// Whether a page of `size` at `va` lies in it as a whole.
    pub(crate) fn covers(&self, va: VirtAddr, size: MapSize) -> bool {
        let range = self.range();
        range.start <= va && va.0 + size.bytes() <= range.end.0
    }
}

/// The regions of a space, by address; they do not overlap.
#[derive(Default)]
pub(crate) struct Regions {
    tree: RBTree<ByStart>,
    /// How many there are.
    pub(crate) len: u64,
    /// Pages that they cover.
    pub(crate) pages: u64,
    /// What is known of where there is no room.
    pub(super) full: Full,
}

/// No gap that ends above `above` has room for `len` bytes.
#[derive(Clone, Copy)]
pub(super) struct Full {
    pub(super) above: VirtAddr,
    pub(super) len: u64,
}

impl Default for Full {
    fn default() -> Self {
        Self { above: VirtAddr(u64::MAX), len: 0 }
    }
}

impl core::fmt::Debug for Regions {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

pub(crate) fn pages_of(range: &Range<VirtAddr>) -> u64 {
    (range.end.0 - range.start.0) / PAGE_SIZE as u64
}

impl Regions {
    /// The region that `va` is in.
    #[inline]
    pub(crate) fn find(&self, va: VirtAddr) -> Option<&Region> {
        let last = self.tree.upper_bound(Bound::Included(&va.0)).get()?;
        (va < last.range().end).then_some(last)
    }

    /// The first region that ends after `va`.
    pub(crate) fn first_from(&self, va: VirtAddr) -> Option<&Region> {
        self.find(va).or_else(|| self.tree.lower_bound(Bound::Included(&va.0)).get())
    }

    /// The last region that begins before `va`.
    pub(crate) fn last_before(&self, va: VirtAddr) -> Option<&Region> {
        self.tree.upper_bound(Bound::Excluded(&va.0)).get()
    }

    /// All regions, lowest first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Region> {
        self.tree.iter()
    }

    /// Enters a region, which is alive until it is taken out.
    pub(crate) fn insert(&mut self, region: NonNull<Region>) {
        // SAFETY: alive until it is taken out, and nobody has a `&mut` to it.
        let region = unsafe { UnsafeRef::from_raw(region.as_ptr()) };
        self.pages += pages_of(&region.range());
        self.len += 1;
        self.tree.insert(region);
    }

    /// Takes out the first region that begins at or after `from` and before `to`.
    pub(crate) fn remove_first(&mut self, range: &Range<VirtAddr>) -> Option<NonNull<Region>> {
        let mut cursor = self.tree.lower_bound_mut(Bound::Included(&range.start.0));
        if cursor.get()?.range().start >= range.end {
            return None;
        }
        let region = cursor.remove()?;
        self.pages -= pages_of(&region.range());
        self.len -= 1;
        if region.range().end >= self.full.above {
            // There is a gap now, up to the next.
            let next = cursor.get().map_or(u64::MAX, |next| next.range().start.0);
            self.full.above = VirtAddr(next);
        }
        NonNull::new(UnsafeRef::into_raw(region))
    }

    /// Has `region` reach to `end` too, where the one was that came behind it,
    /// which is out of the tree and still in their group.
    pub(crate) fn grow(&mut self, region: &Region, end: VirtAddr) {
        self.pages += pages_of(&(region.range().end..end));
        region.set_end(end);
    }

    /// Cuts `region` off at `at`; what comes behind is `tail`, of the same pages,
    /// which is in their group already.
    pub(crate) fn cut(&mut self, region: &Region, at: VirtAddr, tail: NonNull<Region>) {
        self.pages -= pages_of(&(at..region.range().end));
        region.set_end(at);
        self.insert(tail);
    }
}
