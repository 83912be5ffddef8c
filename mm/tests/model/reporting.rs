//! Passes of free page reporting between all other steps, to a host that fails
//! now and then.

use crate::world::World;
use mm::report::{ReportDevice, ReportFailed};
use mm::types::{Order, PfnRange};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A host that keeps what it is told of as it is.
struct Host(AtomicU64);

static HOST: Host = Host(AtomicU64::new(0));

impl ReportDevice for Host {
    fn report(&self, blocks: &[PfnRange]) -> Result<(), ReportFailed> {
        assert!(!blocks.is_empty() && blocks.len() <= 32);
        match self.0.fetch_add(1, Relaxed) {
            n if n % 23 == 22 => Err(ReportFailed::Gone),
            n if n % 29 == 28 => Err(ReportFailed::Lost),
            n if n % 5 == 4 => Err(ReportFailed::Refused),
            _ => Ok(()),
        }
    }

    fn preserves(&self, _: u8) -> bool {
        true
    }
}

impl World<'_> {
    /// A pass, from whatever order on, after which nothing is out.
    pub(crate) fn report(&mut self) {
        // It is there already, unless it went in the last pass.
        let _ = self.mm.report_register(&HOST, None);
        if self.rng.percent(20) {
            assert!(self.mm.set_report_order(Order(self.rng.below(11) as u8)));
        }
        if self.rng.percent(5) {
            self.mm.report_unregister();
        }
        let registered = self.mm.report_status().registered;
        assert_eq!(self.mm.report_now().is_ok(), registered);
        self.mm.report_recover();
        assert!(self.mm.zones().iter().all(|zone| zone.pages_out() == 0));
    }
}
