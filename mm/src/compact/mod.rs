//! Compaction: makes large free blocks by moving pages from the bottom of a
//! zone to free pages at its top (Linux mm/compaction.c). Here are the ways in;
//! one run over a zone is in `run`, its two scanners in `source` and `target`,
//! pageblocks that something stays in in `spoiled`, larger blocks in `large`, what
//! a zone remembers in `state`, when it is worth trying in `index`. May call:
//! `migrate`, `buddy`, `free`.

pub mod index;
mod large;
mod proactive;
mod run;
mod source;
mod spoiled;
pub(crate) mod state;
mod target;

use crate::buddy::{Buddy, Placement};
use crate::gfp::{AllocFlags, Gfp, Request};
use crate::migrate::MigrateMode;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::pressure::{Attempt, CompactPriority, CompactResult};
use crate::sync::Ordering::Relaxed;
use crate::types::{COSTLY_ORDER, MigrateType, NR_ORDERS, NodeId, Order, Pfn, ZoneKind};
use crate::zone::{Mark, Zone};
use index::FreeBlocks;
pub(crate) use proactive::Compaction;
use run::{Run, Wanted};

/// What a whole-zone compaction did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Compacted {
    /// Pages moved.
    pub moved: u64,
    /// Pages that could not be moved.
    pub failed: u64,
}

impl<P: Platform> Mm<P> {
    /// Free blocks of a zone by order. Takes its lock for a moment.
    pub fn free_block_counts(&self, zone: &Zone) -> FreeBlocks {
        let cpu = self.enter();
        let buddy = Buddy::lock(&self.map, zone, &cpu);
        FreeBlocks(core::array::from_fn(|order| buddy.blocks_of(Order(order as u8))))
    }

    /// Compacts the zones that an attempt may use, best first, until one has
    /// the block; the block itself is returned when a free made it.
    pub(crate) fn compact_for(
        &self,
        attempt: &Attempt,
        priority: CompactPriority,
    ) -> (CompactResult, Option<Pfn>) {
        let mode = match priority {
            CompactPriority::Async => MigrateMode::Async,
            _ => MigrateMode::SyncLight,
        };
        let mut best = CompactResult::Skipped;
        for zone in self.zones_for(attempt) {
            let (result, captured) = self.compact_in(zone, attempt, mode, priority, false);
            best = best.max(result);
            if result == CompactResult::Success {
                return (result, captured);
            }
        }
        (best, None)
    }

    /// Compacts one zone in the background; a block that a free hands over goes
    /// to the lists. True if a block of the order is there now.
    pub(crate) fn compact_one(
        &self,
        zone: &Zone,
        attempt: &Attempt,
        mode: MigrateMode,
        priority: CompactPriority,
    ) -> bool {
        let (result, captured) = self.compact_in(zone, attempt, mode, priority, true);
        if let Some(pfn) = captured {
            self.put_back(pfn, attempt.request.order, Placement::Auto);
        }
        result == CompactResult::Success
    }

    /// Compacts one zone for an attempt, unless that failed too often lately or
    /// could not help.
    fn compact_in(
        &self,
        zone: &Zone,
        attempt: &Attempt,
        mode: MigrateMode,
        priority: CompactPriority,
        background: bool,
    ) -> (CompactResult, Option<Pfn>) {
        let order = attempt.request.order;
        let hardest = priority == CompactPriority::SyncFull;
        if !hardest && zone.compact.deferred(order) {
            return (CompactResult::Deferred, None);
        }
        if !self.worth_compacting(zone, attempt) {
            return (CompactResult::Skipped, None);
        }
        let wanted = Wanted {
            order,
            migratetype: attempt.migratetype,
            class: attempt.class,
            flags: attempt.flags,
        };
        let mut run = Run::new(zone, mode, Some(wanted), hardest);
        run.background = background;
        let result = self.compact_zone(&mut run);
        if result == CompactResult::Success {
            zone.compact.succeeded(order, false);
        } else if mode != MigrateMode::Async
            && matches!(result, CompactResult::Complete | CompactResult::PartialSkipped)
        {
            zone.compact.defer(order);
        }
        (result, run.captured)
    }

    /// Whether kcompactd could do something for requests of `class` for `order`.
    fn is_for_compaction(&self, zone: &Zone, order: Order, class: ZoneKind) -> bool {
        let attempt = Attempt {
            request: Request::new(order, Gfp::KERNEL | Gfp::MOVABLE).on(zone.node),
            class,
            migratetype: MigrateType::Movable,
            flags: AllocFlags::empty(),
        };
        let mark = zone.mark(Mark::Min);
        !zone.watermark_ok(order, mark, class, attempt.flags)
            && self.worth_compacting(zone, &attempt)
    }

