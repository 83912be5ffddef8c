//! Time since boot, from the time stamp counter. Calls `pit`, `cpu`
//! and `percpu`.

use crate::arch::{cpu, irq, percpu, pit};
use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU64, Ordering};

/// Counter value that counts as moment 0.
static BASE: AtomicU64 = AtomicU64::new(0);
/// Counts per millisecond; 0 until it is known.
static PER_MS: AtomicU64 = AtomicU64::new(0);

/// The measurement takes 10 ms.
const TICKS: u16 = (pit::HZ / 100) as u16;

/// Where the counter's frequency came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// Measured against the 8254.
    Pit,
    /// Told by CPUID leaf 0x15 or 0x16.
    Cpuid,
    /// Neither; 1 GHz is assumed, so times are wrong by some factor.
    Assumed,
}

/// Learns the counter's frequency; returns it in kHz, with its source. Times
/// count from the first call of [`start`].
pub(crate) fn calibrate() -> (u64, Source) {
    let measured = pit::measure_tsc(TICKS).and_then(|(ticks, counts)| {
        let khz = u128::from(counts) * u128::from(pit::HZ) / (u128::from(ticks) * 1000);
        u64::try_from(khz).ok()
    });
    let (khz, source) = match (measured.filter(|&khz| khz >= 1000), cpu::tsc_khz()) {
        (Some(khz), _) => (khz, Source::Pit),
        (None, Some(khz)) => (khz, Source::Cpuid),
        (None, None) => (1_000_000, Source::Assumed),
    };
    PER_MS.store(khz, Ordering::Relaxed);
    (khz, source)
}

/// Makes this moment 0.
pub(crate) fn start() {
    BASE.store(counter(), Ordering::Relaxed);
}

/// This CPU's time stamp counter.
pub(crate) fn counter() -> u64 {
    // SAFETY: every x86_64 processor has the instruction, and ring 0 may use it.
    unsafe { _rdtsc() }
}

/// Counts of [`counter`] per millisecond, 0 while unknown.
pub(crate) fn counts_per_ms() -> u64 {
    PER_MS.load(Ordering::Relaxed)
}

/// The time stamp counter as the boot CPU has it, whichever CPU this is.
fn agreed_counter() -> u64 {
    // Counter and offset of one CPU, or time might seem to go back.
    let flags = irq::save();
    let agreed = counter().wrapping_add(percpu::this().tsc_offset.load(Ordering::Relaxed));
    irq::restore(flags);
    agreed
}

/// Microseconds since [`start`], the same on all CPUs; 0 until [`calibrate`] has
/// run.
pub(crate) fn now_us() -> u64 {
    let counts = agreed_counter().wrapping_sub(BASE.load(Ordering::Relaxed));
    let per_ms = counts_per_ms();
    // In two steps, for the product would overflow after hours.
    let Some(ms) = counts.checked_div(per_ms) else { return 0 };
    ms * 1000 + (counts % per_ms) * 1000 / per_ms
}

/// Milliseconds since [`start`]; 0 until [`calibrate`] has run.
pub(crate) fn now_ms() -> u64 {
    now_us() / 1000
}
