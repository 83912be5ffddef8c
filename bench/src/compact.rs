//! Compaction of memory as programs have it: all of a machine's is touched, some
//! pages in a row are forgotten and some kept, again and again; then all zones
//! are compacted once, as `compact_memory` does. What that costs for each page
//! moved beyond the copy of its bytes, how many pages are moved for each block of
//! 2 MiB that is gained, and how many of the blocks that what is free would make
//! are not there afterwards, in percent. Calls `mm`.

use crate::cost::Cost;
use crate::fault::Guest;
use crate::migrate::copying;
use crate::run::{Bench, Why};
use mm::platform::Platform;
use mm::space::{Access, HugePages};
use mm::stats::Event;
use mm::types::{MAX_ORDER, PAGEBLOCK_ORDER};
use mm::{Gfp, Mm, Page, Request};

/// Of each row of pages, how many are kept.
struct Density {
    kept: u64,
    of: u64,
    rows: [&'static str; 3],
}

const DENSITIES: [Density; 4] = [
    Density { kept: 1, of: 2, rows: ["half", "half_moved", "half_lost"] },
    Density { kept: 1, of: 8, rows: ["eighth", "eighth_moved", "eighth_lost"] },
    Density { kept: 3, of: 4, rows: ["quarters", "quarters_moved", "quarters_lost"] },
    Density { kept: 7, of: 8, rows: ["eighths", "eighths_moved", "eighths_lost"] },
];

/// Pages for page tables and others, of each hundred that are free.
const LEFT: u64 = 20;

pub(crate) fn run<P: Platform>(bench: &mut Bench<'_, P>) {
    for density in &DENSITIES {
        if !bench.wants(&density.rows) {
            continue;
        }
        let mut costs = Err(Why::Lacks("memory to be fragmented"));
        let taken = take_rest(bench);
        if bench.on.mm.free_pages_total() > 4 * PAGEBLOCK_ORDER.pages() {
            costs = experiment(bench, density);
        }
        give_rest(bench, taken);
        match costs {
            Ok(costs) => {
                for (row, cost) in density.rows.into_iter().zip(costs) {
                    bench.report(row, cost);
                }
            }
            Err(why) => bench.one(density.rows[0], Err(why)),
        }
    }
}

/// Takes memory away, in the largest blocks, until the machine is as small as it
/// is to be; returns how many blocks.
fn take_rest<P: Platform>(bench: &mut Bench<'_, P>) -> usize {
    let mm = bench.on.mm;
    mm.drain_all(None);
    let request = Request::new(MAX_ORDER, Gfp::KERNEL | Gfp::NOWARN | Gfp::NORETRY);
    let mut taken = 0;
    while mm.free_pages_total() > bench.on.most
        && let Some(slot) = bench.scratch.pages.get_mut(taken)
        && let Ok(page) = mm.alloc_pages(request)
    {
        *slot = page.pfn;
        taken += 1;
    }
    taken
}

fn give_rest<P: Platform>(bench: &Bench<'_, P>, taken: usize) {
    for &pfn in &bench.scratch.pages[..taken] {
        // What an allocation has returned can be freed.
        let _ = bench.on.mm.free_pages(Page { pfn, order: MAX_ORDER });
    }
}

/// Blocks of 2 MiB that are free, and those that as many free pages make.
fn blocks<P: Platform>(mm: &Mm<P>) -> (u64, u64) {
    let there = mm.zones().iter().map(|z| mm.free_block_counts(z).suitable(PAGEBLOCK_ORDER)).sum();
    let possible = mm.zones().iter().map(|z| z.free_pages() / PAGEBLOCK_ORDER.pages()).sum();
    (there, possible)
}

fn experiment<P: Platform>(bench: &Bench<'_, P>, density: &Density) -> Result<[Cost; 3], Why> {
    let mm = bench.on.mm;
    let Cost(copy) = copying(bench)?;
    let pages = mm.free_pages_total() * (100 - LEFT) / 100;
    let guest = Guest::new(bench, pages, HugePages::Never)?;
    guest.touch(pages, Access::Write)?;
    for row in 0..pages / density.of {
        guest.forget(row * density.of + density.kept, density.of - density.kept)?;
    }
    let moved = |mm: &Mm<P>| mm.stats().get(Event::MigrateSuccess);
    let (before, moved_before) = (blocks(mm).0, moved(mm));
    let cost = bench.meter.window(|| {
        mm.compact_memory(None);
        Ok(())
    })?;
    let moved = moved(mm) - moved_before;
    mm.drain_all(None);
    let (after, possible) = blocks(mm);
    let Cost(each) = Cost::shared(cost, moved);
    let gained = after.saturating_sub(before);
    Ok([
        Cost(each.saturating_sub(copy)),
        Cost::shared(moved, gained),
        Cost::shared(100 * possible.saturating_sub(after), possible),
    ])
}
