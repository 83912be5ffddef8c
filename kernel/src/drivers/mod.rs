//! The kernel's side of its device drivers: finding devices, their registers,
//! their interrupts, memory for them. What reads what a device writes is
//! `drivers`'. Calls `drivers`, `acpi`, `arch`, `vm`, `task`, `mm`.

pub(crate) mod balloon;
mod bind;
pub(crate) mod blk;
mod config;
pub(crate) mod dma;
pub(crate) mod entropy;
mod env;
mod hotplug;
mod list;
pub(crate) mod messages;
mod pins;
mod registers;
pub(crate) mod virtio_mem;
pub(crate) mod zram;

pub(crate) use pins::interrupt as pin_interrupt;

pub(crate) use list::each as each_function;

use crate::platform::Machine;
use mm::Mm;

/// Finds all devices, and gives each one that there is a driver for to that.
/// Once, in a thread.
pub(crate) fn start(mm: &'static Mm<Machine>) {
    bind::all(mm);
}
