//! Text in cells: what a screen is to show, and what it shows already, so that
//! only what differs is drawn and the slow memory of the screen is never read.
//! Understands the few escape sequences that a line editor needs. Calls `vte`,
//! which takes the sequences apart.

use super::past::Past;
use core::mem::replace;
use vte::{Params, Parser, Perform};

/// Cells at most: 240 columns and 135 rows, and a little.
pub const MAX_CELLS: usize = 32 * 1024;
/// Rows at most.
const MAX_ROWS: usize = 256;

/// In a cell: shown with colours exchanged. The rest is ASCII.
pub const INVERSE: u8 = 0x80;
/// What a screen shows that nobody knows: differs from all cells.
const UNKNOWN: u8 = 0;

const TAB: usize = 8;

/// The text of a screen. Everything that is written ends up inside, whatever it
/// is; what is not ASCII becomes a question mark.
struct Cells {
    /// What is to be seen; rows lie `stride` apart.
    wanted: [u8; MAX_CELLS],
    /// What is to be seen on the screen already.
    shown: [u8; MAX_CELLS],
    /// Rows in which the two may differ.
    dirty: [bool; MAX_ROWS],
    stride: usize,
    columns: usize,
    rows: usize,
    /// The first row that is for text; those above are somebody else's.
    top: usize,
    row: usize,
    /// Up to `columns`: the next character begins a new line.
    column: usize,
    /// Colours of what is written next.
    inverse: bool,
    /// Rows that scrolling moves at a time.
    jump: usize,
    /// How often it has scrolled.
    scrolled: u64,
    /// Where the cursor was drawn.
    cursor: Option<(usize, usize)>,
    /// Rows that have scrolled out or were cleared.
    past: Past,
    /// By how many rows what is shown lies in the past.
    back: usize,
}

/// Text, and a parser for what comes in.
pub struct TextScreen {
    cells: Cells,
    parser: Option<Parser<64>>,
}

impl Cells {
    const fn new() -> Self {
        Self {
            // All zero, so that the kernel's file need not hold it.
            wanted: [0; MAX_CELLS],
            shown: [UNKNOWN; MAX_CELLS],
            dirty: [false; MAX_ROWS],
            stride: 0,
            columns: 0,
            rows: 0,
            top: 0,
            row: 0,
            column: 0,
            inverse: false,
            jump: 0,
            scrolled: 0,
            cursor: None,
            past: Past::new(),
            back: 0,
        }
    }

    fn line(&mut self, row: usize) -> &mut [u8] {
        self.dirty[row] = true;
        &mut self.wanted[row * self.stride..row * self.stride + self.columns]
    }

    fn put(&mut self, byte: u8) {
        if self.column >= self.columns {
            self.newline();
        }
        let cell = if self.inverse { byte | INVERSE } else { byte };
        let column = self.column;
        self.line(self.row)[column] = cell;
        self.column += 1;
    }

    fn newline(&mut self) {
        self.column = 0;
        self.row += 1;
        if self.row == self.rows {
            self.scroll();
        }
    }

    /// Makes room below the last row. What stands above the text, if anything
    /// does, is what goes, and all at once: half of it would be of no use.
    fn scroll(&mut self) {
        let by = match replace(&mut self.top, 0) {
            0 => {
                let by = self.jump.clamp(1, self.rows);
                self.keep(0, by);
                by
            }
            above => above,
        };
        let end = self.rows * self.stride;
        self.wanted.copy_within(by * self.stride..end, 0);
        self.wanted[end - by * self.stride..end].fill(b' ');
        self.dirty[..self.rows].fill(true);
        self.row = self.rows - by;
        self.scrolled += 1;
    }

    /// Remembers rows that are about to go.
    fn keep(&mut self, first: usize, end: usize) {
        for row in first..end {
            self.past.push(&self.wanted[row * self.stride..(row + 1) * self.stride]);
        }
    }

    /// Looks further back, or less far, by half a screen.
    fn page(&mut self, back: bool) {
        let half = (self.rows - self.top).div_ceil(2);
        self.back = match back {
            true => (self.back + half).min(self.past.len()),
            false => self.back.saturating_sub(half),
        };
        self.dirty.fill(true);
    }

    fn clear(&mut self) {
        // What was being written too, but no prompt that waits for a line.
        self.keep(self.top, self.row);
        for row in 0..self.rows {
            self.line(row).fill(b' ');
        }
        (self.row, self.column, self.inverse) = (self.top, 0, false);
    }

