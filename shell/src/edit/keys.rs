//! From the bytes that a terminal sends to keys: control characters and the
//! escape sequences of arrows, Home, End and Delete as VT100, xterm, rxvt and
//! Linux's console send them. What is not known is swallowed whole, so that no
//! part of a sequence ends up in the line. Calls nothing.

/// What a key asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Key {
    /// A printable ASCII character.
    Char(u8),
    /// The line is done.
    Enter,
    /// Removes the character before the cursor.
    Backspace,
    /// Removes the character under the cursor.
    Delete,
    /// `^D`: as Delete, but the end of input on an empty line.
    EndOfInput,
    /// One character to the left.
    Left,
    /// One character to the right.
    Right,
    /// To the start of the word.
    WordLeft,
    /// Past the end of the word.
    WordRight,
    /// To the start of the line.
    Home,
    /// To the end of the line.
    End,
    /// The line before in the history.
    Up,
    /// The line after in the history.
    Down,
    /// Cuts to the end of the line.
    CutToEnd,
    /// Cuts to the start of the line.
    CutToStart,
    /// Cuts the word before the cursor.
    CutWord,
    /// Cuts the word after the cursor.
    CutWordRight,
    /// Puts back what was cut last.
    Paste,
    /// Asks for a completion.
    Tab,
    /// Clears the screen.
    Clear,
    /// Gives the line up.
    Interrupt,
    /// Looks further back at what has left the screen.
    PageUp,
    /// Less far.
    PageDown,
    /// Begins a character that is not ASCII, or is a control character without
    /// a meaning.
    Foreign,
}

impl Key {
    /// Whether it can change the line.
    pub(super) const fn edits(self) -> bool {
        !matches!(self, Self::Foreign | Self::Clear | Self::PageUp | Self::PageDown)
    }
}

/// Bytes of an escape sequence at most; what goes on longer is noise.
const LONGEST: u8 = 24;

/// Where in a sequence the last byte has led.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Ground,
    /// After a carriage return, whose line feed is part of it.
    AfterReturn,
    Escape,
    /// Inside `ESC [`: the first parameter, the last one, bytes so far.
    Sequence {
        first: u8,
        last: u8,
        len: u8,
    },
    /// After `ESC O`.
    Single,
    /// After `ESC [ [`, with which Linux's console begins its function keys.
    Function,
}

/// Takes bytes one by one and says which key they made.
#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
}

impl Decoder {
    pub(super) const fn new() -> Self {
        Self { state: State::Ground }
    }

    /// The key that `byte` completes, if it does and the key is known.
    pub(super) fn take(&mut self, byte: u8) -> Option<Key> {
        let state = core::mem::replace(&mut self.state, State::Ground);
        if state == State::AfterReturn && byte == b'\n' {
            return None;
        }
        match byte {
            // These end whatever had begun, and count.
            0x1b => {
                self.state = State::Escape;
                return None;
            }
            0..0x20 => return self.control(byte),
            0x7f if state != State::Escape => return Some(Key::Backspace),
            // No sequence has such bytes.
            0x80.. => return (byte >= 0xc0).then_some(Key::Foreign),
            _ => {}
        }
        match state {
            State::Ground | State::AfterReturn => Some(Key::Char(byte)),
            State::Escape => self.escape(byte),
            State::Single => final_of(byte, 0, 0),
            State::Function => None,
            State::Sequence { first, last, len } => self.sequence(byte, first, last, len),
        }
    }

    fn control(&mut self, byte: u8) -> Option<Key> {
        Some(match byte {
            b'\r' => {
                self.state = State::AfterReturn;
                Key::Enter
            }
            b'\n' => Key::Enter,
            b'\t' => Key::Tab,
            0x08 => Key::Backspace,
            // The letter that makes the control character.
            _ => match byte | 0x40 {
                b'A' => Key::Home,
                b'B' => Key::Left,
                b'C' => Key::Interrupt,
                b'D' => Key::EndOfInput,
                b'E' => Key::End,
                b'F' => Key::Right,
                b'K' => Key::CutToEnd,
                b'L' => Key::Clear,
                b'N' => Key::Down,
                b'P' => Key::Up,
                b'U' => Key::CutToStart,
                b'W' => Key::CutWord,
                b'Y' => Key::Paste,
                // Lines send them by themselves: breaks, and flow control.
                b'@' | b'Q' | b'S' => return None,
                _ => Key::Foreign,
            },
        })
    }

    fn escape(&mut self, byte: u8) -> Option<Key> {
        match byte {
            b'[' => self.state = State::Sequence { first: 0, last: 0, len: 0 },
            b'O' => self.state = State::Single,
            b'b' => return Some(Key::WordLeft),
            b'f' => return Some(Key::WordRight),
            b'd' => return Some(Key::CutWordRight),
            0x7f => return Some(Key::CutWord),
            _ => {}
        }
        None
    }

    fn sequence(&mut self, byte: u8, first: u8, last: u8, len: u8) -> Option<Key> {
        if len >= LONGEST {
            return None;
        }
        let (mut first, mut last) = (first, last);
        match byte {
            b'0'..=b'9' => last = last.saturating_mul(10).saturating_add(byte - b'0'),
            b';' => {
                // A second one overwrites what stood between: nobody asks for it.
                if first == 0 {
                    first = last.max(1);
                }
                last = 0;
            }
            b'[' if len == 0 => {
                self.state = State::Function;
                return None;
            }
            0x40..=0x7e => {
                return match first {
                    0 => final_of(byte, last, 0),
                    _ => final_of(byte, first, last),
                };
            }
            _ => {}
        }
        self.state = State::Sequence { first, last, len: len + 1 };
        None
    }
}

