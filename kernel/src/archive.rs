//! The boot image's ramdisk: a text archive of named sections, each of which
//! begins with a line `=== name` and reaches to the next such line. Pure.

/// What introduces a section, at the start of a line.
const HEADER: &[u8] = b"=== ";

/// The body of the first section called `name`, without its header line.
///
/// The bytes come from a disk that anybody may have edited; a line may end in
/// `\r\n`, and what stands before the first header belongs to no section.
pub fn section<'a>(archive: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut at = 0;
    while at < archive.len() {
        let line = line_at(archive, at);
        let body = at + line.len();
        if header_name(line) == Some(name.as_bytes()) {
            let end = next_header(archive, body);
            return archive.get(body..end);
        }
        at = body;
    }
    None
}

/// The line that begins at `at`, its line end included.
fn line_at(text: &[u8], at: usize) -> &[u8] {
    let rest = &text[at..];
    let len = rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |end| end + 1);
    &rest[..len]
}

fn header_name(line: &[u8]) -> Option<&[u8]> {
    line.strip_prefix(HEADER).map(<[u8]>::trim_ascii)
}

fn next_header(archive: &[u8], mut at: usize) -> usize {
    while at < archive.len() {
        let line = line_at(archive, at);
        if line.starts_with(HEADER) {
            break;
        }
        at += line.len();
    }
    at
}

/// The first line of a section that holds one line of text, without the blanks
/// around it. What is not UTF-8 is cut off from where it begins.
pub fn one_line(body: &[u8]) -> &str {
    let line = if body.is_empty() { body } else { line_at(body, 0) }.trim_ascii();
    match core::str::from_utf8(line) {
        Ok(text) => text,
        Err(bad) => core::str::from_utf8(&line[..bad.valid_up_to()]).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"junk\n=== cmdline\nexit cma=16M \n=== symbols\n10 a\n20 b\n=== empty\n";

    #[test]
    fn sections_are_found_by_name() {
        assert_eq!(section(TEXT, "cmdline"), Some(&b"exit cma=16M \n"[..]));
        assert_eq!(section(TEXT, "symbols"), Some(&b"10 a\n20 b\n"[..]));
        assert_eq!(section(TEXT, "empty"), Some(&b""[..]));
        assert_eq!(section(TEXT, "cmd"), None);
        assert_eq!(section(TEXT, "junk"), None);
        assert_eq!(section(b"", "cmdline"), None);
    }

    #[test]
    fn headers_count_only_at_line_starts() {
        let text = b"=== a\nx === b\n=== b\r\ny\r\n";
        assert_eq!(section(text, "a"), Some(&b"x === b\n"[..]));
        assert_eq!(section(text, "b"), Some(&b"y\r\n"[..]));
        assert_eq!(section(b"=== last", "last"), Some(&b""[..]));
    }

    #[test]
    fn one_line_is_trimmed_and_valid() {
        assert_eq!(one_line(section(TEXT, "cmdline").unwrap()), "exit cma=16M");
        assert_eq!(one_line(b""), "");
        assert_eq!(one_line(b"  a b\r\nc\n"), "a b");
        assert_eq!(one_line(b"ok\xff\xfe rest\n"), "ok");
    }
}
