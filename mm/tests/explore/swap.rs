//! Swap: the same page out, in and given up by several at once.

use crate::run::explore;
use crate::stage::{Part, Play, Stage};
use mm::host::swap::{FailPlan, SwapDisk};
use mm::swap::SwapOffError;
use world::{Access, State, World};

#[path = "../swap/world.rs"]
#[allow(dead_code, reason = "the scenarios are short")]
mod world;

const MIB: u64 = 4;
const DISK: &str = "/dev/disk";

fn disk(play: &Play, discarding: bool) -> &'static SwapDisk {
    let disk = SwapDisk::new(DISK, 16);
    let disk = &*Box::leak(Box::new(if discarding { disk.discarding() } else { disk }));
    play.mm.swapon(disk, None).expect("a device");
    disk
}

/// A page that two entries share.
fn shared(play: &Play) -> World<'_, Stage> {
    let world = World::new(&play.mm, 2);
    assert!(world.map(0, 7));
    world.share(0, 1);
    play.mm.lru_drain_all();
    world
}

/// Everything is whole and nothing is left.
fn end(play: &Play, world: &World<'_, Stage>) {
    world.audit();
    world.clear();
    // A page that somebody had locked when the last entry went is still cached.
    match world.swapoff(DISK) {
        Ok(()) | Err(SwapOffError::NotOn) => play.end(),
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn two_swap_ins_read_once() {
    explore(|| {
        let play = Play::new(MIB, 2);
        let disk = disk(&play, false);
        let world = shared(&play);
        assert_eq!(world.swap_out(0), Some(Ok(())));
        let part = |at| {
            let world = &world;
            move || assert_eq!(world.access(at, None), Access::Done)
        };
        play.act([Box::new(part(0)) as Part<'_>, Box::new(part(1))]);
        assert_eq!(disk.reads(), 1);
        end(&play, &world);
    });
}

#[test]
fn a_swap_in_that_fails_and_another() {
    explore(|| {
        let play = Play::new(MIB, 2);
        let disk = disk(&play, false);
        let world = shared(&play);
        assert_eq!(world.swap_out(0), Some(Ok(())));
        disk.fail_reads(FailPlan::Nth(1));
        let part = |at| {
            let world = &world;
            move || {
                let _ = world.access(at, Some(8));
            }
        };
        play.act([Box::new(part(0)) as Part<'_>, Box::new(part(1))]);
        for at in [0, 1] {
            assert_eq!(world.access(at, None), Access::Done);
        }
        end(&play, &world);
    });
}

#[test]
fn a_write_against_a_swap_out() {
    explore(|| {
        let play = Play::new(MIB, 2);
        disk(&play, false);
        let world = World::new(&play.mm, 1);
        assert!(world.map(0, 7));
        play.mm.lru_drain_all();
        let program = || {
            for value in [8, 9] {
                assert_eq!(world.access(0, Some(value)), Access::Done);
            }
        };
        let reclaim = || {
            let _ = (world.swap_out(0), world.swap_out(0));
        };
        play.act([Box::new(program) as Part<'_>, Box::new(reclaim)]);
        assert_eq!(world.access(0, None), Access::Done);
        end(&play, &world);
    });
}

#[test]
fn a_swap_in_against_a_free() {
    explore(|| {
        let play = Play::new(MIB, 3);
        disk(&play, true);
        let world = shared(&play);
        assert_eq!(world.swap_out(0), Some(Ok(())));
        let one = || world.unmap(0);
        let other = || assert_eq!(world.access(1, Some(8)), Access::Done);
        let same = || {
            let _ = world.access(0, None);
        };
        play.act([Box::new(one) as Part<'_>, Box::new(other), Box::new(same)]);
        assert_eq!(world.state(0), State::None);
        end(&play, &world);
    });
}

#[test]
fn a_swap_out_against_a_free_and_a_copy() {
    explore(|| {
        let play = Play::new(MIB, 3);
        let disk = disk(&play, true);
        let world = World::new(&play.mm, 2);
        assert!(world.map(0, 7));
        play.mm.lru_drain_all();
        disk.fail_writes(FailPlan::Nth(1));
        let reclaim = || {
            let _ = (world.swap_out(0), world.swap_out(1));
        };
        let fork = || world.share(0, 1);
        let exit = || world.unmap(0);
        play.act([Box::new(reclaim) as Part<'_>, Box::new(fork), Box::new(exit)]);
        assert!(matches!(world.access(1, None), Access::Done | Access::Nothing));
        end(&play, &world);
    });
}

#[test]
fn a_device_that_goes_while_it_is_used() {
    explore(|| {
        let play = Play::new(MIB, 3);
        disk(&play, true);
        let world = shared(&play);
        assert!(!world.map(0, 1), "taken");
        assert_eq!(world.swap_out(0), Some(Ok(())));
        let off = || assert_eq!(world.swapoff(DISK), Ok(()));
        let program = || assert_eq!(world.access(0, Some(8)), Access::Done);
        let reclaim = || {
            let _ = world.swap_out(1);
        };
        play.act([Box::new(off) as Part<'_>, Box::new(program), Box::new(reclaim)]);
        assert_eq!((world.swapped(), play.mm.swap_totals().total), (0, 0));
        assert_eq!(world.access(1, None), Access::Done);
        end(&play, &world);
    });
}
