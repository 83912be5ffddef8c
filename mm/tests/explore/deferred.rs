//! Memory that nobody has wanted yet: listed by whoever comes first, once, while
//! others look at it without a lock.

use crate::run::explore;
use crate::stage::{Part, Play};
use mm::Gfp;
use mm::types::{MAX_ORDER, Order, Pfn, PfnRange};

const MIB: u64 = 24;
const GFP: Gfp = Gfp::KERNEL.union(Gfp::NOWARN).union(Gfp::NORETRY);

/// The last deferred block of the machine.
fn last_deferred(play: &Play) -> PfnRange {
    let map = play.mm.map();
    let blocks = (0..map.end().0).step_by(MAX_ORDER.pages() as usize).map(Pfn);
    let last = blocks.filter(|&block| map.is_deferred(block)).last().expect("one is deferred");
    PfnRange::sized(last, MAX_ORDER.pages())
}

fn take(play: &Play, range: PfnRange) {
    if play.mm.alloc_contig_range(range, GFP).is_ok() {
        play.own(range);
        play.disown(range);
        play.mm.free_contig_range(range).expect("a held range");
    }
}

/// Two want ranges of the same block, a third one takes large blocks until it
/// comes by.
#[test]
fn two_cpus_populate_a_block() {
    explore(|| {
        let play = Play::new(MIB, 3);
        let block = last_deferred(&play);
        let low = PfnRange::sized(block.start.add(3), 8);
        let high = PfnRange::new(block.start.add(600), block.end);
        let one = || take(&play, low);
        let two = || take(&play, high);
        let taker = || {
            let large = [(); 3].map(|()| play.alloc(MAX_ORDER.0, Gfp::KERNEL));
            large.into_iter().flatten().for_each(|page| play.free(page));
        };
        play.act([Box::new(one) as Part<'_>, Box::new(two), Box::new(taker)]);
        assert!(!play.mm.map().is_deferred(block.start), "it was wanted");
        play.end();
    });
}

/// Scanners without a lock walk over blocks as they are populated.
#[test]
fn scanners_meet_a_block_that_is_being_populated() {
    explore(|| {
        let play = Play::new(MIB, 3);
        let block = last_deferred(&play);
        let arena = play.arena();
        let page = arena.alloc(&play.mm, Gfp::HIGHUSER_MOVABLE).expect("a page");
        let one = || take(&play, block);
        let searcher = || {
            let got = play.mm.alloc_contig_pages(1500, Order(0), None, Pfn(0), GFP);
            if let Ok(range) = got {
                play.own(range);
                play.disown(range);
                play.mm.free_contig_range(range).expect("a held range");
            }
        };
        let compactor = || {
            let zone = play.mm.zones().iter().find(|zone| zone.deferred_pages() > 0);
            zone.into_iter().for_each(|zone| {
                play.mm.compact_whole_zone(zone);
            });
        };
        play.act([Box::new(one) as Part<'_>, Box::new(searcher), Box::new(compactor)]);
        arena.free(&play.mm, page).expect("a live handle");
        arena.release_tables(&play.mm).expect("an empty arena");
        play.end();
    });
}
