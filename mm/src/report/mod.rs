//! Free page reporting: a device learns which large blocks are free, so that the
//! host can have their memory (Linux mm/page_reporting.c). The device is
//! whatever implements [`ReportDevice`]; here is when it is told, of what, and
//! that no block is ever lost on the way. May call: `free`, `buddy`, `zone`,
//! `compact`'s watermark rule.
//!
//! A free of a block of the reporting order or above asks for a pass, which
//! comes two seconds later (`state`). A pass takes unreported blocks off the
//! lists, 32 at most, tells the device, puts them back and marks them reported
//! (`batch`, `pass`). The mark goes as the block leaves its list. While a block
//! is out it is Held and counted by its zone as out, and nowhere as free. What a
//! device has that cannot be shut off stays Held, marked reported and counted as
//! lost, until somebody knows better.
//!
//! Deferred blocks, which have no descriptors because nobody has touched them
//! since boot, are not reported: a host that has just started the machine never
//! backed them. After a restart of the guest alone that is not so; then
//! [`Mm::report_all`] describes them, at the cost of their descriptors.

mod batch;
mod pass;
pub mod policy;
mod state;
mod stats;

pub use state::ReportState;
pub use stats::ReportStats;

use crate::mm::Mm;
use crate::platform::{LogLevel, Platform, Worker};
use crate::sync::{AtomicBool, AtomicU8, Lock, LockGuard, LockRank, Ordering::Relaxed, may_wait};
use crate::types::{MAX_ORDER, NR_ORDERS, Order, PfnRange};
use batch::Blocks;
use core::fmt;
use state::{Due, State};
use stats::Counters;

/// In place of an order: none.
const UNSET: u8 = u8::MAX;

/// From this order on a zone's frees are noticed: none of them.
pub(crate) const NEVER: u8 = NR_ORDERS as u8;

/// Why a device did not take a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReportFailed {
    /// Not this time. The pass ends; the next one is made when something is
    /// freed again.
    Refused,
    /// Not now and never again: the device is broken, or on its way out. It is
    /// not called any more, and unregistered as the pass ends.
    Gone,
    /// As [`Gone`](Self::Gone), but it may still do as it likes with the blocks:
    /// nobody gets them, until [`Mm::report_recover`].
    Lost,
}

impl fmt::Display for ReportFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "the device refused a batch",
            Self::Gone => "the device is gone",
            Self::Lost => "the device could not be shut off, and keeps a batch",
        })
    }
}

impl core::error::Error for ReportFailed {}

/// A way to tell a host that memory is free.
pub trait ReportDevice: Sync {
    /// Tells the host that nobody needs what is in `blocks`: one to
    /// [`CAPACITY`](policy::CAPACITY) naturally aligned blocks, disjoint, all of
    /// one zone. Returns when the host is done with all of them; from then on
    /// they may be written again. Called with no lock held and interrupts on, by
    /// one task at a time; may wait; must not allocate from the manager, which
    /// may be waiting for this very memory.
    ///
    /// # Errors
    /// The host has not, or not surely, done it. Unless it is
    /// [`Lost`](ReportFailed::Lost), the device promises that nobody will touch
    /// the blocks any more: one that does not answer is reset, and the reset
    /// confirmed, before this returns.
    fn report(&self, blocks: &[PfnRange]) -> Result<(), ReportFailed>;

    /// Whether a page of nothing but `pattern` still reads so after it was
    /// reported. Asked once, while the device is registered on a machine that
    /// keeps a pattern in free pages (`page_poison`, `init_on_free`).
    fn preserves(&self, pattern: u8) -> bool {
        let _ = pattern;
        false
    }
}

/// Why a device was not registered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegisterError {
    /// There is one already, or the last pass of the one before is not over
    /// (Linux: `EBUSY`).
    Busy,
    /// An earlier one could not be shut off, and keeps what it was told of.
    Lost,
    /// Free pages hold this byte, which the device would not preserve.
    Pattern(u8),
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("there is a reporting device already"),
            Self::Lost => f.write_str("a reporting device that could not be shut off has blocks"),
            Self::Pattern(byte) => {
                write!(f, "the device does not preserve the {byte:#04x} that free pages hold")
            }
        }
    }
}

impl core::error::Error for RegisterError {}

/// What [`Mm::report_now`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoPass {
    /// There is no device.
    NoDevice,
    /// Reporting is switched off.
    Off,
    /// A pass is on its way already.
    Busy,
}

impl fmt::Display for NoPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoDevice => "there is no reporting device",
            Self::Off => "reporting is switched off",
            Self::Busy => "a pass is on its way",
        })
    }
}

impl core::error::Error for NoPass {}

