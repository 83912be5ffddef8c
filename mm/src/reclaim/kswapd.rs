//! kswapd: keeps a node's zones above their high marks, so that nobody has to
//! wait for memory (Linux `balance_pgdat`, `wakeup_kswapd`). May call: `scan`,
//! `zone`, `buddy`.

use super::policy::{BOOST_PRIORITY, CLUSTER, DEFAULT_PRIORITY, MAX_FAILURES};
use super::{By, Scan};
use crate::buddy::Buddy;
use crate::gfp::AllocFlags;
use crate::lru::Zones;
use crate::mm::Mm;
use crate::platform::{Platform, Worker};
use crate::stats::Event;
use crate::sync::Ordering::Relaxed;
use crate::types::{NR_ZONES, NodeId, Order, PAGEBLOCK_ORDER, ZoneKind};
use crate::zone::{Mark, Zone};

/// How long kswapd rests before it tries again to get a node balanced, ms.
const REST_MS: u64 = 100;

impl<P: Platform> Mm<P> {
    /// Wakes a node's kswapd for a request of `class` for a block of `order`,
    /// unless there is nothing for it to do, or nothing that it can do, whatever
    /// the marks are raised for: false then. Any context but with a zone locked.
    pub(crate) fn wake_kswapd(&self, node: NodeId, order: Order, class: ZoneKind) -> bool {
        let boosted = self.zones_of(node, class).any(|zone| zone.boost() > 0);
        let idle = self.is_balanced(node, order, class) && !boosted;
        if idle || self.reclaim.is_hopeless(node) {
            return false;
        }
        self.note_wanted(node, order, class);
        self.platform.wake(Worker::Kswapd(node));
        true
    }

    /// Wakes a zone's kswapd for somebody who wants more of that zone than it has
    /// above its marks, be it balanced or not. Context as
    /// [`wake_kswapd`](Self::wake_kswapd).
    pub(crate) fn wake_kswapd_for(&self, zone: &Zone) {
        self.note_wanted(zone.node, Order(0), zone.kind);
        self.platform.wake(Worker::Kswapd(zone.node));
    }

    fn note_wanted(&self, node: NodeId, order: Order, class: ZoneKind) {
        let state = self.reclaim.node(node);
        state.order.fetch_max(order.0, Relaxed);
        state.class.fetch_max(class.index() as u8 + 1, Relaxed);
    }

    /// A node's zones with memory that a request of `class` may use.
    fn zones_of(&self, node: NodeId, class: ZoneKind) -> impl Iterator<Item = &Zone> {
        let zones = self.zones().iter();
        zones.filter(move |z| z.node == node && z.kind <= class && z.managed() > 0)
    }

    /// Whether some zone has a block of `order` above its high mark, and so a
    /// request need not wait; or there is no zone.
    fn is_balanced(&self, node: NodeId, order: Order, class: ZoneKind) -> bool {
        let mut zones = self.zones_of(node, class).peekable();
        zones.peek().is_none()
            || zones.any(|zone| {
                zone.watermark_ok(order, zone.mark(Mark::High), class, AllocFlags::empty())
            })
    }

    /// One round of a node's kswapd: reclaims until the node is balanced for what
    /// it has been woken for, or nothing more is to be had. What fragmentation
    /// has added to the marks is made room for, without writing, and taken off
    /// again; kcompactd is woken for the cause. True if the node is balanced.
    /// Interrupts on, no lock held; may wait.
    pub fn kswapd_round(&self, node: NodeId) -> bool {
        self.stats.count(Event::PageOutRun);
        let state = self.reclaim.node(node);
        let order = Order(state.order.swap(0, Relaxed));
        let class = match state.class.swap(0, Relaxed) {
            0 => ZoneKind::Movable,
            n => ZoneKind::ALL[(usize::from(n) - 1).min(NR_ZONES - 1)],
        };
        let _freeing = self.freeing();
        self.compaction.kswapd_runs(node, true);
        let (order, boosted) = self.balance(node, order, class);
        self.compaction.kswapd_runs(node, false);
        let balanced = self.is_balanced(node, order, class);
        // What is left is to be made whole.
        if boosted {
            self.wake_kcompactd(node, PAGEBLOCK_ORDER, class);
        } else if balanced {
            self.wake_kcompactd(node, order, class);
        }
        balanced
    }

