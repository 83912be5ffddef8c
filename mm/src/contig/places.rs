//! Places for what has to move. For a contiguous allocation they are where room
//! has been made, or where there is plenty: nobody else's memory is reclaimed for
//! it. May call: `alloc`, `bulk`, `free`, `pressure`.

use crate::buddy::Placement;
use crate::gfp::{AllocFlags, Gfp, Request};
use crate::mm::Mm;
use crate::platform::Platform;
use crate::pressure::{Attempt, CompactPriority, Pressure};
use crate::types::{Order, Pfn};
use crate::zone::{Mark, Zone};
use core::panic::Location;

/// Pages that a zone is left.
type Level = fn(&Zone) -> u64;

/// How hard places are looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sought {
    /// What lies above the marks is taken, and nothing is freed for it: room has
    /// been made in the range's own zone, and is made again if others were faster.
    Spare,
    /// As any request with the same rights does it, by reclaim wherever that helps:
    /// what is about to lose its frame has to go somewhere.
    Anyhow,
}

/// Where what moves out of a zone goes.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    /// The zone.
    pub(super) zone: &'a Zone,
    /// The rights of whoever wants the frames.
    pub(super) gfp: Gfp,
    /// How hard places are looked for.
    pub(super) sought: Sought,
}

impl Places<'_> {
    /// How to ask for one. Never from the blocks that are being emptied: nothing is
    /// allocated there.
    fn request(&self, order: Order, how: Gfp) -> Request {
        let gfp = Gfp::HIGHMEM | Gfp::MOVABLE | Gfp::NOWARN | how;
        Request::new(order, gfp).on(self.zone.node)
    }

    /// The rights with which places are sought wherever they are.
    fn rights(&self) -> Gfp {
        self.gfp & (Gfp::KERNEL | Gfp::NORETRY | Gfp::NOMEMALLOC)
    }
}

impl<P: Platform> Mm<P> {
    /// Allocates places for single pages, at most `out.len()`; returns how many, 0 if
    /// there is none. May wait if it is `Anyhow` and the rights allow.
    pub(super) fn places_for(&self, places: &Places<'_>, out: &mut [Pfn]) -> usize {
        match places.sought {
            Sought::Spare if self.fault_strikes(places.gfp) => 0,
            Sought::Spare => self
                .spare(places, Order(0))
                .into_iter()
                .flatten()
                .map(|(attempt, level)| self.alloc_spare(&attempt, level, out))
                .find(|&got| got > 0)
                .unwrap_or(0),
            Sought::Anyhow => {
                let gfp = places.request(Order(0), Gfp::RETRY_MAYFAIL | places.rights()).gfp;
                self.alloc_bulk(gfp, Some(places.zone.node), out).unwrap_or(0)
            }
        }
    }

    /// Allocates a place for a larger block. Where there is room but no block, one is
    /// made if the rights allow to wait; how `hard` is for whom cannot be taken apart.
    #[cold]
    pub(super) fn place_for_block(
        &self,
        places: &Places<'_>,
        order: Order,
        hard: bool,
    ) -> Option<Pfn> {
        let gfp = places.gfp;
        if places.sought == Sought::Anyhow {
            let effort = if hard { Gfp::RETRY_MAYFAIL } else { Gfp::NORETRY };
            let request = places.request(order, effort | places.rights());
            return self.alloc_pages(request).ok().map(|page| page.pfn);
        }
        if self.fault_strikes(gfp) {
            return None;
        }
        let attempts = self.spare(places, order)?;
        let found = attempts.iter().find_map(|(attempt, level)| self.take_above(attempt, *level));
        let [_, (own, low), _] = attempts;
        let pfn = match found {
            None if gfp.can_block() && !self.platform.context().memalloc => {
                let most = if hard { CompactPriority::SyncLight } else { CompactPriority::Async };
                self.compact_and_take(&own, low, most)?
            }
            found => found?,
        };
        Some(self.hand_out(&own.request, (pfn, false), Location::caller()).pfn)
    }

    /// A block of what zones have above a level.
    fn take_above(&self, attempt: &Attempt, level: Level) -> Option<Pfn> {
        self.zones_for(attempt).find_map(|zone| {
            zone.watermark_ok(attempt.request.order, level(zone), attempt.class, attempt.flags)
                .then(|| {
                    self.rmqueue(zone, attempt.request.order, attempt.migratetype, attempt.flags)
                })?
        })
    }

    /// Has a block made, and takes it if its zone can spare it.
    fn compact_and_take(
        &self,
        attempt: &Attempt,
        level: Level,
        priority: CompactPriority,
    ) -> Option<Pfn> {
        let order = attempt.request.order;
        let (_, made) = self.compact(attempt, priority);
        let Some(pfn) = made else { return self.take_above(attempt, level) };
        let zone = self.zone_at(pfn);
        // It is not among what is free any more.
        if !zone.watermark_ok(Order(0), level(zone), attempt.class, attempt.flags) {
            self.put_back(pfn, order, Placement::Auto);
            return None;
        }
        let cpu = self.enter();
        self.count_allocated(zone, order.pages(), &cpu);
        Some(pfn)
    }

    /// Whom to ask for what is to spare, one after the other, and what to leave them:
    /// zones of the same node that have plenty; the zone itself, where room was made,
    /// and which keeps nothing back from pages that are in it already; whoever has
    /// anything. That marks are raised for now is a wish, and seen to when room is made.
    fn spare(&self, places: &Places<'_>, order: Order) -> Option<[(Attempt, Level); 3]> {
        let near = self.attempt(places.request(order, Gfp::THISNODE)).ok()?;
        let own = Attempt { class: places.zone.kind, flags: AllocFlags::CMA, ..near };
        let far = self.attempt(places.request(order, Gfp::empty())).ok()?;
        let low: Level = |zone| zone.marks().low;
        Some([(near, |zone| zone.mark(Mark::High)), (own, low), (far, low)])
    }
}
