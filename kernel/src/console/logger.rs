//! The `log` facade: each line with the time since boot in front, as in
//! Linux's log, in constant width. Calls `arch::time`.

use crate::arch::time;
use crate::console::{Lines, Output, output};
use core::fmt::{self, Write};
use log::{Level, LevelFilter, Log, Metadata, Record};

struct KernelLog;

static LOGGER: KernelLog = KernelLog;

/// Makes the console the target of `log`'s macros.
pub(super) fn install() {
    // It fails only if there is a logger already, and then it is this one.
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

impl Log for KernelLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Info
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let prefix = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            _ => "",
        };
        output(|output| {
            output.fresh_line();
            let mut stamped = Stamped { output, now_us: time::now_us() };
            // Writing to the rings cannot fail.
            let _ = write!(stamped, "{prefix}{}", record.args());
            if stamped.output.column != 0 {
                stamped.output.push(b"\n", true);
            }
        });
    }

    fn flush(&self) {}
}

/// Puts the time at the start of every line.
struct Stamped<'a> {
    output: &'a mut Output,
    now_us: u64,
}

impl Write for Stamped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive('\n') {
            if self.output.column == 0 {
                let (s, us) = (self.now_us / 1_000_000, self.now_us % 1_000_000);
                write!(Lines(self.output), "[{s:5}.{us:06}] ")?;
            }
            Lines(self.output).write_str(part)?;
        }
        Ok(())
    }
}
