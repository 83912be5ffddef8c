//! Random operations, each access looking whether what it finds is what was
//! written last; devices that fail now and then, or once, at each of their
//! operations in turn. `QUARRY_SEED` chooses other operations.

use crate::world::{Access, World};
use core::num::NonZeroU64;
use mm::fault::FaultPlan;
use mm::host::swap::{FailPlan, SwapDisk};
use mm::host::{Machine, pc};
use mm::swap::SwapOffError;
use mm::types::CpuId;
use mm::{Config, Mm};
use std::sync::Barrier;

const NAMES: [&str; 3] = ["/dev/a", "/dev/b", "/dev/c"];

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn at(&mut self, entries: usize) -> usize {
        self.below(entries as u64) as usize
    }

    fn plan(&mut self) -> FailPlan {
        match self.below(6) {
            0 => FailPlan::Every(2 + self.below(5)),
            1 => FailPlan::Nth(1 + self.below(5)),
            2 => FailPlan::Always,
            _ => FailPlan::Never,
        }
    }
}

fn seed() -> u64 {
    let seed = std::env::var("QUARRY_SEED").map_or(1, |text| text.parse().expect("a number"));
    println!("QUARRY_SEED={seed}");
    seed
}

/// Three devices, one of them small and one to be told what is not needed.
fn disks() -> [&'static SwapDisk; 3] {
    let leak = |disk| &*Box::leak(Box::new(disk));
    [
        leak(SwapDisk::new(NAMES[0], 40)),
        leak(SwapDisk::new(NAMES[1], 700).discarding()),
        leak(SwapDisk::new(NAMES[2], 300)),
    ]
}

