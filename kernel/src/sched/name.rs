//! A thread's name: short, and kept where the thread is. Pure.

use core::fmt;

/// Bytes of a name at most, as in Linux.
const LEN: usize = 16;

/// A name of at most 16 bytes; what is longer is cut off.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; LEN],
    len: u8,
}

impl Name {
    /// The name that `text` begins with.
    pub const fn new(text: &str) -> Self {
        let (mut name, text) = (Self { bytes: [0; LEN], len: 0 }, text.as_bytes());
        // A character is not cut in two.
        let mut len = if text.len() < LEN { text.len() } else { LEN };
        while len < text.len() && text[len] & 0xc0 == 0x80 {
            len -= 1;
        }
        let mut at = 0;
        while at < len {
            name.bytes[at] = text[at];
            at += 1;
        }
        name.len = len as u8;
        name
    }

    /// `text` with a number behind it, as in `kswapd0`.
    pub fn numbered(text: &str, number: u64) -> Self {
        let mut name = Self::new(text);
        // Too long a name is cut off, which is no failure.
        let _ = fmt::write(&mut name, format_args!("{number}"));
        name
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("?")
    }
}

impl fmt::Write for Name {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let start = usize::from(self.len);
            let Some(place) = self.bytes.get_mut(start..start + character.len_utf8()) else {
                return Err(fmt::Error);
            };
            character.encode_utf8(place);
            self.len += character.len_utf8() as u8;
        }
        Ok(())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_off_between_characters() {
        assert_eq!(Name::new("").as_str(), "");
        assert_eq!(Name::new("0123456789abcdef").as_str(), "0123456789abcdef");
        assert_eq!(Name::new("0123456789abcdefg").as_str(), "0123456789abcdef");
        assert_eq!(Name::new("0123456789abcdé").as_str(), "0123456789abcdé");
        assert_eq!(Name::new("0123456789abcdeé").as_str(), "0123456789abcde");
        assert_eq!(Name::numbered("kswapd", 15).as_str(), "kswapd15");
        assert_eq!(Name::numbered("0123456789abcde", 15).as_str(), "0123456789abcde1");
    }
}
