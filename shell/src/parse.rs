//! From bytes to words and from words to numbers, options and indices. Calls
//! nothing.

use crate::errno::{Errno, Error};

/// Most bytes of a line.
pub const LINE_MAX: usize = 1024;
/// Most words of a line.
pub const WORDS_MAX: usize = 32;

/// The text of a line: without what ends it and without its comment.
///
/// # Errors
/// E2BIG for a line that is too long; EINVAL for what is not text.
pub(crate) fn text(line: &[u8]) -> Result<&str, Error> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > LINE_MAX {
        return Err(Error::new(Errno::E2BIG, "a line has 1024 bytes at most"));
    }
    let Ok(text) = core::str::from_utf8(line) else {
        return Err(Error::new(Errno::EINVAL, "not UTF-8"));
    };
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return Err(Error::new(Errno::EINVAL, "a control character"));
    }
    Ok(without_comment(text).trim())
}

/// A line without its comment: a `#` begins one where a word could begin.
pub fn without_comment(text: &str) -> &str {
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        if c == '#' && before.is_whitespace() {
            return &text[..at];
        }
        before = c;
    }
    text
}

/// The words of a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words<'a> {
    words: [&'a str; WORDS_MAX],
    len: usize,
}

impl<'a> Words<'a> {
    /// # Errors
    /// E2BIG.
    pub(crate) fn split(text: &'a str) -> Result<Self, Error> {
        let mut words = Self { words: [""; WORDS_MAX], len: 0 };
        for word in text.split_whitespace() {
            let Some(place) = words.words.get_mut(words.len) else {
                return Err(Error::new(Errno::E2BIG, "a line has 32 words at most"));
            };
            *place = word;
            words.len += 1;
        }
        Ok(words)
    }

    pub(crate) fn as_slice(&self) -> &[&'a str] {
        &self.words[..self.len]
    }
}

/// A number: decimal or 0x, with K M G T after it if it is a size.
///
/// # Errors
/// EINVAL for what is no number, ERANGE for one above 64 bits.
pub(crate) fn number(word: &str) -> Result<u64, Error> {
    let bad = || Error::new(Errno::EINVAL, "not a number").about(word);
    let large = || Error::new(Errno::ERANGE, "a number above 64 bits").about(word);
    let (digits, shift) = match word.as_bytes().last() {
        Some(b'K' | b'k') => (&word[..word.len() - 1], 10),
        Some(b'M' | b'm') => (&word[..word.len() - 1], 20),
        Some(b'G' | b'g') => (&word[..word.len() - 1], 30),
        Some(b'T' | b't') => (&word[..word.len() - 1], 40),
        _ => (word, 0),
    };
    let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (digits, radix) = hex.map_or((digits, 10), |hex| (hex, 16));
    if digits.is_empty() {
        return Err(bad());
    }
    let mut value = 0u64;
    for c in digits.chars() {
        let digit = c.to_digit(radix).ok_or_else(bad)?;
        value = value
            .checked_mul(u64::from(radix))
            .and_then(|v| v.checked_add(u64::from(digit)))
            .ok_or_else(large)?;
    }
    value.checked_mul(1 << shift).ok_or_else(large)
}

/// A number that `T` can hold.
///
/// # Errors
/// As [`number`]; ERANGE where `T` is too small.
pub(crate) fn small<T: TryFrom<u64>>(word: &str) -> Result<T, Error> {
    T::try_from(number(word)?)
        .map_err(|_| Error::new(Errno::ERANGE, "a number out of range").about(word))
}

/// A number above 0.
///
/// # Errors
/// As [`number`]; EINVAL for 0.
pub(crate) fn count(word: &str) -> Result<u64, Error> {
    match number(word)? {
        0 => Err(Error::new(Errno::EINVAL, "none at all").about(word)),
        n => Ok(n),
    }
}

/// `NAME` or `NAME[INDEX]`.
///
/// # Errors
/// EINVAL for another form; as [`number`].
pub(crate) fn indexed(word: &str) -> Result<(&str, Option<u64>), Error> {
    let Some((name, rest)) = word.split_once('[') else { return Ok((word, None)) };
    let Some(index) = rest.strip_suffix(']') else {
        return Err(Error::new(Errno::EINVAL, "an index without its end").about(word));
    };
    Ok((name, Some(number(index)?)))
}

/// The words after a command's name, taken one after the other: what is left at
/// the end was not understood.
#[derive(Debug)]
pub(crate) struct Args<'a> {
    words: &'a [&'a str],
    taken: u32,
}

