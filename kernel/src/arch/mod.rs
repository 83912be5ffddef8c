//! The x86_64 machine: processor features, tables and traps, timers, ports.
//! Calls `console` (to log) and, for what a trap means, `crash`.

pub(crate) mod apic;
pub(crate) mod cpu;
pub(crate) mod devices;
pub(crate) mod exit;
pub(crate) mod gdt;
pub(crate) mod idt;
pub(crate) mod ioapic;
pub(crate) mod irq;
pub(crate) mod pat;
pub(crate) mod percpu;
pub(crate) mod pic;
pub(crate) mod pit;
pub(crate) mod restart;
pub(crate) mod time;
pub(crate) mod trap;
pub(crate) mod wide;
