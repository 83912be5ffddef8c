//! The whole audit, after all other suites.

use super::{Ground, suite};
use crate::case::{CaseResult, Level, Test};
use crate::{check_eq, fail, skip};
use mm::platform::Platform;

suite! {
    /// The audit of everything.
    Audit = "audit" {
        quick everything,
    }
}

/// Pages with descriptors that a boot can afford to audit: 16 GiB.
const QUICK_AUDIT: u64 = 1 << 22;

fn everything<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let deferred = mm.zones().iter().map(mm::zone::Zone::deferred_pages).sum::<u64>();
    let populated = mm.managed_pages() - deferred;
    if t.level < Level::Full && populated > QUICK_AUDIT {
        skip!("{populated} pages are for selftest=full");
    }
    mm.drain_all(None);
    match mm.audit() {
        Ok(audit) => {
            let present = mm.zones().iter().map(mm::zone::Zone::present).sum::<u64>();
            check_eq!(audit.pages, present, "pages audited");
            check_eq!(audit.pcp, 0, "pages on drained CPU lists");
            t.note(format_args!(
                "{} pages, {} checks: {} free ({deferred} of them deferred), {} allocated, {} reserved",
                audit.pages, audit.checks, audit.free, audit.allocated, audit.reserved
            ));
            Ok(())
        }
        Err(wrong) => fail!("{wrong}"),
    }
}
