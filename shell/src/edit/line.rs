//! The line that is being edited: printable ASCII, a cursor, and what was cut
//! last. Calls nothing.

/// Characters of a line at most.
pub const LINE_MAX: usize = 1000;

/// Text of bounded length that is ASCII.
#[derive(Clone, Debug)]
pub(super) struct Text {
    bytes: [u8; LINE_MAX],
    len: usize,
}

impl Text {
    pub(super) const fn new() -> Self {
        Self { bytes: [0; LINE_MAX], len: 0 }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(super) fn as_str(&self) -> &str {
        // Only ASCII is ever put in.
        core::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Becomes `text`, or what of it there is room for.
    pub(super) fn set(&mut self, text: &[u8]) {
        self.len = text.len().min(LINE_MAX);
        self.bytes[..self.len].copy_from_slice(&text[..self.len]);
    }

    /// Puts `text` in at `at`, if there is room for all of it.
    fn insert(&mut self, at: usize, text: &[u8]) -> bool {
        if text.len() > LINE_MAX - self.len {
            return false;
        }
        self.bytes.copy_within(at..self.len, at + text.len());
        self.bytes[at..at + text.len()].copy_from_slice(text);
        self.len += text.len();
        true
    }

    /// Takes out what stands from `start` to `end`.
    fn remove(&mut self, start: usize, end: usize) {
        self.bytes.copy_within(end..self.len, start);
        self.len -= end - start;
    }
}

/// A line with its cursor.
#[derive(Debug)]
pub(super) struct Line {
    text: Text,
    cursor: usize,
    cut: Text,
}

impl Line {
    pub(super) const fn new() -> Self {
        Self { text: Text::new(), cursor: 0, cut: Text::new() }
    }

    pub(super) fn text(&self) -> &Text {
        &self.text
    }

    pub(super) fn cursor(&self) -> usize {
        self.cursor
    }

    /// Becomes `text`, the cursor after it.
    pub(super) fn set(&mut self, text: &[u8]) {
        self.text.set(text);
        self.cursor = self.text.len();
    }

    /// Puts `text`, which is printable ASCII, in at the cursor. False, and
    /// nothing changed, if there is no room for it.
    pub(super) fn insert(&mut self, text: &[u8]) -> bool {
        let fits = self.text.insert(self.cursor, text);
        if fits {
            self.cursor += text.len();
        }
        fits
    }

    /// Puts in what was cut last.
    pub(super) fn paste(&mut self) -> bool {
        let fits = self.text.insert(self.cursor, self.cut.as_bytes());
        if fits {
            self.cursor += self.cut.len();
        }
        fits
    }

    /// Moves the cursor, to the end at most.
    pub(super) fn move_to(&mut self, at: usize) {
        self.cursor = at.min(self.text.len());
    }

    /// Removes what stands between the cursor and `to`.
    pub(super) fn delete_to(&mut self, to: usize) {
        let to = to.min(self.text.len());
        let (start, end) = (to.min(self.cursor), to.max(self.cursor));
        self.text.remove(start, end);
        self.cursor = start;
    }

    /// As [`Line::delete_to`], to be pasted later. Cutting nothing keeps what
    /// was cut before.
    pub(super) fn cut_to(&mut self, to: usize) {
        let to = to.min(self.text.len());
        let (start, end) = (to.min(self.cursor), to.max(self.cursor));
        if start < end {
            self.cut.set(&self.text.as_bytes()[start..end]);
            self.delete_to(to);
        }
    }

    /// Where the word before the cursor begins.
    pub(super) fn word_left(&self) -> usize {
        let before = &self.text.as_bytes()[..self.cursor];
        let word_end = before.iter().rposition(|&byte| byte != b' ').map_or(0, |at| at + 1);
        before[..word_end].iter().rposition(|&byte| byte == b' ').map_or(0, |at| at + 1)
    }

    /// Where the word after the cursor ends.
    pub(super) fn word_right(&self) -> usize {
        let text = self.text.as_bytes();
        let from = |at: usize, wanted: fn(u8) -> bool| {
            text[at..].iter().position(|&byte| wanted(byte)).map_or(text.len(), |more| at + more)
        };
        from(from(self.cursor, |byte| byte != b' '), |byte| byte == b' ')
    }
}
