//! Contiguous ranges of any size: exactly what was asked for, with what stood
//! in the way moved elsewhere, and everything as it was when it cannot be done.

use super::{Ground, QUICK_PAGES, suite};
use crate::case::{CaseResult, Test};
use crate::herd::Herd;
use crate::hold::WORDS;
use crate::{check, check_eq, check_ok, fail, skip};
use mm::cma::CmaId;
use mm::contig::ContigError;
use mm::page::PageType;
use mm::platform::Platform;
use mm::types::{NodeId, Order, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, Pfn, PfnRange, ZoneKind};
use mm::{FreeError, Gfp, Mm, Request};

suite! {
    /// Contiguous allocation.
    Contig = "contig" {
        quick any_size,
        quick parts_are_given_back,
        quick scattered_pages_make_way,
        quick larger_blocks_make_way,
        quick a_pinned_page_is_in_the_way,
        quick taken_once_only,
        quick impossible_ranges_fail,
        full sixty_four_mib_of_a_half_full_machine,
    }
}

const TRY: Gfp = Gfp::KERNEL.union(Gfp::NOWARN).union(Gfp::NORETRY);

/// A movable page of zone DMA, at once or not at all.
const NOW: Gfp = Gfp::NOWAIT.union(Gfp::NOWARN).union(Gfp::DMA);

/// A contiguous range that a case has.
pub(super) struct Range<P: Platform> {
    mm: &'static Mm<P>,
    range: PfnRange,
    /// The area it is of.
    area: Option<CmaId>,
}

impl<P: Platform> Range<P> {
    fn of(mm: &'static Mm<P>, range: PfnRange, gfp: Gfp) -> Result<Self, ContigError> {
        mm.alloc_contig_range(range, gfp).map(|range| Self { mm, range, area: None })
    }

    fn anywhere(
        mm: &'static Mm<P>,
        pages: u64,
        align: Order,
        gfp: Gfp,
    ) -> Result<Self, ContigError> {
        mm.alloc_contig_pages(pages, align, None, Pfn(0), gfp).map(|range| Self {
            mm,
            range,
            area: None,
        })
    }

    /// Frames of a contiguous area.
    pub(super) fn of_area(
        mm: &'static Mm<P>,
        id: CmaId,
        pages: u64,
        align: Order,
        gfp: Gfp,
    ) -> Result<Self, ContigError> {
        mm.cma_alloc(id, pages, align, gfp).map(|range| Self { mm, range, area: Some(id) })
    }

    /// Its frames.
    pub(super) fn range(&self) -> PfnRange {
        self.range
    }

    /// The first and the last word of each page.
    fn ends(&mut self) -> impl Iterator<Item = (&mut u64, u64)> {
        let first = self.range.start.0;
        let words = WORDS * self.range.pages() as usize;
        // SAFETY: the range is contiguous and this value's alone; the slice
        // lives no longer than the borrow of it.
        let words = unsafe {
            core::slice::from_raw_parts_mut(
                self.mm.platform().frame(self.range.start).cast(),
                words,
            )
        };
        words.iter_mut().zip(0..).filter_map(move |(word, i)| {
            let at = i % WORDS as u64;
            let is_end = at == 0 || at == WORDS as u64 - 1;
            is_end.then_some((word, !(first << 20) ^ i))
        })
    }

    pub(super) fn stamp(&mut self) {
        self.ends().for_each(|(word, own)| *word = own);
    }

    pub(super) fn check(&mut self) -> CaseResult {
        let range = self.range;
        let wrong = self.ends().find(|(word, own)| **word != *own);
        match wrong {
            Some((word, own)) => fail!("{range:?}: {own:#x} became {word:#x}"),
            None => Ok(()),
        }
    }

    pub(super) fn free(self) -> CaseResult {
        let (range, freed) = (self.range, self.try_free());
        core::mem::forget(self);
        check_eq!(freed, Ok(()), "free of {range:?}");
        Ok(())
    }

    fn try_free(&self) -> Result<(), FreeError> {
        match self.area {
            Some(id) => self.mm.cma_release(id, self.range),
            None => self.mm.free_contig_range(self.range),
        }
    }
}

impl<P: Platform> Drop for Range<P> {
    fn drop(&mut self) {
        // A refusal is logged by the manager, and seen by the runner's tally.
        let _ = self.try_free();
    }
}

