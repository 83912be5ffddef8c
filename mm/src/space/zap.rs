//! Entries taken away with what they map (Linux `zap_page_range`). May call:
//! `lru_page`, swap, trait `Mmu`.

use super::region::Region;
use super::{MapError, Space};
use crate::mm::Mm;
use crate::mmu::{Entry, MapSize, Mapping, Mmu, SwapEntry, VirtAddr};
use crate::page::LruFlags;
use crate::page_stats::PageStat;
use crate::platform::Platform;
use crate::sync::Wait;
use crate::types::Pfn;
use core::ops::Range;

/// Pages that are let go of together, after one flush.
const BATCH: usize = 64;

/// Pages whose entries are gone, and which wait for the flush.
struct Gone {
    pages: [Pfn; BATCH],
    len: usize,
    /// Places in swap that entries named.
    slots: [Option<SwapEntry>; BATCH],
    swapped: usize,
    /// Something was taken away that other CPUs may still use.
    flush: bool,
}

/// Why a step over entries ended.
enum Step {
    /// To be gone on with from there.
    Next(VirtAddr),
    /// Nothing is there any more.
    Done,
    /// The entry there is just being moved.
    Wait(VirtAddr),
    /// A large page there reaches over an end.
    Split(VirtAddr),
}

impl<P: Platform> Mm<P> {
    /// Takes away all entries in `range`. Large pages that reach over its ends
    /// are split: where regions are locked for reading only, one may have come at
    /// any moment. The space's regions are locked, for reading at least; may wait.
    ///
    /// # Errors
    /// Those of [`split_mapped`](Self::split_mapped), never for a range of whole
    /// regions; the rest of it is as it was then.
    pub(super) fn zap(&self, space: &Space, range: Range<VirtAddr>) -> Result<(), MapError> {
        let mmu = self.tables()?;
        let (mut at, mut wait) = (range.start, Wait::new());
        loop {
            // A hint: whatever is there is looked at again under its lock.
            let Some((found, ..)) = mmu.next_entry(space.root, at, range.end) else {
                return Ok(());
            };
            at = found.max(at);
            let mut gone = Gone {
                pages: [Pfn(0); BATCH],
                len: 0,
                slots: [None; BATCH],
                swapped: 0,
                flush: false,
            };
            let end = at.align_down(MapSize::Large).add(MapSize::Large.bytes()).min(range.end);
            let step = self.zap_some(mmu, space, at..end, &mut gone);
            if gone.flush {
                mmu.flush(space.root, at..end);
            }
            for &pfn in &gone.pages[..gone.len] {
                self.unmapped(pfn);
            }
            for &slot in gone.slots[..gone.swapped].iter().flatten() {
                self.swap_release(slot);
            }
            at = match step {
                Step::Next(next) => next,
                Step::Done => end,
                Step::Wait(there) => {
                    wait.go_on(&self.platform);
                    there
                }
                Step::Split(there) => {
                    self.split_mapped(space, there)?;
                    at
                }
            };
            if at >= range.end {
                return Ok(());
            }
        }
    }

    /// Takes away all that a killed space maps, though its threads may be using
    /// it: they are to end. False if its regions are just being changed. May wait;
    /// no lock held, but that the caller may read the regions itself.
    pub(crate) fn reap_space(&self, space: &Space) -> bool {
        debug_assert!(space.is_killed());
        // Past those who wait to change them: they may wait for memory's sake.
        let Some(regions) = space.regions.try_read_first() else { return false };
        {
            // Whoever has not seen that it is killed has made his entry by then.
            let cpu = self.enter();
            space.entries.iter().for_each(|entries| drop(entries.lock(&cpu)));
        }
        regions.iter().for_each(|region| self.zap_region(space, region));
        true
    }

    /// [`zap`](Self::zap) for a whole region, into which no large page reaches.
    pub(super) fn zap_region(&self, space: &Space, region: &Region) {
        let gone = self.zap(space, region.range());
        debug_assert!(gone.is_ok(), "{gone:?}: nothing had to be split");
    }

