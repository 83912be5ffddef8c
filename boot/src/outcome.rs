//! What a run's end means: QEMU's status and the serial log, judged. Pure.

use crate::script::Verdict;
use std::fmt;

/// QEMU's status after the kernel wrote "passed" to the exit device.
const QEMU_PASSED: i32 = 33;
/// QEMU's status after the kernel wrote "failed".
const QEMU_FAILED: i32 = 35;
/// What the kernel says last before it switches the machine off.
const POWER_DOWN: &str = "reboot: Power down";

/// How QEMU ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// By itself, with this status.
    Exited(i32),
    /// By a signal that was not ours.
    Killed,
    /// By our hand: time was up.
    TimedOut,
}

/// The numbers of a `QUARRY-END` line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// Tests that passed.
    pub pass: u64,
    /// Tests that failed.
    pub fail: u64,
    /// Tests that were skipped.
    pub skip: u64,
}

impl Report {
    /// Reads `QUARRY-END pass=N fail=N skip=N`, after a time stamp or none.
    pub fn parse(line: &str) -> Option<Self> {
        let line = match line.strip_prefix('[') {
            Some(rest) => rest.split_once("] ")?.1,
            None => line,
        };
        let mut words = line.trim_end().strip_prefix("QUARRY-END ")?.split(' ');
        let mut number =
            |key: &str| words.next()?.strip_prefix(key)?.strip_prefix('=')?.parse::<u64>().ok();
        let report = Self { pass: number("pass")?, fail: number("fail")?, skip: number("skip")? };
        words.next().is_none().then_some(report)
    }
}

/// The verdict over a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All self-tests passed and the kernel said so by the exit device.
    Passed(Report),
    /// No self-test failed, if any were made, and whoever was at the prompt
    /// switched the machine off.
    PoweredOff,
    /// One failed, or the kernel crashed or never finished its report.
    Failed(Reason),
    /// Time was up.
    TimedOut,
}

/// Why a run failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The kernel reported these failures.
    Tests(Report),
    /// The kernel reported no failed test, yet left as failed: a crash.
    Crashed,
    /// The self-tests passed, a lab script did not.
    Script(Verdict),
    /// The kernel left without a verdict over the lab script it was given.
    NoVerdict,
    /// The kernel left as passed without a complete report.
    NoReport,
    /// QEMU ended in another way: reset, quit by hand, or an error of its own;
    /// what the kernel had reported until then.
    Left(End, Option<Report>),
}

impl Outcome {
    /// Judges how QEMU ended and the last report on the serial line.
    pub fn judge(end: End, report: Option<Report>) -> Self {
        match (end, report) {
            (End::TimedOut, _) => Self::TimedOut,
            (End::Exited(QEMU_PASSED), Some(report)) if report.fail == 0 => Self::Passed(report),
            (End::Exited(QEMU_PASSED | QEMU_FAILED), Some(report)) if report.fail > 0 => {
                Self::Failed(Reason::Tests(report))
            }
            (End::Exited(QEMU_PASSED), _) => Self::Failed(Reason::NoReport),
            (End::Exited(QEMU_FAILED), _) => Self::Failed(Reason::Crashed),
            _ => Self::Failed(Reason::Left(end, report)),
        }
    }

    /// The same of a run that was to stay at its prompt, whose last line was
    /// `last`. QEMU's status says nothing by itself: it ends with 0 after a
    /// triple fault, too.
    #[must_use]
    pub fn at_prompt(self, last: &str) -> Self {
        match self {
            Self::Failed(Reason::Left(End::Exited(0), report))
                if last.ends_with(POWER_DOWN) && report.is_none_or(|report| report.fail == 0) =>
            {
                Self::PoweredOff
            }
            _ => self,
        }
    }

    /// The same of a run that was given a lab script, of which `verdict` is all
    /// that was heard. A script that fails makes the kernel leave as failed.
    #[must_use]
    pub fn with_script(self, verdict: Option<Verdict>) -> Self {
        match (&self, verdict) {
            (Self::Passed(_), None) => Self::Failed(Reason::NoVerdict),
            (
                Self::Passed(_) | Self::Failed(Reason::Crashed),
                Some(failed @ Verdict::Failed(_)),
            ) => Self::Failed(Reason::Script(failed)),
            _ => self,
        }
    }

