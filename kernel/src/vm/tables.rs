//! The kernel's page tables once they are in force: what they map, and mapping
//! more with frames that somebody hands in. Calls `layout`.

use crate::arch::irq::IrqMutex;
use crate::smp;
use crate::vm::layout;
use core::arch::asm;
use core::ops::Range;
use mm::sync::LockRank;
use mm::types::{PAGE_SIZE, Pfn, PfnRange};
use quarry_kernel::direct_map::PageSize;
use x86_64::instructions::tlb;
use x86_64::registers::control::Cr3;
use x86_64::structures::paging::mapper::{MapToError, MapperFlush};
use x86_64::structures::paging::page_table::{FrameError, PageTableEntry};
use x86_64::structures::paging::{
    self, FrameAllocator, Mapper, OffsetPageTable, Page, PageSize as _, PageTable, PageTableFlags,
    PhysFrame, Size2MiB, Size4KiB, Translate,
};
use x86_64::{PhysAddr, VirtAddr};

/// Rights of all entries that point to tables; the last level restricts them.
pub(crate) const PARENT: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE);

/// Rights of RAM: nothing in it is run.
const RAM: PageTableFlags = PARENT.union(PageTableFlags::NO_EXECUTE);

/// Device registers: writable, uncached.
pub(crate) const DEVICE: PageTableFlags = PARENT
    .union(PageTableFlags::NO_EXECUTE)
    .union(PageTableFlags::NO_CACHE)
    .union(PageTableFlags::WRITE_THROUGH);

/// Frame of the fourth level; whoever holds the lock may change the tables.
static ROOT: IrqMutex<Option<PhysFrame>> = IrqMutex::new(LockRank::PageTables, None);

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

/// The frame of the fourth level, once the kernel has tables of its own.
pub(crate) fn root() -> Option<Pfn> {
    ROOT.lock().map(pfn_of_frame)
}

/// Where frame `pfn` lies in the direct map.
pub(crate) fn frame_ptr(pfn: Pfn) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut((layout::DIRECT_MAP + pfn.addr()) as usize)
}

/// The frame that `ptr` points to in the direct map.
pub(crate) fn pfn_of(ptr: *const u8) -> Option<Pfn> {
    // What lies before it is beyond it too.
    let offset = (ptr.addr() as u64).wrapping_sub(layout::DIRECT_MAP);
    (offset < layout::DIRECT_MAP_LEN).then(|| Pfn::containing(offset))
}

/// Hands the tables in force to `f`, if they are the kernel's own.
pub(super) fn with_tables<R>(f: impl FnOnce(&mut OffsetPageTable<'_>) -> R) -> Option<R> {
    let root = ROOT.lock();
    let frame = Pfn::containing((*root)?.start_address().as_u64());
    let table: *mut PageTable = frame_ptr(frame).cast();
    // SAFETY: all tables lie in RAM, thus in the direct map, and the lock makes
    // this the only reference.
    let mut tables =
        unsafe { OffsetPageTable::new(&mut *table, VirtAddr::new(layout::DIRECT_MAP)) };
    Some(f(&mut tables))
}

/// What is read where the memory map has been taken back.
#[repr(align(4096))]
struct Zeroes([u8; PAGE_SIZE]);

static ZEROES: Zeroes = Zeroes([0; PAGE_SIZE]);

/// The frame of zeroes that many places may show.
pub(super) fn zero_frame(tables: &OffsetPageTable<'_>) -> Option<PhysFrame> {
    let addr = VirtAddr::new(ZEROES.0.as_ptr().addr() as u64);
    tables.translate_addr(addr).map(PhysFrame::containing_address)
}

/// The entry for the page of 4 KiB at `addr`, if there is a table for it.
pub(super) fn last_entry<'a>(
    tables: &'a mut OffsetPageTable<'_>,
    addr: VirtAddr,
) -> Option<&'a mut PageTableEntry> {
    let mut table = tables.level_4_table_mut();
    for index in [addr.p4_index(), addr.p3_index(), addr.p2_index()] {
        let entry = &table[index];
        if entry.flags().contains(PageTableFlags::HUGE_PAGE) {
            return None;
        }
        let next: *mut PageTable = frame_ptr(pfn_of_frame(entry.frame().ok()?)).cast();
        // SAFETY: tables lie in the direct map, and `tables` says that nobody
        // else changes them meanwhile.
        table = unsafe { &mut *next };
    }
    Some(&mut table[addr.p1_index()])
}

