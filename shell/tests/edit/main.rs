//! The line editor by byte scripts: what the line becomes, and that the screen
//! shows it after each byte.

mod fuzz;
mod terminal;

use shell::edit::{Action, Complete, LINE_MAX};
use terminal::Session;

/// The line after `bytes` were typed.
fn line(bytes: &[u8]) -> String {
    Session::new(80, &()).send(bytes).line()
}

#[test]
fn keys_edit_the_line() {
    for (typed, expected) in [
        (&b"alloc a 0"[..], "alloc a 0^"),
        (b"ac\x1b[Db", "ab^c"),
        (b"abc\x01x", "x^abc"),
        (b"abc\x1b[H\x1b[Fx", "abcx^"),
        (b"abc\x1bOHx\x1bOFy", "xabcy^"),
        (b"abc\x1b[1~x\x1b[4~y", "xabcy^"),
        (b"abc\x7f\x08", "a^"),
        (b"\x7f\x7fa", "a^"),
        (b"abc\x01\x1b[3~", "^bc"),
        (b"abc\x01\x04", "^bc"),
        (b"abc\x1b[3~", "abc^"),
        (b"one two\x17", "one ^"),
        (b"one two  \x17\x17", "^"),
        (b"one two\x01\x1b[1;5C\x0b", "one^"),
        (b"one two\x1bb\x15", "^two"),
        (b"one two\x17\x01\x19 ", "two ^one "),
        (b"one two\x01\x1bd\x05\x19", " twoone^"),
        (b"one\x0b\x15\x0b\x15\x19", "one^"),
        (b"ab\x02\x02\x02\x06c", "ac^b"),
        (b"caf\xc3\xa9 x", "caf x^"),
        (b"a\x00\x1c\x1d\x1e\x1fb\x80\xff", "ab^"),
    ] {
        assert_eq!(line(typed), expected, "{typed:?}");
    }
}

#[test]
fn what_cannot_be_rings_the_bell() {
    assert_eq!(Session::new(80, &()).send("é".as_bytes()).terminal.bells, 1);
    assert_eq!(Session::new(80, &()).send(b"\x1b[A").terminal.bells, 1);
    assert_eq!(Session::new(80, &()).send(b"\x1b[B").terminal.bells, 1);
    assert_eq!(Session::new(80, &()).send(b"x\t").terminal.bells, 1);
}

#[test]
fn lines_end_in_many_ways() {
    let mut session = Session::new(80, &());
    session.send(b"one\rtwo\r\nthree\n\n");
    assert_eq!(session.entered, ["one", "two", "three", ""]);
    session.send(b"never\x03");
    assert_eq!((session.last, session.line()), (Action::Interrupt, "^".to_owned()));
    session.send(b"\x04");
    assert_eq!(session.last, Action::End);
    session.send(b"kept\x0c");
    assert_eq!((session.last, session.line()), (Action::Clear, "kept^".to_owned()));
    assert_eq!(session.terminal.rows(), ["quarry> kept"]);
    session.send(b"\r");
    assert_eq!(session.entered.last().unwrap(), "kept");
    assert_eq!(session.terminal.rows(), ["quarry> kept", "quarry>"]);
}

#[test]
fn an_interrupt_shows_itself() {
    let mut session = Session::new(80, &());
    session.send(b"abc\x02\x03");
    assert_eq!(session.terminal.rows(), ["quarry> abc^C", "quarry>"]);
}

#[test]
fn history_goes_up_and_down() {
    let mut session = Session::new(80, &());
    session.send(b"one\rtwo\rtwo\r\r  \rdraft");
    for (key, expected) in [
        (&b"\x1b[A"[..], "two^"),
        (b"\x10", "one^"),
        (b"\x1bOA", "one^"),
        (b"\x1b[B", "two^"),
        (b"\x0e", "draft^"),
        (b"\x1b[B", "draft^"),
        (b"\x10\x10 more", "one more^"),
        (b"\x0e\x0e", "draft^"),
        (b"\x10\x10\x7fly\r", "^"),
        (b"\x10", "only^"),
        (b"\x10", "two^"),
    ] {
        assert_eq!(session.send(key).line(), expected, "{key:?}");
    }
}

#[test]
fn a_line_beyond_the_width_is_scrolled() {
    let mut session = Session::new(40, &());
    let text: String = (0..100).map(|i| char::from(b'a' + i % 26)).collect();
    session.send(text.as_bytes());
    assert_eq!(session.editor.line(), text);
    for key in [&b"\x02"[..], b"\x06", b"\x01", b"\x05", b"\x1bb", b"\x7f"] {
        session.send(&key.repeat(60));
    }
    session.send(b"\x01\r");
    assert_eq!(session.entered.len(), 1);
    // Nothing ever wrapped: one row for the line, one for the next prompt.
    assert_eq!(session.terminal.rows().len(), 2);
}

