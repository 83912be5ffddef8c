//! Tests of the kernel itself. Calls what it tests.

use crate::arch::time;
use crate::selftests::Machine;
use selftest::{Case, CaseResult, Suite, Test, check};

/// The suites.
pub(super) const SUITES: [Suite<Machine>; 1] =
    [Suite { name: "kernel", cases: &[Case::quick("clock_runs", clock_runs)] }];

/// The clock neither stands still nor goes back.
fn clock_runs(_: &mut Test<'_, Machine>) -> CaseResult {
    let start = time::now_us();
    let mut last = start;
    for _ in 0..100_000_000 {
        let now = time::now_us();
        check!(now >= last, "{last} us, then {now} us");
        if now > start + 1000 {
            return Ok(());
        }
        last = now;
    }
    selftest::fail!("still {last} us");
}
