//! Threads with address spaces of their own that do everything at once, at random:
//! map, write, give up, lock, copy and unmap memory, while others take it away,
//! swap it to compressed RAM, move it, and want long ranges. Each page is looked
//! at again and again: it is what was written last. Calls `task`, `mm`, `drivers`.

use super::space_suite::{Own, get, put};
use crate::drivers::zram;
use crate::platform::Machine;
use crate::selftests::Subject;
use crate::task::{self, Config, JoinHandle};
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU64};
use mm::mmu::VirtAddr;
use mm::pressure::Pressure;
use mm::space::{Advice, FaultError, MapError};
use mm::types::{NodeId, Order, PAGE_SIZE, Pfn};
use mm::{Gfp, Mm};
use quarry_kernel::sched::Name;
use selftest::{Case, CaseResult, Rng, Suite, Test, check, check_eq, check_ok};

/// The suite.
pub(super) const SUITES: [Suite<Subject>; 1] =
    [Suite { name: "tumult", cases: &[Case::quick("short", short), Case::full("long", long)] }];

const PAGE: u64 = PAGE_SIZE as u64;
/// Threads with spaces.
const THREADS: usize = 4;

/// Those that came to their end.
static ENDED: AtomicU64 = AtomicU64::new(0);
/// Pages that were not as they should be.
static WRONG: AtomicU64 = AtomicU64::new(0);
/// Accesses that could not be made: there is no memory, or a device failed.
static FAILED: AtomicU64 = AtomicU64::new(0);
static ENOUGH: AtomicBool = AtomicBool::new(false);
/// Rounds of those who disturb.
static DISTURBED: AtomicU64 = AtomicU64::new(0);
/// Rounds of those that a thread sees at least, if they come within reason.
const DISTURBANCES: u64 = 25;

fn short(test: &mut Test<'_, Subject>) -> CaseResult {
    run(test, 600, 150)
}

fn long(test: &mut Test<'_, Subject>) -> CaseResult {
    run(test, 1500, 4_000)
}

