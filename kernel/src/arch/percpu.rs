//! What each CPU has for itself, reached through GS. There is one CPU now; a
//! second one needs an area of its own and its GS base, nothing else here.
//! Calls nothing.

use crate::arch::gdt::CpuTables;
use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};
use mm::sync::HeldLocks;
use mm::types::CpuId;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::GsBase;

/// One CPU's own area.
#[repr(C)]
pub(crate) struct PerCpu {
    /// Where this area lies, for [`this`] to read through GS.
    this: *const Self,
    id: CpuId,
    /// Nesting depth of hardware interrupt handlers.
    irq_depth: AtomicU32,
    /// What debug builds know of this CPU's tokens and locks.
    pub(crate) held: HeldLocks,
    /// Descriptor tables and the task state segment.
    pub(crate) tables: CpuTables,
}

// SAFETY: the pointer never changes, and what it points to may be shared.
unsafe impl Sync for PerCpu {}

static BOOT_CPU: PerCpu = PerCpu {
    this: &raw const BOOT_CPU,
    id: CpuId(0),
    irq_depth: AtomicU32::new(0),
    held: HeldLocks::new(),
    tables: CpuTables::new(),
};

/// Gives the boot CPU its area. Called once, before anything asks for
/// [`cpu_id`].
pub(crate) fn init_boot_cpu() -> &'static PerCpu {
    GsBase::write(VirtAddr::from_ptr(&raw const BOOT_CPU));
    &BOOT_CPU
}

/// The area of the CPU this runs on, which may change as soon as interrupts are
/// on.
#[inline]
pub(crate) fn this() -> &'static PerCpu {
    let area: *const PerCpu;
    // SAFETY: GS points to this CPU's area since `init_boot_cpu`.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) area, const offset_of!(PerCpu, this),
             options(nostack, readonly, preserves_flags));
    }
    // SAFETY: areas are static and shared.
    unsafe { &*area }
}

/// The CPU this runs on; it may change as soon as interrupts are on.
#[inline]
pub(crate) fn cpu_id() -> CpuId {
    this().id
}

/// Notes that a hardware interrupt handler begins.
pub(crate) fn enter_irq() {
    this().irq_depth.fetch_add(1, Ordering::Relaxed);
}

/// Notes that a hardware interrupt handler ends.
pub(crate) fn leave_irq() {
    this().irq_depth.fetch_sub(1, Ordering::Relaxed);
}

/// Whether this runs in a hardware interrupt handler.
pub(crate) fn in_irq() -> bool {
    this().irq_depth.load(Ordering::Relaxed) != 0
}
