//! Blocks of a type that not everybody may have: what is freed in them is that
//! type's again, whichever CPU frees it and whatever happens to the block
//! meanwhile.

use crate::run::explore;
use crate::stage::{Fault, Part, Play};
use mm::cma::{CmaId, CmaRequest};
use mm::types::{Order, PfnRange};
use mm::{Config, Gfp, Page};
use std::sync::Mutex;

const CMA: CmaId = CmaId::DEFAULT;
const MOVABLE: Gfp = Gfp::HIGHUSER_MOVABLE;

/// A machine with an area of 4 MiB.
fn with_area() -> (Play, PfnRange) {
    let mut config = Config::default();
    config.cma[0] =
        Some(CmaRequest { size: 4 << 20, base: None, end: None, order_per_bit: Order(0) });
    let play = Play::with(16, 3, 1, &config, Fault::None);
    let area = play.mm.cma_area(CMA).expect("the area").range();
    (play, area)
}

fn inside(area: PfnRange, page: Page) -> bool {
    !area.intersect(PfnRange::sized(page.pfn, page.order.pages())).is_empty()
}

/// Pages lent out of the area are freed by one CPU while another wants the area
/// back and a third one allocates what must not come from there.
#[test]
fn a_free_into_an_area_against_its_allocation() {
    explore(|| {
        let (play, area) = with_area();
        // Movable requests take from the area once it is most of what is free.
        let mut held = Vec::new();
        let lent = loop {
            let page = play.alloc(0, MOVABLE).expect("a page");
            if inside(area, page) {
                break page;
            }
            held.push(page);
            held.extend(play.alloc(9, Gfp::KERNEL));
        };
        let lent = [lent, play.alloc(0, MOVABLE).expect("a page")];
        let freer = || {
            lent.into_iter().for_each(|page| play.free(page));
            let page = play.alloc(0, MOVABLE).expect("a page");
            play.free(page);
        };
        let taker = || {
            let got = play.mm.cma_alloc(CMA, 8, Order(0), Gfp::KERNEL | Gfp::NOWARN);
            if let Ok(range) = got {
                assert_eq!(range.intersect(area), range);
                play.own(range);
                play.disown(range);
                play.mm.cma_release(CMA, range).expect("a held range");
            }
        };
        let other = || {
            let pages = [0, 0, 3].map(|order| play.alloc(order, Gfp::KERNEL));
            for page in pages.into_iter().flatten() {
                assert!(!inside(area, page), "{page:?} would pin the area");
                play.free(page);
            }
        };
        play.act([Box::new(freer) as Part<'_>, Box::new(taker), Box::new(other)]);
        held.into_iter().for_each(|page| play.free(page));
        play.end();
    });
}

/// Two CPUs allocate from the same area, bits beside each other.
#[test]
fn two_allocations_from_an_area() {
    explore(|| {
        let (play, area) = with_area();
        let held = Mutex::new(Vec::new());
        let taker = || {
            let gfp = Gfp::KERNEL | Gfp::NOWARN;
            let range = play.mm.cma_alloc(CMA, 400, Order(0), gfp).expect("room for both");
            assert_eq!(range.intersect(area), range);
            play.own(range);
            held.lock().expect("no panic").push(range);
        };
        play.act([Box::new(taker) as Part<'_>, Box::new(taker)]);
        play.whole();
        for range in held.into_inner().expect("no panic") {
            play.disown(range);
            play.mm.cma_release(CMA, range).expect("a held range");
        }
        play.end();
    });
}

/// An urgent request makes a block HighAtomic whose pages others have, free and
/// allocate; then the block goes back to them.
#[test]
fn frees_into_a_block_that_becomes_high_atomic() {
    explore(|| {
        let play = Play::new(256, 2);
        let mm = &play.mm;
        let pages = [0, 0, 2].map(|order| play.alloc(order, Gfp::KERNEL).expect("a block"));
        // Every request enters the slow path: low lies above what is free.
        mm.set_min_free_kbytes(mm.managed_pages() * 4 * 85 / 100);
        let urgent = || {
            if let Some(page) = play.alloc(1, Gfp::ATOMIC) {
                play.free(page);
            }
        };
        let freer = || {
            pages.into_iter().for_each(|page| play.free(page));
            if let Some(page) = play.alloc(0, Gfp::KERNEL | Gfp::NORETRY) {
                play.free(page);
            }
        };
        play.act([Box::new(urgent) as Part<'_>, Box::new(freer)]);
        play.whole();
        let reserved: u64 = mm.zones().iter().map(mm::zone::Zone::reserved_highatomic).sum();
        assert!(reserved > 0, "a block was reserved");
        mm.set_min_free_kbytes(0);
        play.end();
    });
}
