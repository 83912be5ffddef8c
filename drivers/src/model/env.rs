//! Surroundings of a simulated device's driver. Calls the board.

use super::Handle;
use crate::Env;
use core::fmt;
use mm::platform::LogLevel;

/// Milliseconds that go by between two looks of a waiting driver.
const STEP_MS: u64 = 10;

/// Surroundings in which time goes on only while the driver waits, and in which
/// the device works meanwhile. Keeps the log ([`Handle::log`]).
#[derive(Clone, Debug)]
pub struct HostEnv(Handle);

impl HostEnv {
    pub(super) const fn new(handle: Handle) -> Self {
        Self(handle)
    }
}

impl Env for HostEnv {
    fn now_ms(&self) -> u64 {
        self.0.with(|board| board.now_ms)
    }

    fn wait(&self, limit_ms: u64, ready: &mut dyn FnMut() -> bool) -> bool {
        let until = self.now_ms() + limit_ms;
        loop {
            if ready() {
                return true;
            }
            if self.now_ms() >= until {
                return false;
            }
            self.0.work();
            // Others may have waited on beyond that.
            self.0.with(|board| {
                let then = (board.now_ms + STEP_MS).min(until);
                board.now_ms = board.now_ms.max(then);
            });
            std::thread::yield_now();
        }
    }

    fn wake(&self) {}

    fn config_changes(&self) -> u32 {
        self.0.with(|board| board.config_changes)
    }

    fn exclusively(&self, f: &mut dyn FnMut()) {
        f();
    }

    fn log(&self, level: LogLevel, line: fmt::Arguments<'_>) {
        self.0.push_log(std::format!("{level:?}: {line}"));
    }
}