    /// The exit status for it.
    pub const fn status(&self) -> u8 {
        match self {
            Self::Passed(_) | Self::PoweredOff => 0,
            Self::Failed(_) => 1,
            Self::TimedOut => 124,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed(report) => {
                write!(f, "all self-tests passed ({}, {} skipped)", report.pass, report.skip)
            }
            Self::PoweredOff => write!(f, "the machine was switched off"),
            Self::Failed(Reason::Tests(report)) => {
                write!(f, "{} self-tests failed, {} passed", report.fail, report.pass)
            }
            Self::Failed(Reason::Script(verdict)) => verdict.fmt(f),
            Self::Failed(Reason::NoVerdict) => write!(f, "the kernel left without a verdict"),
            Self::Failed(Reason::Crashed) => write!(f, "the kernel crashed"),
            Self::Failed(Reason::NoReport) => {
                write!(f, "the kernel left without a complete report (no QUARRY-END line)")
            }
            Self::Failed(Reason::Left(end, report)) => {
                match end {
                    End::Exited(status) => write!(f, "QEMU ended with status {status}")?,
                    _ => write!(f, "QEMU was killed")?,
                }
                match report {
                    Some(Report { pass, fail, .. }) => {
                        write!(f, " after the self-tests ({pass} passed, {fail} failed)")
                    }
                    None => write!(f, " before the self-tests were done"),
                }
            }
            Self::TimedOut => write!(f, "timed out"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Report = Report { pass: 40, fail: 0, skip: 2 };
    const BAD: Report = Report { pass: 40, fail: 1, skip: 2 };

    #[test]
    fn only_33_with_a_clean_report_is_0() {
        assert_eq!(Outcome::judge(End::Exited(33), Some(GOOD)).status(), 0);
        for end in (0..=255).filter(|&s| s != 33).map(End::Exited).chain([End::Killed]) {
            for report in [None, Some(GOOD), Some(BAD)] {
                assert_eq!(Outcome::judge(end, report).status(), 1, "{end:?} {report:?}");
            }
        }
        assert_eq!(Outcome::judge(End::Exited(33), None), Outcome::Failed(Reason::NoReport));
        assert_eq!(Outcome::judge(End::Exited(33), Some(BAD)).status(), 1);
        assert_eq!(Outcome::judge(End::Exited(35), Some(GOOD)), Outcome::Failed(Reason::Crashed));
        assert_eq!(Outcome::judge(End::Exited(35), Some(BAD)), Outcome::Failed(Reason::Tests(BAD)));
    }

    #[test]
    fn a_machine_that_is_switched_off_at_its_prompt_is_0() {
        let judge = |status, report, last| {
            Outcome::judge(End::Exited(status), report).at_prompt(last).status()
        };
        let last = "[   12.345678] reboot: Power down";
        assert_eq!((judge(0, None, last), judge(0, Some(GOOD), last)), (0, 0));
        assert_eq!((judge(0, Some(BAD), last), judge(1, None, last)), (1, 1));
        for other in ["quarry> ", "Error: a double fault", ""] {
            assert_eq!(judge(0, None, other), 1, "{other}");
        }
        assert_eq!(judge(33, None, last), 1);
    }

    #[test]
    fn a_script_has_to_pass_as_well() {
        let judge = |status, report, verdict| {
            Outcome::judge(End::Exited(status), report).with_script(verdict)
        };
        let failed = Outcome::Failed(Reason::Script(Verdict::Failed(3)));
        assert_eq!(judge(33, Some(GOOD), Some(Verdict::Ok(9))), Outcome::Passed(GOOD));
        assert_eq!(judge(33, Some(GOOD), Some(Verdict::Failed(3))), failed);
        assert_eq!(judge(35, Some(GOOD), Some(Verdict::Failed(3))), failed);
        assert_eq!(judge(33, Some(GOOD), None), Outcome::Failed(Reason::NoVerdict));
        // A crash in the middle of a script, or after it.
        for verdict in [None, Some(Verdict::Ok(1))] {
            assert_eq!(judge(35, Some(GOOD), verdict), Outcome::Failed(Reason::Crashed));
        }
        let tests = Outcome::Failed(Reason::Tests(BAD));
        assert_eq!(judge(35, Some(BAD), Some(Verdict::Ok(1))), tests);
    }

    #[test]
    fn time_up_is_124_whatever_was_reported() {
        for report in [None, Some(GOOD), Some(BAD)] {
            assert_eq!(Outcome::judge(End::TimedOut, report).status(), 124);
        }
    }

    #[test]
    fn leaving_by_hand_tells_what_was_reported() {
        let text = |report| Outcome::judge(End::Exited(0), report).to_string();
        assert!(text(Some(GOOD)).contains("40 passed, 0 failed"));
        assert!(text(None).contains("before"));
    }

    #[test]
    fn reports_are_read() {
        assert_eq!(Report::parse("QUARRY-END pass=40 fail=0 skip=2"), Some(GOOD));
        assert_eq!(Report::parse("QUARRY-END pass=40 fail=1 skip=2\r"), Some(BAD));
        assert_eq!(Report::parse("[    1.250000] QUARRY-END pass=40 fail=0 skip=2"), Some(GOOD));
        for line in [
            "",
            "QUARRY-END",
            "QUARRY-END pass=40 fail=0",
            "QUARRY-END pass=40 fail= skip=2",
            "QUARRY-END pass=40 fail=0 skip=2 more",
            "QUARRY-END fail=0 pass=40 skip=2",
            "# would print QUARRY-END pass=40 fail=0 skip=2",
        ] {
            assert_eq!(Report::parse(line), None, "{line}");
        }
    }
}
