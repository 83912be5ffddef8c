//! A line editor: bytes of a terminal in, the bytes that keep its screen right
//! out, lines at the end. Emacs' keys as in shells, a history, completion by
//! tab. Pure, and it allocates nothing; who uses it brings the bytes and takes
//! the lines. What it holds is printable ASCII whatever is typed. Calls its
//! parts only.

mod complete;
mod display;
mod history;
mod keys;
mod line;

pub use complete::Complete;
pub use line::LINE_MAX;

use complete::Candidates;
use core::fmt;
use display::{Row, put};
use history::History;
use keys::{Decoder, Key};
use line::{Line, Text};

/// What a byte has led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Nothing to do yet.
    More,
    /// The line is done: [`Editor::line`] has it until the next prompt.
    Enter,
    /// The line is done, but had more than [`LINE_MAX`] characters.
    TooLong,
    /// The line is done, but bytes were typed that are no part of a line: what is
    /// not ASCII, control characters.
    Foreign,
    /// The line was given up (`^C`).
    Interrupt,
    /// The end of input (`^D` on an empty line).
    End,
    /// The screen is to be cleared (`^L`); [`Editor::redraw`] follows.
    Clear,
    /// What has left the screen is to be shown, half a screen more of it.
    PageUp,
    /// Or less of it.
    PageDown,
}

/// The editor.
#[derive(Debug)]
pub struct Editor {
    prompt: &'static str,
    keys: Decoder,
    line: Line,
    row: Row,
    history: History,
    /// How many lines back in the history the line is; 0: it is a new one.
    back: usize,
    /// The new line, while another one is looked at.
    draft: Text,
    /// The key before was Tab, and left a choice.
    tabbed: bool,
    /// Not all that was typed is in the line: what Enter says to that.
    refused: Option<Action>,
}

impl Editor {
    /// An editor that shows `prompt` (printable ASCII) before each line.
    pub const fn new(prompt: &'static str) -> Self {
        Self {
            prompt,
            keys: Decoder::new(),
            line: Line::new(),
            row: Row::new(),
            history: History::new(),
            back: 0,
            draft: Text::new(),
            tabbed: false,
            refused: None,
        }
    }

    /// Takes the terminal to be so many columns wide (24 to 256; 80 unless
    /// told). Before the next [`Editor::begin`] or [`Editor::redraw`].
    pub fn set_width(&mut self, columns: usize) {
        self.row.set_width(columns);
    }

    /// Begins an empty line: shows the prompt, in a row that is empty.
    pub fn begin(&mut self, out: &mut dyn fmt::Write) {
        self.line.set(b"");
        (self.back, self.tabbed, self.refused) = (0, false, None);
        self.redraw(out);
    }

    /// Shows prompt and line again, in a row that is empty: what was there has
    /// been cleared, or something else has been printed below it.
    pub fn redraw(&mut self, out: &mut dyn fmt::Write) {
        self.row.forget();
        self.show(out);
    }

    /// The line.
    pub fn line(&self) -> &str {
        self.line.text().as_str()
    }

    /// Character of [`Editor::line`] that the cursor is on; its length: after it.
    pub fn cursor(&self) -> usize {
        self.line.cursor()
    }

    fn show(&mut self, out: &mut dyn fmt::Write) {
        let text = self.line.text().as_bytes();
        self.row.show(self.prompt, text, self.line.cursor(), out);
    }

    /// Takes a byte from the terminal. What belongs on the screen goes to `out`:
    /// printable ASCII, backspace, carriage return, line feed, and the bell
    /// where a key can do nothing. `words` knows completions.
    pub fn feed(&mut self, byte: u8, words: &dyn Complete, out: &mut dyn fmt::Write) -> Action {
        let Some(key) = self.keys.take(byte) else { return Action::More };
        let tabbed = core::mem::take(&mut self.tabbed);
        let action = match key {
            Key::Enter => return self.enter(out),
            Key::Interrupt => {
                self.row.leave_with("^C", out);
                return Action::Interrupt;
            }
            Key::EndOfInput if self.line().is_empty() => {
                self.row.leave(out);
                return Action::End;
            }
            Key::Clear => Action::Clear,
            Key::PageUp => Action::PageUp,
            Key::PageDown => Action::PageDown,
            Key::Tab => {
                self.tab(tabbed, words, out);
                Action::More
            }
            _ => {
                self.edit(key, out);
                Action::More
            }
        };
        if key.edits() && self.line().is_empty() {
            // Nothing is left of what was not to be run.
            self.refused = None;
        }
        if action == Action::More {
            self.show(out);
        }
        action
    }