/// The key of a sequence that ends in `byte`, with its number and what was held
/// down meanwhile (5: Control, 3: Alt; rxvt gives these as the only number, or
/// by a small letter).
fn final_of(byte: u8, number: u8, held: u8) -> Option<Key> {
    let by_words = held == 5 || held == 3 || number == 5 || number == 3;
    Some(match byte {
        b'A' => Key::Up,
        b'B' => Key::Down,
        b'C' if by_words => Key::WordRight,
        b'D' if by_words => Key::WordLeft,
        b'C' => Key::Right,
        b'D' => Key::Left,
        b'c' => Key::WordRight,
        b'd' => Key::WordLeft,
        b'H' => Key::Home,
        b'F' => Key::End,
        b'M' => Key::Enter,
        b'~' => match number {
            1 | 7 => Key::Home,
            4 | 8 => Key::End,
            3 => Key::Delete,
            5 => Key::PageUp,
            6 => Key::PageDown,
            _ => return None,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys of `bytes`, as many as there is room for.
    fn keys(bytes: &[u8]) -> ([Option<Key>; 8], usize) {
        let (mut decoder, mut found, mut count) = (Decoder::new(), [None; 8], 0);
        for key in bytes.iter().filter_map(|&byte| decoder.take(byte)) {
            found[count] = Some(key);
            count += 1;
        }
        (found, count)
    }

    fn only(bytes: &[u8]) -> Option<Key> {
        let (found, count) = keys(bytes);
        assert!(count <= 1, "{bytes:?} is {found:?}");
        found[0]
    }

    #[test]
    fn terminals_agree_on_arrows_home_end_and_delete() {
        for (key, sequences) in [
            (Key::Up, &[&b"\x1b[A"[..], b"\x1bOA", b"\x10", b"\x1b[1;2A"][..]),
            (Key::Down, &[b"\x1b[B", b"\x1bOB", b"\x0e"]),
            (Key::Left, &[b"\x1b[D", b"\x1bOD", b"\x02"]),
            (Key::Right, &[b"\x1b[C", b"\x1bOC", b"\x06", b"\x1b[1;2C"]),
            (Key::Home, &[b"\x1b[H", b"\x1bOH", b"\x1b[1~", b"\x1b[7~", b"\x01"]),
            (Key::End, &[b"\x1b[F", b"\x1bOF", b"\x1b[4~", b"\x1b[8~", b"\x05"]),
            (Key::Delete, &[b"\x1b[3~", b"\x1b[3;2~"]),
            (Key::WordLeft, &[b"\x1bb", b"\x1b[1;5D", b"\x1b[1;3D", b"\x1bOd", b"\x1b[5D"]),
            (Key::WordRight, &[b"\x1bf", b"\x1b[1;5C", b"\x1b[1;3C", b"\x1bOc"]),
            (Key::CutWord, &[b"\x17", b"\x1b\x7f"]),
            (Key::PageUp, &[b"\x1b[5~", b"\x1b[5;2~"]),
            (Key::PageDown, &[b"\x1b[6~"]),
            (Key::Foreign, &[b"\x07", b"\x1a", b"\x1c", "é".as_bytes(), b"\xff"]),
            (Key::Enter, &[b"\r", b"\n", b"\r\n", b"\x1bOM"]),
            (Key::Backspace, &[b"\x08", b"\x7f"]),
        ] {
            for sequence in sequences {
                assert_eq!(only(sequence), Some(key), "{sequence:?}");
            }
        }
    }

    #[test]
    fn what_is_unknown_leaves_nothing_behind() {
        for bytes in [
            &b"\x1b[15~"[..],
            b"\x1b[200~",
            b"\x1b[99999999999~",
            b"\x1b[[A",
            b"\x1bOP",
            b"\x1b[?1;2c\0",
            b"\x1b[1;2;3;4R",
            b"\x1bx",
            b"\0",
            b"\x11\x13",
            b"\x1b",
            b"\x1b\x1b\x1b",
            b"\x80\xbf",
        ] {
            let (found, count) = keys(bytes);
            let harmless = |key: &Option<Key>| matches!(key, None | Some(Key::WordRight));
            assert!(count <= 1 && found.iter().all(harmless), "{bytes:?} is {found:?}");
        }
        // And a sequence that never ends does not hold for ever.
        let mut decoder = Decoder::new();
        let noise = b"\x1b[".iter().chain(&[b'1'; 60]);
        let typed = noise.filter_map(|&byte| decoder.take(byte)).count();
        assert_eq!(typed, 60 - usize::from(LONGEST) - 1);
    }

    #[test]
    fn an_interrupted_sequence_counts_for_nothing() {
        assert_eq!(keys(b"\x1b[1;\x03").0[0], Some(Key::Interrupt));
        assert_eq!(keys(b"\x1b[\x1b[A").0[0], Some(Key::Up));
        assert_eq!(keys(b"\x1b[3\rx").0[..2], [Some(Key::Enter), Some(Key::Char(b'x'))]);
        let (found, count) = keys(b"\r\n\n\ra");
        assert_eq!(count, 4, "{found:?}");
    }
}
