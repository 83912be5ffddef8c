//! What is done to the machine as a whole. May call `mm`.

use crate::errno::{Errno, Error};
use crate::lab::{Done, Lab};
use crate::parse::{Args, count, number};
use crate::world::World;
use core::num::NonZeroU64;
use mm::fault::FaultPlan;
use mm::platform::Platform;
use mm::types::CpuId;

impl<W: World> Lab<W> {
    pub(super) fn begin_machine(&mut self, args: Args<'_>) -> Done {
        args.done()?;
        let old = self.subject();
        self.world.describe("machine")?;
        if let Ok(old) = old {
            self.release_all(old);
        }
        Ok(())
    }

    pub(super) fn audit(&mut self, args: Args<'_>) -> Done {
        args.done()?;
        let on = self.subject()?;
        let zram = self.world.zram();
        let device = zram.map_or(Ok(0), |zram| zram.audit(on.mm).map(|audit| audit.pages));
        match device.and_then(|_| on.mm.audit()) {
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

    pub(super) fn compact(&mut self, mut args: Args<'_>) -> Done {
        let on = self.subject()?;
        let node = args.next().map(|word| on.node(word)).transpose()?;
        args.done()?;
        let done = on.mm.compact_memory(node);
        let (moved, failed) = (done.moved, done.failed);
        self.print(format_args!("-> compact: {moved} pages moved, {failed} stayed\n"));
        Ok(())
    }

    pub(super) fn drain(&mut self, args: Args<'_>) -> Done {
        args.done()?;
        let on = self.subject()?;
        let pages = on.mm.drain_all(None);
        self.print(format_args!("-> drain: {pages} pages\n"));
        Ok(())
    }

    pub(super) fn reap(&mut self, args: Args<'_>) -> Done {
        args.done()?;
        let on = self.subject()?;
        for cpu in 0..on.mm.platform().cpus() {
            self.go_on()?;
            // A CPU that does not run has nothing to reap.
            let _ = self.world.on_cpu(CpuId(cpu), &mut || {
                on.mm.cache_reap();
            });
        }
        Ok(())
    }

    pub(super) fn tick(&mut self, mut args: Args<'_>) -> Done {
        /// As far as one command may reach: a day.
        const MOST: u64 = 24 * 60 * 60 * 1000;
        let word = args.need("tick MS")?;
        args.done()?;
        let ms = number(word)?;
        if ms > MOST {
            return Err(Error::new(Errno::ERANGE, "more than a day").about(word).into());
        }
        self.subject()?;
        Ok(self.world.tick(ms)?)
    }

    pub(super) fn memalloc(&mut self, mut args: Args<'_>) -> Done {
        const FORM: &str = "memalloc on|off";
        let on = match args.need(FORM)? {
            "on" => true,
            "off" => false,
            other => return Err(Error::new(Errno::EINVAL, FORM).about(other).into()),
        };
        args.done()?;
        self.subject()?;
        self.world.set_memalloc(on);
        self.memalloc = on;
        Ok(())
    }

    pub(super) fn fail(&mut self, mut args: Args<'_>) -> Done {
        let on = self.subject()?;
        let nth = args.option("nth").map(count).transpose()?;
        let every = args.option("every").map(count).transpose()?;
        let off = args.flag("off");
        args.done()?;
        let positive = |n: u64| NonZeroU64::new(n).unwrap_or(NonZeroU64::MIN);
        let plan = match (nth, every, off) {
            (Some(n), None, false) => FaultPlan::Nth(positive(n)),
            (None, Some(n), false) => FaultPlan::Every(positive(n)),
            (None, None, true) => FaultPlan::Off,
            _ => return Err(Error::new(Errno::EINVAL, "fail nth=N | every=N | off").into()),
        };
        on.mm.set_faults(plan);
        if plan == FaultPlan::Off {
            let counts = on.mm.fault_counts();
            self.print(format_args!("-> fail: {} of {} failed\n", counts.failed, counts.seen));
        }
        Ok(())
    }
}
