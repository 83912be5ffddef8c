//! Isolation of pageblocks: what is free in them leaves the lists that others
//! take from, what is freed joins it, and nothing of it is handed out until the
//! isolation ends. Linux mm/page_isolation.c. Contiguous allocation uses it;
//! nothing here reclaims, wakes or waits. May call: `buddy`, `fallback`.

use super::walk::first_fixed;
use super::{Obstacle, Purpose, Reason, pageblocks};
use crate::buddy::Buddy;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::sync::Ordering::Relaxed;
use crate::types::{MAX_ORDER, MigrateType, PAGEBLOCK_PAGES, Pfn, PfnRange};
use crate::zone::Zone;

/// Pageblocks that this value keeps isolated: when it goes, however that comes
/// about, each has its old type again.
pub(crate) struct Isolated<'a, P: Platform> {
    mm: &'a Mm<P>,
    zone: &'a Zone,
    /// Whole pageblocks, all isolated for this value.
    blocks: PfnRange,
}

impl<P: Platform> Isolated<'_, P> {
    /// The zone.
    pub(crate) fn zone(&self) -> &Zone {
        self.zone
    }

    /// Whether all of `range` is isolated by this value.
    pub(crate) fn covers(&self, range: PfnRange) -> bool {
        self.blocks.start <= range.start && range.end <= self.blocks.end
    }
}

impl<P: Platform> Drop for Isolated<'_, P> {
    fn drop(&mut self) {
        for block in pageblocks(self.blocks) {
            // The lock is had anew for each block: others have to get through.
            let cpu = self.mm.enter();
            let free = Buddy::lock(&self.mm.map, self.zone, &cpu).unisolate_block(block);
            if free > 0 {
                // It was not reported meanwhile.
                self.mm.note_freed(self.zone, MAX_ORDER);
            }
        }
    }
}

impl<P: Platform> Mm<P> {
    /// Isolates all pageblocks that `range`, all in `zone`, touches. What lies
    /// in those blocks but outside of the range may be anything.
    ///
    /// # Errors
    /// What is in the way: a block somebody else has isolated, or something in
    /// the range that can never be moved. No block is isolated then.
    pub(crate) fn isolate<'a>(
        &'a self,
        zone: &'a Zone,
        range: PfnRange,
        purpose: Purpose,
    ) -> Result<Isolated<'a, P>, Obstacle> {
        let start = range.start.pageblock();
        let mut isolated = Isolated { mm: self, zone, blocks: PfnRange::new(start, start) };
        for block in pageblocks(range) {
            let whole = PfnRange::sized(block, PAGEBLOCK_PAGES);
            let cpu = self.enter();
            let mut buddy = Buddy::lock(&self.map, zone, &cpu);
            // On failure the blocks so far go back as `isolated` is dropped,
            // after the lock.
            let result = buddy.isolate_block(block, whole.intersect(range), purpose);
            drop(buddy);
            drop(cpu);
            result?;
            isolated.blocks.end = whole.end;
        }
        Ok(isolated)
    }
}

impl Buddy<'_> {
    /// Isolates one pageblock unless something in `wanted`, the part of it that
    /// the caller is after, is in the way.
    fn isolate_block(
        &mut self,
        block: Pfn,
        wanted: PfnRange,
        purpose: Purpose,
    ) -> Result<(), Obstacle> {
        let info = self.map.block(block);
        // It may have gone offline since somebody looked without the lock.
        if !self.zone.owns(self.map, block) {
            return Err(Obstacle { pfn: wanted.start, why: Reason::Unmovable });
        }
        let ty = info.migratetype();
        if let Some(why) = refused(ty, purpose) {
            return Err(Obstacle { pfn: wanted.start, why });
        }
        if let Some(obstacle) = first_fixed(self.map, wanted, purpose) {
            return Err(obstacle);
        }
        info.set_restore_type(ty);
        self.retype_block(block, MigrateType::Isolate);
        self.zone.isolated_blocks.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Gives an isolated pageblock the type back that it had; returns how many
    /// of its pages are free.
    fn unisolate_block(&mut self, block: Pfn) -> u64 {
        let info = self.map.block(block);
        debug_assert!(info.migratetype() == MigrateType::Isolate, "{block:?} is not isolated");
        self.zone.isolated_blocks.fetch_sub(1, Relaxed);
        self.retype_block(block, info.restore_type())
    }
}

