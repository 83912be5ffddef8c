//! The 8254 timer's channel 2, to measure other clocks against. Calls nothing.

use core::arch::x86_64::_rdtsc;
use x86_64::instructions::port::Port;

/// The 8254's input clock (Hz).
pub(crate) const HZ: u64 = 1_193_182;

const CHANNEL_2: u16 = 0x42;
const COMMAND: u16 = 0x43;
/// System control port B: gate of channel 2 (bit 0), speaker (bit 1), output
/// of channel 2 (bit 5).
const PORT_B: u16 = 0x61;

/// Looks at the timer before it counts as broken; each takes microseconds on
/// real hardware.
const PATIENCE: u32 = 1_000_000;

/// Tries to read both clocks at the same moment.
const TRIES: u32 = 8;

/// Both clocks at one moment.
#[derive(Clone, Copy)]
struct Sample {
    tsc: u64,
    /// Of the 8254, which counts down.
    count: u16,
}

/// Latches and reads the count of channel 2.
fn count() -> u16 {
    let (mut command, mut channel) = (Port::<u8>::new(COMMAND), Port::<u8>::new(CHANNEL_2));
    // SAFETY: latching stops nothing, and both reads belong to one latch.
    unsafe {
        command.write(0b1000_0000);
        u16::from_le_bytes([channel.read(), channel.read()])
    }
}

fn tsc() -> u64 {
    // SAFETY: every x86_64 processor has the instruction, and ring 0 may use it.
    unsafe { _rdtsc() }
}

/// Reads both clocks, as close together as it gets: a hypervisor may take the
/// processor away in between.
fn sample() -> Sample {
    let (mut best, mut least) = (Sample { tsc: 0, count: 0 }, u64::MAX);
    for _ in 0..TRIES {
        let before = tsc();
        let count = count();
        let took = tsc().wrapping_sub(before);
        if took < least {
            (best, least) = (Sample { tsc: before + took / 2, count }, took);
        }
    }
    best
}

/// How far the time stamp counter moves while the 8254 counts a number of
/// ticks, at least `ticks` (at most 32768): both numbers, or None when the 8254
/// does not answer. Interrupts should be off.
pub(crate) fn measure_tsc(ticks: u16) -> Option<(u64, u64)> {
    let (mut port_b, mut command) = (Port::<u8>::new(PORT_B), Port::<u8>::new(COMMAND));
    let mut channel = Port::<u8>::new(CHANNEL_2);
    // SAFETY: channel 2 and its gate belong to this function; the speaker is
    // kept off. On machines without the device nothing listens.
    let before = unsafe {
        let before = port_b.read();
        port_b.write((before & !0x02) | 0x01);
        // Channel 2, low byte then high byte, mode 0: counts down from 65535.
        command.write(0b1011_0000);
        channel.write(0xff);
        channel.write(0xff);
        before
    };
    let start = sample();
    // Without a timer behind the ports the count stands still.
    let waited = (0..PATIENCE).any(|_| start.count.wrapping_sub(count()) >= ticks);
    let end = sample();
    // SAFETY: as above.
    unsafe { port_b.write(before) };
    let passed = u64::from(start.count.wrapping_sub(end.count));
    waited.then(|| (passed, end.tsc.wrapping_sub(start.tsc)))
}
