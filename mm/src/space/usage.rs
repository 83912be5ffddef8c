//! What an address space has of memory, entry by entry: for its report files and
//! for those who look at single pages (Linux fs/proc/task_mmu.c). Changes
//! nothing. May call: `region`, trait `Mmu`, `swap`'s counts.

use super::region::{Region, RegionFlags};
use super::{MapError, Space, SpaceRef};
use crate::mm::Mm;
use crate::mmu::{Entry, MapSize, Mapping, VirtAddr};
use crate::page::LruFlags;
use crate::platform::Platform;
use crate::types::PAGE_SIZE;
use core::ops::{AddAssign, Range};

/// Fractions of a byte that are counted, so that shares of pages add up.
const SHARE_SHIFT: u32 = 12;

/// What there is of memory in a part of a space, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Usage {
    /// Covered by regions.
    pub size: u64,
    /// Mapped, pages of zeros that were only read aside.
    pub rss: u64,
    /// Of that, in pages that others map too.
    pub shared_clean: u64,
    /// As `shared_clean`, and written.
    pub shared_dirty: u64,
    /// In pages that only this maps.
    pub private_clean: u64,
    /// As `private_clean`, and written.
    pub private_dirty: u64,
    /// Used since reclaim last asked.
    pub referenced: u64,
    /// In pages of anonymous memory.
    pub anonymous: u64,
    /// In pages whose content nobody needs (`MADV_FREE`).
    pub lazy_free: u64,
    /// In large pages.
    pub huge: u64,
    /// In swap.
    pub swap: u64,
    /// Mapped, and kept in memory.
    pub locked: u64,
    /// Each mapped page divided by the number of entries that map it, in bytes
    /// shifted left by 12.
    share: u64,
    share_dirty: u64,
}

impl Usage {
    /// The part of all mapped memory that is this one's (`Pss`), in bytes.
    pub const fn proportional(&self) -> u64 {
        self.share >> SHARE_SHIFT
    }

    /// The same of what was written.
    pub const fn proportional_dirty(&self) -> u64 {
        self.share_dirty >> SHARE_SHIFT
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.size += other.size;
        self.rss += other.rss;
        self.shared_clean += other.shared_clean;
        self.shared_dirty += other.shared_dirty;
        self.private_clean += other.private_clean;
        self.private_dirty += other.private_dirty;
        self.referenced += other.referenced;
        self.anonymous += other.anonymous;
        self.lazy_free += other.lazy_free;
        self.huge += other.huge;
        self.swap += other.swap;
        self.locked += other.locked;
        self.share += other.share;
        self.share_dirty += other.share_dirty;
    }
}

impl<P: Platform> Mm<P> {
    /// What there is of memory in the `len` bytes from `va` on. May wait; no lock
    /// held.
    ///
    /// # Errors
    /// [`MapError::Invalid`] for what is no range of the space's.
    pub fn space_usage(
        &self,
        space: &SpaceRef<'_>,
        va: VirtAddr,
        len: u64,
    ) -> Result<Usage, MapError> {
        let this = self.own_space(space)?;
        let range = self.page_range(va, len)?;
        let regions = this.regions.read(&self.platform);
        let mut usage = Usage::default();
        let mut at = range.start;
        while let Some(region) = regions.first_from(at).filter(|r| r.range().start < range.end) {
            let of = region.range();
            usage += self.usage_of_part(
                this,
                region.flags(),
                of.start.max(range.start)..of.end.min(range.end),
            );
            at = of.end;
        }
        Ok(usage)
    }

    /// Calls `f` with each region of a space, lowest first, and what it has of
    /// memory, until it fails. May wait; no lock held.
    pub(crate) fn each_region<E>(
        &self,
        space: &Space,
        mut f: impl FnMut(&Region, &Usage) -> Result<(), E>,
    ) -> Result<(), E> {
        let regions = space.regions.read(&self.platform);
        regions.iter().try_for_each(|region| {
            f(region, &self.usage_of_part(space, region.flags(), region.range()))
        })
    }

    /// Pages that a space's regions cover. May wait.
    pub(crate) fn mapped_size(&self, space: &Space) -> u64 {
        space.regions.read(&self.platform).pages
    }

    /// Usage of a part of a region; the regions are locked, so that no table goes.
    fn usage_of_part(&self, space: &Space, flags: RegionFlags, range: Range<VirtAddr>) -> Usage {
        let mut usage = Usage { size: range.end.0 - range.start.0, ..Usage::default() };
        let Ok(mmu) = self.tables() else { return usage };
        let mut at = range.start;
        while at < range.end {
            let Some((va, size, entry)) = mmu.next_entry(space.root, at, range.end) else { break };
            match entry {
                Entry::Page(m) | Entry::Moving(m) if !self.is_zero_page(m.pfn) => {
                    // A large page may reach over the ends.
                    let next = va.add(size.bytes());
                    let bytes = next.min(range.end).0 - va.max(range.start).0;
                    self.add_mapped(&mut usage, &m, flags, bytes);
                }
                Entry::Swap(_) => usage.swap += PAGE_SIZE as u64,
                _ => {}
            }
            at = va.add(size.bytes());
        }
        usage
    }

    fn add_mapped(&self, usage: &mut Usage, mapping: &Mapping, flags: RegionFlags, bytes: u64) {
        let page = self.map.page(mapping.pfn);
        let known = page.head().lru();
        let mappings = u64::from(page.mapcount().max(1));
        let dirty = mapping.dirty || known.contains(LruFlags::DIRTY);
        let of = match (mappings > 1, dirty) {
            (true, false) => &mut usage.shared_clean,
            (true, true) => &mut usage.shared_dirty,
            (false, false) => &mut usage.private_clean,
            (false, true) => &mut usage.private_dirty,
        };
        *of += bytes;
        usage.rss += bytes;
        let share = (bytes << SHARE_SHIFT) / mappings;
        usage.share += share;
        usage.share_dirty += if dirty { share } else { 0 };
        let mut count = |what: bool, of: fn(&mut Usage) -> &mut u64| {
            if what {
                *of(usage) += bytes;
            }
        };
        count(mapping.young || known.contains(LruFlags::REFERENCED), |u| &mut u.referenced);
        count(known.contains(LruFlags::ANON), |u| &mut u.anonymous);
        count(known.contains(LruFlags::LAZYFREE) && !dirty, |u| &mut u.lazy_free);
        count(mapping.size == MapSize::Large, |u| &mut u.huge);
        count(flags.contains(RegionFlags::LOCKED), |u| &mut u.locked);
    }

    /// What the entry for `va` says at the moment. May wait; no lock held.
    pub fn entry_at(&self, space: &SpaceRef<'_>, va: VirtAddr) -> Entry {
        let (Ok(this), Ok(mmu)) = (self.own_space(space), self.tables()) else {
            return Entry::None;
        };
        // So that no table goes.
        let _regions = this.regions.read(&self.platform);
        let cpu = self.enter();
        let _entries = this.entry_lock(va).lock(&cpu);
        mmu.get(this.root, va.align_down(MapSize::Small))
    }

    /// Whether an entry maps the page of zeros that all share.
    pub fn maps_zeros(&self, entry: Entry) -> bool {
        matches!(entry, Entry::Page(m) if self.is_zero_page(m.pfn))
    }
}
