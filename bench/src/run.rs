//! Runs operations: windows, medians, which of them are wanted, and where the
//! figures go. Calls the files of operations, `selftest`'s filter and text.

use crate::cost::Cost;
use crate::fault::{self, Threads};
use crate::swap::{self, Compressed};
use crate::{compact, contig, migrate, pages, slab};
use core::fmt;
use core::ptr::NonNull;
use mm::arena::MovableArena;
use mm::page::PageDesc;
use mm::platform::Platform;
use mm::types::Pfn;
use mm::{AllocError, Mm};
use selftest::Filter;

/// Most windows of one measurement.
const MAX_WINDOWS: usize = 101;

/// Windows of cheap operations; dear ones take fewer.
pub(crate) const MANY: usize = MAX_WINDOWS;
pub(crate) const SOME: usize = 25;

/// Something that counts up: instructions, cycles or time.
pub trait Counter {
    /// The count at this moment.
    fn now(&self) -> u64;
}

/// Where the figures go.
pub trait Report {
    /// One figure.
    fn figure(&mut self, suite: &'static str, row: &'static str, cost: Cost);

    /// Something that could not be measured, and why.
    fn skipped(&mut self, suite: &'static str, why: Why);
}

/// Why an operation was not measured.
#[derive(Clone, Copy, Debug)]
pub enum Why {
    /// The machine is too small, or lacks what it takes.
    Lacks(&'static str),
    /// The manager refused or broke its word.
    Failed(&'static str),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lacks(what) => write!(f, "this machine lacks {what}"),
            Self::Failed(what) => write!(f, "failed: {what}"),
        }
    }
}

impl From<AllocError> for Why {
    fn from(_: AllocError) -> Self {
        Self::Failed("an allocation")
    }
}

/// What the start of the manager cost.
#[derive(Clone, Copy, Debug)]
pub struct Boot {
    /// Counts from the firmware's map to full free lists.
    pub counts: u64,
    /// Pages of RAM.
    pub pages: u64,
}

/// Pages that the batches hold at most.
pub(crate) const PAGES: usize = 4096;
/// Objects that the batches hold at most.
pub(crate) const OBJECTS: usize = 1000;
/// Movable pages to find whole pageblocks of.
pub(crate) const MOVABLE: usize = 8192;

/// Room for what the operations hold.
pub struct Scratch {
    pub(crate) pages: [Pfn; PAGES],
    pub(crate) handles: [u64; MOVABLE],
}

impl Scratch {
    /// Empty room.
    pub const fn new() -> Self {
        Self { pages: [Pfn(0); PAGES], handles: [0; MOVABLE] }
    }
}

/// What is measured.
pub struct Ground<P: Platform> {
    /// The manager, with its slab layer up, used by nobody else meanwhile.
    pub mm: &'static Mm<P>,
    /// An arena that nobody else uses, registered with it.
    pub arena: &'static MovableArena<P>,
    /// Those who use memory through page tables.
    pub threads: &'static dyn Threads<P>,
    /// Compressed memory, to swap to.
    pub compressed: &'static dyn Compressed<P>,
    /// Free pages that the experiment with compaction leaves itself at most: the
    /// rest it takes away meanwhile.
    pub most: u64,
    /// What its start cost, where that is known.
    pub boot: Option<Boot>,
}

/// How it went.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    /// Figures reported.
    pub figures: u32,
    /// Operations that failed.
    pub failed: u32,
}

/// What a set of operations is given.
pub(crate) struct Bench<'a, P: Platform> {
    pub(crate) on: &'a Ground<P>,
    pub(crate) scratch: &'a mut Scratch,
    pub(crate) meter: Meter<'a>,
    suite: &'static str,
    globs: &'a str,
    tally: Tally,
    report: &'a mut dyn Report,
}

/// Takes measurements.
#[derive(Clone, Copy)]
pub(crate) struct Meter<'a> {
    counter: &'a dyn Counter,
    /// What a window costs that nothing happens in.
    empty: u64,
}

impl<'a> Meter<'a> {
    fn new(counter: &'a dyn Counter) -> Self {
        let mut meter = Self { counter, empty: 0 };
        let mut samples = Samples::default();
        for _ in 0..MANY {
            samples.add(meter.window(|| Ok(())).unwrap_or_default());
        }
        meter.empty = samples.median();
        meter
    }

    /// What `f` costs, once.
    #[inline]
    pub(crate) fn window(&self, f: impl FnOnce() -> Result<(), Why>) -> Result<u64, Why> {
        let before = self.counter.now();
        f()?;
        Ok((self.counter.now() - before).saturating_sub(self.empty))
    }

