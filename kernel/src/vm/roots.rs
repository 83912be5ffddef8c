//! Which address space's tables each CPU has in force. A thread without an
//! address space runs on whatever its CPU has: the upper half is the same in
//! all. Calls `tables`, `arch`, `smp`.

use super::tables;
use crate::arch::{irq, percpu};
use crate::smp;
use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::{AtomicU64, fence};
use mm::mmu::Root;
use quarry_kernel::cpuset::CpuSet;
use x86_64::PhysAddr;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::PhysFrame;

/// The kernel's own tables, with nothing in the lower half.
const KERNEL: u64 = 0;
/// The CPU is just going from one to another.
const CHANGING: u64 = u64::MAX;

/// What a CPU has in force, for others to see.
#[derive(Debug)]
pub(crate) struct InForce(AtomicU64);

impl InForce {
    /// A CPU that begins with the kernel's tables.
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(KERNEL))
    }

    /// Notes that the CPU begins with the kernel's tables again.
    pub(crate) fn begin(&self) {
        self.0.store(KERNEL, SeqCst);
    }
}

/// Puts the tables that begin at `root` (0: the kernel's) in force on this CPU.
/// Interrupts off.
fn load(root: u64) {
    let at = if root == KERNEL { tables::root().map(mm::types::Pfn::addr) } else { Some(root) };
    let Some(at) = at else { return };
    let in_force = &percpu::this().in_force;
    // Whoever changes tables either sees this, and tells this CPU; or the change
    // is seen by all that this CPU walks from now on.
    in_force.0.store(CHANGING, SeqCst);
    fence(SeqCst);
    // SAFETY: the upper half is the kernel's in all tables, and those of an
    // address space are there as long as a thread or a CPU has them.
    unsafe {
        Cr3::write(PhysFrame::containing_address(PhysAddr::new(at)), Cr3Flags::empty());
    }
    in_force.0.store(root, SeqCst);
}

/// Has this CPU use what the thread that it is about to run needs; 0 is anything.
/// Interrupts off.
#[inline]
pub(crate) fn switch_to(root: u64) {
    if root != KERNEL && percpu::this().in_force.0.load(SeqCst) != root {
        load(root);
    }
}

/// Has this CPU use the kernel's tables, before it goes away. Interrupts off.
pub(crate) fn let_go() {
    if percpu::this().in_force.0.load(SeqCst) != KERNEL {
        load(KERNEL);
    }
}

/// Whether this CPU has other tables than the kernel's in force. Interrupts off.
pub(super) fn is_foreign() -> bool {
    percpu::this().in_force.0.load(SeqCst) != KERNEL
}

/// The CPUs that may know something of the tables at `root` just now, and hear
/// of it when that changes.
fn users(root: Root) -> CpuSet {
    // What the caller changed comes before the look.
    fence(SeqCst);
    let mut users = CpuSet::EMPTY;
    for area in percpu::all() {
        let has = area.in_force.0.load(SeqCst);
        if has == root.0 || has == CHANGING {
            users.add(area.id());
        }
    }
    users
}

/// Runs `f` on all CPUs that may know something of the tables at `root`.
/// Interrupts on, no lock held.
pub(super) fn on_users(root: Root, f: &(dyn Fn() + Sync)) {
    let users = users(root);
    if !users.is_empty() {
        smp::call(&users, &|_| f());
    }
}

/// Has no CPU use the tables at `root`, which no thread has any more. Interrupts
/// on, no lock held.
pub(super) fn retire(root: Root) {
    on_users(root, &|| {
        let flags = irq::save();
        if percpu::this().in_force.0.load(SeqCst) == root.0 {
            load(KERNEL);
        }
        irq::restore(flags);
    });
}
