//! How a CPU is started (SDM volume 3, 9.4.4.1; Linux arch/x86/kernel/smpboot.c):
//! INIT, then one or two start-up commands, then waiting for a sign of life. Calls
//! `lapic`.

use crate::lapic::{Command, NotSent};
use core::fmt;

/// Pause after INIT (us).
const AFTER_INIT: u64 = 10_000;
/// Pause after a start-up command (us).
const AFTER_STARTUP: u64 = 200;
/// Time that a CPU has to begin, and then to be ready (us): as long as Linux
/// waits, for an emulated CPU may not be run for a while.
const PATIENCE: u64 = 10_000_000;
/// Pause between two looks at it (us).
const LOOK: u64 = 50;

/// The CPU to be started, and what it is offered to begin with.
pub trait Candidate {
    /// Sends it a command.
    ///
    /// # Errors
    ///
    /// [`NotSent`].
    fn send(&mut self, command: Command) -> Result<(), NotSent>;

    /// Lets so many microseconds pass.
    fn wait_us(&mut self, us: u64);

    /// Whether it has taken what it was offered.
    fn has_begun(&mut self) -> bool;

    /// Whether it is ready for work.
    fn is_ready(&mut self) -> bool;

    /// Takes back what it was offered; false if it has taken that already.
    fn withdraw(&mut self) -> bool;
}

/// Why a CPU is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// It cannot be told anything.
    NotSent(NotSent),
    /// It never answered, and has nothing of ours.
    Silent,
    /// It began, and may still run on what it was offered.
    Stuck,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(why) => write!(f, "cannot be reached: {why}"),
            Self::Silent => f.write_str("does not answer"),
            Self::Stuck => f.write_str("began, but never got ready"),
        }
    }
}

/// Starts a CPU in real mode at `page` (of 4 KiB) and waits until it is ready.
///
/// # Errors
///
/// [`Failure`].
pub fn start(cpu: &mut dyn Candidate, page: u8) -> Result<(), Failure> {
    if let Err(why) = knock(cpu, page) {
        return match (cpu.withdraw(), why) {
            (true, why) => Err(Failure::NotSent(why)),
            (false, _) => Err(Failure::Stuck),
        };
    }
    if !until(cpu, |cpu| cpu.has_begun()) && cpu.withdraw() {
        return Err(Failure::Silent);
    }
    if until(cpu, |cpu| cpu.is_ready()) { Ok(()) } else { Err(Failure::Stuck) }
}

fn knock(cpu: &mut dyn Candidate, page: u8) -> Result<(), NotSent> {
    cpu.send(Command::Init)?;
    cpu.wait_us(AFTER_INIT);
    for _ in 0..2 {
        cpu.send(Command::StartUp(page))?;
        cpu.wait_us(AFTER_STARTUP);
        // One that runs would ignore the second, but why try.
        if cpu.has_begun() {
            break;
        }
    }
    Ok(())
}

fn until(cpu: &mut dyn Candidate, mut done: impl FnMut(&mut dyn Candidate) -> bool) -> bool {
    let mut waited = 0;
    while !done(cpu) {
        if waited >= PATIENCE {
            return false;
        }
        cpu.wait_us(LOOK);
        waited += LOOK;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sdt::ApicId;

    /// A CPU that does things at certain times (us); never: `u64::MAX`.
    struct Fake {
        now: u64,
        sent: Vec<(u64, Command)>,
        /// Start-up commands that it needs.
        needs: usize,
        begins: u64,
        ready: u64,
        withdrawn: bool,
        mute: bool,
    }

    impl Default for Fake {
        fn default() -> Self {
            let (begins, ready) = (0, 0);
            let sent = Vec::new();
            Self { now: 0, sent, needs: 1, begins, ready, withdrawn: false, mute: false }
        }
    }

    impl Fake {
        fn begun(&self) -> bool {
            let page = |&(_, command): &(u64, Command)| command == Command::StartUp(8);
            let told = self.sent.iter().filter(|&sent| page(sent)).count();
            told >= self.needs && self.now >= self.begins && !self.withdrawn
        }
    }

    impl Candidate for Fake {
        fn send(&mut self, command: Command) -> Result<(), NotSent> {
            if self.mute {
                return Err(NotSent::OutOfReach(ApicId(300)));
            }
            self.sent.push((self.now, command));
            Ok(())
        }
        fn wait_us(&mut self, us: u64) {
            self.now += us;
        }
        fn has_begun(&mut self) -> bool {
            self.begun()
        }
        fn is_ready(&mut self) -> bool {
            self.begun() && self.now >= self.ready
        }
        fn withdraw(&mut self) -> bool {
            self.withdrawn = !self.begun();
            self.withdrawn
        }
    }

    #[test]
    fn one_command_is_enough_for_most() {
        let mut cpu = Fake::default();
        assert_eq!(start(&mut cpu, 8), Ok(()));
        assert_eq!(cpu.sent, [(0, Command::Init), (10_000, Command::StartUp(8))]);
    }

    #[test]
    fn some_need_two_and_some_need_time() {
        for (needs, begins, ready) in [(2, 0, 0), (1, 9_000_000, 0), (2, 100, 9_900_000)] {
            let mut cpu = Fake { needs, begins, ready, ..Fake::default() };
            assert_eq!(start(&mut cpu, 8), Ok(()), "{needs} {begins} {ready}");
            let startups = cpu.sent.len() - 1;
            assert!(startups >= needs && startups <= 2);
            assert!(!cpu.withdrawn);
        }
    }

    /// The silent one: what it was offered can be used again.
    #[test]
    fn a_cpu_that_never_answers() {
        let mut cpu = Fake { begins: u64::MAX, ..Fake::default() };
        assert_eq!(start(&mut cpu, 8), Err(Failure::Silent));
        assert!(cpu.withdrawn && cpu.now >= PATIENCE && cpu.now < 2 * PATIENCE);
        assert_eq!(cpu.sent.len(), 3);
    }

    #[test]
    fn a_cpu_that_begins_at_the_very_last_moment() {
        /// Begins when it is given up.
        struct Late(Fake);
        impl Candidate for Late {
            fn send(&mut self, command: Command) -> Result<(), NotSent> {
                self.0.send(command)
            }
            fn wait_us(&mut self, us: u64) {
                self.0.wait_us(us);
            }
            fn has_begun(&mut self) -> bool {
                self.0.has_begun()
            }
            fn is_ready(&mut self) -> bool {
                self.0.is_ready()
            }
            fn withdraw(&mut self) -> bool {
                self.0.begins = self.0.now;
                self.0.withdraw()
            }
        }
        let mut cpu = Late(Fake { begins: u64::MAX, ..Fake::default() });
        assert_eq!(start(&mut cpu, 8), Ok(()));
    }

    #[test]
    fn a_cpu_that_gets_stuck_and_one_out_of_reach() {
        let mut cpu = Fake { ready: u64::MAX, ..Fake::default() };
        assert_eq!(start(&mut cpu, 8), Err(Failure::Stuck));
        assert!(!cpu.withdrawn);
        let mut cpu = Fake { mute: true, ..Fake::default() };
        let why = NotSent::OutOfReach(ApicId(300));
        assert_eq!(start(&mut cpu, 8), Err(Failure::NotSent(why)));
        assert!(cpu.withdrawn);
    }
}
