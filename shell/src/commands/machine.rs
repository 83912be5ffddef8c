//! What is done to the machine as a whole. May call `mm`.

use crate::errno::{Errno, Error};
use crate::lab::{Done, Lab};
use crate::parse::Args;
use crate::world::World;

impl<W: World> Lab<W> {
    pub(super) fn audit(&mut self, args: Args<'_>) -> Done {
        args.done()?;
        let on = self.subject()?;
        match on.mm.audit() {
            Ok(audit) => {
                let (pages, checks) = (audit.pages, audit.checks);
                self.print(format_args!("audit: ok ({pages} pages, {checks} checks)\n"));
                Ok(())
            }
            Err(wrong) => {
                self.print(format_args!("audit: {wrong}\n"));
                Err(Error::new(Errno::EIO, "the machine's state is damaged").into())
            }
        }
    }
}
