//! The options of the command line that are the kernel's own; memory's are
//! `mm`'s. Calls `mm::cmdline`.

use crate::cpuset::CpuSet;
use crate::tty::{Console, Consoles};
use mm::cmdline::{Malformed, Token};
use mm::options::Accept;
use selftest::Level;

/// What to do instead of carrying on, to see a crash report (a debugging aid).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// `pf`: write to an address with nothing behind it.
    PageFault,
    /// `masked`: a thread touches new memory of its address space with
    /// interrupts off.
    MaskedFault,
    /// `df`: fault while the stack is unusable, without touching a guard page.
    DoubleFault,
    /// `ud`: execute an undefined instruction.
    UndefinedInstruction,
    /// `stack`: recurse until the stack overflows.
    StackOverflow,
    /// `panic`: panic.
    Panic,
    /// `hang`: a test that never ends, with interrupts on.
    Hang,
    /// `wait`: a test that waits for what never comes.
    Wait,
    /// `lockup`: a test that never ends, with interrupts off.
    Lockup,
    /// `cpu`: panic on all CPUs but this one, at the same time.
    OtherCpus,
    /// `wx`: write to the kernel's code.
    WriteCode,
    /// `nx`: execute data.
    ExecuteData,
    /// `order`: take locks in the wrong order (checked builds notice).
    LockOrder,
    /// `atomic`: sleep with a lock held (checked builds notice).
    SleepLocked,
    /// `percpu`: use per-CPU data while the CPU may change (checked builds
    /// notice).
    PerCpu,
    /// `deaf`: another CPU has interrupts off until it is named for it; no
    /// crash.
    Deaf,
}

impl Crash {
    const NAMES: [(&'static str, Self); 16] = [
        ("pf", Self::PageFault),
        ("masked", Self::MaskedFault),
        ("df", Self::DoubleFault),
        ("ud", Self::UndefinedInstruction),
        ("stack", Self::StackOverflow),
        ("panic", Self::Panic),
        ("hang", Self::Hang),
        ("wait", Self::Wait),
        ("lockup", Self::Lockup),
        ("cpu", Self::OtherCpus),
        ("wx", Self::WriteCode),
        ("nx", Self::ExecuteData),
        ("order", Self::LockOrder),
        ("atomic", Self::SleepLocked),
        ("percpu", Self::PerCpu),
        ("deaf", Self::Deaf),
    ];

    fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|known| known.0 == name).map(|known| known.1)
    }
}

/// Seconds after which a test counts as hanging, unless the command line says
/// otherwise. Generous: an emulated machine may be a hundred times slower than
/// a real one.
pub const TEST_TIMEOUT: u32 = 120;

/// The kernel's own options. A later one overrides an earlier one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options<'a> {
    /// `exit`: leave after the self-tests.
    pub exit: bool,
    /// `selftest=quick|full|off`.
    pub selftest: Level,
    /// `selftest.seed=N`: seed of the tests' random numbers; else by the clock.
    pub seed: Option<u64>,
    /// `selftest.timeout=SECONDS`: when a test counts as hanging; 0: never.
    pub test_timeout: u32,
    /// `pressure=SECONDS`: how long the test with more memory than RAM goes on.
    pub pressure: u32,
    /// `kunit.filter_glob=GLOB`: which tests to run.
    pub filter_glob: Option<&'a str>,
    /// `crash=KIND`: crash on purpose, as the first of the tests.
    pub crash: Option<Crash>,
    /// `maxcpus=N`: CPUs to be started at boot, the boot CPU among them; 0, or
    /// `nosmp`: the kernel does not even look at the others.
    pub maxcpus: Option<u32>,
    /// `deafcpus=LIST`: CPUs that never get the command to begin, as if they did
    /// not answer (a debugging aid).
    pub deafcpus: CpuSet,
    /// `console=DEVICE[,MODE]`, several times: where text goes; the prompt reads
    /// at the last one. None: the screen and the first serial line.
    pub consoles: Consoles,
    /// `nox2apic`: local APICs stay as the firmware has left them.
    pub nox2apic: bool,
    /// `bench=GLOB[,GLOB...]`: which operations to measure after the tests.
    pub bench: Option<&'a str>,
    /// `lab=NAME[,NAME...]`: lab scripts of the boot image to run after that;
    /// names may have `*` and `?`.
    pub lab: Option<&'a str>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            exit: false,
            selftest: Level::Quick,
            seed: None,
            test_timeout: TEST_TIMEOUT,
            pressure: 0,
            filter_glob: None,
            crash: None,
            maxcpus: None,
            consoles: Consoles::NONE,
            deafcpus: CpuSet::EMPTY,
            nox2apic: false,
            bench: None,
            lab: None,
        }
    }
}

/// An option that is there or not.
fn flag<'a>(token: &Token<'a>) -> Result<bool, Malformed<'a>> {
    match token.value {
        None => Ok(true),
        Some(_) => Err(token.malformed("takes no value")),
    }
}

