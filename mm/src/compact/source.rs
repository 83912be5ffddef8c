//! The migration scanner: upwards from the bottom of the zone, it isolates a
//! cluster of movable pages. May call: `migrate`.

use super::run::{CLUSTER, Run};
use crate::lru::Isolator;
use crate::migrate::MigrateMode;
use crate::mm::Mm;
use crate::page::{LruFlags, PageType};
use crate::platform::Platform;
use crate::stats::Event;
use crate::sync::Ordering::Relaxed;
use crate::types::{MigrateType, PAGEBLOCK_PAGES, Pfn};

impl<P: Platform> Mm<P> {
    /// Isolates up to a cluster of pages from the next pageblock that has any.
    /// Moves the run's position on. False if that block had none.
    pub(super) fn isolate_sources(&self, run: &mut Run<'_>) -> bool {
        let block = run.migrate_pfn.pageblock();
        let _walk = self.look_around();
        let end = block.add(PAGEBLOCK_PAGES);
        if !self.is_source_block(run, block) {
            // What has no descriptors has no pages to move either.
            run.migrate_pfn = self.map.next_populated(end).min(run.zone.span().end).max(end);
            return false;
        }
        if run.fills && run.migrate_pfn == block && self.is_spoiled(block) {
            run.spoiled.push(block);
            run.migrate_pfn = end;
            self.count_scan(run, Event::CompactMigrateScanned, PAGEBLOCK_PAGES, 0);
            return false;
        }
        let locked = self.compaction.unevictable_allowed.load(Relaxed);
        let may_move = |flags: LruFlags| locked || !flags.contains(LruFlags::UNEVICTABLE);
        let began = run.migrate_pfn;
        let (mut pfn, mut scanned, mut failed) = (began, 0u64, false);
        let mut isolator = Isolator::new(self);
        while pfn < end && run.sources.len() < CLUSTER {
            scanned += 1;
            // Nothing is held: what is read is a hint, and a step taken by it
            // never leaves the block.
            let word = self.map.page(pfn).head();
            match word.ty() {
                PageType::Movable
                    if word.order().0 > 0
                        && word.order() < run.keep_order()
                        && pfn.is_aligned(word.order()) =>
                {
                    run.large = Some((pfn, word.order()));
                    pfn = pfn.add(word.order().pages());
                    break;
                }
                // What is as large as what the run makes stays.
                PageType::Movable | PageType::Lru if word.order().0 > 0 => {}
                PageType::Lru if !may_move(word.lru()) => {}
                PageType::Lru if isolator.isolate(pfn) => {
                    run.sources.push_back(&self.map, pfn);
                    pfn = pfn.add(1);
                    continue;
                }
                PageType::Movable => {
                    // It is the driver's to give.
                    isolator.let_go();
                    if self.isolate_seen(pfn, word, run.mode).is_ok() {
                        run.sources.push_back(&self.map, pfn);
                        pfn = pfn.add(1);
                        continue;
                    }
                    failed = true;
                }
                PageType::Buddy | PageType::Pcp if pfn.is_aligned(word.order()) => {
                    pfn = pfn.add(word.order().pages());
                    continue;
                }
                PageType::Tail | PageType::Buddy | PageType::Pcp => {
                    pfn = pfn.add(1);
                    continue;
                }
                PageType::Lru => failed = true,
                _ => {}
            }
            pfn = if pfn.is_aligned(word.order()) {
                pfn.add(word.order().pages())
            } else {
                pfn.add(1)
            };
            // A page that stays spoils the block that the request needs; what
            // else is in it need not be moved for that request.
            if gives_up(run) {
                isolator.let_go();
                pfn = self.skip_spoiled(run, pfn).min(end);
            }
        }
        isolator.let_go();
        run.migrate_pfn = pfn.min(end);
        let isolated = u64::from(run.sources.len());
        self.count_scan(run, Event::CompactMigrateScanned, scanned, isolated);
        let whole_block = began == block && run.migrate_pfn == end;
        if whole_block && isolated == 0 && !failed && run.large.is_none() && !run.whole {
            self.map.block(block).set_skip(true);
        }
        isolated > 0
    }

    fn is_source_block(&self, run: &Run<'_>, block: Pfn) -> bool {
        let Some(info) = self.map.try_block(block) else { return false };
        if info.zone_index() != run.zone.index() {
            return false;
        }
        if !run.whole && info.skip() {
            return false;
        }
        let ty = info.migratetype();
        if ty == MigrateType::Isolate {
            return false;
        }
        match (run.mode, run.wanted) {
            // A quick run looks only where it is most likely to find.
            (MigrateMode::Async, Some(wanted)) => match wanted.migratetype {
                MigrateType::Movable => matches!(ty, MigrateType::Movable | MigrateType::Cma),
                other => ty == other,
            },
            _ => true,
        }
    }

    /// Drops what was isolated of the spoiled block of the wanted order that
    /// ends at or after `at`; returns where to go on.
    fn skip_spoiled(&self, run: &mut Run<'_>, at: Pfn) -> Pfn {
        let Some(wanted) = run.wanted else { return at };
        let last = Pfn(at.0 - 1);
        let (from, to) = (last.align_down(wanted.order), last.add(1).align_up(wanted.order));
        let mut keep = crate::list::PageList::new();
        while let Some(pfn) = run.sources.pop_front(&self.map) {
            if pfn >= from {
                self.putback(pfn);
            } else {
                keep.push_back(&self.map, pfn);
            }
        }
        run.sources = keep;
        to
    }
}

/// Whether one page that stays makes the rest of its aligned block of the
/// wanted order not worth moving: for a quick run for a given block, it does.
fn gives_up(run: &Run<'_>) -> bool {
    run.mode == MigrateMode::Async && run.wanted.is_some_and(|w| w.order.0 > 0)
}
