//! A simulated machine as the manager sees it: CPUs, clock and rights are
//! `mm::host`'s, the RAM has holes, and what the manager says is printed where
//! it is said. It is also the device by which the machine's free memory is
//! reported to this host, and the host's side of its balloon. May call: `mm::host`, `ram`, `output`.

use super::ram::Ram;
use crate::output::Output;
use mm::balloon::{BalloonHost, HostFailed};
use mm::host::Machine;
use mm::mmu::Mmu;
use mm::platform::{Context, IrqState, LogLevel, Platform, Worker};
use mm::report::{ReportDevice, ReportFailed};
use mm::sync::HeldLocks;
use mm::types::{CpuId, NodeId, Pfn, PfnRange};
use std::fmt;

/// A machine of RAM ranges, nodes and CPUs, that one thread runs.
#[derive(Debug)]
pub struct Host {
    /// Everything but RAM and log.
    machine: Machine,
    ram: Ram,
    output: Output,
}

impl Host {
    pub(super) fn new(machine: Machine, ram: Ram, output: Output) -> Self {
        Self { machine, ram, output }
    }

    /// Pages of the RAM that this host keeps memory for.
    pub(crate) fn resident(&self) -> u64 {
        self.ram.resident()
    }

    /// Gives what backs `frames` back to this host; false if they are no RAM.
    ///
    /// # Safety
    /// Nobody wants what is in them, or reads or writes them meanwhile.
    pub(super) unsafe fn discard(&self, frames: PfnRange) -> bool {
        // SAFETY: passed on to the caller.
        unsafe { self.ram.discard(frames) }
    }

    /// CPUs, clock, rights and who was woken.
    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }
}

impl BalloonHost for Host {
    fn inflate(&self, pages: &[Pfn]) -> Result<(), HostFailed> {
        for &pfn in pages {
            // SAFETY: lent to this host: nobody else wants what is in it.
            if !unsafe { self.ram.discard(PfnRange::sized(pfn, 1)) } {
                return Err(HostFailed::Gone);
            }
        }
        Ok(())
    }

    fn deflate(&self, _pages: &[Pfn]) -> Result<(), HostFailed> {
        // They are backed again as they are touched.
        Ok(())
    }
}

impl ReportDevice for Host {
    fn report(&self, blocks: &[PfnRange]) -> Result<(), ReportFailed> {
        for &block in blocks {
            // SAFETY: the manager holds the block until this returns, and wants
            // nothing that is in it.
            if !unsafe { self.ram.discard(block) } {
                return Err(ReportFailed::Refused);
            }
        }
        Ok(())
    }

    fn preserves(&self, pattern: u8) -> bool {
        pattern == 0
    }
}

// SAFETY: frames are parts of one mapping that lives as long as the platform,
// zeroed at first, those of a range without holes contiguous and no two at the
// same place. All else is the machine's below, whose own frames nobody asks for.
unsafe impl Platform for Host {
    fn frame(&self, pfn: Pfn) -> *mut u8 {
        let frame = self.ram.frame(pfn);
        debug_assert!(!frame.is_null(), "{pfn:?} is not RAM");
        frame
    }

    fn pfn_of(&self, ptr: *const u8) -> Option<Pfn> {
        self.ram.pfn_of(ptr)
    }

    fn memmap_base(&self, slot: usize, bytes: usize) -> Option<*mut u8> {
        self.machine.memmap_base(slot, bytes)
    }

    fn memmap_back(
        &self,
        ptr: *mut u8,
        frames: PfnRange,
        tables: &mut dyn FnMut() -> Option<Pfn>,
    ) -> bool {
        self.machine.memmap_back(ptr, frames, tables)
    }

    fn memmap_unback(&self, ptr: *mut u8, bytes: usize, frame: &mut dyn FnMut(Pfn)) {
        self.machine.memmap_unback(ptr, bytes, frame);
    }

    fn direct_map_extend(
        &self,
        frames: PfnRange,
        _tables: &mut dyn FnMut() -> Option<Pfn>,
    ) -> bool {
        // What may come has its place from the start.
        self.ram.has_room_for(frames)
    }

    fn direct_map_withdraw(&self, frames: PfnRange, _table: &mut dyn FnMut(Pfn)) {
        // Memory that is taken away has no content any more.
        // SAFETY: out of use, and being forgotten: nobody has these frames.
        let gone = unsafe { self.ram.discard(frames) };
        debug_assert!(gone, "a part of the mapping");
    }

    fn cpus(&self) -> u16 {
        self.machine.cpus()
    }

    fn node_of_cpu(&self, cpu: CpuId) -> NodeId {
        self.machine.node_of_cpu(cpu)
    }

    fn irq_save(&self) -> (CpuId, IrqState) {
        self.machine.irq_save()
    }

    fn irq_restore(&self, cpu: CpuId, state: IrqState) {
        self.machine.irq_restore(cpu, state);
    }

    fn on_cpus(&self, f: &(dyn Fn(CpuId) + Sync)) {
        self.machine.on_cpus(f);
    }

    fn held_locks(&self, cpu: CpuId) -> Option<&HeldLocks> {
        self.machine.held_locks(cpu)
    }

    fn context(&self) -> Context {
        self.machine.context()
    }

    fn set_memalloc(&self, on: bool) -> bool {
        self.machine.set_memalloc(on)
    }

    fn now_ms(&self) -> u64 {
        self.machine.now_ms()
    }

    fn mmu(&self) -> Option<&dyn Mmu> {
        self.machine.mmu()
    }

    fn wake(&self, worker: Worker) {
        self.machine.wake(worker);
    }

    fn stall(&self) {
        self.machine.stall();
    }

    fn log(&self, level: LogLevel, line: fmt::Arguments<'_>) {
        self.output.log_at(self.machine.now_ms(), level, line);
    }
}
