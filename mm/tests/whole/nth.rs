//! The same program again and again, another allocation or another operation of
//! a device failing each time, until it has fewer than that. Whatever fails, each
//! call comes back with a value, no page holds anything else than it should, all
//! is whole, and in the end all memory is back.

use crate::world::World;
use crate::{disk, machine, settings};
use mm::Mm;
use mm::fault::FaultPlan;
use mm::host::Machine;
use mm::host::swap::FailPlan;
use mm::space::HugePages;
use mm::types::CpuId;
use std::num::NonZeroU64;

const DISK: &str = "/dev/disk";

/// What is to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fails {
    Allocation,
    Read,
    Write,
}

/// What the program does, by kind of [`World::act`], to one space after the other:
/// map, write, look, write from outside, reclaim, fork, give up for good and maybe,
/// lock, compact, want a range, unmap, end.
const PROGRAM: [u64; 60] = [
    0, 0, 28, 28, 0, 28, 24, 99, 28, 23, 28, 99, 23, 13, 28, 28, 99, 23, 28, 99, 8, 28, 11, 28, 23,
    20, 28, 20, 15, 17, 17, 4, 28, 99, 23, 13, 28, 28, 22, 99, 99, 0, 28, 28, 23, 28, 99, 99, 4,
    14, 99, 0, 28, 28, 23, 99, 28, 99, 28, 99,
];

fn program<'m>(mm: &'m Mm<Machine>, seed: u64, rounds: u64, most: u64) -> World<'m> {
    let mut world = World::new(mm, seed, most, None);
    for (at, kind) in (0..rounds).flat_map(|_| PROGRAM).enumerate() {
        if world.spaces.is_empty() && !world.begin() {
            continue;
        }
        let which = at % world.spaces.len();
        world.act(which, kind);
    }
    world
}

fn accounted(mm: &Mm<Machine>) -> u64 {
    mm.lru_drain_all();
    mm.shrink_groups(u64::MAX);
    mm.slab_shrink();
    mm.drain_all(None);
    let audit = mm.audit().unwrap_or_else(|why| panic!("{why}"));
    mm.free_pages_total() + audit.slab + audit.large_kmalloc
}

/// A program, its machine, and what of that is to fail.
#[derive(Clone, Copy)]
struct Trial {
    fails: Fails,
    mib: u64,
    /// Most pages that are mapped.
    most: u64,
    rounds: u64,
    seed: u64,
}

impl Trial {
    /// Runs the program with the n-th failing; false if it has fewer.
    fn once(self, nth: u64) -> bool {
        let Self { fails, mib, most, rounds, seed } = self;
        let mm = machine(mib, 1, 0);
        mm.platform().run_on(CpuId(0));
        let disk = disk(DISK, 2000);
        // What the manager needs for good is there after that.
        mm.swapon(disk, None).expect("memory for its tables");
        program(&mm, seed, rounds, most).finish();
        mm.swapoff(DISK).expect("nothing on it");
        mm.set_huge_pages(HugePages::Always);
        let free = accounted(&mm);
        mm.swapon(disk, None).expect("memory for its tables");
        match (fails, NonZeroU64::new(nth)) {
            (Fails::Allocation, Some(n)) => mm.set_faults(FaultPlan::Nth(n)),
            (Fails::Read, _) => disk.fail_reads(FailPlan::Nth(nth)),
            (Fails::Write, _) => disk.fail_writes(FailPlan::Nth(nth)),
            _ => {}
        }
        let before = (disk.reads(), disk.writes());
        let mut world = program(&mm, seed, rounds, most);
        let struck = match fails {
            Fails::Allocation => mm.fault_counts().failed > 0,
            Fails::Read => disk.reads() - before.0 >= nth,
            Fails::Write => disk.writes() - before.1 >= nth,
        };
        mm.set_faults(FaultPlan::Off);
        disk.fail_reads(FailPlan::Never);
        disk.fail_writes(FailPlan::Never);
        world.audit();
        world.finish();
        mm.swapoff(DISK).expect("nothing on it");
        assert_eq!(accounted(&mm), free, "{fails:?} {nth}: pages that are back");
        struck
    }

    /// Has each fail in turn.
    fn each(self) {
        let (seed, _) = settings(self.seed, 0);
        let trial = Self { seed, ..self };
        let mut nth = 1;
        while trial.once(nth) {
            nth += 1;
        }
        println!("{:?}: each of {}", self.fails, nth - 1);
        assert!(nth > 20, "hardly anything could fail");
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn every_allocation() {
    Trial { fails: Fails::Allocation, mib: 6, most: 900, rounds: 1, seed: 3 }.each();
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn every_read_of_a_device() {
    Trial { fails: Fails::Read, mib: 4, most: 1100, rounds: 2, seed: 4 }.each();
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn every_write_of_a_device() {
    Trial { fails: Fails::Write, mib: 4, most: 1100, rounds: 2, seed: 5 }.each();
}
