//! Lines that were entered before, in a ring of bytes: the oldest make room for
//! the newest. Calls nothing.

/// Bytes of all lines together, each with its end.
const ROOM: usize = 8192;

/// After each line; no line has one.
const END: u8 = b'\n';

/// The lines, the newest last.
#[derive(Debug)]
pub(super) struct History {
    bytes: [u8; ROOM],
    len: usize,
}

impl History {
    pub(super) const fn new() -> Self {
        Self { bytes: [0; ROOM], len: 0 }
    }

    /// Adds `line`, unless it is blank, as the newest one, or too long.
    pub(super) fn push(&mut self, line: &[u8]) {
        let repeated = self.get(0) == Some(line);
        if line.trim_ascii().is_empty() || repeated || line.len() >= ROOM {
            return;
        }
        while line.len() + 1 > ROOM - self.len {
            self.forget_oldest();
        }
        let rest = &mut self.bytes[self.len..];
        rest[..line.len()].copy_from_slice(line);
        rest[line.len()] = END;
        self.len += line.len() + 1;
    }

    fn forget_oldest(&mut self) {
        let used = &self.bytes[..self.len];
        let end = used.iter().position(|&byte| byte == END).map_or(self.len, |at| at + 1);
        self.bytes.copy_within(end..self.len, 0);
        self.len -= end;
    }

    /// The line `back` lines before the newest one.
    pub(super) fn get(&self, back: usize) -> Option<&[u8]> {
        let lines = self.bytes[..self.len].strip_suffix(&[END])?;
        lines.rsplit(|&byte| byte == END).nth(back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_newest_first() {
        let mut history = History::new();
        assert_eq!(history.get(0), None);
        for line in [&b"one"[..], b"two", b"two", b"", b"  ", b"one"] {
            history.push(line);
        }
        let lines = [0, 1, 2, 3].map(|back| history.get(back));
        assert_eq!(lines, [Some(&b"one"[..]), Some(b"two"), Some(b"one"), None]);
    }

    #[test]
    fn the_oldest_make_room() {
        let mut history = History::new();
        let line = |i: u8| [b'a' + i; 999];
        for i in 0..20 {
            history.push(&line(i));
        }
        let kept = (0..20).filter(|&back| history.get(back).is_some()).count();
        assert_eq!(kept, ROOM / 1000);
        for back in 0..kept {
            assert_eq!(history.get(back), Some(&line(19 - back as u8)[..]));
        }
        history.push(&[b'x'; ROOM]);
        assert_eq!(history.get(0), Some(&line(19)[..]), "what can never fit is left out");
        history.push(&[b'x'; ROOM - 1]);
        assert_eq!((history.get(0).map(<[u8]>::len), history.get(1)), (Some(ROOM - 1), None));
    }
}
