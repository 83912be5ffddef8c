//! Contiguous ranges on a machine whose other CPUs allocate, free and move.
#![cfg(feature = "host")]

use mm::arena::MovableArena;
use mm::cma::{CmaId, CmaRequest};
use mm::contig::ContigError;
use mm::host::{Machine, pc};
use mm::types::{CpuId, MigrateType, Order, PAGEBLOCK_PAGES, Pfn, PfnRange};
use mm::{Config, Gfp, Mm, Page, Request};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Under Miri the machines are small and the operations are what is watched: an
/// audit there takes longer than all of a test.
#[track_caller]
fn audit(mm: &Mm<Machine>) {
    if !cfg!(miri) {
        mm.audit().expect("whole");
    }
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    }
}

/// Allocates and frees pages of all kinds until told to stop; begins with some
/// that move, before the others start.
fn load(
    mm: &Mm<Machine>,
    arena: &MovableArena<Machine>,
    seed: u64,
    start: &Barrier,
    stop: &AtomicBool,
) {
    let mut rng = Rng(seed);
    let mut pages: Vec<Page> = Vec::new();
    let mut handles = Vec::new();
    for _ in 0..if cfg!(miri) { 20 } else { 1000 } {
        let h = arena.alloc(mm, Gfp::HIGHUSER_MOVABLE).expect("memory is empty");
        arena.with(mm, h, |b| b[..8].fill(0)).expect("live");
        handles.push((h, 0));
    }
    start.wait();
    while !stop.load(Relaxed) {
        match rng.below(6) {
            0 => {
                let request = Request::new(Order(rng.below(4) as u8), Gfp::NOWAIT | Gfp::NOWARN);
                pages.extend(mm.alloc_pages(request));
            }
            1 | 2 => {
                if let Ok(h) = arena.alloc(mm, Gfp::HIGHUSER_MOVABLE | Gfp::NOWARN) {
                    let n = rng.below(u64::MAX);
                    arena.with(mm, h, |b| b[..8].copy_from_slice(&n.to_le_bytes())).expect("live");
                    handles.push((h, n));
                }
            }
            3 if pages.len() > 200 || rng.below(2) == 0 && !pages.is_empty() => {
                let page = pages.swap_remove(rng.below(pages.len() as u64) as usize);
                mm.free_pages(page).expect("its own");
            }
            _ if handles.len() > 1500 || rng.below(3) == 0 && !handles.is_empty() => {
                let (h, n) = handles.swap_remove(rng.below(handles.len() as u64) as usize);
                let found = arena
                    .with(mm, h, |b| u64::from_le_bytes(b[..8].try_into().expect("8")))
                    .expect("live");
                assert_eq!(found, n, "a moved page has its content");
                arena.free(mm, h).expect("live");
            }
            _ => {}
        }
    }
    for page in pages {
        mm.free_pages(page).expect("its own");
    }
    for (h, _) in handles {
        arena.free(mm, h).expect("live");
    }
}

#[test]
fn nothing_is_lost_while_others_are_at_it() {
    let (mib, rounds) = if cfg!(miri) { (6, 4) } else { (32, 1500) };
    let mut config = Config::default();
    let size = if cfg!(miri) { 2 << 20 } else { 8 << 20 };
    config.cma[0] = Some(CmaRequest { size, base: None, end: None, order_per_bit: Order(0) });
    let mm = pc(mib, 4, &config).expect("a machine");
    let arena: &'static MovableArena<Machine> = Box::leak(Box::default());
    arena.register(&mm).expect("room for a driver");
    let free = mm.free_pages_total();
    let area = mm.cma_area(CmaId::DEFAULT).expect("there").range();
    let (start, stop) = (Barrier::new(4), AtomicBool::new(false));
    let (had, moved) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for cpu in [0u16, 1] {
            let (mm, start, stop) = (&mm, &start, &stop);
            scope.spawn(move || {
                mm.platform().run_on(CpuId(cpu));
                load(mm, arena, 77 + u64::from(cpu), start, stop);
            });
        }
        let takers: Vec<_> = [2u16, 3]
            .into_iter()
            .map(|cpu| {
                let (mm, start, had) = (&mm, &start, &had);
                scope.spawn(move || {
                    mm.platform().run_on(CpuId(cpu));
                    start.wait();
                    let mut rng = Rng(99 + u64::from(cpu));
                    for _ in 0..rounds {
                        if rng.below(2) == 0 {
                            let count = 1 + rng.below(700);
                            if let Ok(r) =
                                mm.cma_alloc(CmaId::DEFAULT, count, Order(0), Gfp::KERNEL)
                            {
                                had.fetch_add(1, Relaxed);
                                mm.cma_release(CmaId::DEFAULT, r).expect("its own");
                            }
                        } else {
                            let start = 0x100 + rng.below((mib << 8) - 0x100 - area.pages());
                            let end = (start + 1 + rng.below(700)).min(area.start.0);
                            let r = PfnRange::new(Pfn(start), Pfn(end));
                            match mm.alloc_contig_range(r, Gfp::KERNEL) {
                                Ok(r) => {
                                    had.fetch_add(1, Relaxed);
                                    mm.free_contig_range(r).expect("its own");
                                }
                                Err(
                                    ContigError::Busy(_)
                                    | ContigError::NoMemory
                                    | ContigError::Invalid(_),
                                ) => {}
                            }
                        }
                    }
                })
            })
            .collect();
        for taker in takers {
            taker.join().expect("no panic");
        }
        moved.store(mm.stats().get(mm::stats::Event::MigrateSuccess), Relaxed);
        stop.store(true, Relaxed);
    });
    if !cfg!(miri) {
        assert!(had.into_inner() > 0 && moved.into_inner() > 0);
    }
    audit(&mm);
    arena.release_tables(&mm).expect("empty");
    mm.drain_all(None);
    assert_eq!(mm.free_pages_total(), free);
    for block in (area.start.0..area.end.0).step_by(PAGEBLOCK_PAGES as usize) {
        let ty = mm.map().try_block(Pfn(block)).expect("present").migratetype();
        assert_eq!(ty, MigrateType::Cma);
    }
    audit(&mm);
}
