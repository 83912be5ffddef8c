//! The local APIC's timer. Calls nothing.

use super::{LVT_MASKED, LocalApic, Register};

const LVT_PERIODIC: u32 = 1 << 17;
/// Divide the timer's clock by 16.
const DIVIDE_16: u32 = 0b0011;

/// How long a measurement takes (ms).
const MEASURE_MS: u64 = 5;

/// The frequency at which the timer counts, its clock divided by 16 (kHz), by a
/// clock that `now` reads and that counts `per_ms` in a millisecond. None if
/// the timer stands still. Interrupts should be off; leaves the timer stopped.
pub fn measure_timer(
    apic: &dyn LocalApic,
    per_ms: u64,
    now: &mut dyn FnMut() -> u64,
) -> Option<u64> {
    apic.write(Register::LvtTimer, LVT_MASKED);
    apic.write(Register::DivideConfig, DIVIDE_16);
    apic.write(Register::InitialCount, u32::MAX);
    let (start, mut passed) = (now(), 0);
    while passed < MEASURE_MS * per_ms {
        passed = now().wrapping_sub(start);
    }
    let counted = u64::from(u32::MAX - apic.read(Register::CurrentCount));
    stop_timer(apic);
    let khz = u128::from(counted) * u128::from(per_ms) / u128::from(passed.max(1));
    (khz > 0).then_some(khz as u64)
}

/// Lets a timer that counts at `khz` interrupt at `vector`, `hz` times a second.
/// False if it is too slow for that.
pub fn start_timer(apic: &dyn LocalApic, khz: u64, hz: u64, vector: u8) -> bool {
    let initial = khz.saturating_mul(1000).checked_div(hz).unwrap_or(0);
    if initial == 0 {
        return false;
    }
    apic.write(Register::DivideConfig, DIVIDE_16);
    apic.write(Register::LvtTimer, LVT_PERIODIC | u32::from(vector));
    apic.write(Register::InitialCount, initial.min(u64::from(u32::MAX)) as u32);
    true
}

/// Stops the timer.
pub fn stop_timer(apic: &dyn LocalApic) {
    apic.write(Register::LvtTimer, LVT_MASKED);
    apic.write(Register::InitialCount, 0);
}
