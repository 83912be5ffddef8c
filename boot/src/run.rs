//! Runs QEMU: its serial line to the terminal and the log, watched for the
//! kernel's report, within its time.

use crate::outcome::{End, Report};
use crate::script::Verdict;
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How often QEMU is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(20);
/// How long QEMU may take to put the terminal back and leave.
const GRACE: Duration = Duration::from_secs(3);
/// Lines are watched up to this length, in bytes.
const LINE_MAX: usize = 4096;

/// What the serial line said.
#[derive(Default, Debug)]
pub struct Seen {
    /// The last `QUARRY-END` line.
    pub report: Option<Report>,
    /// The verdict over the lab's scripts: the first that failed, or the last.
    pub lab: Option<Verdict>,
    /// Since the start, when the first KTAP line came.
    pub first_ktap: Option<Duration>,
    /// The last line that was not empty.
    pub last_line: String,
}

/// How a run went.
#[derive(Debug)]
pub struct Ran {
    /// How QEMU ended.
    pub end: End,
    /// What the kernel said meanwhile.
    pub seen: Seen,
    /// The most memory of the host that QEMU has had, in KiB; 0 if the host does
    /// not tell.
    pub memory_kib: u64,
}

/// Runs `program` with `args` until it ends or `limit` is over, its output to
/// `terminal` and `log`. With `interactive` it reads this program's standard
/// input, else nothing.
///
/// # Errors
///
/// The program cannot be started, or its output not be read.
pub fn run(
    program: &str,
    args: &[String],
    interactive: bool,
    limit: Option<Duration>,
    terminal: impl Write + Send + 'static,
    log: Option<File>,
) -> Result<Ran> {
    let input = if interactive { Stdio::inherit() } else { Stdio::null() };
    let started = Instant::now();
    let mut child = start(program, args, input)?;
    let output = child.stdout.take().context("no output to read")?;
    let reader = thread::spawn(move || tee(output, terminal, log, started));

    let mut memory_kib = 0;
    let end = wait(&mut child, limit.map(|limit| started + limit), &mut memory_kib)?;
    let seen = match reader.join() {
        Ok(seen) => seen.context("cannot read the serial line")?,
        Err(_) => Seen::default(),
    };
    Ok(Ran { end, seen, memory_kib })
}

/// Starts `program`, its output piped.
pub(crate) fn start(program: &str, args: &[String], input: Stdio) -> Result<Child> {
    let mut command = Command::new(program);
    command.args(args).stdin(input).stdout(Stdio::piped());
    // SAFETY: between fork and exec only one system call is made, nothing that
    // allocates or locks.
    unsafe {
        // Whoever kills this program must not leave a machine running.
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?));
    }
    command
        .spawn()
        .with_context(|| format!("cannot start {program} (scripts/run installs what is missing)"))
}

/// A machine that this program talks to. It ends with this value.
pub struct Guest(Child);

impl Guest {
    /// Starts `program`; its input and its output are the serial line.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start(program: &str, args: &[String]) -> Result<(Self, ChildStdin, ChildStdout)> {
        let mut child = start(program, args, Stdio::piped())?;
        let input = child.stdin.take().context("no input to write")?;
        let output = child.stdout.take().context("no output to read")?;
        Ok((Self(child), input, output))
    }

    /// The id of its process.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits until it has left by itself, but not for long; true if it has.
    ///
    /// # Errors
    ///
    /// The host does not know it.
    pub fn leave(&mut self) -> io::Result<bool> {
        let patience = Instant::now() + GRACE;
        while Instant::now() < patience {
            if self.0.try_wait()?.is_some() {
                return Ok(true);
            }
            thread::sleep(POLL);
        }
        Ok(false)
    }
}

impl Guest {
    /// Waits until it has left by itself, at most for `limit`; its exit status.
    ///
    /// # Errors
    ///
    /// The host does not know it.
    pub fn status(&mut self, limit: Duration) -> io::Result<Option<i32>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status.code());
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let running = matches!(self.0.try_wait(), Ok(None));
        if running && let Err(error) = stop(&mut self.0) {
            eprintln!("quarry: cannot stop QEMU: {error}");
        }
    }
}

/// Waits for the end of `child`, and brings it about at `deadline`. Meanwhile
/// notes the most memory that it has had.
fn wait(child: &mut Child, deadline: Option<Instant>, memory_kib: &mut u64) -> io::Result<End> {
    loop {
        if let Some(kib) = most_memory_kib(child.id()) {
            *memory_kib = kib.max(*memory_kib);
        }
        if let Some(status) = child.try_wait()? {
            return Ok(end(status));
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            stop(child)?;
            return Ok(End::TimedOut);
        }
        thread::sleep(POLL);
    }
}

/// The most memory of the host that a process has had at a time so far, as
/// Linux tells.
fn most_memory_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

pub(crate) fn end(status: ExitStatus) -> End {
    status.code().map_or(End::Killed, End::Exited)
}

