//! Threads that touch what is not theirs, or what cannot be had: each ends where
//! it is, with a line in the log that says why, and nobody else notices. Calls
//! `task`, `mm`, `console` for the log.

use super::space_suite::{Own, get, put};
use crate::console;
use crate::selftests::Subject;
use crate::task::{self, JoinHandle};
use core::arch::asm;
use core::hint::black_box;
use core::num::NonZeroU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU32};
use mm::fault::FaultPlan;
use mm::mmu::VirtAddr;
use mm::space::{MapFlags, Prot};
use mm::types::PAGE_SIZE;
use selftest::{Case, CaseResult, Suite, Test, check, check_eq, check_ok};

/// The suite.
pub(super) const SUITES: [Suite<Subject>; 1] = [Suite {
    name: "stray",
    cases: &[
        Case::quick("what_is_not_theirs", what_is_not_theirs),
        Case::quick("what_cannot_be_had", what_cannot_be_had),
        Case::quick("whoever_was_killed", whoever_was_killed),
        Case::quick("deep_in_its_stack", deep_in_its_stack),
    ],
}];

const PAGE: u64 = PAGE_SIZE as u64;
/// The first address that is none: bit 47 is set, and those above are not.
const NONE: u64 = 1 << 47;

/// A way to end, with the address of a page that may only be read.
struct Stray {
    name: &'static str,
    goes: fn(u64),
    /// What the log says of it.
    says: &'static str,
}

const STRAYS: [Stray; 10] = [
    Stray { name: "null-read", goes: |_| look(0), says: "fault at 0x0 " },
    Stray { name: "null-write", goes: |_| put(0x18, 1), says: "address not mapped" },
    Stray { name: "beyond", goes: |at| put(at + PAGE, 1), says: "address not mapped" },
    Stray { name: "read-only", goes: |at| put(at, 1), says: "access not permitted" },
    Stray { name: "execute", goes: execute, says: "access not permitted" },
    Stray { name: "last", goes: |_| put(NONE - PAGE, 1), says: "address not mapped" },
    Stray { name: "no-address", goes: |_| look(NONE), says: "no such address" },
    Stray { name: "no-place", goes: |_| put(NONE + PAGE, 1), says: "no such address" },
    Stray { name: "no-upper", goes: |_| put(0x8000 << 48, 1), says: "no such address" },
    Stray { name: "no-stack", goes: |_| by_stack(NONE), says: "no such address" },
];

/// Reads there.
fn look(at: u64) {
    black_box(get(at));
}

/// Calls what is there, as if it were code.
fn execute(at: u64) {
    let code: *const () = core::ptr::with_exposed_provenance(at as usize);
    // SAFETY: nothing there may be executed: this does not return, and the thread
    // ends.
    unsafe { asm!("call {}", in(reg) code, clobber_abi("C")) };
}

/// Reads there with a register that is for stacks.
fn by_stack(at: u64) {
    // SAFETY: the register has its value again after that; if there is no such
    // address, the thread ends.
    unsafe {
        asm!(
            "xchg rbp, {at}",
            "mov {word}, [rbp]",
            "xchg rbp, {at}",
            at = inout(reg) at => _,
            word = out(reg) _,
        );
    }
}

/// Lines of the log that have both.
pub(super) fn logged(who: &str, what: &str) -> u32 {
    let (mut line, mut len, mut found) = ([0_u8; 256], 0, 0);
    console::log_text(&mut |text| {
        for &byte in text.as_bytes() {
            if byte != b'\n' {
                // The rest of a long line is not looked at.
                if let Some(next) = line.get_mut(len) {
                    *next = byte;
                    len += 1;
                }
                continue;
            }
            let has = |word: &str| line[..len].windows(word.len()).any(|w| w == word.as_bytes());
            found += u32::from(has(who) && has(what));
            len = 0;
        }
        true
    });
    found
}

/// Somebody with a space of its own, who looks all the time whether that is as it
/// should be.
pub(super) struct Bystander {
    own: Own,
    thread: Option<JoinHandle>,
}

/// They are to end.
static ENOUGH: AtomicBool = AtomicBool::new(false);
/// What they have found that should not be.
static WRONG: AtomicU32 = AtomicU32::new(0);
/// Those that have all their pages.
static SETTLED: AtomicU32 = AtomicU32::new(0);
/// Those that have ended as they should.
static ENDED: AtomicU32 = AtomicU32::new(0);

impl Bystander {
    /// Some, each with that many pages, which they have when this returns; those
    /// of before are gone.
    pub(super) fn some<const N: usize>(
        test: &Test<'_, Subject>,
        pages: u64,
    ) -> Result<[Self; N], selftest::Stop> {
        ENOUGH.store(false, Relaxed);
        WRONG.store(0, Relaxed);
        SETTLED.store(0, Relaxed);
        ENDED.store(0, Relaxed);
        let mut some = [const { None }; N];
        for (place, number) in some.iter_mut().zip(1..) {
            *place = Some(Self::one(test, pages, number)?);
        }
        while SETTLED.load(Acquire) < N as u32 {
            task::sleep(1);
        }
        Ok(some.map(|one| match one {
            Some(one) => one,
            None => unreachable!("all were made"),
        }))
    }

