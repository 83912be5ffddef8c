//! The memory that is managed: one piece, prefaulted once, lent to one
//! allocator after the other.

use std::sync::OnceLock;

/// Bytes of the pool.
pub const BYTES: usize = 256 << 20;
/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Pages of the pool.
pub const PAGES: usize = BYTES / PAGE;

/// The pool's address, aligned to its size's largest block that is asked for.
pub fn pool() -> *mut u8 {
    static POOL: OnceLock<usize> = OnceLock::new();
    let addr = *POOL.get_or_init(|| {
        let layout = std::alloc::Layout::from_size_align(BYTES, 4 << 20).expect("a layout");
        // SAFETY: the layout is not empty.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        assert!(!start.is_null(), "no memory for the pool");
        for page in 0..PAGES {
            // SAFETY: inside of what was just allocated.
            unsafe { start.add(page * PAGE).write_volatile(1) };
        }
        start.expose_provenance()
    });
    core::ptr::with_exposed_provenance_mut(addr)
}
