//! Host memory as devices see it: a byte's address is its pointer. Calls the
//! host's allocator.

use crate::Memory;
use core::cell::Cell;
use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::thread_local;
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

thread_local! {
    static PAGES: Cell<usize> = const { Cell::new(0) };
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Pages that this thread has allocated for devices and not freed: what is there
/// at the end is leaked.
pub fn dma_pages() -> usize {
    PAGES.get()
}

/// Has all but the next `left` of this thread's allocations for devices fail;
/// None: none of them.
pub fn fail_allocations(left: Option<usize>) {
    LEFT.set(left);
}

/// The host's memory.
#[derive(Debug)]
pub struct HostMemory;

fn layout(pages: usize) -> Option<Layout> {
    Layout::from_size_align(pages.checked_mul(PAGE_SIZE)?, PAGE_SIZE).ok()
}

// SAFETY: what is allocated is fresh, zeroed, aligned and freed once; addresses
// are pointers whose provenance is exposed.
unsafe impl Hal for HostMemory {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let none = (0, NonNull::dangling());
        match LEFT.get() {
            Some(0) => return none,
            left => LEFT.set(left.map(|left| left - 1)),
        }
        let Some(layout) = layout(pages).filter(|it| it.size() > 0) else { return none };
        // SAFETY: of more than no bytes.
        let Some(ptr) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { return none };
        PAGES.set(PAGES.get() + pages);
        (ptr.as_ptr().expose_provenance() as PhysAddr, ptr)
    }

    unsafe fn dma_dealloc(_paddr: PhysAddr, vaddr: NonNull<u8>, pages: usize) -> i32 {
        if let Some(layout) = layout(pages) {
            PAGES.set(PAGES.get().wrapping_sub(pages));
            // SAFETY: from `dma_alloc`, of this many pages; the caller's word.
            unsafe { dealloc(vaddr.as_ptr(), layout) };
        }
        0
    }

    unsafe fn mmio_phys_to_virt(_paddr: PhysAddr, _size: usize) -> NonNull<u8> {
        unreachable!("simulated devices have no registers in memory")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr().expose_provenance() as PhysAddr
    }

    unsafe fn unshare(_paddr: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}

// SAFETY: as above.
unsafe impl Memory for HostMemory {
    fn reach(ptr: NonNull<u8>, _len: usize) -> Option<PhysAddr> {
        Some(ptr.as_ptr().expose_provenance() as PhysAddr)
    }

    fn at(addr: PhysAddr) -> NonNull<u8> {
        NonNull::new(core::ptr::with_exposed_provenance_mut(addr as usize))
            .expect("no memory has address 0")
    }
}
