//! The background's rounds: functions that a thread of the kernel's, or a test,
//! calls when a worker was woken (`Platform::wake`). Each does one round and
//! says what is left. kswapd's is in `reclaim`, the flusher's in `cache`. May
//! call: `compact`, `zone`, `free`, `reclaim`, `report`, `cache`.

use crate::gfp::{AllocFlags, Gfp, Request};
use crate::migrate::MigrateMode;
use crate::mm::Mm;
use crate::platform::{Platform, Worker};
use crate::pressure::{Attempt, CompactPriority};
use crate::stats::Event;
use crate::types::{MigrateType, NodeId, Order, PAGEBLOCK_ORDER, ZoneKind};
use crate::zone::Zone;

impl<P: Platform> Mm<P> {
    /// Does one round of a worker's work. Returns in how many milliseconds the
    /// worker wants to be called again, even if nobody wakes it; None: when it
    /// is woken. A round that comes earlier does no harm. Interrupts on, no lock
    /// held; may wait.
    pub fn work(&self, worker: Worker) -> Option<u64> {
        match worker {
            Worker::Kswapd(node) => self.kswapd_work(node),
            Worker::Kcompactd(node) => {
                if let Some((order, class)) = self.asked_of_kcompactd(node) {
                    self.kcompactd_for(node, order, class);
                }
                self.compact_unasked(node)
            }
            Worker::Reporting => self.report_round(),
            Worker::Flusher => self.flusher_work(),
        }
    }

    /// One round of a node's kcompactd: makes a free pageblock in each zone
    /// that has none and where compaction can help (Linux mm/compaction.c).
    /// Returns how many zones gained one.
    pub fn kcompactd_round(&self, node: NodeId) -> u32 {
        self.kcompactd_for(node, PAGEBLOCK_ORDER, ZoneKind::Movable)
    }

    fn kcompactd_for(&self, node: NodeId, order: Order, class: ZoneKind) -> u32 {
        self.stats.count(Event::CompactDaemonWake);
        self.zones()
            .iter()
            .filter(|z| z.node == node && z.kind <= class && z.managed() > 0)
            .map(|zone| u32::from(self.compact_in_background(zone, order, class)))
            .sum()
    }

    fn compact_in_background(&self, zone: &Zone, order: Order, class: ZoneKind) -> bool {
        let request = Request::new(order, Gfp::KERNEL | Gfp::MOVABLE).on(zone.node);
        let migratetype = MigrateType::Movable;
        let attempt = Attempt { request, class, migratetype, flags: AllocFlags::CMA };
        if zone.has_block(order, AllocFlags::CMA) {
            return false;
        }
        let done =
            self.compact_one(zone, &attempt, MigrateMode::SyncLight, CompactPriority::SyncLight);
        if !done {
            // What lies on per-CPU lists may be what was missing.
            self.drain_all(Some(zone));
        }
        done
    }
}