fn switch_on(mm: &Mm<Machine>, disks: [&'static SwapDisk; 3]) {
    for (disk, priority) in disks.into_iter().zip([Some(3), Some(1), None]) {
        mm.swapon(disk, priority).expect("a device");
    }
}

/// One random operation on random entries.
fn step(world: &World<'_, Machine>, rng: &mut Rng, entries: usize) {
    let (at, other) = (rng.at(entries), rng.at(entries));
    match rng.below(20) {
        0 | 1 => world.unmap(at),
        2 | 3 => world.share(at, other),
        4..8 => {
            // One in four is all zeros.
            let value = rng.below(4) * (1 + rng.below(1 << 40));
            world.map(at, value);
        }
        8..11 => {
            let _ = world.access(at, None);
        }
        11..14 => {
            let _ = world.access(at, Some(rng.below(1 << 40)));
        }
        14 => {
            world.mm.lru_drain_all();
        }
        _ => {
            let _ = world.swap_out(at);
        }
    }
}

/// Everything reads as it should; without failures by now.
fn check_all(world: &World<'_, Machine>, entries: usize) {
    for at in 0..entries {
        let access = world.access(at, None);
        assert!(matches!(access, Access::Done | Access::Nothing), "entry {at}: {access:?}");
    }
}

fn finish(world: &World<'_, Machine>, free: u64) {
    world.clear();
    for name in NAMES {
        match world.swapoff(name) {
            Ok(()) | Err(SwapOffError::NotOn) => {}
            Err(e) => panic!("{name}: {e}"),
        }
    }
    world.audit();
    world.mm.drain_all(None);
    assert_eq!(world.mm.free_pages_total(), free, "pages were lost");
}

#[test]
fn random_operations_with_devices_that_fail() {
    const ENTRIES: usize = 120;
    let mut rng = Rng(seed());
    let mm = pc(if cfg!(miri) { 4 } else { 16 }, 1, &Config::default()).expect("a machine");
    let free = mm.free_pages_total();
    let disks = disks();
    switch_on(&mm, disks);
    let world = World::new(&mm, ENTRIES);
    for round in 0..if cfg!(miri) { 2 } else { 150 } {
        for _ in 0..200 {
            step(&world, &mut rng, ENTRIES);
            match rng.below(100) {
                0 => rng.pick_disk(disks).fail_reads(rng.plan()),
                1 => rng.pick_disk(disks).fail_writes(rng.plan()),
                2 => {
                    let _ = world.swapoff(NAMES[rng.at(3)]);
                }
                3 => {
                    let _ = mm.swapon(rng.pick_disk(disks), None);
                }
                4 => mm.set_faults(match NonZeroU64::new(rng.below(4)) {
                    Some(n) => FaultPlan::Nth(n),
                    None => FaultPlan::Off,
                }),
                _ => {}
            }
        }
        mm.set_faults(FaultPlan::Off);
        world.audit();
        if round % 10 == 0 {
            for disk in disks {
                disk.fail_reads(FailPlan::Never);
                disk.fail_writes(FailPlan::Never);
            }
            check_all(&world, ENTRIES);
            world.audit();
        }
    }
    for disk in disks {
        disk.fail_reads(FailPlan::Never);
        assert!(disk.reads() > 0 && disk.writes() > 0, "{}", disk.reads());
    }
    check_all(&world, ENTRIES);
    finish(&world, free);
    mm.platform().take_log();
}

impl Rng {
    fn pick_disk(&mut self, disks: [&'static SwapDisk; 3]) -> &'static SwapDisk {
        disks[self.at(3)]
    }
}

/// The same program again and again, another operation failing each time, until
/// it has fewer than that.
#[test]
fn every_operation_of_a_device_may_fail() {
    const ENTRIES: usize = 24;
    let seed = seed();
    for reads in [true, false] {
        for nth in 1.. {
            let mut rng = Rng(seed);
            let mm = pc(4, 1, &Config::default()).expect("a machine");
            let free = mm.free_pages_total();
            let disk: &SwapDisk = Box::leak(Box::new(SwapDisk::new(NAMES[0], 300)));
            mm.swapon(disk, None).expect("a device");
            match reads {
                true => disk.fail_reads(FailPlan::Nth(nth)),
                false => disk.fail_writes(FailPlan::Nth(nth)),
            }
            let world = World::new(&mm, ENTRIES);
            for _ in 0..if cfg!(miri) { 60 } else { 300 } {
                step(&world, &mut rng, ENTRIES);
            }
            world.audit();
            let seen = if reads { disk.reads() } else { disk.writes() };
            disk.fail_reads(FailPlan::Never);
            check_all(&world, ENTRIES);
            let bad = u64::from(!reads && seen >= nth);
            world.clear();
            assert_eq!(mm.swap_totals().total, 300 - bad, "bad slots");
            finish(&world, free);
            if seen < nth {
                assert!(nth > 5, "hardly anything was swapped");
                break;
            }
        }
    }
}

#[test]
fn several_cpus_at_once() {
    const CPUS: u16 = if cfg!(miri) { 2 } else { 4 };
    const ENTRIES: usize = 200;
    let seed = seed();
    let mm = pc(if cfg!(miri) { 4 } else { 16 }, CPUS, &Config::default()).expect("a machine");
    let free = mm.free_pages_total();
    let disks = disks();
    switch_on(&mm, disks);
    let world = World::new(&mm, ENTRIES);
    let barrier = Barrier::new(usize::from(CPUS));
    std::thread::scope(|scope| {
        for cpu in 0..CPUS {
            let (world, barrier) = (&world, &barrier);
            scope.spawn(move || {
                world.mm.platform().run_on(CpuId(cpu));
                let mut rng = Rng(seed ^ u64::from(cpu) << 32);
                for _ in 0..if cfg!(miri) { 1 } else { 8 } {
                    for n in 0..if cfg!(miri) { 60 } else { 2_500 } {
                        step(world, &mut rng, ENTRIES);
                        if cpu == 0 && n % 100 == 0 {
                            // One goes and comes while the others go on.
                            let at = rng.at(3);
                            match world.swapoff(NAMES[at]) {
                                Ok(()) => {
                                    let _ = world.mm.swapon(disks[at], Some(2));
                                }
                                Err(SwapOffError::NotOn) => panic!("{} is on", NAMES[at]),
                                Err(_) => {}
                            }
                        }
                    }
                    barrier.wait();
                    if cpu == 0 {
                        world.audit();
                        check_all(world, ENTRIES);
                        world.audit();
                    }
                    barrier.wait();
                }
            });
        }
    });
    assert!(disks.iter().all(|disk| disk.reads() > 0 && disk.writes() > 0));
    finish(&world, free);
}
