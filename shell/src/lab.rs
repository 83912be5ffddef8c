//! The interpreter: a line in, its output and an outcome out; a script in, a
//! verdict out. May call: everything in this crate.

use crate::commands::caches::Caches;
use crate::commands::mapped::Buffer;
use crate::commands::swap::Switched;
use crate::errno::{Errno, Error};
use crate::groups::Groups;
use crate::ledger::Ledger;
use crate::name::Name;
use crate::notes::Notes;
use crate::parse::{Words, text};
use crate::script::{Body, Line, Random};
use crate::spaces::Spaces;
use crate::world::World;
use core::fmt;
use mm::Mm;
use mm::arena::MovableArena;
use mm::types::PAGE_SIZE;

/// What some editors begin a file of UTF-8 with.
const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// What became of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The command did what it says; or there was none.
    Ok,
    /// It failed and has changed nothing. The error is printed.
    Failed(Error),
    /// An `expect` was not met. What was found is printed.
    Unexpected,
}

impl Outcome {
    /// Whether a script goes on after it.
    pub fn is_ok(self) -> bool {
        self == Self::Ok
    }
}

/// What became of a script; printed as its last line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// All commands did what they say; their number.
    Ok(u64),
    /// The line at which the script ended, from 1 on.
    Failed(u64),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok(commands) => write!(f, "lab: ok, {commands} commands"),
            Self::Failed(line) => write!(f, "lab: FAILED at line {line}"),
        }
    }
}

/// Why a command stopped: nothing else has been printed of it than its output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    Failed(Error),
    /// Printed already.
    Unexpected,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Of a command without an answer.
pub(crate) type Done = Result<(), Stop>;

/// The interpreter and what its commands hold. It is large (a pool of 64 KiB):
/// where stacks are small it is to be in a static. All that it holds is given
/// back when it is dropped.
pub struct Lab<W: World> {
    pub(crate) world: W,
    pub(crate) ledger: Ledger,
    pub(crate) groups: Groups,
    pub(crate) caches: Caches,
    pub(crate) notes: Notes,
    pub(crate) spaces: Spaces,
    pub(crate) buffer: Buffer,
    pub(crate) switched: Switched,
    trace: bool,
    /// Whether commands say nothing, unless they fail.
    pub(crate) quiet: bool,
    /// A loop whose end has not come.
    pub(crate) body: Body,
    pub(crate) random: Random,
    /// The line of the script that is being read, from 1 on; 0 at the prompt.
    pub(crate) number: u64,
    /// The line of a loop that failed.
    pub(crate) failed_at: Option<u64>,
    /// Commands of the script that were run.
    commands: u64,
    /// Whether commands ran with the rights of `memalloc on`.
    pub(crate) memalloc: bool,
}

/// The machine that a command works on.
pub(crate) struct Subject<W: World> {
    pub(crate) mm: &'static Mm<W::Machine>,
    pub(crate) arena: &'static MovableArena<W::Machine>,
}

impl<W: World> Clone for Subject<W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W: World> Copy for Subject<W> {}

impl<W: World> Lab<W> {
    /// A lab that holds nothing.
    pub const fn new(world: W) -> Self {
        Self {
            world,
            ledger: Ledger::new(),
            groups: Groups::new(),
            caches: Caches::new(),
            notes: Notes::new(),
            spaces: Spaces::new(),
            buffer: [0; PAGE_SIZE],
            switched: Switched::NOTHING,
            trace: false,
            quiet: false,
            body: Body::new(),
            random: Random::FIRST,
            number: 0,
            failed_at: None,
            commands: 0,
            memalloc: false,
        }
    }

    /// The place it runs in.
    pub fn world(&self) -> &W {
        &self.world
    }

    /// The place it runs in.
    pub fn world_mut(&mut self) -> &mut W {
        &mut self.world
    }

