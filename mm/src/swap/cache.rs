//! The swap cache: which page in memory belongs to a slot. May call: `users`,
//! `discard`.
//!
//! A page is put in and taken out with its page lock held. Whoever has looked
//! one up locks it and looks again whether it is still what it was looked up as.

use super::slot::Slot;
use crate::mm::Mm;
use crate::mmu::SwapEntry;
use crate::page::{LruFlags, PageFlags, link};
use crate::page_stats::PageStat;
use crate::platform::Platform;
use crate::sync::{Ordering::Relaxed, Wait, may_wait};
use crate::types::Pfn;

/// No slot is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NoSlot;

/// What became of a page that was to be put in for a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Inserted {
    /// It is the slot's page now. Whether that is to be all zero.
    Yes { zero: bool },
    /// The slot has one already.
    Another,
    /// The slot is not in use.
    Stale,
}

impl<P: Platform> Mm<P> {
    /// Gives an anonymous page a slot and puts it in the cache, which takes a
    /// reference. The page is locked by the caller, and dirty after this. May
    /// wait for a device that is to be told of slots given up.
    pub(super) fn swap_add(&self, pfn: Pfn) -> Result<SwapEntry, NoSlot> {
        loop {
            if let Some(entry) = self.try_swap_add(pfn) {
                return Ok(entry);
            }
            // What others are discarding just now is left to them.
            if !self.swap_settle() {
                return Err(NoSlot);
            }
        }
    }

    fn try_swap_add(&self, pfn: Pfn) -> Option<SwapEntry> {
        let turn = self.swap.turn.load(Relaxed);
        let order = self.with_registry(|registry| registry.order(turn));
        let desc = self.map.page(pfn);
        let refused = desc.head().lru().contains(LruFlags::REFUSED);
        let take = |index, any: bool| {
            self.with_swap(index, |on| {
                if on.active.leaving || !any && on.active.device.may_refuse() || on.area.spares() {
                    return None;
                }
                let slot = on.active.map.take(self, on.cpu.id(), Slot::cached(link(pfn)))?;
                let entry = SwapEntry::new(on.index, slot)?;
                on.area.used.fetch_add(1, Relaxed);
                on.area.cached.fetch_add(1, Relaxed);
                self.count_pages(pfn, PageStat::SwapCached, 1);
                self.mark_cached(pfn, entry, LruFlags::DIRTY | LruFlags::UPTODATE);
                Some(entry)
            })
            .flatten()
        };
        let entry = order.iter().find_map(|index| take(index, !refused));
        // It may be another page by now: if need be, it is offered once more.
        let entry = entry.or_else(|| order.iter().find_map(|index| take(index, refused)))?;
        desc.clear_lru(LruFlags::REFUSED);
        self.swap.turn.fetch_add(1, Relaxed);
        Some(entry)
    }

    /// Says in a page's descriptor that it is in the cache, which has a
    /// reference from here on. The device is locked.
    fn mark_cached(&self, pfn: Pfn, entry: SwapEntry, flags: LruFlags) {
        let desc = self.map.page(pfn);
        desc.get();
        desc.set_private(entry.bits());
        desc.set_lru(LruFlags::SWAPCACHE | flags);
    }

    /// Puts a page whose content is to be read in the cache as that of `entry`.
    /// The caller has locked it, and it is not up to date.
    pub(super) fn swap_insert(&self, entry: SwapEntry, pfn: Pfn) -> Inserted {
        let inserted = self.with_swap(entry.device(), |mut on| {
            let word = on.slot(entry.slot());
            if word.page().is_some() {
                return Inserted::Another;
            }
            if word.users() == 0 {
                return Inserted::Stale;
            }
            self.mark_cached(pfn, entry, LruFlags::empty());
            on.set(entry.slot(), word.with_page(Some(link(pfn))));
            on.area.cached.fetch_add(1, Relaxed);
            self.count_pages(pfn, PageStat::SwapCached, 1);
            Inserted::Yes { zero: word.is_zero() }
        });
        inserted.unwrap_or(Inserted::Stale)
    }

