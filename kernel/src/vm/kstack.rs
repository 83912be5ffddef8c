//! Kernel stacks made and unmade while the kernel runs: frames of the memory
//! manager, mapped above an unmapped guard in a slot of their own. Calls
//! `tables`, `layout`, `mm`.

use crate::arch::irq::IrqMutex;
use crate::platform::Machine;
use crate::vm::{layout, tables};
use core::fmt;
use core::ops::Range;
use mm::sync::LockRank;
use mm::types::{Order, PAGE_SIZE, Pfn};
use mm::{Gfp, Mm, Page, Request};
use quarry_kernel::sdt::MAX_CPUS;
use quarry_kernel::slots::Slots;

/// Bytes from one stack's top to the next; what is not mapped is guard. Each
/// slot has a last-level table of its own: when the stack goes, the table can go
/// without another CPU mapping a neighbour in it meanwhile.
const SLOT: u64 = 2 << 20;
/// Stacks that there may be at a time: four for each CPU but the first, and as
/// many again for threads.
pub(crate) const SLOTS: usize = 8 * MAX_CPUS;
/// Slots that one table of the second level holds.
const TABLE: usize = 512;
/// Bytes of an ordinary thread's stack, as in Linux.
pub(crate) const THREAD: usize = 16 * 1024;
/// Bytes of the largest stack.
pub(crate) const LARGEST: usize = 128 * 1024;
/// Pages of the largest stack.
const MOST_PAGES: usize = LARGEST / PAGE_SIZE;

static IN_USE: IrqMutex<Slots<{ SLOTS / 64 }>> = IrqMutex::new(LockRank::Leaf, Slots::new());

/// Why there is no stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoStack {
    /// No memory for it or for the tables that map it.
    NoMemory,
    /// As many stacks are in use as there is room for.
    NoSlot,
}

impl fmt::Display for NoStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoMemory => "no memory for a kernel stack",
            Self::NoSlot => "no room for another kernel stack",
        })
    }
}

/// A mapped, zeroed stack above a guard. When it is dropped its frames go back;
/// that may have to wait for other CPUs, so it is to be dropped with interrupts
/// on and no lock held, and never by what runs on it.
pub(crate) struct KernelStack {
    slot: usize,
    bytes: usize,
    mm: &'static Mm<Machine>,
}

impl fmt::Debug for KernelStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KernelStack({:#x}..{:#x})", self.range().start, self.range().end)
    }
}

fn slot_range(slot: usize) -> Range<u64> {
    let start = layout::THREAD_STACKS + slot as u64 * SLOT;
    start..start + SLOT
}

impl KernelStack {
    /// A stack of `bytes` bytes, in whole pages, [`LARGEST`] at most. May wait
    /// for memory: interrupts on, no lock held.
    ///
    /// # Errors
    ///
    /// [`NoStack`]; whatever was taken by then has been given back.
    pub(crate) fn allocate(mm: &'static Mm<Machine>, bytes: usize) -> Result<Self, NoStack> {
        let slot = IN_USE.lock().take().ok_or(NoStack::NoSlot)?;
        // From here on dropping it gives everything back.
        let mut stack = Self { slot, bytes: 0, mm };
        for _ in 0..bytes.div_ceil(PAGE_SIZE).min(MOST_PAGES) {
            stack.grow()?;
        }
        Ok(stack)
    }

    /// Maps one more page at the lower end.
    fn grow(&mut self) -> Result<(), NoStack> {
        let pfn = take_frame(self.mm)?;
        let addr = slot_range(self.slot).end - (self.bytes + PAGE_SIZE) as u64;
        let mut spare = None;
        let mapped = loop {
            // SAFETY: the slot is this stack's, and the frames are new.
            match unsafe { tables::map_page(addr, pfn, &mut spare) } {
                Ok(()) => break Ok(()),
                Err(tables::NotMapped::NeedsTable) => match take_frame(self.mm) {
                    Ok(table) => spare = Some(table),
                    Err(error) => break Err(error),
                },
                Err(tables::NotMapped::Occupied) => break Err(NoStack::NoSlot),
            }
        };
        let unused = if mapped.is_ok() { None } else { Some(pfn) };
        for pfn in [spare, unused].into_iter().flatten() {
            give_back(self.mm, pfn);
        }
        mapped?;
        self.bytes += PAGE_SIZE;
        Ok(())
    }

    /// Its bytes.
    pub(crate) fn range(&self) -> Range<u64> {
        let end = slot_range(self.slot).end;
        end - self.bytes as u64..end
    }

    /// One past its highest byte; a multiple of the page size.
    pub(crate) fn top(&self) -> u64 {
        self.range().end
    }

    /// The unmapped bytes below it.
    pub(crate) fn guard(&self) -> Range<u64> {
        slot_range(self.slot).start..self.range().start
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        let mut frames = [None; MOST_PAGES];
        for (addr, frame) in self.range().step_by(PAGE_SIZE).zip(&mut frames) {
            // SAFETY: who drops the stack does not use it any more.
            *frame = unsafe { tables::unmap_page(addr) };
        }
        // SAFETY: the table is this slot's alone and comes from `map_page`.
        let table = unsafe { tables::take_table(slot_range(self.slot).start) };
        // The slot is not free yet, so nothing new is mapped in it.
        tables::flush_everywhere(self.range());
        for pfn in frames.into_iter().chain([table]).flatten() {
            give_back(self.mm, pfn);
        }
        IN_USE.lock().give_back(self.slot);
    }
}

/// Makes the upper tables, which then stay: what is free later does not depend on
/// how many stacks there were. Once, before there is any stack.
///
/// # Errors
///
/// [`NoStack::NoMemory`].
pub(crate) fn prepare(mm: &'static Mm<Machine>) -> Result<(), NoStack> {
    for slot in (0..SLOTS).step_by(TABLE) {
        KernelStack { slot, bytes: 0, mm }.grow()?;
    }
    Ok(())
}

fn take_frame(mm: &Mm<Machine>) -> Result<Pfn, NoStack> {
    // Zeroed not only for tables: a translating emulator that keeps code of
    // the frame's past watches every write until all of that is overwritten.
    let gfp = Gfp::KERNEL | Gfp::ZERO | Gfp::NORETRY | Gfp::NOWARN;
    let page = mm.alloc_pages(Request::new(Order(0), gfp)).map_err(|_| NoStack::NoMemory)?;
    Ok(page.pfn)
}

fn give_back(mm: &Mm<Machine>, pfn: Pfn) {
    if let Err(error) = mm.free_pages(Page { pfn, order: Order(0) }) {
        log::error!("kernel stack: frame {pfn:?} cannot be freed: {error}");
    }
}

/// Whether `addr` lies in the part of the address space where these stacks are.
fn in_region(addr: u64) -> Option<usize> {
    let slot = (addr.checked_sub(layout::THREAD_STACKS)? / SLOT) as usize;
    (slot < SLOTS).then_some(slot)
}

/// Whether `addr` lies in a page of such a stack. Takes no lock: for a crash
/// report.
pub(crate) fn is_stack(addr: u64) -> bool {
    in_region(addr).is_some() && tables::is_mapped(addr)
}

/// Whether `addr` lies in the guard of such a stack, below bytes in use. Takes
/// no lock: for a crash report.
pub(crate) fn is_guard(addr: u64) -> bool {
    in_region(addr)
        .is_some_and(|slot| !tables::is_mapped(addr) && tables::is_mapped(slot_range(slot).end - 1))
}

/// How many stacks there are.
pub(crate) fn in_use() -> usize {
    IN_USE.lock().used()
}
