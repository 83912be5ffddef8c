//! Compaction: large blocks out of scattered pages, with every byte right.
//! Tried on the lowest zone, which is small: the whole of it can be filled.

use super::{Ground, QUICK_PAGES, blocks_of, suite};
use crate::case::{CaseResult, Test};
use crate::herd::Herd;
use crate::hold::{Block, Hoard};
use crate::{check, check_eq, check_ok, fail, skip};
use mm::page::PageType;
use mm::platform::Platform;
use mm::types::{NodeId, Order, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, Pfn, ZoneKind};
use mm::zone::Zone;
use mm::{Gfp, Mm, Request};

suite! {
    /// Compaction.
    Compaction = "compaction" {
        quick a_zone_is_made_whole,
        quick a_request_makes_its_block,
        quick pinned_pages_stay_where_they_are,
        quick a_full_zone_is_left_alone,
        full a_large_zone_is_made_whole,
    }
}

/// A movable page, at once or not at all.
const NOW: Gfp = Gfp::NOWAIT.union(Gfp::NOWARN);

/// The zone that DMA requests are confined to, if it has room to speak of.
fn lowest<P: Platform>(mm: &'static Mm<P>) -> CaseResult<&'static Zone> {
    match mm.zone(NodeId(0), ZoneKind::Dma) {
        Some(zone) if zone.free_pages() >= 4 * PAGEBLOCK_PAGES => Ok(zone),
        _ => skip!("less than 8 MiB free in zone DMA"),
    }
}

/// Blocks of order 9 that could be cut from what is free.
fn huge<P: Platform>(mm: &Mm<P>, zone: &Zone) -> u64 {
    mm.free_block_counts(zone).suitable(PAGEBLOCK_ORDER)
}

/// Pageblocks of `zone` in which nothing stands in the way.
fn clean_blocks<P: Platform>(mm: &Mm<P>, zone: &Zone) -> u64 {
    let moves = |ty| matches!(ty, PageType::Buddy | PageType::Pcp | PageType::Movable);
    let clean = blocks_of(mm, zone.index()).filter(|&block| {
        let frames = (block.0..block.0 + PAGEBLOCK_PAGES).map(Pfn);
        frames.map(|pfn| mm.map().head_of(pfn)).all(|head| head.is_some_and(|h| moves(h.1.ty())))
    });
    clean.count() as u64
}

/// Fills what `gfp` reaches with movable pages, then frees all but every
/// `keep`-th frame: no block of order 9 is left in `zone`.
fn scatter<P: Platform>(
    ground: &Ground<P>,
    zone: &Zone,
    gfp: Gfp,
    mut herd: Herd<P>,
    keep: u64,
) -> CaseResult<Herd<P>> {
    herd.fill(gfp, u64::MAX)?;
    herd.thin(|pfn| pfn.0 % keep == 0)?;
    ground.mm.drain_all(None);
    // What the watermark kept from being filled may still hold one.
    if huge(ground.mm, zone) > 0 {
        skip!("{} blocks of order 9 cannot be broken", huge(ground.mm, zone));
    }
    Ok(herd)
}

/// Compacts a scattered zone and says how it went.
fn compact<P: Platform>(
    t: &mut Test<'_, Ground<P>>,
    zone: &Zone,
    gfp: Gfp,
    herd: Herd<P>,
    keep: u64,
) -> CaseResult {
    let mm = t.on.mm;
    let herd = scatter(t.on, zone, gfp, herd, keep)?;
    let index = mm.free_block_counts(zone).fragmentation_index(PAGEBLOCK_ORDER);
    check!(index > 500, "index {index}: it is not fragmentation that lacks a block");
    // What is kept fills some of them, and the scanners meet in one.
    let blocks = clean_blocks(mm, zone);
    let possible = blocks.saturating_sub(herd.pages().div_ceil(PAGEBLOCK_PAGES) + 1);
    let start = t.now_ms();
    let done = mm.compact_whole_zone(zone);
    let ms = t.now_ms().saturating_sub(start);
    herd.verify()?;
    let made = huge(mm, zone);
    t.note(format_args!(
        "1 of {keep} kept: {} moved, {} failed; {made} of {blocks} blocks made whole in {ms} ms",
        done.moved, done.failed
    ));
    check!(made >= possible, "{made} blocks of {possible} possible");
    check!(done.moved > 0, "nothing was moved");
    herd.release()
}

fn a_zone_is_made_whole<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let zone = lowest(t.on.mm)?;
    compact(t, zone, NOW | Gfp::DMA, Herd::thorough(t.on), 2)?;
    compact(t, zone, NOW | Gfp::DMA, Herd::sparse(t.on), 4)
}

fn a_large_zone_is_made_whole<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let kinds = [ZoneKind::Movable, ZoneKind::Normal, ZoneKind::Dma32];
    let zone = kinds.iter().filter_map(|&kind| mm.zone(NodeId(0), kind));
    let Some(zone) = zone.max_by_key(|zone| zone.managed()) else { skip!("no such zone") };
    if mm.free_pages_total() > 4 * QUICK_PAGES {
        skip!("more than 1 GiB to fill");
    }
    if zone.free_pages() < 8 * PAGEBLOCK_PAGES {
        skip!("{} is too small", zone.kind.name());
    }
    for keep in [2, 3, 8] {
        compact(t, zone, NOW | Gfp::HIGHMEM, Herd::sparse(t.on), keep)?;
    }
    Ok(())
}

fn a_request_makes_its_block<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let zone = lowest(mm)?;
    let herd = scatter(t.on, zone, NOW | Gfp::DMA, Herd::sparse(t.on), 4)?;
    let gfp = Gfp::KERNEL | Gfp::DMA | Gfp::MOVABLE | Gfp::NOWARN | Gfp::RETRY_MAYFAIL;
    for order in [9, 6, 4].map(Order) {
        match Block::alloc(mm, Request::new(order, gfp)) {
            Ok(mut block) => {
                block.stamp(u64::from(order.0));
                herd.verify()?;
                block.check_stamp(u64::from(order.0))?;
                check_ok!(block.free());
            }
            Err(why) => fail!("order {order}: {why}, {} free", zone.free_pages()),
        }
    }
    herd.release()
}

fn pinned_pages_stay_where_they_are<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let Ground { mm, arena, .. } = *t.on;
    let zone = lowest(mm)?;
    let herd = scatter(t.on, zone, NOW | Gfp::DMA, Herd::sparse(t.on), 4)?;
    // The page that was put in last lies low, where compaction moves from.
    let handle = check_ok!(herd.top());
    let pinned = check_ok!(arena.pin(mm, handle));
    let done = mm.compact_whole_zone(zone);
    let after = arena.frame(mm, handle);
    check_ok!(arena.unpin(mm, handle));
    check_eq!(after, Ok(pinned), "frame of the pinned page");
    check!(done.moved > 0, "nothing else was moved");
    herd.verify()?;
    herd.release()
}

fn a_full_zone_is_left_alone<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let zone = lowest(mm)?;
    let mut herd = Herd::sparse(t.on);
    herd.fill(NOW | Gfp::DMA, u64::MAX)?;
    let mut rest = Hoard::new(mm);
    rest.fill(Request::new(Order(0), NOW | Gfp::DMA | Gfp::MEMALLOC), u64::MAX);
    let done = mm.compact_whole_zone(zone);
    check_eq!(done.moved, 0, "pages moved with {} free", zone.free_pages());
    herd.verify()?;
    rest.release()?;
    herd.release()
}
