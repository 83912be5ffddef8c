//! Movable pages: isolated, moved and freed at once, so that the reference that
//! an isolation takes may be the last, or of a page that is something else now.

use crate::run::explore;
use crate::stage::{Part, Play, Stage};
use mm::arena::{Handle, MovableArena};
use mm::list::PageList;
use mm::migrate::MigrateMode;
use mm::types::{Order, PAGE_SIZE, Pfn};
use mm::{Gfp, Page};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

const MIB: u64 = 4;
const GFP: Gfp = Gfp::HIGHUSER_MOVABLE.union(Gfp::NOWARN);

fn stamped(play: &Play, arena: &MovableArena<Stage>, byte: u8) -> Handle {
    let handle = arena.alloc(&play.mm, GFP).expect("a page");
    arena.with(&play.mm, handle, |bytes| bytes.fill(byte)).expect("a live handle");
    handle
}

fn check(play: &Play, arena: &MovableArena<Stage>, handle: Handle, byte: u8) {
    let whole = |bytes: &mut [u8; PAGE_SIZE]| *bytes == [byte; PAGE_SIZE];
    assert_eq!(arena.with(&play.mm, handle, whole), Ok(true));
}

fn end(play: &Play, arena: &MovableArena<Stage>) {
    arena.release_tables(&play.mm).expect("an empty arena");
    play.end();
}

/// Isolates the page at a frame, whatever it is by now, and puts it back.
fn lift(play: &Play, pfn: Pfn) {
    for mode in [MigrateMode::Async, MigrateMode::Sync] {
        if play.mm.isolate_movable(pfn, mode).is_ok() {
            play.mm.putback(pfn);
        }
    }
}

/// A look at a page that its owner frees meanwhile, and that somebody else has
/// for something else at once.
#[test]
fn a_reference_against_a_free() {
    explore(|| {
        let play = Play::new(MIB, 2);
        let arena = play.arena();
        let handle = stamped(&play, arena, 7);
        let pfn = arena.frame(&play.mm, handle).expect("a live handle");
        let owner = || {
            check(&play, arena, handle, 7);
            arena.free(&play.mm, handle).expect("a live handle");
            let page = play.alloc(0, Gfp::KERNEL).expect("a page");
            let next = stamped(&play, arena, 9);
            play.free(page);
            check(&play, arena, next, 9);
            arena.free(&play.mm, next).expect("a live handle");
        };
        let looker = || lift(&play, pfn);
        play.act([Box::new(owner) as Part<'_>, Box::new(looker)]);
        end(&play, arena);
    });
}

/// Two want the same page at the same time: one has it, and puts it back.
#[test]
fn two_isolations_of_a_page() {
    explore(|| {
        let play = Play::new(MIB, 2);
        let arena = play.arena();
        let handle = stamped(&play, arena, 7);
        let pfn = arena.frame(&play.mm, handle).expect("a live handle");
        let isolated = AtomicU32::new(0);
        let part = || {
            if play.mm.isolate_movable(pfn, MigrateMode::Async).is_ok() {
                isolated.fetch_add(1, Relaxed);
            }
        };
        play.act([Box::new(part) as Part<'_>, Box::new(part)]);
        let isolated = isolated.into_inner();
        assert!(isolated <= 1, "two have it");
        if isolated == 1 {
            play.mm.putback(pfn);
        }
        check(&play, arena, handle, 7);
        arena.free(&play.mm, handle).expect("a live handle");
        end(&play, arena);
    });
}

/// Moves the page at a frame elsewhere, if it can be had.
fn move_away(play: &Play, pfn: Pfn) {
    let mm = &play.mm;
    if mm.isolate_movable(pfn, MigrateMode::Sync).is_err() {
        return;
    }
    let mut list = PageList::new();
    list.push_back(mm.map(), pfn);
    let mut target = || play.alloc(0, GFP).map(|page| page.pfn);
    let mut unused = |pfn| play.free(Page { pfn, order: Order(0) });
    mm.migrate_pages(&mut list, &mut target, &mut unused, MigrateMode::Sync);
    mm.putback_list(&mut list);
}

/// Two CPUs want to move a page that its owner uses and frees. What arrives is
/// what was sent, and each frame is had by one at a time.
#[test]
fn two_moves_against_a_free() {
    explore(|| {
        let play = Play::new(MIB, 3);
        let arena = play.arena();
        let handle = stamped(&play, arena, 7);
        let pfn = arena.frame(&play.mm, handle).expect("a live handle");
        let owner = || {
            check(&play, arena, handle, 7);
            arena.free(&play.mm, handle).expect("a live handle");
            let page = play.alloc(0, Gfp::KERNEL);
            page.into_iter().for_each(|page| play.free(page));
        };
        let mover = || move_away(&play, pfn);
        play.act([Box::new(owner) as Part<'_>, Box::new(mover), Box::new(mover)]);
        // The frames that pages were moved to are the arena's, and free again.
        play.forget();
        end(&play, arena);
    });
}

/// A zone is compacted while its pages are allocated, used and freed.
#[test]
fn compaction_against_its_pages_owners() {
    explore(|| {
        let play = Play::new(MIB, 2);
        let arena = play.arena();
        let low: Vec<_> = (0..6).map(|i| stamped(&play, arena, i)).collect();
        let owner = || {
            for (i, handle) in low.iter().enumerate() {
                check(&play, arena, *handle, i as u8);
                if i % 2 == 0 {
                    arena.free(&play.mm, *handle).expect("a live handle");
                }
            }
            let next = stamped(&play, arena, 77);
            check(&play, arena, next, 77);
            arena.free(&play.mm, next).expect("a live handle");
        };
        let compactor = || {
            let zone = play.mm.zones().iter().find(|zone| zone.managed() > 0).expect("a zone");
            play.mm.compact_whole_zone(zone);
        };
        play.act([Box::new(owner) as Part<'_>, Box::new(compactor)]);
        for (i, handle) in low.iter().enumerate().filter(|(i, _)| i % 2 == 1) {
            check(&play, arena, *handle, i as u8);
            arena.free(&play.mm, *handle).expect("a live handle");
        }
        end(&play, arena);
    });
}
