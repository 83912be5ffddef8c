//! What is known of a thread. It lies at the top of the thread's own stack, so
//! that making a thread takes nothing but the stack. Calls `arch::percpu`.

use crate::arch::percpu::PerCpu;
use crate::backtrace::Backtrace;
use crate::task::switch;
use crate::vm::kstack::KernelStack;
use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::ptr::{self, NonNull};
use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed,
};
use mm::space::SpaceRef;
use mm::types::CpuId;
use quarry_kernel::cpuset::CpuSet;
use quarry_kernel::sched::{Entity, EntityRef, Name, Priority};

bitflags::bitflags! {
    /// What a thread may claim of the memory manager.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct Rights: u8 {
        /// It frees memory and may use the reserves to do so.
        const MEMALLOC = 1;
        /// The OOM killer has chosen it.
        const OOM_VICTIM = 1 << 1;
    }
}

/// Where a thread is. Changes under the lock of its CPU's queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum State {
    /// It runs on its CPU.
    Running = 0,
    /// It waits in its CPU's queue to run.
    Queued = 1,
    /// Whoever set this is about to put it into a queue.
    Moving = 2,
    /// It has parked.
    Parked = 3,
    /// It will never run again.
    Exited = 4,
}

/// A thread.
#[repr(C)]
pub(crate) struct Thread {
    /// The first, so that a pointer to it is one to the thread.
    entity: Entity,
    /// The stack pointer, while it does not run.
    pub(super) rsp: UnsafeCell<u64>,
    name: Name,
    state: AtomicU8,
    /// The CPU in whose queue, or on which, it is.
    cpu: AtomicU16,
    /// It has been unparked before it could park.
    pub(super) unparked: AtomicBool,
    /// Ticks left of its slice when it was last preempted; 0: a new one.
    pub(super) slice: AtomicU32,
    /// Reasons not to preempt it. Only the thread itself changes it.
    pub(super) unpreemptible: AtomicU32,
    /// Reasons to leave it on its CPU. Only the thread itself changes it.
    pub(super) pins: AtomicU32,
    rights: AtomicU8,
    /// Who knows it: the scheduler, as long as it has not exited, and a handle.
    pub(super) known_by: AtomicU32,
    /// CPUs that it may use; changed by itself, under its CPU's queue's lock.
    pub(super) allowed: UnsafeCell<CpuSet>,
    /// The next of those that have exited unjoined.
    pub(super) next_dead: AtomicPtr<Thread>,
    /// Where the tables of its address space begin; 0 if it has none. Changed by
    /// itself only.
    pub(super) root: AtomicU64,
    /// Its address space; the thread's own.
    pub(super) space: UnsafeCell<Option<SpaceRef<'static>>>,
    /// A fault of it is being made good: what that does wrong is the kernel's
    /// mistake.
    pub(super) faulting: AtomicBool,
    /// Its stack, in which all of this lies; None for idle threads.
    pub(super) stack: UnsafeCell<Option<KernelStack>>,
}

// SAFETY: what is in cells belongs to the running thread itself, to the holder
// of its CPU's queue's lock, or to the last who knows it, as told above.
unsafe impl Sync for Thread {}