    /// Takes entries away under one lock, until `gone` is full.
    fn zap_some(
        &self,
        mmu: &dyn Mmu,
        space: &Space,
        range: Range<VirtAddr>,
        gone: &mut Gone,
    ) -> Step {
        let cpu = self.enter();
        let _entries = space.entry_lock(range.start).lock(&cpu);
        let mut at = range.start;
        while let Some((va, size, entry)) = mmu.next_entry(space.root, at, range.end) {
            if gone.len == BATCH || gone.swapped == BATCH {
                return Step::Next(va);
            }
            match entry {
                Entry::None => {}
                Entry::Moving(_) => return Step::Wait(va),
                Entry::Swap(slot) => {
                    mmu.replace(space.root, va, size, Entry::None);
                    space.count_swap(-1);
                    gone.slots[gone.swapped] = Some(slot);
                    gone.swapped += 1;
                }
                Entry::Page(_) if va < range.start || va.add(size.bytes()) > range.end => {
                    return Step::Split(va);
                }
                Entry::Page(_) => {
                    let old = mmu.replace(space.root, va, size, Entry::None);
                    gone.flush = true;
                    if let Entry::Page(mapping) = old
                        && self.uncounted(space, &mapping)
                    {
                        gone.pages[gone.len] = mapping.pfn;
                        gone.len += 1;
                    }
                }
            }
            at = va.add(size.bytes());
        }
        Step::Done
    }

    /// Counts an entry out of its space that has just been taken away, and notes
    /// on the page that it was written. False for the zero page, which nobody
    /// counts.
    pub(crate) fn uncounted(&self, space: &Space, mapping: &Mapping) -> bool {
        if self.is_zero_page(mapping.pfn) {
            return false;
        }
        let pages = mapping.size.order().pages() as i64;
        space.count_anon(-pages);
        if mapping.size == MapSize::Large {
            space.count_huge(-pages);
        }
        if mapping.dirty {
            self.map.page(mapping.pfn).set_lru(LruFlags::DIRTY);
        }
        true
    }

    /// Counts an entry in that has just been made in `space`.
    pub(crate) fn counted(&self, space: &Space, mapping: &Mapping) {
        let pages = mapping.size.order().pages() as i64;
        space.count_anon(pages);
        if mapping.size == MapSize::Large {
            space.count_huge(pages);
        }
    }

    /// Lets go of a page for an entry that maps it no more, and that no CPU
    /// uses. No lock held.
    pub(crate) fn unmapped(&self, pfn: Pfn) {
        self.drop_mapping(pfn);
        let desc = self.map.page(pfn);
        // Unless it is about to be freed: others may map it, their entries name its
        // slot of swap, or it is just being moved or split for them.
        if desc.head().lru().contains(LruFlags::MLOCKED) && desc.count() > 1 {
            self.unmark_locked(pfn);
        }
        self.swap_unmapped(pfn);
        self.put_lru(pfn);
    }

    /// Counts a mapping out of an anonymous page, whose reference the caller keeps;
    /// for those who have tables of their own. Any context.
    pub fn drop_mapping(&self, pfn: Pfn) {
        let desc = self.map.page(pfn);
        let pages = desc.head().order().pages();
        if desc.drop_mapping() == 0 {
            self.uncount_pages(pfn, PageStat::Anon, pages);
            if pages > 1 {
                self.uncount_pages(pfn, PageStat::AnonHuge, pages);
            }
        }
    }

    /// Counts a mapping into an anonymous page that an entry is about to map, which
    /// gets a reference of the caller's; for those who have tables of their own. Any
    /// context.
    pub fn add_mapping(&self, pfn: Pfn) {
        let desc = self.map.page(pfn);
        if desc.add_mapping() == 1 {
            self.note_mapped(pfn, desc.head().order().pages());
        }
    }

    /// Counts a page that is mapped and was not.
    #[inline]
    pub(crate) fn note_mapped(&self, pfn: Pfn, pages: u64) {
        self.count_pages(pfn, PageStat::Anon, pages);
        if pages > 1 {
            self.count_pages(pfn, PageStat::AnonHuge, pages);
        }
    }
}
