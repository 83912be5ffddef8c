//! A page that turns out to be of the reserves although its caller has no right
//! to them: it is given back, and nobody gets an object out of it.
#![cfg(feature = "host")]

use mm::host::Machine;
use mm::platform::{Context, Platform};
use mm::slab::CacheConfig;
use mm::types::{CpuId, NodeId, Order, Pfn, PfnRange};
use mm::{AllocError, Config, Gfp, Mm, Request};

const QUIET: Gfp = Gfp::NOWAIT.union(Gfp::NOWARN);

/// A machine whose caller gains the right of a reclaimer at a moment of the
/// test's choice: as when an interrupted task's rights are taken for one's own.
struct Fickle {
    machine: Machine,
    /// Questions about the caller that are still answered with "nobody".
    patience: core::sync::atomic::AtomicU32,
}

// SAFETY: all is the inner machine's, but for the caller's rights.
unsafe impl Platform for Fickle {
    fn frame(&self, pfn: Pfn) -> *mut u8 {
        self.machine.frame(pfn)
    }
    fn pfn_of(&self, ptr: *const u8) -> Option<Pfn> {
        self.machine.pfn_of(ptr)
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
    fn irq_save(&self) -> (CpuId, mm::platform::IrqState) {
        self.machine.irq_save()
    }
    fn irq_restore(&self, cpu: CpuId, state: mm::platform::IrqState) {
        self.machine.irq_restore(cpu, state);
    }
    fn on_cpus(&self, f: &(dyn Fn(CpuId) + Sync)) {
        self.machine.on_cpus(f);
    }
    fn context(&self) -> Context {
        use core::sync::atomic::Ordering::Relaxed;
        let left = self.patience.load(Relaxed);
        self.patience.store(left.saturating_sub(1), Relaxed);
        Context { memalloc: left == 0, ..Context::default() }
    }
    fn now_ms(&self) -> u64 {
        self.machine.now_ms()
    }
    fn log(&self, level: mm::platform::LogLevel, line: core::fmt::Arguments<'_>) {
        self.machine.log(level, line);
    }
}

#[test]
fn a_page_that_turns_out_to_be_of_the_reserves_is_not_handed_on() {
    use core::sync::atomic::Ordering::Relaxed;
    use mm::early::{EarlyMem, RamRange, Reservation};
    for size in if cfg!(miri) { [700].as_slice() } else { &[256, 700] } {
        let end = Pfn(if cfg!(miri) { 0x400 } else { 0x1000 });
        let machine = Machine::new(Pfn(0), end, 1).expect("room");
        let fickle = Fickle { machine, patience: u32::MAX.into() };
        let (mut ranges, mut reserved) = ([RamRange::EMPTY; 32], [Reservation::EMPTY; 32]);
        let mut early = EarlyMem::new(&mut ranges, &mut reserved);
        early.add_ram(PfnRange::new(Pfn(1), end), NodeId(0));
        let mm = Mm::new(fickle, early, &Config::default()).expect("a manager");
        mm.slab_init().expect("the slab layer");
        let cache = mm
            .cache_create("fickle", CacheConfig { merge: false, ..CacheConfig::new(*size) })
            .expect("a cache");
        let object = mm.cache_alloc(cache, Gfp::KERNEL).expect("an object");
        mm.cache_free(cache, object).expect("freed");
        mm.cache_shrink(cache).expect("shrunk");
        for order in (0..=10).rev().chain([1, 0]) {
            while mm.alloc_pages(Request::new(Order(order), QUIET)).is_ok() {}
            mm.drain_all(None);
        }
        let free = mm.free_pages_total();
        // The slab layer asks first: no right. The page allocator asks next.
        mm.platform().patience.store(1, Relaxed);
        assert_eq!(mm.cache_alloc(cache, QUIET), Err(AllocError::NoMemory));
        assert_eq!(mm.platform().patience.load(Relaxed), 0, "it was asked");
        let marked = mm.stats().get(mm::stats::Event::Pfmemalloc);
        assert!(marked > 0, "a page of the reserves was had");
        mm.platform().patience.store(u32::MAX, Relaxed);
        assert_eq!(mm.reserve_slabs(), 0);
        mm.drain_all(None);
        assert_eq!(mm.free_pages_total(), free, "and given back");
        mm.audit().expect("whole");
    }
}
