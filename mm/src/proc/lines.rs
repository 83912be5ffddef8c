//! Text in whole lines: what the files print goes out a line at a time, so that
//! nothing else comes in between, and a console is not asked for each number.
//! Calls nothing.

use core::fmt::{self, Write};

/// Bytes of a line that are held together; longer ones go out in pieces.
const HELD: usize = 256;

/// Hands lines on to `out`.
pub(super) struct Lines<'a> {
    out: &'a mut dyn Write,
    held: [u8; HELD],
    len: usize,
}

impl<'a> Lines<'a> {
    /// Nothing is held at first.
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self { out, held: [0; HELD], len: 0 }
    }

    /// Hands on what is left.
    ///
    /// # Errors
    /// What `out` fails with.
    pub(super) fn flush(&mut self) -> fmt::Result {
        let text = core::str::from_utf8(&self.held[..self.len]).map_err(|_| fmt::Error)?;
        self.len = 0;
        if text.is_empty() { Ok(()) } else { self.out.write_str(text) }
    }
}

impl Write for Lines<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive('\n') {
            if self.len + piece.len() > HELD {
                self.flush()?;
            }
            match self.held.get_mut(self.len..self.len + piece.len()) {
                Some(room) => {
                    room.copy_from_slice(piece.as_bytes());
                    self.len += piece.len();
                    if piece.ends_with('\n') {
                        self.flush()?;
                    }
                }
                None => self.out.write_str(piece)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::{String, ToString};
    use std::vec::Vec;

    struct Pieces(Vec<String>);

    impl Write for Pieces {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.push(text.to_string());
            Ok(())
        }
    }

    #[test]
    fn lines_go_out_whole() {
        let mut pieces = Pieces(Vec::new());
        let mut lines = Lines::new(&mut pieces);
        let long = "x".repeat(2 * HELD);
        let (one, last) = (1, "d");
        write!(lines, "a {one} b\nc\n{last}").expect("text");
        writeln!(lines, "é{long}").expect("text");
        write!(lines, "end").expect("text");
        lines.flush().expect("text");
        assert_eq!(pieces.0[..3], ["a 1 b\n", "c\n", "dé"]);
        assert_eq!(pieces.0[3..].concat(), [&long, "\nend"].concat());
    }
}
