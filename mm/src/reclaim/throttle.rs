//! Keeping those who want memory from taking what is needed to free some (Linux
//! `throttle_direct_reclaim`). May call: `kswapd`.

use super::{By, Scan, policy};
use crate::gfp::Gfp;
use crate::lru::LruKind;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::pressure::Attempt;
use crate::stats::Event;
use crate::types::{NodeId, ZoneKind};

/// The longest that a request without the right to file systems waits, ms: what
/// it holds may be what kswapd needs.
const MOST_MS: u64 = 1000;
/// And at most so many stalls, for a clock that stands still.
const MOST_STALLS: u32 = 1000;
/// The longest wait for pages that others look at, ms and stalls.
const ISOLATED_MS: u64 = 20;
const ISOLATED_STALLS: u32 = 100;

impl<P: Platform> Mm<P> {
    /// Waits for kswapd while half of what the min marks keep for those who free
    /// memory is gone. False if the caller was chosen to be killed meanwhile: it
    /// has rights of its own then. Who had been before does not wait.
    pub(super) fn throttle(&self, attempt: &Attempt) -> bool {
        let node = {
            let mut zones = self.zones_for(attempt);
            zones.find(|zone| zone.kind <= ZoneKind::Normal).map(|zone| zone.node)
        };
        let Some(node) = node.filter(|&node| self.is_too_low(node)) else { return true };
        if self.platform.context().oom_victim {
            return true;
        }
        self.stats.count(Event::ScanDirectThrottle);
        let began = self.platform.now_ms();
        // With it a request has nothing that anybody waits for: it may be made
        // to wait for longer, but not for a kswapd that gets nowhere.
        let patience = if attempt.request.gfp.contains(Gfp::FS) { 10 } else { 1 };
        for _ in 0..MOST_STALLS {
            if self.platform.context().oom_victim {
                return false;
            }
            self.wake_kswapd(node, attempt.request.order, ZoneKind::Normal);
            self.platform.stall();
            let waited = self.platform.now_ms().saturating_sub(began);
            if !self.is_too_low(node) || waited >= patience * MOST_MS {
                break;
            }
        }
        true
    }

    /// Has whoever wants memory wait while too many pages of a kind are isolated:
    /// the more look at the last of them at once, the sooner each finds nothing,
    /// and somebody is killed though they are all about to be free (Linux
    /// `too_many_isolated`). kswapd never waits. False if it was in vain.
    pub(super) fn wait_for_isolated(&self, node: NodeId, kind: LruKind, scan: &Scan) -> bool {
        let too_many = || {
            let isolated = self.node_isolated_pages(node, kind);
            let inactive = self.node_lru_pages(node, kind.inactive());
            policy::too_many_isolated(isolated, inactive, scan.all_rights)
        };
        if scan.by == By::Kswapd || !too_many() {
            return true;
        }
        self.stats.count(Event::ScanIsolatedThrottle);
        let began = self.platform.now_ms();
        for _ in 0..ISOLATED_STALLS {
            self.platform.stall();
            if !too_many() {
                return true;
            }
            let chosen = self.platform.context().oom_victim;
            if chosen || self.platform.now_ms().saturating_sub(began) >= ISOLATED_MS {
                break;
            }
        }
        // They may be the caller's own, who moves them: at last he has to get on.
        scan.priority == 0
    }

    /// Whether a node's zones have so little that only those who free memory may
    /// have it. Where kswapd gets nowhere nobody waits for it.
    fn is_too_low(&self, node: NodeId) -> bool {
        if self.reclaim.is_hopeless(node) {
            return false;
        }
        let (mut reserve, mut free) = (0, 0);
        for zone in self.zones().iter().filter(|z| z.node == node && z.kind <= ZoneKind::Normal) {
            if zone.managed() > 0 && self.reclaimable_pages(zone) > 0 {
                reserve += zone.mark(crate::zone::Mark::Min);
                free += zone.free_pages();
            }
        }
        policy::must_wait(free, reserve)
    }
}
