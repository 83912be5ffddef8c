//! Moving a list of isolated pages, with retries (Linux `migrate_pages`).
//! May call: the operations of drivers.

use super::emptied::Emptied;
use super::{MigrateError, MigrateMode, MovableOps};
use crate::list::PageList;
use crate::mm::Mm;
use crate::page::{HeadWord, PageDesc, PageFlags, PageType};
use crate::platform::Platform;
use crate::stats::Event;
use crate::types::{Order, Pfn};

/// Passes over a list before what still is in the way counts as failed.
const PASSES: u32 = 10;
/// From this pass on a locked page is waited for, if the mode allows.
const PATIENT_PASS: u32 = 3;

/// What became of a list of pages.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Migrated {
    /// Pages whose old frame is free now, those included that their drivers
    /// freed themselves.
    pub moved: u32,
    /// Pages, or larger blocks, that are still on the list.
    pub failed: u32,
    /// There was no frame to move a page to.
    pub out_of_memory: bool,
}

impl<P: Platform> Mm<P> {
    /// Moves the isolated pages on `list` to frames that `target` gives:
    /// allocated or held single pages that are the caller's. A frame that was
    /// not needed in the end goes to `unused`. What could not be moved stays on
    /// the list, isolated, for [`putback_list`](Self::putback_list). No lock
    /// held.
    pub fn migrate_pages(
        &self,
        list: &mut PageList,
        target: &mut dyn FnMut() -> Option<Pfn>,
        unused: &mut dyn FnMut(Pfn),
        mode: MigrateMode,
    ) -> Migrated {
        self.migrate_list(list, Order(0), target, unused, mode)
    }

    /// [`migrate_pages`](Self::migrate_pages) for blocks of `order`.
    #[cold]
    pub(crate) fn migrate_blocks(
        &self,
        list: &mut PageList,
        order: Order,
        target: &mut dyn FnMut() -> Option<Pfn>,
        unused: &mut dyn FnMut(Pfn),
        mode: MigrateMode,
    ) -> Migrated {
        self.migrate_list(list, order, target, unused, mode)
    }

    // Inlined, as what it calls, so that single pages do not pay for the others.
    #[inline(always)]
    fn migrate_list(
        &self,
        list: &mut PageList,
        order: Order,
        target: &mut dyn FnMut() -> Option<Pfn>,
        unused: &mut dyn FnMut(Pfn),
        mode: MigrateMode,
    ) -> Migrated {
        let mut result = Migrated::default();
        let mut failed = PageList::new();
        let mut spare = None;
        let mut emptied = Emptied::new();
        for pass in 0..PASSES {
            let (mut again, mut mapped) = (PageList::new(), PageList::new());
            let patient = pass >= PATIENT_PASS && mode > MigrateMode::Async;
            // Mostly all are of one sort: then none is listed once more.
            if list.first().is_some_and(|pfn| self.is_mapped(pfn, order)) {
                core::mem::swap(list, &mut mapped);
            }
            loop {
                self.migrate_mapped(
                    &mut mapped,
                    list,
                    order,
                    target,
                    unused,
                    patient,
                    &mut again,
                    &mut emptied,
                    &mut result,
                );
                while let Some(src) = list.pop_front(&self.map) {
                    if self.is_mapped(src, order) {
                        mapped.push_back(&self.map, src);
                        continue;
                    }
                    let Some(dst) = spare.take().or_else(&mut *target) else {
                        result.out_of_memory = true;
                        list.push_front(&self.map, src);
                        break;
                    };
                    match self.migrate_page(dst, src, order, mode, patient, &mut emptied) {
                        Ok(used) => {
                            result.moved += order.pages() as u32;
                            if !used {
                                spare = Some(dst);
                            }
                        }
                        Err(why) => {
                            spare = Some(dst);
                            let keep =
                                if why == MigrateError::Again { &mut again } else { &mut failed };
                            keep.push_back(&self.map, src);
                        }
                    }
                }
                if mapped.is_empty() || result.out_of_memory {
                    break;
                }
            }
            self.append(list, &mut mapped);
            self.append(list, &mut again);
            if list.is_empty() || result.out_of_memory {
                break;
            }
        }
        self.free_emptied(&mut emptied);
        if let Some(dst) = spare {
            unused(dst);
        }
        self.append(list, &mut failed);
        result.failed = list.len();
        self.stats.add(Event::MigrateSuccess, u64::from(result.moved));
        self.stats.add(Event::MigrateFail, u64::from(result.failed));
        result
    }

