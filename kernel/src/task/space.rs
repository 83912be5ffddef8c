//! Threads with an address space: going into one, leaving it, and what becomes
//! of a fault. A thread that touches what it may not is ended, with a line that
//! says why; the kernel goes on. Calls `sched`, `vm`, `mm`.

use super::spawn::{self, Config, JoinHandle, SpawnError};
use super::{sched, thread::current};
use crate::arch::trap::{self, TrapFrame};
use crate::arch::{irq, percpu};
use crate::vm;
use core::fmt;
use core::sync::atomic::Ordering::Relaxed;
use mm::mmu::{Root, VirtAddr};
use mm::space::{Access, FaultError, SpaceRef};
use x86_64::registers::control::Cr2;
use x86_64::structures::idt::PageFaultErrorCode;

/// Interrupts were on, in the flags that a trap saves.
const INTERRUPTS: u64 = 1 << 9;
/// Stack of a thread that faults: reclaim may run on it, down to a device.
const STACK: usize = 64 * 1024;
/// The first address of the upper half.
const UPPER: u64 = 1 << 63;

/// Makes a thread that runs `run` in `space`, of which it becomes a user. What
/// `run` touches there is faulted in; if that cannot be, the thread ends where
/// it is, and what its stack holds is not dropped.
///
/// # Errors
///
/// As for [`spawn`](super::spawn()); this user of the space is gone then too.
pub(crate) fn spawn_in<F>(
    config: &Config,
    space: SpaceRef<'static>,
    run: F,
) -> Result<JoinHandle, SpawnError>
where
    F: FnOnce() + Send + 'static,
{
    let mut user = User(Some(space));
    let config = Config { stack: config.stack.max(STACK), ..*config };
    spawn::spawn(&config, move || {
        user.0.take().into_iter().for_each(enter);
        run();
    })
}

/// A user of a space on its way to a thread, which may not come to be.
struct User(Option<SpaceRef<'static>>);

impl Drop for User {
    fn drop(&mut self) {
        if let (Some(space), Some(mm)) = (self.0.take(), spawn::manager()) {
            mm.space_put(space);
        }
    }
}

/// Makes `space` that of this thread, which has none.
pub(crate) fn enter(space: SpaceRef<'static>) {
    let thread = current();
    let root = space.root().0;
    // SAFETY: the thread's own, and nothing else of it runs.
    let before = unsafe { (*thread.space.get()).replace(space) };
    debug_assert!(before.is_none(), "a thread has one address space");
    let flags = irq::save();
    thread.root.store(root, Relaxed);
    vm::roots::switch_to(root);
    irq::restore(flags);
}

/// Takes this thread out of its address space, which the caller then has to give
/// back.
pub(crate) fn leave() -> Option<SpaceRef<'static>> {
    let thread = current();
    // Its CPU goes on with the tables until it needs others, or until they go.
    thread.root.store(0, Relaxed);
    // SAFETY: the thread's own, and nothing else of it runs.
    unsafe { (*thread.space.get()).take() }
}

/// What a thread does about its address space before it ends. Interrupts on, no
/// lock held.
pub(super) fn quit() {
    if let (Some(space), Some(mm)) = (leave(), spawn::manager()) {
        mm.space_put(space);
    }
}

/// The address space of this thread.
pub(crate) fn own() -> Option<&'static SpaceRef<'static>> {
    // SAFETY: the thread's own; it changes only where nobody looks at it.
    unsafe { (*current().space.get()).as_ref() }
}

/// The tables of this thread's address space.
pub(crate) fn root() -> Option<Root> {
    own().map(|space| space.root())
}

/// Whether this thread is to end because the memory of its space is wanted.
pub(crate) fn is_killed() -> bool {
    // One that has none is not even looked at.
    current().root.load(Relaxed) != 0 && own().is_some_and(|space| space.is_killed())
}

/// Makes a page fault good, or ends the thread that has made it. False if it is
/// the kernel's own mistake. Interrupts off.
pub(crate) fn fault(frame: &TrapFrame) -> bool {
    let addr = Cr2::read_raw();
    let code = PageFaultErrorCode::from_bits_truncate(frame.error);
    if addr >= UPPER {
        return vm::space::catch_up(addr, code);
    }
    let (Some(space), Some(mm), true) = (own(), spawn::manager(), is_its_own(frame)) else {
        return false;
    };
    if code.contains(PageFaultErrorCode::MALFORMED_TABLE) {
        return false;
    }
    let access = if code.contains(PageFaultErrorCode::CAUSED_BY_WRITE) {
        Access::Write
    } else {
        Access::Read
    };
    let thread = current();
    thread.faulting.store(true, Relaxed);
    irq::enable();
    // Nothing in an address space is code.
    let fetches = code.contains(PageFaultErrorCode::INSTRUCTION_FETCH);
    let made_good =
        if fetches { Err(FaultError::Protection) } else { mm.fault(space, VirtAddr(addr), access) };
    if let Err(why) = made_good {
        end(frame, format_args!("fault at {addr:#x}"), format_args!("{why}"));
    }
    irq::disable();
    thread.faulting.store(false, Relaxed);
    true
}

/// Ends the thread that has used what is no address at all, which is no page
/// fault. False if it is the kernel's own mistake. Interrupts off.
pub(crate) fn stray(frame: &TrapFrame) -> bool {
    // With a number it is about a segment.
    if own().is_none() || frame.error != 0 || !is_its_own(frame) {
        return false;
    }
    irq::enable();
    end(frame, format_args!("{}", trap::name(frame.vector)), format_args!("no such address"));
}

/// Whether the thread, and not what the kernel does for it, came to this trap.
fn is_its_own(frame: &TrapFrame) -> bool {
    let thread = current();
    frame.rflags & INTERRUPTS != 0
        && thread.unpreemptible.load(Relaxed) == 0
        && !thread.faulting.load(Relaxed)
        && !percpu::in_irq()
}

/// Ends this thread, and says why. Interrupts on.
fn end(frame: &TrapFrame, what: fmt::Arguments<'_>, why: fmt::Arguments<'_>) -> ! {
    let TrapFrame { rip, rsp, error, .. } = frame;
    let name = current().name();
    log::warn!("{name}: {what} ip {rip:x} sp {rsp:x} error {error:x}: {why}; the thread is ended");
    quit();
    sched::exit()
}
