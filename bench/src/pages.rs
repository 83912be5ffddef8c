//! What pages cost: pairs, batches, bulks. Calls `mm`.

use crate::run::{Bench, MANY, PAGES, SOME, Why};
use core::hint::black_box;
use mm::platform::Platform;
use mm::types::{Order, Pfn};
use mm::{AllocError, Gfp, Mm, Page, Request};

/// Pairs in a window.
const PAIRS: usize = 64;
/// Pages of a bulk.
const BULK: usize = 64;

/// The rows of hot pairs, by order.
const ORDERS: [&str; 11] = [
    "order0", "order1", "order2", "order3", "order4", "order5", "order6", "order7", "order8",
    "order9", "order10",
];

/// A call, as from another crate: with nothing known of its arguments.
#[inline(never)]
fn alloc<P: Platform>(mm: &Mm<P>, order: Order, gfp: Gfp) -> Result<Page, AllocError> {
    mm.alloc_pages(Request::new(order, gfp))
}

/// As [`alloc`].
#[inline(never)]
fn free<P: Platform>(mm: &Mm<P>, page: Page) -> bool {
    mm.free_pages(page).is_ok()
}

fn give_back<P: Platform>(mm: &Mm<P>, page: Page) -> Result<(), Why> {
    if free(mm, page) { Ok(()) } else { Err(Why::Failed("a free")) }
}

pub(crate) fn run<P: Platform>(bench: &mut Bench<'_, P>) {
    for (order, row) in ORDERS.into_iter().enumerate() {
        pairs(bench, row, Order(order as u8), Gfp::KERNEL);
    }
    pairs(bench, "order0_movable", Order(0), Gfp::HIGHUSER_MOVABLE);
    pairs(bench, "order0_atomic", Order(0), Gfp::ATOMIC);
    batch(bench, ["batch4096_alloc", "batch4096_free"], Order(0), 4096);
    batch(bench, ["batch1024_order3_alloc", "batch1024_order3_free"], Order(3), 1024);
    batch(bench, ["batch64_order9_alloc", "batch64_order9_free"], Order(9), 64);
    bulk(bench, ["bulk64_alloc", "bulk64_free"]);
}

/// A block allocated and freed, again and again.
fn pairs<P: Platform>(bench: &mut Bench<'_, P>, row: &'static str, order: Order, gfp: Gfp) {
    if !bench.wants(&[row]) {
        return;
    }
    let mm = bench.on.mm;
    let cost = bench.meter.each(MANY, PAIRS, || {
        for _ in 0..PAIRS {
            give_back(mm, alloc(mm, order, gfp)?)?;
        }
        Ok(())
    });
    bench.one(row, cost);
}

/// `count` blocks allocated, then all of them freed.
fn batch<P: Platform>(
    bench: &mut Bench<'_, P>,
    rows: [&'static str; 2],
    order: Order,
    count: usize,
) {
    if !bench.wants(&rows) {
        return;
    }
    let mm = bench.on.mm;
    if mm.free_pages_total() < 2 * (order.pages() * count as u64) {
        return bench.one(rows[0], Err(Why::Lacks("memory for a batch")));
    }
    let blocks = &mut bench.scratch.pages[..count.min(PAGES)];
    let alloc_all = |blocks: &mut [Pfn]| {
        for slot in blocks {
            *slot = alloc(mm, order, Gfp::KERNEL)?.pfn;
        }
        Ok(())
    };
    let free_all = |blocks: &mut [Pfn]| {
        for &mut pfn in blocks {
            give_back(mm, Page { pfn, order })?;
        }
        Ok(())
    };
    let costs = bench.meter.in_turn(SOME, count, blocks, alloc_all, |_| (), free_all);
    mm.drain_all(None);
    bench.both(rows, costs);
}

/// Single pages, many at a call.
fn bulk<P: Platform>(bench: &mut Bench<'_, P>, rows: [&'static str; 2]) {
    if !bench.wants(&rows) {
        return;
    }
    let mm = bench.on.mm;
    let alloc_all = |pages: &mut [Pfn]| match mm.alloc_bulk(black_box(Gfp::KERNEL), None, pages) {
        Ok(BULK) => Ok(()),
        _ => Err(Why::Failed("a bulk of pages")),
    };
    let free_all =
        |pages: &mut [Pfn]| mm.free_bulk(pages).map_err(|_| Why::Failed("a bulk of frees"));
    let pages = &mut bench.scratch.pages[..BULK];
    let costs = bench.meter.in_turn(MANY, BULK, pages, alloc_all, |_| (), free_all);
    bench.both(rows, costs);
}
