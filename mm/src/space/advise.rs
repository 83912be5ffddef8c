//! What a program says about its memory: `madvise`, `mlock` (Linux mm/madvise.c,
//! mm/mlock.c). May call: `zap`, `map`, trait `Mmu`.

use super::region::{RegionFlags, Regions};
use super::{MapError, Space, SpaceRef};
use crate::mm::Mm;
use crate::mmu::{Entry, MapSize, Mmu, VirtAddr};
use crate::page::{LruFlags, PageDesc};
use crate::platform::Platform;
use crate::sync::Wait;
use crate::types::Pfn;
use core::ops::Range;

/// What a page says that a region keeps in memory.
const LOCKED: LruFlags = LruFlags::MLOCKED.union(LruFlags::UNEVICTABLE);

/// What a program may say about a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advice {
    /// Its content is not needed any more: it is zero when it is touched next
    /// (`MADV_DONTNEED`).
    DontNeed,
    /// Its content is not needed unless it is written again; until memory is
    /// short it may still be there (`MADV_FREE`).
    Free,
    /// Large pages are wanted (`MADV_HUGEPAGE`).
    Huge,
    /// No large pages (`MADV_NOHUGEPAGE`).
    NoHuge,
}

impl Regions {
    /// Whether all of `range` is mapped.
    fn covers(&self, range: &Range<VirtAddr>) -> bool {
        let mut at = range.start;
        while at < range.end {
            let Some(region) = self.find(at) else { return false };
            at = region.range().end;
        }
        true
    }
}

impl<P: Platform> Mm<P> {
    /// Takes advice about the pages of `len` bytes from `va` on. May wait; no
    /// lock held.
    ///
    /// # Errors
    /// [`MapError::Invalid`]; for DontNeed and Free also where memory is locked;
    /// [`MapError::NotMapped`] where something is not, and what is has been
    /// advised about; [`MapError::NoMemory`] or [`MapError::Busy`] when something
    /// had to be split and could not.
    pub fn madvise(
        &self,
        space: &SpaceRef<'_>,
        va: VirtAddr,
        len: u64,
        advice: Advice,
    ) -> Result<(), MapError> {
        let this = self.own_space(space)?;
        let range = self.page_range(va, len)?;
        match advice {
            Advice::DontNeed | Advice::Free => self.discard(this, &range, advice),
            Advice::Huge => self.change_flags(this, &range, RegionFlags::HUGE, RegionFlags::NOHUGE),
            Advice::NoHuge => {
                self.change_flags(this, &range, RegionFlags::NOHUGE, RegionFlags::HUGE)
            }
        }
    }

    fn discard(
        &self,
        space: &Space,
        range: &Range<VirtAddr>,
        advice: Advice,
    ) -> Result<(), MapError> {
        let regions = space.regions.read(&self.platform);
        let mut at = range.start;
        while at < range.end {
            let Some(region) = regions.first_from(at) else { break };
            let part = region.range().start.max(at)..region.range().end.min(range.end);
            if part.start >= range.end {
                break;
            }
            if region.flags().contains(RegionFlags::LOCKED) {
                return Err(MapError::Invalid);
            }
            at = part.end;
            match advice {
                Advice::DontNeed => self.zap(space, part)?,
                _ => self.free_lazily(space, part)?,
            }
        }
        if regions.covers(range) { Ok(()) } else { Err(MapError::NotMapped) }
    }

    /// Notes on all pages in `range` that nobody needs their content. What
    /// others share stays as it is; large pages that reach over its ends are
    /// split, whenever they have come.
    fn free_lazily(&self, space: &Space, range: Range<VirtAddr>) -> Result<(), MapError> {
        let mmu = self.tables()?;
        let mut at = range.start;
        while let Some((found, ..)) = mmu.next_entry(space.root, at, range.end) {
            at = found.max(at);
            let end = at.align_down(MapSize::Large).add(MapSize::Large.bytes()).min(range.end);
            if let Some(large) = self.free_some_lazily(mmu, space, at..end) {
                self.split_mapped(space, large)?;
                continue;
            }
            // From here on who writes says so again.
            mmu.flush(space.root, at..end);
            at = end;
            if at >= range.end {
                break;
            }
        }
        Ok(())
    }

    /// [`free_lazily`](Self::free_lazily) under one lock. Returns where a large
    /// page reaches over an end: nothing has been done then.
    fn free_some_lazily(
        &self,
        mmu: &dyn Mmu,
        space: &Space,
        range: Range<VirtAddr>,
    ) -> Option<VirtAddr> {
        let cpu = self.enter();
        let _entries = space.entry_lock(range.start).lock(&cpu);
        let mut from = range.start;
        while let Some((va, size, entry)) = mmu.next_entry(space.root, from, range.end) {
            let reaches = va < range.start || va.add(size.bytes()) > range.end;
            if reaches && matches!(entry, Entry::Page(_)) {
                return Some(va);
            }
            self.free_entry_lazily(mmu, space, va, size, entry);
            from = va.add(size.bytes());
        }
        None
    }

