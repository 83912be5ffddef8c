//! Everything at random, and at once.

use crate::stand::{LENIENT, MIB, isolate, migrate, setup_on};
use mm::arena::MovableArena;
use mm::balloon::{Step, Terms};
use mm::cma::{CmaId, CmaRequest};
use mm::host::Machine;
use mm::list::PageList;
use mm::oom::OomNotifier;
use mm::stats::Event;
use mm::types::{CpuId, Order, PAGE_SIZE, Pfn, PfnRange};
use mm::{Config, Gfp, Request};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Whatever is done in whatever order, the host has what the guest says, and
/// everybody else's content is theirs.
#[test]
fn random_operations() {
    for seed in 0..if cfg!(miri) { 1 } else { 12 } {
        println!("seed {seed}");
        let mut rng = Rng(seed);
        let terms = Terms { deflate_on_oom: seed % 2 == 0 };
        let mut config = Config::default();
        if !cfg!(miri) {
            config.cma[0] =
                Some(CmaRequest { size: 4 << 20, base: None, end: None, order_per_bit: Order(0) });
        }
        let s = setup_on(MIB, 2, terms, &config);
        let arena: &'static MovableArena<Machine> = Box::leak(Box::default());
        arena.register(s.mm).expect("room");
        let free = s.free();
        let mut handles = Vec::new();
        let mut pages = Vec::new();
        let mut list = PageList::new();
        for op in 0..if cfg!(miri) { 40 } else { 600 } {
            s.mm.platform().run_on(CpuId(rng.below(2) as u16));
            match rng.below(12) {
                0..=2 => {
                    let target = rng.below(free);
                    for _ in 0..rng.below(8) {
                        s.balloon.toward(s.mm, target).expect("honest");
                    }
                }
                3 => {
                    s.mm.compact_memory(None);
                }
                4 => {
                    let at = 0x100 + rng.below((MIB << 8) - 0x200);
                    let range =
                        PfnRange::sized(Pfn(at), 1 + rng.below(600).min((MIB << 8) - at - 1));
                    if let Ok(range) = s.mm.alloc_contig_range(range, Gfp::KERNEL | Gfp::NOWARN) {
                        s.mm.free_contig_range(range).expect("ours");
                    }
                }
                5 => {
                    let count = 1 + rng.below(900);
                    let gfp = Gfp::KERNEL | Gfp::NOWARN;
                    if let Ok(range) = s.mm.cma_alloc(CmaId::DEFAULT, count, Order(0), gfp) {
                        s.mm.cma_release(CmaId::DEFAULT, range).expect("ours");
                    }
                }
                6 => {
                    for pfn in s.host.pages() {
                        if rng.below(8) == 0 {
                            isolate(&s, &mut list, pfn);
                        }
                    }
                }
                7 => {
                    if rng.below(2) == 0 {
                        migrate(&s, &mut list);
                    }
                    s.mm.putback_list(&mut list);
                }
                8 | 9 => {
                    for _ in 0..rng.below(200) {
                        let gfp = Gfp::HIGHUSER_MOVABLE | Gfp::NOWARN;
                        let Ok(h) = arena.alloc(s.mm, gfp) else { break };
                        let n = rng.below(u64::MAX);
                        let write =
                            |b: &mut [u8; PAGE_SIZE]| b[..8].copy_from_slice(&n.to_le_bytes());
                        arena.with(s.mm, h, write).expect("live");
                        handles.push((h, n));
                    }
                }
                10 => {
                    let order = Order(rng.below(4) as u8);
                    for _ in 0..rng.below(100) {
                        pages.extend(
                            s.mm.alloc_pages(Request::new(order, Gfp::KERNEL | Gfp::NOWARN)),
                        );
                    }
                }
                _ => {
                    handles.retain(|&(h, n)| {
                        let keep = rng.below(3) > 0;
                        if !keep {
                            let read = |b: &mut [u8; PAGE_SIZE]| {
                                u64::from_le_bytes(b[..8].try_into().expect("8"))
                            };
                            assert_eq!(arena.with(s.mm, h, read), Ok(n), "a page lost its content");
                            arena.free(s.mm, h).expect("live");
                        }
                        keep
                    });
                    pages.retain(|&page| {
                        let keep = rng.below(2) > 0;
                        if !keep {
                            s.mm.free_pages(page).expect("its own");
                        }
                        keep
                    });
                }
            }
            if op % 16 == 15 {
                s.mm.putback_list(&mut list);
                s.check();
            }
        }
        s.mm.putback_list(&mut list);
        handles.into_iter().for_each(|(h, _)| arena.free(s.mm, h).expect("live"));
        pages.into_iter().for_each(|page| s.mm.free_pages(page).expect("its own"));
        arena.release_tables(s.mm).expect("empty");
        assert_eq!(s.go(0), Step::Done);
        assert_eq!(s.free(), free);
        s.check();
    }
}

/// Compaction, a CMA area and contiguous allocations of other CPUs move the
/// balloon's pages while it grows and shrinks.
#[test]
fn moved_while_it_grows_and_shrinks() {
    let mut config = Config::default();
    if !cfg!(miri) {
        config.cma[0] =
            Some(CmaRequest { size: 8 << 20, base: None, end: None, order_per_bit: Order(0) });
    }
    let s = setup_on(MIB, 4, LENIENT, &config);
    let free = s.free();
    let start = Barrier::new(4);
    let stop = AtomicBool::new(false);
    let rounds = if cfg!(miri) { 1 } else { 40 };
    std::thread::scope(|scope| {
        let (s, start, stop) = (&s, &start, &stop);
        for cpu in 1..4u16 {
            scope.spawn(move || {
                s.mm.platform().run_on(CpuId(cpu));
                let mut rng = Rng(u64::from(cpu));
                start.wait();
                while !stop.load(Relaxed) {
                    match cpu {
                        1 => drop(s.mm.compact_memory(None)),
                        2 => {
                            let count = 1 + rng.below(2000);
                            let gfp = Gfp::KERNEL | Gfp::NOWARN;
                            if let Ok(r) = s.mm.cma_alloc(CmaId::DEFAULT, count, Order(0), gfp) {
                                s.mm.cma_release(CmaId::DEFAULT, r).expect("ours");
                            }
                        }
                        _ => {
                            let at = 0x400 + rng.below((MIB << 8) - 0x800);
                            let range = PfnRange::sized(Pfn(at), 1 + rng.below(0x300));
                            if let Ok(r) = s.mm.alloc_contig_range(range, Gfp::KERNEL | Gfp::NOWARN)
                            {
                                s.mm.free_contig_range(r).expect("ours");
                            }
                        }
                    }
                }
            });
        }
        s.mm.platform().run_on(CpuId(0));
        start.wait();
        let mut rng = Rng(77);
        for _ in 0..rounds {
            let target = rng.below(free * 3 / 4);
            for _ in 0..8 {
                if s.balloon.toward(s.mm, target) == Ok(Step::Done) {
                    break;
                }
            }
            if rng.below(4) == 0 {
                s.balloon.out_of_memory(s.mm);
            }
        }
        // Until something has moved, whatever the threads' fortunes were.
        while s.event(Event::BalloonMigrate) == 0 && !cfg!(miri) {
            s.balloon.toward(s.mm, free / 2).expect("honest");
        }
        stop.store(true, Relaxed);
    });
    s.check();
    assert_eq!(s.go(0), Step::Done);
    assert_eq!(s.free(), free);
    s.check();
    let [inflated, deflated] = [Event::BalloonInflate, Event::BalloonDeflate].map(|e| s.event(e));
    assert_eq!(inflated, deflated);
}