    /// Blanks from cell to cell, in reading order; the end is not blanked.
    fn blank(&mut self, from: (usize, usize), to: (usize, usize)) {
        for row in from.0..=to.0.min(self.rows - 1) {
            let first = if row == from.0 { from.1 } else { 0 };
            let end = if row == to.0 { to.1 } else { self.columns };
            let (first, end) = (first.min(self.columns), end.min(self.columns));
            if first < end {
                self.line(row)[first..end].fill(b' ');
            }
        }
    }

    fn control(&mut self, action: char, params: &Params) {
        let number = |at: usize, default: u16| {
            let given = params.iter().nth(at).and_then(|param| param.first().copied());
            usize::from(given.filter(|&given| given != 0).unwrap_or(default))
        };
        let (last_row, last) = (self.rows - 1, self.columns - 1);
        let (row, column) = (self.row, self.column.min(last));
        match action {
            'A' => self.row = row.saturating_sub(number(0, 1)).max(self.top),
            'B' => self.row = (row + number(0, 1)).min(last_row),
            'C' => self.column = (column + number(0, 1)).min(last),
            'D' => self.column = column.saturating_sub(number(0, 1)),
            'G' => self.column = (number(0, 1) - 1).min(last),
            'H' | 'f' => {
                self.row = (self.top + number(0, 1) - 1).min(last_row);
                self.column = (number(1, 1) - 1).min(last);
            }
            'J' => match number(0, 0) {
                0 => self.blank((row, self.column), (self.rows, 0)),
                1 => self.blank((self.top, 0), (row, column + 1)),
                _ => self.blank((self.top, 0), (self.rows, 0)),
            },
            'K' => match number(0, 0) {
                0 => self.blank((row, self.column), (row, self.columns)),
                1 => self.blank((row, 0), (row, column + 1)),
                _ => self.blank((row, 0), (row, self.columns)),
            },
            '@' => {
                let by = number(0, 1).min(self.columns - column);
                let line = &mut self.line(row)[column..];
                line.copy_within(..line.len() - by, by);
                line[..by].fill(b' ');
            }
            'P' => {
                let by = number(0, 1).min(self.columns - column);
                let line = &mut self.line(row)[column..];
                line.copy_within(by.., 0);
                let kept = line.len() - by;
                line[kept..].fill(b' ');
            }
            'm' => {
                for param in params {
                    match param {
                        [0 | 27] => self.inverse = false,
                        [7] => self.inverse = true,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }

    /// What a cell is to look like, the cursor included.
    fn look(&self, row: usize, column: usize) -> u8 {
        let cell = match (self.top + self.back).checked_sub(row) {
            Some(above @ 1..) => self.past.row(above).map_or(b' ', |past| past[column]),
            _ => self.wanted[(row - self.back) * self.stride + column],
        };
        if self.cursor == Some((row, column)) { cell ^ INVERSE } else { cell }
    }

    fn redraw(&mut self, draw: &mut dyn FnMut(usize, usize, &[u8])) {
        if self.rows == 0 {
            return;
        }
        let here = (self.row, self.column.min(self.columns - 1));
        let now = (self.back == 0).then_some(here);
        let before = replace(&mut self.cursor, now);
        for (row, _) in [before, now].into_iter().flatten() {
            self.dirty[row] = true;
        }
        for row in self.top..self.rows {
            if !replace(&mut self.dirty[row], false) {
                continue;
            }
            let start = row * self.stride;
            let mut column = 0;
            while column < self.columns {
                let first = column;
                while column < self.columns && self.look(row, column) != self.shown[start + column]
                {
                    self.shown[start + column] = self.look(row, column);
                    column += 1;
                }
                if first < column {
                    draw(row, first, &self.shown[start + first..start + column]);
                }
                column += 1;
            }
        }
    }
}

impl Perform for Cells {
    fn print(&mut self, character: char) {
        self.put(if matches!(character, ' '..='~') { character as u8 } else { b'?' });
    }

    fn execute(&mut self, byte: u8) {
        match byte {
            b'\n' => self.newline(),
            b'\r' => self.column = 0,
            // Backspace.
            8 => self.column = self.column.min(self.columns).saturating_sub(1),
            b'\t' => self.column = (self.column / TAB * TAB + TAB).min(self.columns - 1),
            _ => {}
        }
    }

    fn csi_dispatch(&mut self, params: &Params, marks: &[u8], ignore: bool, action: char) {
        // With marks they mean something else.
        if marks.is_empty() && !ignore {
            self.control(action, params);
        }
    }
}

impl TextScreen {
    /// A screen without a cell.
    pub const fn new() -> Self {
        Self { cells: Cells::new(), parser: None }
    }

    /// Makes it so many cells large and blank; too many become fewer rows, then
    /// fewer columns. Nothing is known of what it shows.
    pub fn set_size(&mut self, columns: usize, rows: usize) {
        let columns = columns.min(MAX_CELLS);
        let rows = rows.min(MAX_ROWS).min(MAX_CELLS / columns.max(1));
        // Either both or none.
        let (columns, rows) = if columns == 0 || rows == 0 { (0, 0) } else { (columns, rows) };
        let cells = &mut self.cells;
        (cells.stride, cells.columns, cells.rows) = (columns, columns, rows);
        (cells.cursor, cells.top, cells.row) = (None, 0, 0);
        cells.past.set_stride(columns);
        self.clear();
        self.forget();
    }

    /// Columns and rows.
    pub fn size(&self) -> (usize, usize) {
        (self.cells.columns, self.cells.rows)
    }

    /// Uses the first `columns` only from now on, or more again; the others are
    /// somebody else's to draw.
    pub fn set_columns(&mut self, columns: usize) {
        let cells = &mut self.cells;
        if cells.rows == 0 {
            return;
        }
        let before = replace(&mut cells.columns, columns.clamp(1, cells.stride));
        cells.column = cells.column.min(cells.columns);
        cells.cursor = cells.cursor.filter(|&(_, column)| column < cells.columns);
        for row in 0..cells.rows {
            let all = row * cells.stride..(row + 1) * cells.stride;
            let (wanted, shown) = (&mut cells.wanted[all.clone()], &mut cells.shown[all]);
            for column in before.min(cells.columns)..cells.stride {
                wanted[column] = b' ';
                shown[column] = UNKNOWN;
            }
        }
        cells.dirty.fill(true);
    }

    /// Leaves the first `rows` rows to somebody else to draw, or takes them back;
    /// two are left for text in any case. All text is gone. When text needs more
    /// room it takes them back.
    pub fn set_top(&mut self, rows: usize) {
        self.clear();
        let top = rows.min(self.cells.rows.saturating_sub(2));
        (self.cells.top, self.cells.row, self.cells.cursor) = (top, top, None);
        self.forget();
    }

    /// How many rows scrolling moves at a time. Few look smooth; many cost less,
    /// for all that moves is drawn.
    pub fn set_jump(&mut self, rows: usize) {
        self.cells.jump = rows;
    }

    /// How often it has scrolled.
    pub fn scrolled(&self) -> u64 {
        self.cells.scrolled
    }

    /// Writes `bytes`, text and escape sequences. A line feed also goes to the
    /// line's beginning.
    pub fn write(&mut self, bytes: &[u8]) {
        if self.cells.rows > 0 {
            self.look_at_now();
            let parser = self.parser.get_or_insert_with(Parser::new_with_size);
            parser.advance(&mut self.cells, bytes);
        }
    }

    /// Blanks all cells and begins at the top, whatever was being written.
    pub fn clear(&mut self) {
        self.parser = None;
        self.look_at_now();
        self.cells.clear();
    }

    /// Shows what has left the screen: half a screen more of it, or less. What is
    /// written next ends that.
    pub fn page(&mut self, back: bool) {
        self.cells.page(back);
    }

    fn look_at_now(&mut self) {
        if replace(&mut self.cells.back, 0) > 0 {
            self.cells.dirty.fill(true);
        }
    }

    /// What the screen shows is not known any more: all is drawn again.
    pub fn forget(&mut self) {
        self.cells.shown.fill(UNKNOWN);
        self.cells.dirty.fill(true);
    }

    /// Has `draw` draw what differs: row, first column, and cells side by side.
    pub fn redraw(&mut self, draw: &mut dyn FnMut(usize, usize, &[u8])) {
        self.cells.redraw(draw);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A screen, and what was drawn on it.
    struct Shown {
        text: Box<TextScreen>,
        glass: Vec<Vec<u8>>,
        drawn: usize,
    }

    fn screen(columns: usize, rows: usize) -> Shown {
        let mut text = Box::new(TextScreen::new());
        text.set_size(columns, rows);
        Shown { text, glass: vec![vec![b'.'; columns]; rows], drawn: 0 }
    }

    impl Shown {
        /// Writes, draws, and returns what is to be seen; the cursor is `_`.
        fn write(&mut self, text: &str) -> String {
            self.text.write(text.as_bytes());
            self.look()
        }

        fn look(&mut self) -> String {
            self.drawn = 0;
            let (glass, drawn) = (&mut self.glass, &mut self.drawn);
            self.text.redraw(&mut |row, first, cells| {
                assert!(!cells.is_empty());
                glass[row][first..first + cells.len()].copy_from_slice(cells);
                *drawn += cells.len();
            });
            let char = |&cell: &u8| match cell {
                0xa0 => '_',
                cell if cell & INVERSE != 0 => char::from(cell & !INVERSE).to_ascii_uppercase(),
                cell => char::from(cell),
            };
            let line = |line: &Vec<u8>| line.iter().map(char).collect::<String>();
            self.glass.iter().map(line).collect::<Vec<_>>().join("|")
        }
    }

    #[test]
    fn text_wraps_and_scrolls() {
        let mut screen = screen(4, 3);
        assert_eq!(screen.look(), "_   |    |    ");
        assert_eq!(screen.write("ab\ncdefg"), "ab  |cdef|g_  ");
        assert_eq!(screen.write("hi"), "ab  |cdef|ghi_");
        // A line that is full does not begin the next one by itself.
        assert_eq!(screen.write("j"), "ab  |cdef|ghiJ");
        assert_eq!(screen.write("\n"), "cdef|ghij|_   ");
        assert_eq!(screen.write("\nz"), "ghij|    |z_  ");
    }

    #[test]
    fn only_what_differs_is_drawn() {
        let mut screen = screen(10, 4);
        screen.look();
        assert_eq!(screen.drawn, 40);
        screen.write("");
        assert_eq!(screen.drawn, 0);
        // The character, and the cursor that moves on.
        screen.write("x");
        assert_eq!(screen.drawn, 2);
        screen.write("\ny\nsame\nsame");
        screen.write("\n");
        screen.drawn = 0;
        // The third row already says what now moves there, but for the cursor.
        assert_eq!(screen.write("same"), "y         |same      |same      |same_     ".to_owned());
        screen.text.forget();
        screen.look();
        assert_eq!(screen.drawn, 40);
    }

    #[test]
    fn scrolling_can_jump() {
        let mut screen = screen(2, 4);
        screen.text.set_jump(3);
        assert_eq!(screen.write("1\n2\n3\n4"), "1 |2 |3 |4_");
        assert_eq!(screen.write("\n5"), "4 |5_|  |  ");
        assert_eq!(screen.text.scrolled(), 1);
        screen.text.set_jump(100);
        assert_eq!(screen.write("\n6\n7\n8"), "8_|  |  |  ");
    }

    #[test]
    fn a_line_editor_finds_its_way() {
        let mut screen = screen(8, 2);
        assert_eq!(screen.write("> abc\x1b[2D"), "> aBc   |        ");
        assert_eq!(screen.write("\x1b[@X"), "> aXBc  |        ");
        assert_eq!(screen.write("\x1b[P"), "> aXC   |        ");
        assert_eq!(screen.write("\r\x1b[Khello"), "hello_  |        ");
        assert_eq!(screen.write("\x08\x08\x1b[K"), "hel_    |        ");
        assert_eq!(screen.write("\x1b[7mno\x1b[0m\tx"), "helNO  X|        ");
        assert_eq!(screen.write("\x1b[2J\x1b[H"), "_       |        ");
        assert_eq!(screen.write("\x1b[2;4Hx\x1b[A\x1b[3C\x1b[1Gy"), "y_      |   x    ");
        assert_eq!(screen.write("\x1b[B\x1b[J"), "y       | _      ");
    }

    #[test]
    fn what_is_not_ascii_is_one_question_mark() {
        let mut screen = screen(8, 1);
        assert_eq!(screen.write("\u{e9}\u{2014}\u{1f600}\x07\x1b[?25lz"), "???z_   ");
        screen.text.clear();
        screen.text.write(b"a\xff\xc3");
        screen.text.write(b"b");
        let seen = screen.look();
        assert!(seen.starts_with("a?") && seen.contains('b'), "{seen}");
    }

    #[test]
    fn part_of_it_can_be_given_away() {
        let mut screen = screen(6, 2);
        screen.write("abcdef\nghijkl");
        screen.text.set_columns(3);
        // Nothing is drawn to the right.
        for line in &mut screen.glass {
            line[3..].fill(b'#');
        }
        assert_eq!(screen.write("\nmnop"), "mno###|p_ ###");
        assert_eq!(screen.text.size(), (3, 2));
        screen.text.set_columns(99);
        assert_eq!(screen.look(), "mno   |p_    ");
        assert_eq!(screen.write("qrstu"), "mno   |pqrstU");
    }

    #[test]
    fn something_can_stand_above_it() {
        let mut screen = screen(3, 4);
        screen.write("abc\ndef");
        screen.text.set_top(2);
        for line in &mut screen.glass[..2] {
            line.fill(b'#');
        }
        assert_eq!(screen.write("1\n3"), "###|###|1  |3_ ");
        assert_eq!(screen.write("\x1b[9Ax\x1b[H\x1b[1J"), "###|###|_x |3  ");
        assert_eq!(screen.write("\x1b[2Jy\x1b[2;1Hz"), "###|###|y  |z_ ");
        screen.text.set_top(99);
        assert_eq!(screen.write("q\nr"), "###|###|q  |r_ ");
        screen.text.set_top(0);
        assert_eq!(screen.write("t"), "t_ |   |   |   ");
    }

    #[test]
    fn what_stands_above_goes_when_text_needs_room() {
        let mut screen = screen(3, 5);
        screen.text.set_top(3);
        for line in &mut screen.glass[..3] {
            line.fill(b'#');
        }
        assert_eq!(screen.write("1\n2"), "###|###|###|1  |2_ ");
        assert_eq!(screen.write("\n3"), "1  |2  |3_ |   |   ");
        assert_eq!(screen.write("\n4\n5\n6"), "2  |3  |4  |5  |6_ ");
        assert_eq!(screen.write("\x1b[Hx"), "x_ |3  |4  |5  |6  ");
    }

    #[test]
    fn what_has_gone_can_be_looked_at() {
        let mut screen = screen(2, 4);
        screen.write("1\n2\n3\n4\n5\n6\n7");
        let paged = |screen: &mut Shown, back| {
            screen.text.page(back);
            screen.look()
        };
        assert_eq!(paged(&mut screen, true), "2 |3 |4 |5 ");
        assert_eq!(paged(&mut screen, true), "1 |2 |3 |4 ");
        assert_eq!(paged(&mut screen, true), "1 |2 |3 |4 ");
        assert_eq!(paged(&mut screen, false), "3 |4 |5 |6 ");
        // Whoever writes is seen.
        assert_eq!(screen.write("x"), "4 |5 |6 |7X");
        assert_eq!(screen.write("_"), "5 |6 |7x|__");
        // What was cleared is there too, below what is somebody else's.
        screen.text.set_top(1);
        screen.glass[0].fill(b'#');
        assert_eq!(screen.write("8"), "##|8_|  |  ");
        assert_eq!(paged(&mut screen, true), "##|6 |7x|8 ");
        assert_eq!(paged(&mut screen, false), "##|8_|  |  ");
    }

    #[test]
    fn any_size_and_any_bytes_will_do() {
        for (columns, rows) in [(0, 0), (0, 9), (1, 1), (1, 300), (40_000, 2), (300, 300)] {
            let mut text = Box::new(TextScreen::new());
            text.set_size(columns, rows);
            let mut byte = 7_u8;
            for _ in 0..4_000 {
                let bytes: [u8; 9] = core::array::from_fn(|_| {
                    byte = byte.wrapping_mul(141).wrapping_add(57);
                    if byte % 5 == 0 {
                        0x1b
                    } else if byte % 5 == 1 {
                        b'['
                    } else {
                        byte
                    }
                });
                text.write(&bytes);
                text.page(byte % 3 > 0);
                text.write(b"\x1b[77@\x1b[65535P\x1b[9;999H\x1b[1J\x1b[65535A\x1b[1K\x1b[B");
            }
            let (columns, rows) = text.size();
            text.redraw(&mut |row, first, cells| {
                assert!(row < rows && first + cells.len() <= columns);
            });
        }
    }
}
