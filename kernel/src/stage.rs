//! Boot stages: each is announced before it begins, so that a machine that
//! hangs names the place. Calls `log`.

use crate::arch::irq::IrqMutex;
use core::fmt;
use mm::sync::LockRank;

static CURRENT: IrqMutex<&str> = IrqMutex::new(LockRank::Leaf, "entry");

/// Logs that `name` begins.
pub(crate) fn begin(name: &'static str) {
    *CURRENT.lock() = name;
    log::info!("boot: {name}");
}

/// The stage that began last, for the crash report.
pub(crate) fn current() -> impl fmt::Display {
    CURRENT.try_lock().map_or("?", |name| *name)
}
