//! Swap: anonymous pages whose memory is wanted go to slots of devices, and come
//! back when they are used (Linux `mm/swapfile.c`, `mm/swap_state.c`,
//! `mm/page_io.c`). May call: `alloc`, `free`, `page`, `mmu`, the LRU lists.
//!
//! A slot is in use while entries of page tables name it (its *users*) or a page
//! in memory belongs to it (the *swap cache*), which has a reference of the
//! cache's, the flag SWAPCACHE and the slot in its `private`. Both are said in
//! the slot's word, guarded by the device's lock, which is never held over
//! input or output: what keeps two from reading, writing or dropping one slot's
//! page at a time is the lock of that page.
//!
//! ```text
//!                 swap_add            unmapped: swap_dup for each entry
//!  page in memory ---------> cached ---------------------------------> cached, users
//!        ^                     ^ |  \                                        | written, frozen
//!        | swap_take_over      | |   users end: swap_take_over, or            v
//!        +---------------------+ |   freed with its page                users only
//!          nobody names the slot +<-------------------------------------------+
//!                                     swap_in: read by one, others wait
//! ```
//!
//! A page found by its slot is referenced under the device's lock, then locked,
//! then looked at again: meanwhile it may have left the cache.
//!
//! A device is used from its first slot to its last, and asked for no signature:
//! whoever switches it on has named it. There are no tools here that would write
//! one, and what else is on the device is not the business of memory.
//!
//! No memory is asked for on the way out: what is known of slots is there since
//! the device was switched on.

mod ahead;
mod array;
mod audit;
mod cache;
mod cluster;
mod device;
mod discard;
mod io;
mod off;
mod on;
mod out;
mod registry;
mod slot;
mod users;

pub use crate::block::{IoFailed, PageBytes, WriteFailed};
pub(crate) use ahead::{MOST_CLUSTER, ReadAhead, WantsBack, Window};
pub use audit::SwapNames;
pub use device::{SwapDevice, SwapKind};
pub use io::{SwapInError, SwappedIn};
pub use off::SwapOffError;
pub use on::SwapOnError;
pub use out::SwapOutError;
pub(crate) use out::{Leaving, SwapOuts};
pub use registry::SwapArea;
pub use users::TooManyUsers;

use crate::mm::Mm;
use crate::mmu::SwapEntry;
use crate::platform::Platform;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Cpu, Lock, LockRank, Ordering::Relaxed};
use cluster::SlotMap;
use core::fmt;
use registry::Registry;
use slot::Slot;

/// A device that is switched on.
struct Active {
    device: &'static dyn SwapDevice,
    map: SlotMap,
    /// Being switched off: no slot is handed out any more.
    leaving: bool,
}

/// A place for a device.
struct Area {
    active: Lock<Option<Active>>,
    /// Slots that are not bad. These are written under the lock.
    usable: AtomicU64,
    /// Slots in use.
    used: AtomicU64,
    /// Slots with a page in memory.
    cached: AtomicU64,
    /// As in `active`.
    leaving: AtomicBool,
    /// Writes that have failed one after the other.
    failed: AtomicU32,
    /// Pages that did not come here since the last of them.
    spared: AtomicU32,
}

/// A device that fails for a while is spared more and more pages, up to 2^10 - 1
/// for each that it gets: else it would soon have no good slot left.
const MOST_SPARED: u32 = 10;

impl Area {
    const fn new() -> Self {
        Self {
            active: Lock::new(LockRank::Swap, None),
            usable: AtomicU64::new(0),
            used: AtomicU64::new(0),
            cached: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            failed: AtomicU32::new(0),
            spared: AtomicU32::new(0),
        }
    }

    /// Whether the device is to be spared the next page. The lock is held.
    fn spares(&self) -> bool {
        let failed = self.failed.load(Relaxed);
        let most = (1 << failed.saturating_sub(1).min(MOST_SPARED)) - 1;
        let spared = self.spared.load(Relaxed);
        let spares = spared < most;
        self.spared.store(if spares { spared + 1 } else { 0 }, Relaxed);
        spares
    }

    /// Notes how a write has ended.
    fn note_write(&self, ok: bool) {
        if !ok {
            self.failed.fetch_add(1, Relaxed);
            self.spared.store(0, Relaxed);
        } else if self.failed.load(Relaxed) > 0 {
            self.failed.store(0, Relaxed);
        }
    }
}