impl<'a> Args<'a> {
    /// `words` are 32 at most.
    pub(crate) fn new(words: &'a [&'a str]) -> Self {
        Self { words, taken: 0 }
    }

    fn take(&mut self, wanted: impl Fn(&'a str) -> bool) -> Option<&'a str> {
        let free = |i: &usize| self.taken & 1 << i == 0;
        let at = (0..self.words.len()).filter(free).find(|&i| wanted(self.words[i]))?;
        self.taken |= 1 << at;
        Some(self.words[at])
    }

    /// The next word that is no option.
    pub(crate) fn next(&mut self) -> Option<&'a str> {
        self.take(|word| !word.contains('='))
    }

    /// The next word that is no option.
    ///
    /// # Errors
    /// EINVAL with `missing` if there is none.
    pub(crate) fn need(&mut self, missing: &'static str) -> Result<&'a str, Error> {
        self.next().ok_or(Error::new(Errno::EINVAL, missing))
    }

    /// The value of the option `key=VALUE`.
    pub(crate) fn option(&mut self, key: &str) -> Option<&'a str> {
        let of = |word: &'a str| word.strip_prefix(key).and_then(|rest| rest.strip_prefix('='));
        self.take(|word| of(word).is_some()).and_then(of)
    }

    /// Whether the word `flag` is there.
    pub(crate) fn flag(&mut self, flag: &str) -> bool {
        self.take(|word| word == flag).is_some()
    }

    /// # Errors
    /// EINVAL if a word has not been taken.
    pub(crate) fn done(mut self) -> Result<(), Error> {
        match self.take(|_| true) {
            None => Ok(()),
            Some(word) => Err(Error::new(Errno::EINVAL, "not understood").about(word)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno<T: core::fmt::Debug>(result: Result<T, Error>) -> Errno {
        result.expect_err("no number").errno
    }

    #[test]
    fn numbers() {
        for (word, value) in [
            ("0", 0),
            ("4096", 4096),
            ("0x10", 16),
            ("0XfF", 255),
            ("4K", 4096),
            ("3m", 3 << 20),
            ("1G", 1 << 30),
            ("2T", 2 << 40),
            ("0x1K", 1024),
            ("18446744073709551615", u64::MAX),
            ("0xffffffffffffffff", u64::MAX),
        ] {
            assert_eq!(number(word), Ok(value), "{word}");
        }
        for word in ["", "K", "0x", "-1", "+1", "1.5", "12q", "0xg", "1KK", "\u{661}", "K\u{e4}"] {
            assert_eq!(errno(number(word)), Errno::EINVAL, "{word}");
        }
        for word in ["18446744073709551616", "0xffffffffffffffffff", "16777216T", "99999999T"] {
            assert_eq!(errno(number(word)), Errno::ERANGE, "{word}");
        }
        assert_eq!(errno(small::<u8>("256")), Errno::ERANGE);
        assert_eq!(errno(count("0")), Errno::EINVAL);
    }

    #[test]
    fn comments_begin_where_words_do() {
        assert_eq!(text(b"# all of it"), Ok(""));
        assert_eq!(text(b"audit # yes\r\n"), Ok("audit"));
        assert_eq!(text(b"cmdline memmap=64M#0x1000000"), Ok("cmdline memmap=64M#0x1000000"));
        assert_eq!(errno(text(b"a\x07b")), Errno::EINVAL);
        assert_eq!(errno(text(b"\xff")), Errno::EINVAL);
        assert_eq!(errno(text(&[b'a'; 10_000])), Errno::E2BIG);
    }

    #[test]
    fn what_is_left_was_not_understood() {
        let words = ["x", "count=3", "KERNEL", "count=4"];
        let mut args = Args::new(&words);
        assert_eq!(args.next(), Some("x"));
        assert_eq!(args.option("count"), Some("3"));
        assert_eq!(args.option("coun"), None);
        assert_eq!(args.next(), Some("KERNEL"));
        assert_eq!(errno(args.done()), Errno::EINVAL);
    }

    #[test]
    fn indices() {
        assert_eq!(indexed("a"), Ok(("a", None)));
        assert_eq!(indexed("a[7]"), Ok(("a", Some(7))));
        for word in ["a[", "a[]", "a[1", "a[x]", "a[1]x"] {
            assert_eq!(errno(indexed(word)), Errno::EINVAL, "{word}");
        }
    }
}
