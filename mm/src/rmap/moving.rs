//! A page's entries while it is being moved (Linux `try_to_migrate`,
//! `remove_migration_ptes`). May call: `walk`.
//!
//! The entries of many pages are stopped before one flush tells all CPUs of it:
//! until then each goes on counting as a mapping and a reference of its page.

use super::walk::{Changed, Key};
use crate::mm::Mm;
use crate::mmu::{Entry, Mapping, Mmu, VirtAddr};
use crate::platform::Platform;
use crate::space::Space;
use crate::sync::{Cpu, Lock, LockGuard};
use crate::types::Pfn;
use core::ptr::NonNull;

/// A page whose users are to be stopped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) pfn: Pfn,
    /// None: nobody maps it.
    pub(crate) key: Option<Key>,
    /// Entries of it that have been stopped.
    pub(crate) stopped: u32,
}

/// An entry that says Moving, and said `was` before.
#[derive(Clone, Copy)]
struct Place {
    space: NonNull<Space>,
    /// The space is pinned for this place, and for those behind it that are in
    /// the same one.
    pins: bool,
    /// Which of the pages it is of.
    page: u8,
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
        Self { at: [const { None }; Self::MOST], len: 0 }
    }

    fn iter(&self) -> impl Iterator<Item = &Place> {
        self.at[..self.len].iter().flatten()
    }
}

/// The lock of some entries, kept from one entry to the next of the same.
struct Held<'a> {
    lock: Option<(&'a Lock<()>, LockGuard<'a, ()>)>,
}

impl<'a> Held<'a> {
    const fn none() -> Self {
        Self { lock: None }
    }

    /// Locks the entries around `va`, and no others.
    fn lock<P: Platform>(&mut self, space: &'a Space, va: VirtAddr, cpu: &Cpu<'a, P>) {
        let wanted = space.entry_lock(va);
        if self.lock.as_ref().is_none_or(|(held, _)| !core::ptr::eq(*held, wanted)) {
            self.lock = None;
            self.lock = Some((wanted, wanted.lock(cpu)));
        }
    }
}

impl<P: Platform> Mm<P> {
    /// Has whoever uses one of the pages wait: each entry that maps it says
    /// Moving, and is noted in `places`, as long as there is room. Other CPUs may
    /// use the pages until [`flush_places`](Self::flush_places). The caller has
    /// the locks of the pages and a reference to each; no other lock held.
    pub(crate) fn stop_users(&self, pages: &mut [Target], places: &mut Places) {
        let Ok(mmu) = self.tables() else { return };
        let mut first = 0;
        while let Some(page) = pages.get(first) {
            let Some(key) = page.key else {
                first += 1;
                continue;
            };
            // Those beside each other are mostly of one group.
            let of_group = |page: &Target| page.key.is_some_and(|k| k.group == key.group);
            let len = pages[first..].iter().take_while(|page| of_group(page)).count();
            self.stop_group(mmu, key.group, first, &mut pages[first..first + len], places);
            first += len;
        }
    }

    /// [`stop_users`](Self::stop_users) for pages of one group, of which the
    /// first is the `first`th of all.
    fn stop_group(
        &self,
        mmu: &dyn Mmu,
        group: u32,
        first: usize,
        pages: &mut [Target],
        places: &mut Places,
    ) {
        let cpu = self.enter();
        let Some(members) = self.members(group, &cpu) else { return };
        for region in members.iter() {
            let space = region.space();
            let mut held = Held::none();
            for (i, page) in pages.iter_mut().enumerate() {
                let Some(key) = page.key else { continue };
                let Some(va) = region.place(key.index, key.size) else { continue };
                if places.len == Places::MOST {
                    return;
                }
                held.lock(space, va, &cpu);
                let Some(was) = mmu.stop(space.root(), va, key.size, page.pfn) else { continue };
                let last = places.len.checked_sub(1).and_then(|last| places.at[last]);
                let pins = last.is_none_or(|last| last.space != NonNull::from(space));
                let space = if pins { self.pin_space(space) } else { NonNull::from(space) };
                let page_at = (first + i) as u8;
                places.at[places.len] = Some(Place { space, pins, page: page_at, va, was });
                places.len += 1;
                page.stopped += 1;
            }
        }
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

    /// Has each entry of `places` map the frame that `now` says of its page: of
    /// those given to [`stop_users`](Self::stop_users) the one of that number. It
    /// is the same one, if the page stays. The caller has the locks of both, and
    /// has seen to counts and references.
    pub(crate) fn resume_users(&self, places: &Places, now: impl Fn(usize) -> Pfn) {
        let Ok(mmu) = self.tables() else { return };
        let cpu = self.enter();
        let mut held = Held::none();
        for place in places.iter() {
            // SAFETY: pinned since it was noted.
            let space = unsafe { place.space.as_ref() };
            held.lock(space, place.va, &cpu);
            let mapping = Mapping { pfn: now(usize::from(place.page)), ..place.was };
            mmu.resume(space.root(), place.va, mapping);
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
    /// then. Returns how many they are; None if somebody has it mapped still, whom
    /// nobody finds just now.
    pub(crate) fn start_moving(&self, pfn: Pfn) -> Option<u32> {
        let stopped = self.unmap_with(pfn, &mut |mmu, region, va, m| {
            mmu.stop(region.space().root(), va, m.size, pfn);
            Changed::Gone
        });
        stopped.filter(|_| self.map.page(pfn).mapcount() == 0)
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
