//! Scripts that do something more than once, or by chance: loops, which are
//! recorded up to their end and then run, and words that are picked at random.
//! May call: everything in this crate.

use crate::errno::{Errno, Error};
use crate::lab::{Done, Lab, Stop};
use crate::name::decimal;
use crate::parse::{Args, LINE_MAX, count, number, small};
use crate::world::World;

/// Bytes of a loop, its lines' numbers among them.
const BODY_MAX: usize = 16 * 1024;
/// Loops within each other.
const LOOPS_MAX: usize = 4;
/// Commands in each other within a command, such as `try` in `try try`.
const NESTED_MOST: usize = 2;
/// Bytes before each line of a body: where it stands in the script, its length.
const HEAD: usize = 6;

/// Numbers that look random and are the same each time (SplitMix64).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// What a script begins with.
    pub(crate) const FIRST: Self = Self(1);

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `least` to `most`.
    fn between(&mut self, least: u64, most: u64) -> u64 {
        match (most - least).checked_add(1) {
            Some(values) => least + self.next() % values,
            None => self.next(),
        }
    }
}

/// A line's text, in a place of its own.
pub(crate) struct Line {
    bytes: [u8; LINE_MAX],
    len: usize,
}

impl Line {
    const EMPTY: Self = Self { bytes: [0; LINE_MAX], len: 0 };

    fn add(&mut self, text: &str) -> Result<(), Error> {
        let long = Error::new(Errno::E2BIG, "a line has 1024 bytes at most");
        let place = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(long)?;
        place.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }

    pub(crate) fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }

    /// `text` with each `{a,b,c}` replaced by one of its words, and each `{3-8}`
    /// by one of these numbers. Other braces stay as they are.
    ///
    /// # Errors
    /// E2BIG.
    fn picked(text: &str, random: &mut Random) -> Result<Self, Error> {
        let mut line = Self::EMPTY;
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            line.add(before)?;
            let Some((inside, behind)) = after.split_once('}') else {
                rest = &rest[before.len()..];
                break;
            };
            rest = behind;
            if inside.contains(',') {
                let words = inside.split(',').count() as u64;
                let at = random.between(0, words - 1) as usize;
                line.add(inside.split(',').nth(at).unwrap_or_default())?;
            } else if let Some((least, most)) = range(inside) {
                line.add_number(random.between(least, most))?;
            } else {
                line.add("{")?;
                line.add(inside)?;
                line.add("}")?;
            }
        }
        line.add(rest)?;
        Ok(line)
    }

    fn add_number(&mut self, number: u64) -> Result<(), Error> {
        let mut digits = [0; 20];
        self.add(core::str::from_utf8(decimal(number, &mut digits)).unwrap_or_default())
    }
}

/// `3-8` as numbers, the first not above the second.
fn range(text: &str) -> Option<(u64, u64)> {
    let (least, most) = text.split_once('-')?;
    let (least, most) = (number(least).ok()?, number(most).ok()?);
    (least <= most).then_some((least, most))
}

/// A loop that is being recorded or run.
pub(crate) struct Body {
    text: [u8; BODY_MAX],
    len: usize,
    /// Loops without their end yet: none, and nothing is being recorded.
    open: usize,
}

/// A loop that is being run.
#[derive(Clone, Copy, Default, Debug)]
struct Loop {
    /// Where its first line is.
    start: usize,
    /// Rounds that are left, with the one under way.
    left: u64,
}

impl Body {
    pub(crate) const fn new() -> Self {
        Self { text: [0; BODY_MAX], len: 0, open: 0 }
    }

    /// Whether lines are kept for later.
    pub(crate) fn is_open(&self) -> bool {
        self.open > 0
    }

    /// Forgets what has been recorded.
    pub(crate) fn abandon(&mut self) {
        (self.len, self.open) = (0, 0);
    }

    fn add(&mut self, text: &str, number: u64) -> Result<(), Error> {
        let long = Error::new(Errno::E2BIG, "a loop has 16 KiB at most");
        let place = self.text.get_mut(self.len..self.len + HEAD + text.len()).ok_or(long)?;
        place[..4].copy_from_slice(&(number as u32).to_le_bytes());
        // A line is far shorter than that.
        place[4..HEAD].copy_from_slice(&(text.len() as u16).to_le_bytes());
        place[HEAD..].copy_from_slice(text.as_bytes());
        self.len += HEAD + text.len();
        Ok(())
    }

    /// The line at `at`, its number in the script, and where the next one is.
    fn line(&self, at: usize) -> Option<(Line, u64, usize)> {
        let rest = self.text[..self.len].get(at..)?;
        let (head, rest) = rest.split_at_checked(HEAD)?;
        let number = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let len = usize::from(u16::from_le_bytes([head[4], head[5]]));
        let mut line = Line::EMPTY;
        line.add(core::str::from_utf8(rest.get(..len)?).ok()?).ok()?;
        Some((line, u64::from(number), at + HEAD + len))
    }
}

/// The number of rounds, if the line begins a loop.
fn rounds(text: &str) -> Option<Result<u64, Error>> {
    let mut words = text.split_whitespace();
    if words.next() != Some("repeat") {
        return None;
    }
    let form = Error::new(Errno::EINVAL, "repeat N");
    Some(match (words.next(), words.next()) {
        (Some(word), None) => count(word),
        _ => Err(form),
    })
}

fn is_end(text: &str) -> bool {
    text == "end"
}

/// That `words`, which one command is to run, run no more than two others in turn:
/// each level takes its share of a stack that may be small.
///
/// # Errors
/// EINVAL.
pub(crate) fn not_too_deep(words: &[&str]) -> Result<(), Error> {
    let runs_another = |word: &&&str| matches!(**word, "chance" | "expect-error" | "try");
    if words.iter().filter(runs_another).count() > NESTED_MOST {
        return Err(Error::new(Errno::EINVAL, "nested too deeply"));
    }
    Ok(())
}

