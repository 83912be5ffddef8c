//! The options of the command line that are the kernel's own; memory's are
//! `mm`'s. Pure.

use selftest::Level;

/// What to do instead of carrying on, to see a crash report (a debugging aid).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// `pf`: write to an address with nothing behind it.
    PageFault,
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
    /// `lockup`: a test that never ends, with interrupts off.
    Lockup,
    /// `wx`: write to the kernel's code.
    WriteCode,
    /// `nx`: execute data.
    ExecuteData,
}

impl Crash {
    const NAMES: [(&'static str, Self); 9] = [
        ("pf", Self::PageFault),
        ("df", Self::DoubleFault),
        ("ud", Self::UndefinedInstruction),
        ("stack", Self::StackOverflow),
        ("panic", Self::Panic),
        ("hang", Self::Hang),
        ("lockup", Self::Lockup),
        ("wx", Self::WriteCode),
        ("nx", Self::ExecuteData),
    ];

    fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|known| known.0 == name).map(|known| known.1)
    }
}

/// Seconds after which a test counts as hanging, unless the command line says
/// otherwise. Generous: an emulated machine may be a hundred times slower than
/// a real one.
pub const TEST_TIMEOUT: u32 = 120;

/// The kernel's own options.
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
    /// `kunit.filter_glob=GLOB`: which tests to run.
    pub filter_glob: Option<&'a str>,
    /// `memtest[=N]`: test free memory with the first N patterns before use.
    pub memtest: u32,
    /// `crash=KIND`: crash on purpose once the boot is over.
    pub crash: Option<Crash>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            exit: false,
            selftest: Level::Quick,
            seed: None,
            test_timeout: TEST_TIMEOUT,
            filter_glob: None,
            memtest: 0,
            crash: None,
        }
    }
}

/// What became of one word of the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It was taken.
    Taken,
    /// It is not one of the kernel's options.
    Unknown,
    /// It is one of them, but its value cannot be read; nothing changed.
    Malformed,
}

impl<'a> Options<'a> {
    /// Takes the word `key` or `key=value`, if it is the kernel's. A later one
    /// overrides an earlier one.
    pub fn apply(&mut self, key: &str, value: Option<&'a str>) -> Verdict {
        match self.try_apply(key, value) {
            Some(true) => Verdict::Taken,
            Some(false) => Verdict::Malformed,
            None => Verdict::Unknown,
        }
    }

    fn try_apply(&mut self, key: &str, value: Option<&'a str>) -> Option<bool> {
        Some(match (key, value) {
            ("exit", None) => {
                self.exit = true;
                true
            }
            ("exit", Some(_)) => false,
            ("selftest", _) => set(&mut self.selftest, value.and_then(Level::parse)),
            ("selftest.seed", _) => set(&mut self.seed, value.and_then(number).map(Some)),
            ("selftest.timeout", _) => {
                set(&mut self.test_timeout, value.and_then(number).and_then(|n| n.try_into().ok()))
            }
            ("kunit.filter_glob", _) => {
                set(&mut self.filter_glob, value.filter(|glob| !glob.is_empty()).map(Some))
            }
            // As in Linux, without a number: one pattern.
            ("memtest", None) => set(&mut self.memtest, Some(1)),
            ("memtest", Some(text)) => {
                set(&mut self.memtest, number(text).and_then(|n| n.try_into().ok()))
            }
            ("crash", _) => set(&mut self.crash, value.and_then(Crash::parse).map(Some)),
            _ => return None,
        })
    }
}

fn set<T>(field: &mut T, value: Option<T>) -> bool {
    let read = value.is_some();
    if let Some(value) = value {
        *field = value;
    }
    read
}

/// A number, decimal or hexadecimal with `0x`.
fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    // `from_str_radix` would take a sign.
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(digits, radix).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply<'a>(options: &mut Options<'a>, word: &'a str) -> Verdict {
        match word.split_once('=') {
            Some((key, value)) => options.apply(key, Some(value)),
            None => options.apply(word, None),
        }
    }

    #[test]
    fn all_options_are_read() {
        let mut options = Options::default();
        for word in [
            "exit",
            "selftest=full",
            "selftest.seed=0xDEAD",
            "selftest.timeout=7",
            "kunit.filter_glob=buddy.*",
            "memtest=4",
            "crash=stack",
        ] {
            assert_eq!(apply(&mut options, word), Verdict::Taken, "{word}");
        }
        let want = Options {
            exit: true,
            selftest: Level::Full,
            seed: Some(0xdead),
            test_timeout: 7,
            filter_glob: Some("buddy.*"),
            memtest: 4,
            crash: Some(Crash::StackOverflow),
        };
        assert_eq!(options, want);
        assert_eq!(apply(&mut options, "memtest"), Verdict::Taken);
        assert_eq!(apply(&mut options, "selftest=off"), Verdict::Taken);
        assert_eq!((options.memtest, options.selftest), (1, Level::Off));
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
            "memtest=-1",
            "selftest.seed=+1",
            "selftest.seed=0x",
            "selftest.seed=18446744073709551616",
            "memtest=4294967296",
            "memtest=x",
            "kunit.filter_glob=",
            "kunit.filter_glob",
            "crash",
            "crash=boom",
            "selftest.timeout=1s",
        ] {
            assert_eq!(apply(&mut options, word), Verdict::Malformed, "{word}");
        }
        assert_eq!(options, Options::default());
    }

    #[test]
    fn others_are_not_ours() {
        let mut options = Options::default();
        for word in ["", "mem=1G", "Exit", "exit2", "selftest.", "cma=16M"] {
            assert_eq!(apply(&mut options, word), Verdict::Unknown, "{word}");
        }
        assert_eq!(options, Options::default());
    }
}
