//! What a request asks for and what it gets: gfp flags, the rights they carry,
//! the request and its answer. Linux `gfp_types.h`, `mm/internal.h`.
//! May call: `types`, `platform`.

use crate::platform::Context;
use crate::types::{MigrateType, NodeId, Order, Pfn, ZoneKind};
use bitflags::bitflags;
use core::fmt;

bitflags! {
    /// How to get free pages: where from, how hard to try, for whom.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Gfp: u32 {
        /// From zone DMA.
        const DMA = 1 << 0;
        /// From zone Movable, if the pages are [`MOVABLE`](Self::MOVABLE) too.
        const HIGHMEM = 1 << 1;
        /// From zone DMA32 or below.
        const DMA32 = 1 << 2;
        /// The pages can be migrated.
        const MOVABLE = 1 << 3;
        /// The pages can be had back by a shrinker.
        const RECLAIMABLE = 1 << 4;
        /// Urgent: may use half of what min keeps back.
        const HIGH = 1 << 5;
        /// May start I/O.
        const IO = 1 << 6;
        /// May call into file systems.
        const FS = 1 << 7;
        /// Pages come zeroed.
        const ZERO = 1 << 8;
        /// May enter direct reclaim, that is, wait.
        const DIRECT_RECLAIM = 1 << 9;
        /// May wake kswapd.
        const KSWAPD_RECLAIM = 1 << 10;
        /// No failure report.
        const NOWARN = 1 << 11;
        /// Retry while there is progress, but fail rather than kill.
        const RETRY_MAYFAIL = 1 << 12;
        /// Never fail.
        const NOFAIL = 1 << 13;
        /// One try of each kind, then fail.
        const NORETRY = 1 << 14;
        /// May use all reserves: the caller frees more than it takes.
        const MEMALLOC = 1 << 15;
        /// May not use the reserves, whatever else says so.
        const NOMEMALLOC = 1 << 16;
        /// From the given node only.
        const THISNODE = 1 << 17;
        /// Movable, but to stay pinned for long: not from CMA.
        const PINNED = 1 << 18;

        /// May wait and wake.
        const RECLAIM = Self::DIRECT_RECLAIM.bits() | Self::KSWAPD_RECLAIM.bits();
        /// Ordinary kernel memory; may wait.
        const KERNEL = Self::RECLAIM.bits() | Self::IO.bits() | Self::FS.bits();
        /// Cannot wait and may dip into reserves.
        const ATOMIC = Self::HIGH.bits() | Self::KSWAPD_RECLAIM.bits();
        /// Cannot wait and may not dip into reserves.
        const NOWAIT = Self::KSWAPD_RECLAIM.bits();
        /// May wait, but not for I/O.
        const NOIO = Self::RECLAIM.bits();
        /// May wait, but not for file systems.
        const NOFS = Self::RECLAIM.bits() | Self::IO.bits();
        /// Memory of a program, or a driver's that can be moved: any zone.
        const HIGHUSER_MOVABLE =
            Self::KERNEL.bits() | Self::HIGHMEM.bits() | Self::MOVABLE.bits();
    }
}

/// A gfp that contradicts itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadGfp(pub &'static str);

impl Gfp {
    /// Whether the caller can wait.
    #[inline]
    pub const fn can_block(self) -> bool {
        self.contains(Self::DIRECT_RECLAIM)
    }

    /// The highest zone the request may use. HIGHMEM alone says nothing here:
    /// only with MOVABLE does it open zone Movable.
    ///
    /// # Errors
    /// Two of DMA, HIGHMEM and DMA32 together.
    #[inline]
    pub fn zone(self) -> Result<ZoneKind, BadGfp> {
        let place = self.bits() & (Self::DMA.bits() | Self::HIGHMEM.bits() | Self::DMA32.bits());
        const DMA: u32 = Gfp::DMA.bits();
        const DMA32: u32 = Gfp::DMA32.bits();
        const HIGHMEM: u32 = Gfp::HIGHMEM.bits();
        Ok(match place {
            0 => ZoneKind::Normal,
            HIGHMEM if self.contains(Self::MOVABLE) => ZoneKind::Movable,
            HIGHMEM => ZoneKind::Normal,
            DMA32 => ZoneKind::Dma32,
            DMA => ZoneKind::Dma,
            _ => return Err(BadGfp("two of DMA, DMA32 and HIGHMEM")),
        })
    }

    /// The mobility the pages will have.
    ///
    /// # Errors
    /// MOVABLE and RECLAIMABLE together.
    #[inline]
    pub fn migratetype(self) -> Result<MigrateType, BadGfp> {
        match (self.contains(Self::MOVABLE), self.contains(Self::RECLAIMABLE)) {
            (false, false) => Ok(MigrateType::Unmovable),
            (true, false) => Ok(MigrateType::Movable),
            (false, true) => Ok(MigrateType::Reclaimable),
            (true, true) => Err(BadGfp("both MOVABLE and RECLAIMABLE")),
        }
    }

    /// Whether this caller may use what came from below the watermarks: pages
    /// and objects of the reserves. NOMEMALLOC beats everything; PF_MEMALLOC
    /// and being a victim count in a task only, not in its interrupts.
    pub fn may_use_reserves(self, context: Context) -> bool {
        if self.contains(Self::NOMEMALLOC) {
            return false;
        }
        self.contains(Self::MEMALLOC) || !context.in_irq && (context.memalloc || context.oom_victim)
    }
}

