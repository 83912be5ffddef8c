//! The entries of page tables that name a slot: one more, one less. May call:
//! `cache`, `discard`.

use super::slot::MAX_USERS;
use crate::mm::Mm;
use crate::mmu::SwapEntry;
use crate::page::{LruFlags, PageType};
use crate::platform::{LogLevel, Platform};
use crate::types::Pfn;

/// A slot has as many users as can be counted, or is no slot in use. To whoever
/// wanted one more it is as if memory had run out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyUsers;

impl core::fmt::Display for TooManyUsers {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "a swap slot has {MAX_USERS} users already, or none")
    }
}

impl core::error::Error for TooManyUsers {}

impl<P: Platform> Mm<P> {
    /// One more entry of a page table is about to name `entry`: a page that is in
    /// the swap cache is being unmapped, or an address space copied in which an
    /// entry names it. Any lock that stands outside of Swap may be held.
    ///
    /// # Errors
    /// See [`TooManyUsers`]; nothing has changed then.
    pub fn swap_dup(&self, entry: SwapEntry) -> Result<(), TooManyUsers> {
        let added = self.with_swap(entry.device(), |mut on| {
            let word = on.slot(entry.slot());
            // A slot that is being let go of has no page that could be unmapped.
            let more = word.add_user().filter(|_| word.is_used())?;
            on.set(entry.slot(), more);
            Some(())
        });
        added.flatten().ok_or(TooManyUsers)
    }

    /// An entry of a page table names `entry` no more. True if that was the last
    /// one, and there is still a page in memory for it:
    /// [`swap_drop_lonely`](Self::swap_drop_lonely) frees that, or reclaim will.
    /// Any lock that stands outside of Swap may be held.
    pub fn swap_free(&self, entry: SwapEntry) -> bool {
        let freed = self.with_swap(entry.device(), |mut on| {
            let fewer = on.slot(entry.slot()).drop_user()?;
            on.set_or_free(entry.slot(), fewer);
            Some(fewer.users() == 0 && fewer.page().is_some())
        });
        freed.flatten().unwrap_or_else(|| {
            self.platform
                .log(LogLevel::Error, format_args!("swap: free of unused slot {entry:?} refused"));
            false
        })
    }

    /// As [`swap_free`](Self::swap_free) with all that follows: the page that
    /// nobody needs any more is freed, the device told. Interrupts on, no lock
    /// held; may wait for the device.
    pub fn swap_release(&self, entry: SwapEntry) {
        if self.swap_free(entry) {
            self.swap_drop_lonely(entry);
        }
        self.swap_settle();
    }

    /// Takes a page that has just been unmapped out of the cache if nobody names
    /// its slot, so that both are free when the caller drops its reference, which
    /// may be the last (Linux `free_swap_cache`). Does nothing if somebody has the
    /// page locked: reclaim will find it. No lock held; may wait for the device.
    pub fn swap_unmapped(&self, pfn: Pfn) {
        let desc = self.map.page(pfn);
        if desc.head().lru().contains(LruFlags::SWAPCACHE)
            && desc.mapcount() == 0
            && desc.try_lock()
        {
            if desc.mapcount() == 0 {
                self.swap_take_over(pfn);
            }
            desc.unlock();
            self.swap_settle();
        }
    }

    /// Takes the page of `entry` out of the cache if nobody names the slot, or
    /// maps the page; so both are freed. Does nothing if somebody has the page
    /// locked: reclaim will find it. No lock held.
    pub fn swap_drop_lonely(&self, entry: SwapEntry) {
        let Some(pfn) = self.swap_lookup(entry) else { return };
        let desc = self.map.page(pfn);
        if desc.try_lock() {
            if desc.mapcount() == 0 && self.is_cached_as(pfn, entry) {
                self.swap_take_over(pfn);
            }
            desc.unlock();
        }
        self.put_lru(pfn);
    }

    /// Entries of page tables that name a slot, and the page in memory that
    /// belongs to it; None if it is not in use. Any context; a moment's answer.
    pub fn swap_slot(&self, entry: SwapEntry) -> Option<(u32, Option<Pfn>)> {
        let word = self.with_swap(entry.device(), |on| on.slot(entry.slot()))?;
        word.is_used().then(|| (word.users(), word.page()))
    }

    /// Whether the page is in the cache as that of `entry`. Final if the caller
    /// has the page locked.
    pub(super) fn is_cached_as(&self, pfn: Pfn, entry: SwapEntry) -> bool {
        let desc = self.map.page(pfn);
        let word = desc.head();
        word.ty() == PageType::Lru
            && word.lru().contains(LruFlags::SWAPCACHE)
            && desc.private() == entry.bits()
    }
}
