//! `quarry-lab` as a person runs it: what it prints, its exit status, and how it
//! takes wrong usage.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn quarry_lab(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_quarry-lab"))
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

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn last(output: &Output) -> String {
    text(output).lines().last().unwrap_or_default().to_owned()
}

/// A file of this test's with that content.
fn file(name: &str, content: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, content).unwrap();
    path
}

#[test]
fn the_verdict_is_the_last_line_and_the_status() {
    let good = quarry_lab(&["-"], b"alloc a 0\nfree a\naudit\n");
    assert_eq!((last(&good).as_str(), good.status.code()), ("lab: ok, 3 commands", Some(0)));
    let trace = quarry_lab(&["--trace", "-"], b"alloc a 0\n");
    assert!(text(&trace).starts_with("+ alloc a 0\n-> a: 1 x order 0, "), "{}", text(&trace));
    for (script, line) in [
        (&b"alloc a 0\nexpect a.pages == 2\naudit\n"[..], 2),
        (b"\n# first\nfrobnicate\n", 3),
        (b"machine\nmem 0x0-0xffff usable\nend\naudit\n", 3),
        (b"machine\n", 2),
        (b"\xff\xfe\0", 1),
    ] {
        let bad = quarry_lab(&["-"], script);
        assert_eq!(last(&bad), format!("lab: FAILED at line {line}"), "{}", text(&bad));
        assert_eq!(bad.status.code(), Some(1));
    }
    let empty = quarry_lab(&["-"], b"");
    assert_eq!((last(&empty).as_str(), empty.status.code()), ("lab: ok, 0 commands", Some(0)));
}

/// The machine's log is the machine's, with time stamps as in the kernel.
#[test]
fn a_refusal_is_one_line() {
    let script = b"cache c size=64\nkalloc o c\ntick 1500\ndestroy c\n";
    let output = text(&quarry_lab(&["-"], script));
    let refusals: Vec<&str> = output.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(refusals, ["error: EBUSY: in use: 1 objects in use"]);
    assert!(output.contains("[    1.500000] error: slab: cache 'c' not destroyed"), "{output}");
}

/// Each has a machine of its own, and one that fails is not made good by another.
#[test]
fn several_scripts() {
    let good = file("good.lab", "alloc a 0\n");
    let bad = file("bad.lab", "free a\n");
    let (good, bad) = (good.to_str().unwrap(), bad.to_str().unwrap());
    let output = quarry_lab(&[good, bad, good], b"");
    let verdicts: Vec<String> =
        text(&output).lines().filter(|l| l.starts_with("lab: ")).map(str::to_owned).collect();
    assert_eq!(verdicts, ["lab: ok, 1 commands", "lab: FAILED at line 1", "lab: ok, 1 commands"]);
    assert_eq!(text(&output).lines().filter(|l| l.starts_with("# ")).count(), 3);
    assert_eq!(output.status.code(), Some(1));
}

/// What a kernel logs is the kernel's, with time stamps.
#[test]
fn compared_with_a_kernel() {
    let script = file("same.lab", "alloc a 2 KERNEL count=3\nfree a\n");
    let said = "lab: same\r\n-> a: 3 x order 2, pfn 0x1a2b4 zone DMA32 type Unmovable\r\n\
                [   12.345678] warning: low on something\r\nlab: ok, 2 commands\r\n";
    let log = file("same.log", said);
    let other = file("other.log", &said.replace("order 2", "order 3"));
    let none = file("none.log", "");
    let script = script.to_str().unwrap();
    for (log, status, word) in [(log, 0, ": the same"), (other, 1, "differs"), (none, 1, "not run")]
    {
        let output = quarry_lab(&["--compare", log.to_str().unwrap(), script], b"");
        assert_eq!(output.status.code(), Some(status), "{}", text(&output));
        assert!(text(&output).contains(word), "{}", text(&output));
    }
}

#[test]
fn wrong_usage_is_status_2() {
    for args in
        [&[][..], &["--gold", "-"], &["/nonexistent/x.lab"], &["--compare", "/nonexistent", "-"]]
    {
        let output = quarry_lab(args, b"");
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
    let help = quarry_lab(&["--help"], b"");
    assert!(help.status.success() && text(&help).contains("Usage: quarry-lab"));
}
