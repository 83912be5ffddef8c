//! `mm`'s view of this machine: the direct map, this CPU, interrupt masking,
//! the clock, the thread, the log. Calls `arch`, `vm`, `task`.

use crate::arch::{irq, percpu, restart, time, wide};
use crate::task::{self, Rights};
use crate::vm::space::Spaces;
use crate::vm::{self, layout};
use crate::{numa, smp, workers};
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use mm::mmu::{Mmu, Root};
use mm::platform::{Context, IrqState, LogLevel, Platform, Worker};
use mm::steps::{Pop, Push};
use mm::sync::HeldLocks;
use mm::types::{CpuId, NodeId, PAGE_SIZE, Pfn, PfnRange};
use quarry_kernel::sched::Priority;

/// Counts of the time stamp counter that the manager's lines have taken.
static LOGGING: AtomicU64 = AtomicU64::new(0);

/// The time stamp counter, less what the manager's lines have taken of it: what
/// the console costs is none of the manager's cost.
pub(crate) fn counter_without_log() -> u64 {
    time::counter().wrapping_sub(LOGGING.load(Ordering::Relaxed))
}

/// How long an allocation that may not fail waits between two tries (ms): a
/// tick of the timer.
const STALL_MS: u64 = 10;

/// The machine that the kernel runs on; there is one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine(());

impl Machine {
    /// The machine.
    ///
    /// # Safety
    ///
    /// The kernel's own page tables must be in force, and the boot CPU must
    /// have its per-CPU area.
    pub(crate) const unsafe fn new() -> Self {
        Self(())
    }
}

// SAFETY: RAM is mapped once at a fixed offset, read and write; there is one
// CPU, which is held while its interrupts are masked; each array of the memory
// map has addresses of its own and frames that were given away for it.
unsafe impl Platform for Machine {
    fn frame(&self, pfn: Pfn) -> *mut u8 {
        vm::frame_ptr(pfn)
    }

    unsafe fn clear_frames(&self, pfn: Pfn, pages: u64) {
        // SAFETY: the caller's word.
        unsafe { wide::clear(vm::frame_ptr(pfn), pages as usize * PAGE_SIZE) };
    }

    unsafe fn copy_frame(&self, to: Pfn, from: Pfn) {
        // SAFETY: the caller's word.
        unsafe { wide::copy(vm::frame_ptr(to), vm::frame_ptr(from)) };
    }

    fn pfn_of(&self, ptr: *const u8) -> Option<Pfn> {
        vm::pfn_of(ptr)
    }

    #[inline]
    fn frame_number(&self, ptr: *const u8) -> Pfn {
        // The direct map ends far above 2^32 frames, and what lies before it
        // counts as beyond it.
        Pfn::containing((ptr.addr() as u64).wrapping_sub(layout::DIRECT_MAP))
    }

    fn memmap_base(&self, slot: usize, bytes: usize) -> Option<*mut u8> {
        let fits = slot < layout::MEMMAP_SLOTS && bytes as u64 <= layout::MEMMAP_SLOT;
        let base = layout::MEMMAP + slot as u64 * layout::MEMMAP_SLOT;
        fits.then(|| core::ptr::with_exposed_provenance_mut(base as usize))
    }

    fn memmap_back(
        &self,
        ptr: *mut u8,
        frames: PfnRange,
        tables: &mut dyn FnMut() -> Option<Pfn>,
    ) -> bool {
        vm::map_frames(ptr.addr() as u64, frames, tables)
    }

    fn memmap_unback(&self, ptr: *mut u8, bytes: usize, frame: &mut dyn FnMut(Pfn)) {
        vm::take_frames(ptr.addr() as u64, bytes, frame);
    }

    fn direct_map_extend(&self, frames: PfnRange, tables: &mut dyn FnMut() -> Option<Pfn>) -> bool {
        vm::extend_direct_map(frames, tables)
    }

    fn direct_map_withdraw(&self, frames: PfnRange, table: &mut dyn FnMut(Pfn)) {
        vm::withdraw_direct_map(frames, table);
    }

    #[inline]
    fn irq_save(&self) -> (CpuId, IrqState) {
        let flags = irq::save();
        (percpu::cpu_id(), IrqState(flags.0))
    }

    #[inline]
    fn irq_restore(&self, _cpu: CpuId, state: IrqState) {
        irq::restore(irq::Flags(state.0));
    }

    const LOCAL_STEPS: bool = true;

    #[inline(always)]
    unsafe fn local_pop(&self, pop: Pop) -> Option<NonNull<u8>> {
        // SAFETY: the caller's word.
        unsafe { restart::pop(pop) }
    }

    #[inline(always)]
    unsafe fn local_push(&self, push: Push) -> bool {
        // SAFETY: the caller's word.
        unsafe { restart::push(push) }
    }

    fn cpus(&self) -> u16 {
        smp::possible()
    }

    #[inline]
    fn node_of_cpu(&self, cpu: CpuId) -> NodeId {
        numa::node_of_cpu(cpu)
    }

    fn on_cpus(&self, f: &(dyn Fn(CpuId) + Sync)) {
        smp::on_each(f);
    }

    fn held_locks(&self, _cpu: CpuId) -> Option<&HeldLocks> {
        // Asked with that CPU's token: it is this one.
        Some(&percpu::this().held)
    }

    fn context(&self) -> Context {
        let thread = task::current();
        let rights = thread.rights();
        Context {
            memalloc: rights.contains(Rights::MEMALLOC),
            oom_victim: rights.contains(Rights::OOM_VICTIM) || task::space::is_killed(),
            in_irq: percpu::in_irq(),
            rt: thread.priority() == Priority::RealTime,
        }
    }

    fn set_memalloc(&self, on: bool) -> bool {
        let thread = task::current();
        let mut rights = thread.rights();
        let before = rights.contains(Rights::MEMALLOC);
        rights.set(Rights::MEMALLOC, on);
        thread.set_rights(rights);
        before
    }

    fn mmu(&self) -> Option<&dyn Mmu> {
        Some(&Spaces)
    }

    fn current_root(&self) -> Option<Root> {
        task::space::root()
    }

    fn now_ms(&self) -> u64 {
        time::now_ms()
    }

    fn wake(&self, worker: Worker) {
        workers::wake(worker);
    }

    fn stall(&self) {
        // Others may free something meanwhile, of whatever priority.
        if task::may_sleep() {
            task::sleep(STALL_MS);
        } else {
            core::hint::spin_loop();
        }
    }

    fn relax(&self) {
        if task::may_sleep() {
            task::yield_now();
        } else {
            core::hint::spin_loop();
        }
    }

    fn log(&self, level: LogLevel, line: fmt::Arguments<'_>) {
        let before = time::counter();
        match level {
            LogLevel::Error => log::error!("{line}"),
            LogLevel::Warn => log::warn!("{line}"),
            LogLevel::Info => log::info!("{line}"),
        }
        LOGGING.fetch_add(time::counter().wrapping_sub(before), Ordering::Relaxed);
    }
}
