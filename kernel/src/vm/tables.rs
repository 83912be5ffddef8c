//! The kernel's page tables once they are in force: what they map, and mapping
//! more with frames that somebody hands in. Calls `layout`.

use crate::arch::irq::IrqMutex;
use crate::vm::layout;
use core::arch::asm;
use mm::types::{PAGE_SIZE, Pfn};
use x86_64::structures::paging::mapper::MapToError;
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageTable, PageTableFlags, PhysFrame, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

/// Rights of all entries that point to tables; the last level restricts them.
pub(crate) const PARENT: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE);

/// Frame of the fourth level; whoever holds the lock may change the tables.
static ROOT: IrqMutex<Option<PhysFrame>> = IrqMutex::new(None);

/// Puts the tables at `root` in force, moves to the stack that ends at
/// `stack_top`, and goes on there in `next`, which gets `with`.
///
/// # Safety
///
/// The tables must map the kernel image as it is now, RAM at
/// [`layout::DIRECT_MAP`], and the stack, which nobody else may use. Nothing on
/// the old stack may be used afterwards.
pub(crate) unsafe fn activate<T>(
    root: PhysFrame,
    stack_top: u64,
    next: extern "C" fn(*mut T) -> !,
    with: *mut T,
) -> ! {
    *ROOT.lock() = Some(root);
    // SAFETY: the caller vouches for tables and stack. A zero frame pointer and
    // return address end backtraces.
    unsafe {
        asm!(
            "mov cr3, {root}",
            "mov rsp, {top}",
            "xor ebp, ebp",
            "push 0",
            "jmp {next}",
            root = in(reg) root.start_address().as_u64(),
            top = in(reg) stack_top,
            next = in(reg) next,
            in("rdi") with,
            options(noreturn),
        )
    }
}

/// Where frame `pfn` lies in the direct map.
pub(crate) fn frame_ptr(pfn: Pfn) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut((layout::DIRECT_MAP + pfn.addr()) as usize)
}

/// The frame that `ptr` points to in the direct map.
pub(crate) fn pfn_of(ptr: *const u8) -> Option<Pfn> {
    let offset = (ptr.addr() as u64).checked_sub(layout::DIRECT_MAP)?;
    (offset < layout::DIRECT_MAP_LEN).then(|| Pfn::containing(offset))
}

/// Hands the tables in force to `f`, if they are the kernel's own.
fn with_tables<R>(f: impl FnOnce(&mut OffsetPageTable<'_>) -> R) -> Option<R> {
    let root = ROOT.lock();
    let frame = Pfn::containing((*root)?.start_address().as_u64());
    let table: *mut PageTable = frame_ptr(frame).cast();
    // SAFETY: all tables lie in RAM, thus in the direct map, and the lock makes
    // this the only reference.
    let mut tables =
        unsafe { OffsetPageTable::new(&mut *table, VirtAddr::new(layout::DIRECT_MAP)) };
    Some(f(&mut tables))
}

/// Frames that somebody hands in, for tables.
struct Handed<'a>(&'a mut dyn FnMut() -> Option<Pfn>);

// SAFETY: whoever hands a frame in gives it away.
unsafe impl FrameAllocator<Size4KiB> for Handed<'_> {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let pfn = (self.0)()?;
        Some(PhysFrame::containing_address(PhysAddr::new(pfn.addr())))
    }
}

/// Backs `bytes` from `start` on (a page's first byte) with zeroed frames from
/// `source`, which also gives those for tables. What is backed already stays.
/// False when `source` ran dry; what was done by then stays done.
pub(crate) fn commit(start: u64, bytes: usize, source: &mut dyn FnMut() -> Option<Pfn>) -> bool {
    let flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE | PageTableFlags::NO_EXECUTE;
    let end = start.saturating_add(bytes as u64);
    with_tables(|tables| {
        for addr in (start..end).step_by(PAGE_SIZE) {
            let page: Page<Size4KiB> = Page::containing_address(VirtAddr::new(addr));
            if tables.translate_page(page).is_ok() {
                continue;
            }
            let Some(pfn) = source() else { return false };
            // SAFETY: the frame was given away by `source`, and RAM is mapped.
            unsafe { frame_ptr(pfn).write_bytes(0, PAGE_SIZE) };
            let frame = PhysFrame::containing_address(PhysAddr::new(pfn.addr()));
            // SAFETY: nothing was mapped there, and the frame is nobody's else.
            let mapped = unsafe {
                let frames = &mut Handed(source);
                tables.map_to_with_table_flags(page, frame, flags, PARENT, frames)
            };
            match mapped {
                Ok(flush) => flush.ignore(),
                // The frame is lost to its owner, as is the attempt.
                Err(MapToError::FrameAllocationFailed) => return false,
                Err(_) => {}
            }
        }
        true
    })
    .unwrap_or(false)
}
