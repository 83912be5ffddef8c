//! Whether a script said the same in a kernel as here: both texts line by line,
//! with what may differ from machine to machine masked. Pure.
//!
//! Frames and addresses differ, and so do amounts of free memory: a real kernel
//! has other things in memory than a simulated one. What kinds of things happen,
//! in which order, and with what result, does not.

use std::fmt;

/// A line that is not the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Its number in the script's output, from 1 on.
    pub line: usize,
    /// What was said here; None: nothing more.
    pub here: Option<String>,
    /// What the kernel said.
    pub kernel: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = "(nothing more)";
        writeln!(f, "line {} of the output differs", self.line)?;
        writeln!(f, "  here:   {}", self.here.as_deref().unwrap_or(end))?;
        write!(f, "  kernel: {}", self.kernel.as_deref().unwrap_or(end))
    }
}

/// What a kernel's console log has of the script called `name`: the lines after
/// `lab: NAME`, the verdict the last of them. Lines of the kernel's own log,
/// which have time stamps, are left out. None if the script has not run.
pub fn section(log: &str, name: &str) -> Option<String> {
    let mut lines = log.lines().map(|line| line.trim_end_matches('\r'));
    lines.find(|line| line.strip_prefix("lab: ") == Some(name))?;
    let mut text = String::new();
    for line in lines.filter(|line| !is_stamped(line)) {
        text.push_str(line);
        text.push('\n');
        if is_verdict(line) {
            break;
        }
    }
    Some(text)
}

/// The first line that differs, if one does.
pub fn compare(here: &str, kernel: &str) -> Option<Difference> {
    let (mut here, mut kernel) = (here.lines(), kernel.lines());
    for line in 1.. {
        let (a, b) = (here.next(), kernel.next());
        if a.is_none() && b.is_none() {
            break;
        }
        if a.map(mask) != b.map(mask) {
            let [here, kernel] = [a, b].map(|line| line.map(str::to_owned));
            return Some(Difference { line, here, kernel });
        }
    }
    None
}

fn is_verdict(line: &str) -> bool {
    line.starts_with("lab: ok, ") || line.starts_with("lab: FAILED at line ")
}

/// Whether a line begins with a time stamp, as `[    1.234567] `.
fn is_stamped(line: &str) -> bool {
    let stamp = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    stamp.is_some_and(|(time, _)| {
        let time = time.trim_start();
        time.contains('.') && time.bytes().all(|b| b.is_ascii_digit() || b == b'.')
    })
}

/// Lines of which small numbers are the same everywhere, and those among them
/// that are not so: notes, and what was found to do.
const EXACT: [&str; 6] = ["-> ", "expect", "error: ", "lab: ", "+ ", "machine: "];
const FOUND: [&str; 4] = ["-> $", "-> drain: ", "-> compact: ", "-> shrink: "];

/// A line with what may differ taken out: addresses and frames, large numbers,
/// and, where a file or a fact is shown, all numbers and how they are aligned.
fn mask(line: &str) -> String {
    let begins = |with: &[&str]| with.iter().any(|start| line.starts_with(start));
    let exact = begins(&EXACT) && !begins(&FOUND);
    let mut masked = String::new();
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let len = number(rest);
        if len > 0 {
            let number = &rest[..len];
            let same = exact && number.len() < 3 && !number.starts_with("0x");
            masked.push_str(if same { number } else { "N" });
            rest = &rest[len..];
        } else {
            if !(c == ' ' && !exact && masked.ends_with(' ')) {
                masked.push(c);
            }
            rest = &rest[c.len_utf8()..];
        }
    }
    masked
}

/// Bytes of the number that `text` begins with; 0 if it begins with none.
fn number(text: &str) -> usize {
    if let Some(hex) = text.strip_prefix("0x") {
        let digits = hex.bytes().take_while(u8::is_ascii_hexdigit).count();
        return if digits > 0 { 2 + digits } else { 1 };
    }
    text.bytes().take_while(u8::is_ascii_digit).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_found_among_others() {
        let log = "[    1.000000] lab: b\nlab: a\r\n-> x: 1\r\nlab: ok, 1 commands\r\n\
                   lab: b\r\n[    2.000000] warning: low\r\n[mem 0x0]\r\nlab: FAILED at line 2\r\nrest";
        assert_eq!(section(log, "a").unwrap(), "-> x: 1\nlab: ok, 1 commands\n");
        assert_eq!(section(log, "b").unwrap(), "[mem 0x0]\nlab: FAILED at line 2\n");
        assert_eq!(section(log, "c"), None);
        assert_eq!(section(log, "ok, 1 commands").unwrap().lines().count(), 3);
    }

    #[test]
    fn addresses_and_amounts_may_differ() {
        for (here, kernel) in [
            ("-> a: 5 x order 3, pfn 0x1420 zone DMA32", "-> a: 5 x order 3, pfn 0x9 zone DMA32"),
            ("-> a: 24310 x order 0", "-> a: 24299 x order 0"),
            ("audit: ok (130942 pages, 21523 checks)", "audit: ok (130942 pages, 1 checks)"),
            ("Node 0, zone  DMA      1      0", "Node 0, zone  DMA  130    170"),
            ("vmstat.nr_free_pages is 12", "vmstat.nr_free_pages is 4"),
            ("-> $stalls = 0", "-> $stalls = 17"),
            ("-> drain: 3 pages", "-> drain: 0 pages"),
        ] {
            assert_eq!(compare(here, kernel), None, "{here}");
        }
    }

    #[test]
    fn everything_else_may_not() {
        for (here, kernel) in [
            ("-> a: 5 x order 3", "-> a: 4 x order 3"),
            ("-> a: 5 x order 3, zone DMA32", "-> a: 5 x order 3, zone DMA"),
            ("expect: ok", "expect: FAILED: x is 1"),
            ("error: ENOMEM: no", "error: EBUSY: no"),
            ("Node 0, zone DMA 1 2", "Node 0, zone DMA 1 2 3"),
            ("lab: ok, 12 commands", "lab: ok, 13 commands"),
        ] {
            assert!(compare(here, kernel).is_some(), "{here}");
        }
        let missing = compare("a\nb\n", "a\n").unwrap();
        assert_eq!((missing.line, missing.here.as_deref()), (2, Some("b")));
        assert_eq!(missing.kernel, None);
        assert!(missing.to_string().contains("kernel: (nothing more)"));
        assert!(compare("a\n", "a\nb\n").is_some());
    }
}