    /// Whether compaction could help: enough is free to move pages to, and it
    /// is for want of contiguity that the order is not to be had.
    pub(crate) fn worth_compacting(&self, zone: &Zone, attempt: &Attempt) -> bool {
        let order = attempt.request.order;
        let rights = attempt.flags & (AllocFlags::CMA);
        if zone.watermark_ok(order, zone.mark(Mark::Min), attempt.class, attempt.flags) {
            return true;
        }
        let mark = if order > COSTLY_ORDER { Mark::Low } else { Mark::Min };
        // Twice the block: what is moved is there twice for a while.
        let level = zone.mark(mark) + 2 * order.pages();
        if !zone.watermark_ok(Order(0), level, attempt.class, rights | AllocFlags::CMA) {
            return false;
        }
        if order > COSTLY_ORDER {
            let index = self.free_block_counts(zone).fragmentation_index(order);
            let threshold = self.tunables.extfrag_threshold.load(Relaxed) as i32;
            return !(0..=threshold).contains(&index);
        }
        true
    }

    /// Compacts a zone from end to end, whatever hints say, as
    /// `/proc/sys/vm/compact_memory` does. Per-CPU lists are drained first:
    /// what lies there can neither merge nor be a target, nor be isolated. It is
    /// whole pageblocks that this makes; only where something stays in most of
    /// them it makes what smaller blocks it can. May wait; interrupts
    /// on, no lock held.
    pub fn compact_whole_zone(&self, zone: &Zone) -> Compacted {
        self.lru_drain_all();
        self.drain_all(Some(zone));
        let mut run = Run::new(zone, MigrateMode::Sync, None, true);
        self.compact_zone(&mut run);
        let mut done = Compacted { moved: run.moved, failed: run.failed };
        // Larger blocks leave room for others only where they were.
        if run.spoiled.mostly_left() || run.moved_large {
            let fills = !run.spoiled.mostly_left();
            let mut run = Run::new(zone, MigrateMode::Sync, None, true);
            run.fills = fills;
            self.compact_zone(&mut run);
            done.moved += run.moved;
            done.failed += run.failed;
        }
        done
    }

    /// Compacts all zones of a node, or of all. Context as
    /// [`compact_whole_zone`](Self::compact_whole_zone).
    pub fn compact_memory(&self, node: Option<NodeId>) -> Compacted {
        let mut total = Compacted::default();
        for zone in self.zones().iter().filter(|z| z.managed() > 0) {
            if node.is_none_or(|n| n == zone.node) {
                let one = self.compact_whole_zone(zone);
                total.moved += one.moved;
                total.failed += one.failed;
            }
        }
        total
    }

    /// Whether a block for `wanted` is on the lists: in its own type, in CMA if
    /// it may use that, or where it could claim.
    fn has_suitable_block(&self, zone: &Zone, wanted: &Wanted) -> bool {
        let any = |ty: MigrateType, from: u8| zone.avail[ty.index()].load(Relaxed) >> from != 0;
        let order = wanted.order.0;
        if any(wanted.migratetype, order)
            || wanted.flags.contains(AllocFlags::CMA) && any(MigrateType::Cma, order)
        {
            return true;
        }
        // What a fallback would have to split a foreign block for is not what
        // compaction is asked to make.
        let claim_from = order.max(if wanted.migratetype == MigrateType::Movable { 4 } else { 0 });
        (claim_from as usize) < NR_ORDERS
            && [MigrateType::Unmovable, MigrateType::Movable, MigrateType::Reclaimable]
                .into_iter()
                .any(|ty| ty != wanted.migratetype && any(ty, claim_from))
    }

    /// Sets the threshold of the fragmentation index (0 to 1000) at and below
    /// which a costly request is for reclaim rather than for compaction.
    pub fn set_extfrag_threshold(&self, threshold: u32) {
        self.tunables.extfrag_threshold.store(threshold.min(1000), Relaxed);
    }

    /// The zone's marks and lists as a check for moving a free block off the
    /// lists: the smallest mark, any class, CMA counted.
    pub(crate) fn may_take_free(&self, zone: &Zone, order: Order) -> bool {
        let level = zone.marks().min + order.pages();
        zone.watermark_ok(Order(0), level, ZoneKind::Dma, AllocFlags::CMA)
    }
}
