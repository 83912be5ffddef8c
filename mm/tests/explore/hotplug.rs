//! Memory that goes out of use and comes back while others allocate, free, move
//! pages, report, and look at what there is without a lock.

use crate::run::explore;
use crate::stage::{Part, Play, Slow};
use mm::Gfp;
use mm::hotplug::{HotplugError, MEMORY_BLOCK_PAGES, OnlineType};
use mm::report::NoPass;
use mm::types::{Order, PAGEBLOCK_PAGES, Pfn, PfnRange};

/// One memory block, of which a part may be out of use.
const MIB: u64 = 16;

/// Whether the range is out of use now, which makes it nobody's.
fn offline(play: &Play, range: PfnRange) -> bool {
    match play.mm.offline(range) {
        Ok(pages) => {
            assert_eq!(pages, range.pages());
            play.own(range);
            true
        }
        Err(HotplugError::Busy(_) | HotplugError::NoMemory) => false,
        Err(why) => panic!("{why}"),
    }
}

fn online(play: &Play, range: PfnRange) {
    play.disown(range);
    assert_eq!(play.mm.online(range, OnlineType::Auto), Ok(range.pages()));
}

/// The pageblock with the page that CPU 0 gets next.
fn next_block(play: &Play, gfp: Gfp) -> PfnRange {
    // Not where the machine begins: there is no RAM at frame 0.
    let low = play.alloc(9, gfp);
    let page = play.alloc(0, gfp).expect("a page");
    let block = page.pfn.pageblock().max(Pfn(PAGEBLOCK_PAGES));
    play.free(page);
    low.into_iter().for_each(|page| play.free(page));
    PfnRange::sized(block, PAGEBLOCK_PAGES)
}

/// What is freed into a block on its way out of use is out of use with it, what
/// is allocated keeps it in use.
#[test]
fn a_block_goes_while_others_allocate_and_free() {
    explore(|| {
        let play = Play::new(MIB, 2);
        let block = next_block(&play, Gfp::KERNEL);
        let held = [0, 3, 9].map(|order| play.alloc(order, Gfp::KERNEL).expect("a block"));
        let user = || {
            for page in held {
                play.free(page);
                let again = play.alloc(page.order.0, Gfp::KERNEL);
                again.into_iter().for_each(|page| play.free(page));
            }
        };
        let goer = || {
            if offline(&play, block) {
                online(&play, block);
            }
        };
        play.act([Box::new(user) as Part<'_>, Box::new(goer)]);
        play.end();
    });
}

/// Pages that move out of the way, and owners who let go of them meanwhile.
#[test]
fn a_block_goes_while_its_pages_are_freed() {
    explore(|| {
        let play = Play::new(MIB, 2);
        let arena = play.arena();
        let handles = [(); 3].map(|()| {
            let handle = arena.alloc(&play.mm, Gfp::HIGHUSER_MOVABLE).expect("a page");
            arena.with(&play.mm, handle, |bytes| bytes.fill(7)).expect("a live handle");
            handle
        });
        let block = arena.frame(&play.mm, handles[2]).expect("a live handle").pageblock();
        let block = PfnRange::sized(block.max(Pfn(PAGEBLOCK_PAGES)), PAGEBLOCK_PAGES);
        let user = || {
            for handle in handles {
                let right = arena.with(&play.mm, handle, |bytes| bytes.iter().all(|&b| b == 7));
                assert_eq!(right, Ok(true));
                arena.free(&play.mm, handle).expect("a live handle");
            }
        };
        let goer = || {
            if offline(&play, block) {
                online(&play, block);
            }
        };
        play.act([Box::new(user) as Part<'_>, Box::new(goer)]);
        arena.release_tables(&play.mm).expect("an empty arena");
        play.end();
    });
}

/// Two take memory out of use and put it back: one after the other.
#[test]
fn two_change_what_memory_there_is() {
    explore(|| {
        let play = Play::new(MIB, 3);
        let low = PfnRange::sized(Pfn(2 * PAGEBLOCK_PAGES), 2 * PAGEBLOCK_PAGES);
        let high = PfnRange::sized(Pfn(4 * PAGEBLOCK_PAGES), PAGEBLOCK_PAGES);
        let go = |block| {
            if offline(&play, block) {
                online(&play, block);
            }
        };
        let taker = || {
            let range = PfnRange::sized(high.start.add(17), 5);
            let gfp = Gfp::KERNEL | Gfp::NOWARN | Gfp::NORETRY;
            if play.mm.alloc_contig_range(range, gfp).is_ok() {
                play.own(range);
                play.disown(range);
                play.mm.free_contig_range(range).expect("a held range");
            }
        };
        play.act([
            Box::new(move || go(low)) as Part<'_>,
            Box::new(move || go(high)),
            Box::new(taker),
        ]);
        play.end();
    });
}

/// A memory block leaves its zone and joins it again while scanners without a
/// lock walk over it: compaction, the search for a range, the files.
#[test]
fn walkers_over_a_block_that_goes_and_comes() {
    explore(|| {
        let play = Play::new(256, 3);
        let block = PfnRange::sized(Pfn(MEMORY_BLOCK_PAGES), MEMORY_BLOCK_PAGES);
        // The last of it has the manager's tables.
        let block = if play.mm.offline(block).is_ok() {
            block
        } else {
            let part = PfnRange::new(block.start, block.start.add(4 * PAGEBLOCK_PAGES));
            assert_eq!(play.mm.offline(part), Ok(part.pages()));
            part
        };
        play.own(block);
        let arena = play.arena();
        let page = arena.alloc(&play.mm, Gfp::HIGHUSER_MOVABLE).expect("a page");
        let comer = || {
            online(&play, block);
            if offline(&play, block) {
                online(&play, block);
            }
        };
        let compactor = || {
            let zone = play.mm.zones().iter().rfind(|zone| zone.managed() > 0);
            zone.into_iter().for_each(|zone| {
                play.mm.compact_whole_zone(zone);
            });
        };
        let reader = || {
            for pfn in (block.start.0..block.end.0).step_by(400).take(12).map(Pfn) {
                let _ = play.mm.kpageflags(pfn);
            }
            let _ = play.mm.memory_blocks().count();
            let gfp = Gfp::KERNEL | Gfp::NOWARN | Gfp::NORETRY;
            if let Ok(range) = play.mm.alloc_contig_pages(600, Order(0), None, block.start, gfp) {
                play.own(range);
                play.disown(range);
                play.mm.free_contig_range(range).expect("a held range");
            }
        };
        play.act([Box::new(comer) as Part<'_>, Box::new(compactor), Box::new(reader)]);
        arena.free(&play.mm, page).expect("a live handle");
        arena.release_tables(&play.mm).expect("an empty arena");
        play.end();
    });
}

/// A block goes out of use whose free memory the host is being told of.
#[test]
fn a_block_goes_while_it_is_reported() {
    explore(|| {
        let play = Play::new(MIB, 2);
        assert!(play.mm.set_report_order(Order(8)));
        play.mm.report_register(&Slow, None).expect("the first");
        let block = next_block(&play, Gfp::KERNEL);
        let goer = || {
            if offline(&play, block) {
                online(&play, block);
            }
        };
        let reporter = || match play.mm.report_now() {
            Ok(_) | Err(NoPass::Busy) => {}
            Err(why) => panic!("{why}"),
        };
        play.act([Box::new(goer) as Part<'_>, Box::new(reporter)]);
        assert!(play.mm.report_unregister());
        play.end();
    });
}
