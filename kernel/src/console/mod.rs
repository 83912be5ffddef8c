//! Where the kernel's words go. Text is put into two rings under one lock that
//! is held for moments only: the log, which is kept, and what the devices still
//! have to show. Whoever finds the devices free feeds them, with interrupts as
//! they were (Linux `kernel/printk/printk.c` does the same). Calls `arch` for
//! time and interrupt masking, `task` when it has to wait.

mod banner;
mod devices;
mod firmware;
pub(crate) mod input;
mod keyboard;
mod logger;
mod screen;
mod serial;
pub(crate) mod view;

pub(crate) use devices::{attach, flush, init, listen, move_screen, seize};
pub(crate) use firmware::{discover, page};
pub(crate) use screen::Framebuffer;

use crate::arch::irq::IrqMutex;
use crate::take::Take;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use mm::sync::LockRank;
use quarry_kernel::banner::Line;
use quarry_kernel::tty::Ring;
use screen::Screen;

/// Bytes of the log that are kept.
const LOG: usize = 128 * 1024;
/// Bytes that devices may lag behind, before those who write wait for them or,
/// where they cannot wait, text is lost.
const OUT: usize = 32 * 1024;

struct Rings {
    log: Ring<LOG>,
    out: Ring<OUT>,
}

/// All zero, so that the kernel's file need not hold them.
static RINGS: Take<Rings> = Take::new(Rings { log: Ring::new(), out: Ring::new() });

static OUTPUT: IrqMutex<Output> =
    IrqMutex::new(LockRank::Log, Output { rings: None, column: 0, width: 0, is_edited: false });

/// Lines that ended because somebody else had something to say.
static BROKEN: AtomicU32 = AtomicU32::new(0);

/// What was written, and where the next character goes.
struct Output {
    rings: Option<&'static mut Rings>,
    /// Not 0: a line is not at its end.
    column: usize,
    /// Columns of this row that have something in them.
    width: usize,
    /// The row is somebody's who edits a line, and will show it again.
    is_edited: bool,
}

impl Output {
    /// Begins a new line unless one has just begun. The log has whole lines only.
    fn fresh_line(&mut self) {
        if self.width == 0 {
            return;
        }
        if self.is_edited {
            self.erase_row();
        } else {
            self.push(b"\n", false);
        }
        BROKEN.fetch_add(1, Relaxed);
    }

    /// Makes the row blank that is being written, as terminals of all kinds can.
    fn erase_row(&mut self) {
        self.push(b"\r", false);
        for _ in 0..self.width {
            self.push(b" ", false);
        }
        self.push(b"\r", false);
        self.width = 0;
    }

    fn push(&mut self, bytes: &[u8], keep: bool) {
        let Some(rings) = &mut self.rings else { return };
        rings.out.push(bytes);
        if keep {
            rings.log.push(bytes);
        }
        for byte in bytes {
            self.column = match byte {
                b'\n' | b'\r' => 0,
                // Backspace and bell.
                0x08 => self.column.saturating_sub(1),
                0x07 => self.column,
                _ => self.column + 1,
            };
            self.width = if *byte == b'\n' { 0 } else { self.width.max(self.column) };
        }
    }

    /// Position after the last byte for the devices.
    fn end(&self) -> u64 {
        self.rings.as_ref().map_or(0, |rings| rings.out.end())
    }
}

/// Lines of the log.
struct Lines<'a>(&'a mut Output);

impl Write for Lines<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Nothing that is printed may steer the reader's terminal.
        let steers = |byte: &u8| (*byte < 0x20 || *byte == 0x7f) && !matches!(byte, b'\n' | b'\t');
        let mut rest = text.as_bytes();
        while let Some(at) = rest.iter().position(steers) {
            self.0.push(&rest[..at], true);
            self.0.push(b"?", true);
            rest = &rest[at + 1..];
        }
        self.0.push(rest, true);
        Ok(())
    }
}

/// Text that may steer the terminal.
struct Raw<'a>(&'a mut Output);

impl Write for Raw<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.push(text.as_bytes(), false);
        Ok(())
    }
}

/// Has `write` write to the rings, then shows what came of it.
fn output(write: impl FnOnce(&mut Output)) {
    write(&mut OUTPUT.lock());
    devices::drain_or_wait();
}

/// Writes one whole line without time stamp, at the start of a line whatever
/// was being written before.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    output(|output| {
        output.fresh_line();
        // Writing to the rings cannot fail.
        let _ = Lines(output).write_fmt(text);
        output.push(b"\n", true);
    });
}

/// Writes `text` as it is, without time stamps: what the prompt and its commands
/// say. It is not part of the log. Escape sequences reach the terminal; a line
/// feed begins a new line. From any context but an NMI.
pub(crate) fn print(text: fmt::Arguments<'_>) {
    output(|output| {
        // Writing to the rings cannot fail.
        let _ = Raw(output).write_fmt(text);
    });
}

/// How many lines were broken off by others' lines so far: whoever edits one
/// has to show it again when this has changed. From any context.
pub(crate) fn broken_lines() -> u32 {
    BROKEN.load(Relaxed)
}

/// Says whether the row that is written is a line that somebody edits. If
/// somebody else has something to say, such a one makes room, and is shown again
/// below ([`broken_lines`]).
pub(crate) fn set_edited(is_edited: bool) {
    OUTPUT.lock().is_edited = is_edited;
}

/// Makes the row blank that is being written, if anything is in it.
pub(crate) fn erase_row() {
    output(|output| {
        if output.width != 0 {
            output.erase_row();
        }
    });
}

/// Makes screen and terminal blank. In a thread, no lock held.
pub(crate) fn clear() {
    devices::with_screen(Screen::clear);
    output(|output| {
        // To the upper left corner, and all of the display erased (ECMA-48: CUP,
        // ED).
        output.push(b"\x1b[H\x1b[2J", false);
        (output.column, output.width) = (0, 0);
    });
}

/// Shows on the screen what has left it, half a screen more or less of it. In a
/// thread, no lock held.
pub(crate) fn look_back(back: bool) {
    devices::with_screen(|screen| screen.page(back));
}

/// Clears the screen and writes large text at its top. What is printed from then
/// on comes below it. In a thread, no lock held.
pub(crate) fn banner<'a>(lines: impl IntoIterator<Item = Line<'a>>) {
    output(Output::fresh_line);
    devices::with_screen(|screen| screen.banner(lines));
}

/// Hands the log that is kept to `each`, oldest first, in pieces that end with a
/// line where there is one; `each` returns false when it has enough. What is
/// logged meanwhile comes too. In a thread, no lock held: `each` may print.
pub(crate) fn log_text(each: &mut dyn FnMut(&str) -> bool) {
    let mut piece = [0; 512];
    let mut from = None;
    loop {
        let output = OUTPUT.lock();
        let Some(rings) = &output.rings else { return };
        let start = from.unwrap_or_else(|| rings.log.line_start(0));
        let (text, next) = rings.log.text(start, &mut piece);
        drop(output);
        if next == start || !each(text) {
            return;
        }
        from = Some(next);
    }
}
