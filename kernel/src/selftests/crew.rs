//! The CPUs that suites run on at once: a thread on each, which waits to be
//! told what to do. They stay, so that no test measures their stacks. Calls
//! `task`, `smp`.

use crate::arch::irq::IrqMutex;
use crate::arch::percpu;
use crate::smp;
use crate::task::{self, Config, WaitQueue};
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use mm::sync::LockRank;
use mm::types::CpuId;
use quarry_kernel::cpuset::CpuSet;
use quarry_kernel::sched::Name;
use selftest::Crew;

/// A function that is there until its caller knows that nobody calls it any
/// more.
#[derive(Clone, Copy)]
struct Work(*const (dyn Fn(u16) + Sync));

// SAFETY: it may be called from anywhere, and `run` sees to it that it is there.
unsafe impl Send for Work {}

/// What is to be done, and by how many.
#[derive(Clone, Copy)]
struct Order {
    work: Work,
    workers: u16,
    /// The how manieth it is.
    number: u32,
}

static ORDER: IrqMutex<Option<Order>> = IrqMutex::new(LockRank::Leaf, None);
/// Orders given so far.
static GIVEN: AtomicU32 = AtomicU32::new(0);
/// Workers that have not finished the last of them.
static BUSY: AtomicU16 = AtomicU16::new(0);
/// Where workers wait for an order.
static CALL: WaitQueue = WaitQueue::new();
/// Where whoever gave it waits for its end.
static END: WaitQueue = WaitQueue::new();

/// Milliseconds that CPUs have to begin taking threads.
const PATIENCE_MS: u64 = 2000;

/// The kernel's CPUs, as many as have a worker.
pub(super) struct Workers {
    count: AtomicU16,
}

/// There is one crew.
static WORKERS: Workers = Workers { count: AtomicU16::new(0) };

/// Starts a worker on each CPU, once. What CPUs are missing is told.
pub(super) fn start() -> &'static Workers {
    if WORKERS.count.load(Ordering::Relaxed) > 0 {
        return &WORKERS;
    }
    let wanted = smp::online().len();
    let online = || percpu::all().filter(|area| area.sched.is_online());
    for _ in 0..PATIENCE_MS {
        if online().count() >= wanted {
            break;
        }
        // They have been started, and are on their way to their idle threads.
        task::sleep(1);
    }
    for area in online() {
        let number = WORKERS.count.load(Ordering::Relaxed);
        match hire(number, area.id()) {
            Ok(()) => WORKERS.count.store(number + 1, Ordering::Relaxed),
            Err(error) => log::warn!("no worker on CPU {}: {error}", area.id().0),
        }
    }
    &WORKERS
}

fn hire(number: u16, cpu: CpuId) -> Result<(), task::SpawnError> {
    let name = Name::numbered("crew", u64::from(cpu.0));
    let config = Config { cpus: CpuSet::one(cpu), ..Config::new(name) };
    task::spawn(&config, move || serve(number)).map(drop)
}

/// A worker's life.
fn serve(number: u16) {
    let mut done = 0;
    loop {
        CALL.wait_until(|| GIVEN.load(Ordering::Acquire) != done);
        let given = GIVEN.load(Ordering::Acquire);
        let order = *ORDER.lock();
        // One that was not for this worker may be over, or another one be there.
        done = order.map_or(given, |order| order.number);
        if let Some(Order { work, .. }) = order.filter(|order| number < order.workers) {
            // SAFETY: it is there until all its workers have said that they are
            // done, and this one has not yet.
            unsafe { (*work.0)(number) };
            if BUSY.fetch_sub(1, Ordering::AcqRel) == 1 {
                END.wake_all();
            }
        }
    }
}

impl Crew for Workers {
    fn cpus(&self) -> u16 {
        self.count.load(Ordering::Relaxed).max(1)
    }

    fn run(&self, workers: u16, work: &(dyn Fn(u16) + Sync)) -> bool {
        if workers > self.count.load(Ordering::Relaxed) {
            return false;
        }
        // SAFETY: only how long it is there is forgotten, and this function
        // does not return before the last call of it has.
        let work = unsafe {
            core::mem::transmute::<*const (dyn Fn(u16) + Sync + '_), *const (dyn Fn(u16) + Sync)>(
                work,
            )
        };
        BUSY.store(workers, Ordering::Relaxed);
        let number = GIVEN.load(Ordering::Relaxed).wrapping_add(1);
        *ORDER.lock() = Some(Order { work: Work(work), workers, number });
        GIVEN.store(number, Ordering::Release);
        CALL.wake_all();
        END.wait_until(|| BUSY.load(Ordering::Acquire) == 0);
        *ORDER.lock() = None;
        true
    }
}
