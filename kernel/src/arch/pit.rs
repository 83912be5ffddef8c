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

/// Looks at the timer's output before it counts as broken; each takes a
/// microsecond or so on real hardware.
const PATIENCE: u32 = 1_000_000;

/// How far the time stamp counter moves while the 8254 counts `ticks`, or None
/// when the 8254 does not answer. Interrupts should be off.
pub(crate) fn measure_tsc(ticks: u16) -> Option<u64> {
    let (mut port_b, mut command) = (Port::<u8>::new(PORT_B), Port::<u8>::new(COMMAND));
    let mut channel = Port::<u8>::new(CHANNEL_2);
    // SAFETY: channel 2 and its gate belong to this function; the speaker is
    // kept off. On machines without the device nothing listens.
    unsafe {
        let before = port_b.read();
        port_b.write((before & !0x02) | 0x01);
        // Channel 2, low byte then high byte, mode 0: output rises at zero.
        command.write(0b1011_0000);
        channel.write(ticks as u8);
        channel.write((ticks >> 8) as u8);
        let start = _rdtsc();
        let mut end = None;
        for round in 0..PATIENCE {
            if port_b.read() & 0x20 != 0 {
                // High at once: no timer behind the port.
                end = (round > 0).then(|| _rdtsc());
                break;
            }
        }
        port_b.write(before);
        end.map(|end| end - start)
    }
}
