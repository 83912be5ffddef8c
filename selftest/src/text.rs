//! A line of text with a fixed capacity. Calls nothing.

use core::fmt;

/// At most `N` bytes of text on one line (`N` at most 255); what does not fit
/// is cut off at a character border and marked with `~`. Line ends become
/// spaces, so that a message can never be taken for a line of the report.
#[derive(Clone, Copy)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: u8,
    cut: bool,
}

impl<const N: usize> Text<N> {
    /// No text.
    pub const fn new() -> Self {
        const { assert!(N <= u8::MAX as usize) };
        Self { bytes: [0; N], len: 0, cut: false }
    }

    /// The text that `args` formats to.
    pub fn format(args: fmt::Arguments<'_>) -> Self {
        let mut text = Self::new();
        // Writing here cannot fail; a failing Display leaves what it wrote.
        let _ = fmt::write(&mut text, args);
        text
    }

    /// The text so far, without the mark of a cut.
    pub fn as_str(&self) -> &str {
        // Only whole characters are ever stored.
        core::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("")
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for c in s.chars() {
            let c = if c.is_control() { ' ' } else { c };
            let len = usize::from(self.len);
            if self.cut || len + c.len_utf8() > N {
                self.cut = true;
                break;
            }
            self.len += c.encode_utf8(&mut self.bytes[len..]).len() as u8;
        }
        Ok(())
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        if self.cut { f.write_str("~") } else { Ok(()) }
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn long_text_is_cut_and_marked() {
        assert_eq!(Text::<8>::format(format_args!("12345678")).to_string(), "12345678");
        assert_eq!(Text::<8>::format(format_args!("123456789")).to_string(), "12345678~");
        // A character that would not fit whole stays out, and so does the rest.
        assert_eq!(Text::<4>::format(format_args!("abcé1")).to_string(), "abc~");
    }

    #[test]
    fn line_ends_become_spaces() {
        assert_eq!(Text::<16>::format(format_args!("a\r\nok 1 b")).to_string(), "a  ok 1 b");
    }
}
