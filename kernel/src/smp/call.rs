//! Running something on other CPUs.
//!
//! **The rule that keeps this from deadlocking: never wait for another CPU with
//! interrupts masked or a lock held.** Whoever waits has interrupts on, so its
//! own mail is served while it waits; of CPUs that wait for each other in a
//! circle each serves the one before it. What is run on another CPU runs in its
//! interrupt handler, with interrupts masked: it holds that CPU's token, and may
//! not wait for others. Debug builds check both.

use crate::arch::{apic, irq, percpu};
use crate::smp::{self, ONLINE};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, Ordering};
use mm::types::CpuId;
use quarry_kernel::calls::{Calls, SlotId};
use quarry_kernel::cpuset::CpuSet;
use quarry_kernel::lapic::{Command, Destination};
use quarry_kernel::sdt::MAX_CPUS;
use x86_64::instructions::interrupts;

static CALLS: Calls = Calls::new();

/// For each CPU that is offline: somebody acts for it, or it is just coming or
/// going.
static HELD: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

/// Looks whether others are done before it is worth to sleep until they are.
const SPINS: u32 = 500;

/// As many calls are under way as there is room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Busy;

/// Tells `cpu` to look into its mailbox, and whether another thread should run.
/// From any context but an NMI.
pub(crate) fn notify(cpu: CpuId) {
    if !apic::is_on() {
        return;
    }
    let Some(known) = smp::cpus().and_then(|cpus| cpus.get(cpu)) else { return };
    let to = Destination::One(known.apic_id);
    if let Err(why) = apic::send(Command::Interrupt(apic::CALL_VECTOR), to) {
        log::error!("smp: CPU {} cannot be called: {why}", cpu.0);
    }
}

/// Runs what others have posted for this CPU. Interrupts masked: the handler of
/// [`apic::CALL_VECTOR`].
pub(crate) fn serve() {
    let area = percpu::this();
    CALLS.serve(&area.mailbox, area.id(), &notify);
}

/// Puts `call` into the mailbox of `cpu`; false if that is not online and will
/// not run it. Interrupts masked.
fn post(call: SlotId, cpu: CpuId) -> bool {
    let Some(area) = percpu::of(cpu) else { return false };
    let was_empty = area.mailbox.post(call);
    // It takes itself off the list before it empties its box for the last time.
    if !ONLINE.contains(cpu) && area.mailbox.retract(call) {
        return false;
    }
    if was_empty {
        notify(cpu);
    }
    true
}

/// Posts `call`, begun for all of `cpus`, to each.
fn post_all(call: SlotId, cpus: &CpuSet) -> u32 {
    let mut posted = 0;
    for cpu in cpus.iter() {
        if post(call, cpu) {
            posted += 1;
        } else {
            // The caller does not sleep yet.
            let _ = CALLS.count_off(call);
        }
    }
    posted
}

/// Runs `f` with its number on every CPU of `cpus` that is online, all at the
/// same time, and returns when all are done. On each it runs with interrupts
/// masked. Returns how many those were.
///
/// # Panics
///
/// In debug builds, if interrupts are masked here.
pub(crate) fn call(cpus: &CpuSet, f: &(dyn Fn(CpuId) + Sync)) -> u32 {
    debug_assert!(irq::are_on(), "waits for other CPUs with interrupts masked");
    let mut ran = 0;
    let (flags, me, others, call) = loop {
        let flags = irq::save();
        let me = percpu::cpu_id();
        let others = cpus.without(me);
        if others.is_empty() {
            break (flags, me, others, None);
        }
        // SAFETY: this function returns only when the call is done.
        let call = unsafe { CALLS.begin_borrowed(f, others.len() as u32) };
        if call.is_some() {
            break (flags, me, others, call);
        }
        // Some of those under way may wait for this CPU.
        irq::restore(flags);
        spin_loop();
    };
    if let Some(call) = call {
        ran += post_all(call, &others);
    }
    if cpus.contains(me) {
        f(me);
        ran += 1;
    }
    irq::restore(flags);
    if let Some(call) = call {
        wait(call);
    }
    ran
}