fn any_size<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let most = (mm.free_pages_total() / 4).min(4096);
    for pages in [1, 2, 3, 511, 512, 513, 700, 1024, 1025, 2500, 4096] {
        let align = Order(t.rng.below(10) as u8);
        if pages > most {
            continue;
        }
        let mut range = match Range::anywhere(mm, pages, align, TRY) {
            Ok(range) => range,
            Err(why) => fail!("{pages} pages aligned to order {align}: {why}"),
        };
        check_eq!(range.range.pages(), pages, "pages");
        check!(range.range.start.is_aligned(align), "{:?}: order {align}", range.range);
        for pfn in (0..pages).map(|i| range.range.start.add(i)) {
            let head = check_ok!(mm.map().head_of(pfn)).1;
            check!(head.ty() == PageType::Contig, "{pfn:?} is {head:?}");
        }
        range.stamp();
        range.check()?;
        range.free()?;
    }
    Ok(())
}

fn parts_are_given_back<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    t.note(format_args!("the refusals logged now are provoked"));
    let whole = check_ok!(mm.alloc_contig_pages(300, Order(0), None, Pfn(0), TRY));
    let part = |from: u64, to: u64| PfnRange::new(whole.start.add(from), whole.start.add(to));
    // Not the caller's to give back: one frame too many on either side.
    let beyond = [part(0, 301), PfnRange::new(Pfn(whole.start.0 - 1), whole.end)];
    let refused = beyond.map(|range| mm.free_contig_range(range).is_err());
    let mut freed = [Ok(()); 4];
    for (result, (from, to)) in freed.iter_mut().zip([(100, 101), (0, 100), (250, 300), (101, 250)])
    {
        *result = mm.free_contig_range(part(from, to));
    }
    check_eq!(freed, [Ok(()); 4], "free of parts");
    check_eq!(refused, [true; 2], "refusal of what is too much");
    check!(mm.free_contig_range(whole).is_err(), "freed twice");
    Ok(())
}

/// Fills zone DMA with movable pages of which it then keeps every second, so
/// that nothing contiguous is left. With it, the pages that are free.
fn half_full<P: Platform>(ground: &Ground<P>) -> CaseResult<(Herd<P>, u64)> {
    let mm = ground.mm;
    let Some(zone) = mm.zone(NodeId(0), ZoneKind::Dma) else { skip!("no zone DMA") };
    if zone.free_pages() < 6 * PAGEBLOCK_PAGES {
        skip!("less than 12 MiB free in zone DMA");
    }
    let mut herd = Herd::sparse(ground);
    herd.fill(NOW, u64::MAX)?;
    herd.thin(|pfn| pfn.0 % 2 == 0)?;
    mm.drain_all(Some(zone));
    Ok((herd, zone.free_pages()))
}

fn scattered_pages_make_way<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let (herd, free) = half_full(t.on)?;
    // Three pageblocks and a bit, aligned to nothing in particular.
    for pages in [free / 3, 700, 33] {
        let mut range = match Range::anywhere(mm, pages, Order(0), TRY | Gfp::DMA) {
            Ok(range) => range,
            Err(why) => fail!("{pages} pages of {free} free ones: {why}"),
        };
        range.stamp();
        herd.verify()?;
        range.check()?;
        range.free()?;
    }
    herd.release()
}

/// A movable block of several pages goes as a whole, with its content.
fn larger_blocks_make_way<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let Ground { mm, arena, .. } = *t.on;
    for order in [Order(1), Order(4), Order(9)] {
        let pages = order.pages();
        if mm.free_pages_total() < 8 * pages {
            continue;
        }
        // Not from a contiguous area, which is nobody else's to have emptied.
        let gfp = TRY | Gfp::MOVABLE | Gfp::HIGHMEM | Gfp::PINNED;
        let request = Request::new(order, gfp);
        let handle = check_ok!(arena.alloc_block(mm, request));
        let was = check_ok!(arena.frame(mm, handle));
        let stamp = |i: u64| (!was.0 << 16 ^ i).to_le_bytes();
        for i in 0..pages {
            check_ok!(arena.with_page(mm, handle, i, |b| b[4088..].copy_from_slice(&stamp(i))));
        }
        let range = Range::of(mm, PfnRange::sized(was.add(pages / 2), pages / 2), TRY);
        let is = check_ok!(arena.frame(mm, handle));
        let mut changed = 0;
        for i in 0..pages {
            changed +=
                check_ok!(arena.with_page(mm, handle, i, |b| u64::from(b[4088..] != stamp(i))));
        }
        check_ok!(arena.free(mm, handle));
        // Others may have pages in it.
        let _ = arena.release_tables(mm);
        check!(range.is_ok(), "half of a block of order {order}: {:?}", range.err());
        check!(is != was && is.is_aligned(order), "order {order}: from {was:?} to {is:?}");
        check_eq!(changed, 0, "pages that have changed, order {order}");
    }
    Ok(())
}

