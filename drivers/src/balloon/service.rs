//! Follows what the host wants, and answers its questions. One thread's. Calls
//! `driver`, `stats`.

use super::driver::{Stats, VirtioBalloon};
use super::{CONFIG_ACTUAL, CONFIG_NUM_PAGES, encode_stats, stats_of};
use crate::{Buffer, Env, Error, Link, Memory};
use mm::balloon::{Balloon, RETRY_MS, Step};
use mm::platform::{LogLevel, Platform};

/// A question is answered so long after the one before (ms), at least: a host
/// asks every few seconds.
const ANSWERS_MS: u64 = 100;
/// The configuration is read so often (ms), even if the device does not say that
/// it has changed.
const LOOK_MS: u64 = 1_000;
/// Lines about what the balloon waits for come no faster (ms).
const QUIET_MS: u64 = 10_000;

/// When to do the next round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// At once.
    Now,
    /// When something happens, or after so many ms.
    Within(u64),
}

/// What serves a device's wishes.
pub struct Service<H: Memory> {
    stats: Option<Stats<H>>,
    /// When the next question may be answered.
    answer_from: u64,
    /// Pages that the host wants.
    target: Option<u32>,
    /// The balloon is on its way there.
    pursuing: bool,
    /// Pages that the host was told the balloon has.
    told: Option<u32>,
    /// Changes of the configuration that were seen.
    changes: u32,
    /// When the next line may be written.
    say_from: u64,
}

impl<H: Memory> core::fmt::Debug for Service<H> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut out = f.debug_struct("Service");
        out.field("target", &self.target).field("told", &self.told).finish_non_exhaustive()
    }
}

impl<H: Memory> Service<H> {
    pub(super) const fn new(stats: Option<Stats<H>>) -> Self {
        Self {
            stats,
            answer_from: 0,
            target: None,
            pursuing: false,
            told: None,
            changes: 0,
            say_from: 0,
        }
    }

    /// Pages that the host wants, once that was read.
    pub fn target(&self) -> Option<u32> {
        self.target
    }

    /// Gives the device what it needs to ask, before the first round.
    ///
    /// # Errors
    /// [`Error::Broken`].
    pub fn begin<T: Link, E: Env, P: Platform>(
        &mut self,
        device: &VirtioBalloon<T, E, H, P>,
    ) -> Result<(), Error> {
        self.answer(device)
    }

    /// Hands the device an answer to its next question: how the guest is off
    /// now. It keeps that until it asks, and then gives it back.
    fn answer<T: Link, E: Env, P: Platform>(
        &mut self,
        device: &VirtioBalloon<T, E, H, P>,
    ) -> Result<(), Error> {
        let Some(Stats { queue, answer }) = &mut self.stats else { return Ok(()) };
        let bytes = encode_stats(&stats_of(device.mm));
        for (at, byte) in bytes.iter().enumerate() {
            answer.write(at, *byte);
        }
        // SAFETY: pages of the service's own, which are leaked if it ends while
        // the device may know them still.
        unsafe {
            queue
                .submit(&device.device, &[Buffer::readable(answer.as_ptr(), bytes.len() as u32)])?;
        }
        queue.notify(&device.device);
        Ok(())
    }

