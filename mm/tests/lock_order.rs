//! What debug builds catch: locks taken against their order, and waiting for
//! others with a lock or a token held, which is the deadlock rule of the CPU
//! tokens. And that whoever keeps to the rule makes progress.
#![cfg(feature = "host")]

use mm::arena::MovableArena;
use mm::host::{Machine, pc};
use mm::sync::{Cpu, Lock, LockRank};
use mm::types::{CpuId, Order, Pfn};
use mm::{Config, Gfp, Mm, Request};

const CPUS: u16 = 4;

fn machine() -> Mm<Machine> {
    pc(if cfg!(miri) { 2 } else { 16 }, CPUS, &Config::default()).expect("a machine")
}

/// Everybody drains everybody while they allocate: each wait is for somebody
/// who does not wait for it.
#[test]
fn draining_each_other_makes_progress() {
    let rounds = if cfg!(miri) { 3 } else { 2_000 };
    let mm = machine();
    let free = mm.free_pages_total();
    std::thread::scope(|scope| {
        for cpu in 0..CPUS {
            let mm = &mm;
            scope.spawn(move || {
                mm.platform().run_on(CpuId(cpu));
                for round in 0..rounds {
                    let order = Order((round % 4) as u8);
                    let page = mm.alloc_pages(Request::new(order, Gfp::KERNEL)).expect("a block");
                    mm.drain_all(None);
                    mm.free_pages(page).expect("a held block");
                }
            });
        }
    });
    mm.drain_all(None);
    assert_eq!(mm.free_pages_total(), free);
    mm.audit().expect("whole");
}

/// The same order from everywhere is no matter, nor is a lock taken again after
/// it was released.
#[test]
fn locks_in_order_are_taken() {
    let mm = machine();
    let (outer, inner) = (Lock::new(LockRank::SlabNode, 1), Lock::new(LockRank::Zone, 2));
    let cpu = Cpu::enter(mm.platform());
    let nested = Cpu::enter(mm.platform());
    for _ in 0..2 {
        let outer = outer.lock(&cpu);
        let inner = inner.lock(&nested);
        assert_eq!(*outer + *inner, 3);
        // Released in whatever order.
        drop(outer);
        drop(inner);
    }
    drop(nested);
    drop(cpu);
    mm.drain_all(None);
}

#[cfg(debug_assertions)]
mod caught {
    use super::*;

    #[test]
    #[should_panic(expected = "lock order: SlabNode taken with Zone held")]
    fn locks_against_their_order() {
        let mm = machine();
        let (outer, inner) = (Lock::new(LockRank::SlabNode, ()), Lock::new(LockRank::Zone, ()));
        let cpu = Cpu::enter(mm.platform());
        let _inner = inner.lock(&cpu);
        let _outer = outer.lock(&cpu);
    }

    #[test]
    #[should_panic(expected = "lock order: Zone taken with Zone held")]
    fn two_locks_of_a_rank() {
        let mm = machine();
        let [one, two] = [(); 2].map(|()| Lock::new(LockRank::Zone, ()));
        let cpu = Cpu::enter(mm.platform());
        let _one = one.lock(&cpu);
        let _two = two.lock(&cpu);
    }

    /// The inner lock was released in between: what is left still counts.
    #[test]
    #[should_panic(expected = "lock order: Hotplug taken with CacheList held")]
    fn the_innermost_that_is_left() {
        let mm = machine();
        let ranks = [LockRank::CacheList, LockRank::Zone, LockRank::Hotplug];
        let [list, zone, gate] = ranks.map(|rank| Lock::new(rank, ()));
        let cpu = Cpu::enter(mm.platform());
        let _list = list.lock(&cpu);
        drop(zone.lock(&cpu));
        let _gate = gate.lock(&cpu);
    }

    #[test]
    #[should_panic(expected = "lock order: waits for other CPUs with Hotplug held")]
    fn a_drain_with_a_lock_held() {
        let mm = machine();
        let lock = Lock::new(LockRank::Hotplug, ());
        let cpu = Cpu::enter(mm.platform());
        let _held = lock.lock(&cpu);
        mm.drain_all(None);
    }

    #[test]
    #[should_panic(expected = "lock order: waits for other CPUs with this CPU's token held")]
    fn a_drain_with_a_token_held() {
        let mm = machine();
        let _cpu = Cpu::enter(mm.platform());
        mm.drain_all(None);
    }

    /// What is run for other CPUs has their tokens.
    #[test]
    #[should_panic(expected = "lock order: waits for other CPUs with this CPU's token held")]
    fn a_drain_in_a_message() {
        let mm = machine();
        Cpu::on_each(mm.platform(), &|_| {
            mm.drain_all(None);
        });
    }

    #[test]
    #[should_panic(expected = "lock order: waits for memory with this CPU's token held")]
    fn an_allocation_that_may_wait() {
        let mm = machine();
        let _cpu = Cpu::enter(mm.platform());
        let _ = mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL));
    }

    /// A range is waited for whatever the flags; here by a driver's client, with
    /// the driver's lock held.
    #[test]
    #[should_panic(expected = "lock order: waits for a range with Driver held")]
    fn a_range_with_a_driver_locked() {
        let mm = machine();
        let arena: &'static MovableArena<Machine> = Box::leak(Box::default());
        arena.register(&mm).expect("room for a driver");
        let handle = arena.alloc(&mm, Gfp::HIGHUSER_MOVABLE).expect("a page");
        let _ = arena
            .with(&mm, handle, |_| mm.alloc_contig_pages(1, Order(0), None, Pfn(0), Gfp::NOWAIT));
    }

    #[test]
    #[should_panic(expected = "lock order: interrupts unmasked with Lru held")]
    fn a_token_given_up_before_a_lock() {
        let mm = machine();
        let lock = Lock::new(LockRank::Lru, ());
        let cpu = Cpu::enter(mm.platform());
        let _held = lock.lock(&cpu);
        drop(cpu);
    }
}
