//! What the runner needs from its surroundings, and what it counts. Calls
//! nothing.

use core::fmt;
use core::ops::AddAssign;

/// The surroundings of a run: where its lines go, what time it is, and who
/// wants to know which case is running (a watchdog, the crash report).
pub trait Harness {
    /// Writes one whole line, without its line end. It must reach the reader
    /// unbroken, at the start of a line and without colour or time stamp: a
    /// result that stands behind other text is lost to every KTAP parser.
    fn line(&mut self, line: fmt::Arguments<'_>);

    /// Called before each case, before anything of it has run.
    fn case_begins(&mut self, suite: &'static str, case: &'static str);

    /// Called when the case that began last is over.
    fn case_ended(&mut self);

    /// Called after that if the case has failed.
    fn case_failed(&mut self, _suite: &'static str, _case: &'static str) {}

    /// Whether whoever waits for the report wants it to end: cases that have not
    /// begun by then are skipped.
    fn is_interrupted(&self) -> bool {
        false
    }

    /// Milliseconds since some fixed moment.
    fn now_ms(&self) -> u64;
}

/// How many cases ended how. Displayed as the end of the `QUARRY-END` line.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Cases that passed.
    pub pass: u32,
    /// Cases that failed.
    pub fail: u32,
    /// Cases that said why they cannot run here.
    pub skip: u32,
}

impl Counts {
    /// All cases that were run.
    pub fn total(&self) -> u32 {
        self.pass + self.fail + self.skip
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.pass += other.pass;
        self.fail += other.fail;
        self.skip += other.skip;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pass={} fail={} skip={}", self.pass, self.fail, self.skip)
    }
}
