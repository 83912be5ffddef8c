//! What a program says about its memory: `madvise`, `mlock` (Linux mm/madvise.c,
//! mm/mlock.c). May call: `zap`, `map`, trait `Mmu`.

use super::region::{RegionFlags, Regions};
use super::{MapError, Space, SpaceRef};
use crate::mm::Mm;
use crate::mmu::{Entry, MapSize, Mmu, VirtAddr};
use crate::page::{LruFlags, PageDesc};
use crate::platform::Platform;
use core::ops::Range;

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
            self.split_across(space, part.start)?;
            self.split_across(space, part.end)?;
            match advice {
                Advice::DontNeed => self.zap(space, part),
                _ => self.free_lazily(space, part),
            }
        }
        if regions.covers(range) { Ok(()) } else { Err(MapError::NotMapped) }
    }

    /// Notes on all pages in `range` that nobody needs their content. What
    /// others share stays as it is.
    fn free_lazily(&self, space: &Space, range: Range<VirtAddr>) {
        let Ok(mmu) = self.tables() else { return };
        let mut at = range.start;
        while let Some((found, ..)) = mmu.next_entry(space.root, at, range.end) {
            at = found.max(at);
            let end = at.align_down(MapSize::Large).add(MapSize::Large.bytes()).min(range.end);
            {
                let cpu = self.enter();
                let _entries = space.entry_lock(at).lock(&cpu);
                let mut from = at;
                while let Some((va, size, entry)) = mmu.next_entry(space.root, from, end) {
                    self.free_entry_lazily(mmu, space, va, size, entry);
                    from = va.add(size.bytes());
                }
            }
            // From here on who writes says so again.
            mmu.flush(space.root, at..end);
            at = end;
            if at >= range.end {
                return;
            }
        }
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
    /// beyond it.
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
        if regions.covers(range) { Ok(()) } else { Err(MapError::NotMapped) }
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
        self.touch_all(this, range.clone())?;
        self.mark_locked(this, range);
        Ok(())
    }

    /// Ends [`mlock`](Self::mlock) for a range: what nobody else locks can be
    /// reclaimed again. May wait; no lock held.
    ///
    /// # Errors
    /// [`MapError::Invalid`], [`MapError::NotMapped`], [`MapError::NoSpace`].
    pub fn munlock(&self, space: &SpaceRef<'_>, va: VirtAddr, len: u64) -> Result<(), MapError> {
        let this = self.own_space(space)?;
        let range = self.page_range(va, len)?;
        self.change_flags(this, &range, RegionFlags::empty(), RegionFlags::LOCKED)?;
        self.mark_locked(this, range);
        Ok(())
    }

    /// Has each page in `range` say whether it is locked, as its regions do.
    fn mark_locked(&self, space: &Space, range: Range<VirtAddr>) {
        let Ok(mmu) = self.tables() else { return };
        let regions = space.regions.read(&self.platform);
        let mut at = range.start;
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
                    Some((start, size, _)) => Some((start.add(size.bytes()), None)),
                    None => Some((va.add(MapSize::Small.bytes()), None)),
                }
            };
            let Some((next, page)) = found else { return };
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
    /// reference.
    pub(crate) fn mark_page_locked(&self, pfn: crate::types::Pfn, desc: &PageDesc) {
        let mut locked = false;
        self.each_mapping_region(pfn, &mut |region| {
            locked |= region.flags().contains(RegionFlags::LOCKED);
        });
        let flags = LruFlags::MLOCKED | LruFlags::UNEVICTABLE;
        if desc.head().lru().contains(LruFlags::MLOCKED) == locked {
            return;
        }
        if locked {
            self.lru_change(pfn, flags, LruFlags::ACTIVE);
        } else {
            self.lru_change(pfn, LruFlags::empty(), flags);
        }
    }
}