/// Swap to compressed RAM, unless somebody else has it.
struct Swap(&'static Mm<Machine>);

impl Swap {
    fn on(mm: &'static Mm<Machine>, slots: u32) -> Option<Self> {
        let device = zram::device();
        if device.slots(mm) > 0 || device.set_up(mm, slots).is_err() {
            return None;
        }
        let on = zram::swap(mm, device.name()).map(|swap| mm.swapon(swap, None));
        if !matches!(on, Some(Ok(_))) {
            device.reset(mm);
            return None;
        }
        Some(Self(mm))
    }

    /// Switches it off, and gives back what it had.
    fn off(self) -> CaseResult {
        let Self(mm) = self;
        let device = zram::device();
        check_ok!(mm.swapoff(device.name()));
        check_ok!(device.audit(mm));
        device.reset(mm);
        Ok(())
    }
}

/// A thread's memory, and what it should be: a page holds its number and how
/// often it was written, or nothing if that is 0.
struct Memory {
    mm: &'static Mm<Machine>,
    number: u64,
    at: u64,
    written: Vec<u32>,
    rng: Rng,
}

impl Memory {
    fn pages(&self) -> u64 {
        self.written.len() as u64
    }

    fn word(&self, page: u64, written: u32) -> u64 {
        if written == 0 { 0 } else { self.number << 56 | page << 32 | u64::from(written) }
    }

    fn expected(&self, page: u64) -> u64 {
        self.word(page, self.written.get(page as usize).copied().unwrap_or(0))
    }

    fn look(&self, page: u64) {
        let at = self.at + page * PAGE;
        let expected = self.expected(page);
        let wrong = get(at) != expected || get(at + PAGE - 8) != expected;
        WRONG.fetch_add(wrong.into(), Relaxed);
    }

    fn write(&mut self, page: u64) {
        let Some(written) = self.written.get_mut(page as usize) else { return };
        *written += 1;
        let (at, word) = (self.at + page * PAGE, self.expected(page));
        put(at, word);
        put(at + PAGE - 8, word);
    }

    /// A few pages: the first, and how many.
    fn some(&mut self, most: u64) -> (u64, u64) {
        let first = self.rng.below(self.pages());
        (first, 1 + self.rng.below(most.min(self.pages() - first)))
    }

    fn va(&self, page: u64) -> VirtAddr {
        VirtAddr(self.at + page * PAGE)
    }

    /// One thing at random, in the thread's own space.
    fn act(&mut self, own: &Own) {
        match self.rng.below(100) {
            0..45 => {
                let (first, pages) = self.some(12);
                (first..first + pages).for_each(|page| self.look(page));
            }
            45..85 => {
                let (first, pages) = self.some(12);
                (first..first + pages).for_each(|page| self.write(page));
            }
            85..89 => {
                let (first, pages) = self.some(40);
                let given = self.mm.madvise(own, self.va(first), pages * PAGE, Advice::DontNeed);
                self.zeroed(first, pages, given);
            }
            89..92 => {
                // It stays for so long.
                let (first, pages) = self.some(8);
                let (va, len) = (self.va(first), pages * PAGE);
                if self.mm.mlock(own, va, len).is_ok() {
                    (first..first + pages).for_each(|page| self.look(page));
                }
                let _ = self.mm.munlock(own, va, len);
            }
            92..95 => self.fork(own),
            95..98 => self.write_from_outside(own),
            _ => {
                let advice = if self.rng.percent(50) { Advice::Huge } else { Advice::NoHuge };
                let (first, pages) = self.some(600);
                let _ = self.mm.madvise(own, self.va(first), pages * PAGE, advice);
            }
        }
    }

    /// Notes that pages are zero again, if that was done.
    fn zeroed(&mut self, first: u64, pages: u64, given: Result<(), MapError>) {
        match given {
            Ok(()) => {
                let pages = first as usize..(first + pages) as usize;
                self.written.get_mut(pages).into_iter().for_each(|written| written.fill(0));
            }
            // A large page could not be split for it: which of it has gone nobody
            // knows, so all of it is written.
            Err(_) => (first..first + pages).for_each(|page| self.write(page)),
        }
    }

    /// A copy has what this has, and goes its own way.
    fn fork(&mut self, own: &Own) {
        let Ok(copy) = self.mm.space_fork(own, "copy") else { return };
        let copy = Own::of(self.mm, copy);
        let (first, pages) = self.some(30);
        for page in first..first + pages {
            self.write(page);
            let before = self.word(page, self.written[page as usize] - 1);
            let mut bytes = [0; 8];
            match self.mm.read_space(&copy, self.va(page), &mut bytes) {
                Ok(()) => {
                    // What it was when it was given up nobody remembers.
                    let found = u64::from_ne_bytes(bytes);
                    WRONG.fetch_add((found != before).into(), Relaxed);
                }
                Err(why) => self.failed(why),
            }
            if let Err(why) = self.mm.write_space(&copy, self.va(page), &[0xff; 8]) {
                self.failed(why);
            }
            self.look(page);
        }
    }

    fn write_from_outside(&mut self, own: &Own) {
        let (page, _) = self.some(1);
        self.write(page);
        let word = self.expected(page).to_ne_bytes();
        if let Err(why) = self.mm.write_space(own, self.va(page), &word) {
            self.failed(why);
        }
        self.look(page);
    }

    fn failed(&self, why: FaultError) {
        log::warn!("tumult: thread {}: {why}", self.number);
        FAILED.fetch_add(1, Relaxed);
    }
}

/// Takes memory away, moves it, and wants long ranges, until it is enough.
fn disturb(mm: &'static Mm<Machine>, rng: &mut Rng) {
    while !ENOUGH.load(Acquire) {
        match rng.below(8) {
            0..5 => {
                for zone in mm.zones().iter().filter(|zone| zone.managed() > 0) {
                    // What was used just now is passed over the first time.
                    for _ in 0..2 {
                        mm.reclaim_in_zone(zone.index(), 256, Gfp::KERNEL | Gfp::RETRY_MAYFAIL);
                    }
                }
            }
            5 => {
                for node in 0..mm.nodes() as u8 {
                    mm.kcompactd_round(NodeId(node));
                }
            }
            6 => {
                // The whole of a large machine takes too long to be done twice.
                if mm.managed_pages() < 1 << 18 {
                    mm.compact_memory(None);
                }
            }
            _ => {
                let gfp = Gfp::KERNEL | Gfp::RETRY_MAYFAIL | Gfp::NOWARN;
                if let Ok(range) = mm.alloc_contig_pages(300, Order(0), None, Pfn(0), gfp) {
                    let freed = mm.free_contig_range(range);
                    WRONG.fetch_add(freed.is_err().into(), Relaxed);
                }
            }
        }
        DISTURBED.fetch_add(1, Relaxed);
        task::yield_now();
    }
}

fn run(test: &mut Test<'_, Subject>, pages: u64, rounds: u64) -> CaseResult {
    let mm = test.on.mm;
    for count in [&ENDED, &WRONG, &FAILED, &DISTURBED] {
        count.store(0, Relaxed);
    }
    ENOUGH.store(false, Relaxed);
    let swap = Swap::on(mm, (THREADS as u64 * pages) as u32 * 2);
    let before = ["pswpout", "pswpin", "pgmigrate_success"].map(|key| mm.vmstat_value(key));
    let mut rng = Rng::new(test.rng.next_u64());
    let config = Config::new(Name::new("disturber"));
    let disturber = check_ok!(task::spawn(&config, move || disturb(mm, &mut rng)));
    let threads = start(test, pages, rounds);
    let started = threads.iter().flatten().count() as u64;
    threads.into_iter().flatten().for_each(JoinHandle::join);
    ENOUGH.store(true, Release);
    disturber.join();
    let after = ["pswpout", "pswpin", "pgmigrate_success"].map(|key| mm.vmstat_value(key));
    let with_swap = swap.is_some();
    swap.map_or(Ok(()), Swap::off)?;
    check_eq!(started, THREADS as u64, "threads that began");
    check_eq!(ENDED.load(Relaxed), started, "threads that came to their end");
    check_eq!((WRONG.load(Relaxed), FAILED.load(Relaxed)), (0, 0), "wrong and failed accesses");
    let [out, back, moved] =
        core::array::from_fn(|i| after[i].unwrap_or(0) - before[i].unwrap_or(0));
    check!(!with_swap || out > 0 && back > 0, "nothing was swapped");
    test.note(format_args!("{out} pages out, {back} back, {moved} moved"));
    Ok(())
}

/// The threads, as many as could be made.
fn start(test: &mut Test<'_, Subject>, pages: u64, rounds: u64) -> [Option<JoinHandle>; THREADS] {
    let mm = test.on.mm;
    core::array::from_fn(|number| {
        let mut memory = Memory {
            mm,
            number: number as u64 + 1,
            at: 0,
            written: Vec::new(),
            rng: Rng::new(test.rng.next_u64()),
        };
        memory.written.try_reserve_exact(pages as usize).ok()?;
        (0..pages).for_each(|_| memory.written.push(0));
        let own = Own::new(mm, "tumult").ok()?;
        memory.at = own.map(pages).ok()?;
        let outside = Own::of(mm, mm.space_get(&own));
        let thread = own.run_as("tumult", move || {
            for round in 0..rounds * 100 {
                if round >= rounds && DISTURBED.load(Relaxed) >= DISTURBANCES {
                    break;
                }
                memory.act(&outside);
            }
            (0..memory.pages()).for_each(|page| memory.look(page));
            ENDED.fetch_add(1, Relaxed);
        });
        thread.ok()
    })
}
