//! What a word at the prompt could be, read off the commands' synopses: so a
//! new command is completed like the others without a line here. Calls the lab's
//! tables.

mod facts;

use crate::edit::Complete;
use crate::errno::Errno;
use crate::gfp::gfp_words;
use crate::help::COMMANDS;
use crate::lab::Lab;
use crate::world::World;
use mm::proc::SPACE_FILES;

/// A word of a synopsis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Slot<'a> {
    /// A placeholder in capitals, `key=VALUE`, or what is to be typed as it is,
    /// with `|` between words to choose from.
    kind: &'a str,
    /// As which argument it stands, from 0 on; one that may be left out: from
    /// which on.
    position: usize,
    optional: bool,
}

/// The words of a synopsis after the command's name. Brackets are around what
/// may be left out; a `|` of its own stands between forms of one argument.
fn slots(synopsis: &str) -> impl Iterator<Item = Slot<'_>> {
    let (mut required, mut optional, mut instead) = (0_usize, false, false);
    synopsis.split_whitespace().skip(1).filter_map(move |token| {
        if token == "|" {
            instead = true;
            return None;
        }
        optional |= token.starts_with('[');
        let slot = if optional {
            Slot { kind: token.trim_start_matches('['), position: required, optional }
        } else {
            required += usize::from(!instead || required == 0);
            Slot { kind: token, position: required - 1, optional }
        };
        instead = false;
        // `NAME[I]` has brackets of its own.
        let closes = optional && slot.kind.ends_with(']') && !slot.kind.contains('[');
        optional &= !closes;
        let kind = if closes { slot.kind.trim_end_matches(']') } else { slot.kind };
        Some(Slot { kind, ..slot })
    })
}

/// Calls `each` with what can be typed for `kind` as it is: all words without
/// capitals, and `key=` before capitals.
fn literals(kind: &str, each: &mut dyn FnMut(&str)) {
    let is_placeholder = |word: &str| word.contains(|c: char| c.is_ascii_uppercase() || c == '.');
    let Some((key, values)) = kind.split_once('=') else {
        kind.split('|').filter(|word| !is_placeholder(word)).for_each(each);
        return;
    };
    if is_placeholder(values) {
        // With the `=`, after which the value is to be typed.
        each(&kind[..=key.len()]);
        return;
    }
    let mut text = [0; 64];
    for value in values.split('|') {
        let len = key.len() + 1 + value.len();
        let Some(text) = text.get_mut(..len) else { continue };
        text[..=key.len()].copy_from_slice(&kind.as_bytes()[..=key.len()]);
        text[key.len() + 1..].copy_from_slice(value.as_bytes());
        each(core::str::from_utf8(text).unwrap_or_default());
    }
}

impl<W: World> Lab<W> {
    /// Calls `each` with the names of all commands and how they are written.
    fn each_command(&self, each: &mut dyn FnMut(&str, &str)) {
        COMMANDS.iter().for_each(|command| each(command.name, command.synopsis));
        self.world().commands().iter().for_each(|command| each(command[0], command[1]));
    }

    /// Calls `each` with what can stand for `kind`, of facts only those that go on
    /// from `word`.
    fn each_of_kind(&self, kind: &str, word: &str, each: &mut dyn FnMut(&str)) {
        match kind {
            "GFP" => gfp_words().for_each(each),
            "FACT" => self.each_fact(word, each),
            "OP" => ["==", "!=", "<", "<=", ">", ">="].into_iter().for_each(each),
            "PATH" => {
                self.files().for_each(&mut *each);
                self.each_space_file(each);
            }
            "SPACE" | "SPACE[.REGION]" => self.space_names().for_each(each),
            "PLACE" => self.each_place(each),
            "NAME|PLACE" => {
                self.names().for_each(&mut *each);
                self.each_place(each);
            }
            "ERRNO" => Errno::ALL.iter().for_each(|errno| each(errno.name())),
            "NAME" | "CACHE" => self.names().for_each(each),
            _ if kind.starts_with("COMMAND") => self.each_command(&mut |name, _| each(name)),
            _ => literals(kind, each),
        }
    }
}

/// Calls `each` with `parts` in one piece, unless they are longer than any name.
fn joined(parts: &[&str], each: &mut dyn FnMut(&str)) {
    let mut text = [0; 128];
    let mut len = 0;
    for part in parts {
        let Some(place) = text.get_mut(len..len + part.len()) else { return };
        place.copy_from_slice(part.as_bytes());
        len += part.len();
    }
    each(core::str::from_utf8(&text[..len]).unwrap_or_default());
}

