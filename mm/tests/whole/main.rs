//! The whole manager against a model of what programs see: spaces are mapped,
//! copied, written, locked, given up and unmapped at random, while their pages
//! are moved, split, swapped to devices that fail, found bad, and while memory
//! goes out of use and runs out. What a page holds is looked at again and again.
//!
//! Seeds are printed; `QUARRY_SEED` sets one, `QUARRY_OPS` the number of
//! operations of each run.
#![cfg(feature = "host")]

mod audit;
mod nth;
mod threads;
mod wild;
mod world;

use mm::host::swap::SwapDisk;
use mm::host::{Machine, pc};
use mm::stats::Event;
use mm::{Config, Mm};
use wild::Wild;
use world::World;

fn setting(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}"))
}

/// Seed and number of operations of a run.
fn settings(seed: u64, ops: u64) -> (u64, u64) {
    let (seed, ops) = (setting("QUARRY_SEED", seed), setting("QUARRY_OPS", ops));
    println!("QUARRY_SEED={seed} QUARRY_OPS={ops}");
    (seed, ops)
}

/// A device of so many slots.
fn disk(name: &str, slots: u32) -> &'static SwapDisk {
    Box::leak(Box::new(SwapDisk::new(name, slots)))
}

/// A machine of `mib` MiB, with swap of `slots` pages.
fn machine(mib: u64, cpus: u16, slots: u32) -> Mm<Machine> {
    let mm = pc(mib, cpus, &Config::default()).expect("a machine");
    mm.slab_init().expect("slab");
    if slots > 0 {
        mm.swapon(disk("ram", slots), None).expect("a device");
    }
    mm
}

/// What happened how often.
fn events<const N: usize>(mm: &Mm<Machine>, events: [Event; N]) -> [u64; N] {
    let counts = events.map(|event| mm.stats().get(event));
    println!("{:?}", events.map(Event::name).iter().zip(counts).collect::<Vec<_>>());
    counts
}

const SEEN: [Event; 7] = [
    Event::PgFault,
    Event::ThpFaultAlloc,
    Event::ThpSplitPage,
    Event::MigrateSuccess,
    Event::PswpOut,
    Event::PswpIn,
    Event::OomKill,
];

fn run(mib: u64, slots: u32, most: u64, seed: u64, ops: u64, audit_every: u64) {
    let (seed, ops) = settings(seed, ops);
    let mm = machine(mib, 2, slots);
    let mut world = World::new(&mm, seed, most, Some(2));
    for op in 1..=ops {
        world.step();
        if op % audit_every == 0 {
            world.audit();
        }
    }
    world.audit();
    world.finish();
    world.audit();
    events(&mm, SEEN);
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn with_room_for_all() {
    run(32, 0, 4000, 1, 6000, 100);
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn audited_after_each() {
    run(12, 9000, 6000, 2, 500, 1);
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn with_less_memory_than_is_mapped() {
    run(16, 40_000, 20_000, 3, 5000, 200);
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn without_room_and_without_swap() {
    run(12, 0, 6000, 4, 6000, 100);
}

/// A few operations on a small machine, for whoever looks at each access.
#[test]
fn a_short_run() {
    let ops = if cfg!(miri) { 25 } else { 400 };
    run(4, 300, if cfg!(miri) { 40 } else { 900 }, 6, ops, 10);
}

/// All at once, and everything else that may happen to a machine.
#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn whatever_happens() {
    let (seed, ops) = settings(7, 6000);
    let mm = machine(20, 2, 0);
    let mut world = World::new(&mm, seed, 16_000, Some(2));
    world.wild = Some(Wild::new());
    for op in 1..=ops {
        world.step();
        if op % 100 == 0 {
            world.audit();
            mm.platform().take_log();
        }
    }
    world.audit();
    let happened = world.wild.as_ref().map(|wild| wild.happened);
    world.finish();
    world.audit();
    println!("{happened:?}");
    let seen = events(&mm, SEEN);
    let usual = (seed, ops) == (7, 6000);
    assert!(!usual || seen.iter().all(|&count| count > 0), "something was not tried");
    world.without_swap();
    mm.lru_drain_all();
    // What is left is the manager's own.
    assert_eq!(mm.audit().expect("whole").lru, 0);
    assert_eq!(mm.swap_totals().total, 0);
}