/// Why blocks of that type are not for that purpose, if they are not.
pub(super) fn refused(ty: MigrateType, purpose: Purpose) -> Option<Reason> {
    match (ty, purpose) {
        (MigrateType::Isolate, _) => Some(Reason::Isolated),
        (MigrateType::Cma, Purpose::Area(_)) => None,
        (MigrateType::Cma, _) => Some(Reason::Unmovable),
        _ => None,
    }
}

#[cfg(all(test, feature = "host"))]
mod tests {
    use super::*;
    use crate::early::{EarlyMem, RamRange, Reservation};
    use crate::gfp::{Gfp, Page, Request};
    use crate::host::Machine;
    use crate::page::PageType;
    use crate::platform::{IrqState, LogLevel};
    use crate::setup::Config;
    use crate::sync::HeldLocks;
    use crate::types::{CpuId, NodeId, Order};
    use core::fmt;
    use std::boxed::Box;
    use std::sync::Mutex;

    type Hook = Box<dyn FnOnce() + Send>;

    /// A machine on which something else happens just before a token is taken.
    struct Hooked {
        machine: Machine,
        hook: Mutex<Option<Hook>>,
    }

    // SAFETY: the machine's own answers; the hook runs before the token is held.
    unsafe impl Platform for Hooked {
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

        fn irq_save(&self) -> (CpuId, IrqState) {
            let hook = self.hook.lock().expect("no panic").take();
            if let Some(hook) = hook {
                hook();
            }
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

        fn now_ms(&self) -> u64 {
            self.machine.now_ms()
        }

        fn log(&self, level: LogLevel, line: fmt::Arguments<'_>) {
            self.machine.log(level, line);
        }
    }

    fn hooked() -> &'static Mm<Hooked> {
        let end = Pfn(if cfg!(miri) { 0x400 } else { 0x2000 });
        let machine = Machine::new(Pfn(0), end, 1).expect("address space");
        let (mut ranges, mut reserved) = ([RamRange::EMPTY; 8], [Reservation::EMPTY; 32]);
        let mut early = EarlyMem::new(&mut ranges, &mut reserved);
        early.add_ram(PfnRange::new(Pfn(1), end), NodeId(0));
        let platform = Hooked { machine, hook: Mutex::default() };
        Box::leak(Box::new(Mm::new(platform, early, &Config::default()).expect("RAM enough")))
    }

    /// Frees `page` while its pageblock is isolated and all CPUs are drained
    /// between the call and its token: the page must not come to lie on a
    /// per-CPU list, where nobody would look for it any more.
    fn isolated_at_the_last_moment(free: impl FnOnce(&Mm<Hooked>, Page)) {
        let mm = hooked();
        let page = mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("a page");
        mm.drain_all(None);
        let zone = mm.zone_at(page.pfn);
        let frames = (page.pfn.pageblock().0..).map(Pfn);
        let is_free = |&pfn: &Pfn| mm.map.page(pfn).head().ty() == PageType::Buddy;
        let other = frames.take(512).find(is_free).expect("the block has free pages");
        let kept = Box::leak(Box::new(Mutex::new(None)));
        let slot: &'static Mutex<_> = kept;
        *mm.platform.hook.lock().expect("no panic") = Some(Box::new(move || {
            let range = PfnRange::sized(other, 1);
            let isolated = mm.isolate(zone, range, Purpose::General).expect("it is free");
            mm.drain_all(Some(zone));
            *slot.lock().expect("no panic") = Some(isolated);
        }));
        free(mm, page);
        assert!(slot.lock().expect("no panic").is_some(), "nothing was isolated");
        assert!(mm.map.head_of(page.pfn).is_some_and(|(_, word)| word.ty() == PageType::Buddy));
        assert_eq!(mm.pcp_pages(zone), 0);
        mm.audit().expect("whole");
        *slot.lock().expect("no panic") = None;
        mm.audit().expect("whole");
    }

    #[test]
    fn frees_see_an_isolation_that_has_drained_their_cpu() {
        isolated_at_the_last_moment(|mm, page| mm.free_pages(page).expect("allocated"));
        isolated_at_the_last_moment(|mm, page| mm.free_bulk(&[page.pfn]).expect("allocated"));
        isolated_at_the_last_moment(|mm, page| {
            mm.free_as(page, PageType::Kernel).expect("allocated");
        });
    }
}
