//! One row of a terminal, and how to make it show something else. Only printable
//! characters, backspace, carriage return and line feed are sent, so any
//! terminal, or a screen without one, shows it right; a line that is wider than
//! the row is scrolled sideways. Calls nothing.

use core::fmt;

/// Columns of a row at most.
const WIDTH_MAX: usize = 256;
/// Columns of a row at least.
const WIDTH_MIN: usize = 24;

/// Stands at an edge beyond which the line goes on.
const MORE_LEFT: u8 = b'<';
const MORE_RIGHT: u8 = b'>';

/// What the row that the cursor is in shows.
#[derive(Debug)]
pub(super) struct Row {
    width: usize,
    shown: [u8; WIDTH_MAX],
    len: usize,
    column: usize,
    /// The first character of the line that is to be seen.
    first: usize,
}

impl Row {
    pub(super) const fn new() -> Self {
        Self { width: 80, shown: [0; WIDTH_MAX], len: 0, column: 0, first: 0 }
    }

    /// Takes the terminal to have so many columns, within reason.
    pub(super) fn set_width(&mut self, columns: usize) {
        self.width = columns.clamp(WIDTH_MIN, WIDTH_MAX);
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// The terminal is at the start of an empty row, whatever it was before.
    pub(super) fn forget(&mut self) {
        (self.len, self.column, self.first) = (0, 0, 0);
    }

    /// Shows `prompt` and as much of `line` as there is room for, around
    /// character number `cursor`, and the terminal's cursor there.
    pub(super) fn show(
        &mut self,
        prompt: &str,
        line: &[u8],
        cursor: usize,
        out: &mut dyn fmt::Write,
    ) {
        let prompt = prompt.as_bytes();
        // The last column stays empty: terminals differ in what they do then.
        let room = self.width - 1;
        let prompt = &prompt[..prompt.len().min(room / 2)];
        let room = room - prompt.len();
        self.scroll(line.len(), cursor, room);

        let mut row = [0; WIDTH_MAX];
        let end = line.len().min(self.first + room);
        let visible = &line[self.first..end];
        let len = prompt.len() + visible.len();
        row[..prompt.len()].copy_from_slice(prompt);
        row[prompt.len()..len].copy_from_slice(visible);
        if self.first > 0 {
            row[prompt.len()] = MORE_LEFT;
        }
        if end < line.len() {
            row[len - 1] = MORE_RIGHT;
        }
        self.become_row(&row[..len], out);
        self.move_to(prompt.len() + cursor - self.first, out);
    }

    /// Chooses what part of the line is to be seen: the cursor on a character
    /// that no mark stands in for, and no jump unless it is needed.
    fn scroll(&mut self, len: usize, cursor: usize, room: usize) {
        if len < room {
            self.first = 0;
            return;
        }
        let hidden_left = self.first > 0 && cursor <= self.first;
        let last = self.first + room - 1;
        let hidden_right = cursor > last || (cursor == last && len > last + 1);
        if hidden_left || hidden_right || self.first > len {
            self.first = cursor.saturating_sub(room / 2);
        }
    }

    /// Sends what is different in `row`.
    fn become_row(&mut self, row: &[u8], out: &mut dyn fmt::Write) {
        let shown = &self.shown[..self.len];
        let same = shown.iter().zip(row).take_while(|(a, b)| a == b).count();
        let blanks = self.len.saturating_sub(row.len());
        if same < row.len() || blanks > 0 {
            self.move_to(same, out);
            put(&row[same..], out);
            (0..blanks).for_each(|_| put(b" ", out));
            self.shown[same..row.len()].copy_from_slice(&row[same..]);
            self.len = row.len();
            self.column = row.len() + blanks;
        }
    }

    /// Moves the terminal's cursor to `column`.
    fn move_to(&mut self, column: usize, out: &mut dyn fmt::Write) {
        if column < self.column {
            if column + 1 < self.column - column {
                put(b"\r", out);
                put(&self.shown[..column], out);
            } else {
                (column..self.column).for_each(|_| put(b"\x08", out));
            }
        } else {
            put(&self.shown[self.column..column], out);
        }
        self.column = column;
    }

    /// Leaves the row as it is, for the start of the next one.
    pub(super) fn leave(&mut self, out: &mut dyn fmt::Write) {
        self.leave_with("", out);
    }

    /// Leaves the row with `mark` (ASCII) at its end, if there is room for it.
    pub(super) fn leave_with(&mut self, mark: &str, out: &mut dyn fmt::Write) {
        self.move_to(self.len, out);
        if self.len + mark.len() < self.width {
            put(mark.as_bytes(), out);
        }
        put(b"\r\n", out);
        self.forget();
    }
}

/// Sends ASCII.
pub(super) fn put(bytes: &[u8], out: &mut dyn fmt::Write) {
    // What cannot be shown is lost.
    let _ = out.write_str(core::str::from_utf8(bytes).unwrap_or_default());
}
