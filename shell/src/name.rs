//! Names that users give to groups and caches. Calls nothing.

use crate::errno::{Errno, Error};
use core::fmt;

/// Most bytes of a name.
pub const NAME_MAX: usize = 31;

/// A name: letters, digits, `_` and `-`, beginning with a letter or `_`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Name {
    len: u8,
    bytes: [u8; NAME_MAX],
}

/// The digits of a number.
pub(crate) fn decimal(number: u64, room: &mut [u8; 20]) -> &[u8] {
    let (mut at, mut rest) = (room.len(), number);
    loop {
        at -= 1;
        room[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            return &room[at..];
        }
    }
}

/// First words of facts, which a group of that name would hide.
const RESERVED: [&str; 16] = [
    "zone", "buddy", "blocks", "vmstat", "cache", "fault", "report", "host", "balloon", "plug",
    "bad", "zram", "lru", "swap", "oom", "frag",
];

impl Name {
    pub(crate) const NONE: Self = Self { len: 0, bytes: [0; NAME_MAX] };

    /// # Errors
    /// EINVAL for what is no name, or one that a fact begins with.
    pub(crate) fn new(word: &str) -> Result<Self, Error> {
        let node = word.strip_prefix("node").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
        if node || RESERVED.contains(&word) {
            return Err(Error::new(Errno::EINVAL, "facts begin with that name").about(word));
        }
        Self::of_part(word)
    }

    /// The name of a part of something that has a name.
    ///
    /// # Errors
    /// EINVAL for what is no name.
    pub(crate) fn of_part(word: &str) -> Result<Self, Error> {
        let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_';
        let bad = || Error::new(Errno::EINVAL, "not a name").about(word);
        let bytes = word.as_bytes();
        if !bytes.first().is_some_and(|&b| letter(b))
            || !bytes.iter().all(|&b| letter(b) || b.is_ascii_digit() || b == b'-')
        {
            return Err(bad());
        }
        if bytes.len() > NAME_MAX {
            return Err(Error::new(Errno::EINVAL, "a name has 31 letters at most").about(word));
        }
        let mut name = Self { len: bytes.len() as u8, ..Self::NONE };
        name.bytes[..bytes.len()].copy_from_slice(bytes);
        Ok(name)
    }

    /// A letter with a number after it.
    pub(crate) fn numbered(letter: char, number: u64) -> Self {
        let mut name = Self::NONE;
        let mut digits = [0; 20];
        let digits = decimal(number, &mut digits);
        name.bytes[0] = letter as u8;
        name.bytes[1..=digits.len()].copy_from_slice(digits);
        name.len = 1 + digits.len() as u8;
        name
    }

    pub(crate) fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("?")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}
