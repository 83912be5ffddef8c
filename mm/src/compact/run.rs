//! One run of compaction over a zone: the scanners' positions, the batches
//! between them, and when to stop. May call: `source`, `target`, `migrate`.

use super::spoiled::Spoiled;
use crate::buddy::Placement;
use crate::gfp::AllocFlags;
use crate::list::PageList;
use crate::migrate::MigrateMode;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::pressure::CompactResult;
use crate::stats::Event;
use crate::sync::Ordering::Relaxed;
use crate::types::{
    MigrateType, NR_ORDERS, Order, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, Pfn, ZoneKind,
};
use crate::zone::{Capture, Zone};

/// Pages isolated at a time (Linux `COMPACT_CLUSTER_MAX`).
pub(super) const CLUSTER: u32 = 32;

/// The block that a run is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) order: Order,
    pub(super) migratetype: MigrateType,
    pub(super) class: ZoneKind,
    pub(super) flags: AllocFlags,
}

/// A run over one zone. All of it belongs to the caller; what it holds off the
/// lists goes back at the end whatever happens.
pub(super) struct Run<'z> {
    pub(super) zone: &'z Zone,
    pub(super) mode: MigrateMode,
    /// None: the whole zone, for its own sake.
    pub(super) wanted: Option<Wanted>,
    /// Hints and the suitability of blocks are ignored, positions start afresh.
    pub(super) whole: bool,
    /// For a run that nobody has asked for: the zone's score at which it stops.
    pub(super) until_score: Option<u32>,
    /// kcompactd runs it, and no request waits for it.
    pub(super) background: bool,
    /// Where the migration scanner goes on; everything below was scanned.
    pub(super) migrate_pfn: Pfn,
    /// The pageblock that the free scanner goes on in, downwards; it and
    /// everything above may have been scanned.
    pub(super) free_pfn: Pfn,
    /// Where in that block it goes on, upwards; what is freed behind it is for
    /// the next run.
    pub(super) free_at: Pfn,
    /// Isolated pages to be moved.
    pub(super) sources: PageList,
    /// A larger block that the migration scanner stopped behind, to be moved next.
    pub(super) large: Option<(Pfn, Order)>,
    /// Such blocks have moved.
    pub(super) moved_large: bool,
    /// Pageblocks that something stays in are left as they are, and filled: nothing
    /// smaller than a pageblock is asked for.
    pub(super) fills: bool,
    /// Those behind the migration scanner.
    pub(super) spoiled: Spoiled,
    /// Free blocks held as targets, by order.
    pub(super) targets: [PageList; NR_ORDERS],
    pub(super) target_pages: u64,
    pub(super) moved: u64,
    pub(super) failed: u64,
    pub(super) captured: Option<Pfn>,
    /// The zone's capture slot is this run's.
    capturing: bool,
    began_at: Pfn,
}

impl<'z> Run<'z> {
    pub(super) fn new(
        zone: &'z Zone,
        mode: MigrateMode,
        wanted: Option<Wanted>,
        whole: bool,
    ) -> Self {
        let span = zone.span();
        let is_async = mode == MigrateMode::Async;
        let (mut migrate_pfn, mut free_pfn) =
            (zone.compact.migrate_pfn(is_async), zone.compact.free_pfn());
        let last_block = Pfn(span.end.0.saturating_sub(1)).pageblock();
        if whole || !span.contains(migrate_pfn) {
            migrate_pfn = span.start;
        }
        if whole || free_pfn > last_block || free_pfn < span.start.pageblock() {
            free_pfn = last_block;
        }
        Self {
            zone,
            mode,
            wanted,
            whole,
            until_score: None,
            background: false,
            migrate_pfn,
            free_pfn,
            free_at: free_pfn,
            sources: PageList::new(),
            large: None,
            moved_large: false,
            fills: wanted.is_none(),
            spoiled: Spoiled::default(),
            targets: [PageList::new(); NR_ORDERS],
            target_pages: 0,
            moved: 0,
            failed: 0,
            captured: None,
            capturing: false,
            began_at: migrate_pfn,
        }
    }

