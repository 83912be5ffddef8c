//! The device of compressed memory, which needs no hardware: there is one, and it
//! gets a size when somebody wants it. Calls `zram`, `mm`.

use crate::platform::Machine;
use ::zram::{Zram, ZramSwap};
use mm::Mm;
use mm::swap::SwapDevice;
use mm::sync::Once;

static ZRAM: Zram<Machine> = Zram::new("/dev/zram0");
static SWAP: Once<ZramSwap<Machine>> = Once::new();

/// The device.
pub(crate) fn device() -> &'static Zram<Machine> {
    &ZRAM
}

/// The device as swap sees it, if that is its path.
pub(crate) fn swap(mm: &'static Mm<Machine>, path: &str) -> Option<&'static dyn SwapDevice> {
    if path != ZRAM.name() {
        return None;
    }
    Some(SWAP.call_once(|| ZramSwap::new(mm, &ZRAM)))
}
