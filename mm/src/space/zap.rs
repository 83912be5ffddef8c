//! Entries taken away with what they map (Linux `zap_page_range`). May call:
//! `lru_page`, swap, trait `Mmu`.

use super::Space;
use crate::mm::Mm;
use crate::mmu::{Entry, MapSize, Mapping, Mmu, SwapEntry, VirtAddr};
use crate::page::LruFlags;
use crate::platform::Platform;
use crate::sync::Ordering::Relaxed;
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
}

impl<P: Platform> Mm<P> {
    /// Takes away all entries in `range`, across whose ends no large page
    /// reaches. The space's regions are locked, for reading at least; may wait.
    pub(super) fn zap(&self, space: &Space, range: Range<VirtAddr>) {
        let Ok(mmu) = self.tables() else { return };
        let mut at = range.start;
        loop {
            // A hint: whatever is there is looked at again under its lock.
            let Some((found, ..)) = mmu.next_entry(space.root, at, range.end) else { return };
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
                    self.platform.stall();
                    there
                }
            };
            if at >= range.end {
                return;
            }
        }
    }

    /// Takes away all that a killed space maps, though its threads may be using
    /// it: they are to end. False if its regions are just being changed. May wait;
    /// no lock held.
    pub(crate) fn reap_space(&self, space: &Space) -> bool {
        debug_assert!(space.is_killed());
        let Some(regions) = space.regions.try_read() else { return false };
        {
            // Whoever has not seen that it is killed has made his entry by then.
            let cpu = self.enter();
            space.entries.iter().for_each(|entries| drop(entries.lock(&cpu)));
        }
        regions.iter().for_each(|region| self.zap(space, region.range()));
        true
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
        self.swap_unmapped(pfn);
        self.put_lru(pfn);
    }

    /// Counts a mapping out of a page, whose reference the caller keeps.
    pub(crate) fn drop_mapping(&self, pfn: Pfn) {
        let desc = self.map.page(pfn);
        let pages = desc.head().order().pages();
        if desc.drop_mapping() == 0 {
            self.spaces.mapped.fetch_sub(pages, Relaxed);
            if pages > 1 {
                self.spaces.mapped_huge.fetch_sub(pages, Relaxed);
            }
        }
    }

    /// Counts a mapping into a page that an entry is about to map.
    pub(crate) fn add_mapping(&self, pfn: Pfn) {
        let desc = self.map.page(pfn);
        if desc.add_mapping() == 1 {
            self.note_mapped(desc.head().order().pages());
        }
    }

    /// Counts a page that is mapped and was not.
    #[inline]
    pub(crate) fn note_mapped(&self, pages: u64) {
        self.spaces.mapped.fetch_add(pages, Relaxed);
        if pages > 1 {
            self.spaces.mapped_huge.fetch_add(pages, Relaxed);
        }
    }
}
