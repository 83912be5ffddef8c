//! Room for a contiguous range: the one place where a contiguous allocation
//! asks for memory to be freed, before anything is isolated, by the code that
//! direct reclaim uses. So it cannot leave the zone below its marks for others
//! to pay. May call: `pressure`, `free`.

use super::ContigError;
use super::walk::{Kind, heads};
use crate::gfp::{AllocFlags, Gfp, Request};
use crate::mm::Mm;
use crate::platform::{Platform, Worker};
use crate::pressure::{Attempt, Pressure};
use crate::types::{MigrateType, Order, PfnRange};
use crate::zone::{Mark, Zone};

/// Most rounds of reclaim for one range.
const MAX_ROUNDS: u32 = 16;

impl<P: Platform> Mm<P> {
    /// Sees to it that the zone stays above its low mark when `range` is gone
    /// and what has to move out of it has gone elsewhere.
    ///
    /// # Errors
    /// NoMemory when nothing more can be freed, or may be by `gfp`.
    pub(super) fn make_room(
        &self,
        zone: &Zone,
        range: PfnRange,
        gfp: Gfp,
    ) -> Result<(), ContigError> {
        if self.has_room(zone, range) {
            return Ok(());
        }
        if gfp.contains(Gfp::KSWAPD_RECLAIM) {
            self.platform.wake(Worker::Kswapd(zone.node));
        }
        // A task that frees memory must not wait for memory to be freed.
        if !gfp.can_block() || self.platform.context().memalloc {
            return Err(ContigError::NoMemory);
        }
        // What lies on other CPUs' lists is free, but not counted as such.
        self.drain_all(Some(zone));
        let attempt = Attempt {
            request: Request { order: Order(0), gfp: gfp | Gfp::THISNODE, node: Some(zone.node) },
            class: zone.kind,
            migratetype: MigrateType::Movable,
            flags: AllocFlags::CMA,
        };
        let rounds = if gfp.contains(Gfp::NORETRY) { 1 } else { MAX_ROUNDS };
        for _ in 0..rounds {
            if self.has_room(zone, range) {
                return Ok(());
            }
            let progress = self.reclaim(&attempt) > 0
                || !gfp.intersects(Gfp::NORETRY | Gfp::RETRY_MAYFAIL)
                    && self.out_of_memory(&attempt);
            if !progress {
                break;
            }
        }
        if self.has_room(zone, range) { Ok(()) } else { Err(ContigError::NoMemory) }
    }

    /// Whether the zone has more than its low mark beside the range's own free
    /// pages and a new place for each page that has to move.
    fn has_room(&self, zone: &Zone, range: PfnRange) -> bool {
        let mut needed = 0;
        for (pfn, word) in heads(&self.map, range) {
            let pages = word.order().pages();
            needed += match Kind::of(word.ty()) {
                Kind::Free => PfnRange::sized(pfn, pages).intersect(range).pages(),
                // It moves whole, even if only a part is wanted.
                Kind::Movable => pages,
                Kind::Pcp | Kind::Held | Kind::Fixed => 0,
            };
        }
        let mark = zone.mark(Mark::Low) + needed;
        zone.watermark_ok(Order(0), mark, zone.kind, AllocFlags::CMA)
    }
}
