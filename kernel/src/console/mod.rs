//! Where the kernel's words go: one lock around serial line and screen, the log
//! with its time stamps, and whole lines without stamps for the test report.
//! Calls `arch` for time and interrupt masking.

mod banner;
pub(crate) mod input;
mod logger;
mod screen;
mod serial;

pub(crate) use screen::Framebuffer;

use crate::arch::irq::{IrqGuard, IrqMutex};
use core::fmt::{self, Write};
use mm::sync::LockRank;
use quarry_kernel::banner::Line;
use quarry_kernel::tty::Ring;
use screen::Screen;
use serial::Serial;

static CONSOLE: IrqMutex<Console> = IrqMutex::new(LockRank::Log, Console::new());

/// Rounds that a crash report waits for the console's holder before it takes
/// the console from it.
const SEIZE_SPINS: u32 = 1_000_000;

/// Bytes of the log that are kept.
const LOG: usize = 128 * 1024;

/// Bytes collected before the UART is bothered: a few FIFOs full.
const PENDING: usize = 64;

/// All output devices together, and where the next character goes.
pub(crate) struct Console {
    serial: Serial,
    screen: Screen,
    column: usize,
    /// Lines that ended because somebody else had something to say.
    broken: u32,
    log: Ring<LOG>,
    /// What is written now belongs to the log.
    keep: bool,
    pending: [u8; PENDING],
    pending_len: usize,
}

impl Console {
    const fn new() -> Self {
        Self {
            serial: Serial::new(),
            screen: Screen::new(),
            column: 0,
            broken: 0,
            log: Ring::new(),
            keep: true,
            pending: [0; PENDING],
            pending_len: 0,
        }
    }

    /// Begins a new line unless one has just begun.
    fn fresh_line(&mut self) {
        if self.column != 0 {
            self.broken = self.broken.wrapping_add(1);
            self.newline();
        }
    }

    fn newline(&mut self) {
        if self.keep {
            self.log.push(b"\n");
        }
        self.queue(b'\r');
        self.queue(b'\n');
        self.flush();
        self.screen.newline();
        self.column = 0;
    }

    fn push(&mut self, byte: u8) {
        if self.keep {
            self.log.push(&[byte]);
        }
        self.queue(byte);
        self.screen.put(byte);
        self.column += 1;
    }

    /// Hands a byte to the serial line, some time before the line ends.
    fn queue(&mut self, byte: u8) {
        if self.pending_len == PENDING {
            self.flush();
        }
        self.pending[self.pending_len] = byte;
        self.pending_len += 1;
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

/// Output devices that were found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    /// A serial line.
    pub(crate) serial: bool,
    /// A screen.
    pub(crate) screen: bool,
}

/// Finds the output devices and takes over the `log` facade.
///
/// # Safety
///
/// As for [`move_screen`].
pub(crate) unsafe fn init(framebuffer: Option<Framebuffer>) -> Found {
    let mut console = CONSOLE.lock();
    let serial = console.serial.probe();
    // SAFETY: passed on to the caller.
    unsafe { console.screen.attach(framebuffer) };
    console.screen.clear();
    logger::install();
    Found { serial, screen: console.screen.is_attached() }
}

/// Says where the framebuffer is mapped from now on; with None, nowhere.
///
/// # Safety
///
/// All of it must be mapped until the next call, and nobody else may write to
/// it.
pub(crate) unsafe fn move_screen(framebuffer: Option<Framebuffer>) {
    // SAFETY: passed on to the caller.
    unsafe { CONSOLE.lock().screen.attach(framebuffer) };
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

/// Writes `text` as it is, without time stamps: what the prompt and its commands
/// say. It is not part of the log. A line feed begins a new line; carriage return,
/// backspace and bell do what they do on a terminal. From any context but an NMI.
pub(crate) fn print(text: fmt::Arguments<'_>) {
    let mut console = CONSOLE.lock();
    console.keep = false;
    // Writing to the console cannot fail.
    let _ = Raw(&mut console).write_fmt(text);
    console.flush();
    console.keep = true;
}

/// Text that may steer the terminal.
struct Raw<'a>(&'a mut Console);

impl Write for Raw<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            match byte {
                b'\n' => self.0.newline(),
                b'\r' => {
                    self.0.queue(byte);
                    self.0.screen.back(self.0.column);
                    self.0.column = 0;
                }
                0x08 => {
                    self.0.queue(byte);
                    self.0.screen.back(1);
                    self.0.column = self.0.column.saturating_sub(1);
                }
                0x07 => self.0.queue(byte),
                _ => self.0.push(byte),
            }
        }
        Ok(())
    }
}

/// How many lines were broken off by others' lines so far: whoever edits one
/// has to show it again when this has changed.
pub(crate) fn broken_lines() -> u32 {
    CONSOLE.lock().broken
}

/// Makes screen and terminal blank.
pub(crate) fn clear() {
    let mut console = CONSOLE.lock();
    console.screen.clear();
    // To the upper left corner, and all of the display erased (ECMA-48: CUP, ED).
    b"\x1b[H\x1b[2J".iter().for_each(|&byte| console.queue(byte));
    console.flush();
    console.column = 0;
}

/// Hands the log that is kept to `each`, oldest first, in pieces that end with a
/// line where there is one; `each` returns false when it has enough. What is
/// logged meanwhile comes too. In a thread, no lock held: `each` may print.
pub(crate) fn log_text(each: &mut dyn FnMut(&str) -> bool) {
    let mut piece = [0; 512];
    let mut from = {
        let console = CONSOLE.lock();
        console.log.line_start(0)
    };
    loop {
        let console = CONSOLE.lock();
        let (text, next) = console.log.text(from, &mut piece);
        drop(console);
        if next == from || !each(text) {
            return;
        }
        from = next;
    }
}

/// Begins to take input. Once, on the boot CPU, when interrupts can come.
pub(crate) fn listen() {
    let serial = CONSOLE.lock().serial.listen();
    input::start(serial);
}

/// Clears the screen and writes large text at its top. What is printed from then
/// on comes below it.
pub(crate) fn banner<'a>(lines: impl IntoIterator<Item = Line<'a>>) {
    let mut console = CONSOLE.lock();
    console.fresh_line();
    console.screen.banner(lines);
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
    // One screen holds all of a report, for a photograph.
    console.screen.clear();
    console
}
