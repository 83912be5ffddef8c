//! Steps on what a CPU owns that are made without masking interrupts: whoever
//! interrupts one before its last instruction has it begun again. `mm`'s fast
//! paths for objects are such. Calls `percpu`.
//!
//! A step has no effect before its last instruction, one store, except on
//! registers that it sets anew from its start; so to begin it again is the same
//! as to begin it later. Beginning again also finds the tables of the CPU on
//! which the thread goes on, should that be another one.

use crate::arch::percpu;
use crate::arch::trap::TrapFrame;
use core::arch::asm;
use core::ptr::NonNull;
use mm::slab::local::{AVAIL, ENTRY_ARRAY, ENTRY_READY, KEY, LIMIT, OBJECTS, TABLE_SHIFT, TOUCHED};
use mm::steps::{Pop, Push};
use spin::Mutex;

/// Where a step begins, and the address after its last instruction, each as
/// the distance from where it is noted. The linker gathers them.
#[repr(C)]
struct Noted {
    start: i32,
    end: i32,
}

unsafe extern "C" {
    #[link_name = "__start_restart_table"]
    static FIRST: Noted;
    #[link_name = "__stop_restart_table"]
    static END: Noted;
}

/// Has the step that the interrupt of `frame` came into begun again on return.
/// Called for each interrupt, before anything else is done.
#[inline]
pub(crate) fn rewind(frame: &mut TrapFrame) {
    let mut noted = &raw const FIRST;
    while noted < &raw const END {
        // SAFETY: the linker gathers whole entries, which nobody writes to.
        let (start, end) = unsafe {
            let at = |distance: *const i32| {
                (distance.addr() as u64).wrapping_add_signed(i64::from(distance.read()))
            };
            (at(&raw const (*noted).start), at(&raw const (*noted).end))
        };
        if start < frame.rip && frame.rip < end {
            frame.rip = start;
            return;
        }
        noted = noted.wrapping_add(1);
    }
}

/// Takes an object, as [`Pop`] says.
///
/// # Safety
/// `step` is the manager's.
#[inline(always)]
pub(crate) unsafe fn pop(step: Pop) -> Option<NonNull<u8>> {
    let object: *mut u8;
    // SAFETY: the tables are the manager's, those of this CPU nobody else's, and
    // what is entered as ready is an array. Until the last instruction nothing
    // but the mark has changed, which may be set once too often.
    unsafe {
        asm!(
            "2:",
            "movzx {t:e}, word ptr gs:[{id}]",
            "shl {t}, {shift}",
            "add {t}, {entry}",
            "cmp dword ptr [{t} + {ready}], {generation:e}",
            "jne {fail}",
            "cmp qword ptr [{reserves}], 0",
            "jne {fail}",
            "mov {t}, [{t} + {array}]",
            "mov {n:e}, [{t} + {avail}]",
            "sub {n:e}, 1",
            "jb {fail}",
            "mov byte ptr [{t} + {touched}], 1",
            "mov {object}, [{t} + {n} * 8 + {objects}]",
            "mov [{t} + {avail}], {n:e}",
            "3:",
            ".pushsection restart_table, \"aR\"",
            ".long 2b - ., 3b - .",
            ".popsection",
            id = const percpu::ID_OFFSET,
            shift = const TABLE_SHIFT,
            ready = const ENTRY_READY,
            array = const ENTRY_ARRAY,
            avail = const AVAIL,
            touched = const TOUCHED,
            objects = const OBJECTS,
            t = out(reg) _,
            n = out(reg) _,
            object = out(reg) object,
            entry = in(reg) step.entry,
            generation = in(reg) step.generation,
            reserves = in(reg) step.reserves,
            fail = label { return None },
            options(nostack),
        );
        Some(NonNull::new_unchecked(object))
    }
}

/// Gives an object back, as [`Push`] says.
///
/// # Safety
/// `step` is the manager's.
#[inline(always)]
pub(crate) unsafe fn push(step: Push) -> bool {
    macro_rules! step {
        ($compare:literal, $leave:literal, $($generation:tt)*) => {
            asm!(
                "2:",
                "movzx {t:e}, word ptr gs:[{id}]",
                "shl {t}, {shift}",
                "add {t}, {entry}",
                $compare,
                $leave,
                "mov {t}, [{t} + {array}]",
                "mov {n:e}, [{t} + {avail}]",
                "cmp {n:e}, [{t} + {limit}]",
                "jae {fail}",
                "cmp dword ptr [{t} + {offset}], {key:e}",
                "jne {fail}",
                "mov [{t} + {n} * 8 + {objects}], {object}",
                "add {n:e}, 1",
                "mov [{t} + {avail}], {n:e}",
                "3:",
                ".pushsection restart_table, \"aR\"",
                ".long 2b - ., 3b - .",
                ".popsection",
                id = const percpu::ID_OFFSET,
                shift = const TABLE_SHIFT,
                ready = const ENTRY_READY,
                array = const ENTRY_ARRAY,
                avail = const AVAIL,
                limit = const LIMIT,
                offset = const KEY,
                objects = const OBJECTS,
                t = out(reg) _,
                n = out(reg) _,
                    entry = in(reg) step.entry,
                key = in(reg) step.key,
                object = in(reg) step.object,
                $($generation)*
                fail = label { return false },
                options(nostack),
            )
        };
    }
    // SAFETY: as in `pop`. An object that is stored and not counted yet is in a
    // place that nobody reads.
    unsafe {
        match step.generation {
            Some(generation) => step!(
                "cmp dword ptr [{t} + {ready}], {generation:e}",
                "jne {fail}",
                generation = in(reg) generation,
            ),
            None => step!("cmp dword ptr [{t} + {ready}], 0", "je {fail}",),
        }
    }
    true
}

/// A self-test's wish: something to be done inside a step, as an interrupt would
/// do it.
struct Probe {
    /// Instructions inside of steps that are still let pass.
    at: u32,
    act: fn(),
}

static PROBE: Mutex<Option<Probe>> = Mutex::new(None);

/// The flag that has the processor stop after each instruction.
const TRAP_FLAG: u64 = 1 << 8;

/// Runs `f`, one instruction after the other, and `act` as soon as `at`
/// instructions have been made inside of steps and the next one would be inside
/// of one too. False if it never came to that. For one thread at a time.
pub(crate) fn probe(at: u32, act: fn(), f: impl FnOnce()) -> bool {
    *PROBE.lock() = Some(Probe { at, act });
    // SAFETY: each instruction from here on ends in `stepped`, which changes
    // nothing but what `act` does.
    unsafe { asm!("pushfq", "or qword ptr [rsp], {}", "popfq", const TRAP_FLAG) };
    f();
    // SAFETY: as before.
    unsafe { asm!("pushfq", "and qword ptr [rsp], {}", "popfq", const !(TRAP_FLAG as i64)) };
    PROBE.lock().take().is_none()
}

/// Whether instructions are made one after the other by wish.
pub(crate) fn is_probing() -> bool {
    PROBE.lock().is_some()
}

/// Takes note of one instruction.
pub(crate) fn stepped(frame: &mut TrapFrame) {
    let mut wish = PROBE.lock();
    let Some(probe) = &mut *wish else { return };
    let rip = frame.rip;
    rewind(frame);
    let start = core::mem::replace(&mut frame.rip, rip);
    if start == rip {
        return;
    }
    if probe.at > 0 {
        probe.at -= 1;
        return;
    }
    let act = probe.act;
    *wish = None;
    drop(wish);
    frame.rip = start;
    frame.rflags &= !TRAP_FLAG;
    act();
}
