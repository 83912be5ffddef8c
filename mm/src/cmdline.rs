//! The command line: words, numbers and sizes, in Linux's syntax
//! (`lib/cmdline.c`, `kernel/params.c`). Calls nothing.

use core::fmt;

/// A part of the command line that makes no sense, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed<'a> {
    /// The part, as it was written.
    pub text: &'a str,
    /// What is wrong with it.
    pub why: &'static str,
}

impl fmt::Display for Malformed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\": {}", self.text.escape_debug(), self.why)
    }
}

impl core::error::Error for Malformed<'_> {}

/// One word of a command line: `name` or `name=value`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token<'a> {
    /// The word as it was written, quotes and all.
    pub text: &'a str,
    /// What stands before the first `=`.
    pub name: &'a str,
    /// What follows it, if there is one; without the quotes around it.
    pub value: Option<&'a str>,
}

impl<'a> Token<'a> {
    fn new(text: &'a str) -> Self {
        // Quotes may stand around the word or around its value.
        let word = unquote(text);
        match word.split_once('=') {
            Some((name, value)) => Self { text, name, value: Some(unquote(value)) },
            None => Self { text, name: word, value: None },
        }
    }

    /// Whether the name is `name`, `-` and `_` being the same.
    pub fn is(&self, name: &str) -> bool {
        let same = |b: u8| if b == b'-' { b'_' } else { b };
        self.name.bytes().map(same).eq(name.bytes().map(same))
    }

    /// The value.
    ///
    /// # Errors
    /// When there is none.
    pub fn value(&self) -> Result<&'a str, Malformed<'a>> {
        self.value.ok_or(self.malformed("needs a value"))
    }

    /// The value as an amount of bytes, see [`parse_size`].
    ///
    /// # Errors
    /// When there is no value or it is not a size.
    pub fn size(&self) -> Result<u64, Malformed<'a>> {
        parse_size(self.value()?).map_err(|e| self.malformed(e.why))
    }

    /// The value as a number, see [`parse_number`].
    ///
    /// # Errors
    /// When there is no value or it is not a number.
    pub fn number(&self) -> Result<u64, Malformed<'a>> {
        parse_number(self.value()?).map_err(|e| self.malformed(e.why))
    }

    /// The value as a switch: `1 y t on` or `0 n f off`, where only the first
    /// letter (of `on` and `off`, the second) counts and case does not.
    ///
    /// # Errors
    /// When there is no value or it is none of these.
    pub fn switch(&self) -> Result<bool, Malformed<'a>> {
        match self.value()?.as_bytes() {
            [b'1' | b'y' | b'Y' | b't' | b'T', ..] | [b'o' | b'O', b'n' | b'N', ..] => Ok(true),
            [b'0' | b'n' | b'N' | b'f' | b'F', ..] | [b'o' | b'O', b'f' | b'F', ..] => Ok(false),
            _ => Err(self.malformed("neither on nor off")),
        }
    }

    /// The whole word, called malformed.
    pub const fn malformed(&self, why: &'static str) -> Malformed<'a> {
        Malformed { text: self.text, why }
    }
}

/// `text` without a pair of quotes around it.
fn unquote(text: &str) -> &str {
    text.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')).unwrap_or(text)
}

/// The words of a command line, in order. Blanks inside double quotes do not
/// divide. `--` ends the line: what follows is not for the kernel.
pub fn tokens(line: &str) -> Tokens<'_> {
    Tokens { rest: line }
}

/// Iterator over the words of a command line, see [`tokens`].
#[derive(Clone, Debug)]
pub struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Result<Token<'a>, Malformed<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let blank = |c: char| c.is_ascii_whitespace() || c == '\0';
        let line = self.rest.trim_start_matches(blank);
        let mut quoted = false;
        let end = line.find(|c: char| {
            quoted ^= c == '"';
            blank(c) && !quoted
        });
        let (text, rest) = line.split_at(end.unwrap_or(line.len()));
        self.rest = rest;
        if text.is_empty() || text == "--" {
            self.rest = "";
            return None;
        }
        if quoted {
            return Some(Err(Malformed { text, why: "a quote is not closed" }));
        }
        Some(Ok(Token::new(text)))
    }
}

/// A number, decimal or with `0x` hexadecimal, and nothing else.
///
/// # Errors
/// [`Malformed`] with `text`.
pub fn parse_number(text: &str) -> Result<u64, Malformed<'_>> {
    match take_number(text)? {
        (number, "") => Ok(number),
        _ => Err(Malformed { text, why: "not a number" }),
    }
}

/// An amount of bytes: a number, perhaps with one of `K M G T P E` (powers of
/// 1024, either case), and nothing else.
///
/// # Errors
/// [`Malformed`] with `text`.
pub fn parse_size(text: &str) -> Result<u64, Malformed<'_>> {
    match take_size(text)? {
        (size, "") => Ok(size),
        _ => Err(Malformed { text, why: "not a size" }),
    }
}

