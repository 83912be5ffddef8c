//! Frames that are found bad while they change hands: whoever has a frame at
//! last, once it is free nobody is to have it again.

use crate::run::explore;
use crate::stage::{Part, Play, Slow};
use mm::Gfp;
use mm::contig::ContigError;
use mm::lru_page::LruPage;
use mm::migrate::MigrateMode;
use mm::page::{LruFlags, PageType};
use mm::poison::{PoisonError, Recovery};
use mm::types::{MAX_ORDER, Order, Pfn, PfnRange};

const MIB: u64 = 8;
const GFP: Gfp = Gfp::KERNEL.union(Gfp::NOWARN).union(Gfp::NORETRY);

fn poison(play: &Play, pfn: Pfn) {
    let done = play.mm.poison_page(pfn).expect("found in time");
    assert_ne!(done.recovery, Recovery::Ignored, "{done}");
}

/// All is free again but the frame, which is out of use until it gets well.
fn end(play: &Play, pfn: Pfn) {
    play.mm.drain_all(None);
    let head = play.mm.map().head_of(pfn).map(|(_, word)| word.ty());
    assert_eq!(head, Some(PageType::Poisoned), "{pfn:?} is back in use");
    assert_eq!((play.mm.bad_pages(), play.mm.taken_pages()), (1, 1));
    play.mm.platform().quiet();
    play.whole();
    play.mm.unpoison_page(pfn).expect("it was bad");
    assert_eq!(play.mm.bad_pages(), 0);
    play.end();
}

/// The frame of a page that CPU 0 gets next when it asks for one.
fn next_page(play: &Play, gfp: Gfp) -> Pfn {
    let page = play.alloc(0, gfp).expect("a page");
    play.free(page);
    page.pfn
}

/// The same for a block of more pages.
fn next_block(play: &Play, order: Order) -> Pfn {
    let page = play.alloc(order.0, Gfp::KERNEL).expect("a block");
    play.free(page);
    page.pfn
}

