//! Builds the kernel's own page tables: a direct map of RAM and ACPI tables
//! without execute rights, the kernel image with each segment's rights, stacks
//! above guard pages, device registers uncached. Calls `loader`, `acpi`,
//! `mm::early`.

use crate::vm::loader::{Loader, REACH};
use crate::vm::stacks::Stack;
use crate::vm::tables::DEVICE;
use crate::vm::{layout, tables};
use crate::{acpi, image};
use core::fmt;
use mm::early::EarlyMem;
use mm::firmware::RegionKind;
use mm::types::{Order, PAGE_SIZE, Pfn, PfnRange};
use quarry_kernel::direct_map::{PageSize, cover, without};
use x86_64::structures::paging::mapper::MapToError;
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageTable, PageTableFlags, PhysFrame, Size1GiB,
    Size2MiB, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

/// Name of page table frames in early memory.
const TABLES: &str = "page tables";
/// Name of stack frames in early memory.
const STACKS: &str = "kernel stacks";

/// Readable, and nothing else.
const READ: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::NO_EXECUTE);
/// Readable and writable.
const WRITE: PageTableFlags = READ.union(PageTableFlags::WRITABLE);
/// The framebuffer: writes are combined, see `arch::pat`.
const SCREEN: PageTableFlags = WRITE.union(PageTableFlags::WRITE_THROUGH);

/// Early memory has no frame left for a page table or a stack, or the loader's
/// tables are not what they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NoMemory;

impl fmt::Display for NoMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no memory for the kernel's page tables and stacks")
    }
}

/// What is to be mapped.
pub(crate) struct Plan<'a> {
    /// Frames that hold the kernel's file: its code and constants lie there, so
    /// the direct map may only read them.
    pub(crate) kernel_file: PfnRange,
    /// The boot image's ramdisk, to be read even if the command line says that
    /// there is no RAM.
    pub(crate) ramdisk: PfnRange,
    /// The firmware's map; the direct map may read its ACPI tables.
    pub(crate) firmware: mm::firmware::Map<'a>,
    /// The largest page that the processor can do.
    pub(crate) largest: PageSize,
    /// Device registers.
    pub(crate) devices: Devices,
}

/// Pages of other devices' registers at most.
pub(crate) const REGISTER_PAGES: usize = 16;

/// Device memory that every boot needs.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Devices {
    /// The local APIC's registers, if they are in memory; they appear at
    /// [`layout::LOCAL_APIC`].
    pub(crate) local_apic: Option<Pfn>,
    /// Other registers: where a page of them appears, and its frame.
    pub(crate) registers: [Option<(u64, Pfn)>; REGISTER_PAGES],
    /// The framebuffer, if there is one; it appears at [`layout::FRAMEBUFFER`].
    pub(crate) framebuffer: PfnRange,
}

/// Frames for tables, from early memory, where the provisional map reaches.
struct FromEarly<'a, 'b>(&'a mut EarlyMem<'b>);

// SAFETY: early memory hands out each frame once.
unsafe impl FrameAllocator<Size4KiB> for FromEarly<'_, '_> {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        self.0.alloc(1, Order(0), Some(REACH), TABLES).map(frame)
    }
}

fn frame(pfn: Pfn) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new(pfn.addr()))
}

/// Builds the tables in frames of `early`, while the loader's are in force.
/// Returns the frame of the fourth level.
///
/// # Errors
///
/// [`NoMemory`]; the frames taken so far stay taken.
pub(crate) fn build(
    loader: &mut Loader,
    early: &mut EarlyMem<'_>,
    plan: &Plan<'_>,
) -> Result<PhysFrame, NoMemory> {
    for ram in early.ram() {
        // What lies out of reach is not needed yet.
        loader.reach(ram.range);
    }
    let root = FromEarly(early).allocate_frame().ok_or(NoMemory)?;
    let table = tables::frame_ptr(Pfn::containing(root.start_address().as_u64()));
    let table: *mut PageTable = table.cast();
    // SAFETY: the frame is this function's alone and mapped by `reach`.
    let table = unsafe {
        table.write(PageTable::new());
        &mut *table
    };
    // SAFETY: all table frames lie where the provisional map reaches.
    let mut new = unsafe { OffsetPageTable::new(table, VirtAddr::new(layout::DIRECT_MAP)) };
    map_direct(&mut new, early, plan)?;
    map_image(&mut new, early, loader)?;
    map_stacks(&mut new, early)?;
    if let Some(pfn) = plan.devices.local_apic {
        map::<Size4KiB>(&mut new, early, layout::LOCAL_APIC, pfn, DEVICE)?;
    }
    for (virt, pfn) in plan.devices.registers.into_iter().flatten() {
        map::<Size4KiB>(&mut new, early, virt, pfn, DEVICE)?;
    }
    for (at, page) in (plan.devices.framebuffer.start.0..plan.devices.framebuffer.end.0).enumerate()
    {
        let virt = layout::FRAMEBUFFER + (at * PAGE_SIZE) as u64;
        map::<Size4KiB>(&mut new, early, virt, Pfn(page), SCREEN)?;
    }
    Ok(root)
}

