//! The OOM killer: one address space at a time. It is said what there was and why
//! one was chosen, then its faults fail from there on, and what it has mapped is
//! taken at once: progress does not wait for its threads to notice (Linux
//! `out_of_memory`, `__oom_reap_task_mm`). May call: `score`, `space`, `dump`.

use super::score::Use;
use crate::gfp::Gfp;
use crate::mm::Mm;
use crate::mmu::Root;
use crate::platform::{LogLevel, Platform};
use crate::pressure::{Attempt, Relief};
use crate::space::{MapError, Space, SpaceRef};
use crate::stats::Event;
use crate::sync::{AtomicBool, AtomicU8, Ordering, may_wait};
use crate::types::KIB_PER_PAGE;
use core::ptr::NonNull;

/// Times that a space whose regions are being changed is waited for.
const PATIENCE: u32 = 10;

/// What the killer keeps in the manager.
#[derive(Debug)]
pub(crate) struct Oom {
    /// Somebody is at it.
    busy: AtomicBool,
    /// `panic_on_oom`: the machine is to stop rather than lose anybody.
    pub(crate) panic: AtomicU8,
    /// `oom_dump_tasks`: all spaces are listed before one is chosen.
    pub(crate) dump: AtomicBool,
    /// `oom_kill_allocating_task`: whoever asks is chosen, whatever others use.
    pub(crate) kill_allocating: AtomicBool,
}

impl Oom {
    pub(crate) const fn new() -> Self {
        Self {
            busy: AtomicBool::new(false),
            panic: AtomicU8::new(0),
            dump: AtomicBool::new(true),
            kill_allocating: AtomicBool::new(false),
        }
    }
}

/// A space that was chosen, pinned.
struct Victim {
    space: NonNull<Space>,
    points: i64,
}

impl<P: Platform> Mm<P> {
    /// The last resort for a request, unless `eased` says that there is enough by
    /// now. Interrupts on, no lock held; may wait.
    pub(crate) fn kill_for(&self, attempt: &Attempt, eased: &mut dyn FnMut() -> bool) -> Relief {
        may_wait(&self.platform, "somebody to give memory back");
        // One after the other: what the first gets may be enough for all.
        if self.oom.busy.swap(true, Ordering::Acquire) {
            self.platform.stall();
            return Relief::Freed;
        }
        // Somebody may have been killed since the caller last looked.
        let relief = if eased() { Relief::Freed } else { self.kill_alone(attempt) };
        self.oom.busy.store(false, Ordering::Release);
        relief
    }

    fn kill_alone(&self, attempt: &Attempt) -> Relief {
        // What the dying have still is taken before anybody else is killed.
        if self.notify_oom() > 0 || self.reap_dying() {
            return Relief::Freed;
        }
        // Who is to die himself has nobody killed.
        if self.platform.context().oom_victim {
            return Relief::None;
        }
        // Reclaim without the right to file systems did not do all it could:
        // whoever has that right is to kill.
        if !attempt.request.gfp.contains(Gfp::FS) {
            self.platform.stall();
            return Relief::Others;
        }
        let level = self.oom.panic.load(Ordering::Relaxed);
        if level > 0 {
            // Requests that are bound to a node come here never: 1 is as good as 2.
            self.dump_oom(attempt);
            panic!("out of memory, and panic_on_oom is set ({level})");
        }
        let asking = self.oom.kill_allocating.load(Ordering::Relaxed);
        let by = if asking { self.platform.current_root() } else { None };
        let Some(victim) =
            by.and_then(|root| self.choose(Some(root))).or_else(|| self.choose(None))
        else {
            if !attempt.request.gfp.contains(Gfp::NOWARN) {
                let line = format_args!("Out of memory, and no space may be killed for it");
                self.platform.log(LogLevel::Warn, line);
            }
            return Relief::None;
        };
        // SAFETY: pinned when it was chosen.
        let space = unsafe { victim.space.as_ref() };
        self.dump_oom(attempt);
        self.log_victim(space, victim.points);
        space.kill();
        self.stats.count(Event::OomKill);
        self.reap_victim(space);
        self.unpin_space(victim.space);
        Relief::Freed
    }

    /// Kills a space for a person who says so: all further faults of it fail, and
    /// what it has mapped is taken. Interrupts on, no lock held; may wait.
    ///
    /// # Errors
    /// [`MapError::Foreign`].
    pub fn kill_space(&self, space: &SpaceRef<'_>) -> Result<(), MapError> {
        let space = self.own_space(space)?;
        space.kill();
        self.reap_victim(space);
        Ok(())
    }

