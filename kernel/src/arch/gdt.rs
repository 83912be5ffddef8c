//! Segments, and the task state segment that gives the worst exceptions stacks
//! of their own. Calls nothing.

use core::cell::UnsafeCell;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::registers::segmentation::SegmentSelector;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

/// Exceptions that may find the current stack unusable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Ist {
    /// Vector 8, above all when a kernel stack has overflowed.
    DoubleFault = 0,
    /// Vector 2.
    Nmi = 1,
    /// Vector 18.
    MachineCheck = 2,
}

impl Ist {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::DoubleFault, Self::Nmi, Self::MachineCheck];
}

/// Bytes of each early exception stack.
const EARLY_STACK: usize = 8192;

/// Stacks inside the kernel image for exceptions, until there are mapped and
/// guarded ones.
#[repr(C, align(16))]
struct EarlyStacks(UnsafeCell<[[u8; EARLY_STACK]; Ist::ALL.len()]>);

// SAFETY: the boot CPU alone uses them, in exceptions.
unsafe impl Sync for EarlyStacks {}

static EARLY: EarlyStacks = EarlyStacks(UnsafeCell::new([[0; EARLY_STACK]; Ist::ALL.len()]));

/// The boot CPU's exception stacks until it has better ones.
pub(crate) fn early_stacks() -> [VirtAddr; Ist::ALL.len()] {
    Ist::ALL.map(|ist| VirtAddr::from_ptr(&raw const EARLY) + (ist as u64 + 1) * EARLY_STACK as u64)
}

/// A CPU's descriptor table and task state segment.
pub(crate) struct CpuTables {
    gdt: UnsafeCell<GlobalDescriptorTable>,
    tss: UnsafeCell<TaskStateSegment>,
}

// SAFETY: written only in `load` and `set_ist`, by the CPU that owns it, during
// its start; afterwards only the processor reads it.
unsafe impl Sync for CpuTables {}

impl CpuTables {
    /// Empty tables.
    pub(crate) const fn new() -> Self {
        Self {
            gdt: UnsafeCell::new(GlobalDescriptorTable::new()),
            tss: UnsafeCell::new(TaskStateSegment::new()),
        }
    }

    /// Fills the tables and makes them this CPU's. Exceptions come right after,
    /// so their stacks are to be [set](Self::set_ist) by then.
    ///
    /// # Safety
    ///
    /// To be called once each time that the CPU that owns these tables is
    /// started, by itself.
    pub(crate) unsafe fn load(&'static self) {
        // SAFETY: nobody else uses the table yet.
        let gdt = unsafe { &mut *self.gdt.get() };
        *gdt = GlobalDescriptorTable::new();
        let code = gdt.append(Descriptor::kernel_code_segment());
        let data = gdt.append(Descriptor::kernel_data_segment());
        // SAFETY: the task state segment lives as long as the kernel.
        let tss = gdt.append(unsafe { Descriptor::tss_segment_unchecked(self.tss.get()) });
        // SAFETY: the table is static and holds flat segments for ring 0, which
        // is what all code here is compiled for.
        unsafe {
            gdt.load_unsafe();
            CS::set_reg(code);
            SS::set_reg(data);
            DS::set_reg(SegmentSelector::NULL);
            ES::set_reg(SegmentSelector::NULL);
            load_tss(tss);
        }
    }

    /// From the next exception on, `ist` runs on the stack that ends at `top`.
    ///
    /// # Safety
    ///
    /// The stack must be mapped for good and used for nothing else; to be
    /// called by the CPU that owns these tables, not from that exception, or
    /// before that CPU runs.
    pub(crate) unsafe fn set_ist(&self, ist: Ist, top: VirtAddr) {
        let tss = self.tss.get();
        // SAFETY: the owner is the only writer; the processor reads the entry
        // whole when the exception comes.
        unsafe { (&raw mut (*tss).interrupt_stack_table[ist as usize]).write_unaligned(top) };
    }
}
