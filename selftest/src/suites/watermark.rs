//! Watermarks: each right reaches exactly as deep as it should. Tried on the
//! lowest zone, which is small and which nobody else draws from.

use super::{Ground, suite};
use crate::case::{CaseResult, Test};
use crate::hold::{Block, Hoard};
use crate::{check, check_eq, check_ok, skip};
use mm::gfp::AllocFlags;
use mm::platform::Platform;
use mm::types::{NodeId, Order, ZoneKind};
use mm::watermark::DEFAULT_BOOST_FACTOR;
use mm::zone::{Mark, Zone};
use mm::{AllocError, Gfp, Mm, Request};

suite! {
    /// Watermarks and reserves of pages.
    Watermark = "watermark" {
        quick rights_reach_their_depth,
        quick reserve_pages_are_marked,
        quick free_is_not_contiguous,
        quick low_zones_are_kept_back,
    }
}

/// A blocking request that gives up quietly.
const TRY: Gfp = Gfp::KERNEL.union(Gfp::NOWARN).union(Gfp::NORETRY);

/// More blocks than any test takes.
const ALL: u64 = u64::MAX;

/// The least that a zone whose reserves are to be tested keeps back, in pages.
const LEAST_MIN: u64 = 4;

/// Switches boosting off for as long as it lives: boosted marks would move
/// while they are being tested. On a machine so large that the lowest zone's
/// share of the reserves is hardly a page, the marks are raised meanwhile.
pub(super) struct Unboosted<P: Platform> {
    mm: &'static Mm<P>,
    min_free_kb: u64,
}

impl<P: Platform> Unboosted<P> {
    pub(super) fn new(mm: &'static Mm<P>) -> Self {
        mm.set_watermark_boost_factor(0);
        let min_free_kb = mm.min_free_kbytes();
        let mut wanted = min_free_kb;
        if let Some(zone) = mm.zone(NodeId(0), ZoneKind::Dma)
            && zone.marks().min < LEAST_MIN
            && zone.managed() > 0
        {
            wanted = 4 * (LEAST_MIN + 1) * mm.managed_pages() / zone.managed();
        }
        // This clears the boosts there are.
        mm.set_min_free_kbytes(wanted);
        Self { mm, min_free_kb }
    }
}

impl<P: Platform> Drop for Unboosted<P> {
    fn drop(&mut self) {
        self.mm.set_watermark_boost_factor(DEFAULT_BOOST_FACTOR);
        self.mm.set_min_free_kbytes(self.min_free_kb);
    }
}

/// The zone that a DMA request is confined to.
pub(super) fn lowest<P: Platform>(mm: &'static Mm<P>) -> CaseResult<&'static Zone> {
    match mm.zone(NodeId(0), ZoneKind::Dma) {
        Some(zone) if zone.free_pages() > 4 * zone.marks().high => Ok(zone),
        _ => skip!("no memory to speak of in zone DMA"),
    }
}

/// Pages that stay in a zone whose min mark is `min`, for a caller with `flags`.
fn depth(min: u64, flags: AllocFlags) -> u64 {
    // Half of min, and a quarter of that for those who cannot wait.
    let mut left = min;
    if flags.contains(AllocFlags::MIN_RESERVE) {
        left -= left / 2;
        if flags.contains(AllocFlags::NON_BLOCK) {
            left -= left / 4;
        }
    }
    left
}

fn rights_reach_their_depth<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let zone = lowest(mm)?;
    let _unboosted = Unboosted::new(mm);
    let min = zone.mark(Mark::Min);
    let batch = u64::from(zone.pcp_batch());
    let dma = |gfp: Gfp| Request::new(Order(0), gfp | Gfp::DMA | Gfp::NOWARN);
    let at_depth = |what: &str, depth: u64| -> CaseResult {
        // The last refill was allowed above the depth and took up to a batch.
        let free = zone.free_pages();
        check!(
            free <= depth && free + batch > depth,
            "{what} left {free} pages, not {depth} (batch {batch})"
        );
        Ok(())
    };
    let mut hoard = Hoard::new(mm);

    hoard.fill(dma(TRY), ALL);
    at_depth("an ordinary caller", depth(min, AllocFlags::empty()))?;
    check_eq!(hoard.fill(dma(Gfp::NOWAIT), ALL), 0, "pages for one who merely cannot wait");

    let high = AllocFlags::MIN_RESERVE;
    hoard.fill(dma(TRY | Gfp::HIGH), ALL);
    at_depth("an urgent caller", depth(min, high))?;

    hoard.fill(dma(Gfp::ATOMIC), ALL);
    at_depth("an urgent caller who cannot wait", depth(min, high | AllocFlags::NON_BLOCK))?;
    check_eq!(hoard.fill(dma(Gfp::ATOMIC), ALL), 0, "pages more for the same");

    let last = hoard.fill(dma(TRY | Gfp::MEMALLOC), ALL);
    check!(last > 0, "the reserves have nothing for one who may use them all");
    check_eq!(zone.free_pages(), 0, "pages left by one who may use them all");
    let none = [TRY | Gfp::MEMALLOC, TRY | Gfp::MEMALLOC | Gfp::NOMEMALLOC, Gfp::ATOMIC];
    for gfp in none {
        match Block::alloc(mm, dma(gfp)) {
            Err(why) => check_eq!(why, AllocError::NoMemory),
            // Per-CPU lists may still have had a few.
            Ok(block) => hoard.push(block),
        }
    }
    let pages = hoard.pages();
    hoard.release()?;
    mm.drain_all(Some(zone));
    let block = check_ok!(Block::alloc(mm, dma(TRY)));
    check!(!mm.is_pfmemalloc(block.pfn()), "{:?} is still marked", block.pfn());
    t.note(format_args!("{pages} pages taken, min {min}, {last} of them by right of the reserves"));
    Ok(())
}

