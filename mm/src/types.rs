//! The words everything else is written in: page frame numbers, orders, zones,
//! migratetypes and the newtypes that keep them apart. Calls nothing.

use core::fmt;

/// Bytes in a page frame.
pub const PAGE_SIZE: usize = 4096;
/// As report files count a page, in KiB.
pub(crate) const KIB_PER_PAGE: u64 = PAGE_SIZE as u64 / 1024;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
/// The largest block the buddy handles: 2^10 pages, 4 MiB (Linux 6.12
/// `MAX_PAGE_ORDER`, inclusive).
pub const MAX_ORDER: Order = Order(10);
/// Free lists per migratetype: orders 0 to 10.
pub const NR_ORDERS: usize = 11;
/// A pageblock is 2^9 pages, 2 MiB: the unit of mobility grouping.
pub const PAGEBLOCK_ORDER: Order = Order(9);
/// Pages in a pageblock.
pub const PAGEBLOCK_PAGES: u64 = 1 << 9;
/// Requests above this order are "costly": they may fail sooner.
pub const COSTLY_ORDER: Order = Order(3);

/// A page frame number: a physical address divided by [`PAGE_SIZE`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Pfn(pub u64);

impl Pfn {
    /// The frame that holds physical address `addr` (bytes).
    pub const fn containing(addr: u64) -> Self {
        Self(addr >> PAGE_SHIFT)
    }

    /// Physical address of the frame's first byte.
    pub const fn addr(self) -> u64 {
        self.0 << PAGE_SHIFT
    }

    /// The frame `pages` further up.
    #[must_use]
    pub const fn add(self, pages: u64) -> Self {
        Self(self.0 + pages)
    }

    /// Rounded down to a multiple of `1 << order` pages.
    #[must_use]
    pub const fn align_down(self, order: Order) -> Self {
        Self(self.0 & !(order.pages() - 1))
    }

    /// Rounded up to a multiple of `1 << order` pages.
    #[must_use]
    pub const fn align_up(self, order: Order) -> Self {
        Self((self.0 + order.pages() - 1) & !(order.pages() - 1))
    }

    /// Whether this is the first frame of a naturally aligned block of `order`.
    pub const fn is_aligned(self, order: Order) -> bool {
        self.0 & (order.pages() - 1) == 0
    }

    /// First frame of the pageblock that holds this frame.
    #[must_use]
    pub const fn pageblock(self) -> Self {
        self.align_down(PAGEBLOCK_ORDER)
    }

    /// The buddy of the block of `order` that begins here.
    #[must_use]
    pub const fn buddy(self, order: Order) -> Self {
        Self(self.0 ^ order.pages())
    }
}

impl fmt::Debug for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn {:#x}", self.0)
    }
}

impl fmt::Display for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A half-open range of page frames.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PfnRange {
    /// First frame.
    pub start: Pfn,
    /// One past the last frame.
    pub end: Pfn,
}

impl PfnRange {
    /// The range `[start, end)`; empty when `end <= start`.
    pub const fn new(start: Pfn, end: Pfn) -> Self {
        Self { start, end }
    }

    /// The `pages` frames from `start` on.
    pub const fn sized(start: Pfn, pages: u64) -> Self {
        Self { start, end: Pfn(start.0 + pages) }
    }

    /// Length in pages.
    pub const fn pages(self) -> u64 {
        self.end.0.saturating_sub(self.start.0)
    }

    /// Whether no frame lies in the range.
    pub const fn is_empty(self) -> bool {
        self.end.0 <= self.start.0
    }

    /// Whether `pfn` lies in the range.
    pub const fn contains(self, pfn: Pfn) -> bool {
        self.start.0 <= pfn.0 && pfn.0 < self.end.0
    }

    /// The frames that lie in both ranges.
    #[must_use]
    pub fn intersect(self, other: Self) -> Self {
        Self { start: self.start.max(other.start), end: self.end.min(other.end) }
    }
}

/// log2 of a block's size in pages, 0 to [`MAX_ORDER`] for the buddy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(transparent)]
pub struct Order(pub u8);

impl Order {
    /// Pages in a block of this order.
    pub const fn pages(self) -> u64 {
        1 << self.0
    }

    /// Bytes in a block of this order.
    pub const fn bytes(self) -> usize {
        PAGE_SIZE << self.0
    }

    /// As an index into tables by order.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The smallest order whose block holds `pages` pages (0 pages: order 0).
    pub const fn for_pages(pages: u64) -> Self {
        if pages <= 1 { Self(0) } else { Self((u64::BITS - (pages - 1).leading_zeros()) as u8) }
    }

