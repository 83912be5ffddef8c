//! What the host is told of free memory. May call `mm`.

use crate::errno::{Errno, Error};
use crate::lab::{Done, Lab};
use crate::parse::{Args, small};
use crate::world::World;
use mm::report::NoPass;
use mm::types::{Order, PAGE_SIZE};

const fn mib(pages: u64) -> u64 {
    (pages * PAGE_SIZE as u64) >> 20
}

impl From<NoPass> for Error {
    fn from(why: NoPass) -> Self {
        match why {
            NoPass::NoDevice => Self::new(Errno::EOPNOTSUPP, "there is no reporting device"),
            NoPass::Off => Self::new(Errno::EPERM, "reporting is off"),
            NoPass::Busy => Self::new(Errno::EBUSY, "a pass is on its way"),
        }
    }
}

impl<W: World> Lab<W> {
    pub(super) fn report(&mut self, mut args: Args<'_>) -> Done {
        const FORM: &str = "report [now | all | on | off | order ORDER]";
        let on = self.subject()?;
        let what = args.next();
        let order: Option<u8> = match what {
            Some("order") => Some(small(args.need(FORM)?)?),
            _ => None,
        };
        args.done()?;
        match (what, order) {
            (None, _) => {}
            (Some("now"), _) => {
                let pages = on.mm.report_now().map_err(Error::from)?;
                self.print(format_args!("-> report: {pages} pages, {} MiB\n", mib(pages)));
                return Ok(());
            }
            (Some("all"), _) => {
                on.mm.report_all();
            }
            (Some("on"), _) => {
                on.mm.set_reporting(true);
            }
            (Some("off"), _) => {
                on.mm.set_reporting(false);
            }
            (Some("order"), Some(order)) => {
                if !on.mm.set_report_order(Order(order)) {
                    return Err(Error::new(Errno::EINVAL, "orders are 0 to 10").into());
                }
            }
            (Some(other), _) => return Err(Error::new(Errno::EINVAL, FORM).about(other).into()),
        }
        let (status, stats) = (on.mm.report_status(), on.mm.report_stats());
        let state = match (status.registered, status.on) {
            (false, _) => "no device",
            (true, false) => "off",
            (true, true) => status.state.name(),
        };
        self.print(format_args!(
            "-> report: {state}, from order {}, {} MiB told in {} passes, {} MiB known\n",
            status.order,
            mib(stats.pages),
            stats.passes,
            mib(on.mm.reported_pages()),
        ));
        Ok(())
    }
}
