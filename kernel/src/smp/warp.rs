//! Whether a started CPU's time stamp counter agrees with that of the CPU that
//! starts it (Linux arch/x86/kernel/tsc_sync.c). The new one asks, the other
//! answers while it waits. Calls `arch::time`.

use crate::arch::percpu::{self, PerCpu};
use crate::arch::time;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering};
use mm::types::CpuId;
use quarry_kernel::tsc::{Comparison, Difference};

/// Questions; the best of the answers counts.
const ROUNDS: u64 = 64;
/// Looks for an answer before the other is taken to be gone.
const PATIENCE: u32 = 100_000_000;

/// Number of the last question.
static ASKED: AtomicU64 = AtomicU64::new(0);
/// Number of the last answer.
static ANSWERED: AtomicU64 = AtomicU64::new(0);
/// What the answer is.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Answers a question, if there is one: on the CPU that starts another one.
pub(super) fn answer() {
    let asked = ASKED.load(Ordering::Acquire);
    if asked != ANSWERED.load(Ordering::Relaxed) {
        COUNTER.store(time::counter(), Ordering::Relaxed);
        ANSWERED.store(asked, Ordering::Release);
    }
}

/// Asks, on the CPU that is being started, and notes by how much its counter has
/// to be corrected.
pub(super) fn ask() {
    let mut comparison = Comparison::new();
    for _ in 0..ROUNDS {
        let before = time::counter();
        let question = ASKED.load(Ordering::Relaxed) + 1;
        ASKED.store(question, Ordering::Release);
        let mut left = PATIENCE;
        while ANSWERED.load(Ordering::Acquire) != question {
            left -= 1;
            if left == 0 {
                return;
            }
            spin_loop();
        }
        comparison.add(before, COUNTER.load(Ordering::Relaxed), time::counter());
    }
    if let Difference::Ahead(ahead) = comparison.difference() {
        percpu::this().tsc_offset.store(ahead as u64, Ordering::Relaxed);
    }
}

/// Logs what [`ask`] has found on CPU `cpu`.
pub(super) fn report(cpu: CpuId, area: &PerCpu) {
    let offset = area.tsc_offset.load(Ordering::Relaxed) as i64;
    if offset != 0 {
        log::warn!(
            "tsc: CPU {}'s counter is {} counts off; its time is corrected",
            cpu.0,
            offset.wrapping_neg()
        );
    }
}
