//! The end of a run: tells QEMU how it went, or stops. Calls
//! `console`, `smp`.

use crate::{console, smp};
use x86_64::instructions::{hlt, interrupts, port::Port};

/// QEMU's isa-debug-exit device; QEMU leaves with status `value << 1 | 1`.
const DEBUG_EXIT: u16 = 0xf4;

/// How a run went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Verdict {
    /// QEMU's status becomes 33.
    Passed = 0x10,
    /// QEMU's status becomes 35.
    Failed = 0x11,
}

/// Leaves QEMU with `verdict`, from any CPU. On a machine without the exit device
/// all CPUs stay halted, so that what is on the screen and the serial line remains.
pub(crate) fn exit(verdict: Verdict) -> ! {
    interrupts::disable();
    console::flush();
    // SAFETY: port 0xf4 is QEMU's exit device; elsewhere it reaches nothing
    // (formerly the coprocessor's reset, which ignores a write).
    unsafe { Port::new(DEBUG_EXIT).write(verdict as u32) };
    smp::stop_others();
    loop {
        hlt();
    }
}
