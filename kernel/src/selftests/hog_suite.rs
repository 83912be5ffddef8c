//! Memory runs out for real: whoever has most of it is ended, says the log, and
//! everybody else goes on with all that is his. Calls `task`, `mm`.

use super::space_suite::{Own, get, put};
use super::stray_suite::{Bystander, logged};
use crate::platform::Machine;
use crate::selftests::Subject;
use crate::task;
use alloc::vec::Vec;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use mm::mmu::VirtAddr;
use mm::types::{MAX_ORDER, Order, PAGE_SIZE};
use mm::{Gfp, Mm, Page, Request};
use selftest::{Case, CaseResult, Suite, Test, check, check_eq, check_ok, skip};

/// The suite.
pub(super) const SUITES: [Suite<Subject>; 1] = [Suite {
    name: "oom",
    cases: &[
        Case::full("a_hog_is_killed", a_hog_is_killed),
        Case::full("one_that_sleeps_gives_all", one_that_sleeps_gives_all),
        Case::full("nobody_may_be_killed", nobody_may_be_killed),
    ],
}];

const PAGE: u64 = PAGE_SIZE as u64;
/// Pages that are left to the tests, and that all of them may use: those kept for
/// contiguous allocations, which page tables cannot lie in, come on top.
const LEFT: u64 = 24 << 8;
/// Pages of the largest machine that is filled.
const LARGEST: u64 = 4 << 18;

/// Nearly all memory, in blocks that nobody touches; given back when dropped.
struct Held {
    mm: &'static Mm<Machine>,
    blocks: Vec<Page>,
    /// Pages that are free now.
    left: u64,
}

