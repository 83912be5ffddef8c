//! Finding a contiguous range: the zones of the zonelist are scanned head by
//! head for windows that hold nothing that is in the way. A window that failed
//! is not tried again, nor is any that holds what it failed for. May call: the
//! rest of this module, `alloc`.

use super::isolate::refused;
use super::walk::Kind;
use super::{ContigError, Purpose};
use crate::buddy::Buddy;
use crate::gfp::{Gfp, Request};
use crate::mm::Mm;
use crate::platform::Platform;
use crate::types::{MAX_ORDER, MigrateType, NodeId, Order, PAGEBLOCK_PAGES, Pfn, PfnRange};
use crate::zone::Zone;
use core::panic::Location;

/// What a window may hold to be worth a try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Window {
    /// Pages on the buddy's lists only: nothing has to be isolated or moved.
    Free,
    /// Whatever can be moved or drained too.
    Emptied,
}

/// What is looked for.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    pages: u64,
    align: Order,
    min_pfn: Pfn,
    gfp: Gfp,
    at: &'static Location<'static>,
}

impl<P: Platform> Mm<P> {
    /// Allocates exactly `count` contiguous frames, any number, the first one
    /// aligned to `align` (any order) and not below `min_pfn`, from the zones
    /// that `gfp` allows, beginning at `node` (None: the caller's). All lie in
    /// one zone of one node. Free windows are preferred; else what is in the
    /// way is moved. Context as for
    /// [`alloc_contig_range`](Self::alloc_contig_range); the time it takes is
    /// bounded by the size of the zones.
    ///
    /// # Errors
    /// See [`ContigError`].
    #[track_caller]
    pub fn alloc_contig_pages(
        &self,
        count: u64,
        align: Order,
        node: Option<NodeId>,
        min_pfn: Pfn,
        gfp: Gfp,
    ) -> Result<PfnRange, ContigError> {
        let at = Location::caller();
        if count == 0 || count > self.map.end().0 || align.0 >= 52 {
            return Err(ContigError::Invalid("no pages, or more than there can be"));
        }
        let request = Request { order: Order(0), gfp, node };
        let attempt =
            self.attempt(request).map_err(|_| ContigError::Invalid("flags contradict"))?;
        let node = attempt.request.node.unwrap_or_default();
        let wanted = Wanted { pages: count, align, min_pfn, gfp, at };
        let mut worst = ContigError::NoMemory;
        for zone in self.zonelist(node, attempt.class) {
            if zone.node != node && gfp.contains(Gfp::THISNODE) {
                break;
            }
            if zone.managed() < count {
                continue;
            }
            match self.alloc_in_zone(zone, &wanted) {
                Ok(range) => return Ok(range),
                Err(error) => worst = error,
            }
        }
        Err(worst)
    }

    fn alloc_in_zone(&self, zone: &Zone, wanted: &Wanted) -> Result<PfnRange, ContigError> {
        let attempt = |start| {
            let range = PfnRange::sized(start, wanted.pages);
            self.alloc_contig(range, Purpose::General, wanted.gfp, wanted.at)
        };
        if let Some(start) = self.large_free_block(zone, wanted) {
            match attempt(start) {
                // Somebody else was faster: look properly.
                Err(ContigError::Busy(_)) => {}
                result => return result,
            }
        }
        let mut error = ContigError::NoMemory;
        for window in [Window::Free, Window::Emptied] {
            let mut from = wanted.min_pfn;
            while let Some(start) = self.next_window(zone, from, wanted, window) {
                match attempt(start) {
                    Err(ContigError::Busy(obstacle)) => {
                        error = ContigError::Busy(obstacle);
                        // Every window up to the obstacle holds it too.
                        from = obstacle.past(PfnRange::sized(start, wanted.pages));
                    }
                    result => return result,
                }
            }
        }
        Err(error)
    }

    /// The start of a listed free block that holds the whole range, if there is
    /// one: no scan is needed then.
    fn large_free_block(&self, zone: &Zone, wanted: &Wanted) -> Option<Pfn> {
        let least = Order::for_pages(wanted.pages).max(wanted.align);
        let cpu = self.enter();
        let mut buddy = Buddy::lock(&self.map, zone, &cpu);
        (least.0..=MAX_ORDER.0).map(Order).find_map(|order| {
            // The range will not move: better not in a movable block.
            [MigrateType::Unmovable, MigrateType::Reclaimable, MigrateType::Movable]
                .into_iter()
                .find_map(|ty| buddy.list(order, ty).first().filter(|&pfn| pfn >= wanted.min_pfn))
        })
    }

    /// The first window at `from` or above. Reads heads without the zone lock:
    /// what it finds is a candidate. What is deferred is free.
    fn next_window(&self, zone: &Zone, from: Pfn, wanted: &Wanted, window: Window) -> Option<Pfn> {
        let _walk = self.look_around();
        let span = zone.span();
        // Nor could it be rounded up.
        if from >= span.end {
            return None;
        }
        let mut start = from.max(span.start).align_up(wanted.align);
        // All from `start` to here fits.
        let mut at = start;
        while start < span.end && wanted.pages <= span.end.0 - start.0 {
            if at >= start.add(wanted.pages) {
                return Some(start);
            }
            match self.look(zone, at, window) {
                Ok(end) => at = end,
                Err(end) => {
                    start = end.align_up(wanted.align);
                    at = start;
                }
            }
        }
        None
    }

    /// Whether the block that holds `at` may be part of a window; either way,
    /// where it ends.
    fn look(&self, zone: &Zone, at: Pfn, window: Window) -> Result<Pfn, Pfn> {
        let block = at.pageblock().add(PAGEBLOCK_PAGES);
        let Some(info) = self.map.info(at).filter(|b| b.zone_index() == zone.index()) else {
            return Err(block);
        };
        if !info.is_populated() {
            return Ok(block);
        }
        let ty = info.migratetype();
        // What is kept for emergencies is not looked for here.
        if refused(ty, Purpose::General).is_some() || ty == MigrateType::HighAtomic {
            return Err(block);
        }
        let Some((head, word)) = self.map.head_of(at) else { return Err(at.add(1)) };
        let end = head.add(word.order().pages());
        match (Kind::of(word.ty()), window) {
            // What the manager holds for a moment is free, or movable, soon.
            (Kind::Free, _) | (Kind::Pcp | Kind::Movable | Kind::Held, Window::Emptied) => Ok(end),
            _ => Err(end),
        }
    }
}