    /// Whether the scanners have met.
    fn met(&self) -> bool {
        self.migrate_pfn.pageblock() >= self.free_pfn.pageblock()
    }

    /// Blocks free at this order or above are left alone as targets: they are
    /// what the run is to make.
    pub(super) fn keep_order(&self) -> Order {
        self.wanted.map_or(PAGEBLOCK_ORDER, |w| w.order.max(Order(1)))
    }
}

impl<P: Platform> Mm<P> {
    /// Runs until a block is there, the scanners meet, or nothing can be had.
    pub(super) fn compact_zone(&self, run: &mut Run<'_>) -> CompactResult {
        let zone = run.zone;
        if let Some(wanted) = run.wanted {
            if zone.compact.restarting(wanted.order) || zone.compact.flush_skip.load(Relaxed) {
                self.clear_skip_hints(zone);
                run.migrate_pfn = zone.span().start;
                run.free_pfn = Pfn(zone.span().end.0.saturating_sub(1)).pageblock();
                run.free_at = run.free_pfn;
                run.began_at = run.migrate_pfn;
            }
            if self.has_suitable_block(zone, &wanted) && zone_passes(zone, &wanted) {
                return CompactResult::Success;
            }
            self.set_capture(run, &wanted);
        }
        let result = self.compact_steps(run);
        self.end_capture(run);
        self.return_targets(run);
        self.putback_list(&mut run.sources);
        if run.captured.is_some() { CompactResult::Success } else { result }
    }

    fn compact_steps(&self, run: &mut Run<'_>) -> CompactResult {
        loop {
            if let Some(result) = self.finished(run) {
                return result;
            }
            let found = self.isolate_sources(run);
            if let Some((pfn, order)) = run.large.take() {
                self.move_large(run, pfn, order);
                if self.take_capture(run) {
                    return CompactResult::Success;
                }
            }
            if !found {
                continue;
            }
            let out_of_targets = self.migrate_batch(run);
            self.remember(run);
            if self.take_capture(run) {
                return CompactResult::Success;
            }
            if out_of_targets && !run.met() {
                // Pages could not be taken off the lists: below the watermark.
                return CompactResult::Contended;
            }
        }
    }

    /// Moves what has been isolated. True if there was nowhere to move to.
    fn migrate_batch(&self, run: &mut Run<'_>) -> bool {
        let mode = run.mode;
        let mut sources = core::mem::take(&mut run.sources);
        let used = core::cell::Cell::new(0);
        let result = {
            let spare = core::cell::RefCell::new(&mut *run);
            let mut target = || {
                let pfn = self.next_target(*spare.borrow_mut())?;
                used.set(used.get() + 1);
                Some(pfn)
            };
            let mut unused = |pfn| {
                used.set(used.get() - 1);
                self.keep_target(*spare.borrow_mut(), pfn);
            };
            self.migrate_pages(&mut sources, &mut target, &mut unused, mode)
        };
        let cpu = self.enter();
        self.count_allocated(run.zone, used.get(), &cpu);
        drop(cpu);
        run.moved += u64::from(result.moved);
        run.failed += u64::from(result.failed);
        self.putback_list(&mut sources);
        result.out_of_memory
    }

    /// Whether the run is over, asked between batches.
    fn finished(&self, run: &mut Run<'_>) -> Option<CompactResult> {
        let zone = run.zone;
        if run.met() {
            zone.compact.reset(zone.span());
            if run.wanted.is_some() && !run.whole {
                zone.compact.flush_skip.store(true, Relaxed);
            }
            let from_start = run.began_at <= zone.span().start;
            return Some(if from_start || run.whole {
                CompactResult::Complete
            } else {
                CompactResult::PartialSkipped
            });
        }
        // Inside a block the answer would nearly always be no.
        if run.migrate_pfn.pageblock() != run.migrate_pfn {
            return None;
        }
        if let Some(score) = run.until_score {
            return self.is_low_enough(zone, score).then_some(CompactResult::Success);
        }
        let wanted = run.wanted?;
        self.has_suitable_block(zone, &wanted).then_some(CompactResult::Success)
    }

