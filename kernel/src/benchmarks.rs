//! Measures what operations cost, when the command line says `bench=GLOB`: the
//! time stamp counter, a thread that uses memory, and where the figures go.
//! Calls `bench`, `console`, `arch::time`, `task`, `drivers`.

use crate::arch::time;
use crate::console;
use crate::drivers::zram;
use crate::platform::Machine;
use crate::task::{self, Mutex};
use bench::{Boot, Compressed, Cost, Counter, Ground, Report, Scratch, Threads, Why};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use mm::Mm;
use mm::arena::MovableArena;
use mm::mmu::VirtAddr;
use mm::space::{Access, FaultError, SpaceRef};
use mm::swap::SwapDevice;
use mm::types::PAGE_SIZE;

/// What the start of the memory manager took, and for how many pages; 0 until
/// it is known.
static BOOT: (AtomicU64, AtomicU64) = (AtomicU64::new(0), AtomicU64::new(0));

/// Room for what is measured, and whether the arena has been registered.
static SCRATCH: Mutex<(Scratch, bool)> = Mutex::new((Scratch::new(), false));
static ARENA: MovableArena<Machine> = MovableArena::new();

/// Notes what the start of the memory manager took.
pub(crate) fn set_boot(counts: u64, pages: u64) {
    BOOT.0.store(counts, Relaxed);
    BOOT.1.store(pages, Relaxed);
}

struct Tsc;

impl Counter for Tsc {
    fn now(&self) -> u64 {
        time::counter()
    }
}

/// Iterations of the loop that shows what the counter counts.
const LOOPS: u64 = 100_000;

/// What the counter makes of a loop of two instructions, each time round: 2 if
/// it counts instructions.
fn calibration() -> Cost {
    let before = time::counter();
    // SAFETY: counts a register down and touches nothing else.
    unsafe {
        core::arch::asm!(
            "2: dec {left}",
            "jnz 2b",
            left = inout(reg) LOOPS => _,
            options(nomem, nostack),
        );
    }
    Cost::shared(time::counter() - before, LOOPS)
}

/// Pages that compaction is measured on at most: all of the machine's.
const MOST: u64 = u64::MAX;

/// This thread, for a while.
struct Visitor;

impl Threads<Machine> for Visitor {
    fn touch(
        &self,
        mm: &'static Mm<Machine>,
        space: &SpaceRef<'static>,
        va: VirtAddr,
        pages: u64,
        access: Access,
    ) -> Result<(), FaultError> {
        task::space::enter(mm.space_get(space));
        for page in 0..pages {
            let at = va.add(page * PAGE_SIZE as u64).0 as *mut u8;
            // SAFETY: the space's memory, which nobody else knows of; what is not
            // there comes by a fault, or that ends this thread.
            unsafe {
                match access {
                    Access::Read => {
                        at.read_volatile();
                    }
                    Access::Write => at.write_volatile(1),
                }
            }
        }
        if let Some(space) = task::space::leave() {
            mm.space_put(space);
        }
        Ok(())
    }
}

/// The kernel's compressed memory.
struct CompressedRam;

impl Compressed<Machine> for CompressedRam {
    fn set_up(&self, mm: &'static Mm<Machine>, slots: u32) -> Option<&'static dyn SwapDevice> {
        zram::device().set_up(mm, slots).ok()?;
        let device = zram::swap(mm, zram::device().name());
        if device.is_none() {
            self.reset(mm);
        }
        device
    }

    fn reset(&self, mm: &'static Mm<Machine>) {
        zram::device().reset(mm);
    }
}

/// Lines that `scripts/bench` reads.
struct Lines;

impl Report for Lines {
    fn figure(&mut self, suite: &'static str, row: &'static str, cost: Cost) {
        console::line(format_args!("QUARRY-BENCH {suite}.{row} {cost}"));
    }

    fn skipped(&mut self, suite: &'static str, why: Why) {
        console::line(format_args!("# {suite}: {why}"));
    }
}

/// Measures what `globs` select. False if something failed, or nothing was
/// measured. Interrupts on, no lock held.
pub(crate) fn run(mm: &'static Mm<Machine>, globs: &str) -> bool {
    let mut scratch = SCRATCH.lock();
    let (scratch, registered) = &mut *scratch;
    if !*registered && ARENA.register(mm).is_err() {
        log::error!("no benchmarks: too many drivers of movable pages");
        return false;
    }
    *registered = true;
    let boot = Boot { counts: BOOT.0.load(Relaxed), pages: BOOT.1.load(Relaxed) };
    let boot = Some(boot).filter(|boot| boot.pages > 0);
    let (threads, compressed) = (&Visitor, &CompressedRam);
    let on = Ground { mm, arena: &ARENA, threads, compressed, most: MOST, boot };
    let loop_of_two = calibration();
    console::line(format_args!("QUARRY-BENCH-LOOP {loop_of_two}"));
    if loop_of_two != Cost::shared(2, 1) {
        console::line(format_args!("# counts of the clock, not instructions: that takes QEMU's"));
        console::line(format_args!("# -icount shift=0,sleep=off, as scripts/bench gives it"));
    }
    let tally = bench::run(&on, globs, &Tsc, scratch, &mut Lines);
    console::line(format_args!(
        "QUARRY-BENCH-END figures={} failed={}",
        tally.figures, tally.failed
    ));
    tally.figures > 0 && tally.failed == 0
}
