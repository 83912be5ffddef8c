//! What a driver asks of the kernel around it: a clock, waiting, a lock's
//! surroundings, the log. Calls nothing.

use core::fmt;
use mm::platform::LogLevel;

/// A device's surroundings. One value per device: a wake is for the waiters of
/// this device only.
pub trait Env: Sync {
    /// Milliseconds since some moment; never goes back.
    fn now_ms(&self) -> u64;

    /// Waits until `ready` says so, for `limit_ms` at most; false if time ran
    /// out. `ready` is asked at once, then after each interrupt of the device and
    /// each [`Env::wake`], and at least every 100 ms besides, so that a lost
    /// interrupt costs time and nothing else. It may be asked with interrupts
    /// masked, and must not wait itself.
    ///
    /// Called with interrupts on and no lock held. Where nobody can sleep yet,
    /// it polls.
    fn wait(&self, limit_ms: u64, ready: &mut dyn FnMut() -> bool) -> bool;

    /// Has all that wait for this device look again. From any context.
    fn wake(&self);

    /// How many times the device has told that its configuration has changed.
    /// Wraps.
    fn config_changes(&self) -> u32;

    /// Runs `f` so that nothing else of this CPU can run meanwhile: interrupts
    /// masked. What spins for the lock that `f` takes is then never this CPU.
    fn exclusively(&self, f: &mut dyn FnMut());

    /// Writes a line to the log.
    fn log(&self, level: LogLevel, line: fmt::Arguments<'_>);
}

impl<E: Env> Env for &E {
    fn now_ms(&self) -> u64 {
        (**self).now_ms()
    }

    fn wait(&self, limit_ms: u64, ready: &mut dyn FnMut() -> bool) -> bool {
        (**self).wait(limit_ms, ready)
    }

    fn wake(&self) {
        (**self).wake();
    }

    fn config_changes(&self) -> u32 {
        (**self).config_changes()
    }

    fn exclusively(&self, f: &mut dyn FnMut()) {
        (**self).exclusively(f);
    }

    fn log(&self, level: LogLevel, line: fmt::Arguments<'_>) {
        (**self).log(level, line);
    }
}
