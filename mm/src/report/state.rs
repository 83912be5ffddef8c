//! Whether a pass is wanted, and when: idle, requested, active (Linux
//! mm/page_reporting.c). Requests come from every free of a large block, on any
//! CPU; passes from one place at a time. Calls nothing but `sync`.

use super::policy::DELAY_MS;
use crate::sync::{
    AtomicU8, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

/// What a device's reporting is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ReportState {
    /// Nothing was freed since the last pass.
    Idle = 0,
    /// A pass is due, now or in a while.
    Requested = 1,
    /// A pass is on its way, and nothing was freed since it began.
    Active = 2,
}

impl ReportState {
    /// Its name in files and listings.
    pub const fn name(self) -> &'static str {
        ["idle", "requested", "active"][self as usize]
    }

    const fn from(word: u8) -> Self {
        match word {
            1 => Self::Requested,
            2 => Self::Active,
            _ => Self::Idle,
        }
    }
}

/// When the worker is to make its next pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// Not before somebody asks.
    Never,
    /// In so many milliseconds, at least 1.
    In(u64),
    /// Now.
    Now,
}

/// The state, and when what was requested is due.
#[derive(Debug, Default)]
pub(super) struct State {
    word: AtomicU8,
    /// In the platform's milliseconds; says something while one is requested.
    due_ms: AtomicU64,
}

impl State {
    pub(super) fn get(&self) -> ReportState {
        ReportState::from(self.word.load(Relaxed))
    }

    /// Asks for a pass. True: the worker has nothing to do so far and is to be
    /// woken. From any context.
    ///
    /// That a pass is requested already can be read without an ordering: it was
    /// seen after a block was freed under its zone's lock, and a pass enters
    /// Active before it takes that lock; so the pass that comes finds the block.
    pub(super) fn request(&self, now_ms: u64) -> bool {
        if self.get() == ReportState::Requested {
            return false;
        }
        // Before the word: whoever reads that one is requested reads this one.
        // Two who do so at once mean the same moment.
        self.due_ms.store(now_ms.saturating_add(DELAY_MS), Relaxed);
        let before = self.word.swap(ReportState::Requested as u8, AcqRel);
        ReportState::from(before) == ReportState::Idle
    }

    /// When a pass is due.
    pub(super) fn due(&self, now_ms: u64) -> Due {
        if ReportState::from(self.word.load(Acquire)) != ReportState::Requested {
            // Whoever makes a pass sees to what is requested meanwhile.
            return Due::Never;
        }
        match self.due_ms.load(Relaxed).saturating_sub(now_ms) {
            0 => Due::Now,
            // Clocks and tests may jump; nobody waits for longer than was said.
            ms => Due::In(ms.min(DELAY_MS)),
        }
    }

    /// A pass begins: what is requested from here on is for the next.
    pub(super) fn begin(&self) {
        self.word.swap(ReportState::Active as u8, AcqRel);
    }

    /// The pass is over. True if another has been requested meanwhile, by a free
    /// or by the pass itself: it is due after the usual delay.
    pub(super) fn end(&self, now_ms: u64) -> bool {
        let (active, idle) = (ReportState::Active as u8, ReportState::Idle as u8);
        // Before the word is given up, as in `request`.
        self.due_ms.store(now_ms.saturating_add(DELAY_MS), Relaxed);
        self.word.compare_exchange(active, idle, AcqRel, Relaxed).is_err_and(|word| word != idle)
    }

    /// Nothing is requested any more.
    pub(super) fn reset(&self) {
        self.word.store(ReportState::Idle as u8, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_idle_to_active_and_back() {
        let state = State::default();
        assert_eq!((state.get(), state.due(5)), (ReportState::Idle, Due::Never));
        assert!(state.request(100), "the first one wakes");
        assert!(!state.request(101) && !state.request(5000), "the others need not");
        assert_eq!((state.due(100), state.due(2099)), (Due::In(2000), Due::In(1)));
        assert_eq!((state.due(2100), state.due(u64::MAX)), (Due::Now, Due::Now));
        assert_eq!(state.due(0), Due::In(2000), "a clock that stands wrong");
        state.begin();
        assert_eq!((state.get(), state.due(9999)), (ReportState::Active, Due::Never));
        assert!(!state.end(2200), "nothing came in between");
        assert_eq!((state.get(), state.due(9999)), (ReportState::Idle, Due::Never));
    }

    #[test]
    fn a_request_during_a_pass_is_for_the_next() {
        let state = State::default();
        assert!(state.request(0));
        state.begin();
        assert!(!state.request(2001), "the worker is busy and looks again");
        assert!(state.end(3000));
        assert_eq!((state.get(), state.due(3000)), (ReportState::Requested, Due::In(2000)));
        assert_eq!(state.due(5000), Due::Now);
        state.reset();
        assert_eq!(state.due(5000), Due::Never);
        assert!(!state.end(5000), "nothing is on its way");
    }
}