/// The device, and who is with it.
#[derive(Default)]
struct Slot {
    device: Option<&'static dyn ReportDevice>,
    /// The smallest order that the device prefers.
    prefers: Option<Order>,
    /// A pass is on its way.
    busy: bool,
    /// Somebody wants no passes.
    off: bool,
    /// What a device that could not be shut off has.
    lost: Option<Blocks>,
}

impl Slot {
    /// Whether passes are to be made.
    fn is_wanted(&self) -> bool {
        self.device.is_some() && !self.off
    }
}

/// All there is to reporting, but for what zones and blocks know themselves.
pub(crate) struct Reporting {
    slot: Lock<Slot>,
    state: State,
    /// `page_reporting_order`; [`UNSET`] if nobody has set it.
    knob: AtomicU8,
    counters: Counters,
    /// The last batch failed, and somebody has been told.
    failing: AtomicBool,
}

impl Default for Reporting {
    fn default() -> Self {
        Self {
            slot: Lock::new(LockRank::Leaf, Slot::default()),
            state: State::default(),
            knob: AtomicU8::new(UNSET),
            counters: Counters::default(),
            failing: AtomicBool::new(false),
        }
    }
}

impl Reporting {
    fn knob(&self) -> Option<Order> {
        Some(self.knob.load(Relaxed)).filter(|&order| order <= MAX_ORDER.0).map(Order)
    }
}

/// What reporting is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReportStatus {
    /// There is a device.
    pub registered: bool,
    /// Passes are made.
    pub on: bool,
    /// The smallest order that is reported, or would be.
    pub order: Order,
    /// Idle, requested, active.
    pub state: ReportState,
}

impl<P: Platform> Mm<P> {
    /// Registers the device that hears of free blocks from now on, and asks for
    /// a pass. `prefers` is the smallest order that is worth its while, if it
    /// has an opinion. Any context but an NMI.
    ///
    /// # Errors
    /// See [`RegisterError`]; nothing has changed then.
    pub fn report_register(
        &self,
        device: &'static dyn ReportDevice,
        prefers: Option<Order>,
    ) -> Result<(), RegisterError> {
        if let Some(byte) = self.free_page_pattern().filter(|&byte| !device.preserves(byte)) {
            return Err(RegisterError::Pattern(byte));
        }
        let cpu = self.enter();
        let mut slot = self.report.slot.lock(&cpu);
        if slot.device.is_some() || slot.busy {
            return Err(RegisterError::Busy);
        }
        if slot.lost.is_some() {
            return Err(RegisterError::Lost);
        }
        slot.device = Some(device);
        slot.prefers = prefers;
        // What was left over from an earlier device.
        self.report.state.reset();
        self.note_report_order(&slot);
        let order = self.report_order(&slot);
        drop(slot);
        drop(cpu);
        let level = LogLevel::Info;
        self.platform.log(level, format_args!("free page reporting enabled, from order {order}"));
        self.request_wanted_report();
        Ok(())
    }

    /// Takes leave of the device: when this returns, it is not called any more,
    /// and all blocks are back. False if there was none. Waits for a pass that
    /// is on its way: interrupts on, no lock held, and not by the device from
    /// within [`ReportDevice::report`], which returns
    /// [`Gone`](ReportFailed::Gone) instead.
    pub fn report_unregister(&self) -> bool {
        may_wait(&self.platform, "a reporting pass");
        let had = self.forget_report_device();
        // A pass asks after each batch whether the device is still there.
        while self.report_slot(|slot| slot.busy) {
            self.platform.stall();
        }
        if had {
            self.platform.log(LogLevel::Info, format_args!("free page reporting disabled"));
        }
        had
    }

    /// The device that was [lost](ReportFailed::Lost) has been reset at last, or
    /// is not there any more: frees what it had. Returns the pages. Any context
    /// but an NMI.
    pub fn report_recover(&self) -> u64 {
        let Some(lost) = self.report_slot(|slot| slot.lost.take()) else { return 0 };
        lost.as_slice().iter().for_each(|&block| self.recover_block(block));
        let pages = lost.pages();
        let line = format_args!("free page reporting: {pages} pages are back");
        self.platform.log(LogLevel::Info, line);
        pages
    }

    /// The device is not to be called any more; whether there was one.
    fn forget_report_device(&self) -> bool {
        self.report_slot(|slot| {
            let had = slot.device.take().is_some();
            slot.prefers = None;
            self.note_report_order(slot);
            if !slot.busy {
                self.report.state.reset();
            }
            had
        })
    }

    /// One round of the reporting worker: a pass, if one is due. Returns in how
    /// many milliseconds it wants to be called again; None: when it is woken.
    /// Interrupts on, no lock held; waits for other CPUs and for the device.
    pub fn report_round(&self) -> Option<u64> {
        match self.report.state.due(self.platform.now_ms()) {
            Due::Never => None,
            Due::In(ms) => Some(ms),
            Due::Now => match self.begin_pass() {
                Ok(pass) => pass.run().then_some(policy::DELAY_MS),
                // Asked for, but not to be had: whoever changes that asks again,
                // and a pass that is on its way sees to what it was asked for.
                Err(_) => None,
            },
        }
    }

