//! Talking to a prompt over a serial line, whatever carries it. Calls
//! `transcript`.

use super::transcript::{PROMPT, Reply, replies};
use anyhow::{Context, Result, bail};
use rustix::termios::{self, OptionalActions};
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// The speed of the kernel's serial line, in bits a second.
const SPEED: u32 = 115_200;
/// How often a machine that says nothing is asked for a prompt.
const PROD: Duration = Duration::from_secs(3);
/// Gives up the line that stands there, and enters an empty one.
const WAKE: &[u8] = b"\x15\r";

/// A serial line with a prompt at its other end.
pub struct Session {
    input: Box<dyn Write>,
    output: Receiver<Vec<u8>>,
    heard: Vec<u8>,
    /// How long it may say nothing when something is expected.
    limit: Duration,
    /// When it said something, or something began to be expected.
    since: Instant,
}

impl Session {
    /// A session over two pipes, over once nothing has come for `limit`.
    pub fn new(
        input: impl Write + 'static,
        mut output: impl Read + Send + 'static,
        limit: Duration,
    ) -> Self {
        let (sender, receiver) = channel();
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            loop {
                match output.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(n) if sender.send(buffer[..n].into()).is_err() => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
        });
        Self {
            input: Box::new(input),
            output: receiver,
            heard: Vec::new(),
            limit,
            since: Instant::now(),
        }
    }

    /// A session over a serial device or a Unix socket.
    ///
    /// # Errors
    /// It cannot be opened, or is neither.
    pub fn open(path: &Path, limit: Duration) -> Result<Self> {
        let what = || format!("cannot open {}", path.display());
        let kind = fs::metadata(path).with_context(what)?.file_type();
        if kind.is_socket() {
            let socket = UnixStream::connect(path).with_context(what)?;
            return Ok(Self::new(socket.try_clone()?, socket, limit));
        }
        if !kind.is_char_device() {
            bail!("{} is neither a serial line nor a socket", path.display());
        }
        let flags = rustix::fs::OFlags::NOCTTY.bits() as i32;
        let line = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(path)
            .with_context(what)?;
        let mut settings = termios::tcgetattr(&line).with_context(what)?;
        settings.make_raw();
        settings.set_speed(SPEED).with_context(what)?;
        termios::tcsetattr(&line, OptionalActions::Flush, &settings).with_context(what)?;
        Ok(Self::new(line.try_clone()?, line, limit))
    }

    /// All that was heard so far.
    pub fn transcript(&self) -> &[u8] {
        &self.heard
    }

    /// Waits for a prompt. With `prod` the machine may wait for us since long,
    /// and is asked to show one.
    ///
    /// # Errors
    /// None came in time, or the line is dead.
    pub fn log_in(&mut self, prod: bool) -> Result<()> {
        let from = self.heard.len();
        self.since = Instant::now();
        loop {
            let limit = if prod { Some(PROD) } else { None };
            if self.hear_until(limit, |heard| at_prompt(&heard[from..]))? {
                return Ok(());
            }
            self.send(WAKE)?;
        }
    }

    /// Has a command run and waits for the prompt after it.
    ///
    /// # Errors
    /// As [`log_in`](Self::log_in).
    pub fn command(&mut self, line: &str) -> Result<()> {
        let from = self.heard.len();
        self.since = Instant::now();
        self.send(line.as_bytes())?;
        self.send(b"\r")?;
        loop {
            // Prompts that stand before its echo belong to others.
            let echo = |heard: &[u8]| {
                find(&heard[from..], line.as_bytes()).map(|at| from + at + line.len())
            };
            let there = |heard: &[u8]| echo(heard).is_some_and(|at| at_prompt(&heard[at..]));
            if self.hear_until(Some(PROD), there)? {
                return Ok(());
            }
            // The kernel's log may have come after the prompt, which nobody shows
            // again unless he is asked to.
            let after = echo(&self.heard).map_or(&[][..], |at| &self.heard[at..]);
            if find(after, format!("\n{PROMPT}").as_bytes()).is_some() {
                self.send(WAKE)?;
            }
        }
    }

    /// Has a command run; what was printed before the next prompt.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    pub fn ask(&mut self, line: &str) -> Result<Reply> {
        let from = self.heard.len();
        self.command(line)?;
        // With the prompt that it was typed at, though the kernel's log may have
        // come in between.
        let echo = find(&self.heard[from..], line.as_bytes()).unwrap_or(0);
        let text = [PROMPT.as_bytes(), &self.heard[from + echo..]].concat();
        let reply = replies(&text).into_iter().find(|r| r.command == line);
        reply.with_context(|| format!("{line}: no answer"))
    }

    /// Types `keys` and waits until `answer` has come after them.
    ///
    /// # Errors
    /// It did not come in time, or the line is dead.
    pub fn keys(&mut self, keys: &[u8], answer: &str) -> Result<()> {
        let from = self.heard.len();
        self.send(keys)?;
        self.hear_until(None, |heard| find(&heard[from..], answer.as_bytes()).is_some())
            .with_context(|| format!("no {answer:?} after {:?}", keys.escape_ascii().to_string()))
            .map(drop)
    }

    /// Sends a line without waiting for what becomes of it.
    pub fn farewell(&mut self, line: &str) {
        // It may have gone already.
        let _ = self.send(line.as_bytes()).and_then(|()| self.send(b"\r"));
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.input.write_all(bytes).context("cannot write to the serial line")?;
        self.input.flush().context("cannot write to the serial line")
    }

    /// Listens until `done`, or false once nothing has come for `patience`.
    fn hear_until(
        &mut self,
        patience: Option<Duration>,
        done: impl Fn(&[u8]) -> bool,
    ) -> Result<bool> {
        loop {
            if done(&self.heard) {
                return Ok(true);
            }
            let left = self.limit.saturating_sub(self.since.elapsed());
            if left.is_zero() {
                bail!("time is up; {}", self.last_words());
            }
            match self.output.recv_timeout(patience.map_or(left, |p| p.min(left))) {
                Ok(bytes) => {
                    self.heard.extend(bytes);
                    self.since = Instant::now();
                }
                Err(RecvTimeoutError::Timeout) if patience.is_some() => return Ok(false),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the serial line has gone; {}", self.last_words())
                }
            }
        }
    }

    fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(&self.heard);
        let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
        format!("the last line was: {}", last.unwrap_or("(none)"))
    }
}