    /// The median cost of `operations` that `f` does at a time.
    pub(crate) fn each(
        &self,
        windows: usize,
        operations: usize,
        mut f: impl FnMut() -> Result<(), Why>,
    ) -> Result<Cost, Why> {
        // Lists fill, caches are set up.
        f()?;
        f()?;
        let mut samples = Samples::default();
        for _ in 0..windows {
            samples.add(self.window(&mut f)?);
        }
        Ok(Cost::shared(samples.median(), operations as u64))
    }

    /// The median costs of two things done in turn, each of `operations`.
    /// Between them something may happen that does not count.
    pub(crate) fn in_turn<S: ?Sized>(
        &self,
        windows: usize,
        operations: usize,
        state: &mut S,
        first: impl Fn(&mut S) -> Result<(), Why>,
        between: impl Fn(&mut S),
        second: impl Fn(&mut S) -> Result<(), Why>,
    ) -> Result<(Cost, Cost), Why> {
        let (mut firsts, mut seconds) = (Samples::default(), Samples::default());
        for window in 0..windows + 2 {
            let one = self.window(|| first(state))?;
            between(state);
            let other = self.window(|| second(state))?;
            if window >= 2 {
                firsts.add(one);
                seconds.add(other);
            }
        }
        let operations = operations as u64;
        let cost = |samples: &mut Samples| Cost::shared(samples.median(), operations);
        Ok((cost(&mut firsts), cost(&mut seconds)))
    }
}

impl<P: Platform> Bench<'_, P> {
    /// Whether somebody wants one of these rows.
    pub(crate) fn wants(&self, rows: &[&str]) -> bool {
        rows.iter()
            .any(|row| self.globs.split(',').any(|glob| Filter::new(glob).selects(self.suite, row)))
    }

    /// Reports a figure, if it is wanted.
    pub(crate) fn report(&mut self, row: &'static str, cost: Cost) {
        if self.wants(&[row]) {
            self.report.figure(self.suite, row, cost);
            self.tally.figures += 1;
        }
    }

    /// Reports two figures, or why there are none.
    pub(crate) fn both(&mut self, rows: [&'static str; 2], costs: Result<(Cost, Cost), Why>) {
        match costs {
            Ok((one, other)) => {
                self.report(rows[0], one);
                self.report(rows[1], other);
            }
            Err(why) => self.skip(why),
        }
    }

    /// Reports a figure, or why there is none.
    pub(crate) fn one(&mut self, row: &'static str, cost: Result<Cost, Why>) {
        match cost {
            Ok(cost) => self.report(row, cost),
            Err(why) => self.skip(why),
        }
    }

    fn skip(&mut self, why: Why) {
        self.report.skipped(self.suite, why);
        self.tally.failed += u32::from(matches!(why, Why::Failed(_)));
    }
}

/// The costs of a measurement's windows.
pub(crate) struct Samples {
    counts: [u64; MAX_WINDOWS],
    len: usize,
}

impl Default for Samples {
    fn default() -> Self {
        Self { counts: [0; MAX_WINDOWS], len: 0 }
    }
}

impl Samples {
    /// Takes one in; those beyond the room there is are dropped.
    pub(crate) fn add(&mut self, count: u64) {
        if let Some(slot) = self.counts.get_mut(self.len) {
            *slot = count;
            self.len += 1;
        }
    }

    /// The one in the middle; 0 of none.
    pub(crate) fn median(&mut self) -> u64 {
        let counts = &mut self.counts[..self.len];
        counts.sort_unstable();
        counts.get(counts.len() / 2).copied().unwrap_or_default()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Objects that a batch holds.
pub(crate) type Objects = [NonNull<u8>; OBJECTS];

/// A set of operations: its name, and what measures them.
type Suite<P> = (&'static str, fn(&mut Bench<'_, P>));

/// Measures what `globs` select and reports it; each is `suite` or `suite.row`,
/// with commas between them. What was allocated is given back. Interrupts on, no lock held.
pub fn run<P: Platform>(
    on: &Ground<P>,
    globs: &str,
    counter: &dyn Counter,
    scratch: &mut Scratch,
    report: &mut dyn Report,
) -> Tally {
    let meter = Meter::new(counter);
    let tally = Tally::default();
    let mut bench = Bench { on, scratch, meter, suite: "", globs, tally, report };
    let suites: [Suite<P>; 9] = [
        ("boot", boot),
        ("pages", pages::run),
        ("slab", slab::run),
        ("contig", contig::run),
        ("cma", contig::run_cma),
        ("migrate", migrate::run),
        ("fault", fault::run),
        ("swap", swap::run),
        ("compact", compact::run),
    ];
    for (suite, run) in suites {
        bench.suite = suite;
        run(&mut bench);
    }
    bench.tally
}

/// What the start of the manager took.
fn boot<P: Platform>(bench: &mut Bench<'_, P>) {
    if let Some(Boot { counts, pages }) = bench.on.boot {
        bench.report("per_page", Cost::shared(counts, pages));
    }
    bench.report("descriptor_bytes", Cost::shared(size_of::<PageDesc>() as u64, 1));
}