/// A page is found bad while it is allocated and freed, and the block of four
/// that it may become a part of.
#[test]
fn a_bad_page_against_its_allocation_and_free() {
    explore(|| {
        let play = Play::new(MIB, 2);
        let pfn = next_page(&play, Gfp::KERNEL);
        let user = || {
            for order in [0, 2, 0] {
                if let Some(page) = play.alloc(order, Gfp::KERNEL) {
                    play.free(page);
                }
            }
        };
        play.act([Box::new(user) as Part<'_>, Box::new(|| poison(&play, pfn))]);
        end(&play, pfn);
    });
}

/// An allocated page becomes a driver's, a slab, a large object: the mark stays.
#[test]
fn a_bad_page_against_what_it_is_made() {
    explore(|| {
        let play = Play::new(MIB, 2);
        let arena = play.arena();
        let pfn = next_page(&play, Gfp::HIGHUSER_MOVABLE);
        let user = || {
            if let Ok(page) = arena.alloc(&play.mm, Gfp::HIGHUSER_MOVABLE) {
                arena.free(&play.mm, page).expect("a live handle");
            }
        };
        play.act([Box::new(user) as Part<'_>, Box::new(|| poison(&play, pfn))]);
        arena.release_tables(&play.mm).expect("an empty arena");
        end(&play, pfn);
    });
}

/// As above, for memory of the slab layer.
#[test]
fn a_bad_page_against_the_slab_it_becomes() {
    explore(|| {
        let play = Play::new(MIB, 2).slab();
        let user = || {
            for size in [3000, 5000] {
                if let Ok(object) = play.mm.kmalloc(size, GFP) {
                    play.mm.kfree(object).expect("a live object");
                }
            }
            play.mm.slab_shrink();
        };
        // What stays for good has its pages then.
        user();
        let pfn = next_page(&play, Gfp::KERNEL);
        play.act([Box::new(user) as Part<'_>, Box::new(|| poison(&play, pfn))]);
        play.mm.slab_shrink();
        end(&play, pfn);
    });
}

/// And for an object that has its pages to itself.
#[test]
fn a_bad_page_against_a_large_object() {
    explore(|| {
        let play = Play::new(MIB, 2).slab();
        let user = || {
            for _ in 0..2 {
                if let Ok(object) = play.mm.kmalloc(16384, GFP) {
                    play.mm.kfree(object).expect("a live object");
                }
            }
        };
        user();
        play.mm.drain_all(None);
        let pfn = next_block(&play, Order(2));
        play.act([Box::new(user) as Part<'_>, Box::new(|| poison(&play, pfn))]);
        end(&play, pfn);
    });
}

/// A page becomes one that is aged and reclaimed, and is given back.
#[test]
fn a_bad_page_against_the_lists_it_comes_to() {
    explore(|| {
        let play = Play::new(MIB, 2);
        let pfn = next_page(&play, Gfp::HIGHUSER_MOVABLE);
        let user = || {
            for _ in 0..2 {
                let Some(page) = play.alloc(0, Gfp::HIGHUSER_MOVABLE) else { return };
                let as_page = LruPage { flags: LruFlags::ANON, owner: 0, index: 0 };
                play.mm.make_lru(page, as_page).expect("its own");
                play.disown(PfnRange::sized(page.pfn, 1));
                play.mm.put_lru(page.pfn);
            }
        };
        play.act([Box::new(user) as Part<'_>, Box::new(|| poison(&play, pfn))]);
        end(&play, pfn);
    });
}

/// Pages had in bulk that are dressed after they were taken.
#[test]
fn a_bad_page_against_a_bulk() {
    explore(|| {
        let play = Play::new(MIB, 2);
        let pfn = next_page(&play, Gfp::KERNEL);
        let user = || {
            let mut pages = [Pfn(0); 3];
            let got = play.mm.alloc_bulk(GFP | Gfp::ZERO, None, &mut pages).expect("pages");
            play.mm.free_bulk(&pages[..got]).expect("held pages");
        };
        play.act([Box::new(user) as Part<'_>, Box::new(|| poison(&play, pfn))]);
        end(&play, pfn);
    });
}

/// Two say the same of a page at once; one of them counts.
#[test]
fn two_find_the_same_page_bad() {
    explore(|| {
        let play = Play::new(MIB, 3);
        let page = play.alloc(0, Gfp::KERNEL).expect("a page");
        let say = || match play.mm.poison_page(page.pfn) {
            Ok(_) | Err(PoisonError::Already) => {}
            Err(why) => panic!("{why}"),
        };
        let owner = || play.free(page);
        play.act([Box::new(owner) as Part<'_>, Box::new(say), Box::new(say)]);
        end(&play, page.pfn);
    });
}

/// A frame of a contiguous range is found bad while the range is taken, and
/// given back in parts.
#[test]
fn a_bad_page_against_its_contiguous_range() {
    explore(|| {
        let play = Play::new(MIB, 2);
        let start = next_page(&play, Gfp::KERNEL).align_down(MAX_ORDER);
        play.mm.drain_all(None);
        let range = PfnRange::sized(start.max(Pfn(16)), 96);
        let pfn = range.start.add(40);
        let user = || {
            if play.mm.alloc_contig_range(range, GFP).is_ok() {
                let (low, high) = (PfnRange::sized(range.start, 42), range.end);
                play.mm.free_contig_range(low).expect("a held range");
                let rest = PfnRange::new(low.end, high);
                play.mm.free_contig_range(rest).expect("a held range");
            }
        };
        play.act([Box::new(user) as Part<'_>, Box::new(|| poison(&play, pfn))]);
        end(&play, pfn);
    });
}

/// A range that cannot be had is given back as far as it was taken: a frame that
/// was found bad meanwhile is not.
#[test]
fn a_bad_page_against_a_range_that_fails() {
    explore(|| {
        let play = Play::new(16, 2);
        let arena = play.arena();
        // Its tables are to lie low, the page itself not.
        let low = arena.alloc(&play.mm, Gfp::HIGHUSER_MOVABLE).expect("a page");
        let mut held = Vec::new();
        for order in (0..10).rev() {
            while let Some(page) = play.alloc(order, Gfp::KERNEL) {
                held.push(page);
                if page.pfn >= Pfn(MAX_ORDER.pages()) {
                    break;
                }
            }
        }
        let handle = arena.alloc(&play.mm, Gfp::HIGHUSER_MOVABLE).expect("a page");
        let stays = arena.frame(&play.mm, handle).expect("a live handle");
        held.into_iter().for_each(|page| play.free(page));
        arena.free(&play.mm, low).expect("a live handle");
        play.mm.drain_all(None);
        // Somebody else is at it all the time.
        play.mm.isolate_movable(stays, MigrateMode::Sync).expect("nobody else");
        // What lies before its block is taken first, and given back each time.
        let block = stays.align_down(MAX_ORDER);
        assert!(block > Pfn(0));
        let range = PfnRange::new(Pfn(block.0 - 512), block.add(MAX_ORDER.pages()));
        let user = || match play.mm.alloc_contig_range(range, GFP) {
            Err(ContigError::Busy(_) | ContigError::NoMemory) => {}
            other => panic!("{other:?}"),
        };
        let pfn = range.start.add(40);
        play.act([Box::new(user) as Part<'_>, Box::new(|| poison(&play, pfn))]);
        play.mm.putback(stays);
        arena.free(&play.mm, handle).expect("a live handle");
        arena.release_tables(&play.mm).expect("an empty arena");
        end(&play, pfn);
    });
}

/// A driver's page is found bad while somebody else is moving it and its owner
/// lets it go.
#[test]
fn a_bad_page_against_its_move() {
    explore(|| {
        let play = Play::new(MIB, 3);
        let arena = play.arena();
        let handle = arena.alloc(&play.mm, Gfp::HIGHUSER_MOVABLE).expect("a page");
        let pfn = arena.frame(&play.mm, handle).expect("a live handle");
        let mover = || {
            let range = PfnRange::sized(pfn, 1);
            if play.mm.alloc_contig_range(range, GFP).is_ok() {
                play.mm.free_contig_range(range).expect("a held range");
            }
        };
        let owner = || arena.free(&play.mm, handle).expect("a live handle");
        play.act([Box::new(owner) as Part<'_>, Box::new(mover), Box::new(|| poison(&play, pfn))]);
        arena.release_tables(&play.mm).expect("an empty arena");
        end(&play, pfn);
    });
}

/// A frame is found bad in a block that the host is being told of.
#[test]
fn a_bad_page_against_a_report() {
    explore(|| {
        let play = Play::new(MIB, 2);
        assert!(play.mm.set_report_order(Order(4)));
        play.mm.report_register(&Slow, None).expect("the first");
        let pfn = next_page(&play, Gfp::KERNEL).align_down(MAX_ORDER).add(700);
        play.mm.drain_all(None);
        let reporter = || match play.mm.report_now() {
            Ok(_) => {}
            Err(why) => panic!("{why}"),
        };
        play.act([Box::new(reporter) as Part<'_>, Box::new(|| poison(&play, pfn))]);
        assert!(play.mm.report_unregister());
        end(&play, pfn);
    });
}
