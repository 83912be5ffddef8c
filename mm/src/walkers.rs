//! Who looks at descriptors that he neither owns nor holds a lock or token for:
//! scanners, files. Memory that came after the boot takes its descriptors along
//! when it leaves, and waits for those who may still be looking. In the manner of
//! Linux's SRCU (kernel/rcu/srcutree.c), with counters that all CPUs share:
//! walks are long, and few. Calls `sync` and `platform` only.

use crate::mm::Mm;
use crate::platform::Platform;
use crate::sync::{AtomicU32, Ordering::SeqCst};
use core::sync::atomic::fence;

/// How many walk, by the half that was current as they began.
#[derive(Debug, Default)]
pub(crate) struct Walkers {
    half: AtomicU32,
    count: [AtomicU32; 2],
}

/// As long as this lives, what was populated after it began stays readable.
#[derive(Debug)]
pub(crate) struct Walk<'a>(&'a AtomicU32);

impl Drop for Walk<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl<P: Platform> Mm<P> {
    /// Begins a walk. Whether a pageblock is populated has to be asked after
    /// this; its descriptors can be read until the walk ends. Any context; a
    /// walk is not to last: memory that leaves waits for it.
    #[inline]
    pub(crate) fn look_around(&self) -> Walk<'_> {
        let half = self.walkers.half.load(SeqCst);
        let count = &self.walkers.count[(half & 1) as usize];
        // Before any look at a block: either the walk is waited for, or it sees
        // that the block has gone.
        count.fetch_add(1, SeqCst);
        fence(SeqCst);
        Walk(count)
    }

    /// Waits for all walks that may have seen what nobody can find any more.
    /// Interrupts on, no lock held; one at a time.
    pub(crate) fn await_walkers(&self) {
        fence(SeqCst);
        // Both halves: a walk may have read which is current long ago.
        for _ in 0..2 {
            let old = self.walkers.half.fetch_xor(1, SeqCst) & 1;
            // New ones count in the other half, so this ends.
            while self.walkers.count[old as usize].load(SeqCst) > 0 {
                self.platform.stall();
            }
        }
    }
}
