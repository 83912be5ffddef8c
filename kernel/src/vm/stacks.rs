//! Kernel stacks, each above an unmapped guard page. Calls `layout`, `image`.

use crate::image;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// The stack that the boot loader made: first byte, and one past the last.
static LOADER: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// Notes where the boot loader's stack is; with `len` 0, that it is gone.
pub(crate) fn set_loader_stack(start: u64, len: u64) {
    LOADER[0].store(start, Ordering::Relaxed);
    LOADER[1].store(start.saturating_add(len), Ordering::Relaxed);
}

/// Whether `addr` lies in a stack that is mapped (or in the kernel image,
/// where the first exception stacks are).
pub(crate) fn is_stack(addr: u64) -> bool {
    let loader = LOADER[0].load(Ordering::Relaxed)..LOADER[1].load(Ordering::Relaxed);
    loader.contains(&addr) || (image::base()..image::end()).contains(&addr)
}

/// A kernel stack's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StackName(&'static str);

impl fmt::Display for StackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The stack whose guard page `addr` lies in.
pub(crate) fn guard_below(addr: u64) -> Option<StackName> {
    let start = LOADER[0].load(Ordering::Relaxed);
    (start != 0 && (start.saturating_sub(4096)..start).contains(&addr))
        .then_some(StackName("the boot loader's stack"))
}
