//! Threads that do everything at once, at random: wait for each other, sleep,
//! wander, make and join others, exclude each other. Nothing gets lost, and
//! nobody waits for ever. Calls `task`.

use crate::arch::percpu::{self, PerCpu};
use crate::selftests::Subject;
use crate::task::{self, Config, JoinHandle, Mutex, WaitQueue};
use crate::vm::kstack;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use quarry_kernel::cpuset::CpuSet;
use quarry_kernel::sched::{Name, Priority};
use selftest::{Case, CaseResult, Rng, Suite, Test, check_eq, check_ok};

/// The suite.
pub(super) const SUITES: [Suite<Subject>; 1] =
    [Suite { name: "storm", cases: &[Case::quick("short", short), Case::full("long", long)] }];

/// Most threads at a time, their children aside.
const MOST: usize = 16;

/// What the threads of a storm do together.
struct Storm {
    /// Two counts that agree whenever the mutex is open.
    pair: Mutex<(u64, u64)>,
    /// Tokens, of which each thread puts in as many as it takes out.
    tokens: AtomicU64,
    taken: WaitQueue,
    /// Rounds done, children's lives among them.
    done: AtomicU64,
    /// Children.
    born: AtomicU64,
    /// Threads found where they may not be, or a pair that did not agree.
    wrong: AtomicU64,
}

static STORM: Storm = Storm {
    pair: Mutex::new((0, 0)),
    tokens: AtomicU64::new(0),
    taken: WaitQueue::new(),
    done: AtomicU64::new(0),
    born: AtomicU64::new(0),
    wrong: AtomicU64::new(0),
};

impl Storm {
    fn take_token(&self) -> bool {
        self.tokens.try_update(AcqRel, Acquire, |left| left.checked_sub(1)).is_ok()
    }

    fn put_token(&self) {
        self.tokens.fetch_add(1, Release);
        self.taken.wake_one();
    }

    /// One thing at random.
    fn act(&'static self, rng: &mut Rng) {
        match rng.below(100) {
            0..30 => {
                let mut pair = self.pair.lock();
                self.wrong.fetch_add(u64::from(pair.0 != pair.1), Relaxed);
                pair.0 += 1;
                match rng.below(20) {
                    0 => task::sleep(1),
                    1..6 => task::yield_now(),
                    _ => {}
                }
                pair.1 += 1;
            }
            30..60 => {
                // Somebody else may take it; then somebody else puts one in.
                self.put_token();
                self.taken.wait_until(|| self.take_token());
            }
            60..70 => {
                self.put_token();
                while !self.taken.wait_until_for(rng.below(3), || self.take_token()) {}
            }
            70..90 => task::yield_now(),
            90..93 => task::sleep(rng.below(3)),
            93..97 => self.wander(rng),
            _ => self.have_child(rng),
        }
        self.done.fetch_add(1, Relaxed);
    }

    fn wander(&self, rng: &mut Rng) {
        let cpus = online();
        let count = cpus.len();
        let Some(to) = cpus.iter().nth(rng.index(count)) else { return };
        let gone = task::move_to(CpuSet::one(to)).is_ok();
        let there = task::pin().cpu() == to;
        self.wrong.fetch_add(u64::from(!gone || !there), Relaxed);
        let free = task::move_to(CpuSet::ALL).is_ok();
        self.wrong.fetch_add(u64::from(!free), Relaxed);
    }

    /// Makes a thread and joins it, or lets it go. It may fail for want of
    /// memory, which is no failure here.
    fn have_child(&'static self, rng: &mut Rng) {
        let priorities = [Priority::Low, Priority::Normal, Priority::High];
        let priority = rng.pick(&priorities).unwrap_or(Priority::Normal);
        let config = Config { priority, ..Config::new(Name::new("child")) };
        let run = || {
            self.put_token();
            self.taken.wait_until(|| self.take_token());
            self.done.fetch_add(1, Relaxed);
        };
        match task::spawn(&config, run) {
            Ok(child) if rng.percent(70) => child.join(),
            Ok(child) => drop(child),
            Err(_) => return,
        }
        self.born.fetch_add(1, Relaxed);
    }
}

fn online() -> CpuSet {
    let areas = percpu::all().filter(|area| area.sched.is_online());
    areas.map(PerCpu::id).collect::<CpuSet>()
}

fn short(test: &mut Test<'_, Subject>) -> CaseResult {
    run(test, 200)
}

fn long(test: &mut Test<'_, Subject>) -> CaseResult {
    run(test, 10_000)
}

fn run(test: &mut Test<'_, Subject>, rounds: u64) -> CaseResult {
    *STORM.pair.lock() = (0, 0);
    for count in [&STORM.tokens, &STORM.done, &STORM.born, &STORM.wrong] {
        count.store(0, Relaxed);
    }
    let stacks = kstack::in_use();
    let threads = (3 * online().len()).clamp(4, MOST);
    let mut handles: [Option<JoinHandle>; MOST] = [const { None }; MOST];
    for handle in handles.iter_mut().take(threads) {
        let mut rng = Rng::new(test.rng.next_u64());
        *handle = Some(check_ok!(task::spawn(&Config::new(Name::new("storm")), move || {
            (0..rounds).for_each(|_| STORM.act(&mut rng));
        })));
    }
    handles.iter_mut().filter_map(Option::take).for_each(JoinHandle::join);
    // Children that were let go may still be at it.
    while kstack::in_use() > stacks {
        task::sleep(1);
    }
    let pair = STORM.pair.lock();
    check_eq!(pair.0, pair.1);
    drop(pair);
    check_eq!((STORM.wrong.load(Relaxed), STORM.tokens.load(Relaxed)), (0, 0));
    let born = STORM.born.load(Relaxed);
    check_eq!(STORM.done.load(Relaxed), threads as u64 * rounds + born);
    test.note(format_args!("{threads} threads and {born} children, {rounds} rounds each"));
    Ok(())
}
