//! A thousand passes with a device that fails, goes and comes back at any time,
//! while threads allocate and free: nobody's memory is touched, and no page is
//! lost.

use crate::device::machine;
use mm::host::Machine;
use mm::platform::Platform;
use mm::report::{NoPass, RegisterError, ReportDevice, ReportFailed};
use mm::types::{CpuId, Order, PfnRange};
use mm::{Gfp, Mm, Page, Request};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    }
}

/// Takes what is in the blocks away, as a host does, and often fails.
struct Wild {
    mm: &'static Mm<Machine>,
    dice: AtomicU64,
}

fn word(mm: &Mm<Machine>, pfn: mm::types::Pfn) -> *mut u64 {
    mm.platform().frame(pfn).cast()
}

impl ReportDevice for Wild {
    fn report(&self, blocks: &[PfnRange]) -> Result<(), ReportFailed> {
        for block in blocks {
            for pfn in (block.start.0..block.end.0).map(mm::types::Pfn) {
                // SAFETY: the manager holds the block until this returns.
                unsafe { word(self.mm, pfn).write(0xdead) };
            }
        }
        let mut rng = Rng(self.dice.fetch_add(0x9e37_79b9, Relaxed) | 1);
        rng.below(8);
        match rng.below(8) {
            0 | 1 => Err(ReportFailed::Refused),
            2 => Err(ReportFailed::Gone),
            3 => Err(ReportFailed::Lost),
            _ => Ok(()),
        }
    }
}

fn user(mm: &Mm<Machine>, cpu: u16, stop: &AtomicBool) {
    mm.platform().run_on(CpuId(cpu));
    let mut rng = Rng(u64::from(cpu) + 77);
    let mut held: Vec<(Page, u64)> = Vec::new();
    let mut tag = u64::from(cpu) << 48;
    let mut give = |(page, tag): (Page, u64)| {
        for i in 0..page.order.pages() {
            // SAFETY: the block is this thread's.
            let seen = unsafe { word(mm, page.pfn.add(i)).read() };
            assert_eq!(seen, tag, "{page:?} was touched by another");
        }
        mm.free_pages(page).expect("a held block");
    };
    while !stop.load(Relaxed) {
        if held.len() < 40 && rng.below(2) == 0 {
            let order = [0, 0, 3, 6, 8, 9, 10][rng.below(7) as usize];
            let gfp = if rng.below(2) == 0 { Gfp::KERNEL } else { Gfp::KERNEL | Gfp::MOVABLE };
            let request = Request::new(Order(order), gfp | Gfp::NOWARN | Gfp::NORETRY);
            if let Ok(page) = mm.alloc_pages(request) {
                tag += 1;
                for i in 0..page.order.pages() {
                    // SAFETY: the block is this thread's.
                    unsafe { word(mm, page.pfn.add(i)).write(tag) };
                }
                held.push((page, tag));
            }
        } else if !held.is_empty() {
            let at = rng.below(held.len() as u64) as usize;
            give(held.swap_remove(at));
        }
    }
    held.into_iter().for_each(&mut give);
}

#[test]
fn a_thousand_passes_with_a_device_that_comes_and_goes() {
    const ROUNDS: u64 = 20;
    const PASSES: u64 = 50;
    let mm = machine(256, 4);
    let all = mm.free_pages_total();
    mm.set_report_order(Order(6));
    let device: &Wild = Box::leak(Box::new(Wild { mm, dice: AtomicU64::new(1) }));
    for round in 0..ROUNDS {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for cpu in 1..3 {
                let stop = &stop;
                scope.spawn(move || user(mm, cpu, stop));
            }
            // Takes leave of the device in the middle of passes.
            scope.spawn(|| {
                mm.platform().run_on(CpuId(3));
                let mut rng = Rng(round + 5);
                while !stop.load(Relaxed) {
                    match rng.below(3) {
                        0 => drop(mm.report_unregister()),
                        1 => drop(mm.set_reporting(rng.below(4) > 0)),
                        _ => {
                            let order = 4 + rng.below(6) as u8;
                            assert!(mm.set_report_order(Order(order)));
                        }
                    }
                    std::thread::yield_now();
                }
                mm.set_reporting(true);
            });
            // Such as had something to tell.
            let told = || mm.report_stats().batches + mm.report_stats().failures;
            let enough = told() + PASSES;
            while told() < enough {
                match mm.report_register(device, None) {
                    Ok(()) | Err(RegisterError::Busy) => {}
                    Err(RegisterError::Lost) => drop(mm.report_recover()),
                    Err(why) => panic!("{why}"),
                }
                match mm.report_now() {
                    Ok(_) | Err(NoPass::Busy | NoPass::NoDevice | NoPass::Off) => {}
                }
                std::thread::yield_now();
            }
            stop.store(true, Relaxed);
        });
        mm.report_unregister();
        mm.report_recover();
        mm.drain_all(None);
        assert_eq!(mm.free_pages_total(), all, "round {round}");
        let audit = mm.audit().expect("whole");
        assert_eq!(audit.out, 0);
        mm.platform().take_log();
    }
    let stats = mm.report_stats();
    println!("{stats:?}");
    assert!(stats.batches + stats.failures >= ROUNDS * PASSES);
    assert!(stats.failures > 0 && stats.batches > 0);
}
