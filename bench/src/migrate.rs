//! What moving a driver's page costs, beyond the copy of its bytes: the price of
//! a pageblock that is full of such pages and has to be emptied, less the price
//! of the same block when it is free, and less what the copies take. Calls
//! `mm`.

use crate::cost::Cost;
use crate::run::{Bench, MANY, MOVABLE, Samples, Why};
use mm::arena::{Handle, MovableArena};
use mm::page::PageType;
use mm::platform::Platform;
use mm::types::{MigrateType, Order, PAGEBLOCK_PAGES, Pfn, PfnRange};
use mm::{Gfp, Mm, Request};

/// Pageblocks to empty at most.
const BLOCKS: usize = 8;
/// Copies in a window.
const COPIES: usize = 16;

pub(crate) fn run<P: Platform>(bench: &mut Bench<'_, P>) {
    const ROWS: [&str; 2] = ["page", "copy"];
    if !bench.wants(&ROWS) {
        return;
    }
    let copy = copying(bench);
    bench.one(ROWS[1], copy);
    if let Ok(Cost(copy)) = copy
        && bench.wants(&ROWS[..1])
    {
        let whole = moving(bench);
        bench.one(ROWS[0], whole.map(|Cost(whole)| Cost(whole.saturating_sub(copy))));
    }
}

/// The copy of a page's bytes.
pub(crate) fn copying<P: Platform>(bench: &Bench<'_, P>) -> Result<Cost, Why> {
    let mm = bench.on.mm;
    let request = Request::new(Order(0), Gfp::KERNEL);
    let (from, to) = (mm.alloc_pages(request)?, mm.alloc_pages(request)?);
    let cost = bench.meter.each(MANY, COPIES, || {
        for _ in 0..COPIES {
            mm.copy_frame(to.pfn, from.pfn);
        }
        Ok(())
    });
    for page in [from, to] {
        mm.free_pages(page).map_err(|_| Why::Failed("a free"))?;
    }
    cost
}

/// Moving a page, all that belongs to it included.
fn moving<P: Platform>(bench: &mut Bench<'_, P>) -> Result<Cost, Why> {
    let (mm, arena) = (bench.on.mm, bench.on.arena);
    if mm.free_pages_total() < 4 * MOVABLE as u64 {
        return Err(Why::Lacks("memory for pages that move"));
    }
    let handles = &mut bench.scratch.handles;
    let mut held = 0;
    let mut failed = None;
    for slot in handles.iter_mut() {
        match arena.alloc(mm, Gfp::HIGHUSER_MOVABLE) {
            Ok(handle) => *slot = handle.to_bits(),
            Err(why) => {
                failed = Some(why.into());
                break;
            }
        }
        held += 1;
    }
    let cost = match failed {
        Some(why) => Err(why),
        None => empty_blocks(bench, arena),
    };
    for &bits in &bench.scratch.handles[..held] {
        arena.free(mm, Handle::from_bits(bits)).map_err(|_| Why::Failed("a movable page"))?;
    }
    let _ = arena.release_tables(mm);
    mm.drain_all(None);
    cost
}

/// Empties pageblocks that are full of movable pages: the price of each page.
fn empty_blocks<P: Platform>(bench: &Bench<'_, P>, arena: &MovableArena<P>) -> Result<Cost, Why> {
    let mm = bench.on.mm;
    debug_assert!(arena.pages() > 0);
    let take =
        |range| bench.meter.window(|| Ok(mm.alloc_contig_range(range, Gfp::KERNEL).map(|_| ())?));
    let give = |range| mm.free_contig_range(range).map_err(|_| Why::Failed("a free"));
    mm.drain_all(None);
    let mut samples = Samples::default();
    let mut from = Pfn(0);
    for _ in 0..BLOCKS {
        let Some(block) = full_block(mm, from) else { break };
        from = block.add(PAGEBLOCK_PAGES);
        let range = PfnRange::sized(block, PAGEBLOCK_PAGES);
        let full = take(range)?;
        give(range)?;
        mm.drain_all(None);
        take(range)?;
        give(range)?;
        let empty = take(range)?;
        give(range)?;
        samples.add(full.saturating_sub(empty));
    }
    if samples.is_empty() {
        return Err(Why::Lacks("a pageblock full of movable pages"));
    }
    Ok(Cost::shared(samples.median(), PAGEBLOCK_PAGES))
}

/// The first pageblock from `from` on that holds movable pages only, and no
/// contiguous area's.
fn full_block<P: Platform>(mm: &Mm<P>, from: Pfn) -> Option<Pfn> {
    let movable =
        |pfn| mm.map().try_page(pfn).is_some_and(|desc| desc.head().ty() == PageType::Movable);
    let mut block = from;
    while block < mm.map().end() {
        let frames = (block.0..block.0 + PAGEBLOCK_PAGES).map(Pfn);
        let ours = mm.map().try_block(block).is_some_and(|info| {
            info.migratetype() == MigrateType::Movable && frames.clone().all(movable)
        });
        if ours {
            return Some(block);
        }
        block = block.add(PAGEBLOCK_PAGES);
    }
    None
}
