//! The free scanner: downwards from the top of the zone, it takes free blocks
//! off the lists for pages to be moved to. May call: `buddy`.

use super::run::{CLUSTER, Run};
use crate::buddy::Buddy;
use crate::mm::Mm;
use crate::page::{HeadWord, PageType};
use crate::platform::Platform;
use crate::stats::Event;
use crate::types::{MAX_ORDER, MigrateType, Order, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, Pfn};

/// Blocks up to this are cut into single pages when they become targets: so many
/// are needed at once.
const SINGLES: Order = Order(CLUSTER.ilog2() as u8);

impl<P: Platform> Mm<P> {
    /// A single page to move to. Its head word says Held.
    pub(super) fn next_target(&self, run: &mut Run<'_>) -> Option<Pfn> {
        if run.target_pages == 0 {
            self.isolate_targets(run);
        }
        if run.targets[0].is_empty() {
            self.cut_target(run);
        }
        let pfn = run.targets[0].pop_front(&self.map)?;
        run.target_pages -= 1;
        Some(pfn)
    }

    /// Cuts as many single pages as may be needed now off the smallest block that
    /// is a target. The pages used are the lowest, so that what remains stays as
    /// large as it can.
    #[cold]
    fn cut_target(&self, run: &mut Run<'_>) {
        let Some(order) = run.targets.iter().position(|list| !list.is_empty()) else { return };
        let Some(pfn) = run.targets[order].pop_front(&self.map) else { return };
        let cpu = self.enter();
        // What is Held changes its borders under the zone lock only: those who walk
        // heads rely on it, for its parts are written one after the other.
        let _lists = self.zone_at(pfn).lock.lock(&cpu);
        let held = |pfn, order| self.map.page(pfn).set_head(HeadWord::new(PageType::Held, order));
        for at in (SINGLES.index()..order).rev().map(|order| Order(order as u8)) {
            held(pfn.add(at.pages()), at);
            run.targets[at.index()].push_front(&self.map, pfn.add(at.pages()));
        }
        let singles = Order(order as u8).min(SINGLES).pages();
        for page in (pfn.0..pfn.0 + singles).map(Pfn) {
            held(page, Order(0));
            run.targets[0].push_back(&self.map, page);
        }
    }

    /// Takes back a target that was not needed.
    pub(super) fn keep_target(&self, run: &mut Run<'_>, pfn: Pfn) {
        // A driver may have begun to copy to it.
        self.scrub(pfn, Order(0));
        run.targets[0].push_front(&self.map, pfn);
        run.target_pages += 1;
    }

    /// Takes free blocks off the lists, a pageblock at a time, until there are
    /// as many pages as there are sources, or the scanners meet.
    fn isolate_targets(&self, run: &mut Run<'_>) {
        let zone = run.zone;
        // One pageblock's worth at most is off the lists at a time.
        let want = u64::from(CLUSTER);
        while run.target_pages < want {
            if let Some(block) = run.spoiled.pop() {
                if !self.isolate_spoiled(run, block) {
                    return;
                }
                continue;
            }
            let block = run.free_pfn;
            if block <= run.migrate_pfn.pageblock() {
                return;
            }
            let mut more = false;
            if self.is_target_block(run, block) {
                match self.isolate_block(run, block, want) {
                    Some(rest) => more = rest,
                    // Not to be had without going below the watermark.
                    None => return,
                }
            }
            if !more {
                let lowest = zone.span().start.pageblock();
                if block <= lowest {
                    return;
                }
                // Deferred blocks are as large as can be, and so no targets.
                let next = self.map.prev_populated(Pfn(block.0 - PAGEBLOCK_PAGES));
                run.free_pfn = next.unwrap_or(lowest).max(lowest);
                run.free_at = run.free_pfn;
            }
        }
    }

    /// Takes all that is free in a pageblock that something stays in. False if the
    /// watermark forbids it.
    #[cold]
    fn isolate_spoiled(&self, run: &mut Run<'_>, block: Pfn) -> bool {
        if !self.is_target_block(run, block) {
            return true;
        }
        let free_at = core::mem::replace(&mut run.free_at, block);
        let verdict = self.isolate_block(run, block, u64::MAX);
        run.free_at = free_at;
        verdict.is_some()
    }

    fn is_target_block(&self, run: &Run<'_>, block: Pfn) -> bool {
        let Some(info) = self.map.try_block(block) else { return false };
        if info.zone_index() != run.zone.index() || !run.whole && info.skip() {
            return false;
        }
        // Only there do movable pages belong; a run that must succeed is less
        // particular.
        let ty = info.migratetype();
        matches!(ty, MigrateType::Movable | MigrateType::Cma)
            || run.whole && run.wanted.is_some() && ty.is_mergeable()
    }

    /// Takes what is free in one pageblock, up to `want` pages in all. Some(true):
    /// there may be more in it; None: the watermark forbids any more.
    fn isolate_block(&self, run: &mut Run<'_>, block: Pfn, want: u64) -> Option<bool> {
        let keep = run.keep_order();
        let (mut scanned, mut isolated) = (0, 0);
        let (mut verdict, mut next) = (Some(false), block.add(PAGEBLOCK_PAGES));
        let cpu = self.enter();
        let mut buddy = Buddy::lock(&self.map, run.zone, &cpu);
        // Asked once where there is room for all that may be taken here.
        let ample = self.may_take_free(run.zone, PAGEBLOCK_ORDER);
        if !run.zone.owns(&self.map, block) || !self.is_target_block(run, block) {
            // It went offline just now, or is being emptied.
            return Some(false);
        }
        let end = block.add(PAGEBLOCK_PAGES);
        let mut pfn = run.free_at.max(block);
        while pfn < end {
            scanned += 1;
            let word = self.map.page(pfn).head();
            let order = word.order();
            if word.ty() == PageType::Buddy && order < keep.min(MAX_ORDER) {
                if !ample && !self.may_take_free(run.zone, order) {
                    verdict = None;
                    break;
                }
                buddy.take_block(pfn, order);
                if order <= SINGLES {
                    for page in (pfn.0..pfn.0 + order.pages()).map(Pfn) {
                        self.map.page(page).set_head(HeadWord::new(PageType::Held, Order(0)));
                        run.targets[0].push_back(&self.map, page);
                    }
                } else {
                    self.map.page(pfn).set_head(HeadWord::new(PageType::Held, order));
                    run.targets[order.index()].push_back(&self.map, pfn);
                }
                run.target_pages += order.pages();
                isolated += order.pages();
                if run.target_pages >= want {
                    next = pfn.add(order.pages());
                    verdict = Some(next < end);
                    break;
                }
            }
            pfn = pfn.add(order.pages());
        }
        drop(buddy);
        drop(cpu);
        let from_start = run.free_at <= block;
        run.free_at = if verdict.is_some() { next } else { pfn };
        if isolated == 0 && verdict == Some(false) && from_start && !run.whole {
            self.map.block(block).set_skip(true);
        }
        self.count_scan(run, Event::CompactFreeScanned, scanned, isolated);
        verdict
    }
}
