//! Tests of address spaces as the processor sees them: threads whose memory
//! comes when they touch it, that share it, copy it and lose it. Calls `task`, `mm`.

use crate::arch::time;
use crate::platform::Machine;
use crate::selftests::Subject;
use crate::smp;
use crate::task::{self, Config, JoinHandle};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU64};
use mm::Mm;
use mm::mmu::VirtAddr;
use mm::space::{Advice, MapFlags, Prot, SpaceRef};
use mm::types::PAGE_SIZE;
use quarry_kernel::cpuset::CpuSet;
use quarry_kernel::sched::Name;
use selftest::{Case, CaseResult, Suite, Test, check, check_eq, check_ok, skip};

/// The suite.
pub(super) const SUITES: [Suite<Subject>; 1] = [Suite {
    name: "space",
    cases: &[
        Case::quick("memory_comes_when_touched", memory_comes_when_touched),
        Case::quick("a_fork_keeps_its_own", a_fork_keeps_its_own),
        Case::quick("all_cpus_share_one_space", all_cpus_share_one_space),
        Case::quick("what_is_unmapped_is_gone_everywhere", what_is_unmapped_is_gone_everywhere),
        Case::quick("advice_is_taken", advice_is_taken),
        Case::quick("others_map_beside_it", others_map_beside_it),
    ],
}];

const PAGE: u64 = PAGE_SIZE as u64;

/// A space that is given back at the end of a test.
pub(super) struct Own {
    mm: &'static Mm<Machine>,
    space: Option<SpaceRef<'static>>,
}

impl Own {
    /// A new one.
    pub(super) fn new(mm: &'static Mm<Machine>, name: &str) -> Result<Self, mm::space::MapError> {
        Ok(Self { mm, space: Some(mm.space_new(name)?) })
    }

    /// That one.
    pub(super) fn of(mm: &'static Mm<Machine>, space: SpaceRef<'static>) -> Self {
        Self { mm, space: Some(space) }
    }

    /// Maps that many pages, to be read and written.
    pub(super) fn map(&self, pages: u64) -> Result<u64, mm::space::MapError> {
        let prot = Prot::READ | Prot::WRITE;
        let at = self.mm.mmap(self, None, pages * PAGE, prot, MapFlags::empty())?;
        Ok(at.0)
    }

    /// A thread that runs `run` in it.
    pub(super) fn run(
        &self,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<JoinHandle, task::SpawnError> {
        self.run_as("mapped", run)
    }

    /// [`run`](Self::run) under another name.
    pub(super) fn run_as(
        &self,
        name: &'static str,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<JoinHandle, task::SpawnError> {
        let config = Config::new(Name::new(name));
        task::space::spawn_in(&config, self.mm.space_get(self), run)
    }

    /// What is there.
    pub(super) fn word(&self, at: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.mm.read_space(self, VirtAddr(at), &mut bytes).ok()?;
        Some(u64::from_ne_bytes(bytes))
    }
}

impl core::ops::Deref for Own {
    type Target = SpaceRef<'static>;