    /// Takes what spaces that are killed have nevertheless: one whose regions were
    /// just being changed. Whether there was any.
    fn reap_dying(&self) -> bool {
        let mut had = false;
        self.each_space(&mut |space| {
            let used = use_of(space);
            if space.is_killed() && used.rss + used.swap > 0 && self.reap_space(space) {
                had = true;
            }
            true
        });
        if had {
            self.lru_drain_all();
        }
        had
    }

    /// The space with most points that has anything to give and may be chosen, or
    /// the one with those tables; it is pinned. Those that are dying already have
    /// given what they had.
    fn choose(&self, only: Option<Root>) -> Option<Victim> {
        let mut best: Option<Victim> = None;
        self.each_space(&mut |space| {
            let used = use_of(space);
            let has_some = used.rss + used.swap > 0;
            let meant = only.is_none_or(|root| root == space.root());
            if !meant || space.is_killed() || space.is_protected() || !has_some {
                return true;
            }
            let total = self.managed_pages() + self.swap_totals().total;
            let Some(points) = used.points(space.oom_score_adj(), total) else { return true };
            if best.as_ref().is_none_or(|best| points > best.points) {
                let chosen = Victim { space: self.pin_space(space), points };
                if let Some(other) = best.replace(chosen) {
                    self.unpin_space(other.space);
                }
            }
            true
        });
        best
    }

    /// Takes all that a killed space has mapped. Nobody waits for its threads:
    /// they may wait for memory themselves.
    fn reap_victim(&self, space: &Space) {
        for _ in 0..PATIENCE {
            if self.reap_space(space) {
                // Its pages may be put by for the lists.
                self.lru_drain_all();
                self.platform.log(
                    LogLevel::Info,
                    format_args!(
                        "oom_reaper: reaped space {}, now anon-rss:{}kB",
                        space.name(),
                        space.rss() * KIB_PER_PAGE
                    ),
                );
                return;
            }
            self.platform.stall();
        }
        self.platform
            .log(LogLevel::Warn, format_args!("oom_reaper: unable to reap space {}", space.name()));
    }

    fn log_victim(&self, space: &Space, points: i64) {
        let used = use_of(space);
        self.platform.log(
            LogLevel::Error,
            format_args!(
                "Out of memory: Killed space {} anon-rss:{}kB, swap:{}kB pgtables:{}kB oom_score_adj:{} points:{points}",
                space.name(),
                used.rss * KIB_PER_PAGE,
                used.swap * KIB_PER_PAGE,
                used.tables * KIB_PER_PAGE,
                space.oom_score_adj(),
            ),
        );
    }

    /// Says who asked, what there was, and who uses it.
    fn dump_oom(&self, attempt: &Attempt) {
        let log = |line: core::fmt::Arguments<'_>| self.platform.log(LogLevel::Warn, line);
        let request = attempt.request;
        log(format_args!(
            "oom-killer invoked: gfp_mask={:#x}, order={}, class={}",
            request.gfp.bits(),
            request.order,
            attempt.class.name()
        ));
        for zone in self.zones.iter().filter(|zone| zone.managed() > 0) {
            self.dump_zone(zone);
        }
        if !self.oom.dump.load(Ordering::Relaxed) {
            return;
        }
        log(format_args!("[     rss     swap pgtables    adj ] name"));
        self.each_space(&mut |space| {
            let used = use_of(space);
            log(format_args!(
                "[{:>8} {:>8} {:>8} {:>6} ] {}{}{}",
                used.rss,
                used.swap,
                used.tables,
                space.oom_score_adj(),
                space.name(),
                if space.is_protected() { " (protected)" } else { "" },
                if space.is_killed() { " (killed)" } else { "" },
            ));
            true
        });
    }

    /// Points of a space, as it would be chosen by now; None: never.
    pub fn oom_points(&self, space: &Space) -> Option<i64> {
        let total = self.managed_pages() + self.swap_totals().total;
        let points = use_of(space).points(space.oom_score_adj(), total);
        points.filter(|_| !space.is_protected())
    }
}

/// What a space uses.
fn use_of(space: &Space) -> Use {
    Use { rss: space.rss(), swap: space.swapped(), tables: space.tables() }
}
