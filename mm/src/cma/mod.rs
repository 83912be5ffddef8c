//! Contiguous areas (CMA): pageblocks set aside at boot that lend their free
//! pages to movable requests and get them back by moving what is in them. A
//! bitmap says what of an area is allocated as contiguous memory (Linux
//! mm/cma.c). May call: `contig`, and for setting up `early`.

mod bitmap;
mod reserve;

use crate::audit::{AuditError, Auditor};
use crate::boot_slice::BootSlice;
use crate::contig::{ContigError, Purpose, Reason, heads, pageblocks};
use crate::gfp::{FreeError, Gfp, Page};
use crate::mm::Mm;
use crate::page::PageType;
use crate::platform::Platform;
use crate::stats::Event;
use crate::sync::{AtomicU64, Lock, SleepLock};
use crate::types::{MigrateType, Order, Pfn, PfnRange};
use bitmap::Bitmap;
use core::ops::Range;
use core::panic::Location;

/// Areas that a manager can have.
pub const MAX_CMA_AREAS: usize = 8;

/// An area that is to be set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CmaRequest {
    /// Bytes; rounded up to whole pageblocks.
    pub size: u64,
    /// The physical address at which it is to begin, or from which on it may
    /// lie if there is an `end`. Rounded up to a pageblock.
    pub base: Option<u64>,
    /// The physical address before which it has to end.
    pub end: Option<u64>,
    /// Pages that one bit of its bitmap stands for, as an order; 9 at most.
    pub order_per_bit: Order,
}

/// An area of a manager.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CmaId(u8);

impl CmaId {
    /// The area that the command line or the default has set up.
    pub const DEFAULT: Self = Self(0);

    fn purpose(self) -> Purpose {
        Purpose::Area(self.0)
    }
}

/// A contiguous area.
pub struct CmaArea {
    range: PfnRange,
    order_per_bit: Order,
    bitmap: BootSlice<AtomicU64>,
    /// Protects the bitmap; never held while anything else is done.
    lock: Lock<()>,
    /// Had by one of those whom others were in the way of, over all that it does.
    turn: SleepLock<()>,
}

impl CmaArea {
    /// Its frames.
    pub fn range(&self) -> PfnRange {
        self.range
    }

    /// Pages that one bit of its bitmap stands for.
    pub fn order_per_bit(&self) -> Order {
        self.order_per_bit
    }

    fn bits(&self) -> Bitmap<'_> {
        Bitmap::new(&self.bitmap, self.range.pages() >> self.order_per_bit.0)
    }

    /// The frames that a bit stands for.
    fn frames_of(&self, bit: u64) -> PfnRange {
        let first = self.range.start.add(bit << self.order_per_bit.0);
        PfnRange::sized(first, self.order_per_bit.pages())
    }

    /// The bits of `range`, which begins at a bit's first page.
    fn bits_of(&self, range: PfnRange) -> Range<u64> {
        let per_bit = self.order_per_bit.pages();
        let first = (range.start.0 - self.range.start.0) / per_bit;
        first..first + range.pages().div_ceil(per_bit)
    }
}

/// All areas of a manager.
#[derive(Default)]
pub(crate) struct CmaAreas([Option<CmaArea>; MAX_CMA_AREAS]);

impl<P: Platform> Mm<P> {
    /// The contiguous areas that there are.
    pub fn cma_areas(&self) -> impl Iterator<Item = (CmaId, &CmaArea)> {
        let areas = self.cma.0.iter().enumerate();
        areas.filter_map(|(i, area)| Some((CmaId(i as u8), area.as_ref()?)))
    }

    /// One area.
    pub fn cma_area(&self, id: CmaId) -> Option<&CmaArea> {
        self.cma.0.get(usize::from(id.0))?.as_ref()
    }

    /// Pages of an area that are allocated as contiguous memory, in whole bits.
    /// Any context.
    pub fn cma_used(&self, area: &CmaArea) -> u64 {
        let cpu = self.enter();
        let _held = area.lock.lock(&cpu);
        area.bits().count() << area.order_per_bit.0
    }

