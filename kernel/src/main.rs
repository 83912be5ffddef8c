//! The Quarry kernel.
#![no_std]
#![no_main]

use bootloader_api::{BootInfo, entry_point};
use core::panic::PanicInfo;
use x86_64::instructions::{hlt, port::Port};

entry_point!(kernel_main);

/// COM1's transmit register.
const COM1: u16 = 0x3f8;
/// QEMU's isa-debug-exit device: leaves with status `value << 1 | 1`.
const DEBUG_EXIT: u16 = 0xf4;

fn kernel_main(_info: &'static mut BootInfo) -> ! {
    for byte in b"quarry: kernel entered\r\n" {
        // SAFETY: writing COM1's data register sends a byte, or nothing where there is no UART.
        unsafe { Port::new(COM1).write(*byte) };
    }
    exit(0x10)
}

/// Leaves QEMU, or stops where there is none.
fn exit(status: u32) -> ! {
    // SAFETY: port 0xf4 is QEMU's exit device; elsewhere nothing listens.
    unsafe { Port::new(DEBUG_EXIT).write(status) };
    loop {
        hlt();
    }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    exit(0x11)
}
