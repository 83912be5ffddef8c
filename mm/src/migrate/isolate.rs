//! Taking a page away from its owner for a while, so that it can be moved; and
//! giving it back. May call: the operations of drivers.

use super::MigrateMode;
use crate::list::PageList;
use crate::mm::Mm;
use crate::page::{HeadWord, PageDesc, PageFlags, PageType};
use crate::platform::Platform;
use crate::types::{Order, Pfn};

/// The page could not be isolated: it is not movable, somebody else is at it,
/// or its driver did not want to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotIsolated;

/// Whether a block is a driver's that could be isolated now. A hint unless the
/// block is locked.
fn is_isolatable(desc: &PageDesc, order: Order) -> bool {
    let word = desc.head();
    word.is(PageType::Movable, order)
        && !word.flags().intersects(PageFlags::ISOLATED | PageFlags::RELEASED)
}

impl<P: Platform> Mm<P> {
    /// Isolates a movable single page: its driver gives it up for now, or it is
    /// taken off its LRU list, and the caller has a reference that
    /// [`putback`](Self::putback) or migration drops. The page may be looked at
    /// without owning anything, so each step checks what the one before could not
    /// hold on to. No lock held; may call the driver.
    ///
    /// # Errors
    /// See [`NotIsolated`]; nothing has changed then.
    pub fn isolate_movable(&self, pfn: Pfn, mode: MigrateMode) -> Result<(), NotIsolated> {
        let desc = self.map.try_page(pfn).ok_or(NotIsolated)?;
        self.isolate_seen(pfn, desc.head(), mode)
    }

    /// The same for a page that was just seen with `word` for a head: what that
    /// says decides whom to ask, and whoever is asked looks again.
    #[inline(always)]
    pub(crate) fn isolate_seen(
        &self,
        pfn: Pfn,
        word: HeadWord,
        mode: MigrateMode,
    ) -> Result<(), NotIsolated> {
        if word.is(PageType::Lru, Order(0)) {
            return self.isolate_listed(pfn, Order(0));
        }
        self.isolate_of(pfn, Order(0), mode)
    }

    /// A call, so that the pages of drivers do not pay for it.
    #[inline(never)]
    fn isolate_listed(&self, pfn: Pfn, order: Order) -> Result<(), NotIsolated> {
        self.lru_isolate_as(pfn, order).then_some(()).ok_or(NotIsolated)
    }

    /// [`isolate_movable`](Self::isolate_movable) for a block of `order`.
    #[cold]
    pub(crate) fn isolate_movable_block(
        &self,
        pfn: Pfn,
        order: Order,
        mode: MigrateMode,
    ) -> Result<(), NotIsolated> {
        let desc = self.map.try_page(pfn).ok_or(NotIsolated)?;
        if desc.head().is(PageType::Lru, order) {
            return self.isolate_listed(pfn, order);
        }
        self.isolate_of(pfn, order, mode)
    }

    // Inlined, so that single pages do not pay for the others.
    #[inline(always)]
    fn isolate_of(&self, pfn: Pfn, order: Order, mode: MigrateMode) -> Result<(), NotIsolated> {
        let desc = self.map.try_page(pfn).ok_or(NotIsolated)?;
        // Most pages met are none of ours: no atomic operation for them.
        if !is_isolatable(desc, order) || !desc.get_unless_zero() {
            return Err(NotIsolated);
        }
        let isolated = self.isolate_referenced(pfn, desc, order, mode);
        if !isolated {
            // If the driver let go meanwhile, this is the last reference; and by
            // now the page may be something else that is counted.
            self.put_counted(pfn, desc);
            return Err(NotIsolated);
        }
        Ok(())
    }

    #[inline(always)]
    fn isolate_referenced(
        &self,
        pfn: Pfn,
        desc: &PageDesc,
        order: Order,
        mode: MigrateMode,
    ) -> bool {
        // Between the look and the reference the page may have been freed and
        // become something else that is counted.
        if !is_isolatable(desc, order) || !desc.try_lock() {
            return false;
        }
        // Locked, the answer is final: isolation happens under the lock only.
        let isolated = is_isolatable(desc, order)
            && self.movable_ops(desc).is_some_and(|ops| ops.isolate(self, pfn, mode));
        if isolated {
            desc.set_flags(PageFlags::ISOLATED);
        }
        desc.unlock();
        isolated
    }

    /// Gives an isolated page back to its driver or its list, or frees it if it
    /// was let go of meanwhile. No lock held.
    pub fn putback(&self, pfn: Pfn) {
        let Some(desc) = self.map.try_page(pfn) else { return };
        debug_assert!(desc.head().flags().contains(PageFlags::ISOLATED));
        if desc.head().ty() == PageType::Lru {
            return self.lru_putback(pfn);
        }
        self.lock_page(desc);
        if !desc.head().flags().contains(PageFlags::RELEASED)
            && let Some(ops) = self.movable_ops(desc)
        {
            ops.putback(self, pfn);
        }
        desc.clear_flags(PageFlags::ISOLATED);
        desc.unlock();
        self.put_movable(pfn, desc);
    }

    /// [`putback`](Self::putback) for all of a list of isolated pages.
    pub fn putback_list(&self, list: &mut PageList) {
        while let Some(pfn) = list.pop_front(&self.map) {
            self.putback(pfn);
        }
    }
}
