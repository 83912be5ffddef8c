//! Crashes on purpose (`crash=` on the command line), as a test of their own:
//! so that a person, or a test of the whole system, sees what a crash report
//! looks like. Calls what it misuses.

use crate::arch::irq::{self, IrqMutex};
use crate::arch::percpu::{self, PerCpu};
use crate::selftests::Subject;
use crate::selftests::space_suite::{self, Own};
use crate::smp;
use crate::task::{self, Config};
use core::arch::asm;
use core::hint::black_box;
use mm::sync::LockRank;
use quarry_kernel::cpuset::CpuSet;
use quarry_kernel::options::Crash;
use quarry_kernel::sched::Name;
use selftest::{Case, CaseResult, Suite, Test, check_ok, skip};
use spin::Once;

/// The suite; part of a run only if the command line asks for a crash.
pub(super) const SUITES: [Suite<Subject>; 1] =
    [Suite { name: "crash", cases: &[Case::quick("on_purpose", on_purpose)] }];

/// An address of the lower half, where nothing is mapped.
const NOWHERE: u64 = 0xdead_b000;

static KIND: Once<Crash> = Once::new();

/// Says how to crash.
pub(super) fn choose(kind: Crash) {
    KIND.call_once(|| kind);
}

fn on_purpose(test: &mut Test<'_, Subject>) -> CaseResult {
    let Some(&kind) = KIND.get() else { skip!("not asked for") };
    match kind {
        // SAFETY: ends in a fault, on purpose.
        Crash::PageFault => unsafe { (NOWHERE as *mut u64).write_volatile(1) },
        Crash::MaskedFault => touch_masked(test)?,
        // SAFETY: does not return.
        Crash::DoubleFault => unsafe { fault_without_stack() },
        // SAFETY: ends in a fault, on purpose.
        Crash::UndefinedInstruction => unsafe { asm!("ud2") },
        Crash::StackOverflow => {
            black_box(recurse(1));
        }
        Crash::Panic => panic_on_purpose(),
        Crash::Hang => hang(),
        Crash::Wait => task::WaitQueue::new().wait_until(|| black_box(false)),
        Crash::Lockup => {
            irq::save();
            hang();
        }
        Crash::OtherCpus => {
            let pin = task::pin();
            let others = smp::online().without(pin.cpu());
            if others.is_empty() {
                skip!("one CPU");
            }
            smp::call(&others, &|_| panic_on_purpose());
        }
        Crash::WriteCode => {
            let code = on_purpose as fn(&mut Test<'_, Subject>) -> CaseResult as *mut u8;
            // SAFETY: ends in a fault, on purpose; else the byte is as before.
            unsafe { code.write_volatile(code.read_volatile()) };
        }
        Crash::ExecuteData => {
            static RETURN: u8 = 0xc3;
            // SAFETY: ends in a fault, on purpose; else it returns at once.
            unsafe { asm!("call {}", in(reg) &raw const RETURN) };
        }
        Crash::LockOrder => {
            static OUTER: IrqMutex<()> = IrqMutex::new(LockRank::WaitQueue, ());
            static INNER: IrqMutex<()> = IrqMutex::new(LockRank::RunQueue, ());
            let inner = INNER.lock();
            drop(OUTER.lock());
            drop(inner);
        }
        Crash::SleepLocked => {
            static LOCK: IrqMutex<()> = IrqMutex::new(LockRank::Leaf, ());
            let _held = LOCK.lock();
            task::WaitQueue::new().wait_until(|| true);
        }
        Crash::PerCpu => use_per_cpu_data_unbound(),
        Crash::Deaf => return deafen_another_cpu(),
    }
    skip!("the machine survived {kind:?}")
}

/// Has a thread touch memory that would be its own, had it interrupts on.
fn touch_masked(test: &Test<'_, Subject>) -> CaseResult {
    let space = check_ok!(Own::new(test.on.mm, "masked"));
    let at = check_ok!(space.map(1));
    let thread = check_ok!(space.run(move || {
        let flags = irq::save();
        space_suite::put(at, 1);
        irq::restore(flags);
    }));
    thread.join();
    Ok(())
}

/// Asks for this CPU while the thread may run anywhere.
fn use_per_cpu_data_unbound() {
    let home = CpuSet::one(percpu::cpu_id());
    if task::move_to(CpuSet::ALL).is_ok() {
        black_box(percpu::cpu_id());
    }
    // It was allowed there before.
    let _ = task::move_to(home);
}

/// Makes the processor fault while it cannot push the fault's frame.
///
/// # Safety
///
/// Does not return.
unsafe fn fault_without_stack() {
    // SAFETY: as the caller wants it.
    unsafe { asm!("mov rsp, {}", "push rax", in(reg) NOWHERE, options(noreturn)) }
}

#[allow(unconditional_recursion, reason = "it is the point")]
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    recurse(depth + 1) + frame[1]
}

#[allow(clippy::panic, reason = "it is the point")]
fn panic_on_purpose() {
    panic!("on purpose");
}

fn hang() {
    while black_box(true) {
        core::hint::spin_loop();
    }
}

/// Has another CPU turn its interrupts off until a watchdog names it.
fn deafen_another_cpu() -> CaseResult {
    let others = percpu::all().filter(|area| area.sched.is_online()).map(PerCpu::id);
    let Some(cpu) = others.last().filter(|&cpu| cpu != percpu::cpu_id()) else {
        skip!("one CPU");
    };
    let config = Config { cpus: CpuSet::one(cpu), ..Config::new(Name::new("deaf")) };
    let thread = check_ok!(task::spawn(&config, move || {
        let flags = irq::save();
        while !task::is_named(cpu) {
            core::hint::spin_loop();
        }
        irq::restore(flags);
    }));
    thread.join();
    Ok(())
}
