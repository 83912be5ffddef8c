//! The boot image's ramdisk: a text archive of named sections, each of which
//! begins with a line `=== name` and reaches to the next such line. Pure.
//!
//! Anybody may have edited it, on any system and with any editor: a line may end
//! in `\r\n`, the text may begin with UTF-8's byte order mark, and any bytes at
//! all may stand anywhere.

/// What introduces a section, at the start of a line.
const HEADER: &[u8] = b"=== ";

/// What some editors put before UTF-8 text.
const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// The sections in order: name and body, without header lines. What stands
/// before the first header belongs to no section.
pub fn sections(archive: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut at = next_header(archive, 0);
    core::iter::from_fn(move || {
        let line = line_at(archive, at);
        let name = header_name(archive, at)?;
        let body = at + line.len();
        at = next_header(archive, body);
        Some((name, archive.get(body..at)?))
    })
}

/// The body of the first section called `name`, without its header line.
pub fn section<'a>(archive: &'a [u8], name: &str) -> Option<&'a [u8]> {
    sections(archive).find(|found| found.0 == name.as_bytes()).map(|found| found.1)
}

/// Whether an editor has made UTF-16 of the archive, which is then no text that
/// could be read here.
pub fn is_utf16(archive: &[u8]) -> bool {
    archive.starts_with(b"\xff\xfe") || archive.starts_with(b"\xfe\xff")
}

/// The line that begins at `at`, its line end included; empty at the end.
fn line_at(text: &[u8], at: usize) -> &[u8] {
    let rest = text.get(at..).unwrap_or_default();
    let len = rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |end| end + 1);
    &rest[..len]
}

/// The name in the header that begins at `at`.
fn header_name(archive: &[u8], at: usize) -> Option<&[u8]> {
    let line = line_at(archive, at);
    let line = if at == 0 { line.strip_prefix(UTF8_MARK).unwrap_or(line) } else { line };
    line.strip_prefix(HEADER).map(<[u8]>::trim_ascii)
}

/// Where the next header begins, from the line at `at` on; else the end.
fn next_header(archive: &[u8], mut at: usize) -> usize {
    while at < archive.len() && header_name(archive, at).is_none() {
        at += line_at(archive, at).len();
    }
    at.min(archive.len())
}

/// What became of a text that was to be one line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Joined {
    /// Bytes written: valid UTF-8 without control characters.
    pub len: usize,
    /// There was more than there is room for.
    pub too_long: bool,
    /// Some bytes were not UTF-8; they were left out.
    pub not_utf8: bool,
}

/// Joins the lines of `body` with one space between them, without the blanks
/// around each, and without lines that are empty or begin with `#`, which is how
/// the command line's section is read. A control character becomes a space.
pub fn join_lines(body: &[u8], out: &mut [u8]) -> Joined {
    let mut joined = Joined { len: 0, too_long: false, not_utf8: false };
    let lines = body.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with(b"#")) {
        if joined.len > 0 && !joined.put(" ", out) {
            break;
        }
        for chunk in line.utf8_chunks() {
            joined.not_utf8 |= !chunk.invalid().is_empty();
            for character in chunk.valid().chars() {
                let shown = if character.is_control() { ' ' } else { character };
                if !joined.put(shown.encode_utf8(&mut [0; 4]), out) {
                    return joined;
                }
            }
        }
    }
    joined
}

impl Joined {
    fn put(&mut self, text: &str, out: &mut [u8]) -> bool {
        let place = out.get_mut(self.len..self.len + text.len());
        self.too_long = place.is_none();
        if let Some(place) = place {
            place.copy_from_slice(text.as_bytes());
            self.len += text.len();
        }
        !self.too_long
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &[u8] = b"junk\n=== cmdline\nexit cma=16M \n=== symbols\n10 a\n20 b\n=== empty\n";

    fn joined(body: &[u8]) -> String {
        let mut out = [0xff; 64];
        let len = join_lines(body, &mut out).len;
        String::from_utf8(out[..len].to_vec()).unwrap()
    }

    #[test]
    fn sections_are_found_by_name() {
        assert_eq!(section(TEXT, "cmdline"), Some(&b"exit cma=16M \n"[..]));
        assert_eq!(section(TEXT, "symbols"), Some(&b"10 a\n20 b\n"[..]));
        assert_eq!(section(TEXT, "empty"), Some(&b""[..]));
        assert_eq!(section(TEXT, "cmd"), None);
        assert_eq!(section(TEXT, "junk"), None);
        assert_eq!(section(b"", "cmdline"), None);
        let names: Vec<_> = sections(TEXT).map(|found| found.0).collect();
        assert_eq!(names, [&b"cmdline"[..], b"symbols", b"empty"]);
    }

    #[test]
    fn headers_count_only_at_line_starts() {
        let text = b"=== a\nx === b\n=== b\r\ny\r\n";
        assert_eq!(section(text, "a"), Some(&b"x === b\n"[..]));
        assert_eq!(section(text, "b"), Some(&b"y\r\n"[..]));
        assert_eq!(section(b"=== last", "last"), Some(&b""[..]));
    }

    #[test]
    fn what_notepad_writes_is_read() {
        let text = b"\xef\xbb\xbf=== cmdline\r\nselftest=full\r\n\r\n=== lab/a\r\nget x\r\n";
        assert_eq!(joined(section(text, "cmdline").unwrap()), "selftest=full");
        assert_eq!(section(text, "lab/a"), Some(&b"get x\r\n"[..]));
        assert!(!is_utf16(text));
        assert!(is_utf16(b"\xff\xfe=\0=\0=\0 \0") && is_utf16(b"\xfe\xff\0="));
        // Only before the text it is a mark.
        assert_eq!(section(b"x\n\xef\xbb\xbf=== a\n", "a"), None);
    }

    #[test]
    fn lines_are_joined_without_remarks() {
        assert_eq!(joined(section(TEXT, "cmdline").unwrap()), "exit cma=16M");
        assert_eq!(joined(b""), "");
        assert_eq!(joined(b"\r\n# a remark\r\n  a b\tc\r\n\n  exit  "), "a b c exit");
        assert_eq!(joined("a=é\n".as_bytes()), "a=é");
    }

    #[test]
    fn what_is_left_out_is_told() {
        let mut out = [0; 6];
        let told = |len, too_long, not_utf8| Joined { len, too_long, not_utf8 };
        assert_eq!(join_lines(b"ab\xff\xfecd\n", &mut out), told(4, false, true));
        assert_eq!(&out[..4], b"abcd");
        assert_eq!(join_lines(b"abcdef", &mut out), told(6, false, false));
        assert_eq!(join_lines(b"abcdefg", &mut out), told(6, true, false));
        // A character is kept whole or not at all.
        assert_eq!(join_lines("abcdeé".as_bytes(), &mut out), told(5, true, false));
        assert_eq!(join_lines(b"abcdef\ng", &mut out), told(6, true, false));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(
            bytes in prop::collection::vec(
                prop_oneof![any::<u8>(), Just(b'='), Just(b'\n'), Just(b' ')], 0..200),
            room in 0_usize..40,
        ) {
            let mut total = 0;
            for (name, body) in sections(&bytes) {
                total += name.len() + body.len();
                let mut out = vec![0; room];
                let joined = join_lines(body, &mut out);
                let text = std::str::from_utf8(&out[..joined.len]).unwrap();
                prop_assert!(!text.contains(char::is_control));
            }
            prop_assert!(total <= bytes.len());
        }
    }
}