    /// Allocates `count` contiguous frames from an area, the first at a
    /// physical address aligned to `align`, moving away what movable requests
    /// have put there. Context as for
    /// [`alloc_contig_range`](Self::alloc_contig_range); with DIRECT_RECLAIM it
    /// also waits until others are done with a pageblock that it has to empty,
    /// so it is not to be called by a driver that is moving a page. Never calls
    /// the OOM killer.
    ///
    /// # Errors
    /// See [`ContigError`]; `Invalid` also where there is no such area.
    #[track_caller]
    pub fn cma_alloc(
        &self,
        id: CmaId,
        count: u64,
        align: Order,
        gfp: Gfp,
    ) -> Result<PfnRange, ContigError> {
        let at = Location::caller();
        let area = self.cma_area(id).ok_or(ContigError::Invalid("no such area"))?;
        if count == 0 || align.0 >= 52 {
            return Err(ContigError::Invalid("no pages, or absurdly aligned"));
        }
        let gfp = (gfp | Gfp::RETRY_MAYFAIL) - Gfp::NOFAIL;
        let result = self.search_area(id, area, count, align, gfp, at);
        self.stats.count(match result {
            Ok(_) => Event::CmaAllocSuccess,
            Err(_) => Event::CmaAllocFail,
        });
        result
    }

    fn search_area(
        &self,
        id: CmaId,
        area: &CmaArea,
        count: u64,
        align: Order,
        gfp: Gfp,
        at: &'static Location<'static>,
    ) -> Result<PfnRange, ContigError> {
        let mut error = ContigError::NoMemory;
        let mut contended = false;
        let mut start = 0;
        let mut turn = None;
        loop {
            let Some(range) = self.claim(area, start, count, align) else {
                if !contended || !gfp.can_block() {
                    return Err(error);
                }
                // Others are emptying blocks that we need; they will be done. Those
                // who wait for each other search again one after the other, or they
                // would be in each other's way again.
                if turn.is_none() {
                    turn = Some(area.turn.write(&self.platform));
                } else {
                    self.platform.stall();
                }
                (contended, start) = (false, 0);
                continue;
            };
            match self.alloc_contig(range, id.purpose(), gfp, at) {
                Ok(range) => return Ok(range),
                Err(why) => {
                    self.unclaim(area, range);
                    let ContigError::Busy(obstacle) = why else { return Err(why) };
                    error = why;
                    contended |= obstacle.why == Reason::Isolated;
                    // All places up to the obstacle hold it too.
                    let past = obstacle.past(range);
                    start = (past.0 - area.range.start.0) >> area.order_per_bit.0;
                    let first = area.bits_of(range).start;
                    start = start.max(first + 1);
                }
            }
        }
    }

    /// Marks the first free bits from bit `start` on that are enough and
    /// aligned as the caller's.
    fn claim(&self, area: &CmaArea, start: u64, count: u64, align: Order) -> Option<PfnRange> {
        let per_bit = area.order_per_bit;
        // In bits; what is aligned is the frame's number, not the bit's.
        let mask = (1 << align.0.saturating_sub(per_bit.0)) - 1;
        let offset = (area.range.start.0 & (align.pages() - 1)) >> per_bit.0;
        let nr = count.div_ceil(per_bit.pages());
        let cpu = self.enter();
        let _held = area.lock.lock(&cpu);
        let bit = area.bits().find_clear(start, nr, mask, offset)?;
        area.bits().set(bit..bit + nr);
        Some(PfnRange::sized(area.range.start.add(bit << per_bit.0), count))
    }

    fn unclaim(&self, area: &CmaArea, range: PfnRange) {
        let bits = area.bits_of(range);
        let cpu = self.enter();
        let _held = area.lock.lock(&cpu);
        area.bits().clear(bits.clone());
        if self.taken_pages() > 0 {
            // All that the bits stand for: more than the range if its last is not full.
            let all = PfnRange::new(range.start, range.end.align_up(area.order_per_bit));
            let bad = heads(&self.map, all).filter(|(_, word)| word.ty() == PageType::Poisoned);
            bad.for_each(|(pfn, _)| area.bits().set(area.bits_of(PfnRange::sized(pfn, 1))));
        }
    }