/// Has an entry map `frame` from now on, whatever it mapped before: in one store,
/// so that processors that walk the tables at the same time find the one or the
/// other. Translation caches are the caller's to care for.
pub(super) fn put(entry: &mut PageTableEntry, frame: PhysFrame, flags: PageTableFlags) {
    let mut new = PageTableEntry::new();
    new.set_frame(frame, flags);
    // SAFETY: a reference is good to write through; volatile, so that it is one
    // store of the whole.
    unsafe { core::ptr::from_mut(entry).write_volatile(new) };
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

/// Maps `frames` at `start` (a page's first byte) and on, readable and writable,
/// in large pages where the alignment of both allows; `source` gives frames for
/// tables. False when that ran dry; what was done by then stays done. Nothing
/// may be mapped there yet, so that no other CPU has to be told; the zeroes of
/// what was taken back aside, of which all are.
pub(crate) fn map_frames(
    start: u64,
    frames: PfnRange,
    source: &mut dyn FnMut() -> Option<Pfn>,
) -> bool {
    let mut replaced = false;
    let mapped = with_tables(|tables| {
        let zero = zero_frame(tables);
        let mut done = 0;
        while done < frames.pages() {
            let virt = VirtAddr::new(start + done * PAGE_SIZE as u64);
            let pfn = frames.start.add(done);
            let large = PageSize::Large.order().pages();
            let fits = pfn.is_aligned(PageSize::Large.order())
                && virt.is_aligned(Size2MiB::SIZE)
                && frames.pages() - done >= large;
            let (mapped, pages) = if fits {
                (map_one::<Size2MiB>(tables, virt, pfn, source), large)
            } else {
                let over_zeroes = map_over_zeroes(tables, virt, zero, pfn);
                replaced |= over_zeroes;
                (over_zeroes || map_one::<Size4KiB>(tables, virt, pfn, source), 1)
            };
            if !mapped {
                return false;
            }
            done += pages;
        }
        true
    });
    if replaced {
        flush_everywhere(start..start + frames.pages() * PAGE_SIZE as u64);
    }
    mapped.unwrap_or(false)
}

/// Maps `pfn` at `virt` if zeroes are shown there; whether they were. The caller
/// tells everybody. Whoever reads there meanwhile reads those, or what is new.
fn map_over_zeroes(
    tables: &mut OffsetPageTable<'_>,
    virt: VirtAddr,
    zero: Option<PhysFrame>,
    pfn: Pfn,
) -> bool {
    let Some(entry) = last_entry(tables, virt) else { return false };
    let there = entry.frame().ok();
    if there.is_none() || there != zero {
        return false;
    }
    put(entry, PhysFrame::containing_address(PhysAddr::new(pfn.addr())), RAM);
    true
}

pub(super) fn map_one<S: paging::PageSize>(
    tables: &mut OffsetPageTable<'_>,
    virt: VirtAddr,
    pfn: Pfn,
    source: &mut dyn FnMut() -> Option<Pfn>,
) -> bool
where
    for<'a> OffsetPageTable<'a>: Mapper<S>,
{
    let page = Page::<S>::containing_address(virt);
    let frame = PhysFrame::<S>::containing_address(PhysAddr::new(pfn.addr()));
    // SAFETY: nothing is mapped there, and the frame is its owner's alone.
    let mapped =
        unsafe { tables.map_to_with_table_flags(page, frame, RAM, PARENT, &mut Handed(source)) };
    // What was not mapped is in no translation cache.
    mapped.map(MapperFlush::ignore).is_ok()
}

/// Why [`map_page`] has mapped nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotMapped {
    /// A frame for a table is missing; what there was of them has been used.
    NeedsTable,
    /// Something is mapped there, or the tables are not the kernel's own yet.
    Occupied,
}

/// Maps frame `pfn` at `addr` (a page's first byte), readable and writable. A
/// table that is missing on the way is made of the frame in `spare`, which then
/// becomes None. Never allocates itself, so that no lock of the memory manager
/// is ever wanted inside the lock of the tables.
///
/// # Errors
///
/// [`NotMapped`]; with `NeedsTable` the caller tries again with another frame.
///
/// # Safety
///
/// The addresses must be the caller's to use, and the frames too.
pub(crate) unsafe fn map_page(
    addr: u64,
    pfn: Pfn,
    spare: &mut Option<Pfn>,
) -> Result<(), NotMapped> {
    let page: Page<Size4KiB> = Page::containing_address(VirtAddr::new(addr));
    let frame = PhysFrame::containing_address(PhysAddr::new(pfn.addr()));
    let mapped = with_tables(|tables| {
        let source = &mut || spare.take();
        // SAFETY: passed on to the caller.
        unsafe { tables.map_to_with_table_flags(page, frame, RAM, PARENT, &mut Handed(source)) }
            // What was not mapped is in no translation cache.
            .map(MapperFlush::ignore)
    });
    match mapped {
        Some(Ok(())) => Ok(()),
        Some(Err(MapToError::FrameAllocationFailed)) => Err(NotMapped::NeedsTable),
        Some(Err(_)) | None => Err(NotMapped::Occupied),
    }
}

