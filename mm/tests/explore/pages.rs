//! Pages: per-CPU lists filled, emptied by others, and both at once.

use crate::run::{exhaust, explore};
use crate::stage::{Fault, Part, Play};
use mm::platform::Platform;
use mm::types::{CpuId, Pfn, PfnRange};
use mm::zone::{Mark, Zone};
use mm::{Config, Gfp};

const MIB: u64 = 4;

/// One CPU fills its list and empties it again while another drains all.
fn refill_against_drain(fault: Fault) {
    let play = Play::with(MIB, 2, 1, &Config::default(), fault);
    let user = || {
        let pages = [(); 3].map(|()| play.alloc(0, Gfp::KERNEL).expect("a page"));
        pages.into_iter().for_each(|page| play.free(page));
    };
    let drainer = || {
        play.mm.drain_all(None);
        let page = play.alloc(0, Gfp::KERNEL).expect("a page");
        play.mm.drain_all(None);
        play.free(page);
    };
    play.act([Box::new(user) as Part<'_>, Box::new(drainer)]);
    play.end();
}

#[test]
fn a_refill_against_a_drain() {
    explore(|| refill_against_drain(Fault::None));
}

/// Without the token the drain meets a list that is being filled.
#[test]
#[should_panic]
fn a_refill_against_a_drain_without_the_token() {
    explore(|| refill_against_drain(Fault::NoToken));
}

/// Two CPUs drain all CPUs, each other among them.
fn drain_each_other(fault: Fault) {
    let play = Play::with(MIB, 2, 1, &Config::default(), fault);
    let part = || {
        let page = play.alloc(0, Gfp::KERNEL).expect("a page");
        play.mm.drain_all(None);
        play.free(page);
    };
    play.act([Box::new(part) as Part<'_>, Box::new(part)]);
    play.end();
}

#[test]
fn two_cpus_drain_each_other() {
    explore(|| drain_each_other(Fault::None));
    exhaust(|| drain_each_other(Fault::None));
}

/// The deadlock rule: who waits serves.
#[test]
#[should_panic(expected = "deadlock")]
fn two_cpus_drain_each_other_and_do_not_serve() {
    explore(|| drain_each_other(Fault::Deaf));
}

/// Many pages at once on one CPU, larger blocks on another, while a third one
/// drains: fills, runs of frees and what is shed meet at the zone's lock.
#[test]
fn bulk_against_blocks_and_a_drain() {
    explore(|| {
        let play = Play::new(MIB, 3);
        let bulk = || {
            let mut pages = [Pfn(0); 40];
            let got = play.mm.alloc_bulk(Gfp::KERNEL, None, &mut pages).expect("pages");
            let pages = &pages[..got];
            pages.iter().for_each(|&pfn| play.own(PfnRange::sized(pfn, 1)));
            pages.iter().for_each(|&pfn| play.disown(PfnRange::sized(pfn, 1)));
            play.mm.free_bulk(pages).expect("held pages");
        };
        let blocks = || {
            let blocks = [9, 3, 2].map(|order| play.alloc(order, Gfp::KERNEL));
            blocks.into_iter().flatten().for_each(|block| play.free(block));
        };
        let drainer = || {
            play.mm.drain_all(None);
        };
        play.act([Box::new(bulk) as Part<'_>, Box::new(blocks), Box::new(drainer)]);
        play.end();
    });
}

/// A CPU's lists and arrays are emptied for good by another one, which it serves
/// or which finds it idle, while a third one shrinks and drains all.
#[test]
fn a_cpu_that_goes_away() {
    explore(|| {
        let play = Play::new(8, 3).slab();
        let user = || {
            let page = play.alloc(0, Gfp::KERNEL).expect("a page");
            let object = play.mm.kmalloc(100, Gfp::NOWAIT).expect("an object");
            play.free(page);
            play.mm.kfree(object).expect("freed");
        };
        let gone = CpuId(0);
        let sweeper = || {
            play.mm.platform().on_cpus(&|cpu| {
                if cpu == gone {
                    // SAFETY: this is run for that CPU, with its token held.
                    unsafe { play.mm.cpu_gone(cpu) };
                }
            });
        };
        let other = || {
            play.mm.slab_shrink();
            play.mm.drain_all(None);
        };
        play.act([Box::new(user) as Part<'_>, Box::new(sweeper), Box::new(other)]);
        play.end();
    });
}

/// Marks are what follows from all knobs, whichever was turned last.
#[test]
fn two_knobs_of_the_marks() {
    explore(|| {
        let play = Play::new(MIB, 2);
        let marks = || {
            let of = |zone: &Zone| [Mark::Min, Mark::Low, Mark::High].map(|mark| zone.mark(mark));
            play.mm.zones().iter().map(of).collect::<Vec<_>>()
        };
        let (least, scale) =
            (|| play.mm.force_min_free_kbytes(1024), || play.mm.set_watermark_scale_factor(1000));
        play.act([Box::new(least) as Part<'_>, Box::new(scale)]);
        let found = marks();
        play.mm.recompute_watermarks();
        assert_eq!(found, marks());
        play.end();
    });
}
