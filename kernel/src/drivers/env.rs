//! What drivers ask of the kernel: waiting for a device, by its interrupts or
//! without them. Calls `task`, `arch`.

use crate::arch::{irq, time};
use crate::task::{self, WaitQueue};
use ::drivers::Env;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use mm::platform::LogLevel;

/// Devices that can have a driver.
pub(crate) const DEVICES: usize = 64;

/// How often a driver that waits looks, interrupt or not (ms).
const POLL_MS: u64 = 50;
/// The same where no interrupts come.
const SILENT_POLL_MS: u64 = 1;

/// What happens at one device, and who waits for it.
pub(crate) struct Events {
    waiters: WaitQueue,
    config_changes: AtomicU32,
    interrupts: AtomicU32,
    silent: AtomicBool,
}

static EVENTS: [Events; DEVICES] = [const {
    Events {
        waiters: WaitQueue::new(),
        config_changes: AtomicU32::new(0),
        interrupts: AtomicU32::new(0),
        silent: AtomicBool::new(false),
    }
}; DEVICES];
/// Those that are somebody's, a bit each.
static TAKEN: AtomicU64 = AtomicU64::new(0);
const _: () = assert!(DEVICES == u64::BITS as usize);

/// Events for one more device, and their number, the lowest that is free; None if
/// there is no room.
pub(super) fn take() -> Option<(usize, &'static Events)> {
    let lowest = |taken: u64| (taken != u64::MAX).then_some(taken | (taken + 1));
    let before = TAKEN.try_update(Ordering::AcqRel, Ordering::Acquire, lowest).ok()?;
    let number = before.trailing_ones() as usize;
    let events = EVENTS.get(number)?;
    events.interrupts.store(0, Ordering::Relaxed);
    events.silent.store(false, Ordering::Relaxed);
    Some((number, events))
}

/// Gives events back, whose device has gone and has no driver any more.
pub(super) fn give_back(number: usize) {
    TAKEN.fetch_and(!(1 << number), Ordering::AcqRel);
}

/// The events with number `number`.
pub(super) fn get(number: usize) -> Option<&'static Events> {
    EVENTS.get(number)
}

impl Events {
    /// Notes an interrupt. From any context but an NMI.
    pub(super) fn note(&self, config: bool) {
        if config {
            self.config_changes.fetch_add(1, Ordering::Release);
        }
        self.interrupts.fetch_add(1, Ordering::Release);
        self.waiters.wake_all();
    }

    /// No interrupts will come: the device is looked at now and then.
    pub(super) fn set_silent(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    /// Interrupts so far; None if none ever come.
    pub(crate) fn interrupts(&self) -> Option<u32> {
        let silent = self.silent.load(Ordering::Relaxed);
        (!silent).then(|| self.interrupts.load(Ordering::Relaxed))
    }
}

impl Env for Events {
    fn now_ms(&self) -> u64 {
        time::now_ms()
    }

    fn wait(&self, limit_ms: u64, ready: &mut dyn FnMut() -> bool) -> bool {
        let until = self.now_ms().saturating_add(limit_ms);
        let silent = self.silent.load(Ordering::Relaxed);
        let poll = if silent { SILENT_POLL_MS } else { POLL_MS };
        loop {
            let left = until.saturating_sub(self.now_ms());
            if task::may_sleep() {
                if self.waiters.wait_until_for(left.min(poll), &mut *ready) {
                    return true;
                }
            } else if ready() {
                return true;
            } else {
                core::hint::spin_loop();
            }
            if left == 0 {
                return false;
            }
        }
    }

    fn wake(&self) {
        self.waiters.wake_all();
    }

    fn config_changes(&self) -> u32 {
        self.config_changes.load(Ordering::Acquire)
    }

    fn exclusively(&self, f: &mut dyn FnMut()) {
        let flags = irq::save();
        f();
        irq::restore(flags);
    }

    fn log(&self, level: LogLevel, line: fmt::Arguments<'_>) {
        match level {
            LogLevel::Error => log::error!("{line}"),
            LogLevel::Warn => log::warn!("{line}"),
            LogLevel::Info => log::info!("{line}"),
        }
    }
}