impl Held {
    /// Takes it; None on a machine that has too much.
    fn take(mm: &'static Mm<Machine>) -> Option<Self> {
        let most = LARGEST / MAX_ORDER.pages() * 2;
        let mut held = Self { mm, blocks: Vec::new(), left: 0 };
        held.blocks.try_reserve_exact(most as usize).ok()?;
        if mm.free_pages_total() > LARGEST {
            return None;
        }
        let gfp = Gfp::KERNEL | Gfp::NORETRY | Gfp::NOWARN;
        for order in [MAX_ORDER, Order(6)] {
            while free_for_all(mm) > LEFT + order.pages()
                && held.blocks.len() < most as usize
                && let Ok(block) = mm.alloc_pages(Request::new(order, gfp))
            {
                held.blocks.push(block);
            }
        }
        mm.drain_all(None);
        held.left = mm.free_pages_total();
        Some(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for block in self.blocks.drain(..) {
            let freed = self.mm.free_pages(block);
            debug_assert!(freed.is_ok(), "an allocated block");
        }
    }
}

/// Free pages that any request may have.
fn free_for_all(mm: &Mm<Machine>) -> u64 {
    mm.zones().iter().map(|zone| zone.free_pages().saturating_sub(zone.free_cma_pages())).sum()
}

fn kills(mm: &Mm<Machine>) -> Option<u64> {
    mm.vmstat_value("oom_kill")
}

fn a_hog_is_killed(test: &mut Test<'_, Subject>) -> CaseResult {
    static PASSED: AtomicBool = AtomicBool::new(false);
    let mm = test.on.mm;
    let Some(held) = Held::take(mm) else { skip!("too much memory to fill") };
    let pages = 4 * held.left;
    let mut others = Bystander::some::<3>(test, 300)?;
    let protected = check_ok!(Own::new(mm, "protected"));
    let at = check_ok!(protected.map(1500));
    protected.set_protected(true);
    check_ok!(protected.run(move || (0..1500).for_each(|n| put(at + n * PAGE, n)))).join();
    let before = (
        kills(mm),
        logged("Killed space hog", "Out of memory"),
        logged("hog", ": killed; the thread"),
    );
    PASSED.store(false, Relaxed);
    let hog = check_ok!(Own::new(mm, "hog"));
    let from = check_ok!(hog.map(pages));
    let thread = check_ok!(hog.run_as("hog", move || {
        (0..pages).for_each(|n| put(from + n * PAGE, n));
        PASSED.store(true, Relaxed);
    }));
    thread.join();
    check!(hog.is_killed() && !PASSED.load(Relaxed), "it had all it wanted");
    check_eq!((hog.rss(), hog.swapped()), (0, 0));
    check_eq!(kills(mm), before.0.map(|kills| kills + 1));
    check_eq!(logged("Killed space hog", "Out of memory"), before.1 + 1);
    check_eq!(logged("hog", ": killed; the thread"), before.2 + 1);
    check!(!protected.is_killed() && others.iter().all(|other| !other.own().is_killed()));
    for n in 0..1500 {
        check_eq!(protected.word(at + n * PAGE), Some(n));
    }
    Bystander::end(&mut others)
}

/// It is killed for somebody else, while its thread waits for something; that
/// ends when it wants something again.
fn one_that_sleeps_gives_all(test: &mut Test<'_, Subject>) -> CaseResult {
    static SLEEPS: AtomicBool = AtomicBool::new(false);
    static PASSED: AtomicBool = AtomicBool::new(false);
    static DONE: AtomicBool = AtomicBool::new(false);
    let mm = test.on.mm;
    let Some(held) = Held::take(mm) else { skip!("too much memory to fill") };
    // For one of them at a time.
    let (most, more) = (held.left * 2 / 3, held.left * 3 / 5);
    let mut others = Bystander::some::<1>(test, 50)?;
    for flag in [&SLEEPS, &PASSED, &DONE] {
        flag.store(false, Relaxed);
    }
    let sleeper = check_ok!(Own::new(mm, "sleeper"));
    let at = check_ok!(sleeper.map(most));
    let thread = check_ok!(sleeper.run_as("sleeper", move || {
        (0..most).for_each(|n| put(at + n * PAGE, n));
        SLEEPS.store(true, Release);
        while SLEEPS.load(Acquire) {
            task::sleep(1);
        }
        put(at, get(at) + 1);
        PASSED.store(true, Relaxed);
    }));
    while !SLEEPS.load(Acquire) && !sleeper.is_killed() {
        task::sleep(1);
    }
    check_eq!(sleeper.rss(), most);
    let asker = check_ok!(Own::new(mm, "asker"));
    let there = check_ok!(asker.map(more));
    let asking = check_ok!(asker.run_as("asker", move || {
        (0..more).for_each(|n| put(there + n * PAGE, n));
        DONE.store(true, Relaxed);
    }));
    asking.join();
    let killed = (sleeper.is_killed(), asker.is_killed());
    let left = sleeper.rss();
    SLEEPS.store(false, Release);
    thread.join();
    check_eq!(killed, (true, false), "who was killed");
    check_eq!(left, 0, "pages of one that slept");
    check!(DONE.load(Relaxed) && !PASSED.load(Relaxed));
    for n in 0..more {
        check_eq!(asker.word(there + n * PAGE), Some(n));
    }
    check_ok!(mm.munmap(&asker, VirtAddr(there), more * PAGE));
    Bystander::end(&mut others)
}

/// Where nobody may be killed, whoever wants more than there is ends alone.
fn nobody_may_be_killed(test: &mut Test<'_, Subject>) -> CaseResult {
    let mm = test.on.mm;
    let Some(held) = Held::take(mm) else { skip!("too much memory to fill") };
    let pages = 4 * held.left;
    let mut others = Bystander::some::<2>(test, 300)?;
    others.iter().for_each(|other| other.own().set_protected(true));
    let hog = check_ok!(Own::new(mm, "greedy"));
    hog.set_protected(true);
    let from = check_ok!(hog.map(pages));
    let before = (kills(mm), logged("greedy", ": out of memory; the thread"));
    let thread = hog.run_as("greedy", move || (0..pages).for_each(|n| put(from + n * PAGE, n)));
    check_ok!(thread).join();
    check_eq!((kills(mm), hog.is_killed()), (before.0, false));
    check_eq!(logged("greedy", ": out of memory; the thread"), before.1 + 1);
    check!(hog.rss() > LEFT / 2, "{} pages were had", hog.rss());
    Bystander::end(&mut others)
}
