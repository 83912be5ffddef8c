//! A terminal as the editor's tests see it: rows of characters that wrap at the
//! width, a cursor, a bell, and no escape sequences at all.

use shell::edit::{Action, Complete, Editor};
use std::fmt;

pub(crate) struct Terminal {
    width: usize,
    rows: Vec<String>,
    column: usize,
    pub(crate) bells: usize,
}

impl Terminal {
    pub(crate) fn new(width: usize) -> Self {
        Self { width, rows: vec![String::new()], column: 0, bells: 0 }
    }

    /// The rows so far, without the blanks at their ends.
    pub(crate) fn rows(&self) -> Vec<&str> {
        self.rows.iter().map(|row| row.trim_end()).collect()
    }

    fn put(&mut self, character: char) {
        if self.column == self.width {
            self.rows.push(String::new());
            self.column = 0;
        }
        let row = self.rows.last_mut().unwrap();
        if self.column < row.len() {
            row.replace_range(self.column..=self.column, &character.to_string());
        } else {
            assert_eq!(self.column, row.len(), "a gap is left");
            row.push(character);
        }
        self.column += 1;
    }
}

impl fmt::Write for Terminal {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                ' '..='~' => self.put(character),
                '\r' => self.column = 0,
                '\n' => {
                    assert_eq!(self.column, 0, "a line feed without a carriage return");
                    self.rows.push(String::new());
                }
                '\x08' => {
                    assert!(self.column > 0, "backspace at the edge");
                    self.column -= 1;
                }
                '\x07' => self.bells += 1,
                other => panic!("{other:?} was sent"),
            }
        }
        Ok(())
    }
}

/// Somebody who types at an editor and looks at the terminal after each byte.
pub(crate) struct Session<'a> {
    pub(crate) editor: Box<Editor>,
    pub(crate) terminal: Terminal,
    words: &'a dyn Complete,
    pub(crate) entered: Vec<String>,
    pub(crate) last: Action,
}

pub(crate) const PROMPT: &str = "quarry> ";

impl<'a> Session<'a> {
    pub(crate) fn new(width: usize, words: &'a dyn Complete) -> Self {
        let mut editor = Box::new(Editor::new(PROMPT));
        let mut terminal = Terminal::new(width);
        editor.set_width(width);
        editor.begin(&mut terminal);
        let session = Self { editor, terminal, words, entered: vec![], last: Action::More };
        session.check();
        session
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> &mut Self {
        for &byte in bytes {
            self.last = self.editor.feed(byte, self.words, &mut self.terminal);
            match self.last {
                Action::More | Action::PageUp | Action::PageDown => {}
                Action::Clear => {
                    self.terminal.rows = vec![String::new()];
                    self.terminal.column = 0;
                    self.editor.redraw(&mut self.terminal);
                }
                action => {
                    if action == Action::Enter {
                        self.entered.push(self.editor.line().to_owned());
                    }
                    assert_eq!(self.terminal.column, 0, "{action:?} leaves the row");
                    self.editor.begin(&mut self.terminal);
                }
            }
            self.check();
        }
        self
    }

    /// That the screen shows the line, or the part of it around the cursor.
    fn check(&self) {
        let (line, cursor) = (self.editor.line(), self.editor.cursor());
        assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{line:?}");
        let row = self.terminal.rows.last().unwrap();
        let (prompt, shown) = row.split_at(PROMPT.len());
        assert_eq!(prompt, PROMPT);
        // The last column is never written to.
        let room = self.terminal.width - 1 - PROMPT.len();
        let column = self.terminal.column.checked_sub(PROMPT.len()).expect("beyond the prompt");
        let first = cursor.checked_sub(column).expect("the cursor is where its character is");
        let end = line.len().min(first + room);
        let mut expected = line[first..end].to_owned();
        if first > 0 {
            assert!(column > 0, "the cursor is on a mark");
            expected.replace_range(..1, "<");
        }
        if end < line.len() {
            assert!(column + 1 < room, "the cursor is on a mark");
            expected.replace_range(expected.len() - 1.., ">");
        }
        assert!(line.len() >= room || first == 0, "scrolled for nothing");
        // What follows it was blanked.
        assert_eq!(shown.trim_end(), expected.trim_end());
    }

    /// The line with `^` where the cursor is.
    pub(crate) fn line(&self) -> String {
        let mut line = self.editor.line().to_owned();
        line.insert(self.editor.cursor(), '^');
        line
    }
}
