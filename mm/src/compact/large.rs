//! Larger blocks of drivers: each moves as a whole, by itself, to a free block of
//! its order further up, which the free lists know. May call: `buddy`, `migrate`.

use super::run::Run;
use crate::buddy::{Buddy, Placement};
use crate::list::PageList;
use crate::mm::Mm;
use crate::page::{HeadWord, PageType};
use crate::platform::Platform;
use crate::stats::Event;
use crate::types::{MigrateType, Order, Pfn};

/// Free blocks of one list that are looked at for one far up.
const LOOKS: usize = 64;

impl<P: Platform> Mm<P> {
    /// Moves the block that the migration scanner has met last, if there is a
    /// place for it; else it stays. No lock held.
    pub(super) fn move_large(&self, run: &mut Run<'_>, src: Pfn, order: Order) {
        let Some(dst) = self.large_target(run, src, order) else { return };
        let isolated = {
            let _walk = self.look_around();
            self.isolate_movable_block(src, order, run.mode).is_ok()
        };
        let (mut spare, mut unused) = (Some(dst), None);
        if isolated {
            self.stats.add(Event::CompactIsolated, order.pages());
            let mut list = PageList::of_one(&self.map, src);
            let (target, give_back) = (&mut || spare.take(), &mut |pfn| unused = Some(pfn));
            let result = self.migrate_blocks(&mut list, order, target, give_back, run.mode);
            run.moved += u64::from(result.moved);
            run.moved_large |= result.moved > 0;
            run.failed += u64::from(result.failed);
            self.putback_list(&mut list);
        }
        if let Some(pfn) = spare.or(unused) {
            // A driver may have begun to copy to it.
            self.scrub(pfn, order);
            self.put_back(pfn, order, Placement::Tail);
        } else {
            let cpu = self.enter();
            self.count_allocated(run.zone, order.pages(), &cpu);
        }
    }

    /// Takes a block of `order` off the lists, above the pageblock of `src`, cut
    /// from the smallest that do, and of these from one far up. None if only what
    /// the run is to make would do, or the watermark forbids it. Its head word
    /// says Held.
    fn large_target(&self, run: &Run<'_>, src: Pfn, order: Order) -> Option<Pfn> {
        let cpu = self.enter();
        let mut buddy = Buddy::lock(&self.map, run.zone, &cpu);
        if !self.may_take_free(run.zone, order) {
            return None;
        }
        let found = (order.0..run.keep_order().0).map(Order).find_map(|at| {
            let lists = [MigrateType::Movable, MigrateType::Cma];
            let above = lists.into_iter().flat_map(|ty| {
                buddy.list(at, ty).iter(&self.map).take(LOOKS).map(move |pfn| (pfn, ty))
            });
            let highest = above.max_by_key(|&(pfn, _)| pfn);
            highest.filter(|(pfn, _)| pfn.pageblock() > src.pageblock()).map(|it| (it, at))
        });
        let ((pfn, ty), at) = found?;
        buddy.unlink(pfn, at, ty);
        buddy.split(pfn, at, order, ty);
        buddy.account(-(order.pages() as i64), ty);
        self.map.page(pfn).set_head(HeadWord::new(PageType::Held, order));
        Some(pfn)
    }
}
