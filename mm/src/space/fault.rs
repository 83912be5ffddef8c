//! Faults: an access that the tables do not allow is made good, or refused
//! (Linux `handle_mm_fault`). May call: `alloc`, `lru_page`, `huge`, `copy`.

use super::frames::Stash;
use super::region::{Region, RegionFlags};
use super::{Access, FaultError, Space, SpaceRef};
use crate::gfp::{Gfp, Page, Request};
use crate::lru_page::LruPage;
use crate::mm::Mm;
use crate::mmu::{Entry, MapSize, Mapping, Mmu, VirtAddr};
use crate::page::{LruFlags, NIL, link, linked};
use crate::platform::Platform;
use crate::stats::Event;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed};
use crate::sync::Wait;
use crate::types::{Order, Pfn};

/// What became of one attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Attempted {
    /// The access may be tried again.
    Done,
    /// Something changed meanwhile: the entry is to be looked at again.
    Retry,
}

impl<P: Platform> Mm<P> {
    /// Makes an access to `va` possible: afterwards it may be tried again. For
    /// the thread that made it: interrupts on, no lock held; may wait.
    ///
    /// # Errors
    /// See [`FaultError`]; the access cannot be made.
    pub fn fault(
        &self,
        space: &SpaceRef<'_>,
        va: VirtAddr,
        access: Access,
    ) -> Result<(), FaultError> {
        let this = self.own_space(space).map_err(|_| FaultError::NoRegion)?;
        self.stats.count(Event::PgFault);
        this.faults.fetch_add(1, Relaxed);
        let regions = this.regions.read(&self.platform);
        let region = regions.find(va).ok_or(FaultError::NoRegion)?;
        self.fault_in(this, region, va, access)
    }

    /// [`fault`](Self::fault) in a region that is known, and stays.
    pub(super) fn fault_in(
        &self,
        space: &Space,
        region: &Region,
        va: VirtAddr,
        access: Access,
    ) -> Result<(), FaultError> {
        let needs = match access {
            Access::Read => RegionFlags::READ,
            Access::Write => RegionFlags::WRITE,
        };
        if !region.flags().contains(needs) {
            return Err(FaultError::Protection);
        }
        let mmu = self.tables().map_err(|_| FaultError::NoRegion)?;
        let va = va.align_down(MapSize::Small);
        let mut wait = Wait::new();
        loop {
            if space.is_killed() {
                return Err(FaultError::Killed);
            }
            let entry = {
                let cpu = self.enter();
                let _entries = space.entry_lock(va).lock(&cpu);
                mmu.get(space.root, va)
            };
            let attempted = match entry {
                Entry::None => self.fault_anon(mmu, space, region, va, access)?,
                Entry::Page(m) if access == Access::Write && !m.writable => {
                    self.fault_shared(mmu, space, region, va, m)?
                }
                // Somebody else was quicker, or this CPU knew an older entry.
                Entry::Page(_) => Attempted::Done,
                Entry::Swap(slot) => {
                    let gfp = Gfp::HIGHUSER_MOVABLE;
                    self.fault_swapped(mmu, space, region, va, slot, access, gfp)?
                }
                Entry::Moving(_) => {
                    wait.go_on(&self.platform);
                    Attempted::Retry
                }
            };
            if attempted == Attempted::Done {
                return Ok(());
            }
        }
    }

    /// Memory that nobody has touched.
    fn fault_anon(
        &self,
        mmu: &dyn Mmu,
        space: &Space,
        region: &Region,
        va: VirtAddr,
        access: Access,
    ) -> Result<Attempted, FaultError> {
        if let Some(done) = self.fault_huge(mmu, space, region, va, access)? {
            return Ok(done);
        }
        if access == Access::Read
            && let Some(pfn) = self.zero_page()
        {
            let zero =
                Mapping { pfn, size: MapSize::Small, writable: false, dirty: false, young: true };
            return self.enter_entry(mmu, space, va, &zero, &mut |_| {});
        }
        let page = self.zeroed_page(Order(0), Gfp::HIGHUSER_MOVABLE)?;
        let mapping = Mapping {
            pfn: page.pfn,
            size: MapSize::Small,
            writable: region.flags().contains(RegionFlags::WRITE),
            dirty: access == Access::Write,
            young: true,
        };
        self.enter_page(mmu, space, region, va, page, &mapping)
    }