    fn deref(&self) -> &Self::Target {
        match &self.space {
            Some(space) => space,
            None => unreachable!("given back at the end only"),
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.space.take().into_iter().for_each(|space| self.mm.space_put(space));
    }
}

/// Writes where the thread's address space has memory, or the thread ends.
pub(super) fn put(at: u64, value: u64) {
    let ptr: *mut u64 = core::ptr::with_exposed_provenance_mut(at as usize);
    // SAFETY: an address of the lower half is the thread's own affair: if it is
    // not mapped the thread does not come back from here.
    unsafe { ptr.write_volatile(value) };
}

/// Reads there.
pub(super) fn get(at: u64) -> u64 {
    let ptr: *const u64 = core::ptr::with_exposed_provenance(at as usize);
    // SAFETY: as for `put`.
    unsafe { ptr.read_volatile() }
}

/// A thread's memory is there when it touches it, zero at first, and all of it
/// is back when the space has gone.
fn memory_comes_when_touched(test: &mut Test<'_, Subject>) -> CaseResult {
    const PAGES: u64 = 300;
    static SUM: AtomicU64 = AtomicU64::new(0);
    SUM.store(0, Relaxed);
    let own = check_ok!(Own::new(test.on.mm, "touch"));
    let at = check_ok!(own.map(PAGES));
    check_eq!(own.rss(), 0);
    let thread = own.run(move || {
        for page in 0..PAGES {
            SUM.fetch_add(get(at + page * PAGE), Relaxed);
            put(at + page * PAGE + 8, page + 1);
        }
        for page in 0..PAGES {
            SUM.fetch_add(get(at + page * PAGE + 8), Relaxed);
        }
    });
    check_ok!(thread).join();
    check_eq!(SUM.load(Relaxed), PAGES * (PAGES + 1) / 2);
    check_eq!(own.word(at + 299 * PAGE + 8), Some(300));
    check!(own.rss() >= PAGES, "{} pages are there", own.rss());
    check_ok!(test.on.mm.munmap(&own, VirtAddr(at), PAGES * PAGE));
    check_eq!(own.rss(), 0);
    Ok(())
}

/// After a fork each side sees what it wrote itself.
fn a_fork_keeps_its_own(test: &mut Test<'_, Subject>) -> CaseResult {
    const PAGES: u64 = 64;
    let mm = test.on.mm;
    let parent = check_ok!(Own::new(mm, "parent"));
    let at = check_ok!(parent.map(PAGES));
    let fill = move |value: u64| move || (0..PAGES).for_each(|n| put(at + n * PAGE, value + n));
    check_ok!(parent.run(fill(1000))).join();
    let child = Own::of(mm, check_ok!(mm.space_fork(&parent, "child")));
    check_eq!(child.word(at + PAGE), Some(1001));
    check_ok!(child.run(fill(2000))).join();
    check_ok!(parent.run(move || put(at + 5 * PAGE, 7))).join();
    for n in 0..PAGES {
        let mine = if n == 5 { 7 } else { 1000 + n };
        check_eq!(parent.word(at + n * PAGE), Some(mine));
        check_eq!(child.word(at + n * PAGE), Some(2000 + n));
    }
    Ok(())
}

/// Threads on all CPUs fault in the same pages at the same time.
fn all_cpus_share_one_space(test: &mut Test<'_, Subject>) -> CaseResult {
    const PAGES: u64 = 128;
    const THREADS: u64 = 4;
    let own = check_ok!(Own::new(test.on.mm, "shared"));
    let at = check_ok!(own.map(PAGES));
    let mut threads = [const { None }; THREADS as usize];
    for (thread, number) in threads.iter_mut().zip(0..THREADS) {
        *thread = Some(check_ok!(own.run(move || {
            for page in 0..PAGES {
                put(at + page * PAGE + number * 8, number + page);
            }
        })));
    }
    threads.into_iter().flatten().for_each(JoinHandle::join);
    for page in 0..PAGES {
        for number in 0..THREADS {
            check_eq!(own.word(at + page * PAGE + number * 8), Some(number + page));
        }
    }
    check!(own.rss() < 2 * PAGES + 512, "{} pages for {PAGES}", own.rss());
    Ok(())
}

/// A page that is unmapped is gone for threads that use it on all other CPUs all
/// the time.
fn what_is_unmapped_is_gone_everywhere(test: &mut Test<'_, Subject>) -> CaseResult {
    /// CPUs at most.
    const MOST: usize = 16;
    static ROUNDS: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
    if smp::online().len() < 2 {
        skip!("one CPU");
    }
    ROUNDS.iter().for_each(|rounds| rounds.store(0, Relaxed));
    let mm = test.on.mm;
    let own = check_ok!(Own::new(mm, "shot"));
    let at = check_ok!(own.map(1));
    let here = task::pin();
    let others = smp::online().without(here.cpu());
    let mut threads = [const { None }; MOST];
    for ((cpu, thread), rounds) in others.iter().zip(&mut threads).zip(&ROUNDS) {
        let config = Config { cpus: CpuSet::one(cpu), ..Config::new(Name::new("user")) };
        *thread = Some(check_ok!(task::space::spawn_in(&config, mm.space_get(&own), move || {
            loop {
                put(at + u64::from(cpu.0) % 512 * 8, rounds.fetch_add(1, Release));
            }
        })));
    }
    let users = others.len().min(MOST);
    while ROUNDS[..users].iter().any(|rounds| rounds.load(Acquire) < 1000) {
        task::sleep(1);
    }
    check_ok!(mm.munmap(&own, VirtAddr(at), PAGE));
    // If they never end the watchdog ends this.
    threads.into_iter().flatten().for_each(JoinHandle::join);
    test.note(format_args!("{users} other CPUs"));
    Ok(())
}

/// Memory that is not needed goes, and is zero when it is touched again.
fn advice_is_taken(test: &mut Test<'_, Subject>) -> CaseResult {
    const PAGES: u64 = 32;
    let mm = test.on.mm;
    let own = check_ok!(Own::new(mm, "advised"));
    let at = check_ok!(own.map(PAGES));
    let write = move || (0..PAGES).for_each(|n| put(at + n * PAGE, 9));
    check_ok!(own.run(write)).join();
    let half = PAGES / 2 * PAGE;
    check_ok!(mm.madvise(&own, VirtAddr(at), half, Advice::DontNeed));
    check_eq!(own.word(at), Some(0));
    check_eq!(own.word(at + half), Some(9));
    check_ok!(own.run(write)).join();
    check_eq!(own.word(at), Some(9));
    Ok(())
}

/// A thread uses its memory while others of its space map and unmap some: each
/// waits for the other, and for no longer than that takes.
fn others_map_beside_it(test: &mut Test<'_, Subject>) -> CaseResult {
    const ROUNDS: u64 = 100;
    static ENOUGH: AtomicBool = AtomicBool::new(false);
    static WRONG: AtomicU64 = AtomicU64::new(0);
    ENOUGH.store(false, Relaxed);
    WRONG.store(0, Relaxed);
    let mm = test.on.mm;
    let own = check_ok!(Own::new(mm, "beside"));
    let at = check_ok!(own.map(2));
    let user = check_ok!(own.run(move || {
        let mut round = 0;
        while !ENOUGH.load(Acquire) {
            round += 1;
            put(at, round);
            // The next use of it is a fault.
            let space = task::space::own();
            let dropped =
                space.map(|space| mm.madvise(space, VirtAddr(at), PAGE, Advice::DontNeed));
            let wrong = dropped != Some(Ok(())) || get(at) != 0;
            WRONG.fetch_add(wrong.into(), Relaxed);
        }
    }));
    let begin = time::now_ms();
    let mapped = (0..ROUNDS).try_for_each(|round| {
        let part = own.map(1)?;
        let word = mm.write_space(&own, VirtAddr(part), &round.to_ne_bytes());
        WRONG.fetch_add(u64::from(word.is_err() || own.word(part) != Some(round)), Relaxed);
        mm.munmap(&own, VirtAddr(part), PAGE)
    });
    let took = time::now_ms() - begin;
    ENOUGH.store(true, Release);
    user.join();
    check_ok!(mapped);
    check_eq!(WRONG.load(Relaxed), 0);
    test.note(format_args!("{ROUNDS} regions in {took} ms"));
    Ok(())
}