    pub(super) fn is_mapped(&self, pfn: Pfn, order: Order) -> bool {
        self.map.page(pfn).head().is(PageType::Lru, order)
    }

    fn append(&self, list: &mut PageList, more: &mut PageList) {
        while let Some(pfn) = more.pop_front(&self.map) {
            list.push_back(&self.map, pfn);
        }
    }

    /// Moves one isolated block of `order` to `dst`, another. Ok(false): nothing
    /// had to be moved, `dst` is still the caller's.
    #[inline(always)]
    fn migrate_page(
        &self,
        dst: Pfn,
        src: Pfn,
        order: Order,
        mode: MigrateMode,
        patient: bool,
        emptied: &mut Emptied,
    ) -> Result<bool, MigrateError> {
        let from = self.map.page(src);
        if patient {
            self.lock_page(from);
        } else if !from.try_lock() {
            return Err(MigrateError::Again);
        }
        if from.head().flags().contains(PageFlags::RELEASED) {
            self.let_go(src, order, from, emptied);
            return Ok(false);
        }
        let Some(ops) = self.movable_ops(from).filter(|_| from.head().ty() == PageType::Movable)
        else {
            from.unlock();
            return Err(MigrateError::Busy);
        };
        let to = self.map.page(dst);
        let before = self.dress(to, from, order);
        match self.move_to(ops, dst, src, mode) {
            Ok(()) => {
                // Two references to `dst`: the driver's and ours.
                to.unlock();
                self.put_movable(dst, to);
                // The driver's reference to the old page is ours to drop.
                from.set_flags(PageFlags::RELEASED);
                let last = from.put();
                debug_assert!(!last, "the isolation still has a reference");
                self.let_go(src, order, from, emptied);
                Ok(true)
            }
            Err(why) => {
                undress(to, before);
                if from.head().flags().contains(PageFlags::RELEASED) {
                    self.let_go(src, order, from, emptied);
                    return Ok(false);
                }
                from.unlock();
                Err(why)
            }
        }
    }

    fn move_to(
        &self,
        ops: &'static dyn MovableOps<P>,
        dst: Pfn,
        src: Pfn,
        mode: MigrateMode,
    ) -> Result<(), MigrateError> {
        ops.migrate(self, dst, src, mode)
    }

    /// Makes a target look like the page that moves there: locked, with a
    /// reference for the driver and one for us. Returns its word before.
    fn dress(&self, to: &PageDesc, from: &PageDesc, order: Order) -> HeadWord {
        to.set_owner(from.owner());
        to.set_both(from.both());
        to.set_inuse(0);
        to.set_next(0);
        to.set_prev(0);
        let movable = HeadWord::new(PageType::Movable, order).with(PageFlags::LOCKED);
        let before = to.remake(movable);
        to.publish(2);
        before
    }

    /// Ends the isolation of a locked page that its driver has let go of.
    #[inline(always)]
    fn let_go(&self, pfn: Pfn, order: Order, desc: &PageDesc, emptied: &mut Emptied) {
        desc.clear_flags(PageFlags::ISOLATED);
        desc.unlock();
        self.put_migrated(pfn, order, desc, emptied);
    }
}

/// Takes back what `dress` did. A scanner may have got a reference in between;
/// it finds the page locked and drops it again. Nobody marks a locked page.
fn undress(to: &PageDesc, before: HeadWord) {
    while !to.freeze(2) {
        core::hint::spin_loop();
    }
    to.reset(before);
}