    fn free_entry_lazily(
        &self,
        mmu: &dyn Mmu,
        space: &Space,
        va: VirtAddr,
        size: MapSize,
        entry: Entry,
    ) {
        match entry {
            Entry::Swap(slot) => {
                mmu.replace(space.root, va, size, Entry::None);
                space.count_swap(-1);
                // What is in memory of it reclaim finds.
                self.swap_free(slot);
            }
            Entry::Page(m) if !self.is_zero_page(m.pfn) => {
                let desc = self.map.page(m.pfn);
                if desc.mapcount() == 1 && desc.try_lock() {
                    let cached = desc.head().lru().contains(LruFlags::SWAPCACHE);
                    if desc.mapcount() == 1 && (!cached || self.swap_take_over(m.pfn)) {
                        mmu.make_old(space.root, va);
                        mmu.make_clean(space.root, va);
                        desc.clear_lru(LruFlags::DIRTY);
                        self.lru_mark_lazyfree(m.pfn);
                    }
                    desc.unlock();
                }
            }
            _ => {}
        }
    }

    /// Changes the flags of all regions in `range`, cutting those that reach
    /// beyond it and joining those that are the same then.
    fn change_flags(
        &self,
        space: &Space,
        range: &Range<VirtAddr>,
        set: RegionFlags,
        clear: RegionFlags,
    ) -> Result<(), MapError> {
        let mut regions = space.regions.write(&self.platform);
        self.cut_at(space, &mut regions, range.start)?;
        self.cut_at(space, &mut regions, range.end)?;
        let mut at = range.start;
        while let Some(region) = regions.first_from(at).filter(|r| r.range().start < range.end) {
            region.set_flags((region.flags() - clear) | set);
            at = region.range().end;
        }
        let all = regions.covers(range);
        self.join_regions(&mut regions, range);
        if all { Ok(()) } else { Err(MapError::NotMapped) }
    }

    /// Keeps the pages of `len` bytes from `va` on in memory, and has them there
    /// when it returns. May wait; no lock held.
    ///
    /// # Errors
    /// [`MapError::Invalid`]; [`MapError::NotMapped`] and [`MapError::NoMemory`],
    /// when some of it may be locked by now.
    pub fn mlock(&self, space: &SpaceRef<'_>, va: VirtAddr, len: u64) -> Result<(), MapError> {
        let this = self.own_space(space)?;
        let range = self.page_range(va, len)?;
        self.change_flags(this, &range, RegionFlags::LOCKED, RegionFlags::empty())?;
        let touched = self.touch_all(this, range.clone());
        self.mark_locked(this, range);
        touched
    }

    /// Ends [`mlock`](Self::mlock) for a range: what nobody else locks can be
    /// reclaimed again. May wait; no lock held.
    ///
    /// # Errors
    /// [`MapError::Invalid`], [`MapError::NotMapped`], [`MapError::NoSpace`].
    pub fn munlock(&self, space: &SpaceRef<'_>, va: VirtAddr, len: u64) -> Result<(), MapError> {
        let this = self.own_space(space)?;
        let range = self.page_range(va, len)?;
        let changed = self.change_flags(this, &range, RegionFlags::empty(), RegionFlags::LOCKED);
        // What is mapped beside a hole is locked no more.
        self.mark_locked(this, range);
        changed
    }

    /// Has each page in `range` say whether it is locked, as its regions do.
    fn mark_locked(&self, space: &Space, range: Range<VirtAddr>) {
        let Ok(mmu) = self.tables() else { return };
        let regions = space.regions.read(&self.platform);
        let mut at = range.start;
        let mut wait = Wait::new();
        loop {
            let found = {
                let Some((va, ..)) = mmu.next_entry(space.root, at, range.end) else { return };
                let cpu = self.enter();
                let _entries = space.entry_lock(va).lock(&cpu);
                match mmu.next_entry(space.root, va, va.add(1)) {
                    Some((start, size, Entry::Page(m))) if !self.is_zero_page(m.pfn) => {
                        let desc = self.map.page(m.pfn);
                        desc.get();
                        Some((start.add(size.bytes()), Some((m.pfn, desc))))
                    }
                    // Where it moves to says what it said.
                    Some((_, _, Entry::Moving(_))) => None,
                    Some((start, size, _)) => Some((start.add(size.bytes()), None)),
                    None => Some((va.add(MapSize::Small.bytes()), None)),
                }
            };
            let Some((next, page)) = found else {
                wait.go_on(&self.platform);
                continue;
            };
            if let Some((pfn, desc)) = page {
                self.mark_page_locked(pfn, desc);
                self.put_lru(pfn);
            }
            at = next;
            if at >= range.end {
                break;
            }
        }
        drop(regions);
    }

    /// Has a page say whether a region that maps it is locked. The caller has a
    /// reference. If another space changes its mind at the same time, reclaim
    /// finds out.
    fn mark_page_locked(&self, pfn: Pfn, desc: &PageDesc) {
        let locked = self.is_in_locked_region(pfn);
        if desc.head().lru().contains(LruFlags::MLOCKED) == locked {
            return;
        }
        if locked {
            self.lru_change(pfn, LOCKED, LruFlags::ACTIVE);
        } else {
            self.lru_change(pfn, LruFlags::empty(), LOCKED);
        }
    }

    /// Lets a page be reclaimed that an entry maps no more, if no other is in a
    /// region that keeps it (Linux `munlock_vma_folio`). The caller has a
    /// reference; no spin lock held.
    #[cold]
    pub(super) fn unmark_locked(&self, pfn: Pfn) {
        if !self.is_in_locked_region(pfn) {
            self.lru_change(pfn, LruFlags::empty(), LOCKED);
        }
    }

    fn is_in_locked_region(&self, pfn: Pfn) -> bool {
        let mut locked = false;
        self.each_mapping_region(pfn, &mut |region| {
            locked |= region.flags().contains(RegionFlags::LOCKED);
        });
        locked
    }
}
