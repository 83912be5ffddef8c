//! Reading and writing the machine's report files, and `echo`. May call `mm`.

use crate::errno::{Errno, Error};
use crate::lab::{Done, Lab, Subject};
use crate::name::Name;
use crate::parse::{Args, LINE_MAX};
use crate::world::World;
use core::fmt::{self, Write};
use mm::proc::FileError;

/// How the line before a snapshot begins; its name follows.
pub const SNAPSHOT: &str = "-> snapshot ";
/// The file that it prints.
const CENSUS: &str = "/sys/kernel/debug/quarry/pageblocks";

/// Prints what is written to it, until the user has seen enough.
struct Printer<'a, W: World> {
    world: &'a mut W,
    quiet: bool,
    /// What was printed last does not end a line.
    in_line: bool,
}

impl<W: World> Write for Printer<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.world.interrupted() {
            return Err(fmt::Error);
        }
        if !self.quiet {
            self.world.print(format_args!("{text}"));
        }
        if !text.is_empty() {
            self.in_line = !text.ends_with('\n');
        }
        Ok(())
    }
}

/// The text of an `echo`: its words with a space between two.
struct Text {
    bytes: [u8; LINE_MAX],
    len: usize,
}

impl Text {
    fn of(words: &[&str]) -> Self {
        let mut text = Self { bytes: [0; LINE_MAX], len: 0 };
        for (i, word) in words.iter().enumerate() {
            // They come from one line: there is room.
            let _ = text.write_str(if i > 0 { " " } else { "" });
            let _ = text.write_str(word);
        }
        text
    }

    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or("")
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let place = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

/// What a file's refusal is to a user.
pub(super) fn error(why: FileError, path: &str) -> Error {
    match why {
        FileError::NotFound => Error::new(Errno::ENOENT, "no such file").about(path),
        FileError::NotPermitted => Error::new(Errno::EPERM, "not permitted").about(path),
        FileError::Invalid => Error::new(Errno::EINVAL, "the file does not take that").about(path),
        FileError::Busy => Error::new(Errno::EBUSY, "something stays").about(path),
        FileError::NoMemory => Error::new(Errno::ENOMEM, "out of memory").about(path),
        FileError::Stopped => Error::new(Errno::EINTR, "interrupted"),
    }
}

impl<W: World> Lab<W> {
    pub(super) fn cat(&mut self, mut args: Args<'_>) -> Done {
        let path = args.need("cat PATH")?;
        args.done()?;
        let on = self.subject()?;
        match self.print_file(on, path) {
            Err(FileError::NotFound) => match self.cat_zram(on, path) {
                Some(result) => Ok(result.map_err(|why| error(why, path))?),
                None => Ok(self.cat_foreign(path)?),
            },
            result => Ok(result.map_err(|why| error(why, path))?),
        }
    }

    /// Prints what is in each pageblock, under a name by which a picture of it
    /// can be asked for.
    pub(super) fn snapshot(&mut self, mut args: Args<'_>) -> Done {
        let name = Name::new(args.need("snapshot NAME")?)?;
        args.done()?;
        let on = self.subject()?;
        self.print(format_args!("{SNAPSHOT}{name}\n"));
        let result = self.print_file(on, CENSUS);
        Ok(result.map_err(|why| error(why, CENSUS))?)
    }

    /// Prints a file of `mm`'s.
    fn print_file(&mut self, on: Subject<W>, path: &str) -> Result<(), FileError> {
        self.print_text(|out| on.mm.proc_read(path, out))
    }

    /// Prints what `write` writes; if it is broken off, so is its last line.
    pub(super) fn print_text(
        &mut self,
        write: impl FnOnce(&mut dyn Write) -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        let mut printer = Printer { world: &mut self.world, quiet: self.quiet, in_line: false };
        let result = write(&mut printer);
        if result.is_err() && printer.in_line {
            self.print(format_args!("\n"));
        }
        result
    }

    /// A file of the world's, in pieces: while it writes, it cannot print.
    fn cat_foreign(&mut self, path: &str) -> Result<(), Error> {
        let mut from = 0;
        loop {
            let mut piece = Piece { skip: from, text: Text { bytes: [0; LINE_MAX], len: 0 } };
            let result = self.world.read_file(path, &mut piece);
            let len = piece.text.len;
            if len == 0 {
                // Nothing more, or nothing at all.
                let named = result.map_err(|why| why.about(path));
                return if from > 0 && piece.skip == 0 { Ok(()) } else { named };
            }
            self.go_on()?;
            self.print(format_args!("{}", piece.text.as_str()));
            if result.is_ok() {
                return Ok(());
            }
            from += len;
        }
    }

    pub(super) fn echo(&mut self, words: &[&str]) -> Done {
        let Some(at) = words.iter().position(|word| word.starts_with('>')) else {
            self.print(format_args!("{}\n", Text::of(words).as_str()));
            return Ok(());
        };
        let path = match words[at..] {
            [">", path] => path,
            [word] if word.len() > 1 => &word[1..],
            _ => return Err(Error::new(Errno::EINVAL, "echo VALUE > PATH").into()),
        };
        let text = Text::of(&words[..at]);
        let on = self.subject()?;
        match on.mm.proc_write(path, text.as_str()) {
            Err(FileError::NotFound) => match self.echo_zram(on, path, text.as_str()) {
                Some(result) => Ok(result?),
                None => {
                    let done = self.world.write_file(path, text.as_str());
                    Ok(done.map_err(|why| why.about(path))?)
                }
            },
            result => Ok(result.map_err(|why| error(why, path))?),
        }
    }
}

/// A part of a file: what comes after `skip` bytes, as much as has room.
struct Piece {
    skip: usize,
    text: Text,
}

impl Write for Piece {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let skip = self.skip.min(text.len());
        self.skip -= skip;
        let mut rest = &text[skip..];
        let room = LINE_MAX - self.text.len;
        if rest.len() > room {
            let cut = (0..=room).rev().find(|&i| rest.is_char_boundary(i)).unwrap_or(0);
            rest = &rest[..cut];
            self.text.write_str(rest)?;
            return Err(fmt::Error);
        }
        self.text.write_str(rest)
    }
}
