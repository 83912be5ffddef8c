//! What each CPU has for itself, reached through GS: a field for each part of
//! the kernel that keeps something per CPU. Calls nothing.

use crate::arch::gdt::CpuTables;
use crate::task;
use crate::vm::roots::InForce;
use core::arch::asm;
use core::mem::offset_of;
use core::ptr::{self, null_mut};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU16, AtomicU32, AtomicU64, Ordering};
use mm::sync::HeldLocks;
use mm::types::CpuId;
use quarry_kernel::calls::Mailbox;
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
    /// Interrupts of this CPU's timer so far.
    pub(crate) ticks: AtomicU64,
    /// Where the stack ends that it begins and idles on.
    pub(crate) stack_top: AtomicU64,
    /// It has gone away and touches nothing any more.
    pub(crate) gone: AtomicBool,
    /// The address space whose tables are in force.
    pub(crate) in_force: InForce,
    /// Calls from other CPUs.
    pub(crate) mailbox: Mailbox,
    /// What to add to this CPU's time stamp counter for it to agree with the
    /// boot CPU's.
    pub(crate) tsc_offset: AtomicU64,
    /// What debug builds know of this CPU's tokens and locks.
    pub(crate) held: HeldLocks,
    /// Descriptor tables and the task state segment.
    pub(crate) tables: CpuTables,
    /// What the scheduler knows of this CPU.
    pub(crate) sched: task::Cpu,
}

impl PerCpu {
    /// An area for CPU `id`, which becomes that CPU's by [`install`].
    pub(crate) const fn new(id: CpuId) -> Self {
        Self {
            this: AtomicPtr::new(null_mut()),
            id,
            irq_depth: AtomicU32::new(0),
            ticks: AtomicU64::new(0),
            stack_top: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            in_force: InForce::new(),
            mailbox: Mailbox::new(),
            tsc_offset: AtomicU64::new(0),
            held: HeldLocks::new(),
            tables: CpuTables::new(),
            sched: task::Cpu::new(id),
        }
    }

    /// The CPU's number.
    pub(crate) fn id(&self) -> CpuId {
        self.id
    }
}

static BOOT_CPU: PerCpu = PerCpu::new(CpuId(0));

/// Where in an area the CPU's number is, 16 bits, to be read through GS.
pub(crate) const ID_OFFSET: usize = offset_of!(PerCpu, id);

/// All areas by CPU, for others to reach; null for a CPU that never ran.
static AREAS: [AtomicPtr<PerCpu>; MAX_CPUS] = [const { AtomicPtr::new(null_mut()) }; MAX_CPUS];

/// One more than the highest number of a CPU that ever ran.
static END: AtomicU16 = AtomicU16::new(0);

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
    area.sched.start();
    GsBase::write(VirtAddr::from_ptr(area));
    AREAS[usize::from(area.id.0)].store(addr, Ordering::Release);
    END.fetch_max(area.id.0 + 1, Ordering::Release);
}

/// The area of CPU `cpu`, if it ever ran.
pub(crate) fn of(cpu: CpuId) -> Option<&'static PerCpu> {
    let area = AREAS.get(usize::from(cpu.0))?.load(Ordering::Acquire);
    // SAFETY: areas are static and shared.
    unsafe { area.as_ref() }
}

/// Checks in debug builds that what a CPU has for itself is not used where the
/// thread may find itself on another CPU the moment after.
#[inline]
#[track_caller]
fn check_bound() {
    if cfg!(debug_assertions) {
        assert!(task::is_bound(), "per-CPU data used without being pinned to a CPU");
    }
}

/// The area of the CPU this runs on. The caller stays there: interrupts are
/// off, or the thread is pinned or not preempted.
///
/// # Panics
///
/// In debug builds, if that is not so.
#[inline]
#[track_caller]
pub(crate) fn this() -> &'static PerCpu {
    check_bound();
    let area: *const PerCpu;
    // SAFETY: GS points to this CPU's area since `install`.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) area, const offset_of!(PerCpu, this),
             options(nostack, readonly, preserves_flags));
    }
    // SAFETY: areas are static and shared.
    unsafe { &*area }
}

/// The CPU this runs on. The caller stays there, as for [`this`].
///
/// # Panics
///
/// In debug builds, if that is not so.
#[inline]
#[track_caller]
pub(crate) fn cpu_id() -> CpuId {
    check_bound();
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
    let depth: u32;
    // SAFETY: GS points to this CPU's area since `install`. One instruction, so
    // that it is the depth of the CPU that asks, and not of one it just left.
    unsafe {
        asm!("mov {:e}, gs:[{}]", out(reg) depth, const offset_of!(PerCpu, irq_depth),
             options(nostack, readonly, preserves_flags));
    }
    depth != 0
}

/// The areas of all CPUs that ever ran.
pub(crate) fn all() -> impl Iterator<Item = &'static PerCpu> {
    (0..END.load(Ordering::Acquire)).filter_map(|cpu| of(CpuId(cpu)))
}
