//! A CPU that goes away leaves nothing behind. May call: `free`, `slab`.

use crate::mm::Mm;
use crate::platform::Platform;
use crate::sync::Cpu;
use crate::types::CpuId;

impl<P: Platform> Mm<P> {
    /// Empties what a CPU has for itself: its lists of free pages go back to the
    /// buddy, its arrays of free objects to the slabs. Returns the pages that
    /// became free. Before the CPU is stopped or after; until it runs again
    /// nobody else can come by what it holds. It may come back at any time.
    /// Takes locks, and frees as the CPU that this runs on; waits for nobody.
    ///
    /// # Safety
    /// The caller holds `cpu` in the sense of [`Platform`]: it is the CPU that
    /// this runs on, with interrupts masked, or one that is off and stays so
    /// meanwhile, or this is a message that it serves.
    pub unsafe fn cpu_gone(&self, cpu: CpuId) -> u64 {
        // SAFETY: the caller's word.
        let cpu = unsafe { Cpu::held(&self.platform, cpu) };
        // Objects first: the pages of their slabs may go to this CPU's lists.
        let slabs = self.drain_cpu_arrays(&cpu);
        slabs + self.zones.iter().map(|zone| self.drain_cpu_zone(&cpu, zone)).sum::<u64>()
    }
}
