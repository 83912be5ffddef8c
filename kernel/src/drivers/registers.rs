//! Device registers in memory: mapped uncached, for good, in a part of the
//! address space that is theirs. Calls `vm`, `mm`.

use crate::arch::irq::IrqMutex;
use crate::memory;
use crate::vm::{layout, tables};
use ::drivers::Mmio;
use core::fmt;
use mm::sync::LockRank;
use mm::types::{Order, Pfn};
use mm::{Gfp, Page, Request};
use x86_64::structures::paging::{PageSize, Size2MiB, Size4KiB};

/// Bytes of the address space that are in use; what is mapped stays.
static USED: IrqMutex<u64> = IrqMutex::new(LockRank::Leaf, 0);

/// Ranges that can be found again.
const KNOWN: usize = 64;
/// Ranges that are mapped, by their physical address: a device that comes back
/// has its old ones.
static MAPPED: IrqMutex<[(u64, Registers); KNOWN]> =
    IrqMutex::new(LockRank::Leaf, [(0, Registers { start: 0, bytes: 0 }); KNOWN]);

/// A range of registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Registers {
    /// Address of the first, mapped.
    start: u64,
    bytes: u64,
}

/// Why registers are not mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotMapped {
    /// No memory for page tables, or not yet.
    NoMemory,
    /// The part of the address space is used up.
    NoRoom,
    /// They are said to lie where RAM is, or where no addresses are.
    BadAddress,
}

impl fmt::Display for NotMapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoMemory => "no memory to map registers",
            Self::NoRoom => "too many registers to map",
            Self::BadAddress => "registers where none can be",
        })
    }
}

/// A frame for a page table.
fn table() -> Result<Pfn, NotMapped> {
    let gfp = Gfp::KERNEL | Gfp::ZERO | Gfp::NORETRY | Gfp::NOWARN;
    let mm = memory::manager().ok_or(NotMapped::NoMemory)?;
    let page = mm.alloc_pages(Request::new(Order(0), gfp)).map_err(|_| NotMapped::NoMemory)?;
    Ok(page.pfn)
}

/// Takes `bytes` of the address space, from a multiple of `align` plus `offset`
/// on.
fn take(bytes: u64, align: u64, offset: u64) -> Result<u64, NotMapped> {
    let mut used = USED.lock();
    let at = used.next_multiple_of(align) + offset;
    let end = at.checked_add(bytes).filter(|&end| end <= layout::DEVICES_LEN);
    *used = end.ok_or(NotMapped::NoRoom)?;
    Ok(layout::DEVICES + at)
}

/// Maps the `bytes` bytes of registers at physical address `addr`. In a thread
/// that may wait for memory.
///
/// # Errors
///
/// [`NotMapped`].
pub(crate) fn map(addr: u64, bytes: u64) -> Result<Registers, NotMapped> {
    let end = addr.checked_add(bytes).filter(|&end| end <= 1 << 52);
    let end = end.filter(|_| bytes > 0 && addr > 0).ok_or(NotMapped::BadAddress)?;
    if memory::iomem::is_memory(addr, end) {
        return Err(NotMapped::BadAddress);
    }
    let known = |it: &(u64, Registers)| it.0 == addr && it.1.bytes == bytes;
    if let Some((_, registers)) = MAPPED.lock().iter().copied().find(known) {
        return Ok(registers);
    }
    let (first, last) = (addr & !(Size4KiB::SIZE - 1), end.next_multiple_of(Size4KiB::SIZE));
    // Large pages where the physical address allows.
    let start = take(last - first, Size2MiB::SIZE, first % Size2MiB::SIZE)?;
    let (mut at, mut spare) = (first, None);
    let result = loop {
        if at == last {
            break Ok(Registers { start: start + addr % Size4KiB::SIZE, bytes });
        }
        let large = at.is_multiple_of(Size2MiB::SIZE) && last - at >= Size2MiB::SIZE;
        let (virt, pfn) = (start + (at - first), Pfn::containing(at));
        // SAFETY: the addresses were taken just now, and what is there is no RAM.
        let mapped = unsafe {
            if large {
                tables::map_registers::<Size2MiB>(virt, pfn, &mut spare)
            } else {
                tables::map_registers::<Size4KiB>(virt, pfn, &mut spare)
            }
        };
        match mapped {
            Ok(()) => at += if large { Size2MiB::SIZE } else { Size4KiB::SIZE },
            Err(tables::NotMapped::NeedsTable) => match table() {
                Ok(pfn) => spare = Some(pfn),
                Err(error) => break Err(error),
            },
            Err(tables::NotMapped::Occupied) => break Err(NotMapped::NoRoom),
        }
    };
    if let (Some(pfn), Some(mm)) = (spare, memory::manager())
        && let Err(error) = mm.free_pages(Page { pfn, order: Order(0) })
    {
        log::error!("registers: frame {pfn:?} cannot be freed: {error}");
    }
    if let Ok(registers) = result
        && let Some(slot) = MAPPED.lock().iter_mut().find(|it| it.0 == 0)
    {
        *slot = (addr, registers);
    }
    result
}

impl Registers {
    /// Where the `T` at `offset` is, if it is inside.
    fn place<T>(self, offset: u32) -> Option<*mut T> {
        let offset = u64::from(offset);
        let end = offset.checked_add(size_of::<T>() as u64)?;
        let ptr = core::ptr::with_exposed_provenance_mut::<T>((self.start + offset) as usize);
        (end <= self.bytes && ptr.is_aligned()).then_some(ptr)
    }

    fn read<T>(self, offset: u32) -> Option<T> {
        // SAFETY: mapped for good, inside and aligned; `T` is a number.
        self.place::<T>(offset).map(|ptr| unsafe { ptr.read_volatile() })
    }

    fn write<T>(self, offset: u32, value: T) {
        if let Some(ptr) = self.place::<T>(offset) {
            // SAFETY: as above; what a register does with it is the driver's
            // affair.
            unsafe { ptr.write_volatile(value) };
        }
    }
}

impl Mmio for Registers {
    fn part(&self, offset: u64, len: u64) -> Option<Self> {
        let end = offset.checked_add(len)?;
        (end <= self.bytes).then_some(Self { start: self.start + offset, bytes: len })
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read8(&self, offset: u32) -> u8 {
        self.read(offset).unwrap_or(u8::MAX)
    }

    fn read16(&self, offset: u32) -> u16 {
        self.read(offset).unwrap_or(u16::MAX)
    }

    fn read32(&self, offset: u32) -> u32 {
        self.read(offset).unwrap_or(u32::MAX)
    }

    fn write8(&self, offset: u32, value: u8) {
        self.write(offset, value);
    }

    fn write16(&self, offset: u32, value: u16) {
        self.write(offset, value);
    }

    fn write32(&self, offset: u32, value: u32) {
        self.write(offset, value);
    }
}
