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
use crate::swap::{ReadAhead, SwapInError, SwapOffError, SwappedIn, WantsBack};
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
        let mut wants = Wants { mm: self, mmu, space, region, va, slot, gfp };
        let SwappedIn { pfn, read, ahead } = match self.swap_in_for(slot, &mut wants) {
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
        if ahead {
            region.with_window(|window| (window.hit(region.index(va)), ()));
        }
        let desc = self.map.page(pfn);
        let entered = self.enter_swapped(mmu, space, va, slot, pfn, access);
        if entered && locked && !desc.head().lru().contains(LruFlags::MLOCKED) {
            self.lru_change(pfn, LOCKED, LruFlags::ACTIVE);
        }
        // It was read in for a region that may not want it any more.
        if !entered && desc.head().lru().contains(LruFlags::MLOCKED) {
            self.unmark_locked(pfn);
        }
        desc.unlock();
        if !entered {
            // Whoever took the entry away could not have its slot freed.
            self.swap_drop_lonely(slot);
        }
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
                // Not for who is to end, least of all when memory is short.
                if space.is_killed() {
                    self.reap_space(space);
                    return Ok(());
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

/// A fault that wants its page back.
struct Wants<'a, P: Platform> {
    mm: &'a Mm<P>,
    mmu: &'a dyn Mmu,
    space: &'a Space,
    region: &'a Region,
    va: VirtAddr,
    slot: SwapEntry,
    gfp: Gfp,
}

impl<P: Platform> Wants<'_, P> {
    /// A page for `va`, on no list.
    fn page(&self, va: VirtAddr, gfp: Gfp, flags: LruFlags) -> Option<Pfn> {
        let page = self.mm.anon_page(Order(0), gfp).ok()?;
        let (owner, index) = (self.region.group, self.region.index(va));
        self.mm.make_lru(page, LruPage { flags: LruFlags::ANON | flags, owner, index }).ok()?;
        Some(page.pfn)
    }

    /// Has the page of `slot`, which the entry for `va` should name, read with the
    /// one that is wanted. False if there is no memory for more.
    fn read_too(&self, ahead: &mut ReadAhead, va: VirtAddr, slot: SwapEntry) -> bool {
        let Self { mm, mmu, space, .. } = self;
        // Not at the cost of what is in use.
        let gfp = self.gfp.difference(Gfp::RECLAIM) | Gfp::NOWARN;
        let Some(pfn) = self.page(va, gfp, LruFlags::empty()) else { return false };
        let desc = mm.map.page(pfn);
        // Nobody knows it but those who look at any page for a moment.
        mm.lock_page(desc);
        let cpu = mm.enter();
        let entries = space.entry_lock(va).lock(&cpu);
        let named = mmu.get(space.root, va) == Entry::Swap(slot);
        let read = named && mm.swap_read_too(ahead, slot, pfn);
        drop(entries);
        drop(cpu);
        if !read {
            desc.unlock();
            mm.put_lru(pfn);
        }
        true
    }
}

impl<P: Platform> WantsBack for Wants<'_, P> {
    fn fresh(&mut self) -> Option<Pfn> {
        let locked = self.region.flags().contains(RegionFlags::LOCKED);
        self.page(self.va, self.gfp, if locked { LOCKED } else { LruFlags::empty() })
    }

    fn if_named(&mut self, f: &mut dyn FnMut()) {
        let cpu = self.mm.enter();
        let _entries = self.space.entry_lock(self.va).lock(&cpu);
        if self.mmu.get(self.space.root, self.va) == Entry::Swap(self.slot) {
            f();
        }
    }

    /// The pages beside it in its region, as far as one table names them.
    fn around(&mut self, ahead: &mut ReadAhead) {
        let Self { mm, mmu, space, region, va, .. } = *self;
        let here = region.index(va);
        let most = 1 << mm.page_cluster();
        let wanted = region.with_window(|window| window.next(here, most));
        let block = va.0 / MapSize::Large.bytes();
        for index in wanted.filter(|&index| index != here) {
            let Some(at) = region.place(index, MapSize::Small) else { continue };
            if at.0 / MapSize::Large.bytes() != block {
                continue;
            }
            let found = {
                let cpu = mm.enter();
                let _entries = space.entry_lock(at).lock(&cpu);
                mmu.get(space.root, at)
            };
            let Entry::Swap(slot) = found else { continue };
            if ahead.can_have(slot)
                && mm.swap_is_to_be_read(slot)
                && !self.read_too(ahead, at, slot)
            {
                return;
            }
        }
    }
}
