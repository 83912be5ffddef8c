//! Contiguous areas: lent to movable pages, to nobody else, and had back whole.

use super::contig::Range;
use super::{Ground, suite};
use crate::case::{CaseResult, Level, Test};
use crate::herd::Herd;
use crate::hold::{Block, Held, Hoard};
use crate::{check, check_eq, check_ok, fail, skip};
use mm::cma::CmaId;
use mm::contig::ContigError;
use mm::page::PageType;
use mm::platform::Platform;
use mm::types::{MAX_ORDER, MigrateType, Order, PAGEBLOCK_PAGES, Pfn, PfnRange, ZoneKind};
use mm::zone::Zone;
use mm::{Gfp, Mm, Request};

suite! {
    /// Contiguous areas.
    Cma = "cma" {
        quick ranges_of_an_area,
        quick only_movable_pages_are_lent_to,
        quick filled_and_handed_out_whole,
        quick a_pinned_page_is_worked_around,
        quick wrong_releases_are_refused,
    }
}

const TRY: Gfp = Gfp::KERNEL.union(Gfp::NOWARN).union(Gfp::NORETRY);

/// At once or not at all.
const NOW: Gfp = Gfp::NOWAIT.union(Gfp::NOWARN);

/// Pages of the largest area that is filled at every boot: 64 MiB.
const QUICK_AREA: u64 = 1 << 14;
/// Blocks from this order on are large.
const LARGE: Order = Order(4);
/// Pages of the largest machine of which all else is taken: 64 GiB.
const QUICK_MACHINE: u64 = 1 << 24;

/// The first area of which nothing is allocated.
fn area<P: Platform>(mm: &Mm<P>) -> CaseResult<(CmaId, PfnRange)> {
    let mut unused = mm.cma_areas().filter(|(_, area)| mm.cma_used(area) == 0);
    match unused.next() {
        Some((id, area)) => Ok((id, area.range())),
        None => skip!("no unused area (cma=SIZE makes one)"),
    }
}

/// Fails unless all blocks of the area are lent again.
fn check_lent<P: Platform>(mm: &Mm<P>, area: PfnRange) -> CaseResult {
    let blocks = (area.start.0..area.end.0).step_by(PAGEBLOCK_PAGES as usize).map(Pfn);
    for block in blocks {
        let ty = check_ok!(mm.map().try_block(block)).migratetype();
        check_eq!(ty, MigrateType::Cma, "type of {block:?}");
    }
    Ok(())
}

fn ranges_of_an_area<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let (id, area) = area(mm)?;
    for (pages, align) in [(1, 0), (3, 4), (512, 9), (513, 0), (1000, 5)] {
        if pages > area.pages() / 2 {
            continue;
        }
        let mut range = match Range::of_area(mm, id, pages, Order(align), TRY) {
            Ok(range) => range,
            Err(why) => fail!("{pages} pages of {}, order {align}: {why}", area.pages()),
        };
        let got = range.range();
        check_eq!(got.pages(), pages);
        check!(got.start.is_aligned(Order(align)), "{got:?} is not aligned to order {align}");
        check_eq!(got.intersect(area), got, "part inside the area");
        range.stamp();
        // A second one beside it.
        let mut other = check_ok!(Range::of_area(mm, id, pages, Order(0), TRY));
        check!(other.range().intersect(got).is_empty(), "{:?} overlaps {got:?}", other.range());
        other.stamp();
        range.check()?;
        other.check()?;
        range.free()?;
        other.free()?;
    }
    let too_much = Range::of_area(mm, id, area.pages() + 1, Order(0), TRY).map(|r| r.range());
    check!(too_much.is_err(), "more than the area has: {too_much:?}");
    check_lent(mm, area)
}

/// The class of request that reaches no zone above the area's: what a higher
/// zone may keep back of this one does not count then.
fn class_of<P: Platform>(mm: &Mm<P>, area: PfnRange) -> CaseResult<Gfp> {
    let zone = check_ok!(mm.map().try_block(area.start)).zone_index();
    Ok(match mm.zones()[zone].kind {
        ZoneKind::Dma => Gfp::DMA,
        ZoneKind::Dma32 => Gfp::DMA32,
        ZoneKind::Normal => Gfp::HIGHMEM,
        ZoneKind::Movable => skip!("the area lies in zone Movable, where all pages are lent so"),
    })
}

/// All memory that is not to be lent.
struct Rest<'s, P: Platform> {
    /// Most of it, in blocks that nobody touches: a machine of many GiB would
    /// have to find memory for all of them at its first boot.
    large: Held<'s, 'static, P>,
    small: Hoard<'static, P>,
}

impl<'s, P: Platform> Rest<'s, P> {
    /// Takes it, last what requests of `class` reach beyond others. `slots`
    /// says what was taken.
    fn take(
        mm: &'static Mm<P>,
        level: Level,
        slots: &'s mut [u64],
        class: Gfp,
    ) -> CaseResult<Self> {
        if level < Level::Full && mm.managed_pages() > QUICK_MACHINE {
            skip!("more than 64 GiB are for selftest=full");
        }
        let mut rest = Self { large: Held::new(mm, slots), small: Hoard::new(mm) };
        // Without waiting: nobody is to compact a whole machine for large blocks.
        // Last what is movable and not lent: zone Movable opens to no other.
        let pinned = class | Gfp::MOVABLE | Gfp::PINNED;
        for gfp in [NOW, NOW | class, NOW | pinned] {
            for order in (0..=MAX_ORDER.0).rev().map(Order) {
                let request = Request::new(order, gfp);
                while order >= LARGE && !rest.large.is_full() {
                    let Ok(block) = Block::alloc(mm, request) else { break };
                    rest.large.put(block);
                }
                rest.small.fill(request, u64::MAX);
            }
        }
        mm.drain_all(None);
        for gfp in [TRY | class, TRY | pinned] {
            rest.small.fill(Request::new(Order(0), gfp), u64::MAX);
        }
        Ok(rest)
    }

