//! Where the lab's words go: what the interpreter prints, and what the manager
//! logs, in the order in which they are said. Calls nothing.

use mm::platform::LogLevel;
use std::fmt::{self, Write as _};
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A place for text, shared by a machine and who works on it.
#[derive(Clone)]
pub struct Output(Arc<Mutex<Inner>>);

struct Inner {
    sink: Box<dyn Write + Send>,
    /// The last byte ended a line, or there was none yet.
    fresh: bool,
    /// The least urgent lines of the log that are shown.
    level: LogLevel,
    /// Any of them are shown.
    logs: bool,
}

/// Text that an output was asked to keep.
#[derive(Clone, Default, Debug)]
pub struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock()).into_owned()
    }

    /// Takes what there is so far.
    pub fn take(&self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut *self.lock())).into_owned()
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Output")
    }
}

impl Output {
    /// Text that goes to `sink`. A sink that takes no more gets no more: what is
    /// run does not depend on who listens.
    pub fn new(sink: impl Write + Send + 'static) -> Self {
        let sink: Box<dyn Write + Send> = Box::new(sink);
        Self(Arc::new(Mutex::new(Inner { sink, fresh: true, level: LogLevel::Info, logs: true })))
    }

    /// Text that is kept, without the manager's log, and what has been kept.
    pub fn kept() -> (Self, Kept) {
        let kept = Kept::default();
        let output = Self::new(kept.clone());
        output.lock().logs = false;
        (output, kept)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says which lines of the log are shown from now on.
    pub(crate) fn set_level(&self, level: LogLevel) {
        self.lock().level = level;
    }

    /// Prints as it comes.
    pub fn print(&self, text: fmt::Arguments<'_>) {
        let _ = self.lock().write_fmt(text); // its write_str does not fail
    }

    /// Prints a line of a running machine's log as the kernel's console does,
    /// with the time in ms: nobody takes it for an answer to a command.
    pub(crate) fn log_at(&self, ms: u64, level: LogLevel, line: fmt::Arguments<'_>) {
        self.log_with(level, format_args!("[{:5}.{:03}000] ", ms / 1000, ms % 1000), line);
    }

    /// Prints a line about a machine that is not there yet.
    pub(crate) fn log(&self, level: LogLevel, line: fmt::Arguments<'_>) {
        self.log_with(level, format_args!(""), line);
    }

    fn log_with(&self, level: LogLevel, stamp: fmt::Arguments<'_>, line: fmt::Arguments<'_>) {
        let mut inner = self.lock();
        if !inner.logs || level > inner.level {
            return;
        }
        let prefix = match level {
            LogLevel::Error => "error: ",
            LogLevel::Warn => "warning: ",
            LogLevel::Info => "",
        };
        let begin = if inner.fresh { "" } else { "\n" };
        let _ = writeln!(inner, "{begin}{stamp}{prefix}{line}");
    }

    /// Hands everything on that was kept back.
    pub fn flush(&self) {
        let _ = self.lock().sink.flush();
    }
}

impl fmt::Write for Inner {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Nothing that is printed may steer the reader's terminal, as in the
        // kernel.
        let steers = |b: u8| (b < 0x20 && b != b'\n' && b != b'\t') || b == 0x7f;
        let bytes = text.as_bytes();
        let _ = if bytes.iter().any(|&b| steers(b)) {
            let plain: Vec<u8> = bytes.iter().map(|&b| if steers(b) { b'?' } else { b }).collect();
            self.sink.write_all(&plain)
        } else {
            self.sink.write_all(bytes)
        };
        if let Some(last) = bytes.last() {
            self.fresh = *last == b'\n';
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_log_begin_lines() {
        let kept = Kept::default();
        let output = Output::new(kept.clone());
        output.print(format_args!("a"));
        output.log(LogLevel::Warn, format_args!("b"));
        output.log(LogLevel::Info, format_args!("c"));
        output.set_level(LogLevel::Warn);
        output.log(LogLevel::Info, format_args!("not shown"));
        output.print(format_args!("d\x1b[2J\te\n"));
        output.log_at(61_002, LogLevel::Error, format_args!("f"));
        output.flush();
        let log = "[   61.002000] error: f\n";
        assert_eq!(kept.text(), format!("a\nwarning: b\nc\nd?[2J\te\n{log}"));
    }
}