impl<W: World> Lab<W> {
    /// Forgets a loop whose end has not come yet.
    pub fn abandon(&mut self) {
        self.body.abandon();
    }

    /// Runs a line that may begin, belong to, or end a loop.
    pub(crate) fn line_or_loop(&mut self, text: &str) -> Done {
        if self.world.is_describing() {
            return self.run(text);
        }
        let rounds = rounds(text);
        if !self.body.is_open() {
            if rounds.is_none() {
                if is_end(text) {
                    return Err(Error::new(Errno::EINVAL, "the end of no loop").into());
                }
                return self.run(text);
            }
            self.body.abandon();
        }
        let recorded = self.record(text, rounds);
        if recorded.is_err() {
            self.body.abandon();
        }
        if recorded? {
            let done = self.run_body();
            self.body.abandon();
            return done;
        }
        Ok(())
    }

    /// Keeps a line of a loop; whether the loop is complete now.
    fn record(&mut self, text: &str, rounds: Option<Result<u64, Error>>) -> Result<bool, Error> {
        if let Some(rounds) = rounds {
            rounds?;
            if self.body.open == LOOPS_MAX {
                return Err(Error::new(Errno::EINVAL, "4 loops in each other at most"));
            }
            self.body.open += 1;
        }
        // Its description ends with a line that would end the loop.
        if text.split_whitespace().next() == Some("machine") {
            return Err(Error::new(Errno::EINVAL, "no machine is made in a loop"));
        }
        if !text.is_empty() {
            self.body.add(text, self.number)?;
        }
        self.body.open -= usize::from(is_end(text));
        Ok(!self.body.is_open())
    }

    /// Runs what has been recorded.
    fn run_body(&mut self) -> Done {
        let mut loops = [Loop::default(); LOOPS_MAX];
        let (mut depth, mut at) = (0, 0);
        while let Some((line, number, next)) = self.body.line(at) {
            at = next;
            let text = line.as_str();
            if let Some(rounds) = rounds(text) {
                loops[depth] = Loop { start: next, left: rounds? };
                depth += 1;
            } else if is_end(text) {
                let Some(innermost) = loops[..depth].last_mut() else { break };
                innermost.left -= 1;
                if innermost.left > 0 {
                    at = innermost.start;
                } else {
                    depth -= 1;
                }
                self.go_on()?;
            } else if let Err(why) = self.run(text) {
                self.failed_at = Some(number);
                return Err(why);
            }
        }
        Ok(())
    }

    /// The line as it is to be run, with what is random in it picked.
    pub(crate) fn picked(&mut self, text: &str) -> Result<Line, Error> {
        Line::picked(text, &mut self.random)
    }

    pub(crate) fn chance(&mut self, words: &[&str]) -> Done {
        const FORM: Error = Error::new(Errno::EINVAL, "chance PERCENT COMMAND...");
        let &[percent, ref command @ ..] = words else { return Err(FORM.into()) };
        let percent: u8 = small(percent)?;
        if percent > 100 {
            return Err(Error::new(Errno::ERANGE, "more than 100 of 100").into());
        }
        if command.is_empty() {
            return Err(FORM.into());
        }
        not_too_deep(command)?;
        if self.random.between(0, 99) < u64::from(percent) {
            return self.command(command);
        }
        Ok(())
    }

    pub(crate) fn attempt(&mut self, words: &[&str]) -> Done {
        if words.is_empty() {
            return Err(Error::new(Errno::EINVAL, "try COMMAND...").into());
        }
        not_too_deep(words)?;
        match self.command(words) {
            Err(Stop::Failed(error)) if error.errno != Errno::EINTR => {
                self.print(format_args!("-> {}\n", error.reason()));
                Ok(())
            }
            done => done,
        }
    }

    pub(crate) fn seed(&mut self, mut args: Args<'_>) -> Done {
        let seed = number(args.need("seed N")?)?;
        args.done()?;
        self.random = Random(seed);
        Ok(())
    }

    pub(crate) fn set_quiet(&mut self, mut args: Args<'_>) -> Done {
        const FORM: &str = "quiet on|off";
        let on = match args.need(FORM)? {
            "on" => true,
            "off" => false,
            other => return Err(Error::new(Errno::EINVAL, FORM).about(other).into()),
        };
        args.done()?;
        self.quiet = on;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::string::{String, ToString};

    fn picks(text: &str) -> BTreeSet<String> {
        let mut random = Random(7);
        (0..200)
            .map(|_| Line::picked(text, &mut random).expect("short").as_str().to_string())
            .collect()
    }

    #[test]
    fn words_are_picked() {
        let all = |words: &[&str]| words.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        assert_eq!(picks("a {b,c} d"), all(&["a b d", "a c d"]));
        assert_eq!(picks("k{2-4}"), all(&["k2", "k3", "k4"]));
        assert_eq!(picks("{x,y}{0-1}"), all(&["x0", "x1", "y0", "y1"]));
        assert_eq!(picks("{5-5}"), all(&["5"]));
        for same in ["", "{}", "{a}", "{4-2}", "{a-b}", "}{", "echo {", "{ü}", "a } b {c"] {
            assert_eq!(picks(same), all(&[same]), "{same}");
        }
        assert_eq!(picks("{0-18446744073709551615}").len(), 200);
        let long = ["{0-1}"; 100].concat() + &["x"; 1000].concat();
        assert!(Line::picked(&long, &mut Random(1)).is_err());
    }
}