/// Ends `child`, gently first: QEMU has a terminal to put back.
pub(crate) fn stop(child: &mut Child) -> io::Result<()> {
    kill_process(Pid::from_child(child), Signal::TERM)?;
    let patience = Instant::now() + GRACE;
    while Instant::now() < patience {
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        thread::sleep(POLL);
    }
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// Copies `output` to `terminal` and `log`, and watches its lines.
fn tee(
    mut output: impl Read,
    mut terminal: impl Write,
    mut log: Option<File>,
    started: Instant,
) -> io::Result<Seen> {
    let mut watch = Watch::default();
    let mut buffer = [0; 4096];
    loop {
        let length = match output.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let bytes = &buffer[..length];
        // Nobody may be reading; the verdict and the log matter still.
        let _ = terminal.write_all(bytes).and_then(|()| terminal.flush());
        if let Some(log) = &mut log {
            log.write_all(bytes)?;
        }
        watch.bytes(bytes, started.elapsed());
    }
    watch.newline(started.elapsed());
    Ok(watch.seen)
}

/// Takes the serial line apart into lines.
#[derive(Default)]
struct Watch {
    line: Vec<u8>,
    seen: Seen,
}

impl Watch {
    fn bytes(&mut self, bytes: &[u8], now: Duration) {
        for &byte in bytes {
            if byte == b'\n' {
                self.newline(now);
            } else if self.line.len() < LINE_MAX {
                self.line.push(byte);
            }
        }
    }

    fn newline(&mut self, now: Duration) {
        let line = String::from_utf8_lossy(&self.line);
        let line = line.trim_end();
        if let Some(report) = Report::parse(line) {
            self.seen.report = Some(report);
        }
        if let Some(verdict) = Verdict::parse(line)
            && !matches!(self.seen.lab, Some(Verdict::Failed(_)))
        {
            self.seen.lab = Some(verdict);
        }
        if line.ends_with("KTAP version 1") {
            self.seen.first_ktap.get_or_insert(now);
        }
        if !line.is_empty() {
            self.seen.last_line = line.to_owned();
        }
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Option<Duration>) -> Ran {
        run("/bin/sh", &["-c".into(), script.into()], false, limit, io::sink(), None).unwrap()
    }

    #[test]
    fn the_report_is_found_in_the_output() {
        let ran = shell(
            "printf 'KTAP version 1\\r\\nQUARRY-END pass=1 fail=0 skip=0\\r\\nlab: ok, 2 commands\\r\\nbye'; exit 33",
            None,
        );
        assert_eq!(ran.end, End::Exited(33));
        assert_eq!(ran.seen.report, Some(Report { pass: 1, fail: 0, skip: 0 }));
        assert_eq!(ran.seen.lab, Some(Verdict::Ok(2)));
        assert!(ran.seen.first_ktap.is_some());
        assert_eq!(ran.seen.last_line, "bye");
    }

    #[test]
    fn a_program_that_hangs_is_stopped() {
        let ran = shell("echo stage 7; exec sleep 600", Some(Duration::from_secs(3)));
        assert_eq!(ran.end, End::TimedOut);
        assert_eq!(ran.seen.last_line, "stage 7");
        assert!(ran.seen.first_ktap.is_none());
    }

    #[test]
    fn a_signal_is_no_exit() {
        assert_eq!(shell("kill -9 $$", None).end, End::Killed);
    }

    #[test]
    fn it_has_no_input_unless_interactive() {
        assert_eq!(shell("read x && exit 1; exit 7", None).end, End::Exited(7));
    }

    #[test]
    fn the_log_gets_every_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let script = ["-c".into(), "printf 'a\\r\\n\\377b'".into()];
        let log = File::create(&path).unwrap();
        run("/bin/sh", &script, false, None, io::sink(), Some(log)).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), b"a\r\n\xffb");
    }

    #[test]
    fn lines_may_come_in_pieces_and_be_endless() {
        let mut watch = Watch::default();
        watch.bytes(b"QUARRY-END pass=3 f", Duration::ZERO);
        watch.bytes(b"ail=0 skip=1\r", Duration::ZERO);
        assert_eq!(watch.seen.report, None);
        watch.bytes(b"\n", Duration::ZERO);
        assert_eq!(watch.seen.report, Some(Report { pass: 3, fail: 0, skip: 1 }));
        watch.bytes(&[b'x'; 3 * LINE_MAX], Duration::ZERO);
        assert_eq!(watch.line.len(), LINE_MAX);
    }

    #[test]
    fn a_script_that_fails_is_not_made_good_by_another() {
        let mut watch = Watch::default();
        watch.bytes(b"lab: ok, 3 commands\r\n", Duration::ZERO);
        assert_eq!(watch.seen.lab, Some(Verdict::Ok(3)));
        watch.bytes(b"lab: FAILED at line 4\r\nlab: ok, 3 commands\r\n", Duration::ZERO);
        assert_eq!(watch.seen.lab, Some(Verdict::Failed(4)));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        assert!(run("/nonexistent/qemu", &[], false, None, io::sink(), None).is_err());
    }
}
