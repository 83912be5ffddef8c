//! Contiguous ranges: isolated and emptied while others free into them, and
//! wanted by two at a time.

use crate::run::explore;
use crate::stage::{Part, Play};
use mm::Gfp;
use mm::contig::ContigError;
use mm::types::{PAGEBLOCK_PAGES, PfnRange};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

const MIB: u64 = 16;
const GFP: Gfp = Gfp::KERNEL.union(Gfp::NOWARN).union(Gfp::NORETRY);

/// Whether the range was had.
fn take(play: &Play, range: PfnRange) -> bool {
    match play.mm.alloc_contig_range(range, GFP) {
        Ok(got) => {
            assert_eq!(got, range);
            play.own(range);
            true
        }
        Err(ContigError::Busy(_)) => false,
        Err(why) => panic!("{why}"),
    }
}

fn give(play: &Play, range: PfnRange) {
    play.disown(range);
    play.mm.free_contig_range(range).expect("a held range");
}

/// Pages are freed while their pageblock is being isolated for the sake of
/// others in it, one that moves or is freed among those. What is freed is not
/// to be had again before the isolation ends, and is free under its old type
/// then.
#[test]
fn a_free_against_isolation_of_its_block() {
    explore(|| {
        let play = Play::new(MIB, 2);
        let arena = play.arena();
        let handle = arena.alloc(&play.mm, Gfp::HIGHUSER_MOVABLE).expect("a page");
        let moving = arena.frame(&play.mm, handle).expect("a live handle");
        // One of the same pageblock.
        let mut others = Vec::new();
        let page = loop {
            let page = play.alloc(0, Gfp::KERNEL | Gfp::MOVABLE).expect("a page");
            if page.pfn.pageblock() == moving.pageblock() {
                break page;
            }
            others.push(page);
        };
        let large = play.alloc(2, Gfp::KERNEL | Gfp::MOVABLE).expect("a block");
        let range = PfnRange::sized(moving, 1);
        let user = || {
            play.free(page);
            let again = play.alloc(0, Gfp::KERNEL | Gfp::MOVABLE).expect("a page");
            play.free(large);
            play.free(again);
            arena.free(&play.mm, handle).expect("a live handle");
        };
        let taker = || {
            if take(&play, range) {
                give(&play, range);
            }
        };
        play.act([Box::new(user) as Part<'_>, Box::new(taker)]);
        arena.release_tables(&play.mm).expect("an empty arena");
        others.into_iter().for_each(|page| play.free(page));
        play.end();
    });
}

/// A block of the largest order is freed while one of its two pageblocks is
/// being isolated: each half belongs on its own list.
#[test]
fn a_largest_block_against_isolation_of_a_half() {
    explore(|| {
        let play = Play::new(MIB, 2);
        let large = play.alloc(10, Gfp::KERNEL).expect("a block");
        let half = PfnRange::sized(large.pfn.add(PAGEBLOCK_PAGES), PAGEBLOCK_PAGES);
        let user = || play.free(large);
        let taker = || {
            if take(&play, half) {
                give(&play, half);
            }
        };
        play.act([Box::new(user) as Part<'_>, Box::new(taker)]);
        play.end();
    });
}

/// The same from a third CPU, which frees what the first one allocated, and the
/// range is a part of the block only.
#[test]
fn two_free_against_isolation_of_a_part() {
    explore(|| {
        let play = Play::new(MIB, 3);
        let pages = [(); 3].map(|()| play.alloc(0, Gfp::KERNEL).expect("a page"));
        let start = pages[1].pfn;
        let range = PfnRange::sized(start, 3);
        let [one, two, three] = pages;
        let first = || {
            play.free(one);
            play.free(two);
        };
        let second = || play.free(three);
        let taker = || {
            if take(&play, range) {
                give(&play, range);
            }
        };
        play.act([Box::new(taker) as Part<'_>, Box::new(first), Box::new(second)]);
        play.end();
    });
}

/// Of two requests that overlap exactly one wins, however they meet; the other
/// is told so, and nothing leaks.
fn overlapping(shift: u64, touch: bool) {
    let play = Play::new(MIB, 2);
    // Blocks in the middle, with a few of their pages on a CPU's list.
    let page = play.alloc(0, Gfp::KERNEL).expect("a page");
    let start = page.pfn.pageblock();
    let start = if start.0 < 2 * PAGEBLOCK_PAGES { start.add(PAGEBLOCK_PAGES) } else { start };
    let low = PfnRange::sized(mm::types::Pfn(start.0 - PAGEBLOCK_PAGES), 2 * PAGEBLOCK_PAGES);
    let high = PfnRange::sized(low.start.add(shift), 2 * PAGEBLOCK_PAGES);
    play.free(page);
    if !touch {
        play.mm.drain_all(None);
    }
    let won = AtomicU32::new(0);
    let ask = |range| {
        let bit = if range == low { 1 } else { 2 };
        if take(&play, range) {
            won.fetch_add(bit, Relaxed);
        }
    };
    let (first, second) = (|| ask(low), || ask(high));
    play.act([Box::new(first) as Part<'_>, Box::new(second)]);
    let won = won.into_inner();
    assert!(won == 1 || won == 2, "exactly one wins: {won:#b}");
    give(&play, if won == 1 { low } else { high });
    play.end();
}

#[test]
fn two_requests_overlap_by_a_block() {
    explore(|| overlapping(PAGEBLOCK_PAGES, true));
}

#[test]
fn two_requests_overlap_by_a_block_that_is_free() {
    explore(|| overlapping(PAGEBLOCK_PAGES, false));
}

#[test]
fn two_requests_overlap_by_most() {
    explore(|| overlapping(3, true));
}