/// Waits until all CPUs have run `call`, serving this one's mail, and ends it.
fn wait(call: SlotId) {
    for _ in 0..SPINS {
        if CALLS.is_done(call) {
            break;
        }
        spin_loop();
    }
    // Others may need what this one runs on, if they are emulated.
    while !CALLS.is_done(call) {
        irq::disable();
        if CALLS.may_sleep(call, percpu::cpu_id()) {
            interrupts::enable_and_hlt();
        } else {
            irq::enable();
        }
    }
    CALLS.end(call);
}

/// Has `f` run with `with` on every CPU of `cpus` that is online, this one not
/// among them, and does not wait. From any context but an NMI.
///
/// # Errors
///
/// [`Busy`]; nothing has happened then.
pub(crate) fn post_to(cpus: &CpuSet, f: fn(CpuId, usize), with: usize) -> Result<(), Busy> {
    let flags = irq::save();
    let others = cpus.without(percpu::cpu_id());
    let posted = if others.is_empty() {
        Ok(())
    } else {
        let call = CALLS.begin_owned(f, with, others.len() as u32).ok_or(Busy);
        call.map(|call| {
            post_all(call, &others);
        })
    };
    irq::restore(flags);
    posted
}

/// Acts for `cpu`, which must be offline: holds its token until dropped.
/// Interrupts are masked meanwhile.
struct Stead {
    cpu: CpuId,
    flags: irq::Flags,
}

impl Stead {
    /// None if it is online.
    fn take(cpu: CpuId) -> Option<Self> {
        let held = &HELD[usize::from(cpu.0)];
        loop {
            let flags = irq::save();
            if ONLINE.contains(cpu) {
                irq::restore(flags);
                return None;
            }
            if !held.swap(true, Ordering::Acquire) {
                let stead = Self { cpu, flags };
                // It may have come meanwhile.
                return (!ONLINE.contains(cpu)).then_some(stead);
            }
            irq::restore(flags);
            spin_loop();
        }
    }
}

impl Drop for Stead {
    fn drop(&mut self) {
        HELD[usize::from(self.cpu.0)].store(false, Ordering::Release);
        irq::restore(self.flags);
    }
}

/// Puts this CPU on the list of those that are online, when nobody acts for it
/// any more. Interrupts masked, as long as it has not begun.
pub(super) fn come_online() {
    let me = percpu::cpu_id();
    let held = &HELD[usize::from(me.0)];
    while held.swap(true, Ordering::Acquire) {
        spin_loop();
    }
    ONLINE.add(me);
    held.store(false, Ordering::Release);
}

/// Takes this CPU off the list and runs what has been posted by then. From then
/// on others may act for it. Interrupts masked, and for good.
pub(super) fn go_offline() {
    ONLINE.remove(percpu::cpu_id());
    serve();
}

/// Runs `f` holding the token of `cpu`, if that is offline.
pub(super) fn in_stead_of<R>(cpu: CpuId, f: impl FnOnce() -> R) -> Option<R> {
    let _stead = Stead::take(cpu)?;
    Some(f())
}

/// Runs `f` for every CPU there is or may be, one after the other, each time
/// holding that CPU's token: on that CPU if it is online, else here in its
/// stead.
///
/// # Panics
///
/// In debug builds, if interrupts are masked here.
pub(crate) fn on_each(f: &(dyn Fn(CpuId) + Sync)) {
    debug_assert!(irq::are_on(), "waits for other CPUs with interrupts masked");
    for cpu in (0..smp::possible()).map(CpuId) {
        loop {
            if let Some(_stead) = Stead::take(cpu) {
                f(cpu);
                break;
            }
            if call(&CpuSet::one(cpu), f) > 0 {
                break;
            }
        }
    }
}
