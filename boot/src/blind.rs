//! Runs a machine without a serial port: its report is read from pictures of its
//! screen, taken through QEMU's machine protocol (QMP) until there is one.

use crate::outcome::{End, Outcome, Reason};
use crate::qmp::Qmp;
use crate::run::{self, POLL};
use crate::screendump::{Picture, Summary};
use anyhow::{Context, Result};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Between two pictures.
const INTERVAL: Duration = Duration::from_secs(1);

/// What was seen of a run.
#[derive(Debug)]
pub struct Seen {
    /// How QEMU ended; `Exited(0)` where the summary was seen and it was told to.
    pub end: End,
    /// The self-tests' result in large letters.
    pub summary: Option<Summary>,
    /// The small text of the last picture, line by line.
    pub text: Vec<String>,
}

impl Seen {
    /// The verdict.
    pub fn outcome(&self) -> Outcome {
        let crashed = self.text.iter().any(|line| line.starts_with("CRASH"));
        match (&self.summary, self.end) {
            (Some(Summary { passed: true, report, .. }), _)
                if report.fail == 0 && report.pass > 0 =>
            {
                Outcome::Passed(*report)
            }
            (Some(Summary { passed: false, report, .. }), _) if report.fail > 0 => {
                Outcome::Failed(Reason::Tests(*report))
            }
            // Words and counts that contradict each other.
            (Some(_), _) => Outcome::Failed(Reason::NoReport),
            (None, _) if crashed => Outcome::Failed(Reason::Crashed),
            (None, End::TimedOut) => Outcome::TimedOut,
            (None, end) => Outcome::Failed(Reason::Left(end, None)),
        }
    }
}

/// Runs `program`, QEMU with QMP on its standard input and output, until its
/// screen shows a summary or a crash report, it ends, or `limit` is over. The
/// last picture stays in `picture` (PPM).
///
/// # Errors
///
/// The program cannot be started, or does not take pictures.
pub fn run(
    program: &str,
    args: &[String],
    limit: Option<Duration>,
    picture: &Path,
) -> Result<Seen> {
    let deadline = limit.map(|limit| Instant::now() + limit);
    let mut child = run::start(program, args, Stdio::piped())?;
    let watched = watch(&mut child, deadline, picture);
    // Whatever went wrong, no machine stays behind.
    let ended = child.try_wait()?;
    if ended.is_none() {
        run::stop(&mut child)?;
    }
    let mut seen = watched?;
    if let Some(status) = ended {
        seen.end = run::end(status);
    }
    Ok(seen)
}

fn watch(child: &mut Child, deadline: Option<Instant>, picture: &Path) -> Result<Seen> {
    let to = child.stdin.take().context("no input to write to")?;
    let from = child.stdout.take().context("no output to read")?;
    let mut seen = Seen { end: End::Exited(0), summary: None, text: Vec::new() };
    let name = picture.to_str().context("the picture's name is not UTF-8")?;
    let Some(mut qmp) = Qmp::new(to, from)? else {
        child.wait()?;
        return Ok(seen);
    };
    loop {
        if qmp.execute("screendump", &json!({ "filename": name }))?.is_none() {
            child.wait()?;
            return Ok(seen);
        }
        // A screen that is being switched on may have no size yet.
        if let Some(picture) = Picture::from_ppm(&fs::read(picture)?) {
            seen.summary = picture.summary();
            seen.text = picture.small_text();
        }
        let crashed = seen.text.iter().any(|line| line.starts_with("end of crash report"));
        if seen.summary.is_some() || crashed {
            qmp.execute("quit", &json!({}))?;
            child.wait()?;
            return Ok(seen);
        }
        let next = Instant::now() + INTERVAL;
        while Instant::now() < next {
            if child.try_wait()?.is_some() {
                return Ok(seen);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                seen.end = End::TimedOut;
                return Ok(seen);
            }
            thread::sleep(POLL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Report;

    /// A machine that answers each command with `answer`, written in shell.
    fn machine(answer: &str, limit: Duration) -> Result<Seen> {
        let dir = tempfile::tempdir().unwrap();
        let script = format!("echo '{{\"QMP\": {{}}}}'; while read line; do {answer}; done");
        let picture = dir.path().join("picture");
        fs::write(&picture, "P6 1 1 255\nxxx").unwrap();
        run("/bin/sh", &["-c".into(), script], Some(limit), &picture)
    }

    const OK: &str = "echo '{\"event\": \"X\"}'; echo '{\"return\": {}}'";

    #[test]
    fn time_up_without_a_summary() {
        let seen = machine(OK, Duration::from_millis(200)).unwrap();
        assert_eq!(seen.outcome(), Outcome::TimedOut);
    }

    #[test]
    fn a_machine_that_leaves_is_noticed() {
        let seen = machine(&format!("{OK}; exit 3"), Duration::from_secs(60)).unwrap();
        let want = Outcome::Failed(Reason::Left(End::Exited(3), None));
        assert_eq!(seen.outcome(), want);
    }

    #[test]
    fn a_refusal_is_told() {
        let no = "echo '{\"error\": {\"desc\": \"no screen\"}}'";
        let told = machine(no, Duration::from_secs(60)).unwrap_err().to_string();
        assert_eq!(told, "QEMU says: no screen");
    }

    #[test]
    fn verdict_and_counts_must_agree() {
        let outcome = |passed, pass, fail, text: &str| {
            let report = Report { pass, fail, skip: 0 };
            let summary = Some(Summary { passed, report, lines: Vec::new() });
            Seen { end: End::Exited(0), summary, text: vec![text.into()] }.outcome().status()
        };
        assert_eq!(outcome(true, 5, 0, ""), 0);
        assert_eq!(outcome(true, 0, 0, ""), 1);
        assert_eq!(outcome(true, 5, 1, ""), 1);
        assert_eq!(outcome(false, 5, 1, ""), 1);
        assert_eq!(outcome(false, 5, 0, ""), 1);
        let crashed = Seen { end: End::TimedOut, summary: None, text: vec!["CRASH: x".into()] };
        assert_eq!(crashed.outcome(), Outcome::Failed(Reason::Crashed));
    }
}
