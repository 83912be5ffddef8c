//! Functions that run on several CPUs at once: the trait by which a kernel or
//! a host gives CPUs to the suites, and what the workers of a case need to wait
//! for each other. Calls `case`.

use crate::case::{CaseResult, Stop};
use crate::text::Text;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use spin::mutex::SpinMutex;

/// CPUs that suites can run on at once.
pub trait Crew: Sync {
    /// How many CPUs there are, at least 1.
    fn cpus(&self) -> u16;

    /// Calls `work` with each number below `workers`, at most
    /// [`cpus`](Self::cpus), number `i` on CPU `i` and all at once, and returns
    /// when all calls have returned. False if that cannot be done: then there
    /// was no call. Called with interrupts on, no lock held and from outside of
    /// any `work`.
    fn run(&self, workers: u16, work: &(dyn Fn(u16) + Sync)) -> bool;

    /// How many of so many steps there is time for. Hosts that run many
    /// machines have less of it than a kernel.
    fn patience(&self, steps: u64) -> u64 {
        steps
    }

    /// Called again and again by a worker that waits for another, with
    /// interrupts on.
    fn pause(&self) {
        core::hint::spin_loop();
    }
}

/// The CPU that the suites run on anyway, and no other.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl Crew for Alone {
    fn cpus(&self) -> u16 {
        1
    }

    fn run(&self, workers: u16, work: &(dyn Fn(u16) + Sync)) -> bool {
        let can = workers <= 1;
        if can && workers == 1 {
            work(0);
        }
        can
    }

    fn patience(&self, steps: u64) -> u64 {
        steps.min(20_000)
    }
}

/// The workers of one case.
pub(crate) struct Team<'c> {
    crew: &'c dyn Crew,
    size: u16,
    /// Workers that have come to the meeting that is next.
    arrived: AtomicU32,
    /// Meetings that are over.
    met: AtomicU32,
    /// One has failed: nobody waits any more.
    broken: AtomicBool,
    /// Why, from the first who did.
    why: SpinMutex<Option<Stop>>,
}

/// One of a team.
pub(crate) struct Worker<'t> {
    team: &'t Team<'t>,
    /// Below the team's size; also its CPU's number.
    pub(crate) number: u16,
}

/// Marks a team as broken unless it was told that all is well: a worker that
/// panics must not have the others wait for ever.
struct Guard<'t>(&'t AtomicBool, bool);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.store(true, Ordering::Release);
        }
    }
}

impl<'c> Team<'c> {
    /// Has `size` workers do `work`, each on a CPU of its own; the verdict of
    /// the first who failed. Skips the case where there are fewer CPUs.
    pub(crate) fn run(
        crew: &'c dyn Crew,
        size: u16,
        work: &(dyn Fn(&Worker<'_>) -> CaseResult + Sync),
    ) -> CaseResult {
        if crew.cpus() < size {
            crate::skip!("{} CPUs, {size} are needed", crew.cpus());
        }
        let team = Team {
            crew,
            size,
            arrived: AtomicU32::new(0),
            met: AtomicU32::new(0),
            broken: AtomicBool::new(false),
            why: SpinMutex::new(None),
        };
        let ran = crew.run(size, &|number| {
            let mut guard = Guard(&team.broken, false);
            match work(&Worker { team: &team, number }) {
                Ok(()) => guard.1 = true,
                Err(stop) => {
                    team.why.lock().get_or_insert(stop);
                }
            }
        });
        match team.why.into_inner() {
            Some(stop) => Err(stop),
            None if !ran => crate::fail!("{size} workers could not be started"),
            None => Ok(()),
        }
    }
}

impl Worker<'_> {
    /// Whether another worker has failed, so that there is no point in going on.
    pub(crate) fn is_over(&self) -> bool {
        self.team.broken.load(Ordering::Acquire)
    }

    /// Waits until all workers have come here; fails if one has failed.
    pub(crate) fn meet(&self) -> CaseResult {
        let team = self.team;
        let meeting = team.met.load(Ordering::Acquire);
        if team.arrived.fetch_add(1, Ordering::AcqRel) + 1 == u32::from(team.size) {
            team.arrived.store(0, Ordering::Relaxed);
            team.met.store(meeting + 1, Ordering::Release);
        }
        while team.met.load(Ordering::Acquire) == meeting {
            if self.is_over() {
                // The one who failed has said why, or is about to: it is the
                // first, this is not.
                return Err(Stop::Skip(Text::format(format_args!("another worker failed"))));
            }
            team.crew.pause();
        }
        Ok(())
    }

    /// Stops all workers, has one of them do `task`, and lets all go on.
    pub(crate) fn stopped(&self, task: impl FnOnce() -> CaseResult) -> CaseResult {
        self.meet()?;
        if self.number == 0 {
            task()?;
        }
        self.meet()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    /// Threads that pretend to be CPUs.
    struct Threads;

    impl Crew for Threads {
        fn cpus(&self) -> u16 {
            3
        }
        fn run(&self, workers: u16, work: &(dyn Fn(u16) + Sync)) -> bool {
            std::thread::scope(|scope| {
                for number in 0..workers {
                    scope.spawn(move || work(number));
                }
            });
            true
        }
        fn pause(&self) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn all_stand_still_at_a_stop() {
        let steps = AtomicU64::new(0);
        let result = Team::run(&Threads, 3, &|worker| {
            for round in 1..=100 {
                steps.fetch_add(1, Ordering::Relaxed);
                worker.stopped(|| {
                    crate::check_eq!(steps.load(Ordering::Relaxed), 3 * round);
                    Ok(())
                })?;
            }
            Ok(())
        });
        assert!(result.is_ok(), "{result:?}");
    }

    #[test]
    fn one_failure_ends_all() {
        let result = Team::run(&Threads, 3, &|worker| {
            worker.meet()?;
            if worker.number == 1 {
                crate::fail!("on purpose");
            }
            loop {
                worker.meet()?;
            }
        });
        assert!(
            matches!(result, Err(Stop::Fail { message, .. }) if message.as_str() == "on purpose")
        );
    }

    #[test]
    fn a_panic_leaves_nobody_waiting() {
        let panicked = std::panic::catch_unwind(|| {
            let _ = Team::run(&Threads, 2, &|worker| {
                assert!(worker.number == 0, "on purpose");
                worker.meet()
            });
        });
        assert!(panicked.is_err());
    }

    #[test]
    fn a_team_needs_its_cpus() {
        assert!(matches!(Team::run(&Alone, 2, &|_| Ok(())), Err(Stop::Skip(_))));
        assert!(Team::run(&Alone, 1, &|worker| worker.meet()).is_ok());
    }
}
