//! What compaction does unasked: how much of a node's free memory is in pieces
//! is looked at twice a second, and when that is too much the node's zones are
//! compacted until it is not (Linux mm/compaction.c, `kcompactd`). Work begins at
//! once above the higher of two scores, and half a second later above the lower,
//! at which it stops. May call: `index`, `run`.
//!
//! The score of a zone is how many percent of its free memory are of no use for
//! a block of 2 MiB; a node's is that of its zones by their size.

use super::index::FreeBlocks;
use super::run::Run;
use crate::migrate::MigrateMode;
use crate::mm::Mm;
use crate::platform::{Platform, Worker};
use crate::sync::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Relaxed},
};
use crate::types::{MAX_NODES, NR_ZONES, NodeId, Order, PAGEBLOCK_ORDER, ZoneKind};
use crate::zone::Zone;

/// How often the score is looked at, ms.
const PERIOD_MS: u64 = 500;
/// How many periods compaction waits at most that has not lowered the score, as a
/// power of two: each time twice as long, unless the score becomes higher still.
const MAX_DEFER_SHIFT: u32 = 6;
/// Linux's default of `compaction_proactiveness`.
const DEFAULT_PROACTIVENESS: u32 = 20;
/// The lowest score that anybody works for.
const LEAST_SCORE: u32 = 5;
/// Points between the score at which work stops and that at which it begins.
const GAP: u32 = 10;

/// At and below which score compaction stops, and above which it begins.
const fn thresholds(proactiveness: u32) -> (u32, u32) {
    let low = match 100u32.saturating_sub(proactiveness) {
        score if score < LEAST_SCORE => LEAST_SCORE,
        score => score,
    };
    (low, if low + GAP > 100 { 100 } else { low + GAP })
}

/// How many percent of a zone's free memory are of no use for a block of 2 MiB.
fn score_of(blocks: &FreeBlocks) -> u32 {
    let free = blocks.pages();
    let usable = blocks.suitable(PAGEBLOCK_ORDER) * PAGEBLOCK_ORDER.pages();
    ((free - usable) * 100).checked_div(free).unwrap_or(0) as u32
}

/// The score of a node, by the pages and scores of its zones.
fn weighted(zones: impl Iterator<Item = (u64, u32)> + Clone) -> u32 {
    let present: u64 = zones.clone().map(|(pages, _)| pages).sum();
    zones.map(|(pages, score)| pages * u64::from(score) / (present + 1)).sum::<u64>() as u32
}

/// What a node's kcompactd is asked for, and when it looks again by itself.
#[derive(Debug)]
struct NodeState {
    asked: AtomicBool,
    order: AtomicU8,
    /// The highest class of requests it was asked for, plus 1.
    class: AtomicU8,
    /// When the score is to be looked at next, ms; 0: at once.
    next_look: AtomicU64,
    /// Until when, ms, a score is not worked for that is not above `no_use_at`.
    no_use_until: AtomicU64,
    no_use_at: AtomicU32,
    /// Passes in a row that were no use, up to [`MAX_DEFER_SHIFT`].
    no_use: AtomicU32,
    /// The last look left the score above the one at which work stops.
    lingers: AtomicBool,
    kswapd_runs: AtomicBool,
}

/// What compaction keeps besides its zones' state.
#[derive(Debug)]
pub(crate) struct Compaction {
    nodes: [NodeState; MAX_NODES],
    proactiveness: AtomicU32,
    /// Pages that are locked into memory may be moved.
    pub(crate) unevictable_allowed: AtomicBool,
}

impl Compaction {
    pub(crate) const fn new() -> Self {
        Self {
            nodes: [const {
                NodeState {
                    asked: AtomicBool::new(false),
                    order: AtomicU8::new(0),
                    class: AtomicU8::new(0),
                    next_look: AtomicU64::new(0),
                    no_use_until: AtomicU64::new(0),
                    no_use_at: AtomicU32::new(0),
                    no_use: AtomicU32::new(0),
                    lingers: AtomicBool::new(false),
                    kswapd_runs: AtomicBool::new(false),
                }
            }; MAX_NODES],
            proactiveness: AtomicU32::new(DEFAULT_PROACTIVENESS),
            unevictable_allowed: AtomicBool::new(true),
        }
    }

    fn node(&self, node: NodeId) -> &NodeState {
        &self.nodes[usize::from(node.0) % MAX_NODES]
    }

    /// Notes that a node's kswapd has begun to work, or is done.
    pub(crate) fn kswapd_runs(&self, node: NodeId, runs: bool) {
        self.node(node).kswapd_runs.store(runs, Relaxed);
    }
}

impl<P: Platform> Mm<P> {
    /// How much compaction does unasked (`compaction_proactiveness`), 0 to 100;
    /// 0: nothing.
    pub fn compaction_proactiveness(&self) -> u32 {
        self.compaction.proactiveness.load(Relaxed)
    }

    /// Sets that; if it is not 0, all nodes are looked at at once.
    pub fn set_compaction_proactiveness(&self, proactiveness: u32) {
        self.compaction.proactiveness.store(proactiveness.min(100), Relaxed);
        if proactiveness == 0 {
            return;
        }
        for node in (0..self.nodes() as u8).map(NodeId) {
            self.compaction.node(node).next_look.store(0, Relaxed);
            self.compaction.node(node).no_use_until.store(0, Relaxed);
            self.compaction.node(node).no_use.store(0, Relaxed);
            self.platform.wake(Worker::Kcompactd(node));
        }
    }

    /// The score of a zone, 0 to 100. Takes its lock for a moment.
    pub fn fragmentation_score(&self, zone: &Zone) -> u32 {
        score_of(&self.free_block_counts(zone))
    }

