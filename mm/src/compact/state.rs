//! What compaction remembers of a zone between runs: where its scanners stood,
//! and how long to leave the zone alone after failing (Linux mm/compaction.c).
//! Calls nothing but `sync` and `types`.

use crate::sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use crate::types::{NR_ORDERS, Order, Pfn, PfnRange};

/// Most doublings of the wait after failures: 64 requests are turned away.
const MAX_DEFER_SHIFT: u8 = 6;

/// Scanner positions and deferral of one zone.
#[derive(Debug)]
pub(crate) struct CompactState {
    /// Where migration scanning goes on, for asynchronous and other runs.
    migrate: [AtomicU64; 2],
    free: AtomicU64,
    considered: AtomicU32,
    shift: AtomicU8,
    order_failed: AtomicU8,
    /// The scanners of a direct run met: skip hints are stale.
    pub(crate) flush_skip: AtomicBool,
}

impl CompactState {
    pub(crate) fn new() -> Self {
        Self {
            migrate: [AtomicU64::new(0), AtomicU64::new(0)],
            free: AtomicU64::new(0),
            considered: AtomicU32::new(0),
            shift: AtomicU8::new(0),
            order_failed: AtomicU8::new(NR_ORDERS as u8),
            flush_skip: AtomicBool::new(false),
        }
    }

    /// Puts both scanners back to the ends of the zone.
    pub(crate) fn reset(&self, span: PfnRange) {
        for m in &self.migrate {
            m.store(span.start.0, Relaxed);
        }
        let last = span.end.0.saturating_sub(1).max(span.start.0);
        self.free.store(Pfn(last).pageblock().0, Relaxed);
    }

    pub(crate) fn migrate_pfn(&self, is_async: bool) -> Pfn {
        Pfn(self.migrate[usize::from(!is_async)].load(Relaxed))
    }

    pub(crate) fn set_migrate_pfn(&self, is_async: bool, pfn: Pfn) {
        // What asynchronous runs may skip says nothing to the others; what the
        // others have passed needs no asynchronous look.
        self.migrate[0].fetch_max(pfn.0, Relaxed);
        if !is_async {
            self.migrate[1].fetch_max(pfn.0, Relaxed);
        }
    }

    pub(crate) fn free_pfn(&self) -> Pfn {
        Pfn(self.free.load(Relaxed))
    }

    pub(crate) fn set_free_pfn(&self, pfn: Pfn) {
        self.free.store(pfn.0, Relaxed);
    }

    /// Whether a request of `order` is to be turned away for now; counts it.
    pub(crate) fn deferred(&self, order: Order) -> bool {
        if order.0 < self.order_failed.load(Relaxed) {
            return false;
        }
        let limit = 1u32 << self.shift.load(Relaxed);
        let seen = self.considered.load(Relaxed) + 1;
        if seen >= limit {
            self.considered.store(limit, Relaxed);
            return false;
        }
        self.considered.store(seen, Relaxed);
        true
    }

    /// A run for `order` failed: wait twice as long.
    pub(crate) fn defer(&self, order: Order) {
        self.considered.store(0, Relaxed);
        let shift = self.shift.load(Relaxed);
        self.shift.store((shift + 1).min(MAX_DEFER_SHIFT), Relaxed);
        self.order_failed.fetch_min(order.0, Relaxed);
    }

    /// A run for `order` succeeded; `allocated` says that the page was had too.
    pub(crate) fn succeeded(&self, order: Order, allocated: bool) {
        if allocated {
            self.considered.store(0, Relaxed);
            self.shift.store(0, Relaxed);
        }
        self.order_failed.fetch_max(order.0 + 1, Relaxed);
    }

    /// Whether the next run ends the longest wait: then hints start afresh.
    pub(crate) fn restarting(&self, order: Order) -> bool {
        order.0 >= self.order_failed.load(Relaxed)
            && self.shift.load(Relaxed) == MAX_DEFER_SHIFT
            && self.considered.load(Relaxed) >= 1 << MAX_DEFER_SHIFT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deferral_doubles_and_success_ends_it() {
        let state = CompactState::new();
        assert!(!state.deferred(Order(9)));
        for round in 1..=8u32 {
            state.defer(Order(5));
            let expected = (1 << round.min(6)) - 1;
            let turned_away = (0..1000).take_while(|_| state.deferred(Order(5))).count();
            assert_eq!(turned_away, expected, "after {round} failures");
            assert!(!state.deferred(Order(4)), "smaller orders are not held up");
        }
        assert!(state.restarting(Order(5)));
        state.succeeded(Order(5), true);
        assert!(!state.deferred(Order(5)));
        assert!(!state.restarting(Order(5)));
    }

    #[test]
    fn scanners_start_at_the_ends() {
        let state = CompactState::new();
        state.reset(PfnRange::new(Pfn(1), Pfn(4096)));
        assert_eq!(state.migrate_pfn(true), Pfn(1));
        assert_eq!(state.free_pfn(), Pfn(4096 - 512));
        state.set_migrate_pfn(true, Pfn(1024));
        assert_eq!((state.migrate_pfn(true), state.migrate_pfn(false)), (Pfn(1024), Pfn(1)));
        state.set_migrate_pfn(false, Pfn(512));
        assert_eq!((state.migrate_pfn(true), state.migrate_pfn(false)), (Pfn(1024), Pfn(512)));
    }
}
