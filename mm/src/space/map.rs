//! Regions made, cut and taken away: `mmap` and `munmap` (Linux mm/mmap.c). May
//! call: `area`, `zap`, `rmap`.

use super::region::{MAX_PAGES, Prot, Region, RegionFlags, Regions};
use super::{Space, SpaceRef};
use crate::mm::Mm;
use crate::mmu::{Entry, MapSize, VirtAddr};
use crate::platform::Platform;
use crate::sync::Wait;
use crate::types::PAGE_SIZE;
use bitflags::bitflags;
use core::fmt;
use core::ops::Range;

/// Regions that a space may have (Linux `sysctl_max_map_count`).
const MAX_REGIONS: u64 = 65_530;

/// Why memory could not be mapped, unmapped or advised about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// This machine has no address spaces.
    Unsupported,
    /// The range is empty, not made of pages, or beyond the space (`EINVAL`).
    Invalid,
    /// There is no room in the space for it, or too many regions, or it is more
    /// than 16 TiB (`ENOMEM`).
    NoSpace,
    /// Something is mapped there already (`EEXIST`).
    Exists,
    /// Nothing, or not everything, is mapped there (`ENOMEM`).
    NotMapped,
    /// There is no memory for the tables of it (`ENOMEM`).
    NoMemory,
    /// A large page could not be split, for somebody kept using it (`EAGAIN`).
    Busy,
    /// The space is another manager's.
    Foreign,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsupported => "no address spaces on this machine",
            Self::Invalid => "invalid range",
            Self::NoSpace => "no room in the address space",
            Self::Exists => "mapped already",
            Self::NotMapped => "not mapped",
            Self::NoMemory => "out of memory",
            Self::Busy => "a large page is in use",
            Self::Foreign => "a space of another machine",
        })
    }
}

impl core::error::Error for MapError {}

bitflags! {
    /// How memory is to be mapped.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct MapFlags: u32 {
        /// At the given address and nowhere else; what is there already is kept
        /// and the call fails (`MAP_FIXED_NOREPLACE`).
        const FIXED = 1 << 0;
        /// Touch it all at once, and keep it in memory (`MAP_LOCKED`).
        const LOCKED = 1 << 1;
        /// Touch it all at once (`MAP_POPULATE`).
        const POPULATE = 1 << 2;
    }
}

impl<P: Platform> Mm<P> {
    /// The space, if it is this manager's.
    pub(crate) fn own_space<'s>(&self, space: &'s SpaceRef<'_>) -> Result<&'s Space, MapError> {
        let own = space.home == core::ptr::from_ref(self).addr();
        if own { Ok(space) } else { Err(MapError::Foreign) }
    }

    /// The pages of `len` bytes from `va` on.
    pub(super) fn page_range(&self, va: VirtAddr, len: u64) -> Result<Range<VirtAddr>, MapError> {
        let span = self.tables()?.span();
        let end = va.0.checked_add(len).and_then(|end| end.checked_next_multiple_of(PAGE));
        let end = VirtAddr(end.ok_or(MapError::Invalid)?);
        let fits = span.start <= va && va < end && end <= span.end;
        if fits && va.is_aligned(MapSize::Small) { Ok(va..end) } else { Err(MapError::Invalid) }
    }

    /// Maps `len` bytes, rounded up to pages, of memory that is zero when it is
    /// first read: at `hint` if there is room, else where there is. Nothing is
    /// allocated for it until it is touched, unless `flags` say so. May wait; no
    /// lock held.
    ///
    /// # Errors
    /// [`MapError::Invalid`], [`MapError::NoSpace`], [`MapError::Exists`] with
    /// FIXED, [`MapError::NoMemory`]; with LOCKED also when not all of it could
    /// be touched. Nothing is mapped then.
    pub fn mmap(
        &self,
        space: &SpaceRef<'_>,
        hint: Option<VirtAddr>,
        len: u64,
        prot: Prot,
        flags: MapFlags,
    ) -> Result<VirtAddr, MapError> {
        let this = self.own_space(space)?;
        let span = self.tables()?.span();
        let len = len.checked_next_multiple_of(PAGE).ok_or(MapError::Invalid)?;
        if len == 0 || len > span.end.0 - span.start.0 {
            return Err(MapError::Invalid);
        }
        if len / PAGE > MAX_PAGES {
            return Err(MapError::NoSpace);
        }
        let group = self.group_new().map_err(|_| MapError::NoMemory)?;
        let mut region_flags = RegionFlags::from_bits_truncate(prot.bits());
        region_flags.set(RegionFlags::READ, !prot.is_empty());
        region_flags.set(RegionFlags::LOCKED, flags.contains(MapFlags::LOCKED));
        let made = self.map_at(this, hint, len, group, region_flags, flags);
        let va = made.inspect_err(|_| self.group_free(group))?;
        if flags.intersects(MapFlags::LOCKED | MapFlags::POPULATE) {
            let populated = self.touch_all(this, va..va.add(len));
            if flags.contains(MapFlags::LOCKED) && populated.is_err() {
                self.munmap(space, va, len)?;
                return Err(MapError::NoMemory);
            }
        }
        Ok(va)
    }