    /// [`kswapd_round`](Self::kswapd_round) as a worker's: in how many
    /// milliseconds it is to be called again, though nobody wakes it.
    pub(crate) fn kswapd_work(&self, node: NodeId) -> Option<u64> {
        let state = self.reclaim.node(node);
        let (order, class) = (state.order.load(Relaxed), state.class.load(Relaxed));
        if self.kswapd_round(node) || self.reclaim.is_hopeless(node) {
            return None;
        }
        // For what it was woken for.
        state.order.fetch_max(order, Relaxed);
        state.class.fetch_max(class, Relaxed);
        Some(REST_MS)
    }

    /// Reclaims until the node is balanced. Returns the order that is still
    /// wanted, and whether any zone's marks were boosted.
    fn balance(&self, node: NodeId, order: Order, class: ZoneKind) -> (Order, bool) {
        let mut boosts = [0; NR_ZONES];
        for zone in self.zones_of(node, class) {
            // What is added after this look is the next round's.
            boosts[zone.kind.index()] = zone.boost();
        }
        let boosted = boosts.iter().sum::<u64>();
        let mut boost_left = boosted;
        let mut scan = Scan {
            by: By::Kswapd,
            zones: Zones::up_to(class),
            order,
            target: 0,
            priority: DEFAULT_PRIORITY,
            may_write: true,
            may_swap: true,
            all_rights: true,
            forced: false,
            spared: false,
            scanned: 0,
            reclaimed: 0,
        };
        while scan.priority > 0 {
            let balanced = self.is_balanced(node, scan.order, class);
            if balanced && boost_left == 0 {
                break;
            }
            if !balanced && boost_left > 0 {
                // First things first: the boost's room has to wait.
                boost_left = 0;
                scan.priority = DEFAULT_PRIORITY;
            }
            let for_boost = boost_left > 0;
            scan.may_write = !for_boost;
            scan.may_swap = !for_boost;
            self.age_anon(node, &mut scan);
            let before = scan.reclaimed;
            let ample = self.shrink_for_kswapd(node, class, &mut scan);
            let reclaimed = scan.reclaimed - before;
            boost_left = boost_left.saturating_sub(reclaimed);
            if for_boost && reclaimed == 0 && scan.priority <= BOOST_PRIORITY {
                break;
            }
            let deeper = !ample && !(for_boost && scan.priority <= BOOST_PRIORITY);
            if deeper || reclaimed == 0 {
                scan.priority -= 1;
            }
        }
        if scan.reclaimed == 0 && !self.is_balanced(node, scan.order, class) {
            let failures = &self.reclaim.node(node).failures;
            if failures.load(Relaxed) < MAX_FAILURES {
                failures.fetch_add(1, Relaxed);
            }
        }
        for zone in self.zones_of(node, class) {
            let seen = boosts[zone.kind.index()];
            if seen > 0 {
                let cpu = self.enter();
                let _lists = Buddy::lock(&self.map, zone, &cpu);
                zone.set_boost(zone.boost().saturating_sub(seen));
            }
        }
        (scan.order, boosted > 0)
    }

    /// One scan of the node; whether it looked at as many pages as are wanted, so
    /// that there is no need to look harder.
    fn shrink_for_kswapd(&self, node: NodeId, class: ZoneKind, scan: &mut Scan) -> bool {
        let wanted: u64 =
            self.zones_of(node, class).map(|zone| zone.mark(Mark::High).max(CLUSTER)).sum();
        let (scanned, reclaimed) = (scan.scanned, scan.reclaimed);
        scan.target = reclaimed + wanted;
        self.reclaim_node(node, scan);
        // There is enough for a block of the order to be made of it: that is
        // compaction's business.
        if scan.order.0 > 0 && scan.reclaimed >= 2 * scan.order.pages() {
            scan.order = Order(0);
        }
        scan.scanned - scanned >= wanted
    }
}
