//! A page's entries while it is being moved (Linux `try_to_migrate`,
//! `remove_migration_ptes`). May call: `walk`.
//!
//! The entries of many pages are stopped before one flush tells all CPUs of it:
//! until then each goes on counting as a mapping and a reference of its page.

use super::walk::{Changed, Key};
use crate::mm::Mm;
use crate::mmu::{Entry, MapSize, Mapping, Mmu, VirtAddr};
use crate::platform::Platform;
use crate::space::Space;
use crate::types::Pfn;
use core::ops::Range;
use core::ptr::NonNull;

/// An entry that says Moving, and said `was` before.
#[derive(Clone, Copy)]
struct Place {
    space: NonNull<Space>,
    /// The space is pinned for this place, and for those behind it that are in
    /// the same one.
    pins: bool,
    va: VirtAddr,
    was: Mapping,
}

/// Entries of pages that are being moved. To be ended with
/// [`Mm::let_go_places`].
pub(crate) struct Places {
    at: [Option<Place>; Self::MOST],
    len: usize,
}

impl Places {
    /// Entries that there is room for.
    pub(crate) const MOST: usize = 64;

    pub(crate) const fn new() -> Self {
        Self { at: [None; Self::MOST], len: 0 }
    }

    fn iter(&self) -> impl Iterator<Item = &Place> {
        self.at[..self.len].iter().flatten()
    }
}

impl<P: Platform> Mm<P> {
    /// Has whoever uses the page wait: each entry that maps it says Moving, and
    /// is noted in `places`, as long as there is room. Returns which these are.
    /// Other CPUs may use the page until [`flush_places`](Self::flush_places).
    /// The caller has the page lock and a reference; no other lock held.
    pub(crate) fn stop_users(&self, pfn: Pfn, key: Key, places: &mut Places) -> Range<usize> {
        let first = places.len;
        let Ok(mmu) = self.tables() else { return first..first };
        self.walk_places(key, &mut |cpu, region, va| {
            let space = region.space();
            let _entries = space.entry_lock(va).lock(cpu);
            if places.len == Places::MOST {
                return false;
            }
            let Some(was) = stop_entry(mmu, space, va, pfn, key.size) else { return true };
            let last = places.len.checked_sub(1).and_then(|last| places.at[last]);
            let pins = last.is_none_or(|last| last.space != NonNull::from(space));
            let space = if pins { self.pin_space(space) } else { NonNull::from(space) };
            places.at[places.len] = Some(Place { space, pins, va, was });
            places.len += 1;
            true
        });
        first..places.len
    }

    /// Returns when no CPU uses any of the entries: one flush for each space.
    /// Interrupts on, no lock held.
    pub(crate) fn flush_places(&self, places: &Places) {
        let Ok(mmu) = self.tables() else { return };
        let mut places = places.iter().peekable();
        while let Some(first) = places.next() {
            let (mut from, mut to) = (first.va, first.va.add(first.was.size.bytes()));
            while let Some(place) = places.next_if(|place| place.space == first.space) {
                from = from.min(place.va);
                to = to.max(place.va.add(place.was.size.bytes()));
            }
            // SAFETY: pinned since it was noted.
            mmu.flush(unsafe { first.space.as_ref() }.root(), from..to);
        }
    }

    /// Has `places`, which [`stop_users`](Self::stop_users) returned, map `new`
    /// where they mapped a page before: the same one, if it stays. The caller has
    /// the locks of both, and has seen to counts and references.
    pub(crate) fn resume_users(&self, places: &Places, which: Range<usize>, new: Pfn) {
        let Ok(mmu) = self.tables() else { return };
        for place in places.at[which].iter().flatten() {
            // SAFETY: pinned since it was noted.
            let space = unsafe { place.space.as_ref() };
            let cpu = self.enter();
            let _entries = space.entry_lock(place.va).lock(&cpu);
            let entry = Entry::Page(Mapping { pfn: new, ..place.was });
            let was = mmu.replace(space.root(), place.va, place.was.size, entry);
            debug_assert!(was == Entry::Moving(place.was), "{was:?} is the mover's");
        }
    }

    /// Ends the use of `places`.
    pub(crate) fn let_go_places(&self, places: &mut Places) {
        for place in places.iter().filter(|place| place.pins) {
            self.unpin_space(place.space);
        }
        places.len = 0;
    }

    /// As [`stop_users`](Self::stop_users) for a page that is mapped ever so
    /// often, flush included; the entries have given up mapping and reference
    /// then. False if somebody has it mapped still, whom nobody finds just now.
    pub(crate) fn start_moving(&self, pfn: Pfn) -> bool {
        self.unmap_with(pfn, &mut |mmu, region, va, m| {
            stop_entry(mmu, region.space(), va, pfn, m.size);
            Changed::Gone
        });
        self.map.page(pfn).mapcount() == 0
    }

    /// Ends [`start_moving`](Self::start_moving): each entry maps the page again, which
    /// is at `new` now. The caller has both page locks and a reference to `new`,
    /// whose place in its group is `key`.
    pub(crate) fn end_moving(&self, key: Key, old: Pfn, new: Pfn) {
        let Ok(mmu) = self.tables() else { return };
        let desc = self.map.page(new);
        self.walk_places(key, &mut |cpu, region, va| {
            let space = region.space();
            let _entries = space.entry_lock(va).lock(cpu);
            if let Entry::Moving(m) = mmu.get(space.root(), va)
                && m.pfn == old
                && m.size == key.size
            {
                desc.get();
                self.add_mapping(new);
                let entry = Entry::Page(Mapping { pfn: new, ..m });
                mmu.replace(space.root(), va, m.size, entry);
            }
            true
        });
    }
}

/// Has the entry at `va` say Moving if it maps the page; returns what it said
/// last. Its lock is held.
fn stop_entry(
    mmu: &dyn Mmu,
    space: &Space,
    va: VirtAddr,
    pfn: Pfn,
    size: MapSize,
) -> Option<Mapping> {
    let root = space.root();
    let Entry::Page(seen) = mmu.get(root, va) else { return None };
    if seen.pfn != pfn || seen.size != size {
        return None;
    }
    let last = mmu.replace(root, va, size, Entry::Moving(seen));
    match last {
        Entry::Page(last) if last != seen => {
            // It has been used in between.
            mmu.replace(root, va, size, Entry::Moving(last));
            Some(last)
        }
        _ => Some(seen),
    }
}