fn a_pinned_page_is_in_the_way<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let Ground { mm, arena, .. } = *t.on;
    let (herd, _) = half_full(t.on)?;
    // With no memory of firmware or kernel above it in its pageblock.
    let free_above = |pfn: Pfn| {
        let end = pfn.pageblock().add(PAGEBLOCK_PAGES);
        (pfn.0 + 1..end.0).all(|above| {
            let word = mm.map().head_of(Pfn(above)).map(|(_, word)| word.ty());
            matches!(word, Some(PageType::Buddy | PageType::Pcp | PageType::Movable))
        })
    };
    let Some(handle) = herd.find(free_above)? else { skip!("no page has free frames above it") };
    let pfn = check_ok!(arena.pin(mm, handle));
    let block = PfnRange::sized(pfn.pageblock(), PAGEBLOCK_PAGES);
    let info = check_ok!(mm.map().try_block(pfn));
    let before = info.migratetype();
    let refused = Range::of(mm, block, TRY).map(|range| range.range);
    let after = info.migratetype();
    // Around it, to the page.
    let above = Range::of(mm, PfnRange::new(pfn.add(1), block.end), TRY).map(drop);
    check_ok!(arena.unpin(mm, handle));
    check!(matches!(refused, Err(ContigError::Busy(_))), "with a pinned page: {refused:?}");
    check_eq!(after, before, "type of the block");
    check_eq!(above, Ok(()), "the frames above {pfn:?}");
    check_eq!(check_ok!(arena.frame(mm, handle)), pfn, "frame of the pinned page");
    match Range::of(mm, block, TRY) {
        Ok(range) => range.free()?,
        // Kernel memory may lie in the same block.
        Err(ContigError::Busy(obstacle)) if obstacle.pfn != pfn => {
            t.note(format_args!("{:?} is {:?}", obstacle.pfn, obstacle.why));
        }
        Err(why) => fail!("{block:?}, nothing pinned: {why}"),
    }
    herd.release()
}

fn taken_once_only<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let first = check_ok!(Range::anywhere(mm, 600, Order(0), TRY));
    let PfnRange { start, end } = first.range;
    for range in [
        first.range,
        PfnRange::sized(start, 1),
        PfnRange::new(Pfn(end.0 - 1), end),
        PfnRange::new(start.pageblock(), end),
    ] {
        match Range::of(mm, range, TRY) {
            Err(ContigError::Busy(_) | ContigError::Invalid(_)) => {}
            Err(why) => fail!("{range:?} in {:?}: {why}", first.range),
            Ok(again) => fail!("{:?} was handed out in {:?}", again.range, first.range),
        }
    }
    first.free()
}

fn impossible_ranges_fail<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let end = mm.map().end();
    let border = PfnRange::new(Pfn(mm::setup::DMA_END.0 - 1), mm::setup::DMA_END.add(1));
    for range in [
        PfnRange::new(Pfn(512), Pfn(512)),
        PfnRange::new(Pfn(512), Pfn(511)),
        PfnRange::new(Pfn(end.0 - 1), end.add(1)),
        PfnRange::new(end, end.add(1)),
        border,
    ] {
        let result = Range::of(mm, range, TRY).map(|range| range.range);
        check!(matches!(result, Err(ContigError::Invalid(_))), "{range:?}: {result:?}");
    }
    for (pages, align) in [(0, 0), (u64::MAX, 0), (1, 63), (end.0 + 1, 0)] {
        let result = Range::anywhere(mm, pages, Order(align), TRY).map(|range| range.range);
        check!(result.is_err(), "{pages} pages, order {align}: {result:?}");
    }
    Ok(())
}

/// Half of the machine's memory in scattered pages, and one range of 64 MiB.
fn sixty_four_mib_of_a_half_full_machine<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let (free, wanted) = (mm.free_pages_total(), (64 << 20) >> 12);
    if free < 6 * wanted {
        skip!("{} MiB free: too little", free >> 8);
    }
    if free > 4 * QUICK_PAGES {
        skip!("{} MiB free: too much to fill", free >> 8);
    }
    let mut herd = Herd::sparse(t.on);
    herd.fill(Gfp::HIGHMEM | Gfp::NOWAIT | Gfp::NOWARN, u64::MAX)?;
    herd.thin(|pfn| pfn.0 % 2 == 0)?;
    mm.drain_all(None);
    let blocks: u64 =
        mm.zones().iter().map(|zone| mm.free_block_counts(zone).suitable(PAGEBLOCK_ORDER)).sum();
    let start = t.now_ms();
    let mut range = match Range::anywhere(mm, wanted, PAGEBLOCK_ORDER, TRY) {
        Ok(range) => range,
        Err(why) => fail!("64 MiB with {} pages in the way: {why}", herd.pages()),
    };
    let ms = t.now_ms().saturating_sub(start);
    range.stamp();
    herd.verify()?;
    range.check()?;
    t.note(format_args!("{} pages held, {blocks} blocks of order 9 free: {ms} ms", herd.pages()));
    range.free()?;
    herd.release()
}