fn reserve_pages_are_marked<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let zone = lowest(mm)?;
    let _unboosted = Unboosted::new(mm);
    let dma = |order, gfp: Gfp| Request::new(Order(order), gfp | Gfp::DMA | Gfp::NOWARN);
    // The right alone marks nothing.
    for order in [0, 2] {
        let block = check_ok!(Block::alloc(mm, dma(order, TRY | Gfp::MEMALLOC)));
        check!(!mm.is_pfmemalloc(block.pfn()), "marked with {} pages free", zone.free_pages());
    }
    // One large block is kept for the entitled caller to split.
    let large = check_ok!(Block::alloc(mm, dma(4, TRY)));
    let mut hoard = Hoard::new(mm);
    hoard.fill(dma(0, TRY), ALL);
    check_ok!(large.free());
    while zone.free_pages() > zone.mark(Mark::Min) {
        hoard.push(check_ok!(Block::alloc(mm, dma(0, TRY | Gfp::HIGH))));
    }
    for order in [0, 1] {
        let Ok(block) = Block::alloc(mm, dma(order, TRY | Gfp::MEMALLOC)) else { continue };
        let Some(head) = mm.map().head_of(block.pfn()) else { skip!("no head") };
        let last = block.pfn().add(order_pages(order) - 1);
        check!(mm.is_pfmemalloc(block.pfn()), "order {order} is not marked: {:?}", head.1);
        check!(mm.is_pfmemalloc(last), "the last page of order {order} is not marked");
    }
    hoard.release()
}

fn order_pages(order: u8) -> u64 {
    Order(order).pages()
}

fn free_is_not_contiguous<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let zone = lowest(mm)?;
    let _unboosted = Unboosted::new(mm);
    let dma = |order| Request::new(Order(order), TRY | Gfp::DMA);
    let (mut odd, mut even) = (Hoard::new(mm), Hoard::new(mm));
    while let Ok(block) = Block::alloc(mm, dma(0)) {
        if block.pfn().0 & 1 == 0 { even.push(block) } else { odd.push(block) }
    }
    odd.release()?;
    mm.drain_all(Some(zone));
    let free = zone.free_pages();
    check!(free > 2 * zone.mark(Mark::High), "only {free} pages are free");
    // Every second frame is held, so there is no pair. Those below min, which
    // the hoards could not reach, may still hold some.
    let mut pairs = Hoard::new(mm);
    pairs.fill(dma(1), ALL);
    let most = zone.mark(Mark::Min);
    check!(pairs.pages() <= most, "{} pages in pairs, {most} at most", pairs.pages());
    let empty = AllocFlags::empty();
    check!(
        !zone.watermark_ok(Order(10), zone.mark(Mark::Min), ZoneKind::Dma, empty),
        "the check believes in a block of order 10"
    );
    check!(Block::alloc(mm, dma(0)).is_ok(), "no single page with {free} free");
    pairs.release()?;
    even.release()
}

fn low_zones_are_kept_back<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let zone = lowest(mm)?;
    let kept = zone.lowmem_reserve(ZoneKind::Normal);
    if kept == 0 {
        skip!("nothing is kept back");
    }
    if mm.free_pages_total() > super::QUICK_PAGES {
        skip!("more memory than this case may touch");
    }
    let _unboosted = Unboosted::new(mm);
    let mut hoard = Hoard::new(mm);
    hoard.fill(Request::new(Order(0), TRY), ALL);
    let floor = zone.mark(Mark::Min) + kept;
    let free = zone.free_pages();
    check!(
        free + u64::from(zone.pcp_batch()) > floor,
        "{free} pages left in zone DMA, {floor} were to be kept"
    );
    // They are for those who can use no other zone.
    let dma = Request::new(Order(0), TRY | Gfp::DMA);
    let got = hoard.fill(dma, kept / 2);
    check_eq!(got, kept / 2, "pages for a caller who needs them");
    hoard.release()
}