    /// The area that a frame lies in, and the bit that stands for it.
    fn cma_bit(&self, pfn: Pfn) -> Option<(CmaId, &CmaArea, u64)> {
        let (id, area) = self.cma_areas().find(|(_, area)| area.range.contains(pfn))?;
        Some((id, area, (pfn.0 - area.range.start.0) >> area.order_per_bit.0))
    }

    /// Whom a contiguous range at `pfn` is for, if it lies in an area.
    pub(crate) fn cma_purpose(&self, pfn: Pfn) -> Option<Purpose> {
        self.cma_bit(pfn).map(|(id, ..)| id.purpose())
    }

    /// Keeps a frame that is out of use from being searched for.
    pub(crate) fn cma_withhold(&self, pfn: Pfn) {
        let Some((_, area, bit)) = self.cma_bit(pfn) else { return };
        let cpu = self.enter();
        let _held = area.lock.lock(&cpu);
        area.bits().set(bit..bit + 1);
    }

    /// Ends what [`cma_withhold`](Self::cma_withhold) began.
    pub(crate) fn cma_relent(&self, pfn: Pfn) {
        let Some((id, area, bit)) = self.cma_bit(pfn) else { return };
        let cpu = self.enter();
        let _held = area.lock.lock(&cpu);
        if !self.has_contig(id, area.frames_of(bit)) && !self.has_bad(area, bit) {
            area.bits().clear(bit..bit + 1);
        }
    }

    /// Whether a frame that a bit stands for is out of use for good.
    fn has_bad(&self, area: &CmaArea, bit: u64) -> bool {
        heads(&self.map, area.frames_of(bit)).any(|(_, word)| word.ty() == PageType::Poisoned)
    }

    /// Gives back what [`cma_alloc`](Self::cma_alloc) returned, or a part of it
    /// that shares no bit of the bitmap with the rest. From any context.
    ///
    /// # Errors
    /// Anything else is refused: nothing has changed then but a counter and a
    /// line in the log.
    pub fn cma_release(&self, id: CmaId, range: PfnRange) -> Result<(), FreeError> {
        let refuse = |why| {
            let page = Page { pfn: range.start, order: Order::for_pages(range.pages()) };
            Err(self.refuse(page, why))
        };
        let Some(area) = self.cma_area(id) else { return refuse(FreeError::NotManaged) };
        if range.is_empty() || range.intersect(area.range) != range {
            return refuse(FreeError::NotManaged);
        }
        if !self.owns_its_bits(id, area, range) {
            return refuse(FreeError::NotHead);
        }
        self.free_contig(range, id.purpose())?;
        self.unclaim(area, range);
        Ok(())
    }

    /// Whether no page of the same area lies beside `range` in one of its bits.
    fn owns_its_bits(&self, id: CmaId, area: &CmaArea, range: PfnRange) -> bool {
        let per_bit = area.order_per_bit;
        let rest = PfnRange::new(range.end, range.end.align_up(per_bit));
        range.start.is_aligned(per_bit) && !self.has_contig(id, rest)
    }

    /// Whether some page of `range` is allocated from the area.
    fn has_contig(&self, id: CmaId, range: PfnRange) -> bool {
        heads(&self.map, range).any(|(pfn, word)| {
            word.ty() == PageType::Contig && self.map.page(pfn).private() == id.purpose().tag()
        })
    }

    /// Every bitmap says what the descriptors say, and the areas' pageblocks
    /// are of the areas' type.
    pub(crate) fn audit_cma(&self, auditor: &mut Auditor) -> Result<(), AuditError> {
        for (id, area) in self.cma_areas() {
            for block in pageblocks(area.range) {
                let info = self.map.block(block);
                let ty = match info.migratetype() {
                    MigrateType::Isolate => info.restore_type(),
                    ty => ty,
                };
                auditor.holds("type of an area's block", block, ty == MigrateType::Cma)?;
            }
            let (bits, per_bit) = (area.bits(), area.order_per_bit);
            for bit in 0..area.range.pages() >> per_bit.0 {
                let frames = area.frames_of(bit);
                let used = self.has_contig(id, frames) || self.has_bad(area, bit);
                auditor.equal(
                    "bit of an area",
                    Some(frames.start),
                    u64::from(used),
                    u64::from(bits.is_set(bit)),
                )?;
            }
        }
        Ok(())
    }
}
