//! `help`. Calls nothing.

use crate::errno::{Errno, Error};
use crate::help::{COMMANDS, TOPICS};
use crate::lab::{Done, Lab};
use crate::parse::Args;
use crate::world::World;

impl<W: World> Lab<W> {
    pub(super) fn help(&mut self, mut args: Args<'_>) -> Done {
        let about = args.next();
        args.done()?;
        let Some(about) = about else {
            for c in COMMANDS {
                self.go_on()?;
                self.print(format_args!("{}\n    {}\n", c.synopsis, c.help));
            }
            for &[_, synopsis, help, _] in self.world.commands() {
                self.print(format_args!("{synopsis}\n    {help}\n"));
            }
            return Ok(());
        };
        if let Some([_, text]) = TOPICS.iter().find(|[name, _]| *name == about) {
            self.print(format_args!("{text}"));
            return Ok(());
        }
        let own = COMMANDS.iter().find(|c| c.name == about);
        let entry = own.map(|c| [c.name, c.synopsis, c.help, c.example]);
        let foreign = || self.world.commands().iter().find(|c| c[0] == about).copied();
        let Some([_, synopsis, help, example]) = entry.or_else(foreign) else {
            return Err(Error::new(Errno::ENOENT, "no such command").about(about).into());
        };
        self.print(format_args!("{synopsis}\n  {help}\n  example: {example}\n"));
        Ok(())
    }
}
