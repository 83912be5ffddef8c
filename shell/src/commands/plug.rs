//! How much memory the machine's host has plugged into it. May call `mm`.

use crate::errno::{Errno, Error};
use crate::lab::{Done, Lab};
use crate::parse::{Args, number};
use crate::world::World;

impl<W: World> Lab<W> {
    /// Shows what is plugged; or has the host want so much plugged, as by
    /// `requested-size` at QEMU's monitor, where the host is simulated too.
    pub(super) fn plug(&mut self, mut args: Args<'_>) -> Done {
        self.subject()?;
        let size = args.next().map(number).transpose()?;
        args.done()?;
        if let Some(size) = size {
            self.world.request_plugged(size)?;
        }
        let Some(plug) = self.world.plugged() else {
            let why = "there is no device that memory is plugged by";
            return Err(Error::new(Errno::EOPNOTSUPP, why).into());
        };
        let (plugged, requested, most) =
            (plug.plugged >> 20, plug.requested >> 20, plug.most >> 20);
        self.print(format_args!(
            "-> plug: {plugged} MiB plugged, {requested} wanted, {most} at most"
        ));
        let waits = if plug.retry_ms.is_some() { ", to be tried again" } else { "" };
        self.print(format_args!("{waits}\n"));
        Ok(())
    }

    /// A fact about what is plugged; None where nothing can be, or for another.
    pub(crate) fn plug_fact(&self, asked: &str) -> Option<u64> {
        let plug = self.world.plugged()?;
        match asked {
            "plugged" => Some(plug.plugged),
            "requested" => Some(plug.requested),
            "most" => Some(plug.most),
            _ => None,
        }
    }
}
