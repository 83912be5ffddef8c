//! Large pages: where they are wanted, mapped at the first touch, and split when
//! something is about a part of one (Linux mm/huge_memory.c). May call: `alloc`,
//! `rmap`.

use super::fault::Attempted;
use super::frames::Stash;
use super::region::{Region, RegionFlags};
use super::{Access, FaultError, MapError, Space};
use crate::gfp::Gfp;
use crate::lru::Turn;
use crate::mm::Mm;
use crate::mmu::{Entry, MapSize, Mapping, Mmu, VirtAddr};
use crate::platform::Platform;
use crate::stats::Event;
use crate::sync::{Ordering::Relaxed, Wait};
use crate::types::PAGEBLOCK_ORDER;

/// Times that somebody's use of a large page is waited for: before the first
/// sleep, and with one each time.
const ATTEMPTS: u32 = 2 * Wait::ROUNDS;

/// Where memory comes in large pages
/// (`/sys/kernel/mm/transparent_hugepage/enabled`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum HugePages {
    /// Nowhere.
    Never = 0,
    /// Where it was asked for (`MADV_HUGEPAGE`).
    Madvise = 1,
    /// Wherever it fits and was not asked not to.
    Always = 2,
}

impl HugePages {
    /// All policies, as Linux lists them.
    pub const ALL: [Self; 3] = [Self::Always, Self::Madvise, Self::Never];

    /// Linux's word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Madvise => "madvise",
            Self::Always => "always",
        }
    }
}

impl<P: Platform> Mm<P> {
    /// Where memory comes in large pages. Any context.
    pub fn huge_pages(&self) -> HugePages {
        match self.spaces.huge.load(Relaxed) {
            0 => HugePages::Never,
            1 => HugePages::Madvise,
            _ => HugePages::Always,
        }
    }

    /// Sets where memory is to come in large pages from now on. Any context.
    pub fn set_huge_pages(&self, policy: HugePages) {
        self.spaces.huge.store(policy as u8, Relaxed);
    }

    /// Whether a large page may be put at `va`, which is where one may begin.
    fn wants_huge(&self, region: &Region, va: VirtAddr) -> bool {
        self.may_be_huge(region) && region.covers(va, MapSize::Large)
    }

    /// Whether a region's memory may come in large pages where they fit.
    pub(crate) fn may_be_huge(&self, region: &Region) -> bool {
        let flags = region.flags();
        let wanted = match self.huge_pages() {
            HugePages::Never => false,
            HugePages::Madvise => flags.contains(RegionFlags::HUGE),
            HugePages::Always => true,
        };
        wanted && !flags.contains(RegionFlags::NOHUGE)
    }

    /// Tries to fill untouched memory around `va` with a large page; None if it
    /// is to be a small one. Memory that is only read gets a page of zeros
    /// instead, which costs nothing.
    pub(super) fn fault_huge(
        &self,
        mmu: &dyn Mmu,
        space: &Space,
        region: &Region,
        va: VirtAddr,
        access: Access,
    ) -> Result<Option<Attempted>, FaultError> {
        let va = va.align_down(MapSize::Large);
        if access == Access::Read || !self.wants_huge(region, va) {
            return Ok(None);
        }
        // First of all: where a small page is or was already, no large one fits.
        if !self.has_room_for_huge(mmu, space, va)? {
            return Ok(None);
        }
        // Whoever asked for it may wait for it; others take what is at hand.
        let mut gfp = Gfp::HIGHUSER_MOVABLE | Gfp::NOWARN | Gfp::NORETRY;
        if !region.flags().contains(RegionFlags::HUGE) {
            gfp -= Gfp::RECLAIM;
        }
        let Ok(page) = self.zeroed_page(PAGEBLOCK_ORDER, gfp) else {
            self.stats.count(Event::ThpFaultFallback);
            return Ok(None);
        };
        let mapping = Mapping {
            pfn: page.pfn,
            size: MapSize::Large,
            writable: true,
            dirty: true,
            young: true,
        };
        let result = self.enter_page(mmu, space, region, va, page, &mapping)?;
        if result == Attempted::Done {
            self.stats.count(Event::ThpFaultAlloc);
        }
        Ok(Some(result))
    }

    /// Whether nothing is in the 2 MiB from `va` on, nor a table for it; the
    /// tables above are there then.
    fn has_room_for_huge(
        &self,
        mmu: &dyn Mmu,
        space: &Space,
        va: VirtAddr,
    ) -> Result<bool, FaultError> {
        let mut stash = Stash::default();
        let result = loop {
            {
                let cpu = self.enter();
                let _entries = space.entry_lock(va).lock(&cpu);
                if mmu.prepare(space.root, va, MapSize::Large, &mut || stash.take()) {
                    break Ok(mmu.get(space.root, va) == Entry::None);
                }
            }
            if !stash.is_dry() {
                break Ok(false);
            }
            if let Err(why) = self.fill_stash(&mut stash) {
                break Err(why);
            }
        };
        self.drop_stash(space, &mut stash);
        result
    }

    /// Splits the large page that is mapped at `va`, if one is. The regions are
    /// locked; may wait.
    ///
    /// # Errors
    /// [`MapError::NoMemory`]; [`MapError::Busy`] if others keep using the page.
    pub(super) fn split_mapped(&self, space: &Space, va: VirtAddr) -> Result<(), MapError> {
        let mmu = self.tables()?;
        let start = va.align_down(MapSize::Large);
        let mut wait = Wait::new();
        for _ in 0..ATTEMPTS {
            let pfn = {
                let cpu = self.enter();
                let _entries = space.entry_lock(start).lock(&cpu);
                match mmu.get(space.root, start) {
                    // Whoever waits for the page's lock may not have a reference:
                    // two who split it in turns would find each other's for ever.
                    Entry::Page(m) if m.size == MapSize::Large => {
                        let desc = self.map.page(m.pfn);
                        desc.try_lock().then(|| {
                            desc.get();
                            m.pfn
                        })
                    }
                    Entry::Moving(m) if m.size == MapSize::Large => None,
                    _ => return Ok(()),
                }
            };
            if let Some(pfn) = pfn {
                let result = self.split_page(pfn, Turn::Last);
                self.map.page(pfn).unlock();
                self.put_lru(pfn);
                if !matches!(result, Err(MapError::Busy)) {
                    return result;
                }
            }
            wait.go_on(&self.platform);
        }
        Err(MapError::Busy)
    }
}
