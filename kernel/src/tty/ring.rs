//! The last bytes of a stream, each known by its position in the stream. Calls
//! nothing.

/// The last `N` bytes that were written. A reader keeps the position it has got
/// to; what was overwritten by then it is told.
#[derive(Debug)]
pub struct Ring<const N: usize> {
    bytes: [u8; N],
    end: u64,
}

impl<const N: usize> Ring<N> {
    /// Nothing was written.
    pub const fn new() -> Self {
        Self { bytes: [0; N], end: 0 }
    }

    /// Position after the last byte, which is how many were ever written.
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Position of the first byte that is still there.
    pub const fn start(&self) -> u64 {
        self.end.saturating_sub(N as u64)
    }

    /// Appends `bytes`.
    pub fn push(&mut self, bytes: &[u8]) {
        let skipped = bytes.len().saturating_sub(N);
        self.end += skipped as u64;
        for part in bytes[skipped..].chunks(N) {
            let at = (self.end % N as u64) as usize;
            let (before, after) = part.split_at(part.len().min(N - at));
            self.bytes[at..at + before.len()].copy_from_slice(before);
            self.bytes[..after.len()].copy_from_slice(after);
            self.end += part.len() as u64;
        }
    }

    /// Copies what follows position `from` into `into`, as much as there is room
    /// for. Returns how much that was, and the position from which on it really
    /// was: later than `from` if that had been overwritten.
    pub fn read(&self, from: u64, into: &mut [u8]) -> (usize, u64) {
        let from = from.clamp(self.start(), self.end);
        let len = into.len().min((self.end - from) as usize);
        let at = (from % N as u64) as usize;
        let before = len.min(N - at);
        into[..before].copy_from_slice(&self.bytes[at..at + before]);
        into[before..len].copy_from_slice(&self.bytes[..len - before]);
        (len, from)
    }

    /// Text that follows position `from`, as much as `into` has room for; if there
    /// is a line's end in that, up to the last one. Returns also the position to
    /// go on from, which is later than `from` unless that is the end. What is not
    /// UTF-8 is left out.
    pub fn text<'a>(&self, from: u64, into: &'a mut [u8]) -> (&'a str, u64) {
        let (len, from) = self.read(from, into);
        let newline = into[..len].iter().rposition(|&byte| byte == b'\n');
        let part = &into[..newline.map_or(len, |at| at + 1)];
        let (valid, left_out) = match core::str::from_utf8(part) {
            Ok(_) => (part.len(), 0),
            Err(error) => match (error.valid_up_to(), error.error_len()) {
                (valid, Some(bad)) => (valid, bad),
                // Cut off; as a whole it may come next time.
                (0, None) => (0, part.len()),
                (valid, None) => (valid, 0),
            },
        };
        let text = core::str::from_utf8(&part[..valid]).unwrap_or_default();
        (text, from + (valid + left_out) as u64)
    }

    /// Position of the first line that is there from its beginning, at or after
    /// `from`; the end if there is none.
    pub fn line_start(&self, from: u64) -> u64 {
        if from >= self.start() {
            return from.min(self.end);
        }
        let start = self.start();
        // The byte before the first is gone, so nobody knows whether that one
        // begins a line.
        let newline = (start..self.end).find(|&at| self.bytes[(at % N as u64) as usize] == b'\n');
        newline.map_or(self.end, |at| at + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<const N: usize>(ring: &Ring<N>, from: u64) -> (String, u64) {
        let mut into = [0; 64];
        let (len, at) = ring.read(from, &mut into);
        (String::from_utf8(into[..len].to_vec()).unwrap(), at)
    }

    #[test]
    fn readers_get_what_follows_their_position() {
        let mut ring = Ring::<8>::new();
        assert_eq!(text(&ring, 0), (String::new(), 0));
        ring.push(b"abc");
        assert_eq!(text(&ring, 0), ("abc".into(), 0));
        assert_eq!(text(&ring, 2), ("c".into(), 2));
        assert_eq!(text(&ring, 9), (String::new(), 3));
        ring.push(b"defgh");
        assert_eq!(text(&ring, 0), ("abcdefgh".into(), 0));
        ring.push(b"ij");
        assert_eq!(text(&ring, 0), ("cdefghij".into(), 2));
        assert_eq!(text(&ring, 7), ("hij".into(), 7));
        let mut short = [0; 3];
        assert_eq!(ring.read(5, &mut short), (3, 5));
        assert_eq!(&short, b"fgh");
    }

    #[test]
    fn more_than_fits_leaves_its_end() {
        let mut ring = Ring::<4>::new();
        ring.push(b"0123456789");
        assert_eq!((ring.start(), ring.end()), (6, 10));
        assert_eq!(text(&ring, 0), ("6789".into(), 6));
        ring.push(b"");
        ring.push(b"abcdefgh");
        assert_eq!(text(&ring, 12), ("efgh".into(), 14));
    }

    #[test]
    fn a_line_that_lost_its_beginning_is_passed_over() {
        let mut ring = Ring::<8>::new();
        ring.push(b"one\n");
        assert_eq!(ring.line_start(0), 0);
        ring.push(b"three\n");
        // "e\nthree\n" is there.
        assert_eq!(ring.line_start(0), 4);
        assert_eq!(ring.line_start(4), 4);
        ring.push(b"a line that has no end");
        assert_eq!(ring.line_start(0), ring.end());
    }

    #[test]
    fn text_comes_in_lines_where_there_are_some() {
        let mut ring = Ring::<64>::new();
        ring.push("one\ntwo\nthr\u{e9}e\n".as_bytes());
        ring.push(b"bad: \xff\xfe, cut off: \xc3");
        for size in [2, 3, 7, 64] {
            let (mut from, mut all) = (0, String::new());
            while from < ring.end() {
                let mut into = vec![0; size];
                let (text, next) = ring.text(from, &mut into);
                assert!(next > from, "{size} {from}");
                all.push_str(text);
                from = next;
            }
            assert_eq!(all, "one\ntwo\nthr\u{e9}e\nbad: , cut off: ", "{size}");
        }
        let mut into = [0; 10];
        assert_eq!(ring.text(0, &mut into), ("one\ntwo\n", 8));
        assert_eq!(ring.text(ring.end(), &mut into), ("", ring.end()));
    }

    /// Against a plain list, in pieces of all sizes.
    #[test]
    fn it_is_the_end_of_what_was_written() {
        let mut ring = Ring::<13>::new();
        let mut all = Vec::new();
        for round in 0..200_usize {
            let part: Vec<u8> =
                (0..round % 31).map(|at| b'a' + ((round + at) % 26) as u8).collect();
            ring.push(&part);
            all.extend(part);
            let start = all.len().saturating_sub(13);
            for from in start..=all.len() {
                assert_eq!(text(&ring, from as u64).0.as_bytes(), &all[from..]);
            }
        }
    }
}
