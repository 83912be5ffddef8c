//! Pages: per-CPU lists filled, emptied by others, and both at once.

use crate::run::{exhaust, explore};
use crate::stage::{Fault, Part, Play};
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
