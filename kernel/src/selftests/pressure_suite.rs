//! More memory than there is: threads that use three times as much as the
//! machine has, while the rest is on a disk, and look at every word of it again
//! and again. Nothing is lost, nobody is killed for it, and what it costs is
//! told. Runs with the full tests, where there is a disk. Calls `task`, `mm`,
//! `drivers`.

use crate::arch::time;
use crate::drivers;
use crate::platform::Machine;
use crate::selftests::Subject;
use crate::task::{self, Config, JoinHandle};
use crate::workers;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use mm::Mm;
use mm::mmu::VirtAddr;
use mm::space::{MapFlags, Prot, SpaceRef};
use mm::swap::SwapDevice;
use mm::types::PAGE_SIZE;
use quarry_kernel::sched::Name;
use selftest::{Case, CaseResult, Rng, Suite, Test, check, check_eq, check_ok, skip};

/// The suite.
pub(super) const SUITES: [Suite<Subject>; 1] = [Suite {
    name: "pressure",
    cases: &[
        Case::full("three_times_ram", three_times_ram),
        Case::full("zram_before_disk", zram_before_disk),
    ],
}];

/// Seconds that the first case goes on at least (`pressure=`).
static LASTS: AtomicU32 = AtomicU32::new(0);

/// Has the first case go on for so many seconds.
pub(super) fn choose(seconds: u32) {
    LASTS.store(seconds, Relaxed);
}

const PAGE: u64 = PAGE_SIZE as u64;
/// Pages that follow each other and are one thread's. The next ones are
/// another's, in the same large page as likely as not.
const CHUNK: u64 = 64;
/// Address spaces, and threads in each.
const SPACES: usize = 3;
const THREADS: usize = 2;
const WORKERS: usize = SPACES * THREADS;
/// Words of half a page, which is written at a time.
const HALF: u64 = PAGE / 2 / 8;

/// What the threads have found.
struct Found {
    /// Pages looked at, all of them.
    verified: AtomicU64,
    /// Pages that were not what they were written as.
    wrong: AtomicU64,
    /// The first of them: its address.
    where_: AtomicU64,
    /// Halves of pages written.
    written: AtomicU64,
    /// Threads that came to their end.
    ended: AtomicU32,
    /// Rounds of all threads.
    rounds: AtomicU32,
    /// Threads in copies of the spaces that came to their end, and copies made.
    copies: [AtomicU32; 2],
}

static FOUND: Found = Found {
    verified: AtomicU64::new(0),
    wrong: AtomicU64::new(0),
    where_: AtomicU64::new(0),
    written: AtomicU64::new(0),
    ended: AtomicU32::new(0),
    rounds: AtomicU32::new(0),
    copies: [AtomicU32::new(0), AtomicU32::new(0)],
};

impl Found {
    fn clear(&self) {
        let counts = [&self.verified, &self.wrong, &self.where_, &self.written];
        counts.into_iter().for_each(|count| count.store(0, Relaxed));
        let counts = [&self.ended, &self.rounds, &self.copies[0], &self.copies[1]];
        counts.into_iter().for_each(|count| count.store(0, Relaxed));
    }
}

/// A user of a space.
struct User {
    mm: &'static Mm<Machine>,
    space: Option<SpaceRef<'static>>,
}

impl User {
    fn of(mm: &'static Mm<Machine>, space: SpaceRef<'static>) -> Self {
        Self { mm, space: Some(space) }
    }

    fn another(&self) -> Self {
        Self::of(self.mm, self.mm.space_get(self))
    }
}

impl core::ops::Deref for User {
    type Target = SpaceRef<'static>;

    fn deref(&self) -> &Self::Target {
        match &self.space {
            Some(space) => space,
            None => unreachable!("given back at the end only"),
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.space.take().into_iter().for_each(|space| self.mm.space_put(space));
    }
}

/// A thread's part of the memory: every so manieth chunk of its space.
struct Part {
    /// Which of all.
    number: usize,
    at: u64,
    pages: u64,
    /// How often each half of each page was written; 0: it is all zero.
    times: Vec<[u8; 2]>,
}

impl Part {
    /// Of `pages` pages from `at` on that of thread `number`; None without memory
    /// for what is known of it.
    fn new(number: usize, at: u64, pages: u64) -> Option<Self> {
        let own = pages / THREADS as u64 / CHUNK * CHUNK;
        let mut times = Vec::new();
        times.try_reserve_exact(own as usize).ok()?;
        #[allow(clippy::disallowed_methods, reason = "there is room")]
        times.resize(own as usize, [0; 2]);
        Some(Self { number, at, pages: own, times })
    }

