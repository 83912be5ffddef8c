//! A copy of a space: its regions and, without copying, its pages, which both
//! may only read from then on (Linux `dup_mmap`, `copy_page_range`). May call:
//! `map`, `rmap`, swap's counts.

use super::frames::Stash;
use super::region::{Region, RegionFlags};
use super::{MapError, Space, SpaceRef};
use crate::mm::Mm;
use crate::mmu::{Entry, MapSize, Mapping, Mmu, VirtAddr};
use crate::platform::Platform;
use crate::sync::Wait;
use core::ops::Range;

/// Entries that are copied at once.
const BATCH: usize = 32;

/// How it goes on after some entries.
enum Shared {
    /// At once.
    Some,
    /// After a wait: an entry is just being moved.
    Wait,
    /// Not at all: a slot of swap has as many users as can be counted.
    TooMany,
}

type Copied = [Option<(VirtAddr, MapSize, Entry)>; BATCH];

impl<P: Platform> Mm<P> {
    /// A copy of `parent` as it is now, for a thread of that name. What either
    /// writes from then on the other does not see. What the OOM killer was told of
    /// `parent` holds for it too. May wait; no lock held.
    ///
    /// # Errors
    /// [`MapError::NoMemory`], also when `parent` was killed; nothing has changed
    /// then.
    pub fn space_fork<'m>(
        &'m self,
        parent: &SpaceRef<'m>,
        name: &str,
    ) -> Result<SpaceRef<'m>, MapError> {
        let from = self.own_space(parent)?;
        let child = self.space_new(name)?;
        // Before it has anything that it could be chosen for.
        child.set_oom_score_adj(from.oom_score_adj());
        child.set_protected(from.is_protected());
        match self.copy_space(from, &child) {
            Ok(()) => Ok(child),
            Err(why) => {
                self.space_put(child);
                Err(why)
            }
        }
    }

    fn copy_space(&self, from: &Space, to: &Space) -> Result<(), MapError> {
        let mmu = self.tables()?;
        // Nobody faults in the parent meanwhile; the child is known to nobody but
        // those who come from a page.
        let regions = from.regions.write(&self.platform);
        let mut copies = to.regions.write(&self.platform);
        // What it had may be gone by now.
        if from.is_killed() {
            return Err(MapError::NoMemory);
        }
        let mut result = Ok(());
        for region in regions.iter() {
            let flags = region.flags() - RegionFlags::LOCKED;
            let copy = Region::new(to, region.range(), region.base(), region.group, flags);
            match self.new_region(copy) {
                Ok(copy) => {
                    // Before its first entry.
                    self.group_join(copy);
                    copies.insert(copy);
                }
                Err(why) => {
                    result = Err(why);
                    break;
                }
            }
            result = self.copy_entries(mmu, from, to, region.range());
            if result.is_err() {
                break;
            }
        }
        drop(copies);
        // What the parent's CPUs may still write is not the child's yet.
        mmu.flush(from.root, mmu.span());
        result
    }

    fn copy_entries(
        &self,
        mmu: &dyn Mmu,
        from: &Space,
        to: &Space,
        range: Range<VirtAddr>,
    ) -> Result<(), MapError> {
        let mut stash = Stash::default();
        let (mut at, mut wait) = (range.start, Wait::new());
        let result = loop {
            let Some((found, size, _)) = mmu.next_entry(from.root, at, range.end) else {
                break Ok(());
            };
            at = found.max(at);
            // It is to let go of the regions, so that its memory can be had.
            if from.is_killed() {
                break Err(MapError::NoMemory);
            }
            if let Err(why) = self.prepare_copy(mmu, to, at, size, &mut stash) {
                break Err(why);
            }
            let end = at.align_down(MapSize::Large).add(MapSize::Large.bytes()).min(range.end);
            let mut copied = [None; BATCH];
            let (next, shared) = self.share_entries(mmu, from, at..end, size, &mut copied);
            self.enter_copies(mmu, to, &copied);
            match shared {
                Shared::Some => {}
                Shared::Wait => wait.go_on(&self.platform),
                Shared::TooMany => break Err(MapError::NoMemory),
            }
            at = next;
            if at >= range.end {
                break Ok(());
            }
        };
        self.drop_stash(to, &mut stash);
        result
    }

    /// Makes the tables that a copy needs.
    fn prepare_copy(
        &self,
        mmu: &dyn Mmu,
        to: &Space,
        va: VirtAddr,
        size: MapSize,
        stash: &mut Stash,
    ) -> Result<(), MapError> {
        loop {
            {
                let cpu = self.enter();
                let _entries = to.entry_lock(va).lock(&cpu);
                if mmu.prepare(to.root, va, size, &mut || stash.take()) {
                    return Ok(());
                }
            }
            if !stash.is_dry() {
                // Cannot be: what is there is what was copied.
                return Err(MapError::Busy);
            }
            self.fill_stash(stash).map_err(|_| MapError::NoMemory)?;
        }
    }

    /// Takes entries of `size` for a copy: nobody may write any more, and all
    /// counts are those of after. Returns where to go on, and how.
    fn share_entries(
        &self,
        mmu: &dyn Mmu,
        from: &Space,
        range: Range<VirtAddr>,
        wanted: MapSize,
        copied: &mut Copied,
    ) -> (VirtAddr, Shared) {
        let cpu = self.enter();
        let _entries = from.entry_lock(range.start).lock(&cpu);
        let (mut at, mut len) = (range.start, 0);
        while let Some((va, size, entry)) = mmu.next_entry(from.root, at, range.end) {
            if len == BATCH || size != wanted {
                return (va, Shared::Some);
            }
            let entry = match entry {
                Entry::Moving(_) => return (va, Shared::Wait),
                Entry::Page(m) => {
                    if m.writable {
                        mmu.write_protect(from.root, va);
                    }
                    if !self.is_zero_page(m.pfn) {
                        self.map.page(m.pfn).get();
                        self.add_mapping(m.pfn);
                    }
                    // What the parent wrote is not to be dropped as the child's.
                    let dirty = m.dirty || m.writable;
                    Entry::Page(Mapping { writable: false, dirty, young: false, ..m })
                }
                Entry::Swap(slot) if self.swap_dup(slot).is_err() => return (va, Shared::TooMany),
                Entry::Swap(_) | Entry::None => entry,
            };
            copied[len] = Some((va, size, entry));
            len += 1;
            at = va.add(size.bytes());
        }
        (range.end, Shared::Some)
    }

    /// Gives the child what was taken for it.
    fn enter_copies(&self, mmu: &dyn Mmu, to: &Space, copied: &Copied) {
        let Some((first, ..)) = copied[0] else { return };
        let cpu = self.enter();
        let _entries = to.entry_lock(first).lock(&cpu);
        for &(va, size, entry) in copied.iter().flatten() {
            mmu.replace(to.root, va, size, entry);
            match entry {
                Entry::Page(m) if !self.is_zero_page(m.pfn) => self.counted(to, &m),
                Entry::Swap(_) => to.count_swap(1),
                _ => {}
            }
        }
    }
}