    fn map_at(
        &self,
        space: &Space,
        hint: Option<VirtAddr>,
        len: u64,
        group: u32,
        region_flags: RegionFlags,
        flags: MapFlags,
    ) -> Result<VirtAddr, MapError> {
        let fixed = flags.contains(MapFlags::FIXED);
        let mut regions = space.regions.write(&self.platform);
        if regions.len >= MAX_REGIONS {
            return Err(MapError::NoSpace);
        }
        let at = match hint {
            Some(va) => {
                let range = self.page_range(va, len);
                match range.map(|range| regions.is_free(&range)) {
                    Ok(true) => Some(va),
                    Ok(false) if fixed => return Err(MapError::Exists),
                    Err(why) if fixed => return Err(why),
                    _ => None,
                }
            }
            None if fixed => return Err(MapError::Invalid),
            None => None,
        };
        let span = self.tables()?.span();
        let start = at.or_else(|| regions.find_room(&span, len)).ok_or(MapError::NoSpace)?;
        let range = start..start.add(len);
        let region = self.new_region(Region::new(space, range, start, group, region_flags))?;
        self.group_join(region);
        regions.insert(region);
        Ok(start)
    }

    /// Unmaps `len` bytes from `va` on, rounded up to pages; what is not mapped
    /// there does not matter. May wait; no lock held.
    ///
    /// # Errors
    /// [`MapError::Invalid`]; [`MapError::NoMemory`] or [`MapError::Busy`] when a
    /// region or a large page has to be cut and cannot be. All is mapped still.
    pub fn munmap(&self, space: &SpaceRef<'_>, va: VirtAddr, len: u64) -> Result<(), MapError> {
        let this = self.own_space(space)?;
        let range = self.page_range(va, len)?;
        let mut regions = this.regions.write(&self.platform);
        self.cut_at(this, &mut regions, range.start)?;
        self.cut_at(this, &mut regions, range.end)?;
        self.unmap_whole(this, &mut regions, range);
        Ok(())
    }

    /// Unmaps all: the last user is gone.
    pub(super) fn unmap_all(&self, space: &Space) {
        let Ok(mmu) = self.tables() else { return };
        let mut regions = space.regions.write(&self.platform);
        self.unmap_whole(space, &mut regions, mmu.span());
    }

    /// Unmaps the regions that lie in `range`, into which none reaches.
    fn unmap_whole(&self, space: &Space, regions: &mut Regions, range: Range<VirtAddr>) {
        let Ok(mmu) = self.tables() else { return };
        let mut any = false;
        while let Some(region) = regions.remove_first(&range) {
            // SAFETY: from the tree: alive until it is freed below.
            let this = unsafe { region.as_ref() };
            self.zap_region(space, this);
            self.group_leave(this);
            self.free_region(region);
            any = true;
        }
        if any {
            // Tables of which no part is anybody else's.
            let span = mmu.span();
            let start = regions.last_before(range.start).map_or(span.start, |r| r.range().end);
            let end = regions.first_from(range.end).map_or(span.end, |r| r.range().start);
            mmu.free_tables(space.root, start..end, &mut |pfn| {
                self.count_tables(space, -1);
                self.free_table(pfn);
            });
        }
    }

    /// Makes two regions of one that reaches over `at`, if one does.
    pub(super) fn cut_at(
        &self,
        space: &Space,
        regions: &mut Regions,
        at: VirtAddr,
    ) -> Result<(), MapError> {
        let Some(region) = regions.find(at).filter(|region| region.range().start < at) else {
            return Ok(());
        };
        if regions.len >= MAX_REGIONS {
            return Err(MapError::NoSpace);
        }
        self.split_across(space, at)?;
        let end = region.range().end;
        let tail = Region::new(space, at..end, region.base(), region.group, region.flags());
        let region = core::ptr::NonNull::from(region);
        let tail = self.new_region(tail)?;
        // Both show what is behind for a moment, so that no walk misses it.
        self.group_join(tail);
        // SAFETY: in the tree, which is ours to change.
        regions.cut(unsafe { region.as_ref() }, at, tail);
        Ok(())
    }

    /// Makes one region of those that touch within `range` or at its ends, have
    /// been one before, and say the same (Linux `vma_merge`): or who changes his
    /// mind page by page would have as many regions as pages.
    pub(super) fn join_regions(&self, regions: &mut Regions, range: &Range<VirtAddr>) {
        let before = regions.last_before(range.start);
        let mut at = before.map_or(range.start, |region| region.range().start);
        while let Some(region) = regions.first_from(at).filter(|r| r.range().start <= range.end) {
            let end = region.range().end;
            if !regions.find(end).is_some_and(|next| region.goes_on_in(next)) {
                at = end;
                continue;
            }
            let region = core::ptr::NonNull::from(region);
            let Some(next) = regions.remove_first(&(end..end.add(1))) else { return };
            // SAFETY: in the tree, which is ours to change, and so was the next.
            let (region, gone) = unsafe { (region.as_ref(), next.as_ref()) };
            regions.grow(region, gone.range().end);
            self.group_leave(gone);
            self.free_region(next);
        }
    }

    /// Sees to it that no large page reaches over `at`. The regions are locked.
    pub(super) fn split_across(&self, space: &Space, at: VirtAddr) -> Result<(), MapError> {
        if at.is_aligned(MapSize::Large) {
            return Ok(());
        }
        let mut wait = Wait::new();
        loop {
            let entry = {
                let cpu = self.enter();
                let _entries = space.entry_lock(at).lock(&cpu);
                self.tables()?.get(space.root, at)
            };
            match entry {
                Entry::Moving(m) if m.size == MapSize::Large => wait.go_on(&self.platform),
                Entry::Page(m) if m.size == MapSize::Large => self.split_mapped(space, at)?,
                _ => return Ok(()),
            }
        }
    }
}

const PAGE: u64 = PAGE_SIZE as u64;
