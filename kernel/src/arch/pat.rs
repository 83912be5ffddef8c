//! The page attribute table: what kind of memory a page table entry's bits
//! name. One entry differs from what the processor starts with: "write-through"
//! alone means that writes may be combined, which is what a framebuffer wants.
//! Linux arch/x86/mm/pat puts the same kind there. Calls nothing.

use core::arch::x86_64::__cpuid;
use x86_64::registers::model_specific::Msr;

const IA32_PAT: u32 = 0x277;
/// Where the entry lies that the bits "write-through, not uncached" choose.
const ENTRY: u64 = 0xff << 8;
/// Writes go out uncached, but gathered.
const WRITE_COMBINING: u64 = 0x01 << 8;

/// Sets this CPU's table, which has to be the same on all CPUs. Without one the
/// bits mean what they say, which is right as well, though slower. Before
/// anything is mapped with these bits on this CPU.
pub(crate) fn init() {
    if __cpuid(1).edx & (1 << 16) == 0 {
        return;
    }
    let mut table = Msr::new(IA32_PAT);
    // SAFETY: the processor has the register. No page is mapped with the bits
    // that choose this entry, so nothing changes for what is in use.
    unsafe {
        let entries = table.read();
        table.write(entries & !ENTRY | WRITE_COMBINING);
    }
}
