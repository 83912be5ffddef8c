//! Room for a contiguous range: the one place where a contiguous allocation
//! asks for memory to be freed, before anything is isolated, by the code that
//! direct reclaim uses. So it cannot leave the zone below its marks for others
//! to pay. May call: `pressure`, `free`.

use super::walk::{Kind, heads};
use super::{ContigError, pageblocks};
use crate::gfp::{AllocFlags, Gfp, Request};
use crate::mm::Mm;
use crate::page::{HeadWord, LruFlags, PageType};
use crate::platform::Platform;
use crate::pressure::{Attempt, Pressure, Relief};
use crate::types::{MigrateType, Order, PAGEBLOCK_ORDER, PfnRange, ZoneKind};
use crate::zone::{Mark, Zone};

/// Hands over ranges one by one.
type Ranges<'a> = &'a dyn Fn(&mut dyn FnMut(PfnRange));

/// How much of a zone is to stay free: raised for now by what fragmentation adds to
/// its marks, which is a wish, or as it has to be.
type LowMark = fn(&Zone) -> u64;
const WISHED: LowMark = |zone| zone.mark(Mark::Low);
const NEEDED: LowMark = |zone| zone.marks().low;

/// Most rounds of reclaim for one range.
const MAX_ROUNDS: u32 = 16;

impl<P: Platform> Mm<P> {
    /// Sees to it that the zone stays above its low mark when `range` is gone
    /// and what has to move out of it has gone elsewhere.
    ///
    /// # Errors
    /// NoMemory when nothing more can be freed, or may be by `gfp`.
    #[inline(always)]
    pub(super) fn make_room(
        &self,
        zone: &Zone,
        range: PfnRange,
        gfp: Gfp,
    ) -> Result<(), ContigError> {
        if self.lacks_beside(zone, range, WISHED) == 0 {
            return Ok(());
        }
        self.make_room_for(zone, gfp, &|low| self.lacks_beside(zone, range, low))
    }

    /// Sees to it that memory suffices without the parts `gone` of `zone`, and
    /// that there are places for all that has to move out of them.
    ///
    /// # Errors
    /// As for [`make_room`](Self::make_room).
    pub(crate) fn make_room_without(
        &self,
        zone: &Zone,
        gone: Ranges<'_>,
        gfp: Gfp,
    ) -> Result<(), ContigError> {
        if self.lacks_without(zone, gone, WISHED) == 0 {
            return Ok(());
        }
        self.make_room_for(zone, gfp, &|low| self.lacks_without(zone, gone, low))
    }

    /// Reclaims in `zone` until nothing is `lacking`. Nobody is killed, and nothing
    /// fails, for what marks are raised by.
    #[cold]
    #[inline(never)]
    fn make_room_for(
        &self,
        zone: &Zone,
        gfp: Gfp,
        lacking: &dyn Fn(LowMark) -> u64,
    ) -> Result<(), ContigError> {
        if gfp.contains(Gfp::KSWAPD_RECLAIM) {
            self.wake_kswapd_for(zone);
        }
        // What lies on CPUs' lists is free, but not counted as such.
        self.drain_all(Some(zone));
        let enough = || lacking(NEEDED) == 0;
        // A task that frees memory must not wait for memory to be freed.
        if !gfp.can_block() || self.platform.context().memalloc {
            return if enough() { Ok(()) } else { Err(ContigError::NoMemory) };
        }
        // In this zone and no other: what other zones lose is no help here.
        let attempt = Attempt {
            request: Request { order: Order(0), gfp: gfp | Gfp::THISNODE, node: Some(zone.node) },
            class: zone.kind,
            migratetype: MigrateType::Movable,
            flags: AllocFlags::CMA,
        };
        let rounds = if gfp.contains(Gfp::NORETRY) { 1 } else { MAX_ROUNDS };
        for _ in 0..rounds {
            let pages = lacking(WISHED);
            if pages == 0 {
                return Ok(());
            }
            let progress = self.reclaim_in_zone(zone.index(), pages, gfp) > 0
                || !gfp.intersects(Gfp::NORETRY | Gfp::RETRY_MAYFAIL)
                    && !enough()
                    && self.out_of_memory(&attempt, &mut || enough()) == Relief::Freed;
            if !progress {
                break;
            }
        }
        if enough() { Ok(()) } else { Err(ContigError::NoMemory) }
    }

