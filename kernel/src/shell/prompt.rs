//! The prompt: lines from the keyboard or the serial line to the interpreter.
//! Calls `console`, the editor in the crate `shell`.

use super::Shell;
use crate::console::{self, input};
use crate::take::Take;
use ::shell::edit::{Action, Editor};
use core::fmt;

static EDITOR: Take<Editor> = Take::new(Editor::new("quarry> "));

/// Bytes read at a time.
const AT_A_TIME: usize = 64;

/// Where the editor's bytes go.
struct Terminal;

impl fmt::Write for Terminal {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // The console puts the carriage return before a line feed itself.
        let text = if text == "\r\n" { "\n" } else { text };
        console::print(format_args!("{text}"));
        Ok(())
    }
}

impl Shell {
    /// Takes lines and runs them, for good.
    pub(crate) fn prompt(self) {
        let Some(editor) = EDITOR.take() else { return };
        console::print(format_args!("Type `help`; `poweroff` switches the machine off.\n"));
        let mut session = Session { shell: self, editor, broken: console::broken_lines() };
        session.begin();
        loop {
            let mut bytes = [0; AT_A_TIME];
            let len = input::read(&mut bytes, session.broken);
            session.show_again();
            for &byte in &bytes[..len] {
                if session.take(byte) {
                    // What was typed before the ^C is not meant any more.
                    break;
                }
            }
        }
    }
}

struct Session {
    shell: Shell,
    editor: &'static mut Editor,
    /// Lines that had been broken off when the line was shown last.
    broken: u32,
}

impl Session {
    fn begin(&mut self) {
        // What is broken off from here on shows in the next look.
        self.broken = console::broken_lines();
        console::set_edited(true);
        self.editor.begin(&mut Terminal);
    }

    /// Shows prompt and line again if others' lines have taken their place.
    fn show_again(&mut self) {
        let broken = console::broken_lines();
        if broken != self.broken {
            self.broken = broken;
            // A key's echo may have been on its way.
            console::erase_row();
            self.editor.redraw(&mut Terminal);
        }
    }

    /// Takes a byte, and runs the line if that was its end. True if a command
    /// was interrupted.
    fn take(&mut self, byte: u8) -> bool {
        self.show_again();
        let action = self.editor.feed(byte, &*self.shell.lab, &mut Terminal);
        // A command's line that is broken off is not shown again.
        let ends =
            !matches!(action, Action::More | Action::Clear | Action::PageUp | Action::PageDown);
        console::set_edited(!ends);
        match action {
            Action::More => return false,
            Action::PageUp | Action::PageDown => {
                console::look_back(action == Action::PageUp);
                return false;
            }
            Action::Clear => {
                console::clear();
                self.editor.redraw(&mut Terminal);
                return false;
            }
            Action::Enter => {
                // It may print lines, and a log line may come: it is safe.
                self.shell.lab.line(self.editor.line().as_bytes());
            }
            Action::TooLong => {
                console::print(format_args!("error: E2BIG: the line is too long\n"));
            }
            Action::Foreign => {
                let why = "neither control characters nor what is not ASCII";
                console::print(format_args!("error: EINVAL: a line has {why}\n"));
            }
            Action::End => {
                console::print(format_args!("`poweroff` or `reboot` leaves this machine\n"));
            }
            // A loop that was begun is not meant any more either.
            Action::Interrupt => self.shell.lab.abandon(),
        }
        let interrupted = input::take_interrupt();
        self.begin();
        interrupted
    }
}