    /// Memory for a program that nothing has been written to. It is cleared here:
    /// so an ordinary page is had in the quickest way.
    pub(super) fn zeroed_page(&self, order: Order, gfp: Gfp) -> Result<Page, FaultError> {
        let page = self.anon_page(order, gfp)?;
        self.clear(page.pfn, order);
        Ok(page)
    }

    /// Memory for a program.
    pub(super) fn anon_page(&self, order: Order, gfp: Gfp) -> Result<Page, FaultError> {
        self.alloc_pages(Request::new(order, gfp)).map_err(|_| FaultError::NoMemory)
    }

    /// Maps a block that was allocated for it where nothing is; frees it if
    /// something is by now.
    pub(super) fn enter_page(
        &self,
        mmu: &dyn Mmu,
        space: &Space,
        region: &Region,
        va: VirtAddr,
        page: Page,
        mapping: &Mapping,
    ) -> Result<Attempted, FaultError> {
        let as_page = new_page(region, va);
        let result = self.enter_entry(mmu, space, va, mapping, &mut |mm| {
            mm.make_mapped(page, as_page);
            mm.counted(space, mapping);
            mm.note_mapped(page.pfn, page.order.pages());
        });
        if result != Ok(Attempted::Done) {
            let freed = self.free_pages(page);
            debug_assert!(freed.is_ok(), "an allocated block");
        }
        result
    }

    /// Writes an entry where none is, making the tables it needs; `before` is
    /// called when nothing can go wrong any more, with the entry's lock held.
    pub(super) fn enter_entry(
        &self,
        mmu: &dyn Mmu,
        space: &Space,
        va: VirtAddr,
        mapping: &Mapping,
        before: &mut dyn FnMut(&Self),
    ) -> Result<Attempted, FaultError> {
        let mut stash = Stash::default();
        let result = loop {
            let cpu = self.enter();
            let entries = space.entry_lock(va).lock(&cpu);
            // Nobody would take from a killed space what it got from now on.
            if mmu.get(space.root, va) != Entry::None || space.is_killed() {
                break Ok(Attempted::Retry);
            }
            if mmu.prepare(space.root, va, mapping.size, &mut || stash.take()) {
                before(self);
                mmu.replace(space.root, va, mapping.size, Entry::Page(*mapping));
                break Ok(Attempted::Done);
            }
            drop(entries);
            drop(cpu);
            if !stash.is_dry() {
                break Ok(Attempted::Retry);
            }
            if let Err(why) = self.fill_stash(&mut stash) {
                break Err(why);
            }
        };
        self.drop_stash(space, &mut stash);
        result
    }

    /// The page that all memory shows which was read before it was written; None
    /// if there is no memory for it.
    fn zero_page(&self) -> Option<Pfn> {
        let known = || linked(self.spaces.zero.load(Acquire));
        if let Some(pfn) = known() {
            return Some(pfn);
        }
        let page = self.alloc_pages(Request::new(Order(0), Gfp::KERNEL | Gfp::ZERO)).ok()?;
        let new = link(page.pfn);
        if self.spaces.zero.compare_exchange(NIL, new, AcqRel, Relaxed).is_err() {
            // Somebody else was quicker.
            let _ = self.free_pages(page);
        }
        known()
    }

    /// Whether that is the page of zeros that nobody owns.
    #[inline]
    pub(crate) fn is_zero_page(&self, pfn: Pfn) -> bool {
        self.spaces.zero.load(Relaxed) == link(pfn)
    }
}

/// What a new page at `va` is.
pub(super) fn new_page(region: &Region, va: VirtAddr) -> LruPage {
    let mut flags = LruFlags::ANON | LruFlags::DIRTY | LruFlags::UPTODATE;
    if region.flags().contains(RegionFlags::LOCKED) {
        flags |= LruFlags::MLOCKED | LruFlags::UNEVICTABLE;
    }
    LruPage { flags, owner: region.group, index: region.index(va) }
}
