//! Rows of text that have left the screen, to be looked at again. Calls nothing.

/// Bytes that are kept: 600 rows of 160 columns.
const BYTES: usize = 96 * 1024;

/// The last rows that were there, each of the same length.
pub(super) struct Past {
    bytes: [u8; BYTES],
    /// Bytes of a row; 0: none is kept.
    stride: usize,
    /// Where the next one goes, in rows.
    next: usize,
    len: usize,
}

impl Past {
    /// None, and there is room for none.
    pub(super) const fn new() -> Self {
        Self { bytes: [0; BYTES], stride: 0, next: 0, len: 0 }
    }

    /// Forgets all; rows are `stride` bytes long from now on.
    pub(super) fn set_stride(&mut self, stride: usize) {
        (self.stride, self.next, self.len) = (stride, 0, 0);
    }

    /// Rows that are kept.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    fn room(&self) -> usize {
        BYTES.checked_div(self.stride).unwrap_or(0)
    }

    /// Keeps `row`; the oldest one goes if there is no room. A row that is not
    /// as long as rows are, is not kept.
    pub(super) fn push(&mut self, row: &[u8]) {
        let (room, at) = (self.room(), self.next * self.stride);
        if room == 0 || row.len() != self.stride {
            return;
        }
        self.bytes[at..at + self.stride].copy_from_slice(row);
        self.next = (self.next + 1) % room;
        self.len = (self.len + 1).min(room);
    }

    /// The row that left `back` rows ago; 1 is the last one.
    pub(super) fn row(&self, back: usize) -> Option<&[u8]> {
        if !(1..=self.len).contains(&back) {
            return None;
        }
        let at = (self.next + self.room() - back) % self.room() * self.stride;
        self.bytes.get(at..at + self.stride)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rows_are_kept() {
        let mut past = Box::new(Past::new());
        past.push(b"");
        assert_eq!((past.len(), past.row(1)), (0, None));
        past.set_stride(BYTES / 3);
        for byte in b'a'..=b'e' {
            past.push(&vec![byte; BYTES / 3]);
            past.push(b"too short");
        }
        assert_eq!(past.len(), 3);
        let first = |back| past.row(back).map(|row| char::from(row[0]));
        assert_eq!([0, 1, 2, 3, 4].map(first), [None, Some('e'), Some('d'), Some('c'), None]);
        past.set_stride(BYTES + 1);
        past.push(&vec![b'x'; BYTES + 1]);
        assert_eq!((past.len(), past.row(1)), (0, None));
    }
}
