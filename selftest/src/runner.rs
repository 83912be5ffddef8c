//! Runs suites and writes the report: KTAP version 1 with the conventions of
//! KUnit (four spaces per level, `# Subtest:`, totals), between the lines
//! `QUARRY-BEGIN` and `QUARRY-END`. Calls `case`, `filter`, `report`, `rng`.

use crate::case::{Case, Level, Stop, Subject, Suite, Test};
use crate::filter::Filter;
use crate::report::{Counts, Harness};
use crate::rng::Rng;
use crate::text::Text;
use core::fmt;

/// A case that took this long says so (milliseconds).
const SLOW_MS: u64 = 100;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Config<'a> {
    /// How much.
    pub level: Level,
    /// Seed of all random numbers of the run.
    pub seed: u64,
    /// Which of the cases that the level allows.
    pub filter: Filter<'a>,
}

impl Config<'_> {
    fn selects<C>(&self, suite: &Suite<C>, case: &Case<C>) -> bool {
        self.level >= case.level && self.filter.selects(suite.name, case.name)
    }

    fn selected<C>(&self, suite: &Suite<C>) -> usize {
        suite.cases.iter().filter(|case| self.selects(suite, case)).count()
    }
}

/// Runs what `config` selects of `groups`, in order, and reports it to
/// `harness` line by line. A case fails if it says so or if [`Subject::tally`]
/// differs afterwards. `scratch` is lent to one case after the other.
///
/// With [`Level::Off`] only `QUARRY-END` is written. A filter that selects
/// nothing is a failure, for a misspelt one must not look like a passed run.
pub fn run<C: Subject>(
    on: &C,
    groups: &[&[Suite<C>]],
    config: &Config<'_>,
    scratch: &mut [u64],
    harness: &mut dyn Harness,
) -> Counts {
    let mut counts = Counts::default();
    if config.level != Level::Off {
        harness.line(format_args!(
            "QUARRY-BEGIN selftest={} selftest.seed={:#x} kunit.filter_glob={}",
            config.level.name(),
            config.seed,
            Text::<96>::format(format_args!("{}", config.filter.pattern())),
        ));
        harness.line(format_args!("KTAP version 1"));
        let suites = || groups.iter().flat_map(|group| group.iter());
        let plan = suites().filter(|suite| config.selected(suite) > 0).count();
        if plan == 0 {
            counts.fail = 1;
            harness.line(format_args!("1..1"));
            harness.line(format_args!("# no case of level {} matches", config.level.name()));
            harness.line(format_args!("not ok 1 filter_glob"));
            harness.case_failed("kunit", "filter_glob");
        } else {
            harness.line(format_args!("1..{plan}"));
            let selected = suites().filter(|suite| config.selected(suite) > 0);
            for (number, suite) in (1..).zip(selected) {
                counts += run_suite(on, suite, number, config, scratch, harness);
            }
            totals(harness, format_args!("Totals"), counts);
        }
    }
    harness.line(format_args!("QUARRY-END {counts}"));
    counts
}

fn totals(harness: &mut dyn Harness, of: fmt::Arguments<'_>, counts: Counts) {
    let Counts { pass, fail, skip } = counts;
    let total = counts.total();
    harness.line(format_args!("# {of}: pass:{pass} fail:{fail} skip:{skip} total:{total}"));
}

fn run_suite<C: Subject>(
    on: &C,
    suite: &Suite<C>,
    number: u32,
    config: &Config<'_>,
    scratch: &mut [u64],
    harness: &mut dyn Harness,
) -> Counts {
    harness.line(format_args!("    KTAP version 1"));
    harness.line(format_args!("    # Subtest: {}", suite.name));
    harness.line(format_args!("    1..{}", config.selected(suite)));
    let start = harness.now_ms();
    let mut counts = Counts::default();
    let selected = suite.cases.iter().filter(|case| config.selects(suite, case));
    for (number, case) in (1..).zip(selected) {
        counts += run_case(on, suite.name, case, number, config, scratch, harness);
    }
    let ms = harness.now_ms().saturating_sub(start);
    harness.line(format_args!("# {}: {ms} ms", suite.name));
    totals(harness, format_args!("{}", suite.name), counts);
    // As KUnit has it: a suite of which nothing could run is itself skipped.
    let word = if counts.fail > 0 { "not ok" } else { "ok" };
    let skipped = if counts.skip == counts.total() { " # SKIP nothing could run" } else { "" };
    harness.line(format_args!("{word} {number} {}{skipped}", suite.name));
    counts
}

fn run_case<C: Subject>(
    on: &C,
    suite: &'static str,
    case: &Case<C>,
    number: u32,
    config: &Config<'_>,
    scratch: &mut [u64],
    harness: &mut dyn Harness,
) -> Counts {
    if harness.is_interrupted() {
        harness.line(format_args!("    ok {number} {} # SKIP interrupted", case.name));
        return Counts { skip: 1, ..Counts::default() };
    }
    // The hook feeds the watchdog and the crash report; the line is for a
    // machine that hangs so hard that neither can speak.
    harness.case_begins(suite, case.name);
    harness.line(format_args!("    # {suite}.{} begins", case.name));
    let before = on.tally();
    let start = harness.now_ms();
    let result = (case.run)(&mut Test {
        on,
        rng: Rng::new(Rng::derive(config.seed, suite, case.name)),
        scratch,
        level: config.level,
        suite,
        case: case.name,
        harness,
    });
    let ms = harness.now_ms().saturating_sub(start);
    let after = on.tally();
    harness.case_ended();

    let name = case.name;
    if ms >= SLOW_MS {
        harness.line(format_args!("    # {suite}.{name}: {ms} ms"));
    }
    let leaked = before != after;
    if leaked {
        harness.line(format_args!(
            "    # {suite}.{name}: not all was given back: before {before}, after {after}"
        ));
    }
    if let Err(Stop::Fail { file, line, message }) = &result {
        harness.line(format_args!("    # {suite}.{name}: {file}:{line}: {message}"));
    }
    match &result {
        Ok(()) if !leaked => {
            harness.line(format_args!("    ok {number} {name}"));
            Counts { pass: 1, ..Counts::default() }
        }
        Err(Stop::Skip(reason)) if !leaked => {
            harness.line(format_args!("    ok {number} {name} # SKIP {reason}"));
            Counts { skip: 1, ..Counts::default() }
        }
        _ => {
            harness.line(format_args!("    not ok {number} {name}"));
            harness.case_failed(suite, name);
            Counts { fail: 1, ..Counts::default() }
        }
    }
}