    /// Makes a pass at once, whether or not one is due. Returns the pages that
    /// were reported. Context as [`report_round`](Self::report_round).
    ///
    /// # Errors
    /// There is nobody to report to just now.
    pub fn report_now(&self) -> Result<u64, NoPass> {
        let pass = self.begin_pass()?;
        let before = self.report.counters.pages();
        if pass.run() {
            // The rest is for the worker, in a while.
            self.platform.wake(Worker::Reporting);
        }
        Ok(self.report.counters.pages() - before)
    }

    /// Gives memory that nobody has wanted since boot its descriptors, so that
    /// passes report it too; asks for one. For a machine that was restarted on a
    /// host that kept its memory. Returns the pages. Any context, but it takes a
    /// while.
    pub fn report_all(&self) -> u64 {
        let mut pages = 0;
        for zone in self.zones.iter().filter(|zone| zone.managed() > 0) {
            pages += zone.deferred_pages();
            self.populate(zone, zone.span());
        }
        self.request_wanted_report();
        pages
    }

    /// Switches passes on or off; whether they were on. One that is on its way
    /// ends after its batch. Any context but an NMI.
    pub fn set_reporting(&self, on: bool) -> bool {
        let was_on = self.report_slot(|slot| {
            let was_off = core::mem::replace(&mut slot.off, !on);
            self.note_report_order(slot);
            !was_off
        });
        self.request_wanted_report();
        was_on
    }

    /// Sets the smallest order that is reported, `page_reporting_order`; asks for
    /// a pass. False for an order that there is not. Any context but an NMI.
    pub fn set_report_order(&self, order: Order) -> bool {
        if order > MAX_ORDER {
            return false;
        }
        self.report_slot(|slot| {
            self.report.knob.store(order.0, Relaxed);
            self.note_report_order(slot);
        });
        self.request_wanted_report();
        true
    }

    /// What reporting is doing. Any context but an NMI; a hint on a running
    /// machine.
    pub fn report_status(&self) -> ReportStatus {
        self.report_slot(|slot| ReportStatus {
            registered: slot.device.is_some(),
            on: !slot.off,
            order: self.report_order(slot),
            state: self.report.state.get(),
        })
    }

    /// What was reported so far. Any context; a hint on a running machine.
    pub fn report_stats(&self) -> ReportStats {
        self.report.counters.snapshot()
    }

    /// Free pages that the host knows of just now, in blocks that are large
    /// enough to be reported. Any context; takes each zone's lock and looks at
    /// all such blocks, and is a hint on a running machine.
    pub fn reported_pages(&self) -> u64 {
        self.known_pages(self.report_status().order)
    }

    /// What `page_reporting_order` reads: the order, or -1 as long as nobody has
    /// set it and no device was there to decide.
    pub(crate) fn report_order_knob(&self) -> i32 {
        let status = self.report_status();
        match self.report.knob() {
            None if !status.registered => -1,
            _ => i32::from(status.order.0),
        }
    }

    /// The byte that free pages are known to hold, if any. Any context.
    pub fn free_page_pattern(&self) -> Option<u8> {
        let t = &self.tunables;
        if t.page_poison.load(Relaxed) {
            Some(crate::alloc::POISON)
        } else {
            t.init_on_free.load(Relaxed).then_some(0)
        }
    }

    /// The smallest order that is reported.
    fn report_order(&self, slot: &Slot) -> Order {
        policy::effective_order(self.report.knob(), slot.prefers)
    }

    /// Tells all zones from which order on a free is to be noticed.
    fn note_report_order(&self, slot: &Slot) {
        let order = if slot.is_wanted() { self.report_order(slot).0 } else { NEVER };
        for zone in self.zones.iter() {
            zone.report_from.store(order, Relaxed);
        }
    }

    fn report_slot<R>(&self, f: impl FnOnce(&mut Slot) -> R) -> R {
        let cpu = self.enter();
        let mut slot: LockGuard<'_, Slot> = self.report.slot.lock(&cpu);
        f(&mut slot)
    }

    /// Asks for a pass if there is somebody to report to.
    fn request_wanted_report(&self) {
        if self.report_slot(|slot| slot.is_wanted()) {
            self.request_report();
        }
    }

    /// Asks for a pass. No lock held; from any context.
    #[cold]
    #[inline(never)]
    pub(crate) fn request_report(&self) {
        if self.report.state.request(self.platform.now_ms()) {
            self.platform.wake(Worker::Reporting);
        }
    }
}
