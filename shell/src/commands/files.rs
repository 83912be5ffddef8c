//! Reading and writing the machine's report files. May call `mm`.

use crate::errno::{Errno, Error};
use crate::lab::{Done, Lab};
use crate::parse::Args;
use crate::world::World;
use core::fmt;

/// Files that `mm` knows.
pub(crate) const FILES: &[&str] = &["/proc/slabinfo"];

/// Prints what is written to it, until the user has seen enough.
struct Printer<'a, W: World> {
    world: &'a mut W,
}

impl<W: World> fmt::Write for Printer<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.world.interrupted() {
            return Err(fmt::Error);
        }
        self.world.print(format_args!("{text}"));
        Ok(())
    }
}

impl<W: World> Lab<W> {
    pub(super) fn cat(&mut self, mut args: Args<'_>) -> Done {
        let path = args.need("cat PATH")?;
        args.done()?;
        let on = self.subject()?;
        let mut out = Printer { world: &mut self.world };
        let result = match path {
            "/proc/slabinfo" => on.mm.slabinfo(&mut out),
            _ => return Err(Error::new(Errno::ENOENT, "no such file").about(path).into()),
        };
        Ok(result.map_err(|_| Error::new(Errno::EINTR, "interrupted"))?)
    }
}
