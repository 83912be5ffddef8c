//! Whether a script said the same in a kernel as here: both texts line by line,
//! with what may differ from machine to machine masked. Pure.
//!
//! Frames and addresses differ, and what zone and pageblocks they are in, and so
//! do amounts of free memory, and with them how much a `fill` finds: a real kernel
//! has other things in memory than a simulated one. What kinds of things happen,
//! in which order, and with what result, does not.

use mm::proc::PAGEBLOCKS;
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

/// The first line that differs, if one does. `here` has each command before what
/// it printed.
pub fn compare(here: &str, kernel: &str) -> Option<Difference> {
    let mut kernel = without_snapshots(kernel).filter(|line| command(line).is_none());
    let mut fills = false;
    let mut number = 0;
    for line in without_snapshots(here) {
        if let Some(command) = command(line) {
            fills = FILLS.iter().any(|fill| command.starts_with(fill));
            continue;
        }
        number += 1;
        let said = kernel.next();
        if said.map(|said| mask(said, fills)) != Some(mask(line, fills)) {
            let here = Some(line.to_owned());
            return Some(Difference { line: number, here, kernel: said.map(str::to_owned) });
        }
    }
    let more = kernel.next()?.to_owned();
    Some(Difference { line: number + 1, here: None, kernel: Some(more) })
}

/// The command that a line shows.
fn command(line: &str) -> Option<&str> {
    line.strip_prefix("+ ")
}

/// The lines of a text but those of snapshots: other machines have other blocks.
fn without_snapshots(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter(move |line| match line.strip_prefix(PAGEBLOCKS) {
        Some(rest) => {
            inside = !rest.starts_with("end");
            false
        }
        None => !inside,
    })
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

/// Commands whose groups are as large as the machine lets them be.
const FILLS: [&str; 2] = ["fill ", "punch "];

/// Lines of which small numbers are the same everywhere, and those among them
/// that are not so: notes, and what was found to do.
const EXACT: [&str; 5] = ["-> ", "expect", "error: ", "lab: ", "machine: "];
const FOUND: [&str; 4] = ["-> $", "-> drain: ", "-> compact: ", "-> shrink: "];

/// A line with what may differ taken out: addresses and frames, large numbers,
/// and, where a file or a fact is shown, all numbers and how they are aligned.
/// Of what a `fill` has, all but its name and what it consists of.
fn mask(line: &str, fills: bool) -> String {
    if fills
        && let Some((name, group)) = line.split_once(": ")
        && let Some((_, group)) = group.split_once(" x ")
    {
        let (blocks, _) = group.split_once(',').unwrap_or((group, ""));
        return format!("{name}: N x {blocks}");
    }
    // Where it is; what it is comes after that.
    let place = line.find(", pfn 0x").filter(|_| line.starts_with("-> "));
    if let Some((at, from)) = place.zip(line.find(" type ")) {
        let after = line[from + " type ".len()..].split_once(' ').map_or("", |rest| rest.1);
        return mask(&format!("{} somewhere {after}", &line[..at]), false);
    }
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
    fn snapshots_may_differ() {
        let text = |blocks: &str| {
            format!("-> snapshot a\npageblocks: 512 pages each\n{blocks}pageblocks: end, x\nb\n")
        };
        assert_eq!(compare(&text("c\nd\n"), &text("e\n")), None);
        assert!(compare(&text("c\n"), &text("c\n").replace("\nb", "\nc")).is_some());
    }

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
            (
                "-> a: 5 x order 3, pfn 0x1420 zone DMA32 type CMA",
                "-> a: 5 x order 3, pfn 0x9 zone DMA type mixed",
            ),
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
            ("-> a: 5 x order 3, pfn 0x1 zone DMA type CMA", "-> a: 5 x order 3"),
            (
                "-> a: 5 x order 3, pfn 0x1 zone DMA type CMA",
                "-> a: 5 x order 3, pfn 0x1 zone DMA type CMA pfmemalloc",
            ),
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

    #[test]
    fn how_much_a_fill_finds_is_the_machines_affair() {
        let here = "+ fill rest NOWAIT order=9\n-> rest: 1 x order 9, pfn 0x16 zone DMA32\n";
        assert_eq!(compare(here, "-> rest: 0 x order 9\n"), None);
        assert_eq!(compare(here, "+ fill rest NOWAIT\n-> rest: 0 x order 9\n"), None);
        assert!(compare(here, "-> rest: 0 x order 8\n").is_some());
        assert!(compare(here, "-> test: 0 x order 9\n").is_some());
        assert!(compare(&here.replace("fill", "alloc"), "-> rest: 0 x order 9\n").is_some());
    }
}
