//! Runs the self-tests at boot: where their report goes, which test is running
//! (for the crash report), and a watchdog that ends one that hangs. Calls
//! `selftest`, `console`, `arch::time`.

mod crew;
mod device_suite;
mod heap_suite;
mod hog_suite;
mod kernel_suites;
mod pressure_suite;
mod provoke;
mod restart_suite;
mod room_suite;
mod smp_suite;
mod space_suite;
mod storm_suite;
mod stray_suite;
mod task_suite;
mod tumult_suite;

use crate::arch::irq::IrqMutex;
use crate::arch::time;
use crate::arch::trap::TrapFrame;
use crate::console::{self, input};
use crate::crash;
use crate::platform::Machine;
use crate::task::{self, Mutex, Thread};
use crate::workers::{self, Quiet};
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use mm::Mm;
use mm::arena::MovableArena;
use mm::sync::LockRank;
use quarry_kernel::options::Options;
use selftest::suites::{Ground, Lender, Suites};
use selftest::{Config, Counts, Filter, Harness, Level, Suite};

/// A test that has begun and not ended.
#[derive(Clone, Copy)]
struct Running {
    suite: &'static str,
    case: &'static str,
    since_ms: u64,
    /// Whose it is; that thread outlives all tests.
    thread: &'static Thread,
}

impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.suite, self.case)
    }
}

static RUNNING: IrqMutex<Option<Running>> = IrqMutex::new(LockRank::Leaf, None);

/// Milliseconds after which a test counts as hanging; 0: never.
static LIMIT_MS: AtomicU64 = AtomicU64::new(0);

/// Words lent to each test for its own records.
const SCRATCH: usize = 16 * 1024;
static SCRATCH_AREA: Mutex<[u64; SCRATCH]> = Mutex::new([0; SCRATCH]);

/// What the tests run on, once it is there; the lock is also what keeps two runs
/// apart.
static GROUND: Mutex<Option<Subject>> = Mutex::new(None);

/// The test that is running, for the crash report.
pub(crate) fn current() -> impl fmt::Display {
    struct Current(Option<Running>);
    impl fmt::Display for Current {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match &self.0 {
                Some(running) => running.fmt(f),
                None => f.write_str("none"),
            }
        }
    }
    // Who holds it is not in the middle of much.
    Current(RUNNING.try_lock().and_then(|running| *running))
}

/// Whether the test that runs is `case` of `suite`.
fn is_running(suite: &str, case: &str) -> bool {
    RUNNING.lock().is_some_and(|running| running.suite == suite && running.case == case)
}

/// Ends the kernel if the running test has had its time. Called by the timer's
/// interrupt, which came at `frame`.
pub(crate) fn watchdog(frame: &TrapFrame) {
    let limit_ms = LIMIT_MS.load(Ordering::Relaxed);
    let Some(running) = RUNNING.try_lock().and_then(|running| *running) else { return };
    let ran_ms = time::now_ms().saturating_sub(running.since_ms);
    if limit_ms != 0 && ran_ms > limit_ms && !crash::in_progress() {
        let what = format_args!("test {running} hangs: no end after {} s", ran_ms / 1000);
        crash::hang(frame, running.thread.waits_at(), what);
    }
}