    /// Free pages that the zone lacks to have more than its `low` mark beside the
    /// range's own free pages and a new place for each page that has to move.
    #[inline(always)]
    fn lacks_beside(&self, zone: &Zone, range: PfnRange, low: LowMark) -> u64 {
        let (mut free, moving) = self.free_and_moving(range);
        // Whole pageblocks are isolated while something moves.
        if moving > 0 {
            free = self.free_and_moving(whole_blocks(range)).0;
        }
        let kept = low(zone) + zone.lowmem_reserve(zone.kind);
        // One more than the mark has to stay as the last page is taken, and as a last
        // place is.
        let last = 1 + u64::from(moving > 0);
        (kept + free + moving + last).saturating_sub(usable(zone))
    }

    /// Whether to make room once more for a range that there were no places for:
    /// room is lacking, or fewer pages have to move than when this was asked last.
    #[cold]
    pub(super) fn is_worth_a_round(&self, zone: &Zone, range: PfnRange, moving: &mut u64) -> bool {
        let before = core::mem::replace(moving, self.free_and_moving(range).1);
        *moving < before || self.lacks_beside(zone, range, NEEDED) > 0
    }

    /// Free pages that are lacking without the parts `gone`: none if what is left
    /// of the zone is not below the low mark that it has then, or the zones that
    /// help it out have what it lacks; and all that has to move has room
    /// somewhere, above the low marks of wherever that is.
    fn lacks_without(&self, zone: &Zone, gone: Ranges<'_>, low: LowMark) -> u64 {
        let (mut free, mut moving, mut left) = (0, 0, zone.managed());
        gone(&mut |range| {
            let parts = self.free_and_moving(range);
            free += parts.0;
            moving += parts.1;
            left = left.saturating_sub(range.pages());
        });
        let mark = (low(zone) * left).checked_div(zone.managed()).unwrap_or(0);
        let needed = free + mark;
        let lacking = needed.saturating_sub(usable(zone));
        let own = usable(zone).saturating_sub(needed);
        // Pages that the other zones which serve `class` can give.
        let spare = |class| {
            let others = self.zonelist(zone.node, class).filter(|z| z.index() != zone.index());
            let spare = |zone: &Zone| {
                let kept = zone.mark(Mark::Low) + zone.lowmem_reserve(class);
                usable(zone).saturating_sub(kept)
            };
            others.map(spare).sum::<u64>()
        };
        let rooms = own + spare(ZoneKind::Movable);
        lacking.saturating_sub(spare(zone.kind)).max((moving + lacking).saturating_sub(rooms))
    }

    /// Pages of `range` that are free for all, and pages that have to move for it.
    /// A block moves whole, even if only a part is wanted.
    #[inline(never)]
    fn free_and_moving(&self, range: PfnRange) -> (u64, u64) {
        let (mut free, mut moving) = (0, 0);
        // Nothing keeps the range from leaving the zone, and its descriptors with it.
        let _walk = self.look_around();
        if !pageblocks(range).all(|block| self.map.info(block).is_some()) {
            return (0, 0);
        }
        for (pfn, word) in heads(&self.map, range) {
            let pages = word.order().pages();
            match Kind::of(word.ty()) {
                // Nobody counts on it.
                Kind::Free if self.map.block(pfn).migratetype() == MigrateType::HighAtomic => {}
                Kind::Free => free += PfnRange::sized(pfn, pages).intersect(range).pages(),
                // It is dropped where it is.
                Kind::Movable if is_spare(word) => {}
                Kind::Movable => moving += pages,
                Kind::Pcp | Kind::Held | Kind::Fixed => {}
            }
        }
        (free, moving)
    }
}

/// Free pages of a zone that may take what has to move: those in HighAtomic
/// blocks may not, and no mark is kept by them.
fn usable(zone: &Zone) -> u64 {
    zone.free_pages().saturating_sub(u64::try_from(zone.free.highatomic()).unwrap_or(0))
}

/// The pageblocks of a range.
fn whole_blocks(range: PfnRange) -> PfnRange {
    PfnRange::new(range.start.pageblock(), range.end.align_up(PAGEBLOCK_ORDER))
}

/// Whether a page has a copy elsewhere, and so need not go anywhere.
fn is_spare(word: HeadWord) -> bool {
    let kept = LruFlags::ANON | LruFlags::DIRTY | LruFlags::UNEVICTABLE;
    word.ty() == PageType::Lru && !word.lru().intersects(kept)
}