    /// The smallest order whose block holds `bytes` bytes.
    pub const fn for_bytes(bytes: usize) -> Self {
        Self::for_pages((bytes as u64).div_ceil(PAGE_SIZE as u64))
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A NUMA node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(transparent)]
pub struct NodeId(pub u8);

/// A logical CPU, numbered from 0 without gaps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(transparent)]
pub struct CpuId(pub u16);

/// Nodes that one manager can have.
pub const MAX_NODES: usize = 16;

/// The kinds of zone, lowest first; a request may fall to lower zones, never to
/// a higher one (Linux `enum zone_type` on x86_64, without Device).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum ZoneKind {
    /// Below 16 MiB.
    Dma = 0,
    /// Below 4 GiB.
    Dma32 = 1,
    /// The rest.
    Normal = 2,
    /// Only pages that can be migrated (`movablecore=`, `kernelcore=`).
    Movable = 3,
}

/// Kinds of zone a node has.
pub const NR_ZONES: usize = 4;

impl ZoneKind {
    /// All kinds, lowest first.
    pub const ALL: [Self; NR_ZONES] = [Self::Dma, Self::Dma32, Self::Normal, Self::Movable];

    /// As an index into tables by kind.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Linux's name, as its report files print it.
    pub const fn name(self) -> &'static str {
        ["DMA", "DMA32", "Normal", "Movable"][self as usize]
    }
}

/// What may live in a pageblock (Linux `enum migratetype`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum MigrateType {
    /// Kernel memory that stays where it is.
    Unmovable = 0,
    /// Pages whose owner can be asked to move them.
    Movable = 1,
    /// Kernel memory that a shrinker can give back.
    Reclaimable = 2,
    /// Kept for requests that can neither wait nor fail lightly.
    HighAtomic = 3,
    /// Lent to movable requests until its contiguous area is asked for.
    Cma = 4,
    /// Being emptied; nothing may be allocated from it.
    Isolate = 5,
}

/// Number of migratetypes.
pub const NR_MIGRATETYPES: usize = 6;
/// Types that per-CPU lists distinguish: Unmovable, Movable, Reclaimable.
pub const NR_PCPTYPES: usize = 3;

impl MigrateType {
    /// All types in index order.
    pub const ALL: [Self; NR_MIGRATETYPES] = [
        Self::Unmovable,
        Self::Movable,
        Self::Reclaimable,
        Self::HighAtomic,
        Self::Cma,
        Self::Isolate,
    ];

    /// As an index into tables by type.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The type with that index; out of range reads as the last, Isolate.
    #[inline]
    pub(crate) const fn from_index(index: u8) -> Self {
        Self::from_bits(index as u32)
    }

    /// The type with index `bits & 7`; out of range reads as Isolate, the type
    /// that hands nothing out.
    pub const fn from_bits(bits: u32) -> Self {
        const TYPES: [MigrateType; 8] = {
            let mut types = [MigrateType::Isolate; 8];
            let mut i = 0;
            while i < NR_MIGRATETYPES {
                types[i] = MigrateType::ALL[i];
                i += 1;
            }
            types
        };
        TYPES[(bits & 7) as usize]
    }

    /// Linux's name, as `/proc/pagetypeinfo` prints it.
    pub const fn name(self) -> &'static str {
        ["Unmovable", "Movable", "Reclaimable", "HighAtomic", "CMA", "Isolate"][self as usize]
    }

    /// Whether free blocks of this type may merge with, and be stolen for,
    /// other such types.
    pub const fn is_mergeable(self) -> bool {
        matches!(self, Self::Unmovable | Self::Movable | Self::Reclaimable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_for_pages_rounds_up() {
        for (pages, order) in
            [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (1024, 10), (1025, 11)]
        {
            assert_eq!(Order::for_pages(pages), Order(order), "{pages} pages");
        }
        assert_eq!(Order::for_bytes(1), Order(0));
        assert_eq!(Order::for_bytes(PAGE_SIZE + 1), Order(1));
    }

    #[test]
    fn pfn_alignment() {
        assert_eq!(Pfn(0x3ff).align_up(Order(9)), Pfn(0x400));
        assert_eq!(Pfn(0x3ff).align_down(Order(9)), Pfn(0x200));
        assert_eq!(Pfn(0x200).buddy(Order(9)), Pfn(0));
        assert_eq!(Pfn::containing(0x1fff), Pfn(1));
    }
}