impl Thread {
    /// A thread without a stack of its own, not known to anybody.
    pub(super) const fn new(name: Name, priority: Priority, allowed: CpuSet) -> Self {
        Self {
            entity: Entity::new(priority),
            rsp: UnsafeCell::new(0),
            name,
            state: AtomicU8::new(State::Running as u8),
            cpu: AtomicU16::new(0),
            unparked: AtomicBool::new(false),
            slice: AtomicU32::new(0),
            unpreemptible: AtomicU32::new(0),
            pins: AtomicU32::new(0),
            rights: AtomicU8::new(0),
            known_by: AtomicU32::new(1),
            allowed: UnsafeCell::new(allowed),
            next_dead: AtomicPtr::new(ptr::null_mut()),
            root: AtomicU64::new(0),
            space: UnsafeCell::new(None),
            faulting: AtomicBool::new(false),
            stack: UnsafeCell::new(None),
        }
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    /// How urgent it is.
    pub(crate) fn priority(&self) -> Priority {
        self.entity.priority()
    }

    /// Whether it is a CPU's idle thread.
    pub(crate) fn is_idle(&self) -> bool {
        self.priority() == Priority::Idle
    }

    /// The CPU in whose queue it is; may be out of date at once unless it is
    /// the caller, pinned.
    pub(super) fn cpu(&self) -> CpuId {
        CpuId(self.cpu.load(Relaxed))
    }

    pub(super) fn set_cpu(&self, cpu: CpuId) {
        self.cpu.store(cpu.0, Relaxed);
    }

    pub(super) fn state(&self) -> State {
        match self.state.load(Relaxed) {
            0 => State::Running,
            1 => State::Queued,
            2 => State::Moving,
            3 => State::Parked,
            _ => State::Exited,
        }
    }

    pub(super) fn set_state(&self, state: State) {
        self.state.store(state as u8, Relaxed);
    }

    /// Where it left its CPU, unless it runs: for a crash report, which stops
    /// everything else. The thread has not exited.
    pub(crate) fn waits_at(&self) -> Option<Backtrace> {
        if self.state() == State::Running {
            return None;
        }
        // SAFETY: a thread that does not run has its registers on its stack,
        // which is there as long as it has not exited.
        unsafe { Some(switch::left_at(*self.rsp.get())) }
    }

    /// What it may claim.
    pub(crate) fn rights(&self) -> Rights {
        Rights::from_bits_truncate(self.rights.load(Relaxed))
    }

    /// Gives it `rights` or takes them; returns what it had.
    pub(crate) fn set_rights(&self, rights: Rights) -> Rights {
        Rights::from_bits_truncate(self.rights.swap(rights.bits(), Relaxed))
    }

    /// Whether it may be taken to `cpu`.
    ///
    /// # Safety
    ///
    /// The caller is the thread, or holds the lock of its CPU's queue.
    pub(super) unsafe fn may_move_to(&self, cpu: CpuId) -> bool {
        // SAFETY: changed under the same conditions, in one step.
        self.pins.load(Relaxed) == 0 && unsafe { (*self.allowed.get()).contains(cpu) }
    }

    /// Whether it may go on on `cpu`, where it is.
    ///
    /// # Safety
    ///
    /// As for [`may_move_to`](Self::may_move_to).
    pub(super) unsafe fn stays_on(&self, cpu: CpuId) -> bool {
        // SAFETY: passed on to the caller.
        self.pins.load(Relaxed) != 0 || unsafe { (*self.allowed.get()).contains(cpu) }
    }

    /// As an element of queues.
    pub(super) fn entity(this: NonNull<Self>) -> EntityRef {
        // SAFETY: a thread that is in a queue has not exited, and lives.
        unsafe { EntityRef::from_raw(this.as_ptr().cast_const().cast()) }
    }

    /// The thread of which `entity`, an element of a queue, is.
    pub(super) fn with(entity: &Entity) -> &Self {
        // SAFETY: entities are made as the first field of threads only, and what
        // is in a queue lives.
        unsafe { &*ptr::from_ref(entity).cast() }
    }

    /// The thread of which `entity` is.
    pub(super) fn of(entity: EntityRef) -> NonNull<Self> {
        let entity = EntityRef::into_raw(entity);
        // SAFETY: it came from `entity` and is not null.
        unsafe { NonNull::new_unchecked(entity.cast()) }
    }
}

/// The thread that asks; a CPU that has not begun to schedule is in its idle
/// thread.
#[inline]
pub(crate) fn current() -> &'static Thread {
    let thread: *const Thread;
    // SAFETY: GS points to this CPU's area. One instruction, so that the answer
    // is right wherever the thread goes next.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) thread, const offset_of!(PerCpu, sched.current),
             options(nostack, readonly, preserves_flags));
    }
    // SAFETY: set by the scheduler to what runs, and what runs lives on. It is
    // 'static to itself only, which is how everybody uses it.
    unsafe { &*thread }
}
