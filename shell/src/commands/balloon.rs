//! How much of the machine its host has by way of the balloon. May call `mm`.

use crate::errno::{Errno, Error};
use crate::lab::{Done, Lab};
use crate::parse::{Args, number};
use crate::world::World;
use mm::balloon::Balloon;
use mm::types::PAGE_SIZE;
use mm::zone::Zone;

const fn mib(pages: u64) -> u64 {
    (pages * PAGE_SIZE as u64) >> 20
}

impl<W: World> Lab<W> {
    /// Shows the balloon; or has the host want the guest to make do with a size,
    /// as `balloon` does at QEMU's monitor, where the host is simulated too.
    pub(super) fn balloon(&mut self, mut args: Args<'_>) -> Done {
        let on = self.subject()?;
        let size = args.next().map(number).transpose()?;
        args.done()?;
        if let Some(size) = size {
            let present: u64 = on.mm.zones().iter().map(Zone::present).sum();
            let pages = size.div_ceil(PAGE_SIZE as u64);
            if pages > present {
                let why = "the machine has no more to begin with";
                return Err(Error::new(Errno::EINVAL, why).into());
            }
            self.world.set_balloon_target(present - pages)?;
        }
        let there = |balloon: &&Balloon<_>| balloon.terms(on.mm).is_some() || balloon.size() > 0;
        let Some(balloon) = self.world.balloon().filter(there) else {
            let why = "there is no balloon";
            return Err(Error::new(Errno::EOPNOTSUPP, why).into());
        };
        let (lent, target) = (balloon.size(), self.world.balloon_target().unwrap_or(0));
        let moving = balloon.isolated(on.mm);
        self.print(format_args!(
            "-> balloon: {lent} pages lent ({} MiB), {target} wanted, {moving} being moved\n",
            mib(lent)
        ));
        Ok(())
    }

    /// A fact about the balloon; None where there is none, or for another.
    pub(crate) fn balloon_fact(&mut self, asked: &str) -> Option<u64> {
        let mm = self.world.mm()?;
        let balloon = self.world.balloon()?;
        match asked {
            "pages" => Some(balloon.size()),
            "target" => Some(self.world.balloon_target().unwrap_or(0)),
            "isolated" => Some(balloon.isolated(mm)),
            _ => None,
        }
    }
}
