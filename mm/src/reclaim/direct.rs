//! Direct reclaim: whoever finds too little memory makes room himself (Linux
//! `try_to_free_pages`). May call: `scan`, `throttle`;
//! asks `compact` what it would do.

use super::policy::{CLUSTER, DEFAULT_PRIORITY};
use super::{By, Scan};
use crate::gfp::{AllocFlags, Gfp};
use crate::list::PageList;
use crate::lru::Zones;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::pressure::Attempt;
use crate::types::{COSTLY_ORDER, NodeId, Order, ZoneKind};
use crate::zone::{Mark, Zone};

/// Rounds over all lists that bring nothing, one after the other, before whoever
/// wants pages before they are needed gives up.
const VAIN_ROUNDS: u32 = 4;

impl Scan {
    fn direct(zones: Zones, order: Order, target: u64, gfp: Gfp) -> Self {
        Self {
            by: By::Direct,
            zones,
            order,
            target: target.max(CLUSTER),
            priority: DEFAULT_PRIORITY,
            may_write: gfp.contains(Gfp::IO | Gfp::DIRECT_RECLAIM),
            may_swap: gfp.contains(Gfp::IO | Gfp::DIRECT_RECLAIM),
            all_rights: gfp.contains(Gfp::IO | Gfp::FS),
            forced: false,
            spared: false,
            scanned: 0,
            reclaimed: 0,
        }
    }

    /// Has `pass` scan at one priority after the other until there is enough, or it
    /// says that no more is needed. When that gives nothing at all although pages in
    /// use were spared, once more with these (Linux `force_deactivate`).
    fn harder_and_harder(&mut self, mut pass: impl FnMut(&mut Self) -> bool) {
        let before = self.reclaimed;
        loop {
            for priority in (0..=DEFAULT_PRIORITY).rev() {
                self.priority = priority;
                if pass(self) || self.is_done() {
                    return;
                }
            }
            if self.reclaimed > before || !self.spared || self.forced {
                return;
            }
            self.forced = true;
        }
    }
}

impl<P: Platform> Mm<P> {
    /// Reclaims for a request on the nodes that it may use; returns the pages
    /// freed. Interrupts on, no lock held; may wait.
    pub(crate) fn reclaim_for(&self, attempt: &Attempt) -> u64 {
        if !self.throttle(attempt) {
            // A victim's rights will do.
            return 1;
        }
        let request = attempt.request;
        let mut scan =
            Scan::direct(Zones::up_to(attempt.class), request.order, CLUSTER, request.gfp);
        let _freeing = self.freeing();
        let mut ready = false;
        scan.harder_and_harder(|scan| {
            let mut last = None;
            for zone in self.zones_for(attempt) {
                if self.is_compaction_ready(zone, attempt) {
                    ready = true;
                } else if last != Some(zone.node) {
                    last = Some(zone.node);
                    self.reclaim_node(zone.node, scan);
                }
            }
            ready
        });
        // What is there already is as good as what was freed.
        scan.reclaimed.max(ready.into())
    }

    /// Whether a zone has a large block, or so much free memory that compaction makes
    /// one: it is not to be emptied for one more. What compaction would leave alone is:
    /// who has nothing freed and nothing moved would ask for ever.
    fn is_compaction_ready(&self, zone: &Zone, attempt: &Attempt) -> bool {
        let (order, class) = (attempt.request.order, attempt.class);
        let ok = |order, level| zone.watermark_ok(order, level, class, AllocFlags::empty());
        order > COSTLY_ORDER
            && (ok(order, zone.mark(Mark::Min))
                || ok(Order(0), zone.mark(Mark::High) + 2 * order.pages())
                    && self.worth_compacting(zone, attempt))
    }

    /// Reclaims in one zone until `pages` are free that were not, or nothing more
    /// is to be had; returns how many were freed. Context as
    /// [`reclaim_for`](Self::reclaim_for).
    pub(crate) fn reclaim_in(&self, zone: &Zone, pages: u64, gfp: Gfp) -> u64 {
        let mut scan = Scan::direct(Zones::only(zone.kind), Order(0), pages, gfp);
        let _freeing = self.freeing();
        // Each CPU may have put by what is just what is wanted.
        self.lru_drain_all();
        scan.harder_and_harder(|scan| {
            self.reclaim_node(zone.node, scan);
            false
        });
        scan.reclaimed
    }

    /// Reclaims for somebody who wants pages to be free before they are needed:
    /// until `pages` are that were not, on `node` or on all nodes one after the
    /// other, or nothing more is to be had; returns how many were freed (Linux
    /// `/sys/devices/system/node/nodeN/reclaim`). Interrupts on, no lock held;
    /// may wait.
    pub fn reclaim_proactively(&self, node: Option<NodeId>, pages: u64) -> u64 {
        let mut scan = Scan::direct(Zones::up_to(ZoneKind::Movable), Order(0), pages, Gfp::KERNEL);
        scan.target = pages;
        let _freeing = self.freeing();
        self.lru_drain_all();
        let mut vain = 0;
        // A round may find all pages used since the last one, and only note that.
        while !scan.is_done() && vain < VAIN_ROUNDS {
            let before = scan.reclaimed;
            scan.harder_and_harder(|scan| {
                for node in self.lru_nodes().filter(|this| node.is_none_or(|node| node == *this)) {
                    if !scan.is_done() {
                        self.reclaim_node(node, scan);
                    }
                }
                false
            });
            vain = if scan.reclaimed > before { 0 } else { vain + 1 };
        }
        scan.reclaimed
    }

    /// Frees those of some isolated pages that can be had at once or by writing
    /// them, whether they were used lately or not; the others stay on the list.
    /// Anonymous pages are left alone: they can be moved, and need not be read
    /// again. Returns the pages freed. Context as
    /// [`reclaim_for`](Self::reclaim_for).
    pub(crate) fn reclaim_isolated(&self, pages: &mut PageList, gfp: Gfp) -> u64 {
        let scan = Scan::direct(Zones::up_to(ZoneKind::Movable), Order(0), 0, gfp);
        let scan = Scan { may_swap: false, ..scan };
        let _freeing = self.freeing();
        let freed = self.reclaim_pages(&scan, pages, true).reclaimed;
        self.count_reclaim(&scan, crate::lru::LruKind::File, freed, freed);
        freed
    }
}
