//! Direct reclaim: whoever finds too little memory makes room himself (Linux
//! `try_to_free_pages`). May call: `scan`, `throttle`.

use super::policy::{CLUSTER, DEFAULT_PRIORITY};
use super::{By, Scan};
use crate::gfp::Gfp;
use crate::list::PageList;
use crate::lru::Zones;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::pressure::Attempt;
use crate::types::{NodeId, Order, ZoneKind};
use crate::zone::Zone;

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
            scanned: 0,
            reclaimed: 0,
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
        for priority in (0..=DEFAULT_PRIORITY).rev() {
            scan.priority = priority;
            let mut last = None;
            for zone in self.zones_for(attempt) {
                if last != Some(zone.node) {
                    last = Some(zone.node);
                    self.reclaim_node(zone.node, &mut scan);
                }
            }
            if scan.is_done() {
                break;
            }
        }
        scan.reclaimed
    }

    /// Reclaims in one zone until `pages` are free that were not, or nothing more
    /// is to be had; returns how many were freed. Context as
    /// [`reclaim_for`](Self::reclaim_for).
    pub(crate) fn reclaim_in(&self, zone: &Zone, pages: u64, gfp: Gfp) -> u64 {
        let mut scan = Scan::direct(Zones::only(zone.kind), Order(0), pages, gfp);
        let _freeing = self.freeing();
        // Each CPU may have put by what is just what is wanted.
        self.lru_drain_all();
        for priority in (0..=DEFAULT_PRIORITY).rev() {
            scan.priority = priority;
            self.reclaim_node(zone.node, &mut scan);
            if scan.is_done() {
                break;
            }
        }
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
        for priority in (0..=DEFAULT_PRIORITY).rev() {
            scan.priority = priority;
            for node in self.lru_nodes().filter(|this| node.is_none_or(|node| node == *this)) {
                if !scan.is_done() {
                    self.reclaim_node(node, &mut scan);
                }
            }
            if scan.is_done() {
                break;
            }
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
