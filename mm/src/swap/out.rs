//! Pages go out. Called by reclaim, which has taken them off their list. May call:
//! `cache`, `io`, `rmap`.

use super::WriteFailed;
use crate::mm::Mm;
use crate::mmu::SwapEntry;
use crate::page::{LruFlags, PageFlags};
use crate::platform::Platform;
use crate::types::Pfn;
use arrayvec::ArrayVec;

/// Why a page was not swapped out. It is still in memory, and nothing is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SwapOutError {
    /// No slot is free.
    NoSlot,
    /// It is still mapped somewhere.
    Mapped,
    /// Somebody is using it: has a reference, or has just written to it.
    InUse,
    /// The device does not take the page, or not now. The page is dirty and
    /// active, mapped again where it was, and goes to another device next time,
    /// if there is one that takes any.
    Refused,
    /// The device failed. The page is dirty and active, and mapped again where
    /// it was.
    Io,
}

impl core::fmt::Display for SwapOutError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NoSlot => "no swap slot is free",
            Self::Mapped => "the page is mapped",
            Self::InUse => "the page is in use",
            Self::Refused => "the swap device does not take the page",
            Self::Io => "the swap device has failed",
        })
    }
}

impl core::error::Error for SwapOutError {}

/// Pages that are mapped nowhere any more and wait to be written together, isolated
/// and locked.
#[derive(Debug, Default)]
pub(crate) struct SwapOuts(ArrayVec<Pfn, { Self::MOST }>);

impl SwapOuts {
    /// Most pages: as many as reclaim isolates at a time.
    pub(crate) const MOST: usize = 32;

    /// None.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Whether there is no room for another.
    pub(crate) fn is_full(&self) -> bool {
        self.0.is_full()
    }
}

/// Where a page is on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leaving {
    /// It is frozen and nobody's but the caller's.
    Gone,
    /// It waits to be written.
    Waits,
}

impl<P: Platform> Mm<P> {
    /// Swaps an anonymous page out. The caller has it isolated and locked, with
    /// one reference, and holds nothing else. `unmap` replaces every entry that
    /// maps the page by the slot, having asked [`swap_dup`](Self::swap_dup)
    /// before each, notes in the page whether it was dirty, and flushes; what it
    /// could not unmap is still counted as mapped then. May wait for the device.
    ///
    /// After success the page is frozen and nobody's but the caller's, isolated
    /// and locked as before: it is to be freed.
    ///
    /// # Errors
    /// See [`SwapOutError`]. The page may have got a slot and be in the cache.
    pub fn swap_out(&self, pfn: Pfn, unmap: &mut dyn FnMut(SwapEntry)) -> Result<(), SwapOutError> {
        let mut outs = SwapOuts::new();
        let mut result = match self.swap_out_begin(pfn, unmap, &mut outs) {
            Ok(Leaving::Gone) => return Ok(()),
            Ok(Leaving::Waits) => Err(SwapOutError::Io),
            Err(why) => return Err(why),
        };
        self.swap_out_write(&mut outs, &mut |_, written| result = written);
        result
    }

    /// Begins as [`swap_out`](Self::swap_out). If the page has to be written that
    /// waits for [`swap_out_write`](Self::swap_out_write), for others to be written
    /// with it: until then the page is one of `outs`, which must not be full, and
    /// stays isolated and locked. Others may be locked at the same time, for here
    /// nobody waits for a page.
    ///
    /// # Errors
    /// See [`SwapOutError`]; the page is not one of `outs` then.
    pub(crate) fn swap_out_begin(
        &self,
        pfn: Pfn,
        unmap: &mut dyn FnMut(SwapEntry),
        outs: &mut SwapOuts,
    ) -> Result<Leaving, SwapOutError> {
        let desc = self.map.page(pfn);
        debug_assert!(desc.head().flags().contains(PageFlags::LOCKED));
        if let Some(why) = self.needs_another_slot(pfn)
            && !self.swap_back(pfn)
        {
            return Err(why);
        }
        let entry = if desc.head().lru().contains(LruFlags::SWAPCACHE) {
            SwapEntry::from_bits(desc.private())
        } else {
            self.swap_add(pfn).map_err(|_| SwapOutError::NoSlot)?
        };
        if desc.mapcount() > 0 {
            unmap(entry);
        }
        match self.swap_out_unmapped(pfn, entry) {
            Ok(true) => {
                outs.0.push(pfn);
                Ok(Leaving::Waits)
            }
            done => self.swap_out_end(pfn, done.map(|_| ())).map(|()| Leaving::Gone),
        }
    }