    /// Names of groups, caches and spaces, for completion.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let groups = self.groups.iter().map(|group| group.name.as_str());
        groups.chain(self.caches.names()).chain(self.space_names())
    }

    /// Names of spaces, for completion.
    pub(crate) fn space_names(&self) -> impl Iterator<Item = &str> {
        self.spaces.iter().map(|(_, held)| held.name.as_str())
    }

    /// Paths that `cat` can show, for completion.
    pub fn files(&self) -> impl Iterator<Item = &'static str> + use<W> {
        let zram = self.world.zram().map_or(&[][..], |_| &crate::commands::zram::FILES);
        mm::proc::FILES.iter().chain(zram).chain(self.world.files()).copied()
    }

    /// Has each command of a script shown before it runs, or not.
    pub fn set_trace(&mut self, on: bool) {
        self.trace = on;
    }

    /// Runs a line: at most one command. What it has to say, its error too, has
    /// been printed when this returns. With interrupts on, no lock held.
    pub fn line(&mut self, line: &[u8]) -> Outcome {
        match text(line).map_err(Stop::from).and_then(|text| self.line_or_loop(text)) {
            Ok(()) => Outcome::Ok,
            Err(Stop::Unexpected) => Outcome::Unexpected,
            Err(Stop::Failed(error)) => {
                self.say(format_args!("{error}\n"));
                Outcome::Failed(error)
            }
        }
    }

    /// Runs a script up to its end or the first command that fails. Its last
    /// line, the verdict, has been printed when this returns. What the script
    /// holds at its end stays held.
    pub fn script(&mut self, script: &[u8]) -> Verdict {
        (self.number, self.commands, self.failed_at) = (0, 0, None);
        self.abandon();
        let mut verdict = None;
        let script = script.strip_prefix(UTF8_MARK).unwrap_or(script);
        for line in script.split(|&b| b == b'\n') {
            self.number += 1;
            if text(line).is_ok_and(str::is_empty) {
                continue;
            }
            if !self.line(line).is_ok() {
                verdict = Some(Verdict::Failed(self.failed_at.take().unwrap_or(self.number)));
                break;
            }
        }
        let open = if self.world.is_describing() {
            Some("a machine without its end")
        } else {
            self.body.is_open().then_some("a loop without its end")
        };
        if let (None, Some(why)) = (verdict, open) {
            self.say(format_args!("{}\n", Error::new(Errno::EINVAL, why)));
            verdict = Some(Verdict::Failed(self.number));
        }
        self.abandon();
        self.number = 0;
        let verdict = verdict.unwrap_or(Verdict::Ok(self.commands));
        self.say(format_args!("{verdict}\n"));
        verdict
    }

    /// Gives back all that the lab holds and switches off all that it has
    /// switched on.
    pub fn reset(&mut self) {
        if let Ok(on) = self.subject() {
            self.release_all(on);
        }
    }

    pub(crate) fn print(&mut self, text: fmt::Arguments<'_>) {
        if !self.quiet {
            self.world.print(text);
        }
    }

    /// Prints what is to be known even when commands are quiet.
    pub(crate) fn say(&mut self, text: fmt::Arguments<'_>) {
        self.world.print(text);
    }

    /// The name of a group that is about to be made: no space's.
    ///
    /// # Errors
    /// As [`Groups::new_name`].
    pub(crate) fn new_group_name(&self, word: &str) -> Result<Name, Error> {
        if self.spaces.find(word).is_some() {
            return Err(Error::new(Errno::EEXIST, "the name is in use").about(word));
        }
        self.groups.new_name(word)
    }

    /// The machine to work on.
    ///
    /// # Errors
    /// EAGAIN where there is none yet.
    pub(crate) fn subject(&self) -> Result<Subject<W>, Error> {
        match (self.world.mm(), self.world.arena()) {
            (Some(mm), Some(arena)) => Ok(Subject { mm, arena }),
            _ => Err(Error::new(Errno::EAGAIN, "there is no machine yet")),
        }
    }

    /// # Errors
    /// EINTR when the user wants it to stop.
    pub(crate) fn go_on(&self) -> Result<(), Error> {
        if self.world.interrupted() {
            return Err(Error::new(Errno::EINTR, "interrupted"));
        }
        Ok(())
    }

    /// Runs a line that is no part of a loop's frame.
    pub(crate) fn run(&mut self, text: &str) -> Done {
        let describing = self.world.is_describing();
        let line = if describing { None } else { Some(self.picked(text)?) };
        let text = line.as_ref().map_or(text, Line::as_str);
        if self.trace && !text.is_empty() {
            self.print(format_args!("+ {text}\n"));
        }
        // The description of a machine is one command.
        self.commands += u64::from(!describing && !text.is_empty());
        if describing && !text.is_empty() {
            return Ok(self.world.describe(text)?);
        }
        let words = Words::split(text)?;
        self.command(words.as_slice())
    }
}

impl<W: World> Drop for Lab<W> {
    fn drop(&mut self) {
        self.reset();
    }
}