    fn release(mut self) -> CaseResult {
        while let Some(block) = self.large.take(0) {
            check_ok!(block.free());
        }
        self.small.release()
    }
}

fn only_movable_pages_are_lent_to<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let (_, area) = area(mm)?;
    let class = class_of(mm, area)?;
    let rest = Rest::take(mm, t.level, t.scratch, class)?;
    let free: u64 = mm.zones().iter().map(Zone::free_cma_pages).sum();
    check!(free > area.pages() / 2, "only {free} pages of the area are free");
    for gfp in [NOW, NOW | Gfp::RECLAIMABLE, NOW | Gfp::HIGHMEM | Gfp::MOVABLE | Gfp::PINNED] {
        if let Ok(block) = Block::alloc(mm, Request::new(Order(0), gfp)) {
            check!(!area.contains(block.pfn()), "{gfp:?} got {:?} of the area", block.pfn());
        }
    }
    // What those did get lies on this CPU's lists, and not all of it is the area's.
    mm.drain_all(None);
    let movable = Request::new(Order(0), NOW | class | Gfp::MOVABLE);
    let block = check_ok!(Block::alloc(mm, movable));
    check!(mm.cma_areas().any(|(_, area)| area.range().contains(block.pfn())));
    drop(block);
    rest.release()
}

fn filled_and_handed_out_whole<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let (id, area) = area(mm)?;
    if t.level < Level::Full && area.pages() > QUICK_AREA {
        skip!("an area of more than 64 MiB is for selftest=full");
    }
    let class = class_of(mm, area)?;
    let gfp = NOW | class;
    // Once before: later there will be no memory for the tables.
    let mut herd = Herd::sparse(t.on);
    herd.fill(gfp, area.pages() * 2)?;
    herd.thin(|_| false)?;
    let rest = Rest::take(mm, t.level, t.scratch, class)?;
    herd.fill(gfp, area.pages() * 2)?;
    let lent = herd.count(|pfn| area.contains(pfn))?;
    check!(lent > area.pages() * 3 / 4, "{lent} pages of {} are lent", area.pages());
    rest.release()?;
    mm.drain_all(None);

    let start = t.now_ms();
    let mut range = match Range::of_area(mm, id, area.pages(), Order(0), TRY) {
        Ok(range) => range,
        Err(why) => fail!("the whole area, {lent} pages lent: {why}"),
    };
    let ms = t.now_ms().saturating_sub(start);
    check_eq!(range.range(), area, "frames");
    range.stamp();
    herd.verify()?;
    check_eq!(herd.count(|pfn| area.contains(pfn))?, 0, "pages still in the area");
    range.check()?;
    for pfn in (area.start.0..area.end.0).map(Pfn) {
        let head = check_ok!(mm.map().head_of(pfn)).1;
        check!(head.ty() == PageType::Contig, "{pfn:?} is {head:?}");
    }
    range.free()?;
    t.note(format_args!("{lent} of {} pages were lent, had back in {ms} ms", area.pages()));
    herd.release()?;
    check_lent(mm, area)
}

fn a_pinned_page_is_worked_around<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let Ground { mm, arena, .. } = *t.on;
    let (id, area) = area(mm)?;
    let class = class_of(mm, area)?;
    let mut herd = Herd::sparse(t.on);
    herd.fill(NOW | class, 64)?;
    herd.thin(|_| false)?;
    let rest = Rest::take(mm, t.level, t.scratch, class)?;
    herd.fill(NOW | class, 64)?;
    let inside = herd.find(|pfn| area.contains(pfn))?;
    rest.release()?;
    let Some(handle) = inside else { fail!("none of {} pages is lent", herd.pages()) };
    let pfn = check_ok!(arena.pin(mm, handle));
    let whole = Range::of_area(mm, id, area.pages(), Order(0), TRY).map(|range| range.range());
    let part = Range::of_area(mm, id, area.pages() / 4, Order(0), TRY);
    let place = part.as_ref().map(Range::range);
    check_ok!(arena.unpin(mm, handle));
    check!(matches!(whole, Err(ContigError::Busy(_))), "with a page pinned: {whole:?}");
    let place = check_ok!(place);
    check!(!place.contains(pfn), "{place:?} contains the pinned page");
    drop(part);
    check_ok!(Range::of_area(mm, id, area.pages(), Order(0), TRY)).free()?;
    herd.release()?;
    check_lent(mm, area)
}

fn wrong_releases_are_refused<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    t.note(format_args!("the refusals logged now are provoked"));
    let (id, area) = area(mm)?;
    let mut range = check_ok!(Range::of_area(mm, id, 16, Order(4), TRY));
    range.stamp();
    let got = range.range();
    let refused = [
        mm.cma_release(id, PfnRange::new(got.start, got.end.add(16))).is_err(),
        mm.cma_release(id, PfnRange::sized(area.end, 1)).is_err(),
        mm.cma_release(id, PfnRange::sized(got.start, 0)).is_err(),
        mm.free_contig_range(got).is_err(),
    ];
    check_eq!(refused, [true; 4], "refusals");
    range.check()?;
    range.free()?;
    check!(mm.cma_release(id, got).is_err(), "released twice");
    check_lent(mm, area)
}