    /// The same for whoever has a copy of the space.
    fn copy(&self) -> Option<Self> {
        let mut times = Vec::new();
        times.try_reserve_exact(self.times.len()).ok()?;
        #[allow(clippy::disallowed_methods, reason = "there is room")]
        times.extend_from_slice(&self.times);
        Some(Self { times, ..*self })
    }

    /// Where page `page` of this thread is.
    fn address(&self, page: u64) -> u64 {
        let chunk = page / CHUNK * THREADS as u64 + (self.number % THREADS) as u64;
        self.at + (chunk * CHUNK + page % CHUNK) * PAGE
    }

    /// What a half holds that was written so many times: its word `word`.
    fn word(&self, page: u64, half: usize, times: u8, word: u64) -> u64 {
        if times == 0 {
            return 0;
        }
        let name = (self.number as u64) << 56 | page << 16 | (half as u64) << 8 | u64::from(times);
        let key = Rng::new(name).next_u64();
        // Words of which three are like each other get smaller by compression.
        if word.is_multiple_of(4) { key.wrapping_add(word) } else { key }
    }

    fn write(&mut self, page: u64, half: usize) {
        let times = &mut self.times[page as usize][half];
        *times = times.checked_add(1).unwrap_or(1);
        let (times, at) = (*times, self.address(page) + half as u64 * PAGE / 2);
        let key = self.word(page, half, times, 1);
        for word in 0..HALF {
            put(at + 8 * word, if word % 4 == 0 { key.wrapping_add(word) } else { key });
        }
        FOUND.written.fetch_add(1, Relaxed);
    }

    /// Looks at every word of a page.
    fn verify(&self, page: u64) {
        let mut same = true;
        for (half, &times) in self.times[page as usize].iter().enumerate() {
            let at = self.address(page) + half as u64 * PAGE / 2;
            let (first, key) = (self.word(page, half, times, 0), self.word(page, half, times, 1));
            for word in 0..HALF {
                let like = if times == 0 { 0 } else { first.wrapping_add(word) };
                same &= get(at + 8 * word) == if word % 4 == 0 { like } else { key };
            }
        }
        FOUND.verified.fetch_add(1, Relaxed);
        if !same && FOUND.wrong.fetch_add(1, Relaxed) == 0 {
            FOUND.where_.store(self.address(page), Relaxed);
        }
    }

    fn fill(&mut self) {
        for page in 0..self.pages {
            self.write(page, 0);
            self.write(page, 1);
        }
    }

    /// Everything once upwards; some in random order, of which some change; some
    /// in strides; some given back and mapped anew; all downwards.
    fn round(&mut self, space: &User, rng: &mut Rng) {
        (0..self.pages).for_each(|page| self.verify(page));
        for _ in 0..self.pages / 8 {
            let page = rng.below(self.pages);
            self.verify(page);
            if rng.percent(33) {
                self.write(page, rng.index(2));
                self.verify(page);
            }
        }
        for at in 0..self.pages / 4 {
            let page = at * 17 % self.pages;
            self.verify(page);
            if at % 8 == 0 {
                self.write(page, 0);
            }
        }
        for _ in 0..self.pages / CHUNK / 32 {
            self.renew(space, rng.below(self.pages / CHUNK));
        }
        if self.number.is_multiple_of(THREADS) {
            self.copied(space);
        }
        (0..self.pages).rev().for_each(|page| self.verify(page));
        FOUND.rounds.fetch_add(1, Relaxed);
    }

    /// Unmaps a chunk, maps it again, and finds zeros.
    fn renew(&mut self, space: &User, chunk: u64) {
        let first = chunk * CHUNK;
        let at = VirtAddr(self.address(first));
        let (prot, fixed) = (Prot::READ | Prot::WRITE, MapFlags::FIXED);
        // Where a large page has to be cut for it there may be no memory for that.
        if space.mm.munmap(space, at, CHUNK * PAGE).is_err() {
            return;
        }
        while space.mm.mmap(space, Some(at), CHUNK * PAGE, prot, fixed).is_err() {
            task::sleep(1);
        }
        for page in first..first + CHUNK {
            self.times[page as usize] = [0; 2];
            if page % 3 == 0 {
                self.verify(page);
            }
            if page % 5 != 0 {
                self.write(page, (page % 2) as usize);
            }
        }
    }