    /// Keeps the positions for the next run.
    fn remember(&self, run: &Run<'_>) {
        if run.wanted.is_some() {
            run.zone.compact.set_migrate_pfn(run.mode == MigrateMode::Async, run.migrate_pfn);
            run.zone.compact.set_free_pfn(run.free_pfn);
        }
    }

    fn set_capture(&self, run: &mut Run<'_>, wanted: &Wanted) {
        let cpu = self.enter();
        let mut lists = run.zone.lock.lock(&cpu);
        // One compactor of a zone at a time can have it; others find the block
        // on the lists.
        if lists.capture.is_none() {
            let (order, migratetype) = (wanted.order, wanted.migratetype);
            lists.capture = Some(Capture { order, migratetype, taken: None });
            run.capturing = true;
        }
    }

    /// Whether a free has handed over a block.
    fn take_capture(&self, run: &mut Run<'_>) -> bool {
        if run.capturing {
            let cpu = self.enter();
            let mut lists = run.zone.lock.lock(&cpu);
            run.captured = lists.capture.as_mut().and_then(|c| c.taken.take());
            if run.captured.is_some() {
                lists.capture = None;
                run.capturing = false;
            }
        }
        run.captured.is_some()
    }

    /// Gives up the slot. What was handed over at the last moment is kept.
    fn end_capture(&self, run: &mut Run<'_>) {
        if !self.take_capture(run) && run.capturing {
            let cpu = self.enter();
            if let Some(capture) = run.zone.lock.lock(&cpu).capture.take() {
                run.captured = capture.taken;
            }
            run.capturing = false;
        }
    }

    /// Gives the targets that were not used back, each as large as it is.
    fn return_targets(&self, run: &mut Run<'_>) {
        let mut highest = None;
        for (order, list) in run.targets.iter_mut().enumerate() {
            while let Some(pfn) = list.pop_front(&self.map) {
                highest = highest.max(Some(pfn));
                self.put_back(pfn, Order(order as u8), Placement::Tail);
            }
        }
        run.target_pages = 0;
        // What lies above is worth another look next time.
        if let (Some(pfn), Some(_)) = (highest, run.wanted) {
            let cached = run.zone.compact.free_pfn();
            run.zone.compact.set_free_pfn(cached.max(pfn.pageblock()));
        }
    }

    /// Forgets which blocks had nothing to offer.
    fn clear_skip_hints(&self, zone: &Zone) {
        let span = zone.span();
        let mut block = span.start.pageblock();
        while block < span.end {
            if let Some(info) = self.map.try_block(block)
                && info.skip()
            {
                info.set_skip(false);
            }
            block = self.map.next_populated(block.add(PAGEBLOCK_PAGES));
        }
        zone.compact.flush_skip.store(false, Relaxed);
        zone.compact.reset(span);
    }

    /// Counts what the scanners looked at and took.
    pub(super) fn count_scan(&self, run: &Run<'_>, event: Event, scanned: u64, isolated: u64) {
        self.stats.add(event, scanned);
        if run.background {
            let daemon = match event {
                Event::CompactFreeScanned => Event::CompactDaemonFreeScanned,
                _ => Event::CompactDaemonMigrateScanned,
            };
            self.stats.add(daemon, scanned);
        }
        self.stats.add(Event::CompactIsolated, isolated);
    }
}

/// Whether the zone could serve the request now, marks included.
fn zone_passes(zone: &Zone, wanted: &Wanted) -> bool {
    let mark = zone.mark(crate::zone::Mark::Min);
    zone.watermark_ok(wanted.order, mark, wanted.class, wanted.flags)
}
