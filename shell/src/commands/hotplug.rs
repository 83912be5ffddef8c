//! Memory that comes and goes. May call `mm`.

use crate::errno::{Errno, Error};
use crate::lab::{Done, Lab};
use crate::parse::{Args, count, number, small};
use crate::world::World;
use mm::hotplug::{NewMemory, OnlineType};
use mm::types::{NodeId, PAGE_SIZE, Pfn, PfnRange};

/// `0xSTART SIZE`, in bytes.
fn range(args: &mut Args<'_>, form: &'static str) -> Result<PfnRange, Error> {
    let word = args.need(form)?;
    let (start, size) = (number(word)?, count(args.need(form)?)?);
    let end = start.checked_add(size).ok_or(Error::new(Errno::ERANGE, "beyond 64 bits"))?;
    if [start, size].iter().any(|n| n % PAGE_SIZE as u64 != 0) {
        return Err(Error::new(Errno::EINVAL, "not a multiple of 2 MiB").about(word));
    }
    Ok(PfnRange::new(Pfn::containing(start), Pfn::containing(end)))
}

/// A zone's name in the way that a user says where memory is to go.
fn how(word: &str) -> Result<OnlineType, Error> {
    match word {
        "kernel" => Ok(OnlineType::Kernel),
        "movable" => Ok(OnlineType::Movable),
        _ => Err(Error::new(Errno::EINVAL, "kernel or movable is wanted").about(word)),
    }
}

impl<W: World> Lab<W> {
    pub(super) fn offline(&mut self, mut args: Args<'_>) -> Done {
        let range = range(&mut args, "offline 0xSTART SIZE")?;
        args.done()?;
        let on = self.subject()?;
        let pages = on.mm.offline(range).map_err(Error::from)?;
        self.print(format_args!("-> offline: {pages} pages\n"));
        Ok(())
    }

    pub(super) fn online(&mut self, mut args: Args<'_>) -> Done {
        let range = range(&mut args, "online 0xSTART SIZE [kernel | movable]")?;
        let how = args.next().map_or(Ok(OnlineType::Auto), how)?;
        args.done()?;
        let on = self.subject()?;
        let pages = on.mm.online(range, how).map_err(Error::from)?;
        self.print(format_args!("-> online: {pages} pages\n"));
        Ok(())
    }

    /// Gives a simulated machine memory, and puts it into use if that is what
    /// becomes of new memory there.
    pub(super) fn hotadd(&mut self, mut args: Args<'_>) -> Done {
        let range = range(&mut args, "hotadd 0xSTART SIZE [node=N]")?;
        let node = NodeId(args.option("node").map_or(Ok(0), small)?);
        args.done()?;
        let on = self.subject()?;
        self.only_simulated()?;
        let new = NewMemory { node, name: "System RAM", plugged: true };
        on.mm.add_memory(range, new).map_err(Error::from)?;
        let pages = match on.mm.default_online() {
            Some(how) => on.mm.online(range, how).map_err(Error::from)?,
            None => 0,
        };
        self.print(format_args!("-> hotadd: {} pages, {pages} in use\n", range.pages()));
        Ok(())
    }

    pub(super) fn hotremove(&mut self, mut args: Args<'_>) -> Done {
        let range = range(&mut args, "hotremove 0xSTART SIZE")?;
        args.done()?;
        let on = self.subject()?;
        self.only_simulated()?;
        on.mm.remove_memory(range).map_err(Error::from)?;
        self.print(format_args!("-> hotremove: {} pages\n", range.pages()));
        Ok(())
    }

    /// # Errors
    /// EPERM where memory is what is plugged into a board.
    fn only_simulated(&self) -> Result<(), Error> {
        if self.world.takes_memory() {
            return Ok(());
        }
        Err(Error::new(Errno::EPERM, "the machine is real"))
    }
}
