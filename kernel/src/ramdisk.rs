//! The boot image's ramdisk as this boot found it: where its bytes are, and the
//! function names in it. Calls the pure `archive` and `symbols`.

use core::slice;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use quarry_kernel::{archive, symbols};

static START: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
static LEN: AtomicUsize = AtomicUsize::new(0);

/// Says where the ramdisk is mapped from now on.
///
/// # Safety
///
/// `len` bytes from `start` on must be mapped and unchanged until the next call
/// (which maps the same bytes elsewhere) or for good.
pub(crate) unsafe fn set(start: *const u8, len: usize) {
    LEN.store(0, Ordering::Relaxed);
    START.store(start.cast_mut(), Ordering::Release);
    LEN.store(len, Ordering::Release);
}

/// Hands the archive's bytes to `f`; none if the image has no ramdisk.
pub(crate) fn with<R>(f: impl FnOnce(&[u8]) -> R) -> R {
    let len = LEN.load(Ordering::Acquire);
    let start = START.load(Ordering::Acquire);
    if len == 0 || start.is_null() {
        return f(&[]);
    }
    // SAFETY: `set` was promised that these bytes stay until it is called
    // again, which no caller of this function does inside `f`.
    f(unsafe { slice::from_raw_parts(start, len) })
}

/// Hands to `f` the function that the kernel image's byte `offset` belongs to,
/// and how far it lies inside.
pub(crate) fn with_symbol<R>(offset: u64, f: impl FnOnce(Option<(&str, u64)>) -> R) -> R {
    with(|bytes| {
        f(archive::section(bytes, "symbols").and_then(|table| symbols::lookup(table, offset)))
    })
}
