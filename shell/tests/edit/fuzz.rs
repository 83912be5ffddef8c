//! Random bytes: against a second, simple editor of lines where keys are known,
//! and as plain noise.

use crate::Words;
use crate::terminal::Session;
use proptest::prelude::*;
use shell::edit::LINE_MAX;

/// What is typed: a key that the simple editor knows as well.
#[derive(Clone, Debug)]
enum Typed {
    Text(String),
    Left(usize),
    Right(usize),
    Home,
    End,
    Backspace(usize),
    Delete,
    ToEnd,
    ToStart,
}

impl Typed {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Left(n) => b"\x1b[D".repeat(*n),
            Self::Right(n) => b"\x1bOC".repeat(*n),
            Self::Home => b"\x1b[H".to_vec(),
            Self::End => b"\x05".to_vec(),
            Self::Backspace(n) => b"\x7f".repeat(*n),
            Self::Delete => b"\x1b[3~".to_vec(),
            Self::ToEnd => b"\x0b".to_vec(),
            Self::ToStart => b"\x15".to_vec(),
        }
    }

    /// The same on what stands left and right of the cursor.
    fn apply(&self, left: &mut String, right: &mut String) {
        match self {
            Self::Text(text) => {
                let room = LINE_MAX - left.len() - right.len();
                left.push_str(&text[..text.len().min(room)]);
            }
            Self::Left(n) => right.insert_str(0, &left.split_off(left.len().saturating_sub(*n))),
            Self::Right(n) => left.extend(right.drain(..right.len().min(*n))),
            Self::Home => right.insert_str(0, &std::mem::take(left)),
            Self::End => left.push_str(&std::mem::take(right)),
            Self::Backspace(n) => left.truncate(left.len().saturating_sub(*n)),
            Self::Delete => drop(right.drain(..right.len().min(1))),
            Self::ToEnd => right.clear(),
            Self::ToStart => left.clear(),
        }
    }
}

fn typed() -> impl Strategy<Value = Typed> {
    prop_oneof![
        6 => "[ -~]{1,60}".prop_map(Typed::Text),
        3 => (1..80usize).prop_map(Typed::Left),
        2 => (1..80usize).prop_map(Typed::Right),
        1 => Just(Typed::Home),
        1 => Just(Typed::End),
        2 => (1..30usize).prop_map(Typed::Backspace),
        1 => Just(Typed::Delete),
        1 => Just(Typed::ToEnd),
        1 => Just(Typed::ToStart),
    ]
}

/// Pieces of what terminals send, and of what they do not.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 1..8),
        4 => "[ -~]{1,20}".prop_map(String::into_bytes),
        2 => (0..0x20u8).prop_map(|byte| vec![byte]),
        2 => "\x1b[\\[O][0-9;]{0,5}[ -~]".prop_map(String::into_bytes),
        1 => Just(b"\t\t".to_vec()),
        1 => Just(vec![b'x'; 300]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn known_keys_do_what_a_simple_editor_does(
        keys in proptest::collection::vec(typed(), 1..40), width in 24..100usize,
    ) {
        let mut session = Session::new(width, &());
        let (mut left, mut right) = (String::new(), String::new());
        for key in &keys {
            session.send(&key.bytes());
            key.apply(&mut left, &mut right);
            prop_assert_eq!(session.line(), format!("{left}^{right}"));
        }
    }

    #[test]
    fn noise_never_reaches_the_screen(
        pieces in proptest::collection::vec(noise(), 1..40), width in 24..=256usize,
    ) {
        // The session looks at the screen after each byte.
        let mut session = Session::new(width, &Words);
        for piece in &pieces {
            session.send(piece);
        }
    }
}