/// The amount of bytes that `text` begins with, and what follows it.
///
/// # Errors
/// [`Malformed`] with `text`.
pub fn take_size(text: &str) -> Result<(u64, &str), Malformed<'_>> {
    let (number, rest) = take_number(text)?;
    let shift = match rest.bytes().next().map(|b| b.to_ascii_uppercase()) {
        Some(b'K') => 10,
        Some(b'M') => 20,
        Some(b'G') => 30,
        Some(b'T') => 40,
        Some(b'P') => 50,
        Some(b'E') => 60,
        _ => return Ok((number, rest)),
    };
    let too_large = Malformed { text, why: "too large" };
    let size = number.checked_mul(1 << shift).ok_or(too_large)?;
    Ok((size, &rest[1..]))
}

fn take_number(text: &str) -> Result<(u64, &str), Malformed<'_>> {
    let hex = text.strip_prefix("0x").or(text.strip_prefix("0X"));
    // In `0x` alone the number is 0, and `x` follows it.
    let hex = hex.filter(|digits| digits.starts_with(|c: char| c.is_ascii_hexdigit()));
    let (digits, radix) = hex.map_or((text, 10), |digits| (digits, 16));
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if digits.is_empty() {
        return Err(Malformed { text, why: "no number" });
    }
    let number = u64::from_str_radix(digits, radix);
    number.map(|n| (n, rest)).map_err(|_| Malformed { text, why: "too large" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use std::vec::Vec;

    fn words(line: &str) -> Vec<(&str, Option<&str>)> {
        tokens(line).map(|t| t.map(|t| (t.name, t.value)).unwrap_or(("?", None))).collect()
    }

    #[test]
    fn words_and_quotes() {
        assert_eq!(words(""), []);
        assert_eq!(words(" \t\n"), []);
        assert_eq!(words("a  b=1\tc=\n"), [("a", None), ("b", Some("1")), ("c", Some(""))]);
        assert_eq!(words("a=\"x y\" b"), [("a", Some("x y")), ("b", None)]);
        assert_eq!(words("\"a=x y\" b"), [("a", Some("x y")), ("b", None)]);
        assert_eq!(words("a=b=c =d"), [("a", Some("b=c")), ("", Some("d"))]);
        assert_eq!(words("a=\"\" x\"y z\"=1"), [("a", Some("")), ("x\"y z\"", Some("1"))]);
        assert_eq!(words("a -- b"), [("a", None)]);
        assert_eq!(words("a \"b c"), [("a", None), ("?", None)]);
        let error = tokens("x=\"1\t2").next().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "\"x=\\\"1\\t2\": a quote is not closed");
    }

    #[test]
    fn numbers_and_sizes() {
        for (text, size) in [
            ("0", 0),
            ("64", 64),
            ("064", 64),
            ("0x40", 64),
            ("0XfF", 255),
            ("1k", 1 << 10),
            ("1K", 1 << 10),
            ("0x10M", 16 << 20),
            ("3G", 3 << 30),
            ("2t", 2 << 40),
            ("1P", 1 << 50),
            ("15E", 15 << 60),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in ["", "K", "x", "0x", "-1", "+1", "1KK", "1M ", " 1", "1.5G", "16E", "0xg"] {
            assert_eq!(parse_size(text).unwrap_err().text, text);
            assert_eq!(parse_number(text).unwrap_err().text, text);
        }
        assert_eq!(parse_size("18446744073709551616").unwrap_err().why, "too large");
        assert_eq!(parse_number("1K").unwrap_err().why, "not a number");
        assert_eq!(take_size("16M@0x1000"), Ok((16 << 20, "@0x1000")));
        // A hexadecimal digit is not a suffix.
        assert_eq!(take_size("0x1E"), Ok((30, "")));
    }

    #[test]
    fn switches() {
        let switch = |text| tokens(text).next().unwrap().unwrap().switch();
        for on in ["a=1", "a=y", "a=Yes", "a=on", "a=ON", "a=true"] {
            assert_eq!(switch(on), Ok(true), "{on}");
        }
        for off in ["a=0", "a=n", "a=No", "a=off", "a=OFF", "a=false"] {
            assert_eq!(switch(off), Ok(false), "{off}");
        }
        for bad in ["a", "a=", "a=o", "a=maybe", "a=2"] {
            assert_eq!(switch(bad).unwrap_err().text, bad);
        }
        assert!(tokens("init-on-alloc=1").next().unwrap().unwrap().is("init_on_alloc"));
        assert!(!tokens("init-on-allo").next().unwrap().unwrap().is("init_on_alloc"));
    }
}
