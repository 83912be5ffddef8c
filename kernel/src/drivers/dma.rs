//! Memory for devices: in one piece, zeroed, where the device has addresses.
//! x86 keeps caches and devices coherent, and no IOMMU is ever switched on, so a
//! physical address is what a device uses. Calls `mm`, `vm`.

use crate::{memory, vm};
use ::drivers::{BufferDirection, Hal, Memory, PhysAddr};
use core::ptr::NonNull;
use mm::types::{MAX_ORDER, Order, PAGE_SIZE, Pfn, PfnRange};
use mm::{Gfp, Page, Request};

/// Addresses that an ISA device has.
const ISA: u64 = (1 << 24) - 1;
/// Addresses of 32 bits.
const LOW: u64 = u32::MAX as u64;

/// The smallest block that holds `pages`.
fn order(pages: usize) -> Option<Order> {
    let pages = pages.checked_next_power_of_two().filter(|_| pages > 0)?;
    let order = Order(pages.trailing_zeros() as u8);
    (order <= MAX_ORDER).then_some(order)
}

/// `pages` zeroed frames in one piece, for a device that has the addresses up to
/// `mask` (as Linux `dma_alloc_coherent`). Those beyond a power of two are given
/// by the block and go with it. In a thread that may wait for memory.
pub(crate) fn alloc(pages: usize, mask: u64) -> Option<PfnRange> {
    let mm = memory::manager()?;
    let order = order(pages)?;
    let zone = match mask {
        ..ISA => return None,
        ISA..LOW => Gfp::DMA,
        LOW..u64::MAX => Gfp::DMA32,
        u64::MAX => Gfp::empty(),
    };
    // Anything will do if it lies low enough by chance.
    for zone in [Gfp::empty(), zone] {
        let gfp = Gfp::KERNEL | Gfp::ZERO | Gfp::NOWARN | Gfp::RETRY_MAYFAIL | zone;
        let Ok(page) = mm.alloc_pages(Request::new(order, gfp)) else { continue };
        if page.pfn.addr() + (order.bytes() as u64 - 1) <= mask {
            return Some(PfnRange::new(page.pfn, page.pfn.add(pages as u64)));
        }
        free_block(page);
    }
    None
}

/// Frees what [`alloc`] gave. No device may use it any more.
pub(crate) fn free(frames: PfnRange) {
    match order(frames.pages() as usize) {
        Some(order) => free_block(Page { pfn: frames.start, order }),
        None => log::error!("dma: {frames:?} was never allocated"),
    }
}

fn free_block(page: Page) {
    let Some(mm) = memory::manager() else { return };
    if let Err(error) = mm.free_pages(page) {
        log::error!("dma: {:?} cannot be freed: {error}", page.pfn);
    }
}

/// The machine's memory, for devices with addresses of 64 bits.
#[derive(Debug)]
pub(crate) struct DeviceMemory;

// SAFETY: blocks from the memory manager are nobody's else until they are freed,
// zeroed, and mapped in the direct map, by which addresses are translated.
unsafe impl Hal for DeviceMemory {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let frames = alloc(pages, u64::MAX);
        let found = frames.and_then(|it| Some((it.start.addr(), frame(it.start)?)));
        found.unwrap_or((0, NonNull::dangling()))
    }

    unsafe fn dma_dealloc(paddr: PhysAddr, _vaddr: NonNull<u8>, pages: usize) -> i32 {
        let start = Pfn::containing(paddr);
        free(PfnRange::new(start, start.add(pages as u64)));
        0
    }

    unsafe fn mmio_phys_to_virt(_paddr: PhysAddr, _size: usize) -> NonNull<u8> {
        unreachable!("only virtio-drivers' PCI transport asks, which is not used")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        // Whoever submits a buffer has asked `reach` first.
        Self::reach(buffer.cast(), buffer.len()).unwrap_or(0)
    }

    unsafe fn unshare(_paddr: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}

// SAFETY: as above.
unsafe impl Memory for DeviceMemory {
    fn reach(ptr: NonNull<u8>, len: usize) -> Option<PhysAddr> {
        let first = vm::pfn_of(ptr.as_ptr())?;
        // What follows in the direct map follows in memory.
        vm::pfn_of(ptr.as_ptr().wrapping_add(len.checked_sub(1)?))?;
        Some(first.addr() + (ptr.as_ptr().addr() % PAGE_SIZE) as u64)
    }

    fn at(addr: PhysAddr) -> NonNull<u8> {
        let ptr = vm::frame_ptr(Pfn::containing(addr)).wrapping_add(addr as usize % PAGE_SIZE);
        // The direct map does not begin at address 0.
        NonNull::new(ptr).unwrap_or(NonNull::dangling())
    }
}

fn frame(pfn: Pfn) -> Option<NonNull<u8>> {
    NonNull::new(vm::frame_ptr(pfn))
}