/// Whether the last thing that came is a prompt at the start of a line.
fn at_prompt(heard: &[u8]) -> bool {
    heard
        .strip_suffix(PROMPT.as_bytes())
        .is_some_and(|before| matches!(before.last(), Some(b'\n' | b'\r')))
}

/// Where `what` begins in `text`.
fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::fs::File;
    use std::os::unix::net::UnixListener;

    /// A machine that boots, has a prompt, and answers a command with itself.
    fn machine(mut line: impl Read + Write) {
        let _ = line.write_all(b"[    0.000001] boot\r\n\r\nquarry> ");
        let mut typed = Vec::new();
        let mut bytes = [0; 64];
        while let Ok(n @ 1..) = line.read(&mut bytes) {
            for &byte in &bytes[..n] {
                if byte == 0x15 {
                    typed.clear();
                } else if byte == b'\r' {
                    let said = String::from_utf8_lossy(&typed).into_owned();
                    let _ = line.write_all(format!("\r\nyou said {said}\r\nquarry> ").as_bytes());
                    if said == "log" {
                        let _ = line.write_all(b"\r\n[    1.000000] late\r\n");
                    }
                    typed.clear();
                } else {
                    typed.push(byte);
                    let _ = line.write_all(&[byte]);
                }
            }
        }
    }

    #[test]
    fn commands_are_answered_over_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("serial");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || machine(listener.accept().unwrap().0));
        let mut session = Session::open(&path, Duration::from_secs(60)).unwrap();
        session.log_in(false).unwrap();
        for word in ["one", "two"] {
            session.command(word).unwrap();
        }
        assert_eq!(session.ask("three").unwrap().text, "you said three\n");
        let replies = replies(session.transcript());
        assert_eq!(replies[0].text, "you said one\n");
        assert_eq!(replies[1].text, "you said two\n");
    }

    #[test]
    fn commands_are_answered_over_a_terminal_line() {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        // Before the machine says a word: as it is, the line would echo it.
        let mut session = Session::open(Path::new(&path), Duration::from_secs(60)).unwrap();
        thread::spawn(move || machine(File::from(master)));
        session.log_in(false).unwrap();
        session.command("hello").unwrap();
        assert_eq!(replies(session.transcript())[0].text, "you said hello\n");
    }

    #[test]
    fn a_machine_that_waits_for_us_is_woken() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || machine(theirs));
        let mut session = Session::new(ours.try_clone().unwrap(), ours, Duration::from_secs(60));
        session.log_in(false).unwrap();
        // Whoever comes now hears nothing until he says something.
        session.log_in(true).unwrap();
        session.command("hello").unwrap();
        assert_eq!(replies(session.transcript()).last().unwrap().text, "you said hello\n");
    }

    #[test]
    fn the_kernels_log_may_follow_a_prompt() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || machine(theirs));
        let mut session = Session::new(ours.try_clone().unwrap(), ours, Duration::from_secs(60));
        session.log_in(false).unwrap();
        assert_eq!(session.ask("log").unwrap().text, "you said log\n");
        assert_eq!(session.ask("more").unwrap().text, "you said more\n");
    }

    #[test]
    fn time_and_lines_run_out() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut session = Session::new(ours.try_clone().unwrap(), ours, Duration::ZERO);
        assert!(session.log_in(false).unwrap_err().to_string().starts_with("time is up"));
        let (ours, gone) = UnixStream::pair().unwrap();
        drop(gone);
        let mut session = Session::new(ours.try_clone().unwrap(), ours, Duration::from_secs(60));
        assert!(session.log_in(false).unwrap_err().to_string().contains("has gone"));
        drop(theirs);
        assert!(Session::open(Path::new("/nonexistent"), Duration::ZERO).is_err());
        assert!(Session::open(Path::new("/etc/passwd"), Duration::ZERO).is_err());
    }
}