    /// Does what can be done now: an answer, a batch of pages. Interrupts on, no
    /// lock held.
    ///
    /// # Errors
    /// [`Error::Broken`]: the device is at its end, and [`end`](Self::end) is to
    /// follow.
    pub fn round<T: Link, E: Env, P: Platform>(
        &mut self,
        device: &VirtioBalloon<T, E, H, P>,
        balloon: &Balloon<P>,
    ) -> Result<Next, Error> {
        device.device.check_status()?;
        let now = device.device.env().now_ms();
        if self.is_asked(now) {
            self.answer_from = now + ANSWERS_MS;
            let asked = self.stats.as_mut().map(|stats| stats.queue.poll(&device.device));
            if let Some(Some(_)) = asked.transpose()? {
                self.answer(device)?;
            }
        }
        self.changes = device.device.env().config_changes();
        let (target, actual) = device
            .device
            .config(|config| Ok((config.u32(CONFIG_NUM_PAGES)?, config.u32(CONFIG_ACTUAL)?)))?;
        if self.target != Some(target) {
            self.target = Some(target);
            self.pursuing = true;
        }
        let mut next = Next::Within(LOOK_MS);
        if self.pursuing {
            let step = balloon.toward(device.mm, u64::from(target));
            let step = step.map_err(|_| match device.device.check() {
                Err(error) => error,
                Ok(()) => Error::Stopped,
            })?;
            match step {
                Step::Done => self.pursuing = false,
                Step::More => next = Next::Now,
                Step::Wait => {
                    self.say_waiting(device, balloon, now);
                    next = Next::Within(RETRY_MS);
                }
            }
        }
        let size = size_of_balloon(balloon);
        if self.told.unwrap_or(actual) != size {
            device.device.write_config(CONFIG_ACTUAL, size)?;
        }
        self.told = Some(size);
        Ok(next)
    }

    /// Why the host does not get what it wants, once in a while.
    fn say_waiting<T: Link, E: Env, P: Platform>(
        &mut self,
        device: &VirtioBalloon<T, E, H, P>,
        balloon: &Balloon<P>,
        now: u64,
    ) {
        if now < self.say_from {
            return;
        }
        self.say_from = now + QUIET_MS;
        let (size, target) = (balloon.size(), u64::from(self.target.unwrap_or(0)));
        let device = &device.device;
        match target.checked_sub(size) {
            Some(more) => device.env().log(
                LogLevel::Info,
                format_args!("{device}: {size} pages lent, none of {more} more to spare"),
            ),
            None => device.env().log(
                LogLevel::Info,
                format_args!("{device}: {size} pages lent, all that go back are being moved"),
            ),
        }
    }

    /// Whether there is a question that may be answered now.
    fn is_asked(&self, now: u64) -> bool {
        now >= self.answer_from && self.stats.as_ref().is_some_and(|it| it.queue.has_used())
    }

    /// Waits until there is something for the next round. Interrupts on, no lock
    /// held.
    pub fn wait<T: Link, E: Env, P: Platform>(
        &self,
        device: &VirtioBalloon<T, E, H, P>,
        balloon: &Balloon<P>,
        next: Next,
    ) {
        let Next::Within(ms) = next else { return };
        let env = device.device.env();
        let ready = &mut || {
            env.config_changes() != self.changes
                || self.told != Some(size_of_balloon(balloon))
                || self.is_asked(env.now_ms())
                || !device.device.is_working()
        };
        // A page that moves changes the size for a moment: the wait is for more
        // than that, and ends at the next look.
        env.wait(ms, ready);
    }

    /// The device is broken or stopped: what it has is the guest's again, unless
    /// it could not be shut off. Interrupts on, no lock held.
    pub fn end<T: Link, E: Env, P: Platform>(
        self,
        device: &VirtioBalloon<T, E, H, P>,
        balloon: &Balloon<P>,
    ) {
        let (quiet, lent) = (device.device.is_quiet(), balloon.size());
        if quiet {
            balloon.detach(device.mm);
        } else {
            balloon.abandon(device.mm);
        }
        if lent > 0 {
            let what = if quiet { "are back" } else { "are lost" };
            let device = &device.device;
            let line = format_args!("{device}: {lent} pages that were lent {what}");
            device.env().log(LogLevel::Warn, line);
        }
        if let Some(Stats { queue, mut answer }) = self.stats {
            if !quiet {
                answer.abandon();
            }
            queue.free(&device.device);
        }
    }
}

/// The size as the host is told: it counts to 2^32 pages.
fn size_of_balloon<P: Platform>(balloon: &Balloon<P>) -> u32 {
    u32::try_from(balloon.size()).unwrap_or(u32::MAX)
}