#[test]
fn a_line_too_long_is_refused_whole() {
    let mut session = Session::new(80, &());
    session.send(&vec![b'x'; 10_000]);
    assert_eq!((session.editor.line().len(), session.terminal.bells), (LINE_MAX, 1));
    session.send(b"\x7f\r");
    assert_eq!((session.last, session.entered.len()), (Action::TooLong, 0));
    // One that fits exactly is taken, and giving one up forgets it.
    session.send(&vec![b'y'; LINE_MAX]).send(b"\r");
    assert_eq!((session.last, session.entered.len()), (Action::Enter, 1));
    session.send(&vec![b'z'; LINE_MAX + 1]).send(b"\x15ok\r");
    assert_eq!(session.entered[1], "ok");
    session.send(&vec![b'z'; LINE_MAX + 1]).send(b"\x10\r");
    assert_eq!(session.entered[2], "ok");
}

/// What is left of a line when bytes are left out may mean something else.
#[test]
fn a_line_with_foreign_bytes_is_refused() {
    for typed in [
        &b"free caf\xc3\xa9\r"[..],
        b"free caf\xe9\r",
        b"\xef\xbb\xbfaudit\r",
        b"au\x07dit\r",
        b"\xff\r",
        b"audit\x1a\x0c\x1b[5~\r",
    ] {
        let mut session = Session::new(80, &());
        session.send(typed);
        assert_eq!((session.last, session.entered.len()), (Action::Foreign, 0), "{typed:?}");
        // The next one is as good as any.
        session.send(b"audit\r");
        assert_eq!((session.last, session.entered.len()), (Action::Enter, 1), "{typed:?}");
        session.send(typed.trim_ascii_end()).send(b"\x15list\x13\x11\0\r");
        assert_eq!((session.last, session.entered.len()), (Action::Enter, 2), "{typed:?}");
    }
}

#[test]
fn pages_are_no_part_of_the_line() {
    let mut session = Session::new(80, &());
    session.send(b"audit\x1b[5~");
    assert_eq!((session.last, session.line()), (Action::PageUp, "audit^".to_owned()));
    session.send(b"\x1b[6~");
    assert_eq!((session.last, session.line()), (Action::PageDown, "audit^".to_owned()));
    session.send(b"\r");
    assert_eq!(session.entered, ["audit"]);
}

/// Words after certain others, as a shell would have them.
struct Words;

impl Complete for Words {
    fn words(&self, before: &str, word: &str, each: &mut dyn FnMut(&str)) {
        let words: &[&str] = match before {
            "" => &["alloc", "audit", "cache", "cat", "compact", "cma"],
            "cat " => &["/proc/buddyinfo", "/proc/meminfo"],
            "get " if word.starts_with("zone.") => &["zone.DMA", "zone.DMA32"],
            "get " => &["zone.", "buddy."],
            "free " => &["grp", "grp"],
            _ => &["ZERO", "HIGH", "\x1bevil"],
        };
        words.iter().for_each(|word| each(word));
    }
}

#[test]
fn tab_completes_what_is_clear() {
    for (typed, expected) in [
        (&b"al\t"[..], "alloc ^"),
        (b"co\t", "compact ^"),
        (b"a\t", "a^"),
        (b"c\t", "c^"),
        (b"ca\tt\t", "cat ^"),
        (b"cat /\t", "cat /proc/^"),
        (b"cat /proc/m\t", "cat /proc/meminfo ^"),
        (b"get z\t", "get zone.^"),
        (b"get z\tD\t", "get zone.DMA^"),
        (b"alloc x 0 KERNEL|Z\t", "alloc x 0 KERNEL|ZERO ^"),
        (b"alloc x 0 \t", "alloc x 0 ^"),
        (b"nothing\t", "nothing^"),
        // In the middle, the rest stays, and no second blank comes.
        (b"al x\x1bb\x02\t", "alloc^ x"),
        (b"alx\x02\t", "alloc ^x"),
        (b"cat\t", "cat ^"),
        (b"free g\t", "free grp ^"),
    ] {
        assert_eq!(Session::new(80, &Words).send(typed).line(), expected, "{typed:?}");
    }
}

#[test]
fn a_second_tab_lists() {
    let mut session = Session::new(80, &Words);
    session.send(b"a\t");
    assert_eq!(session.terminal.rows(), ["quarry> a"]);
    session.send(b"\t");
    assert_eq!(session.terminal.rows(), ["quarry> a", "alloc  audit", "quarry> a"]);
    // Another key in between begins anew.
    session.send(b"x\x7f\t");
    assert_eq!(session.terminal.rows().len(), 3);

    // So does one after what was clear has been added.
    let mut session = Session::new(80, &Words);
    session.send(b"co\x08\x08cat /\t");
    assert_eq!(session.terminal.rows(), ["quarry> cat /proc/"]);
    session.send(b"\t");
    assert_eq!(session.terminal.rows()[1], "/proc/buddyinfo  /proc/meminfo");

    let mut narrow = Session::new(24, &Words);
    narrow.send(b"\t\t");
    assert_eq!(
        narrow.terminal.rows(),
        ["quarry>", "alloc    audit", "cache    cat", "compact  cma", "quarry>"]
    );
}

#[test]
fn a_completion_that_does_not_fit_is_not_made() {
    let mut session = Session::new(80, &Words);
    session.send(b"al").send(&vec![b'#'; LINE_MAX - 4]).send(b"\x01\x06\x06\t");
    // There is room for two more characters.
    assert_eq!((session.editor.line().len(), session.terminal.bells), (LINE_MAX - 2, 1));
}
