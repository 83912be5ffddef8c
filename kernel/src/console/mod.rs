//! Where the kernel's words go: one lock around the serial line, the log with
//! its time stamps, and whole lines without stamps for the test report. Calls
//! `arch` for time and interrupt masking.

mod logger;
mod serial;

use crate::arch::irq::{IrqGuard, IrqMutex};
use core::fmt::{self, Write};
use serial::Serial;

static CONSOLE: IrqMutex<Console> = IrqMutex::new(Console::new());

/// Rounds that a crash report waits for the console's holder before it takes
/// the console from it.
const SEIZE_SPINS: u32 = 1_000_000;

/// Bytes collected before the UART is bothered: a few FIFOs full.
const PENDING: usize = 64;

/// All output devices together, and where the next character goes.
pub(crate) struct Console {
    serial: Serial,
    column: usize,
    pending: [u8; PENDING],
    pending_len: usize,
}

impl Console {
    const fn new() -> Self {
        Self { serial: Serial::new(), column: 0, pending: [0; PENDING], pending_len: 0 }
    }

    /// Begins a new line unless one has just begun.
    fn fresh_line(&mut self) {
        if self.column != 0 {
            self.newline();
        }
    }

    fn newline(&mut self) {
        self.push(b'\r');
        self.push(b'\n');
        self.flush();
        self.column = 0;
    }

    fn push(&mut self, byte: u8) {
        if self.pending_len == PENDING {
            self.flush();
        }
        self.pending[self.pending_len] = byte;
        self.pending_len += 1;
        self.column += 1;
    }

    fn flush(&mut self) {
        self.serial.send(&self.pending[..self.pending_len]);
        self.pending_len = 0;
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            match byte {
                b'\n' => self.newline(),
                // Nothing that is printed may steer the reader's terminal.
                0..0x20 | 0x7f if byte != b'\t' => self.push(b'?'),
                _ => self.push(byte),
            }
        }
        Ok(())
    }
}

/// Finds the output devices and takes over the `log` facade. Returns whether
/// there is a serial line.
pub(crate) fn init() -> bool {
    let found = CONSOLE.lock().serial.probe();
    logger::install();
    found
}

/// Writes one whole line without time stamp, at the start of a line whatever
/// was being written before.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    let mut console = CONSOLE.lock();
    console.fresh_line();
    // Writing to the console cannot fail.
    let _ = console.write_fmt(text);
    console.newline();
}

/// The console for a crash report, at the start of a line.
///
/// # Safety
///
/// Nothing else of the kernel may run on, see [`IrqMutex::seize`].
pub(crate) unsafe fn seize() -> IrqGuard<'static, Console> {
    // SAFETY: passed on to the caller.
    let mut console = unsafe { CONSOLE.seize(SEIZE_SPINS) };
    console.pending_len = console.pending_len.min(PENDING);
    console.fresh_line();
    console
}
