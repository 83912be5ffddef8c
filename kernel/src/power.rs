//! Switching the machine off and starting it anew, by whatever way it has.
//! Calls `acpi`, `arch`, the pure `sdt::power`.

use crate::acpi;
use crate::arch::exit::{Verdict, exit};
use crate::arch::{idt, time};
use quarry_kernel::sdt::Signature;
use quarry_kernel::sdt::power::{PowerOff, SCI_ENABLED, reset};
use x86_64::instructions::{interrupts, port::Port};

/// How long firmware has to switch ACPI on, or the machine to go off (ms).
const PATIENCE_MS: u64 = 3000;
/// How long a way of starting anew has before the next one is tried (ms).
const RESET_MS: u64 = 100;

/// The PC's reset control port, and what starts the processor anew by it.
const RESET_CONTROL: u16 = 0xcf9;
const HARD_RESET: [u8; 2] = [0x02, 0x06];
/// The keyboard controller's command port, its status bit "input full", and the
/// command that pulls the reset line.
const KEYBOARD: u16 = 0x64;
const KEYBOARD_BUSY: u8 = 2;
const PULSE_RESET: u8 = 0xfe;

fn write_byte(port: u16, byte: u8) {
    // SAFETY: only for ports that the firmware's tables or the PC's convention
    // give for the purpose; whatever happens then was asked for.
    unsafe { Port::new(port).write(byte) };
}

/// Waits until `so`, at most `ms` milliseconds; returns what `so` said last.
fn wait_until(ms: u64, so: impl Fn() -> bool) -> bool {
    let deadline = time::now_ms() + ms;
    loop {
        if so() || time::now_ms() >= deadline {
            return so();
        }
        core::hint::spin_loop();
    }
}

/// Switches the machine off: by ACPI's state S5, else by QEMU's exit device,
/// else it stays halted. Interrupts on, no lock held.
pub(crate) fn off() -> ! {
    let code = acpi::find_all(Signature::DSDT).chain(acpi::find_all(Signature::SSDT));
    let fadt = acpi::find(Signature::FADT);
    match fadt.and_then(|fadt| PowerOff::find(fadt, code)) {
        Some(way) => {
            log::info!("reboot: Power down");
            enter_s5(&way);
            log::warn!("ACPI: the machine does not switch itself off");
        }
        None => log::warn!("ACPI: no way to switch the machine off"),
    }
    log::info!("reboot: System halted");
    exit(Verdict::Passed)
}

fn enter_s5(way: &PowerOff) {
    let read = |port: u16| -> u16 {
        // SAFETY: reading a PM1 control register changes nothing.
        unsafe { Port::new(port).read() }
    };
    let is_enabled = || read(way.pm1a) & SCI_ENABLED != 0;
    if let Some((command, value)) = way.enable.filter(|_| !is_enabled()) {
        write_byte(command, value);
        if !wait_until(PATIENCE_MS, is_enabled) {
            log::warn!("ACPI: the firmware does not let go of the power registers");
        }
    }
    let registers = [(Some(way.pm1a), way.sleep_type.a), (way.pm1b, way.sleep_type.b)];
    for step in 0..2 {
        for (port, sleep_type) in registers {
            let Some(port) = port else { continue };
            let values = PowerOff::values(read(port), sleep_type);
            // SAFETY: the firmware's tables name the register, and what it is
            // to hold for this.
            unsafe { Port::new(port).write(values[step]) };
        }
    }
    wait_until(PATIENCE_MS, || false);
}

/// Starts the machine anew: by the register that ACPI names, the keyboard
/// controller, the reset control port, and an exception that cannot be handled.
pub(crate) fn restart() -> ! {
    log::info!("reboot: Restarting system");
    interrupts::disable();
    if let Some((port, value)) = acpi::find(Signature::FADT).and_then(reset) {
        write_byte(port, value);
        wait_until(RESET_MS, || false);
    }
    // SAFETY: reading the status changes nothing.
    let is_free = || unsafe { Port::<u8>::new(KEYBOARD).read() } & KEYBOARD_BUSY == 0;
    if wait_until(RESET_MS, is_free) {
        write_byte(KEYBOARD, PULSE_RESET);
        wait_until(RESET_MS, || false);
    }
    for value in HARD_RESET {
        write_byte(RESET_CONTROL, value);
        wait_until(RESET_MS, || false);
    }
    idt::triple_fault()
}
