//! Faults on pages that are in swap (Linux `do_swap_page`), and what else
//! address spaces want of swap. May call: swap, `lru`.

use super::fault::Attempted;
use super::region::{Region, RegionFlags};
use super::{Access, FaultError, Space};
use crate::gfp::Gfp;
use crate::lru_page::LruPage;
use crate::mm::Mm;
use crate::mmu::{Entry, MapSize, Mapping, Mmu, SwapEntry, VirtAddr};
use crate::page::LruFlags;
use crate::platform::Platform;
use crate::stats::Event;
use crate::swap::{SwapInError, SwapOffError, SwappedIn};
use crate::sync::Ordering::Relaxed;
use crate::types::{Order, Pfn};

/// What a region that is locked into memory says of its pages.
const LOCKED: LruFlags = LruFlags::MLOCKED.union(LruFlags::UNEVICTABLE);

impl<P: Platform> Mm<P> {
    /// Brings a page back that is in swap, to memory got by `gfp`.
    pub(super) fn fault_swapped(
        &self,
        mmu: &dyn Mmu,
        space: &Space,
        region: &Region,
        va: VirtAddr,
        slot: SwapEntry,
        access: Access,
        gfp: Gfp,
    ) -> Result<Attempted, FaultError> {
        let locked = region.flags().contains(RegionFlags::LOCKED);
        let mut fresh = || {
            let page = self.anon_page(Order(0), gfp).ok()?;
            let flags = LruFlags::ANON | if locked { LOCKED } else { LruFlags::empty() };
            let as_page = LruPage { flags, owner: region.group, index: region.index(va) };
            self.make_lru(page, as_page).ok()?;
            Some(page.pfn)
        };
        let SwappedIn { pfn, read } = match self.swap_in(slot, &mut fresh) {
            Ok(back) => back,
            // Somebody else was quicker: the entry says what is there now.
            Err(SwapInError::Stale) => {
                self.platform.stall();
                return Ok(Attempted::Retry);
            }
            Err(SwapInError::NoMemory) => return Err(FaultError::NoMemory),
            Err(SwapInError::Io) => return Err(FaultError::Io),
        };
        if read {
            self.stats.count(Event::PgMajFault);
            space.major.fetch_add(1, Relaxed);
        }
        let desc = self.map.page(pfn);
        let entered = self.enter_swapped(mmu, space, va, slot, pfn, access);
        if entered && locked && !desc.head().lru().contains(LruFlags::MLOCKED) {
            self.lru_change(pfn, LOCKED, LruFlags::ACTIVE);
        }
        desc.unlock();
        self.put_lru(pfn);
        self.swap_settle();
        Ok(if entered { Attempted::Done } else { Attempted::Retry })
    }

    /// Maps a page that has come back, which the caller has locked, where an
    /// entry names its slot. It may be written at once if nobody else may come
    /// for it; else a write makes a copy. False if the entry says something else
    /// by now.
    fn enter_swapped(
        &self,
        mmu: &dyn Mmu,
        space: &Space,
        va: VirtAddr,
        slot: SwapEntry,
        pfn: Pfn,
        access: Access,
    ) -> bool {
        let desc = self.map.page(pfn);
        let cpu = self.enter();
        let _entries = space.entry_lock(va).lock(&cpu);
        if mmu.get(space.root, va) != Entry::Swap(slot) {
            return false;
        }
        let read =
            Mapping { pfn, size: MapSize::Small, writable: false, dirty: false, young: true };
        desc.get();
        self.add_mapping(pfn);
        self.swap_free(slot);
        space.count_swap(-1);
        self.counted(space, &read);
        let wants_it = access == Access::Write || self.swap_is_half_full();
        let own = wants_it && desc.mapcount() == 1 && self.swap_take_over(pfn);
        let write = own && access == Access::Write;
        let mapping = Mapping { writable: write, dirty: write, ..read };
        mmu.replace(space.root, va, MapSize::Small, Entry::Page(mapping));
        true
    }

    /// Switches a swap device off: what is on it comes back first. Interrupts
    /// on, no lock held; may wait for long.
    ///
    /// # Errors
    /// See [`SwapOffError`]; the device is on as before then.
    pub fn swapoff(&self, name: &str) -> Result<(), SwapOffError> {
        self.swapoff_with(name, &mut |device| {
            let mut result = Ok(());
            self.each_space(&mut |space| {
                result = self.unswap(space, device);
                result.is_ok()
            });
            result
        })
    }

    /// Brings back all that a space has on one device.
    fn unswap(&self, space: &Space, device: usize) -> Result<(), SwapOffError> {
        let Ok(mmu) = self.tables() else { return Ok(()) };
        // Nobody is killed so that a device can go.
        let gfp = Gfp::HIGHUSER_MOVABLE | Gfp::RETRY_MAYFAIL | Gfp::NOWARN;
        let regions = space.regions.read(&self.platform);
        for region in regions.iter() {
            let range = region.range();
            let mut at = range.start;
            while let Some((va, size, entry)) = mmu.next_entry(space.root, at, range.end) {
                at = va.add(size.bytes());
                let Entry::Swap(slot) = entry else { continue };
                if slot.device() != device {
                    continue;
                }
                let back = self.fault_swapped(mmu, space, region, va, slot, Access::Read, gfp);
                back.map_err(|why| match why {
                    FaultError::NoMemory => SwapOffError::NoMemory,
                    _ => SwapOffError::Io,
                })?;
            }
        }
        Ok(())
    }
}