/// Maps frame `pfn` at `addr`, both a page of size `S`'s first byte, for device
/// registers: uncached, in the manner of [`map_page`].
///
/// # Errors
///
/// As [`map_page`].
///
/// # Safety
///
/// As for [`map_page`]; no RAM may be mapped like this that is mapped elsewhere.
pub(crate) unsafe fn map_registers<S: paging::PageSize>(
    addr: u64,
    pfn: Pfn,
    spare: &mut Option<Pfn>,
) -> Result<(), NotMapped>
where
    for<'a> OffsetPageTable<'a>: Mapper<S>,
{
    let page = Page::<S>::containing_address(VirtAddr::new(addr));
    let frame = PhysFrame::<S>::containing_address(PhysAddr::new(pfn.addr()));
    let mapped = with_tables(|tables| {
        let source = &mut || spare.take();
        // SAFETY: passed on to the caller.
        unsafe { tables.map_to_with_table_flags(page, frame, DEVICE, PARENT, &mut Handed(source)) }
            .map(MapperFlush::ignore)
    });
    match mapped {
        Some(Ok(())) => Ok(()),
        Some(Err(MapToError::FrameAllocationFailed)) => Err(NotMapped::NeedsTable),
        Some(Err(_)) | None => Err(NotMapped::Occupied),
    }
}

/// Ends the mapping of the page at `addr`; returns the frame that was mapped.
/// Translation caches may still know it.
///
/// # Safety
///
/// Nobody may use the page any more.
pub(crate) unsafe fn unmap_page(addr: u64) -> Option<Pfn> {
    let page: Page<Size4KiB> = Page::containing_address(VirtAddr::new(addr));
    let (frame, flush) = with_tables(|tables| tables.unmap(page).ok())??;
    flush.ignore();
    Some(pfn_of_frame(frame))
}

/// Takes the last-level table for `addr` out of the tables, in which nothing is
/// mapped any more. Its frame is free once no translation cache knows it, and
/// until then nothing may be mapped in its place.
///
/// # Safety
///
/// The table must be the caller's, with a frame from [`map_page`].
pub(crate) unsafe fn take_table(addr: u64) -> Option<Pfn> {
    let addr = VirtAddr::new(addr);
    with_tables(|tables| {
        let mut table = tables.level_4_table_mut();
        for index in [addr.p4_index(), addr.p3_index()] {
            let frame = table[index].frame().ok()?;
            let next: *mut PageTable = frame_ptr(pfn_of_frame(frame)).cast();
            // SAFETY: tables lie in the direct map, and the lock is held.
            table = unsafe { &mut *next };
        }
        let entry = &mut table[addr.p2_index()];
        let frame = entry.frame().ok()?;
        entry.set_unused();
        Some(pfn_of_frame(frame))
    })?
}

pub(super) fn pfn_of_frame(frame: PhysFrame) -> Pfn {
    Pfn::containing(frame.start_address().as_u64())
}

/// Whether a page of any size is mapped at `addr`, by the tables in force. Takes no
/// lock, so that a crash report can ask; the answer may be out of date.
pub(crate) fn is_mapped(addr: u64) -> bool {
    let Ok(addr) = VirtAddr::try_new(addr) else { return false };
    let (mut frame, _) = Cr3::read();
    for index in [addr.p4_index(), addr.p3_index(), addr.p2_index(), addr.p1_index()] {
        let table: *const PageTableEntry = frame_ptr(pfn_of_frame(frame)).cast();
        // SAFETY: what an entry points to lies in RAM, thus in the direct map;
        // the entry is read as a whole.
        let entry = unsafe { table.add(index.into()).read_volatile() };
        frame = match entry.frame() {
            Ok(next) => next,
            Err(why) => return matches!(why, FrameError::HugeFrame),
        };
    }
    true
}

/// Makes all CPUs forget what they know of translations of the pages in
/// `range`, and of the tables on the way there. Interrupts on, no lock held.
pub(crate) fn flush_everywhere(range: Range<u64>) {
    /// Pages from which on it is cheaper to forget everything (as in Linux).
    const CEILING: u64 = 33;
    smp::call(&smp::online(), &|_| {
        if range.end.saturating_sub(range.start) / PAGE_SIZE as u64 > CEILING {
            tlb::flush_all();
            return;
        }
        for addr in range.clone().step_by(PAGE_SIZE) {
            tlb::flush(VirtAddr::new(addr));
        }
    });
}
