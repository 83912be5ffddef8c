//! A PS/2 keyboard's codes as the bytes that a terminal would send. Calls
//! `pc-keyboard`, which knows the codes.

use pc_keyboard::layouts::Us104Key;
use pc_keyboard::{DecodedKey, HandleControl, KeyCode, PS2Keyboard, ScancodeSet1};

/// What is held down on a US keyboard.
pub struct Keys(PS2Keyboard<Us104Key, ScancodeSet1>);

impl Keys {
    /// Nothing is held down.
    pub const fn new() -> Self {
        let codes = ScancodeSet1::new();
        Self(PS2Keyboard::new(codes, Us104Key, HandleControl::MapLettersToUnicode))
    }

    /// Takes a code of set 1, and hands to `typed` what that types, byte by byte.
    pub fn code(&mut self, code: u8, typed: &mut dyn FnMut(u8)) {
        let event = match self.0.add_byte(code) {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(_) => {
                // Whatever it was the middle of.
                self.0.clear();
                return;
            }
        };
        let bytes: &[u8] = match self.0.process_keyevent(event) {
            // As terminals send them.
            Some(DecodedKey::Unicode('\n')) => b"\r",
            Some(DecodedKey::Unicode('\u{8}')) => b"\x7f",
            Some(DecodedKey::Unicode('\u{7f}')) => b"\x1b[3~",
            Some(DecodedKey::Unicode(character)) => {
                character.encode_utf8(&mut [0; 4]).bytes().for_each(typed);
                return;
            }
            Some(DecodedKey::RawKey(key)) => sequence(key),
            None => return,
        };
        bytes.iter().copied().for_each(typed);
    }
}

/// What a terminal sends for a key that is no character (as Linux's console).
fn sequence(key: KeyCode) -> &'static [u8] {
    match key {
        KeyCode::ArrowUp => b"\x1b[A",
        KeyCode::ArrowDown => b"\x1b[B",
        KeyCode::ArrowRight => b"\x1b[C",
        KeyCode::ArrowLeft => b"\x1b[D",
        KeyCode::Home => b"\x1b[H",
        KeyCode::End => b"\x1b[F",
        KeyCode::Insert => b"\x1b[2~",
        KeyCode::Delete => b"\x1b[3~",
        KeyCode::PageUp => b"\x1b[5~",
        KeyCode::PageDown => b"\x1b[6~",
        _ => b"",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(codes: &[u8]) -> String {
        let mut keys = Keys::new();
        let mut bytes = Vec::new();
        codes.iter().for_each(|&code| keys.code(code, &mut |byte| bytes.push(byte)));
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn letters_and_what_is_held_down() {
        assert_eq!(typed(&[0x1e, 0x9e, 0x30, 0xb0]), "ab");
        // Shift, a, shift up, a; caps lock, a, 1.
        assert_eq!(typed(&[0x2a, 0x1e, 0x9e, 0xaa, 0x1e, 0x9e]), "Aa");
        assert_eq!(typed(&[0x3a, 0xba, 0x1e, 0x9e, 0x02, 0x82]), "A1");
        // Control c and e, by either control key.
        assert_eq!(typed(&[0x1d, 0x2e, 0xae, 0x12, 0x92, 0x9d]), "\x03\x05");
        assert_eq!(typed(&[0xe0, 0x1d, 0x2e, 0xae, 0xe0, 0x9d, 0x2e]), "\x03c");
        // Shift and the key of the minus; space, slash.
        assert_eq!(typed(&[0x2a, 0x0c, 0x8c, 0xaa, 0x39, 0xb9, 0x35]), "_ /");
    }

    #[test]
    fn special_keys_are_sequences() {
        assert_eq!(typed(&[0x1c, 0x9c, 0x0e, 0x8e, 0x0f, 0x8f]), "\r\x7f\t");
        let extended = |code: u8| typed(&[0xe0, code, 0xe0, code | 0x80]);
        assert_eq!(extended(0x48), "\x1b[A");
        assert_eq!(extended(0x50), "\x1b[B");
        assert_eq!(extended(0x4d), "\x1b[C");
        assert_eq!(extended(0x4b), "\x1b[D");
        assert_eq!(extended(0x47), "\x1b[H");
        assert_eq!(extended(0x4f), "\x1b[F");
        assert_eq!(extended(0x53), "\x1b[3~");
        assert_eq!(extended(0x49), "\x1b[5~");
        assert_eq!(extended(0x1c), "\r");
        // F1 types nothing.
        assert_eq!(typed(&[0x3b, 0xbb]), "");
    }

    #[test]
    fn nonsense_types_nothing_and_is_forgotten() {
        assert_eq!(typed(&[0xff, 0xe0, 0xff, 0x00, 0x1e]), "a");
        let mut keys = Keys::new();
        for first in 0..=u8::MAX {
            for second in 0..=u8::MAX {
                keys.code(first, &mut |_| {});
                keys.code(second, &mut |_| {});
            }
        }
    }
}
