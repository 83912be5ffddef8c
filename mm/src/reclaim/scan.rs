//! A scan of a node's lists: how much of which (Linux `shrink_node`,
//! `get_scan_count`, `shrink_active_list`). May call: `policy`, `pages`, `lru`.

use super::policy::{self, Balance, CLUSTER, inactive_is_low};
use super::{By, Scan};
use crate::list::PageList;
use crate::lru::{LruKind, LruList};
use crate::mm::Mm;
use crate::page::LruFlags;
use crate::platform::Platform;
use crate::stats::Event;
use crate::sync::Ordering::Relaxed;
use crate::types::NodeId;
use crate::zone::{Mark, Zone};

/// The lists that are scanned, in the order in which they are.
const SCANNED: [LruList; 4] =
    [LruList::InactiveAnon, LruList::ActiveAnon, LruList::InactiveFile, LruList::ActiveFile];

impl<P: Platform> Mm<P> {
    /// Scans a node's lists once at the scan's priority, and asks the shrinkers
    /// for their part. No lock held; may wait for devices.
    pub(super) fn reclaim_node(&self, node: NodeId, scan: &mut Scan) {
        let before = scan.reclaimed;
        self.shrink_lists(node, scan);
        scan.reclaimed += self.shrink_slabs(node, scan.priority).pages;
        if scan.reclaimed > before {
            self.reclaim.node(node).failures.store(0, Relaxed);
        }
    }

    fn shrink_lists(&self, node: NodeId, scan: &mut Scan) {
        let target = self.to_scan(node, scan);
        let mut left = target;
        // At the first priority whoever comes by himself scans his share of all
        // lists, so that none is spared because another came first.
        let whole = scan.by == By::Direct && scan.priority == policy::DEFAULT_PRIORITY;
        let mut settled = false;
        // The active anonymous list alone is not worth going on for.
        while left[0] + left[2] + left[3] > 0 {
            for (list, left) in SCANNED.into_iter().zip(&mut left) {
                let n = (*left).min(CLUSTER);
                *left -= n;
                if n > 0 {
                    self.shrink_list(node, list, n, scan);
                }
            }
            if !scan.is_done() || whole || settled {
                continue;
            }
            settled = true;
            let sum = |of: &[u64; 4]| (of[0] + of[1], of[2] + of[3]);
            let rest = policy::settle(sum(&target), sum(&left));
            for (kind, rest) in [(0, rest.0), (2, rest.1)] {
                // Both lists of a kind get as far.
                let all = left[kind] + left[kind + 1];
                for slot in &mut left[kind..kind + 2] {
                    *slot = (*slot * rest).checked_div(all).unwrap_or(0).min(*slot);
                }
            }
        }
        self.age_anon(node, scan);
    }

    /// Has anonymous pages follow to the inactive list though none of it is
    /// reclaimed just now: their turn may come, and then it has to be known which
    /// are used.
    pub(super) fn age_anon(&self, node: NodeId, scan: &mut Scan) {
        if self.has_swap_room() && self.is_inactive_low(node, scan, LruKind::Anon) {
            self.shrink_active(node, LruList::ActiveAnon, CLUSTER, scan);
        }
    }

    fn is_inactive_low(&self, node: NodeId, scan: &Scan, kind: LruKind) -> bool {
        let size = |list| self.lru_size(node, scan.zones, list);
        inactive_is_low(size(kind.inactive()), size(kind.active()))
    }

    /// Whether pages in use are to follow to the inactive list.
    fn may_deactivate(&self, node: NodeId, scan: &Scan, kind: LruKind) -> bool {
        scan.forced || self.is_inactive_low(node, scan, kind)
    }

    /// Pages to scan of each list.
    fn to_scan(&self, node: NodeId, scan: &Scan) -> [u64; 4] {
        let size = |list| self.lru_size(node, scan.zones, list);
        let [anon_cost, file_cost] =
            self.reclaim.node(node).costs.each_ref().map(|cost| cost.load(Relaxed));
        let deactivate = |kind| self.may_deactivate(node, scan, kind);
        let inactive_file = size(LruList::InactiveFile);
        let shares = Balance {
            swappiness: self.swappiness(),
            priority: scan.priority,
            can_swap: scan.may_swap && self.has_swap_room(),
            file_is_tiny: self.is_file_tiny(node)
                && !deactivate(LruKind::Anon)
                && size(LruList::InactiveAnon) >> scan.priority > 0,
            cache_is_ample: inactive_file >> scan.priority > 0 && !deactivate(LruKind::File),
            anon_cost,
            file_cost,
        }
        .shares();
        SCANNED.map(|list| {
            let file = matches!(list, LruList::InactiveFile | LruList::ActiveFile);
            let share = if file { shares.file } else { shares.anon };
            policy::to_scan(size(list), scan.priority, share, shares.of)
        })
    }

