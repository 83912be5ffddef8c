//! Facts asked for, noted down and compared. Calls `facts`.

use crate::errno::{Errno, Error};
use crate::facts::Value;
use crate::lab::{Done, Lab, Stop};
use crate::parse::{Args, number};
use crate::script::not_too_deep;
use crate::world::World;

/// A comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operator {
    Equal,
    Different,
    Less,
    AtMost,
    More,
    AtLeast,
}

impl Operator {
    fn of(word: &str) -> Result<Self, Error> {
        Ok(match word {
            "==" => Self::Equal,
            "!=" => Self::Different,
            "<" => Self::Less,
            "<=" => Self::AtMost,
            ">" => Self::More,
            ">=" => Self::AtLeast,
            _ => return Err(Error::new(Errno::EINVAL, "== != < <= > or >=").about(word)),
        })
    }

    fn holds<T: Ord>(self, left: T, right: T) -> bool {
        match self {
            Self::Equal => left == right,
            Self::Different => left != right,
            Self::Less => left < right,
            Self::AtMost => left <= right,
            Self::More => left > right,
            Self::AtLeast => left >= right,
        }
    }
}

impl<W: World> Lab<W> {
    pub(super) fn get(&mut self, mut args: Args<'_>) -> Done {
        let fact = args.need("get FACT")?;
        args.done()?;
        let value = self.fact(fact)?;
        self.print(format_args!("{fact} is {value}\n"));
        Ok(())
    }

    pub(super) fn note(&mut self, mut args: Args<'_>) -> Done {
        const FORM: &str = "note NAME FACT";
        let (name, fact) = (args.need(FORM)?, args.need(FORM)?);
        args.done()?;
        let Some(value) = self.fact(fact)?.number() else {
            return Err(Error::new(Errno::EINVAL, "only numbers are noted").about(fact).into());
        };
        self.notes.set(name, value)?;
        self.print(format_args!("-> ${name} = {value}\n"));
        Ok(())
    }

    pub(super) fn expect(&mut self, words: &[&str]) -> Done {
        let &[fact, operator, ref value @ ..] = words else {
            return Err(Error::new(Errno::EINVAL, "expect FACT OP VALUE").into());
        };
        let operator = Operator::of(operator)?;
        let is = self.fact(fact)?;
        let holds = match (is, value) {
            (Value::Word(is), [word]) => match operator {
                Operator::Equal => is == *word,
                Operator::Different => is != *word,
                _ => {
                    let why = "words are equal or they are not";
                    return Err(Error::new(Errno::EINVAL, why).into());
                }
            },
            (Value::Word(_), _) => {
                return Err(Error::new(Errno::EINVAL, "it is a word").about(fact).into());
            }
            (Value::Truth(is), ["true"]) => operator.holds(is, true),
            (Value::Truth(is), ["false"]) => operator.holds(is, false),
            _ => operator.holds(is.number().unwrap_or(0), self.sum(value)?),
        };
        if !holds {
            self.say(format_args!("expect: FAILED: {fact} is {is}\n"));
            return Err(Stop::Unexpected);
        }
        self.print(format_args!("expect: ok\n"));
        Ok(())
    }

    /// Terms with + or - between them, added up from left to right.
    ///
    /// # Errors
    /// EINVAL for another form, ERANGE beyond 64 bits or below 0.
    fn sum(&mut self, words: &[&str]) -> Result<u64, Error> {
        let &[first, ref rest @ ..] = words else {
            return Err(Error::new(Errno::EINVAL, "a value is missing"));
        };
        let mut sum = self.term(first)?;
        for pair in rest.chunks(2) {
            let next = match *pair {
                ["+", term] => sum.checked_add(self.term(term)?),
                ["-", term] => sum.checked_sub(self.term(term)?),
                _ => return Err(Error::new(Errno::EINVAL, "VALUE + VALUE - VALUE ...")),
            };
            sum = next.ok_or(Error::new(Errno::ERANGE, "beyond 64 bits"))?;
        }
        Ok(sum)
    }

    /// A number, a note or a fact.
    pub(super) fn term(&mut self, word: &str) -> Result<u64, Error> {
        if let Some(name) = word.strip_prefix('$') {
            return self.notes.get(name);
        }
        if word.starts_with(|c: char| c.is_ascii_digit()) || !word.contains('.') {
            return number(word);
        }
        let why = Error::new(Errno::EINVAL, "not a number");
        self.fact(word)?.number().ok_or_else(|| why.about(word))
    }

    pub(super) fn expect_error(&mut self, words: &[&str]) -> Done {
        let &[errno, ref command @ ..] = words else {
            return Err(Error::new(Errno::EINVAL, "expect-error ERRNO COMMAND...").into());
        };
        let Some(errno) = Errno::named(errno) else {
            return Err(Error::new(Errno::EINVAL, "no such error").about(errno).into());
        };
        if command.is_empty() {
            return Err(Error::new(Errno::EINVAL, "expect-error ERRNO COMMAND...").into());
        }
        not_too_deep(command)?;
        match self.command(command) {
            Err(Stop::Failed(error)) if error.errno == errno => {
                self.print(format_args!("-> {}\nexpect: ok\n", error.reason()));
                return Ok(());
            }
            Err(Stop::Failed(error)) => {
                self.say(format_args!("expect: FAILED: it failed with {}\n", error.reason()));
            }
            Ok(()) => self.say(format_args!("expect: FAILED: it did not fail\n")),
            // It has said so.
            Err(Stop::Unexpected) => {}
        }
        Err(Stop::Unexpected)
    }
}
