//! Random operations on a whole manager against a simple model: who owns each
//! page. Seeds are printed; `QUARRY_SEED` sets one, `QUARRY_OPS` the number of
//! operations.
#![cfg(feature = "host")]

mod bad;
mod hotplug;
mod movable;
mod objects;
mod pages;
mod ranges;
mod reporting;
mod rng;
mod world;

use mm::host::{Machine, pc};
use mm::{Config, Mm};
use world::World;

/// The number in an environment variable, or `default`.
fn setting(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}"))
}

/// Runs `ops` operations on a machine of `mib` MiB and `cpus` CPUs, with an
/// audit after every `audit_every` of them.
fn run(mib: u64, cpus: u16, seed: u64, ops: u64, audit_every: u64, config: &Config) {
    let seed = setting("QUARRY_SEED", seed);
    let ops = setting("QUARRY_OPS", ops);
    println!("QUARRY_SEED={seed} QUARRY_OPS={ops}: {mib} MiB, {cpus} CPUs");
    let mm = pc(mib, cpus, config).expect("a machine");
    run_on(&mm, &[], seed, ops, audit_every);
}

/// As [`run`], on a machine to which the memory blocks with the numbers `room`
/// may come.
fn run_on(mm: &Mm<Machine>, room: &[u64], seed: u64, ops: u64, audit_every: u64) {
    mm.slab_init().expect("the slab layer");
    let mut world = World::new(mm, seed, room);
    for op in 1..=ops {
        world.step();
        if op % audit_every == 0 {
            world.check();
        }
    }
    world.finish();
}

/// A configuration with a contiguous area of `mib` MiB.
#[cfg(not(miri))]
fn with_cma(mib: u64) -> Config {
    let mut config = Config::default();
    let order_per_bit = mm::types::Order(0);
    config.cma[0] =
        Some(mm::cma::CmaRequest { size: mib << 20, base: None, end: None, order_per_bit });
    config
}

#[cfg(not(miri))]
mod full {
    use super::{Config, Machine, run, run_on, with_cma};
    use mm::host::build;
    use mm::hotplug::MEMORY_BLOCK_PAGES;
    use mm::types::{NodeId, Pfn, PfnRange};

    #[test]
    fn a_million_on_16_mib() {
        run(16, 1, 1, 1_000_000, 64, &with_cma(4));
    }

    #[test]
    fn audited_after_each() {
        run(16, 2, 2, 10_000, 1, &with_cma(2));
    }

    /// Large enough for HighAtomic blocks, boosts and two zones.
    #[test]
    fn on_256_mib() {
        run(256, 2, 3, 300_000, 3000, &with_cma(16));
    }

    /// Whole memory blocks go and come, below 4 GiB and above.
    #[test]
    fn where_memory_comes_and_goes() {
        const BLOCK: u64 = MEMORY_BLOCK_PAGES;
        for (config, seed) in [
            (with_cma(16), 6),
            (Config { page_poison: true, ..Config::default() }, 7),
            (Config::default(), 8),
        ] {
            let seed = super::setting("QUARRY_SEED", seed);
            let ops = super::setting("QUARRY_OPS", 60_000);
            println!("QUARRY_SEED={seed} QUARRY_OPS={ops}: growing");
            let end = Pfn(35 * BLOCK);
            let machine = Machine::new(Pfn(0), end, 2).expect("address space");
            let ram = [(PfnRange::new(Pfn(1), Pfn(2 * BLOCK)), NodeId(0))];
            let config = Config { hotplug_end: end, ..config };
            let mm = build(machine, &ram, &config).expect("a machine");
            run_on(&mm, &[3, 32, 33, 34], seed, ops, 600);
        }
    }

    #[test]
    fn with_every_check_on() {
        let config = Config {
            init_on_alloc: true,
            init_on_free: false,
            page_poison: true,
            page_owner: true,
            ..Config::default()
        };
        run(16, 1, 4, 50_000, 64, &config);
    }

    #[test]
    fn many_small_machines() {
        for seed in 0..40 {
            run(1 + seed % 7, 1 + (seed % 3) as u16, 100 + seed, 3000, 10, &Config::default());
        }
    }
}

#[test]
fn small() {
    let ops = if cfg!(miri) { 60 } else { 4000 };
    run(1, 2, 5, ops, 30, &Config::default());
}