    /// Whether even all file-like pages together with what is free would not
    /// reach the node's high marks.
    fn is_file_tiny(&self, node: NodeId) -> bool {
        let zones = || self.zones().iter().filter(|z| z.node == node && z.managed() > 0);
        let have = |z: &Zone| {
            z.free_pages()
                + self.lru_pages(z, LruList::ActiveFile)
                + self.lru_pages(z, LruList::InactiveFile)
        };
        zones().map(have).sum::<u64>() <= zones().map(|z| z.mark(Mark::High)).sum()
    }

    fn shrink_list(&self, node: NodeId, list: LruList, n: u64, scan: &mut Scan) {
        match list {
            LruList::InactiveAnon => self.shrink_inactive(node, LruKind::Anon, n, scan),
            LruList::InactiveFile => self.shrink_inactive(node, LruKind::File, n, scan),
            LruList::ActiveAnon if self.may_deactivate(node, scan, LruKind::Anon) => {
                self.shrink_active(node, list, n, scan);
            }
            LruList::ActiveFile if self.may_deactivate(node, scan, LruKind::File) => {
                self.shrink_active(node, list, n, scan);
            }
            LruList::ActiveAnon | LruList::ActiveFile => scan.spared = true,
            LruList::Unevictable => {}
        }
    }

    /// Reclaims of the oldest pages of an inactive list.
    fn shrink_inactive(&self, node: NodeId, kind: LruKind, n: u64, scan: &mut Scan) {
        if !self.wait_for_isolated(node, kind, scan) {
            return;
        }
        self.lru_drain();
        let mut taken = self.lru_take(node, scan.zones, kind.inactive(), n);
        if taken.scanned == 0 {
            return;
        }
        let passed = self.reclaim_pages(scan, &mut taken.pages, false);
        self.lru_putback_list(&mut taken.pages);
        scan.scanned += taken.scanned;
        scan.reclaimed += passed.reclaimed;
        self.count_reclaim(scan, kind, taken.scanned, passed.reclaimed);
        let rotated = taken.scanned - passed.reclaimed.min(taken.scanned);
        self.note_cost(node, kind, passed.written * CLUSTER + rotated);
    }

    /// Has the oldest pages of an active list follow to the inactive one. What
    /// they were used for is forgotten: there they have to be used again.
    fn shrink_active(&self, node: NodeId, list: LruList, n: u64, scan: &mut Scan) {
        self.lru_drain();
        let mut taken = self.lru_take(node, scan.zones, list, n);
        self.stats.add(Event::Refill, taken.scanned);
        let mut moving = PageList::new();
        while let Some(pfn) = taken.pages.pop_front(&self.map) {
            let page = self.map.page(pfn);
            if page.mapcount() > 0 {
                self.used_by(pfn);
            }
            self.lru_change(pfn, LruFlags::WORKINGSET, LruFlags::ACTIVE);
            moving.push_back(&self.map, pfn);
        }
        self.stats.add(Event::Deactivate, taken.taken);
        self.lru_putback_list(&mut moving);
    }

    /// Notes what reclaiming a kind has cost, for the balance of later scans.
    fn note_cost(&self, node: NodeId, kind: LruKind, cost: u64) {
        let costs = &self.reclaim.node(node).costs;
        costs[kind as usize].fetch_add(cost, Relaxed);
        let listed = SCANNED.into_iter().map(|list| self.node_lru_pages(node, list)).sum();
        let [anon, file] = costs.each_ref().map(|cost| cost.load(Relaxed));
        // Those who do it at the same time may lose a little of each other's.
        let aged = policy::aged_costs(anon, file, listed);
        if aged != (anon, file) {
            costs[0].store(aged.0, Relaxed);
            costs[1].store(aged.1, Relaxed);
        }
    }

    /// Pages that reclaim could free in a zone: the file-like ones, and the
    /// anonymous ones if there is room for them in swap (Linux
    /// `zone_reclaimable_pages`).
    pub(crate) fn reclaimable_pages(&self, zone: &Zone) -> u64 {
        let kind = |kind: LruKind| {
            self.lru_pages(zone, kind.inactive()) + self.lru_pages(zone, kind.active())
        };
        kind(LruKind::File) + if self.has_swap_room() { kind(LruKind::Anon) } else { 0 }
    }
}
