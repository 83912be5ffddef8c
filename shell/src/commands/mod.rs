//! What the commands do, a file for each kind. May call: `mm` and the rest of
//! this crate.

pub(crate) mod blocks;
pub(crate) mod caches;
pub(crate) mod files;
mod helping;
mod machine;
mod pages;

use crate::errno::{Errno, Error};
use crate::lab::{Done, Lab};
use crate::parse::Args;
use crate::world::World;

impl<W: World> Lab<W> {
    /// Runs the command `words`, the first of which is its name; `text` is the
    /// line that they come from.
    pub(crate) fn command(&mut self, words: &[&str], _text: &str) -> Done {
        let Some((&name, rest)) = words.split_first() else { return Ok(()) };
        let args = Args::new(rest);
        match name {
            "alloc" => self.alloc(args),
            "audit" => self.audit(args),
            "cat" => self.cat(args),
            "free" => self.free(args),
            "help" => self.help(args),
            _ => self.foreign(words),
        }
    }

    /// A command of the world, or none at all.
    fn foreign(&mut self, words: &[&str]) -> Done {
        match self.world.command(words) {
            Some(result) => Ok(result?),
            None => Err(Error::new(Errno::ENOSYS, "no such command").about(words[0]).into()),
        }
    }
}