    fn one(test: &Test<'_, Subject>, pages: u64, number: u64) -> Result<Self, selftest::Stop> {
        let own = check_ok!(Own::new(test.on.mm, "bystander"));
        let at = check_ok!(own.map(pages));
        let word = move |page: u64| number << 32 | page;
        let thread = check_ok!(own.run(move || {
            (0..pages).for_each(|page| put(at + page * PAGE, word(page)));
            SETTLED.fetch_add(1, Release);
            while !ENOUGH.load(Acquire) {
                let wrong = (0..pages).filter(|&page| get(at + page * PAGE) != word(page)).count();
                WRONG.fetch_add(wrong as u32, Relaxed);
                task::sleep(1);
            }
            ENDED.fetch_add(1, Relaxed);
        }));
        Ok(Self { own, thread: Some(thread) })
    }

    /// Its address space.
    pub(super) fn own(&self) -> &Own {
        &self.own
    }

    /// Ends them; nothing has happened to any.
    pub(super) fn end(some: &mut [Self]) -> CaseResult {
        ENOUGH.store(true, Release);
        some.iter_mut().filter_map(|one| one.thread.take()).for_each(JoinHandle::join);
        check_eq!(WRONG.load(Relaxed), 0, "pages that were not as they should be");
        check_eq!(ENDED.load(Relaxed), some.len() as u32, "those that came to their end");
        Ok(())
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        ENOUGH.store(true, Release);
        self.thread.take().into_iter().for_each(JoinHandle::join);
    }
}

fn what_is_not_theirs(test: &mut Test<'_, Subject>) -> CaseResult {
    static PASSED: AtomicU32 = AtomicU32::new(0);
    let mut others = Bystander::some::<2>(test, 8)?;
    let own = check_ok!(Own::new(test.on.mm, "stray"));
    let (prot, flags) = (Prot::READ, MapFlags::empty());
    let at = check_ok!(test.on.mm.mmap(&own, None, PAGE, prot, flags)).0;
    PASSED.store(0, Relaxed);
    for Stray { name, goes, says } in STRAYS {
        let before = logged(name, says);
        let thread = own.run_as(name, move || {
            // What may be read may be read.
            PASSED.fetch_add(1 + get(at) as u32, Relaxed);
            goes(at);
            PASSED.fetch_add(100, Relaxed);
        });
        check_ok!(thread).join();
        let lines = logged(name, says) - before;
        check_eq!(lines, 1, "lines that say of {name}: {says}");
    }
    check_eq!(PASSED.load(Relaxed), STRAYS.len() as u32);
    Bystander::end(&mut others)
}

/// A page that there is no memory for, and for which nobody is killed.
fn what_cannot_be_had(test: &mut Test<'_, Subject>) -> CaseResult {
    static GO: AtomicBool = AtomicBool::new(false);
    static PASSED: AtomicBool = AtomicBool::new(false);
    let mm = test.on.mm;
    let mut others = Bystander::some::<2>(test, 8)?;
    let own = check_ok!(Own::new(mm, "wants"));
    let at = check_ok!(own.map(1));
    GO.store(false, Relaxed);
    PASSED.store(false, Relaxed);
    let before = (logged("wants", "out of memory"), mm.vmstat_value("oom_kill"));
    let thread = check_ok!(own.run_as("wants", move || {
        while !GO.load(Acquire) {
            task::sleep(1);
        }
        put(at, 1);
        PASSED.store(true, Relaxed);
    }));
    mm.set_faults(FaultPlan::Every(NonZeroU64::MIN));
    GO.store(true, Release);
    thread.join();
    mm.set_faults(FaultPlan::Off);
    check!(!PASSED.load(Relaxed), "there was some");
    check_eq!(logged("wants", "out of memory"), before.0 + 1, "lines that say so");
    check_eq!(mm.vmstat_value("oom_kill"), before.1);
    check!(!own.is_killed());
    Bystander::end(&mut others)
}

fn whoever_was_killed(test: &mut Test<'_, Subject>) -> CaseResult {
    let mut others = Bystander::some::<1>(test, 8)?;
    let own = check_ok!(Own::new(test.on.mm, "dead"));
    let at = check_ok!(own.map(1));
    own.kill();
    let before = logged("dead", ": killed; the thread is ended");
    check_ok!(own.run_as("dead", move || put(at, 1))).join();
    check_eq!(logged("dead", ": killed; the thread is ended"), before + 1);
    Bystander::end(&mut others)
}

/// A fault far down the stack of its thread is made good all the same.
fn deep_in_its_stack(test: &mut Test<'_, Subject>) -> CaseResult {
    const DEPTH: u64 = 24;
    /// Writes on each level, the deepest first; returns how deep it was.
    fn deep(at: u64, left: u64) -> u64 {
        let room = black_box([left; 128]);
        let below = if left > 1 { deep(at + PAGE, left - 1) } else { 0 };
        put(at, room[64]);
        below + 1
    }
    let own = check_ok!(Own::new(test.on.mm, "deep"));
    let at = check_ok!(own.map(DEPTH));
    check_ok!(own.run_as("deep", move || put(at, deep(at, DEPTH)))).join();
    check_eq!(own.word(at), Some(DEPTH));
    for page in 1..DEPTH {
        check_eq!(own.word(at + page * PAGE), Some(DEPTH - page));
    }
    check_ok!(test.on.mm.munmap(&own, VirtAddr(at), DEPTH * PAGE));
    Ok(())
}