    /// Writes the pages of `outs`, which has none then, and tells `each` what
    /// became of them, as [`swap_out`](Self::swap_out) does. Waits for the devices.
    pub(crate) fn swap_out_write(
        &self,
        outs: &mut SwapOuts,
        each: &mut dyn FnMut(Pfn, Result<(), SwapOutError>),
    ) {
        self.swap_write_batch(&outs.0, &mut |pfn, written| {
            let written = written.map_err(|why| match why {
                WriteFailed::Refused => SwapOutError::Refused,
                WriteFailed::Io => SwapOutError::Io,
            });
            each(pfn, self.swap_out_end(pfn, written));
        });
        outs.0.clear();
    }

    /// Lets go of a page that its slot has, or puts it back where it was.
    fn swap_out_end(
        &self,
        pfn: Pfn,
        written: Result<(), SwapOutError>,
    ) -> Result<(), SwapOutError> {
        let result = written
            .and_then(|()| if self.swap_evict(pfn) { Ok(()) } else { Err(SwapOutError::InUse) });
        match result {
            Ok(()) => {}
            Err(SwapOutError::Io | SwapOutError::Refused) => {
                self.swap_back(pfn);
            }
            // If not one entry names it, the slot is of no use to the page.
            Err(_) => {
                self.swap_take_over(pfn);
            }
        }
        result
    }

    /// Why the slot that a page has is not good for it, if it is not.
    fn needs_another_slot(&self, pfn: Pfn) -> Option<SwapOutError> {
        let desc = self.map.page(pfn);
        let flags = desc.head().lru();
        if !flags.contains(LruFlags::SWAPCACHE) {
            return None;
        }
        if flags.contains(LruFlags::FAILED) {
            let refused = flags.contains(LruFlags::REFUSED);
            return Some(if refused { SwapOutError::Refused } else { SwapOutError::Io });
        }
        // What has come back does not go there again.
        let entry = SwapEntry::from_bits(desc.private());
        let leaving = self.with_swap(entry.device(), |on| on.active.leaving) == Some(true);
        leaving.then_some(SwapOutError::NoSlot)
    }

    /// Has whoever names the slot of a page that it is not good for map the
    /// page again, so that it can get another one. False if somebody still names
    /// it whom nobody finds just now.
    fn swap_back(&self, pfn: Pfn) -> bool {
        self.remap_swapped(pfn, SwapEntry::from_bits(self.map.page(pfn).private()));
        self.swap_take_over(pfn)
    }

    /// Whether a page that should be mapped nowhere has to be written first.
    fn swap_out_unmapped(&self, pfn: Pfn, entry: SwapEntry) -> Result<bool, SwapOutError> {
        let desc = self.map.page(pfn);
        if desc.mapcount() > 0 {
            return Err(SwapOutError::Mapped);
        }
        // A reference more is somebody's who may be writing.
        if desc.count() != 2 {
            return Err(SwapOutError::InUse);
        }
        // What nobody names is needed by nobody.
        let named = self.swap_slot(entry).is_some_and(|(users, _)| users > 0);
        if !named {
            return Ok(false);
        }
        self.swap_write_begin(pfn).map_err(|_| SwapOutError::Io)
    }
}
