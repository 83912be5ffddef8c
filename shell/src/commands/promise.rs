//! Requests that may not fail. Where nothing reclaims, one that cannot be met
//! would wait for ever; the lab asks first and refuses. May call `mm`.

use super::blocks::Wanted;
use crate::errno::{Errno, Error};
use crate::lab::Subject;
use crate::world::World;
use mm::Gfp;
use mm::gfp::AllocFlags;
use mm::types::{Order, ZoneKind};
use mm::zone::{Mark, Zone};

impl<W: World> Subject<W> {
    /// The zones that a request may use.
    pub(super) fn zones_for(self, wanted: &Wanted) -> impl Iterator<Item = &'static Zone> {
        let request = wanted.request;
        let class = request.gfp.zone().unwrap_or(ZoneKind::Normal);
        let only = request.node.filter(|_| request.gfp.contains(Gfp::THISNODE));
        self.mm.zones().iter().filter(move |zone| {
            zone.managed() > 0 && zone.kind <= class && only.is_none_or(|node| node == zone.node)
        })
    }

    /// Whether a zone that the request may use has a block of `order`, and stays
    /// above `mark` without as many pages as the request is for.
    pub(super) fn above(
        self,
        wanted: &Wanted,
        order: Order,
        mark: Mark,
        rights: AllocFlags,
    ) -> bool {
        let gfp = wanted.request.gfp;
        let class = gfp.zone().unwrap_or(ZoneKind::Normal);
        let cma = gfp.contains(Gfp::MOVABLE) && !gfp.contains(Gfp::PINNED);
        let flags = if cma { rights | AllocFlags::CMA } else { rights };
        // The check itself allows for the pages of `order`.
        let more = wanted.request.order.pages() - order.pages().min(wanted.request.order.pages());
        self.zones_for(wanted)
            .any(|zone| zone.watermark_ok(order, zone.mark(mark) + more, class, flags))
    }

    /// What to ask for instead of something that may not fail: the same, if it
    /// is there; else the same, but with the right to fail.
    #[inline]
    pub(super) fn within_reach(self, wanted: Wanted) -> Wanted {
        if wanted.request.gfp.contains(Gfp::NOFAIL) { self.promise(wanted) } else { wanted }
    }

    #[cold]
    fn promise(self, mut wanted: Wanted) -> Wanted {
        let order = wanted.request.order;
        if !self.above(&wanted, order, Mark::Min, AllocFlags::MIN_RESERVE) {
            wanted.request.gfp -= Gfp::NOFAIL;
            wanted.request.gfp |= Gfp::RETRY_MAYFAIL | Gfp::NOWARN;
        }
        wanted
    }
}

/// Of a request that may not fail and would.
pub(super) fn hopeless(gfp: Gfp, error: Error) -> Error {
    if gfp.contains(Gfp::NOFAIL) && error.errno == Errno::ENOMEM {
        return Error::new(
            Errno::ENOMEM,
            "it may not fail, and nothing is left: it would wait for ever",
        );
    }
    error
}