/// Runs what the command line asks for. Returns how it went, and what failed. If
/// it is `attended`, ^C ends it: at boot, it may not make a test count as passed.
/// A function of its own in every backtrace.
#[inline(never)]
pub(crate) fn run(
    mm: &'static Mm<Machine>,
    options: &Options<'_>,
    attended: bool,
) -> (Counts, Failed) {
    LIMIT_MS.store(u64::from(options.test_timeout) * 1000, Ordering::Relaxed);
    let config = Config {
        level: options.selftest,
        seed: options.seed.unwrap_or_else(time::counter),
        filter: Filter::new(options.filter_glob.unwrap_or_default()),
    };
    let crash: &[Suite<Subject>] = match options.crash {
        Some(kind) => {
            provoke::choose(kind);
            &provoke::SUITES
        }
        None => &[],
    };
    pressure_suite::choose(options.pressure);
    let mut ground = GROUND.lock();
    let Some(on) = prepare(mm, config.level, &mut ground) else {
        return (Counts { fail: 1, ..Counts::default() }, Failed::default());
    };
    // The audit of everything is the last of `mm`'s suites.
    let groups = [
        crash,
        &kernel_suites::SUITES,
        &restart_suite::SUITES,
        &device_suite::SUITES,
        &smp_suite::SUITES,
        &task_suite::SUITES,
        &space_suite::SUITES,
        &room_suite::SUITES,
        &stray_suite::SUITES,
        &hog_suite::SUITES,
        &tumult_suite::SUITES,
        &storm_suite::SUITES,
        &pressure_suite::SUITES,
        &heap_suite::SUITES,
        Suites::<Machine>::ALL,
    ];
    let mut scratch = SCRATCH_AREA.lock();
    let mut harness = ToConsole { quiet: None, failed: Failed::default(), attended };
    let counts = selftest::run(&on, &groups, &config, &mut scratch[..], &mut harness);
    (counts, harness.failed)
}

/// What the tests run on, with all CPUs if there are to be tests; says why if
/// there is nothing.
fn prepare(mm: &'static Mm<Machine>, level: Level, known: &mut Option<Subject>) -> Option<Subject> {
    let ground = match known.map_or_else(|| Ground::new(mm, &ARENA, &LENDER), Ok) {
        Ok(ground) => *known.insert(ground),
        Err(error) => {
            log::error!("no self-tests: {error}");
            return None;
        }
    };
    if level == Level::Off {
        return Some(ground);
    }
    match ground.with_crew(crew::start()) {
        Ok(ground) => Some(ground),
        Err(stop) => {
            log::error!("no self-tests on several CPUs: {stop:?}");
            None
        }
    }
}

/// What the tests run on.
type Subject = Ground<Machine>;

/// The pages that the tests move.
static ARENA: MovableArena<Machine> = MovableArena::new();

/// The balloon whose host the tests are.
static LENDER: Lender<Machine> = Lender::new();

/// The report goes to the console, in whole lines without time stamps.
struct ToConsole {
    /// Tests measure what the background changes, so it works between them.
    quiet: Option<Quiet>,
    failed: Failed,
    /// Somebody waits for the end, who may lose patience.
    attended: bool,
}

/// Names of the tests that have failed, as many as one can do something about.
#[derive(Default)]
pub(crate) struct Failed {
    names: [(&'static str, &'static str); Self::MAX],
    count: usize,
}

impl Failed {
    /// How many are kept by name.
    pub(crate) const MAX: usize = 8;

    /// Suite and case of the first of them.
    pub(crate) fn names(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.names.into_iter().take(self.count)
    }

    /// How many more there are.
    pub(crate) fn unnamed(&self) -> usize {
        self.count.saturating_sub(Self::MAX)
    }
}

impl Harness for ToConsole {
    fn line(&mut self, line: fmt::Arguments<'_>) {
        console::line(line);
    }

    fn case_begins(&mut self, suite: &'static str, case: &'static str) {
        self.quiet = Some(workers::quiet());
        *RUNNING.lock() =
            Some(Running { suite, case, since_ms: time::now_ms(), thread: task::current() });
    }

    fn case_ended(&mut self) {
        *RUNNING.lock() = None;
        self.quiet = None;
        workers::settle();
    }

    fn case_failed(&mut self, suite: &'static str, case: &'static str) {
        if let Some(name) = self.failed.names.get_mut(self.failed.count) {
            *name = (suite, case);
        }
        self.failed.count += 1;
    }

    fn is_interrupted(&self) -> bool {
        self.attended && input::interrupted()
    }

    fn now_ms(&self) -> u64 {
        time::now_ms()
    }
}