/// All of swap.
pub(crate) struct Swap {
    areas: [Area; SwapEntry::DEVICES],
    registry: Lock<Registry>,
    /// Slots handed out, for devices of one priority to take turns.
    turn: AtomicU32,
    /// Slots in use no more that the devices are to be told of.
    to_discard: AtomicU64,
    /// Times that a device has failed.
    failures: AtomicU64,
    /// Pages that are read at a time at most, log2.
    page_cluster: AtomicU32,
}

impl Swap {
    /// No devices.
    pub(crate) const fn new() -> Self {
        Self {
            areas: [const { Area::new() }; SwapEntry::DEVICES],
            registry: Lock::new(LockRank::Leaf, Registry::new()),
            turn: AtomicU32::new(0),
            to_discard: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            page_cluster: AtomicU32::new(ahead::DEFAULT_CLUSTER),
        }
    }
}

impl fmt::Debug for Swap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Swap").finish_non_exhaustive()
    }
}

/// How much swap there is, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SwapTotals {
    /// Slots that are not bad.
    pub total: u64,
    /// Of these, slots in use: named by somebody, or with a page in memory.
    pub used: u64,
    /// Of these, slots with a page in memory.
    pub cached: u64,
}

/// One place for a device, locked, with one in it.
struct Locked<'a, P: Platform> {
    mm: &'a Mm<P>,
    area: &'a Area,
    index: usize,
    active: &'a mut Active,
    cpu: &'a Cpu<'a, P>,
}

impl<P: Platform> Locked<'_, P> {
    fn slot(&self, slot: u32) -> Slot {
        self.active.map.get(self.mm, slot)
    }

    fn set(&mut self, slot: u32, word: Slot) {
        self.active.map.set(self.mm, slot, word);
    }

    /// Writes the word of a slot; if it is not in use by that, lets go of it.
    fn set_or_free(&mut self, slot: u32, word: Slot) {
        if word.is_used() {
            self.set(slot, word);
            return;
        }
        self.area.used.fetch_sub(1, Relaxed);
        if word.has_failed() {
            self.set(slot, Slot::BAD);
            self.area.usable.fetch_sub(1, Relaxed);
        } else if self.active.device.discards() {
            self.active.map.push_freed(self.mm, slot);
            self.mm.swap.to_discard.fetch_add(1, Relaxed);
        } else {
            self.active.map.give(self.mm, slot);
        }
    }
}

impl<P: Platform> Mm<P> {
    /// Runs `f` on the device of that index, locked; None if there is none.
    fn with_swap<R>(&self, index: usize, f: impl FnOnce(Locked<'_, P>) -> R) -> Option<R> {
        let area = self.swap.areas.get(index)?;
        let cpu = self.enter();
        let mut active = area.active.lock(&cpu);
        let result =
            active.as_mut().map(|active| f(Locked { mm: self, area, index, active, cpu: &cpu }));
        drop(active);
        result
    }

    /// How much swap there is, over all devices. Any context.
    pub fn swap_totals(&self) -> SwapTotals {
        let sum = |of: fn(&Area) -> &AtomicU64| {
            self.swap.areas.iter().map(|area| of(area).load(Relaxed)).sum()
        };
        SwapTotals {
            total: sum(|area| &area.usable),
            used: sum(|area| &area.used),
            cached: sum(|area| &area.cached),
        }
    }

    /// Slots that are free to be taken, over all devices that are not just being
    /// switched off. Any context; a moment's answer.
    pub fn swap_free_slots(&self) -> u64 {
        let staying = self.swap.areas.iter().filter(|area| !area.leaving.load(Relaxed));
        staying.map(|area| area.usable.load(Relaxed).saturating_sub(area.used.load(Relaxed))).sum()
    }

    /// Has no slot of a device handed out any more, or again.
    fn set_swap_leaving(&self, index: usize, leaving: bool) {
        self.with_swap(index, |on| {
            on.active.leaving = leaving;
            on.area.leaving.store(leaving, Relaxed);
        });
    }

    /// Whether more than half of swap is in use: then a page that has come back
    /// gives up its slot at once, for others (Linux `vm_swap_full`).
    pub fn swap_is_half_full(&self) -> bool {
        let SwapTotals { total, used, .. } = self.swap_totals();
        used * 2 > total
    }
}
