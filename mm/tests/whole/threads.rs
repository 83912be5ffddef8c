//! Several threads at once, each with a space that only it writes to, while one
//! more does everything to the machine that programs are not to notice.

use crate::wild::Wild;
use crate::world::World;
use crate::{SEEN, events, machine, settings};
use mm::swap::SwapOffError;
use mm::types::{CpuId, NodeId};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

const WORKERS: u16 = 3;

fn run(mib: u64, slots: u32, seed: u64, ops: u64, wild: bool) {
    let mm = machine(mib, WORKERS + 1, slots);
    let (mm, over) = (&mm, &AtomicBool::new(false));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|i| {
                scope.spawn(move || {
                    mm.platform().run_on(CpuId(i));
                    let mut world = World::new(mm, seed + 1000 * u64::from(i), 4000, None);
                    (0..ops).for_each(|_| world.step());
                    world.finish();
                })
            })
            .collect();
        scope.spawn(move || {
            mm.platform().run_on(CpuId(WORKERS));
            let mut world = World::new(mm, seed, 0, None);
            world.wild = wild.then(Wild::new);
            while !over.load(Relaxed) {
                mm.compact_memory(None);
                mm.kswapd_round(NodeId(0));
                (0..5).for_each(|_| world.wild_step());
                std::thread::yield_now();
            }
            // Nobody is left whose pages could be on them.
            world.tame();
            world.without_swap();
        });
        let ends: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        over.store(true, Relaxed);
        assert!(ends.into_iter().all(|end| end.is_ok()), "a thread has failed");
    });
    mm.lru_drain_all();
    // What was locked when its last user went is still in the swap cache.
    assert!(matches!(mm.swapoff("ram"), Ok(()) | Err(SwapOffError::NotOn)));
    assert_eq!(mm.audit().unwrap_or_else(|why| panic!("{why}")).lru, 0);
    let [.., out, back, _] = events(mm, SEEN);
    assert!(ops < 1000 || out > 0 && back > 0, "nothing was swapped");
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn several_threads() {
    let (seed, ops) = settings(5, 2500);
    run(24, 20_000, seed, ops, false);
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn several_threads_whatever_happens() {
    let (seed, ops) = settings(8, 2500);
    run(28, 20_000, seed, ops, true);
}

/// For whoever looks at each access.
#[test]
fn a_short_run() {
    let (seed, ops) = settings(9, if cfg!(miri) { 8 } else { 300 });
    run(if cfg!(miri) { 4 } else { 16 }, 900, seed, ops, false);
}
