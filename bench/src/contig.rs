//! What contiguous ranges cost when nothing has to be moved for them. Calls
//! `mm`.

use crate::run::{Bench, SOME, Why};
use core::hint::black_box;
use mm::cma::CmaId;
use mm::contig::ContigError;
use mm::platform::Platform;
use mm::types::{Order, PAGEBLOCK_ORDER, Pfn, PfnRange};
use mm::{Gfp, Mm};

/// Pages of a range.
const PAGES: u64 = 512;

impl From<ContigError> for Why {
    fn from(_: ContigError) -> Self {
        Self::Failed("a contiguous range")
    }
}

pub(crate) fn run<P: Platform>(bench: &mut Bench<'_, P>) {
    a_free_range(bench, ["alloc512", "free512"]);
    any_range(bench, ["pages512_alloc", "pages512_free"]);
}

/// A range of 512 pages that are free. `min_pfn` keeps it out of zone DMA.
fn find_range<P: Platform>(mm: &Mm<P>) -> Result<PfnRange, Why> {
    Ok(mm.alloc_contig_pages(PAGES, PAGEBLOCK_ORDER, None, Pfn(0), Gfp::KERNEL)?)
}

fn give_back<P: Platform>(mm: &Mm<P>, range: PfnRange) -> Result<(), Why> {
    mm.free_contig_range(range).map_err(|_| Why::Failed("a free"))
}

/// One pageblock, all of it free, by its address.
fn a_free_range<P: Platform>(bench: &mut Bench<'_, P>, rows: [&'static str; 2]) {
    if !bench.wants(&rows) {
        return;
    }
    let (mm, meter) = (bench.on.mm, bench.meter);
    let costs = find_range(mm).and_then(|range| {
        give_back(mm, range)?;
        mm.drain_all(None);
        meter.in_turn(
            SOME,
            1,
            &mut (),
            |()| Ok(mm.alloc_contig_range(black_box(range), Gfp::KERNEL).map(|_| ())?),
            |()| (),
            |()| give_back(mm, black_box(range)),
        )
    });
    bench.both(rows, costs);
}

/// 512 pages wherever they are.
fn any_range<P: Platform>(bench: &mut Bench<'_, P>, rows: [&'static str; 2]) {
    if !bench.wants(&rows) {
        return;
    }
    let mm = bench.on.mm;
    mm.drain_all(None);
    let costs = bench.meter.in_turn(
        SOME,
        1,
        &mut PfnRange::default(),
        |range| {
            *range = mm.alloc_contig_pages(PAGES, Order(0), None, Pfn(0), Gfp::KERNEL)?;
            Ok(())
        },
        |_| (),
        |range| give_back(mm, *range),
    );
    bench.both(rows, costs);
}

/// The default area.
pub(crate) fn run_cma<P: Platform>(bench: &mut Bench<'_, P>) {
    for (rows, count) in [
        (["alloc1", "release1"], 1),
        (["alloc64", "release64"], 64),
        (["alloc512", "release512"], PAGES),
    ] {
        if bench.wants(&rows) {
            let costs = area(bench, count);
            bench.both(rows, costs);
        }
    }
}

fn area<P: Platform>(bench: &Bench<'_, P>, count: u64) -> Result<(crate::Cost, crate::Cost), Why> {
    let mm = bench.on.mm;
    if mm.cma_area(CmaId::DEFAULT).is_none() {
        return Err(Why::Lacks("a contiguous area"));
    }
    mm.drain_all(None);
    bench.meter.in_turn(
        SOME,
        1,
        &mut PfnRange::default(),
        |range| {
            *range = mm.cma_alloc(CmaId::DEFAULT, black_box(count), Order(0), Gfp::KERNEL)?;
            Ok(())
        },
        |_| (),
        |range| mm.cma_release(CmaId::DEFAULT, *range).map_err(|_| Why::Failed("a release")),
    )
}
