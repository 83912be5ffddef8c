//! The Quarry kernel: takes a bare x86_64 machine over from the boot loader,
//! hands its memory to `mm`, and proves on the serial line that `mm` works.
//! This file is the boot itself: its stages in order, each announced before it
//! begins. May call everything.
#![cfg_attr(target_os = "none", no_std, no_main, feature(asm_goto_with_outputs))]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod acpi;
#[cfg(target_os = "none")]
mod arch;
#[cfg(target_os = "none")]
mod backtrace;
#[cfg(target_os = "none")]
mod benchmarks;
#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
mod cmdline;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod crash;
#[cfg(target_os = "none")]
mod drivers;
#[cfg(target_os = "none")]
mod fw_cfg;
#[cfg(target_os = "none")]
mod heap;
#[cfg(target_os = "none")]
mod image;
#[cfg(target_os = "none")]
mod mce;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod numa;
#[cfg(target_os = "none")]
mod platform;
#[cfg(target_os = "none")]
mod power;
#[cfg(target_os = "none")]
mod ramdisk;
#[cfg(target_os = "none")]
mod selftests;
#[cfg(target_os = "none")]
mod shell;
#[cfg(target_os = "none")]
mod smp;
#[cfg(target_os = "none")]
mod stage;
#[cfg(target_os = "none")]
mod summary;
#[cfg(target_os = "none")]
mod take;
#[cfg(target_os = "none")]
mod task;
#[cfg(target_os = "none")]
mod vm;
#[cfg(target_os = "none")]
mod workers;

/// On an operating system there is nothing for a kernel to do.
#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    eprintln!("kernel: runs on bare metal only; `cargo run` at the top boots it in QEMU");
    std::process::ExitCode::from(2)
}