fn map_direct(
    new: &mut OffsetPageTable<'_>,
    early: &mut EarlyMem<'_>,
    plan: &Plan<'_>,
) -> Result<(), NoMemory> {
    // By index, for mapping takes frames from `early`. That never changes what
    // is RAM.
    let mut next = 0;
    while let Some(ram) = early.ram().get(next).map(|ram| ram.range) {
        next += 1;
        for part in without(ram, plan.kernel_file) {
            map_range(new, early, part, WRITE, plan.largest)?;
        }
        map_range(new, early, ram.intersect(plan.kernel_file), READ, plan.largest)?;
    }
    map_range(new, early, plan.ramdisk, READ, PageSize::Small)?;
    for tables in plan.firmware.of_kind(RegionKind::AcpiData) {
        let end = Pfn::containing(tables.end - 1).add(1);
        let range = PfnRange::new(Pfn::containing(tables.start), end);
        map_range(new, early, range, READ, plan.largest)?;
    }
    // Some firmware leaves its tables in memory that it calls reserved.
    for range in acpi::table_frames() {
        map_range(new, early, range, READ, PageSize::Small)?;
    }
    Ok(())
}

fn map_range(
    new: &mut OffsetPageTable<'_>,
    early: &mut EarlyMem<'_>,
    range: PfnRange,
    flags: PageTableFlags,
    largest: PageSize,
) -> Result<(), NoMemory> {
    for (pfn, size) in cover(range, largest) {
        let virt = layout::DIRECT_MAP + pfn.addr();
        match size {
            PageSize::Huge => map::<Size1GiB>(new, early, virt, pfn, flags)?,
            PageSize::Large => map::<Size2MiB>(new, early, virt, pfn, flags)?,
            PageSize::Small => map::<Size4KiB>(new, early, virt, pfn, flags)?,
        }
    }
    Ok(())
}

/// Maps one page. What is mapped already stays as it is: two firmware tables
/// may share a page.
fn map<S: x86_64::structures::paging::PageSize>(
    new: &mut OffsetPageTable<'_>,
    early: &mut EarlyMem<'_>,
    virt: u64,
    pfn: Pfn,
    flags: PageTableFlags,
) -> Result<(), NoMemory>
where
    for<'a> OffsetPageTable<'a>: Mapper<S>,
{
    let page = Page::<S>::containing_address(VirtAddr::new(virt));
    let frame = PhysFrame::<S>::containing_address(PhysAddr::new(pfn.addr()));
    // SAFETY: the new tables are not in force yet.
    match unsafe {
        new.map_to_with_table_flags(page, frame, flags, tables::PARENT, &mut FromEarly(early))
    } {
        Ok(flush) => {
            flush.ignore();
            Ok(())
        }
        Err(MapToError::PageAlreadyMapped(_) | MapToError::ParentEntryHugePage) => Ok(()),
        Err(MapToError::FrameAllocationFailed) => Err(NoMemory),
    }
}

/// The kernel image, each page with its segment's rights; what only relocation
/// had to write can be read only.
fn map_image(
    new: &mut OffsetPageTable<'_>,
    early: &mut EarlyMem<'_>,
    loader: &Loader,
) -> Result<(), NoMemory> {
    let relocated = image::relro().map_or(0..0, |part| part.start..part.end);
    for part in image::segments() {
        let flags = if part.executable {
            PageTableFlags::PRESENT
        } else if part.writable {
            WRITE
        } else {
            READ
        };
        let first = part.start & !(PAGE_SIZE as u64 - 1);
        for addr in (first..part.end).step_by(PAGE_SIZE) {
            let flags = if relocated.contains(&addr) { READ } else { flags };
            let phys = loader.translate(addr).ok_or(NoMemory)?;
            map::<Size4KiB>(new, early, addr, Pfn::containing(phys), flags)?;
        }
    }
    Ok(())
}

fn map_stacks(new: &mut OffsetPageTable<'_>, early: &mut EarlyMem<'_>) -> Result<(), NoMemory> {
    for stack in Stack::ALL {
        for addr in stack.range().step_by(PAGE_SIZE) {
            let pfn = early.alloc(1, Order(0), Some(REACH), STACKS).ok_or(NoMemory)?;
            // A translating emulator may have kept the firmware's code that lay
            // here, and then watches every write to the page until all of that
            // is overwritten: some ten times slower.
            // SAFETY: the frame is the stack's alone and mapped by `reach`.
            unsafe { tables::frame_ptr(pfn).write_bytes(0, PAGE_SIZE) };
            map::<Size4KiB>(new, early, addr, pfn, WRITE)?;
        }
    }
    Ok(())
}
