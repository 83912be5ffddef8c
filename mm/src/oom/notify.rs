//! Those who can give memory back when nothing else is left (Linux
//! `register_oom_notifier`, mm/oom_kill.c): asked at the slow path's last step,
//! before anything is taken by force. May call: whoever has registered.

use crate::mm::Mm;
use crate::platform::Platform;
use crate::sync::{Lock, LockRank, Once, may_wait};

/// Somebody who can give memory back in need.
pub trait OomNotifier<P: Platform>: Sync {
    /// Frees some pages, not all at once, and returns how many. Called with no
    /// lock held, on behalf of a request that is about to fail; may wait, but
    /// must not ask for memory.
    fn out_of_memory(&self, mm: &Mm<P>) -> u64;
}

/// Those that can be registered.
const NOTIFIERS: usize = 16;

/// The table of notifiers: entered one after the other, never taken out, so
/// that nobody who calls them has to wait.
pub(crate) struct OomNotifiers<P: Platform> {
    entering: Lock<()>,
    entries: [Once<&'static dyn OomNotifier<P>>; NOTIFIERS],
}

impl<P: Platform> OomNotifiers<P> {
    pub(crate) const fn new() -> Self {
        let entering = Lock::new(LockRank::Leaf, ());
        Self { entering, entries: [const { Once::new() }; NOTIFIERS] }
    }
}

/// There is no room for another notifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyNotifiers;

impl core::fmt::Display for TooManyNotifiers {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{NOTIFIERS} OOM notifiers are registered already")
    }
}

impl core::error::Error for TooManyNotifiers {}

impl<P: Platform> Mm<P> {
    /// Has `notifier` asked when memory is out, after those that came before it.
    /// It stays registered as long as the manager lives; one with nothing to
    /// give any more answers 0. Any context.
    ///
    /// # Errors
    /// When 16 are registered already.
    pub fn register_oom_notifier(
        &self,
        notifier: &'static dyn OomNotifier<P>,
    ) -> Result<(), TooManyNotifiers> {
        let cpu = self.enter();
        let _alone = self.oom_notifiers.entering.lock(&cpu);
        let mut free = self.oom_notifiers.entries.iter().filter(|slot| slot.get().is_none());
        free.next().ok_or(TooManyNotifiers)?.call_once(|| notifier);
        Ok(())
    }

    /// Asks everybody registered to give memory back; returns how many pages
    /// they did.
    pub(crate) fn notify_oom(&self) -> u64 {
        may_wait(&self.platform, "those who give memory back");
        let known = self.oom_notifiers.entries.iter().map_while(Once::get);
        known.map(|notifier| notifier.out_of_memory(self)).sum()
    }
}