bitflags! {
    /// Rights of one attempt, derived from a request and its caller (Linux
    /// `ALLOC_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct AllocFlags: u32 {
        /// Ignore the watermarks.
        const NO_WATERMARKS = 0x04;
        /// An OOM victim: half of what is left of min, and HighAtomic lists.
        const OOM = 0x08;
        /// The caller cannot wait.
        const NON_BLOCK = 0x10;
        /// May use half of min.
        const MIN_RESERVE = 0x20;
        /// May use CMA pages.
        const CMA = 0x80;
        /// Do not mix migratetypes in a block.
        const NOFRAGMENT = 0x100;
        /// May use and make HighAtomic blocks.
        const HIGHATOMIC = 0x200;
        /// May wake kswapd.
        const KSWAPD = 0x800;
        /// Any right to go below the mark.
        const RESERVES = Self::OOM.bits() | Self::NON_BLOCK.bits() | Self::MIN_RESERVE.bits();
    }
}

/// What a caller asks of the page allocator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Size of the block.
    pub order: Order,
    /// How to get it.
    pub gfp: Gfp,
    /// The node to start from; the caller's own if None.
    pub node: Option<NodeId>,
}

impl Request {
    /// A block of `order`, from the caller's node on.
    pub const fn new(order: Order, gfp: Gfp) -> Self {
        Self { order, gfp, node: None }
    }

    /// The same from `node` on.
    #[must_use]
    pub const fn on(self, node: NodeId) -> Self {
        Self { node: Some(node), ..self }
    }
}

/// An allocated block: its first frame and its size. Plain data; giving it to
/// `free_pages` twice is caught there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Page {
    /// The first frame.
    pub pfn: Pfn,
    /// The size.
    pub order: Order,
}

/// Why there was no memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AllocError {
    /// The request contradicts itself, or its order is too large.
    Invalid(&'static str),
    /// Nothing above the watermark that the caller has to respect, or nothing
    /// of that order, and nothing more may be tried.
    NoMemory,
    /// Fault injection said so.
    Injected,
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(why) => write!(f, "invalid request: {why}"),
            Self::NoMemory => f.write_str("out of memory"),
            Self::Injected => f.write_str("failure injected"),
        }
    }
}

impl From<BadGfp> for AllocError {
    fn from(bad: BadGfp) -> Self {
        Self::Invalid(bad.0)
    }
}

impl core::error::Error for AllocError {}

/// Why a free was refused. The allocator has changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FreeError {
    /// The frame is not RAM the manager has.
    NotManaged,
    /// The block is free already.
    DoubleFree,
    /// The frame is in the middle of somebody's block.
    NotHead,
    /// The block has another order.
    WrongOrder {
        /// The order it has.
        is: Order,
    },
    /// The page belongs to somebody who frees it in another way (a slab, a
    /// driver, firmware).
    WrongOwner,
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotManaged => f.write_str("not a managed page"),
            Self::DoubleFree => f.write_str("double free"),
            Self::NotHead => f.write_str("not the first page of a block"),
            Self::WrongOrder { is } => write!(f, "the block is of order {is}"),
            Self::WrongOwner => f.write_str("owned by another"),
        }
    }
}

impl core::error::Error for FreeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_of_gfp() {
        assert_eq!(Gfp::KERNEL.zone(), Ok(ZoneKind::Normal));
        assert_eq!((Gfp::KERNEL | Gfp::MOVABLE).zone(), Ok(ZoneKind::Normal));
        assert_eq!((Gfp::KERNEL | Gfp::HIGHMEM).zone(), Ok(ZoneKind::Normal));
        assert_eq!(Gfp::HIGHUSER_MOVABLE.zone(), Ok(ZoneKind::Movable));
        assert_eq!((Gfp::KERNEL | Gfp::DMA).zone(), Ok(ZoneKind::Dma));
        assert_eq!((Gfp::KERNEL | Gfp::DMA32 | Gfp::MOVABLE).zone(), Ok(ZoneKind::Dma32));
        assert!((Gfp::DMA | Gfp::DMA32).zone().is_err());
        assert!((Gfp::DMA | Gfp::HIGHMEM | Gfp::MOVABLE).zone().is_err());
    }

    #[test]
    fn both_mobilities_are_a_bug() {
        assert!((Gfp::MOVABLE | Gfp::RECLAIMABLE).migratetype().is_err());
    }

    #[test]
    fn who_may_use_reserves() {
        let task = Context { memalloc: true, ..Context::default() };
        let irq = Context { memalloc: true, in_irq: true, ..Context::default() };
        let victim = Context { oom_victim: true, ..Context::default() };
        assert!(!Gfp::ATOMIC.may_use_reserves(Context::default()));
        assert!(Gfp::KERNEL.may_use_reserves(task));
        assert!(Gfp::KERNEL.may_use_reserves(victim));
        assert!(!Gfp::ATOMIC.may_use_reserves(irq));
        assert!((Gfp::ATOMIC | Gfp::MEMALLOC).may_use_reserves(irq));
        assert!(!(Gfp::KERNEL | Gfp::MEMALLOC | Gfp::NOMEMALLOC).may_use_reserves(task));
    }
}
