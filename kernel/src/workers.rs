//! The background's work, as long as there are no threads to do it: what has
//! been woken is done between self-tests and while the kernel idles. Calls
//! `mm`.

use core::sync::atomic::{AtomicU64, Ordering};
use mm::Mm;
use mm::platform::{Platform, Worker};
use mm::types::{MAX_NODES, NodeId};

/// A bit for each worker of each node.
static WOKEN: AtomicU64 = AtomicU64::new(0);

/// First bit of the nodes' kcompactd; their kswapd's begin at 0.
const KCOMPACTD: usize = MAX_NODES;
const REPORTING: usize = 2 * MAX_NODES;
const _: () = assert!(REPORTING < 64);

/// Notes that `worker` has something to do. From any context.
pub(crate) fn wake(worker: Worker) {
    let bit = match worker {
        Worker::Kswapd(node) => usize::from(node.0),
        Worker::Kcompactd(node) => KCOMPACTD + usize::from(node.0),
        Worker::Reporting => REPORTING,
    };
    WOKEN.fetch_or(1 << bit, Ordering::Relaxed);
}

/// When the slab layer's reaper is due on this CPU, ms.
static NEXT_REAP: AtomicU64 = AtomicU64::new(0);

/// Lets each worker that has been woken do one round, and the reaper when it is
/// due. Interrupts on, no lock held. What the rounds themselves wake is left for the next time.
pub(crate) fn run<P: Platform>(mm: &Mm<P>) {
    let woken = WOKEN.swap(0, Ordering::Relaxed);
    for bit in (0..=REPORTING).filter(|bit| woken >> bit & 1 != 0) {
        let node = NodeId((bit % MAX_NODES) as u8);
        mm.work(match bit {
            REPORTING => Worker::Reporting,
            KCOMPACTD.. => Worker::Kcompactd(node),
            _ => Worker::Kswapd(node),
        });
    }
    let now = mm.platform().now_ms();
    if now >= NEXT_REAP.load(Ordering::Relaxed) {
        NEXT_REAP.store(now + mm.cache_reap(), Ordering::Relaxed);
    }
}