impl<'a> Options<'a> {
    /// Takes in a word of the command line, if it is one of these options. One
    /// that makes no sense changes nothing.
    pub fn accept(&mut self, token: &Token<'a>) -> Accept<'a> {
        match self.set(token) {
            Ok(true) => Accept::Known,
            Ok(false) => Accept::Unknown,
            Err(malformed) => Accept::Malformed(malformed),
        }
    }

    fn set(&mut self, token: &Token<'a>) -> Result<bool, Malformed<'a>> {
        match () {
            () if token.is("exit") => self.exit = flag(token)?,
            () if token.is("nosmp") => self.maxcpus = flag(token)?.then_some(0),
            () if token.is("nox2apic") => self.nox2apic = flag(token)?,
            () if token.is("maxcpus") => {
                let cpus = u32::try_from(token.number()?);
                self.maxcpus = Some(cpus.map_err(|_| token.malformed("too many"))?);
            }
            () if token.is("deafcpus") => {
                let cpus = CpuSet::parse(token.value()?);
                self.deafcpus = cpus.ok_or(token.malformed("not a list of CPUs"))?;
            }
            () if token.is("console") => {
                let console = Console::parse(token.value()?);
                self.consoles.add(console.map_err(|why| token.malformed(why))?);
            }
            () if token.is("selftest") => {
                let level = Level::parse(token.value()?);
                self.selftest = level.ok_or(token.malformed("not quick, full or off"))?;
            }
            () if token.is("selftest.seed") => self.seed = Some(token.number()?),
            () if token.is("selftest.timeout") => {
                let seconds = u32::try_from(token.number()?);
                self.test_timeout = seconds.map_err(|_| token.malformed("too long"))?;
            }
            () if token.is("pressure") => {
                let seconds = u32::try_from(token.number()?);
                self.pressure = seconds.map_err(|_| token.malformed("too long"))?;
            }
            () if token.is("kunit.filter_glob") => {
                let glob = token.value()?;
                self.filter_glob = Some(glob).filter(|glob| !glob.is_empty());
            }
            () if token.is("crash") => {
                let kind = Crash::parse(token.value()?);
                self.crash = Some(kind.ok_or(token.malformed("no such way to crash"))?);
            }
            () if token.is("bench") => self.bench = Some(token.value()?),
            () if token.is("lab") => self.lab = Some(token.value()?),
            () => return Ok(false),
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mm::cmdline::tokens;
    use mm::types::CpuId;

    fn accept<'a>(options: &mut Options<'a>, word: &'a str) -> Accept<'a> {
        options.accept(&tokens(word).next().unwrap().unwrap())
    }

    #[test]
    fn all_options_are_read() {
        let mut options = Options::default();
        for word in [
            "exit",
            "selftest=full",
            "selftest.seed=0xDEAD",
            "selftest.timeout=7",
            "pressure=1800",
            "kunit.filter_glob=buddy.*",
            "crash=stack",
            "maxcpus=2",
            "console=tty0",
            "console=ttyS1,9600n8",
            "deafcpus=1,3",
            "nox2apic",
            "bench=pages.order*",
            "lab=holes,cma*",
        ] {
            assert_eq!(accept(&mut options, word), Accept::Known, "{word}");
        }
        let mut consoles = Consoles::NONE;
        for text in ["tty0", "ttyS1,9600n8"] {
            consoles.add(Console::parse(text).unwrap());
        }
        let want = Options {
            exit: true,
            selftest: Level::Full,
            seed: Some(0xdead),
            test_timeout: 7,
            pressure: 1800,
            filter_glob: Some("buddy.*"),
            crash: Some(Crash::StackOverflow),
            maxcpus: Some(2),
            consoles,
            deafcpus: [1, 3].into_iter().map(CpuId).collect(),
            nox2apic: true,
            bench: Some("pages.order*"),
            lab: Some("holes,cma*"),
        };
        assert_eq!(options, want);
        assert_eq!(accept(&mut options, "nosmp"), Accept::Known);
        assert_eq!(options.maxcpus, Some(0));
        assert_eq!(accept(&mut options, "selftest=off"), Accept::Known);
        assert_eq!(accept(&mut options, "kunit.filter_glob="), Accept::Known);
        assert_eq!((options.filter_glob, options.selftest), (None, Level::Off));
    }

    #[test]
    fn malformed_options_change_nothing() {
        let mut options = Options::default();
        for word in [
            "exit=1",
            "selftest",
            "selftest=",
            "selftest=QUICK",
            "selftest.seed=",
            "selftest.seed=+1",
            "selftest.seed=0x",
            "selftest.seed=18446744073709551616",
            "selftest.timeout=1s",
            "selftest.timeout=4294967296",
            "kunit.filter_glob",
            "crash",
            "crash=boom",
            "nosmp=1",
            "nox2apic=",
            "maxcpus",
            "maxcpus=4294967296",
            "console",
            "console=",
            "console=ttyS0,fast",
            "deafcpus",
            "deafcpus=",
            "deafcpus=3-1",
            "bench",
            "lab",
        ] {
            let Accept::Malformed(malformed) = accept(&mut options, word) else {
                panic!("{word} is taken");
            };
            assert_eq!(malformed.text, word);
        }
        assert_eq!(options, Options::default());
    }

    #[test]
    fn others_are_not_ours() {
        let mut options = Options::default();
        for word in ["mem=1G", "Exit", "exit2", "selftest.", "cma=16M"] {
            assert_eq!(accept(&mut options, word), Accept::Unknown, "{word}");
        }
        assert_eq!(options, Options::default());
    }
}
