//! Suites, cases, and what a case is given to work with. Calls `text`, `rng`
//! and `report`.

use crate::report::Harness;
use crate::rng::Rng;
use crate::text::Text;
use core::fmt;

/// How much to run (`selftest=` on the command line).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Nothing.
    Off,
    /// What every boot can afford: seconds, and a bounded part of memory.
    Quick,
    /// Everything.
    Full,
}

impl Level {
    /// The level called `name`: `off`, `quick` or `full`.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Off, Self::Quick, Self::Full].into_iter().find(|level| level.name() == name)
    }

    /// The name that [`parse`](Self::parse) reads.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Quick => "quick",
            Self::Full => "full",
        }
    }
}

/// Why a case ended early.
#[derive(Clone, Copy, Debug)]
pub enum Stop {
    /// Something is wrong.
    Fail {
        /// Source file of the check that failed.
        file: &'static str,
        /// Its line.
        line: u32,
        /// What was expected and what was found.
        message: Text<96>,
    },
    /// The case cannot be tried on this machine.
    Skip(Text<96>),
}

/// What a case returns; the macros of this crate make the errors.
pub type CaseResult<T = ()> = Result<T, Stop>;

/// Ends the case as failed unless the condition holds; the message, with its
/// arguments, is optional.
#[macro_export]
macro_rules! check {
    ($condition:expr $(,)?) => {
        $crate::check!($condition, "not so: {}", stringify!($condition))
    };
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            $crate::fail!($($message)+);
        }
    };
}

/// Ends the case as failed unless both sides are equal. The second is what was
/// expected. The message, with its arguments, is optional.
#[macro_export]
macro_rules! check_eq {
    ($found:expr, $expected:expr $(,)?) => {
        $crate::check_eq!($found, $expected, "{}", stringify!($found))
    };
    ($found:expr, $expected:expr, $($message:tt)+) => {
        match (&$found, &$expected) {
            (found, expected) => {
                if !(*found == *expected) {
                    $crate::fail!(
                        "{}: {:?}, expected {:?}", format_args!($($message)+), found, expected
                    );
                }
            }
        }
    };
}

/// The value of a `Result` or `Option` that must have one; ends the case as
/// failed otherwise.
#[macro_export]
macro_rules! check_ok {
    ($result:expr $(,)?) => {
        match $crate::Outcome::outcome($result) {
            Ok(value) => value,
            Err(why) => $crate::fail!("{}: {:?}", stringify!($result), why),
        }
    };
}

/// Ends the case as failed.
#[macro_export]
macro_rules! fail {
    ($($message:tt)+) => {
        return Err($crate::Stop::Fail {
            file: file!(),
            line: line!(),
            message: $crate::Text::format(format_args!($($message)+)),
        })
    };
}

/// Ends the case as skipped, with the reason.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)+) => {
        return Err($crate::Stop::Skip($crate::Text::format(format_args!($($reason)+))))
    };
}

/// What [`check_ok!`] takes.
pub trait Outcome {
    /// The value when all went well.
    type Value;
    /// What to print when it did not.
    type Why: fmt::Debug;
    /// The value or the reason.
    ///
    /// # Errors
    /// The reason why there is no value.
    fn outcome(self) -> Result<Self::Value, Self::Why>;
}

impl<T, E: fmt::Debug> Outcome for Result<T, E> {
    type Value = T;
    type Why = E;
    fn outcome(self) -> Self {
        self
    }
}

impl<T> Outcome for Option<T> {
    type Value = T;
    type Why = Option<()>;
    fn outcome(self) -> Result<T, Option<()>> {
        self.ok_or(None)
    }
}

/// What suites are run on, and how the runner sees whether a case gave
/// everything back.
pub trait Subject {
    /// A tally of what is in use, for instance pages and slab objects.
    type Tally: PartialEq + fmt::Display;

    /// Counts now.
    fn tally(&self) -> Self::Tally;
}

/// A function that tests one thing of a `C`.
pub struct Case<C: 'static> {
    /// Unique in its suite, without `#`, spaces or dots.
    pub name: &'static str,
    /// The least level at which it runs.
    pub level: Level,
    /// The test itself.
    pub run: fn(&mut Test<'_, C>) -> CaseResult,
}

impl<C> Case<C> {
    /// A case for every boot.
    pub const fn quick(name: &'static str, run: fn(&mut Test<'_, C>) -> CaseResult) -> Self {
        Self { name, level: Level::Quick, run }
    }

    /// A case that takes longer, or more memory, than every boot can afford.
    pub const fn full(name: &'static str, run: fn(&mut Test<'_, C>) -> CaseResult) -> Self {
        Self { name, level: Level::Full, run }
    }
}

/// Cases that belong together.
pub struct Suite<C: 'static> {
    /// Unique, without `#`, spaces or dots.
    pub name: &'static str,
    /// In the order in which they run.
    pub cases: &'static [Case<C>],
}

/// What a case works with.
pub struct Test<'a, C> {
    /// What is tested.
    pub on: &'a C,
    /// This case's random numbers.
    pub rng: Rng,
    /// Room for the case's own records; whatever is in it is left over.
    pub scratch: &'a mut [u64],
    /// How thorough to be.
    pub level: Level,
    pub(crate) suite: &'static str,
    pub(crate) case: &'static str,
    pub(crate) harness: &'a mut dyn Harness,
}

impl<C> Test<'_, C> {
    /// Writes a diagnostic line that names this case.
    pub fn note(&mut self, text: fmt::Arguments<'_>) {
        let text = Text::<184>::format(text);
        self.harness.line(format_args!("    # {}.{}: {text}", self.suite, self.case));
    }

    /// Milliseconds since some fixed moment.
    pub fn now_ms(&self) -> u64 {
        self.harness.now_ms()
    }
}