    /// The page in memory that belongs to `entry`, with a reference that the
    /// caller drops ([`put_lru`](Self::put_lru)); None if there is none, or
    /// `entry` is not in use. It may leave the cache before the caller has locked
    /// it. No lock held.
    pub fn swap_lookup(&self, entry: SwapEntry) -> Option<Pfn> {
        let mut wait = Wait::new();
        loop {
            let found = self.with_swap(entry.device(), |on| {
                let pfn = on.slot(entry.slot()).page()?;
                // The cache has a reference, so none can be had only while the
                // page is frozen: it is about to be moved, or to leave.
                Some((pfn, self.map.page(pfn).get_unless_zero()))
            });
            match found.flatten() {
                None => return None,
                Some((pfn, true)) => return Some(pfn),
                Some((_, false)) => {
                    may_wait(&self.platform, "a page that is being moved");
                    wait.go_on(&self.platform);
                }
            }
        }
    }

    /// Takes a page out of the cache if nobody names its slot any more, which is
    /// free by that: the page is as if it had never been swapped, and dirty.
    /// False, and nothing has changed, if somebody does. The page is locked, in
    /// the cache, and the caller has a reference. No other lock held.
    pub fn swap_take_over(&self, pfn: Pfn) -> bool {
        self.swap_uncache(pfn, |word| word.users() == 0, LruFlags::DIRTY)
    }

    /// Takes a page out of the cache whose content could not be read. Locked.
    pub(super) fn swap_forget(&self, pfn: Pfn) {
        self.swap_uncache(pfn, |_| true, LruFlags::FAILED);
    }

    fn swap_uncache(&self, pfn: Pfn, may: impl FnOnce(Slot) -> bool, flags: LruFlags) -> bool {
        let desc = self.map.page(pfn);
        debug_assert!(desc.head().flags().contains(PageFlags::LOCKED));
        if !desc.head().lru().contains(LruFlags::SWAPCACHE) {
            return false;
        }
        let entry = SwapEntry::from_bits(desc.private());
        let taken = self.with_swap(entry.device(), |mut on| {
            let word = on.slot(entry.slot());
            if !may(word) {
                return false;
            }
            desc.clear_lru(LruFlags::SWAPCACHE | LruFlags::FAILED);
            desc.set_lru(flags);
            desc.set_private(0);
            on.area.cached.fetch_sub(1, Relaxed);
            self.uncount_pages(pfn, PageStat::SwapCached, 1);
            on.set_or_free(entry.slot(), word.with_page(None));
            true
        });
        if taken != Some(true) {
            return false;
        }
        let last = desc.put();
        debug_assert!(!last, "the caller has a reference");
        true
    }

    /// Takes a page that has been written out of the cache and freezes it: from
    /// then on whoever wants its content reads it. The caller has the page locked
    /// and one reference, which is gone with the cache's if this succeeds. False
    /// if somebody else has a reference, or it is dirty.
    pub(super) fn swap_evict(&self, pfn: Pfn) -> bool {
        let desc = self.map.page(pfn);
        let entry = SwapEntry::from_bits(desc.private());
        let evicted = self.with_swap(entry.device(), |mut on| {
            // Who found it in the cache has its reference under this lock.
            if !desc.freeze(2) {
                return false;
            }
            let word = on.slot(entry.slot());
            // Whoever wrote to it had a reference; what nobody names nobody needs.
            if word.users() > 0 && desc.head().lru().contains(LruFlags::DIRTY) {
                desc.count_word().store(2, crate::sync::Ordering::Release);
                return false;
            }
            desc.clear_lru(LruFlags::SWAPCACHE | LruFlags::DIRTY);
            desc.set_private(0);
            on.area.cached.fetch_sub(1, Relaxed);
            self.uncount_pages(pfn, PageStat::SwapCached, 1);
            on.set_or_free(entry.slot(), word.with_page(None));
            true
        });
        evicted == Some(true)
    }

    /// `dst` takes the place of `src` in the cache, where `src` is. Both are
    /// locked, `src` is frozen; that the cache's reference goes over is the
    /// caller's to count. No other lock held.
    pub fn swap_move(&self, dst: Pfn, src: Pfn) {
        let (to, from) = (self.map.page(dst), self.map.page(src));
        let entry = SwapEntry::from_bits(from.private());
        self.with_swap(entry.device(), |mut on| {
            let word = on.slot(entry.slot());
            debug_assert!(word.page() == Some(src), "{entry:?} is not {src:?}'s");
            from.clear_lru(LruFlags::SWAPCACHE);
            from.set_private(0);
            to.set_private(entry.bits());
            to.set_lru(LruFlags::SWAPCACHE);
            self.count_pages(dst, PageStat::SwapCached, 1);
            self.uncount_pages(src, PageStat::SwapCached, 1);
            on.set(entry.slot(), word.with_page(Some(link(dst))));
        });
    }
}
