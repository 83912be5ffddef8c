//! From a page to the entries that may map it. May call: `group`, trait `Mmu`.

use crate::mm::Mm;
use crate::mmu::{Entry, MapSize, Mapping, Mmu, VirtAddr};
use crate::page::{LruFlags, PageDesc};
use crate::platform::Platform;
use crate::space::{Region, Space};
use crate::sync::Cpu;
use crate::types::{Order, Pfn};
use core::ptr::NonNull;

/// Where in which group a page is, and how it is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Key {
    pub(crate) group: u32,
    pub(crate) index: u32,
    pub(crate) size: MapSize,
}

/// What became of an entry that maps a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Changed {
    /// It maps the page no more, and whoever uses it is to be flushed.
    Gone,
    /// It stays, and so does the page: no other needs to be looked at.
    Stop,
}

/// Entries that wait for a flush.
struct Flushes {
    entries: [Option<(NonNull<Space>, VirtAddr)>; Self::MOST],
    len: usize,
}

impl Flushes {
    const MOST: usize = 16;

    fn is_full(&self) -> bool {
        self.len == Self::MOST
    }

    fn push(&mut self, space: NonNull<Space>, va: VirtAddr) {
        self.entries[self.len] = Some((space, va));
        self.len += 1;
    }
}

impl<P: Platform> Mm<P> {
    /// Where an anonymous page is in its group; None for others. The caller has
    /// a reference.
    pub(crate) fn rmap_key(&self, desc: &PageDesc) -> Option<Key> {
        let word = desc.head();
        let size = if word.order() == Order(0) { MapSize::Small } else { MapSize::Large };
        let anon = word.lru().contains(LruFlags::ANON);
        anon.then(|| Key { group: desc.owner(), index: desc.index(), size })
    }

    /// Calls `f` with each place where a page may be mapped, until it says
    /// false. The group is locked meanwhile.
    pub(super) fn walk_places(
        &self,
        key: Key,
        f: &mut dyn FnMut(&Cpu<'_, P>, &Region, VirtAddr) -> bool,
    ) {
        let cpu = self.enter();
        let Some(members) = self.members(key.group, &cpu) else { return };
        for region in members.iter() {
            if let Some(va) = region.place(key.index, key.size)
                && !f(&cpu, region, va)
            {
                return;
            }
        }
    }

    /// Calls `f` with each entry that maps a page, until it says false. The
    /// caller has a reference; `f` is called with locks held and must not wait.
    /// Any context.
    pub fn rmap_walk(&self, pfn: Pfn, f: &mut dyn FnMut(&Space, VirtAddr, Mapping) -> bool) {
        let Ok(mmu) = self.tables() else { return };
        let Some(key) = self.rmap_key(self.map.page(pfn)) else { return };
        self.walk_places(key, &mut |cpu, region, va| {
            let space = region.space();
            let _entries = space.entry_lock(va).lock(cpu);
            match mmu.get(space.root(), va) {
                Entry::Page(m) if m.pfn == pfn && m.size == key.size => f(space, va, m),
                _ => true,
            }
        });
    }

    /// Calls `f` with each region that maps a page. As
    /// [`rmap_walk`](Self::rmap_walk).
    pub(crate) fn each_mapping_region(&self, pfn: Pfn, f: &mut dyn FnMut(&Region)) {
        let Ok(mmu) = self.tables() else { return };
        let Some(key) = self.rmap_key(self.map.page(pfn)) else { return };
        self.walk_places(key, &mut |cpu, region, va| {
            let space = region.space();
            let _entries = space.entry_lock(va).lock(cpu);
            // What is stopped while the page moves or is split goes on mapping it.
            if let Entry::Page(m) | Entry::Moving(m) = mmu.get(space.root(), va)
                && m.pfn == pfn
            {
                f(region);
            }
            true
        });
    }

    /// Has `change` replace each entry that maps a page, then flushes and drops
    /// what the entry had of the page: mapping and reference. The caller has a
    /// reference and the page lock; no other lock held. Returns how many entries
    /// there were; None if `change` said stop.
    pub(super) fn unmap_with(
        &self,
        pfn: Pfn,
        change: &mut dyn FnMut(&dyn Mmu, &Region, VirtAddr, Mapping) -> Changed,
    ) -> Option<u32> {
        let Ok(mmu) = self.tables() else { return Some(0) };
        let desc = self.map.page(pfn);
        let Some(key) = self.rmap_key(desc) else { return Some(0) };
        let (mut stopped, mut gone) = (false, 0);
        loop {
            let mut flushes = Flushes { entries: [None; Flushes::MOST], len: 0 };
            self.walk_places(key, &mut |cpu, region, va| {
                let space = region.space();
                let _entries = space.entry_lock(va).lock(cpu);
                let Entry::Page(m) = mmu.get(space.root(), va) else { return true };
                if m.pfn != pfn || m.size != key.size {
                    return true;
                }
                stopped = change(mmu, region, va, m) == Changed::Stop;
                if !stopped {
                    flushes.push(self.pin_space(space), va);
                }
                !stopped && !flushes.is_full()
            });
            let full = flushes.is_full();
            gone += flushes.len as u32;
            for (space, va) in flushes.entries.into_iter().flatten() {
                // SAFETY: pinned in the walk.
                let root = unsafe { space.as_ref() }.root();
                mmu.flush(root, va..va.add(key.size.bytes()));
                self.unpin_space(space);
                self.drop_mapping(pfn);
                let last = desc.put();
                debug_assert!(!last, "the caller has a reference");
            }
            if stopped || !full {
                return (!stopped).then_some(gone);
            }
        }
    }
}
