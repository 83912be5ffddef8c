//! Random operations on a whole manager against a simple model: who owns each
//! page. Seeds are printed; `QUARRY_SEED` sets one, `QUARRY_OPS` the number of
//! operations.
#![cfg(feature = "host")]

mod bad;
mod movable;
mod objects;
mod pages;
mod ranges;
mod reporting;
mod rng;
mod world;

use mm::Config;
use mm::host::pc;
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
    mm.slab_init().expect("the slab layer");
    let mut world = World::new(&mm, seed);
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
    use super::{Config, run, with_cma};

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