    /// Has a thread in a copy of the space look at what is there, and change some
    /// of it, of which nothing is seen here.
    fn copied(&mut self, space: &User) {
        let mm = space.mm;
        // Whoever gets no memory for it has made nothing that would stay.
        let Some(mut part) = self.copy() else { return };
        let Ok(copy) = mm.space_fork(space, "copy") else { return };
        let config = Config::new(Name::new("copy"));
        let thread = task::space::spawn_in(&config, copy, move || {
            for page in (0..part.pages).step_by(16) {
                part.verify(page);
                if page % 64 == 0 {
                    part.write(page, 1);
                    part.verify(page);
                }
            }
            FOUND.copies[1].fetch_add(1, Relaxed);
        });
        let Ok(thread) = thread else { return };
        FOUND.copies[0].fetch_add(1, Relaxed);
        for page in (8..self.pages).step_by(32) {
            self.write(page, 0);
            self.verify(page);
        }
        thread.join();
    }
}

/// Writes where the thread's address space has memory, or the thread ends.
fn put(at: u64, value: u64) {
    let ptr: *mut u64 = core::ptr::with_exposed_provenance_mut(at as usize);
    // SAFETY: an address of the lower half is the thread's own affair: if it is
    // not mapped the thread does not come back from here.
    unsafe { ptr.write_volatile(value) };
}

/// Reads there.
fn get(at: u64) -> u64 {
    let ptr: *const u64 = core::ptr::with_exposed_provenance(at as usize);
    // SAFETY: as for `put`.
    unsafe { ptr.read_volatile() }
}

/// Counters that tell what it has cost.
#[derive(Clone, Copy)]
struct Costs {
    ms: u64,
    /// Of vmstat, in the order of [`KEYS`].
    counts: [u64; KEYS.len()],
}

const KEYS: [&str; 8] = [
    "pswpin",
    "pswpout",
    "swap_ra",
    "swap_ra_hit",
    "pgmajfault",
    "oom_kill",
    "swpin_zero",
    "swpout_zero",
];

impl Costs {
    fn now(mm: &Mm<Machine>) -> Self {
        let counts = KEYS.map(|key| mm.vmstat_value(key).unwrap_or(0));
        Self { ms: time::now_ms(), counts }
    }

