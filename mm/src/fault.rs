//! Fault injection: page allocations that fail because somebody wants to see
//! what happens then (Linux `fail_page_alloc`). While it is armed nothing goes
//! the fast way, where nobody asks; switched off it costs the fast way nothing.
//! May call: `fast`.

use crate::gfp::{AllocError, Gfp, Page, Request};
use crate::mm::Mm;
use crate::platform::Platform;
use crate::sync::{AtomicU8, AtomicU64, Cpu, Lock, LockRank, Ordering::Relaxed};
use core::num::NonZeroU64;
use core::panic::Location;

/// Which page allocations are to fail, counted from the moment it is set.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum FaultPlan {
    /// None.
    #[default]
    Off,
    /// The n-th; then none any more.
    Nth(NonZeroU64),
    /// Each n-th.
    Every(NonZeroU64),
}

/// What fault injection has seen since it was armed last.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FaultCounts {
    /// Page allocations that could have failed.
    pub seen: u64,
    /// Those that it had fail.
    pub failed: u64,
}

const OFF: u8 = 0;
const NTH: u8 = 1;
const EVERY: u8 = 2;

/// The plan and its counts.
pub(crate) struct Faults {
    mode: AtomicU8,
    n: AtomicU64,
    seen: AtomicU64,
    failed: AtomicU64,
    /// Held while it is decided whether requests may go the fast way.
    pub(crate) deciding: Lock<()>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            mode: AtomicU8::new(OFF),
            n: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            deciding: Lock::new(LockRank::Leaf, ()),
        }
    }
}

impl Faults {
    /// Whether some allocation is to fail.
    #[inline]
    pub(crate) fn are_armed(&self) -> bool {
        self.mode.load(Relaxed) != OFF
    }
}

impl<P: Platform> Mm<P> {
    /// Has page allocations fail as `plan` says, from now on and on all CPUs:
    /// blocks of any order, pages for slabs and large kmalloc blocks. Requests
    /// with NOFAIL neither fail nor count. The counts begin anew unless the plan
    /// is [`FaultPlan::Off`]. With interrupts on and no lock held: it waits for
    /// each CPU.
    pub fn set_faults(&self, plan: FaultPlan) {
        let (mode, n) = match plan {
            FaultPlan::Off => (OFF, 0),
            FaultPlan::Nth(n) => (NTH, n.get()),
            FaultPlan::Every(n) => (EVERY, n.get()),
        };
        let faults = &self.faults;
        // Nothing strikes while the numbers change.
        faults.mode.store(OFF, Relaxed);
        faults.n.store(n, Relaxed);
        if mode != OFF {
            faults.seen.store(0, Relaxed);
            faults.failed.store(0, Relaxed);
        }
        faults.mode.store(mode, Relaxed);
        self.decide_plain();
        // Whoever was on the fast way when that changed has left it by then.
        Cpu::on_each(&self.platform, &|_| {});
    }

    /// The plan that is being followed. Any context.
    pub fn fault_plan(&self) -> FaultPlan {
        let n = NonZeroU64::new(self.faults.n.load(Relaxed));
        match (self.faults.mode.load(Relaxed), n) {
            (NTH, Some(n)) => FaultPlan::Nth(n),
            (EVERY, Some(n)) => FaultPlan::Every(n),
            _ => FaultPlan::Off,
        }
    }

    /// What the last plan has come to. Any context.
    pub fn fault_counts(&self) -> FaultCounts {
        FaultCounts {
            seen: self.faults.seen.load(Relaxed),
            failed: self.faults.failed.load(Relaxed),
        }
    }

    /// Allocates as [`alloc_pages`](Self::alloc_pages) does, but past fault
    /// injection: for the bookkeeping of those who inject. Errors and context
    /// are the same.
    ///
    /// # Errors
    /// As [`alloc_pages`](Self::alloc_pages), [`AllocError::Injected`] aside.
    #[track_caller]
    pub fn alloc_pages_spared(&self, req: Request) -> Result<Page, AllocError> {
        self.alloc_unfailed(req, Location::caller())
    }

    /// Whether this allocation is one that is to fail; counts it. Any context.
    #[inline]
    pub(crate) fn fault_strikes(&self, gfp: Gfp) -> bool {
        self.faults.are_armed() && self.count_fault(gfp)
    }

    #[cold]
    #[inline(never)]
    fn count_fault(&self, gfp: Gfp) -> bool {
        if gfp.contains(Gfp::NOFAIL) {
            return false;
        }
        let faults = &self.faults;
        let seen = faults.seen.fetch_add(1, Relaxed) + 1;
        let n = faults.n.load(Relaxed).max(1);
        let mode = faults.mode.load(Relaxed);
        let strikes = match mode {
            NTH => seen == n,
            EVERY => seen.is_multiple_of(n),
            _ => false,
        };
        if strikes {
            faults.failed.fetch_add(1, Relaxed);
        }
        if strikes && mode == NTH {
            // Unless somebody has another plan by now.
            if faults.mode.compare_exchange(NTH, OFF, Relaxed, Relaxed).is_ok() {
                self.decide_plain();
            }
        }
        strikes
    }
}