impl<W: World> Lab<W> {
    /// Calls `each` with all spaces and regions.
    fn each_place(&self, each: &mut dyn FnMut(&str)) {
        for (at, held) in self.spaces.iter() {
            each(held.name.as_str());
            for region in self.spaces.regions_of(at) {
                joined(&[held.name.as_str(), ".", region.name.as_str()], each);
            }
        }
    }

    /// Calls `each` with the files of all spaces.
    fn each_space_file(&self, each: &mut dyn FnMut(&str)) {
        for name in self.space_names() {
            SPACE_FILES.iter().for_each(|file| joined(&["/proc/", name, "/", file], each));
        }
    }
}

impl<W: World> Complete for Lab<W> {
    fn words(&self, before: &str, word: &str, each: &mut dyn FnMut(&str)) {
        if before.ends_with('|') {
            return gfp_words().for_each(each);
        }
        let mut typed = before.split_whitespace();
        let Some(name) = typed.next() else {
            return self.each_command(&mut |name, _| each(name));
        };
        self.each_command(&mut |known, synopsis| {
            if known == name {
                self.arguments(synopsis, before, word, each);
            }
        });
    }
}

impl<W: World> Lab<W> {
    /// Calls `each` with what could come after `before`, a command that is
    /// written as `synopsis` and some of its arguments.
    fn arguments(&self, synopsis: &str, before: &str, word: &str, each: &mut dyn FnMut(&str)) {
        let wanted = before.split_whitespace().count() - 1;
        for slot in slots(synopsis) {
            let follows = slot.kind.ends_with("...") && wanted > slot.position;
            if follows && slot.kind.starts_with("COMMAND") {
                // A command of its own, with arguments of its own.
                let own = skip_words(before, slot.position + 1);
                return self.words(own, word, each);
            }
            if wanted == slot.position || slot.optional && wanted > slot.position {
                self.each_of_kind(slot.kind, word, each);
            }
        }
    }
}

/// `text` from its word number `count` (from 0 on) on.
fn skip_words(text: &str, count: usize) -> &str {
    let mut rest = text.trim_start();
    for _ in 0..count {
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        rest = rest[end..].trim_start();
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::{String, ToString};
    use std::vec::Vec;

    fn shape(synopsis: &str) -> Vec<String> {
        let mark = |slot: Slot<'_>| if slot.optional { "+" } else { "" };
        slots(synopsis)
            .map(|slot| std::format!("{}{} {}", slot.position, mark(slot), slot.kind))
            .collect()
    }

    #[test]
    fn a_synopsis_says_what_stands_where() {
        assert_eq!(
            shape("alloc NAME ORDER [GFP] [count=N]"),
            ["0 NAME", "1 ORDER", "2+ GFP", "2+ count=N"]
        );
        assert_eq!(shape("free NAME | NAME[I] [cpu=N]"), ["0 NAME", "0 NAME[I]", "1+ cpu=N"]);
        assert_eq!(
            shape("fill NAME GFP [pages=N | until=high|low]"),
            ["0 NAME", "1 GFP", "2+ pages=N", "2+ until=high|low"]
        );
        assert_eq!(shape("help [COMMAND]"), ["0+ COMMAND"]);
        assert_eq!(shape("fail nth=N | every=N | off"), ["0 nth=N", "0 every=N", "0 off"]);
        assert_eq!(shape("audit"), [""; 0]);
        assert_eq!(shape("odd | [a | ] ] b"), ["0+ a", "0+ ", "0 ]", "1 b"]);
    }

    #[test]
    fn literals_are_what_is_typed_as_it_is() {
        let of = |kind: &str| {
            let mut words = Vec::new();
            literals(kind, &mut |word| words.push(word.to_string()));
            words
        };
        assert_eq!(of("on|off"), ["on", "off"]);
        assert_eq!(of("count=N"), ["count="]);
        assert_eq!(of("until=high|low"), ["until=high", "until=low"]);
        assert_eq!(of("ORDER"), [""; 0]);
        assert_eq!(of("COMMAND..."), [""; 0]);
        assert_eq!(of("mark"), ["mark"]);
    }

    #[test]
    fn words_are_skipped_with_their_blanks() {
        assert_eq!(skip_words("expect-error  EBUSY cat ", 2), "cat ");
        assert_eq!(skip_words("a", 2), "");
    }
}
