//! What drivers ask of the kernel: waiting for a device, by its interrupts or
//! without them. Calls `task`, `arch`.

use crate::arch::{irq, time};
use crate::task::{self, WaitQueue};
use ::drivers::Env;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use mm::platform::LogLevel;

/// Devices that can have a driver.
pub(crate) const DEVICES: usize = 64;

/// How often a driver that waits looks, interrupt or not (ms).
const POLL_MS: u64 = 50;

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
/// How many of them are somebody's.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// Events for one more device, and their number; None if there is no room.
pub(super) fn take() -> Option<(usize, &'static Events)> {
    let number = TAKEN.fetch_add(1, Ordering::Relaxed);
    Some((number, EVENTS.get(number)?))
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
        loop {
            let left = until.saturating_sub(self.now_ms());
            if task::may_sleep() {
                if self.waiters.wait_until_for(left.min(POLL_MS), &mut *ready) {
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
