//! What each CPU has for itself, reached through GS: a field for each part of
//! the kernel that keeps something per CPU. Calls nothing.

use crate::arch::gdt::CpuTables;
use core::arch::asm;
use core::mem::offset_of;
use core::ptr::{self, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use mm::sync::HeldLocks;
use mm::types::CpuId;
use quarry_kernel::sdt::MAX_CPUS;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::GsBase;

/// One CPU's own area.
#[repr(C)]
pub(crate) struct PerCpu {
    /// Where this area lies, for [`this`] to read through GS.
    this: AtomicPtr<Self>,
    id: CpuId,
    /// Nesting depth of hardware interrupt handlers.
    irq_depth: AtomicU32,
    /// What debug builds know of this CPU's tokens and locks.
    pub(crate) held: HeldLocks,
    /// Descriptor tables and the task state segment.
    pub(crate) tables: CpuTables,
}

impl PerCpu {
    /// An area for CPU `id`, which becomes that CPU's by [`install`].
    pub(crate) const fn new(id: CpuId) -> Self {
        Self {
            this: AtomicPtr::new(null_mut()),
            id,
            irq_depth: AtomicU32::new(0),
            held: HeldLocks::new(),
            tables: CpuTables::new(),
        }
    }
}

static BOOT_CPU: PerCpu = PerCpu::new(CpuId(0));

/// All areas by CPU, for others to reach; null for a CPU that never ran.
static AREAS: [AtomicPtr<PerCpu>; MAX_CPUS] = [const { AtomicPtr::new(null_mut()) }; MAX_CPUS];

/// Gives the boot CPU its area. Called once, before anything asks for
/// [`cpu_id`].
pub(crate) fn init_boot_cpu() -> &'static PerCpu {
    install(&BOOT_CPU);
    &BOOT_CPU
}

/// Makes `area` that of the CPU this runs on.
pub(crate) fn install(area: &'static PerCpu) {
    let addr = ptr::from_ref(area).cast_mut();
    area.this.store(addr, Ordering::Relaxed);
    GsBase::write(VirtAddr::from_ptr(area));
    AREAS[usize::from(area.id.0)].store(addr, Ordering::Release);
}

/// The area of CPU `cpu`, if it ever ran.
#[expect(dead_code, reason = "for calls between CPUs")]
pub(crate) fn of(cpu: CpuId) -> Option<&'static PerCpu> {
    let area = AREAS.get(usize::from(cpu.0))?.load(Ordering::Acquire);
    // SAFETY: areas are static and shared.
    unsafe { area.as_ref() }
}

/// The area of the CPU this runs on, which may change as soon as interrupts are
/// on.
#[inline]
pub(crate) fn this() -> &'static PerCpu {
    let area: *const PerCpu;
    // SAFETY: GS points to this CPU's area since `install`.
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
    let id: u32;
    // SAFETY: GS points to this CPU's area since `install`.
    unsafe {
        asm!("movzx {:e}, word ptr gs:[{}]", out(reg) id, const offset_of!(PerCpu, id),
             options(nostack, readonly, preserves_flags));
    }
    CpuId(id as u16)
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