    /// The score of a node, 0 to 100.
    pub fn node_fragmentation_score(&self, node: NodeId) -> u32 {
        let zones = self.zones().iter().filter(|z| z.node == node && z.present() > 0);
        weighted(zones.map(|zone| (zone.present(), self.fragmentation_score(zone))))
    }

    /// Asks a node's kcompactd for blocks of `order` for requests of `class`, if
    /// it can do anything about them (Linux `wakeup_kcompactd`). Any context but
    /// with a zone locked.
    pub(crate) fn wake_kcompactd(&self, node: NodeId, order: Order, class: ZoneKind) {
        if order.0 == 0 {
            return;
        }
        let zones = self.zones().iter();
        let suitable = zones
            .filter(|z| z.node == node && z.kind <= class && z.managed() > 0)
            .any(|zone| self.is_for_compaction(zone, order, class));
        if !suitable {
            return;
        }
        let state = self.compaction.node(node);
        state.order.fetch_max(order.0, Relaxed);
        state.class.fetch_max(class.index() as u8 + 1, Relaxed);
        state.asked.store(true, Relaxed);
        self.platform.wake(Worker::Kcompactd(node));
    }

    /// What a node's kcompactd was asked for since this was asked last.
    pub(crate) fn asked_of_kcompactd(&self, node: NodeId) -> Option<(Order, ZoneKind)> {
        let state = self.compaction.node(node);
        if !state.asked.swap(false, AcqRel) {
            return None;
        }
        let order = Order(state.order.swap(0, Relaxed));
        let class = match state.class.swap(0, Relaxed) {
            0 => ZoneKind::Movable,
            n => ZoneKind::ALL[(usize::from(n) - 1).min(NR_ZONES - 1)],
        };
        Some((order, class))
    }

    /// Looks at a node's score, if it is time to, and compacts its zones if it is
    /// too high. In how many milliseconds it is time again; None: never, until
    /// [`set_compaction_proactiveness`](Self::set_compaction_proactiveness).
    pub(crate) fn compact_unasked(&self, node: NodeId) -> Option<u64> {
        let proactiveness = self.compaction_proactiveness();
        if proactiveness == 0 {
            return None;
        }
        let state = self.compaction.node(node);
        let now = self.platform.now_ms();
        let due = state.next_look.load(Relaxed);
        if now < due {
            return Some(due - now);
        }
        let (low, high) = thresholds(proactiveness);
        let before = self.node_fragmentation_score(node);
        // Linux's may stay between the two for ever: 15 % of the free memory, however
        // high the knob.
        let above = if state.lingers.load(Relaxed) { low } else { high };
        let waits =
            now < state.no_use_until.load(Relaxed) && before <= state.no_use_at.load(Relaxed);
        if before > above && !waits && !state.kswapd_runs.load(Relaxed) {
            for zone in self.zones().iter().filter(|z| z.node == node && z.managed() > 0) {
                self.compact_to_score(zone, proactiveness);
            }
            let after = self.node_fragmentation_score(node);
            if after < before {
                state.no_use.store(0, Relaxed);
            } else if !state.kswapd_runs.load(Relaxed) {
                // What is in pieces now will mostly stay so.
                let shift = (state.no_use.load(Relaxed) + 1).min(MAX_DEFER_SHIFT);
                state.no_use.store(shift, Relaxed);
                state.no_use_at.store(after, Relaxed);
                state.no_use_until.store(self.platform.now_ms() + (PERIOD_MS << shift), Relaxed);
            }
        }
        state.lingers.store(self.node_fragmentation_score(node) > low, Relaxed);
        state.next_look.store(self.platform.now_ms() + PERIOD_MS, Relaxed);
        Some(PERIOD_MS)
    }

    /// Compacts a zone until its score is low enough, its scanners meet, or
    /// kswapd needs the time.
    fn compact_to_score(&self, zone: &Zone, proactiveness: u32) {
        self.drain_all(Some(zone));
        self.lru_drain_all();
        let mut run = Run::new(zone, MigrateMode::SyncLight, None, true);
        run.until_score = Some(thresholds(proactiveness).0);
        run.background = true;
        self.compact_zone(&mut run);
    }

    /// Whether a run that nobody has asked for has come far enough.
    pub(super) fn is_low_enough(&self, zone: &Zone, score: u32) -> bool {
        self.compaction.node(zone.node).kswapd_runs.load(Relaxed)
            || self.fragmentation_score(zone) <= score
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_follow_the_knob() {
        for (proactiveness, low, high) in
            [(20, 80, 90), (0, 100, 100), (100, 5, 15), (95, 5, 15), (94, 6, 16), (5, 95, 100)]
        {
            assert_eq!(thresholds(proactiveness), (low, high), "{proactiveness}");
        }
    }

    #[test]
    fn a_score_is_what_no_large_block_is_made_of() {
        let mut blocks = FreeBlocks::default();
        assert_eq!(score_of(&blocks), 0, "nothing is free");
        blocks.0[0] = 512;
        assert_eq!(score_of(&blocks), 100);
        blocks.0[10] = 1;
        // 512 of 1536 pages.
        assert_eq!(score_of(&blocks), 33);
        blocks.0[0] = 0;
        assert_eq!(score_of(&blocks), 0);
    }

    #[test]
    fn large_zones_weigh_more() {
        assert_eq!(weighted([].into_iter()), 0);
        assert_eq!(weighted([(4000, 100), (126_000, 10)].into_iter()), 3 + 9);
        assert_eq!(weighted([(100, 100)].into_iter()), 99);
    }
}
