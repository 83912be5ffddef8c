//! A space's memory from outside: read and written by whoever has the space, not
//! only by its own threads (Linux `access_remote_vm`). May call: `fault`.

use super::region::{Region, Regions};
use super::{Access, FaultError, MapError, Space, SpaceRef};
use crate::mm::Mm;
use crate::mmu::{Entry, MapSize, Mapping, Mmu, VirtAddr};
use crate::page::LruFlags;
use crate::platform::Platform;
use crate::stats::Event;
use crate::sync::Ordering::Relaxed;
use crate::types::{PAGE_SIZE, Pfn};
use core::ops::Range;

const PAGE: u64 = PAGE_SIZE as u64;

/// A page that is kept where it is while it is looked at.
struct Held {
    /// The frame that is meant.
    pfn: Pfn,
    /// The page that it is a part of; None for the page of zeros.
    head: Option<Pfn>,
}

impl<P: Platform> Mm<P> {
    /// Copies the memory of `space` at `va` to `buf`, faulting it in. Interrupts
    /// on, no lock held; may wait.
    ///
    /// # Errors
    /// As [`fault`](Self::fault); some of `buf` may have been written.
    pub fn read_space(
        &self,
        space: &SpaceRef<'_>,
        va: VirtAddr,
        buf: &mut [u8],
    ) -> Result<(), FaultError> {
        let this = self.own_space(space).map_err(|_| FaultError::NoRegion)?;
        let regions = this.regions.read(&self.platform);
        let (mut at, mut rest) = (va, buf);
        while !rest.is_empty() {
            let within = (at.0 % PAGE) as usize;
            let (part, more) = rest.split_at_mut(rest.len().min(PAGE_SIZE - within));
            let held = self.hold(this, &regions, at, Access::Read)?;
            let from = self.platform.frame(held.pfn).wrapping_add(within);
            // SAFETY: within a frame that stays as long as it is held; programs
            // may write to it meanwhile, as to any memory that is shared.
            unsafe { core::ptr::copy(from, part.as_mut_ptr(), part.len()) };
            self.drop_held(held);
            at = VirtAddr(at.0.wrapping_add(part.len() as u64));
            rest = more;
        }
        Ok(())
    }

    /// Copies `bytes` to the memory of `space` at `va`, faulting it in to be
    /// written. Context as [`read_space`](Self::read_space).
    ///
    /// # Errors
    /// As [`fault`](Self::fault); some of it may have been written.
    pub fn write_space(
        &self,
        space: &SpaceRef<'_>,
        va: VirtAddr,
        bytes: &[u8],
    ) -> Result<(), FaultError> {
        let this = self.own_space(space).map_err(|_| FaultError::NoRegion)?;
        let regions = this.regions.read(&self.platform);
        let (mut at, mut rest) = (va, bytes);
        while !rest.is_empty() {
            let within = (at.0 % PAGE) as usize;
            let (part, more) = rest.split_at(rest.len().min(PAGE_SIZE - within));
            let held = self.hold(this, &regions, at, Access::Write)?;
            let to = self.platform.frame(held.pfn).wrapping_add(within);
            // SAFETY: as above.
            unsafe { core::ptr::copy(part.as_ptr(), to, part.len()) };
            // After the bytes: who cleans the page meanwhile has to see it again.
            if let Some(head) = held.head {
                self.map.page(head).set_lru(LruFlags::DIRTY);
            }
            self.drop_held(held);
            at = VirtAddr(at.0.wrapping_add(part.len() as u64));
            rest = more;
        }
        Ok(())
    }

    /// Has the page at `va` there, and keeps it.
    fn hold(
        &self,
        space: &Space,
        regions: &Regions,
        va: VirtAddr,
        access: Access,
    ) -> Result<Held, FaultError> {
        let region = regions.find(va).ok_or(FaultError::NoRegion)?;
        let mmu = self.tables().map_err(|_| FaultError::NoRegion)?;
        loop {
            if space.is_killed() {
                return Err(FaultError::Killed);
            }
            if let Some(held) = self.hold_mapped(mmu, space, va, access) {
                return Ok(held);
            }
            // It may be gone again when this returns.
            self.stats.count(Event::PgFault);
            space.faults.fetch_add(1, Relaxed);
            self.fault_in(space, region, va, access)?;
        }
    }

    /// Keeps the page at `va`, if it is there and allows the access.
    fn hold_mapped(
        &self,
        mmu: &dyn Mmu,
        space: &Space,
        va: VirtAddr,
        access: Access,
    ) -> Option<Held> {
        let cpu = self.enter();
        let _entries = space.entry_lock(va).lock(&cpu);
        let Entry::Page(m) = mmu.get(space.root, va.align_down(MapSize::Small)) else {
            return None;
        };
        if access == Access::Write && !m.writable {
            return None;
        }
        let part = (va.0 - va.align_down(m.size).0) / PAGE;
        let head = (!self.is_zero_page(m.pfn)).then_some(m.pfn);
        if let Some(head) = head {
            self.map.page(head).get();
            if !m.young {
                self.make_young(mmu, space, va.align_down(m.size), m);
            }
        }
        Some(Held { pfn: m.pfn.add(part), head })
    }

    /// Has an entry say that its page was used: reclaim is to know of this use as
    /// of one by the processor. The entry's lock is held.
    fn make_young(&self, mmu: &dyn Mmu, space: &Space, va: VirtAddr, mapping: Mapping) {
        let young = Entry::Page(Mapping { young: true, ..mapping });
        // What the processor has noted since the entry was read is not to be lost.
        if let Entry::Page(before) = mmu.replace(space.root, va, mapping.size, young)
            && before.dirty
            && !mapping.dirty
        {
            self.map.page(mapping.pfn).set_lru(LruFlags::DIRTY);
        }
    }

    fn drop_held(&self, held: Held) {
        if let Some(head) = held.head {
            self.put_lru(head);
        }
    }

    /// Touches all pages in `range`, all of which is mapped.
    ///
    /// # Errors
    /// [`MapError::NotMapped`] where something is not, or its memory could not be
    /// had.
    pub(super) fn touch_all(&self, space: &Space, range: Range<VirtAddr>) -> Result<(), MapError> {
        let mut at = range.start;
        while at < range.end {
            // One after the other, so that others get at the regions too.
            let regions = space.regions.read(&self.platform);
            let region = regions.find(at).ok_or(MapError::NotMapped)?;
            let end = region.range().end.min(range.end);
            let next = at.align_down(MapSize::Large).add(MapSize::Large.bytes()).min(end);
            self.touch_some(space, region, at..next)?;
            at = next;
        }
        Ok(())
    }

    fn touch_some(
        &self,
        space: &Space,
        region: &Region,
        range: Range<VirtAddr>,
    ) -> Result<(), MapError> {
        let flags = region.flags();
        let access =
            if flags.contains(super::RegionFlags::WRITE) { Access::Write } else { Access::Read };
        for page in range.start.page()..range.end.page() {
            self.fault_in(space, region, VirtAddr::of_page(page), access).map_err(
                |why| match why {
                    FaultError::NoMemory => MapError::NoMemory,
                    _ => MapError::NotMapped,
                },
            )?;
        }
        Ok(())
    }
}