    fn since(self, before: Self) -> Self {
        let counts = core::array::from_fn(|at| self.counts[at] - before.counts[at]);
        Self { ms: (self.ms - before.ms).max(1), counts }
    }
}

/// Runs the threads on `pages` pages in all, for `seconds` at least.
fn load(test: &mut Test<'_, Subject>, pages: u64, seconds: u32) -> CaseResult {
    let mm = test.on.mm;
    FOUND.clear();
    mm.reset_longest_wait();
    let each = pages / SPACES as u64 / (CHUNK * THREADS as u64) * (CHUNK * THREADS as u64);
    let mut spaces = [const { None }; SPACES];
    let mut threads: [Option<JoinHandle>; WORKERS] = [const { None }; WORKERS];
    let before = Costs::now(mm);
    let until = before.ms + 1000 * u64::from(seconds);
    let busy = workers::busy();
    for (number, place) in spaces.iter_mut().enumerate() {
        let space = User::of(mm, check_ok!(mm.space_new("pressure")));
        let prot = Prot::READ | Prot::WRITE;
        let at = check_ok!(mm.mmap(&space, None, each * PAGE, prot, MapFlags::empty())).0;
        for thread in 0..THREADS {
            let number = number * THREADS + thread;
            let mut part = check_ok!(Part::new(number, at, each));
            let (user, mut rng) = (space.another(), Rng::new(test.rng.next_u64()));
            let config = Config::new(Name::numbered("pressure", number as u64));
            let run = move || {
                part.fill();
                loop {
                    part.round(&user, &mut rng);
                    if time::now_ms() >= until {
                        break;
                    }
                    if part.number == 0 {
                        tell(user.mm, before);
                    }
                }
                FOUND.ended.fetch_add(1, Relaxed);
            };
            threads[number] =
                Some(check_ok!(task::space::spawn_in(&config, mm.space_get(&space), run)));
        }
        *place = Some(space);
    }
    threads.iter_mut().filter_map(Option::take).for_each(JoinHandle::join);
    drop(busy);
    let costs = Costs::now(mm).since(before);
    // With all of it mapped still.
    check_ok!(mm.audit());
    drop(spaces);
    let [pswpin, pswpout, ra, hits, major, kills, ..] = costs.counts;
    let mib = |pages: u64| (pages * PAGE) >> 20;
    test.note(format_args!(
        "{} MiB in {} MiB of RAM, {} threads, {} rounds, {} s",
        mib(each * SPACES as u64),
        mib(mm.managed_pages()),
        WORKERS,
        FOUND.rounds.load(Relaxed),
        costs.ms / 1000,
    ));
    test.note(format_args!(
        "{} pages verified, {} halves written, {} copies of spaces",
        FOUND.verified.load(Relaxed),
        FOUND.written.load(Relaxed),
        FOUND.copies[0].load(Relaxed),
    ));
    test.note(format_args!(
        "out {pswpout} pages ({} KiB/s), in {pswpin} ({} KiB/s), {major} major faults",
        pswpout * 4000 / costs.ms,
        pswpin * 4000 / costs.ms,
    ));
    test.note(format_args!(
        "read ahead {ra}, of use {hits}; longest wait {} ms, {kills} killed",
        mm.longest_wait_ms()
    ));
    check_eq!(FOUND.wrong.load(Relaxed), 0, "pages lost, {:#x} first", FOUND.where_.load(Relaxed));
    check_eq!(FOUND.ended.load(Relaxed), WORKERS as u32, "threads that came to their end");
    check_eq!(FOUND.copies[1].load(Relaxed), FOUND.copies[0].load(Relaxed), "copies' threads");
    check_eq!(kills, 0, "processes killed");
    check!(pswpout > 0 && pswpin > 0, "nothing went to swap");
    Ok(())
}

/// How it goes, for a run that takes long.
fn tell(mm: &Mm<Machine>, before: Costs) {
    let Costs { ms, counts: [pswpin, pswpout, ..] } = Costs::now(mm).since(before);
    log::info!(
        "pressure: {} s, {} rounds, {} pages verified, {} wrong; in {pswpin}, out {pswpout}, longest wait {} ms",
        ms / 1000,
        FOUND.rounds.load(Relaxed),
        FOUND.verified.load(Relaxed),
        FOUND.wrong.load(Relaxed),
        mm.longest_wait_ms(),
    );
}

/// A device that is on for the length of a test.
struct On {
    mm: &'static Mm<Machine>,
    name: &'static str,
}

impl On {
    fn new(
        mm: &'static Mm<Machine>,
        device: &'static dyn SwapDevice,
        priority: u16,
    ) -> Result<Self, mm::swap::SwapOnError> {
        mm.swapon(device, Some(priority))?;
        Ok(Self { mm, name: device.name() })
    }
}

impl Drop for On {
    fn drop(&mut self) {
        // What a test that has failed leaves there comes back, or it stays on.
        let _ = self.mm.swapoff(self.name);
    }
}

/// Three times as much as there is RAM.
fn three_times_ram(test: &mut Test<'_, Subject>) -> CaseResult {
    let mm = test.on.mm;
    let Some(disk) = drivers::blk::find("/dev/vda") else { skip!("no disk to swap to") };
    let (ram, device) = (mm.managed_pages(), disk.swap());
    let on = check_ok!(On::new(mm, device, 1));
    // A quarter of RAM is left for all else.
    let most = ram - ram / 4 + u64::from(device.slots());
    if most < 2 * ram {
        skip!("the disk is smaller than RAM");
    }
    load(test, most.min(3 * ram), LASTS.load(Relaxed))?;
    check_eq!(mm.swap_totals().used, 0, "slots in use at the end");
    drop(on);
    Ok(())
}

/// What does not fit into compressed memory goes to the disk.
fn zram_before_disk(test: &mut Test<'_, Subject>) -> CaseResult {
    let mm = test.on.mm;
    let Some(disk) = drivers::blk::find("/dev/vda") else { skip!("no disk to swap to") };
    let (ram, zram) = (mm.managed_pages(), drivers::zram::device());
    if u64::from(disk.swap().slots()) < ram {
        skip!("the disk is smaller than RAM");
    }
    if zram.set_up(mm, (ram / 4) as u32).is_err() {
        skip!("compressed memory is in use");
    }
    let path = "/dev/zram0";
    let compressed = check_ok!(drivers::zram::swap(mm, path));
    let high = check_ok!(On::new(mm, compressed, 2));
    let low = check_ok!(On::new(mm, disk.swap(), 1));
    load(test, ram + ram / 2, 0)?;
    drop((high, low));
    check_eq!(mm.swap_totals().total, 0, "devices that are on");
    zram.reset(mm);
    Ok(())
}