    fn enter(&mut self, out: &mut dyn fmt::Write) -> Action {
        self.row.leave(out);
        if let Some(why) = self.refused {
            return why;
        }
        self.history.push(self.line.text().as_bytes());
        Action::Enter
    }

    /// Does what `key` says to the line.
    fn edit(&mut self, key: Key, out: &mut dyn fmt::Write) {
        let line = &mut self.line;
        let (at, end) = (line.cursor(), line.text().len());
        match key {
            Key::Char(byte) => {
                let fits = line.insert(&[byte]);
                self.refuse_unless(fits, Action::TooLong, out);
            }
            Key::Paste => {
                let fits = line.paste();
                self.refuse_unless(fits, Action::TooLong, out);
            }
            Key::Backspace => line.delete_to(at.saturating_sub(1)),
            Key::Delete | Key::EndOfInput => line.delete_to(at + 1),
            Key::Left => line.move_to(at.saturating_sub(1)),
            Key::Right => line.move_to(at + 1),
            Key::WordLeft => line.move_to(line.word_left()),
            Key::WordRight => line.move_to(line.word_right()),
            Key::Home => line.move_to(0),
            Key::End => line.move_to(end),
            Key::CutToEnd => line.cut_to(end),
            Key::CutToStart => line.cut_to(0),
            Key::CutWord => line.cut_to(line.word_left()),
            Key::CutWordRight => line.cut_to(line.word_right()),
            Key::Up => self.recall(self.back + 1, out),
            Key::Down => match self.back {
                0 => put(b"\x07", out),
                back => self.recall(back - 1, out),
            },
            Key::Foreign => self.refuse_unless(false, Action::Foreign, out),
            Key::Enter | Key::Tab | Key::Clear | Key::Interrupt => {}
            Key::PageUp | Key::PageDown => {}
        }
    }

    /// A line that is not all of what was typed must not be run: that is noted,
    /// and the bell says so once.
    fn refuse_unless(&mut self, is_in: bool, why: Action, out: &mut dyn fmt::Write) {
        if !is_in && self.refused.is_none() {
            self.refused = Some(why);
            put(b"\x07", out);
        }
    }

    /// Shows the line that is `back` lines back in the history.
    fn recall(&mut self, back: usize, out: &mut dyn fmt::Write) {
        if back > 0 && self.history.get(back - 1).is_none() {
            put(b"\x07", out);
            return;
        }
        if self.back == 0 {
            self.draft.set(self.line.text().as_bytes());
        }
        self.line.set(match back {
            0 => self.draft.as_bytes(),
            _ => self.history.get(back - 1).unwrap_or_default(),
        });
        self.back = back;
        self.refused = None;
    }

    /// Completes the word before the cursor, or lists how it could go on.
    fn tab(&mut self, again: bool, words: &dyn Complete, out: &mut dyn fmt::Write) {
        let text = &self.line.text().as_str()[..self.line.cursor()];
        let candidates = Candidates::of(words, text);
        let known = text.len() - complete::word_start(text);
        let more = candidates.common().get(known..).unwrap_or_default();
        if candidates.count() == 0 {
            put(b"\x07", out);
        } else if !more.is_empty() || candidates.count() == 1 {
            let fits = self.line.insert(more);
            let follows = self.line().as_bytes().get(self.cursor());
            if !fits {
                put(b"\x07", out);
            } else if candidates.is_whole() && follows != Some(&b' ') {
                // At the very end of the room there is none after it.
                self.line.insert(b" ");
            }
            // There is a choice: the next one lists it.
            self.tabbed = fits && candidates.count() > 1;
        } else if again {
            self.row.leave(out);
            candidates.list(words, text, self.row.width(), out);
        } else {
            self.tabbed = true;
            put(b"\x07", out);
        }
    }
}
