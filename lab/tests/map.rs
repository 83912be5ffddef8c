//! `quarry-map` as a person runs it, on the awkward maps beside `mm`'s tests:
//! what it prints, its exit status, and how it takes wrong usage.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn quarry_map(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_quarry-map"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn maps() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mm/tests/maps");
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut maps: Vec<_> = files.filter(|p| p.extension().is_some_and(|e| e == "map")).collect();
    maps.sort();
    maps
}

/// The options that a map asks for in its second line.
fn options(text: &str) -> Vec<&str> {
    let line = text.lines().nth(1).and_then(|l| l.strip_prefix("# --"));
    line.map_or(Vec::new(), |_| text.lines().nth(1).unwrap()[2..].split(' ').collect())
}

#[test]
fn awkward_maps() {
    let maps = maps();
    assert!(maps.len() >= 40, "only {} maps", maps.len());
    for map in maps {
        let bytes = std::fs::read(&map).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let expected: String =
            text.lines().filter_map(|l| l.strip_prefix("> ")).map(|l| format!("{l}\n")).collect();
        let mut args = options(&text);
        args.push(map.to_str().unwrap());
        let output = quarry_map(&args, b"");
        let name = map.display();
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{name}");
        let status = if expected.contains("too little RAM") { 1 } else { 0 };
        assert_eq!(output.status.code(), Some(status), "{name}");
        assert!(output.stderr.is_empty(), "{name}");
        assert!(expected.lines().last().unwrap().starts_with("total: "), "{name}");
    }
}

#[test]
fn the_order_of_lines_does_not_matter() {
    for map in maps() {
        let bytes = std::fs::read(&map).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let mut args = options(&text);
        args.push("-");
        let mut lines: Vec<_> = bytes.split(|&b| b == b'\n').collect();
        lines.reverse();
        let straight = quarry_map(&args, &bytes);
        let reversed = quarry_map(&args, &lines.join(&b'\n'));
        // What is said of single lines has their numbers in it.
        let without_numbers = |output: &Output| -> Vec<String> {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().filter(|l| !l.starts_with("warning: line")).map(String::from).collect()
        };
        assert_eq!(without_numbers(&reversed), without_numbers(&straight), "{}", map.display());
        assert_eq!(reversed.status, straight.status);
    }
}

#[test]
fn wrong_usage() {
    for args in [&[][..], &["--phys-bits"], &["--phys-bits", "x", "-"], &["-", "-"], &["--no"]] {
        let output = quarry_map(args, b"");
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
    assert_eq!(quarry_map(&["/no/such/file"], b"").status.code(), Some(2));
    assert_eq!(quarry_map(&["--help"], b"").status.code(), Some(0));
}
