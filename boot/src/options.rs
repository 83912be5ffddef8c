//! The options of `quarry` and what values they take. Pure.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Build Quarry and boot it in QEMU, the serial line on this terminal.
///
/// Exit status: 0 all self-tests passed, and the lab script if one was given, or
/// none failed and `poweroff` was said at the prompt; 1 one failed, the kernel
/// crashed or never finished its report, or QEMU was left in another way; 2
/// wrong usage; 124 timed out.
#[derive(Parser, Debug)]
#[command(name = "quarry", version, args_override_self = true)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; running is the default.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of `run`, which may be left out.
    #[command(flatten)]
    pub run: RunOptions,
}

/// What `quarry` can do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Boot in QEMU (the default).
    Run(RunOptions),
    /// Write quarry-bios.img, quarry-uefi.img and their sha256.
    Image(ImageOptions),
    /// Write an image to a USB stick.
    Flash(FlashOptions),
    /// Count the instructions of the memory manager's operations.
    Bench(BenchOptions),
    /// Save every report file of a running Quarry in a directory.
    Collect(CollectOptions),
    /// Have a guest give memory back, and see what its host has.
    Giveback(GivebackOptions),
}

/// Options of `quarry run`.
#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    /// Firmware to boot with.
    #[arg(long, value_enum, default_value_t = Firmware::Bios)]
    pub firmware: Firmware,
    /// RAM of the machine, such as 32M or 6G.
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = parse_memory)]
    pub memory: Memory,
    /// Processors.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub cpus: u16,
    /// NUMA nodes, memory and processors divided evenly among them.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub nodes: u16,
    /// Kernel command line, such as "selftest=full cma=32M".
    #[arg(long, value_name = "K=V ...", allow_hyphen_values = true, value_parser = parse_cmdline)]
    pub append: Option<CmdLine>,
    /// Leave after the self-tests (adds `exit` to the kernel command line).
    #[arg(long)]
    pub exit: bool,
    /// Run this lab script after the self-tests and leave; the exit status is its
    /// verdict too. Several run one after the other.
    #[arg(long, value_name = "FILE")]
    pub lab: Vec<PathBuf>,
    /// Give up after so many seconds in QEMU, with status 124.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: Option<u64>,
    /// Write what the serial line says to this file as well.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// More arguments for QEMU, split as a shell would.
    #[arg(long, value_name = "ARGS", default_value = "", allow_hyphen_values = true, value_parser = parse_words)]
    pub qemu: Words,
    /// Machine: an i440FX or a Q35 chipset.
    #[arg(long, value_enum, default_value_t = Machine::Pc)]
    pub machine: Machine,
    /// What the image is attached as.
    #[arg(long, value_enum, default_value_t = Disk::Hd)]
    pub disk: Disk,
    /// A virtio disk besides, `/dev/vda` and so on, several times: an empty one of
    /// that size, with K, M, G or T, whose content goes when QEMU ends; or a file,
    /// which is written to.
    #[arg(long, value_name = "SIZE|FILE", value_parser = parse_drive)]
    pub drive: Vec<Drive>,
    /// Boot this image; build none.
    #[arg(long, value_name = "FILE", conflicts_with = "checked")]
    pub image: Option<PathBuf>,
    /// No serial port: leave when the screen shows the result in large letters,
    /// which is read off a picture of it.
    #[arg(long, conflicts_with_all = ["log", "lab"])]
    pub no_serial: bool,
    /// Leave the picture in this file (PPM).
    #[arg(long, value_name = "FILE", requires = "no_serial")]
    pub picture: Option<PathBuf>,
    /// Boot the build that checks itself as it goes: the order of locks, waiting
    /// with a lock held, per-CPU data used while the CPU may change.
    #[arg(long)]
    pub checked: bool,
    /// What executes the guest's instructions.
    #[arg(long, value_enum, default_value_t = Accel::Tcg)]
    pub accel: Accel,
    /// Print the plain QEMU line; build and run nothing.
    #[arg(long)]
    pub dry_run: bool,
}

impl RunOptions {
    /// The kernel command line, `None` when there is nothing to say.
    pub fn cmdline(&self) -> Option<String> {
        let append = self.append.iter().map(|line| line.0.as_str());
        let words: Vec<&str> = append.chain(self.exits().then_some("exit")).collect();
        (!words.is_empty()).then(|| words.join(" "))
    }

    /// Whether the run ends by itself.
    pub fn exits(&self) -> bool {
        self.exit || !self.lab.is_empty()
    }

    /// How long QEMU may run.
    pub fn time_limit(&self) -> Option<Duration> {
        self.timeout.map(Duration::from_secs)
    }
}

/// Options of `quarry image`.
#[derive(Args, Clone, Debug)]
pub struct ImageOptions {
    /// Kernel command line to build in, used where the firmware brings none.
    #[arg(long, value_name = "K=V ...", allow_hyphen_values = true, value_parser = parse_cmdline)]
    pub append: Option<CmdLine>,
    /// Directory for the images [default: `images` in cargo's target directory].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Options of `quarry collect`.
///
/// Boots Quarry in QEMU, or goes to one that runs, and saves /proc/buddyinfo as
/// `proc_buddyinfo` and so on, what is binary as such. Exit status: 0 all is
/// there; 1 not so; 2 wrong usage.
#[derive(Args, Clone, Debug)]
pub struct CollectOptions {
    /// Where the files are to go.
    #[arg(value_name = "DIR", required_unless_present = "list")]
    pub dir: Option<PathBuf>,
    /// Print the paths of the files that there are, and do nothing.
    #[arg(long)]
    pub list: bool,
    /// A line to type at the prompt first. Several are typed one after the other.
    #[arg(long, value_name = "LINE", conflicts_with = "transcript")]
    pub first: Vec<String>,
    /// A machine that runs: a serial device (115200 baud) or a Unix socket that
    /// leads to its serial line.
    #[arg(long, value_name = "PATH")]
    pub serial: Option<PathBuf>,
    /// A session that was recorded: what came over the serial line when the files
    /// were printed, or what a lab script printed with --trace. `-` is standard
    /// input.
    #[arg(long, value_name = "FILE", conflicts_with = "serial")]
    pub transcript: Option<PathBuf>,
    /// Leave out the two files that have a word for each page frame, and those
    /// of each memory block: over a real serial line they take minutes for each
    /// GiB of memory.
    #[arg(long)]
    pub no_frames: bool,
    /// Give up when nothing has come for so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,
    /// Options of `run` for the boot.
    #[arg(last = true, value_name = "OPTIONS", conflicts_with_all = ["serial", "transcript"])]
    pub run: Vec<String>,
}

impl CollectOptions {
    /// The options of the boot.
    ///
    /// # Errors
    /// Clap's, for those that make no sense.
    pub fn run(&self) -> Result<RunOptions, clap::Error> {
        run_options(&self.run)
    }
}

/// Reads options of `run` that stand behind those of something else.
fn run_options(words: &[String]) -> Result<RunOptions, clap::Error> {
    #[derive(Parser)]
    #[command(name = "quarry run", args_override_self = true)]
    struct Run {
        #[command(flatten)]
        options: RunOptions,
    }
    let words = ["quarry run".to_owned()].into_iter().chain(words.iter().cloned());
    Run::try_parse_from(words).map(|run| run.options)
}

/// Options of `quarry giveback`.
///
/// Boots guests of 1 GiB in QEMU, has them use memory and give it back, and looks
/// meanwhile at what the host has of it (/proc/PID/smaps). Exit status: 0 all was
/// as it has to be; 1 not so; 2 wrong usage.
#[derive(Args, Clone, Debug)]
pub struct GivebackOptions {
    /// What to do; everything is the default.
    #[arg(value_enum, value_name = "EXPERIMENT")]
    pub experiments: Vec<Experiment>,
    /// Where curves (CSV, SVG) and consoles are to go [default: `giveback` in
    /// cargo's target directory].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write the pictures to docs/ as well, and the table into README.md.
    #[arg(long, conflicts_with = "experiments")]
    pub save: bool,
    /// Options of `run` for the boots; memory is the experiment's.
    #[arg(last = true, value_name = "OPTIONS")]
    pub run: Vec<String>,
}

impl GivebackOptions {
    /// The options of the boots.
    ///
    /// # Errors
    /// Clap's, for those that make no sense.
    pub fn run(&self) -> Result<RunOptions, clap::Error> {
        run_options(&self.run)
    }
}

/// Ways of giving memory back, and what else is to be seen of them.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Experiment {
    /// Free page reporting: 768 MiB are touched and freed.
    Reporting,
    /// The same where RAM is a shared file in memory.
    ReportingMemfd,
    /// The balloon: to 256 MiB and back, ten times.
    Balloon,
    /// The balloon is asked for more than there is to spare.
    BalloonBelowNeed,
    /// virtio-mem: to 4 GiB and back.
    VirtioMem,
    /// Nothing happens: what do the devices cost?
    Idle,
}

impl Experiment {
    /// All there are.
    pub const ALL: &[Self] = &[
        Self::Reporting,
        Self::ReportingMemfd,
        Self::Balloon,
        Self::BalloonBelowNeed,
        Self::VirtioMem,
        Self::Idle,
    ];

    /// As on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
    }
}

/// Options of `quarry flash`.
///
/// Refuses what is mounted, swap space or part of a volume, partitions, and disks
/// that are too small: that cannot be forced. Nor is anything overwritten before
/// its name has been typed. Exit status: 0 it is written, and reads back so; 1
/// not so; 2 wrong usage.
#[derive(Args, Clone, Debug)]
pub struct FlashOptions {
    /// The stick, such as /dev/sdb.
    pub device: PathBuf,
    /// Firmware of the machine that is to boot from it.
    #[arg(long, value_enum, default_value_t = Firmware::Uefi)]
    pub firmware: Firmware,
    /// Kernel command line to build in.
    #[arg(long, value_name = "K=V ...", allow_hyphen_values = true, value_parser = parse_cmdline)]
    pub append: Option<CmdLine>,
    /// Write this image instead of building one.
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Also to a disk that is not removable.
    #[arg(long)]
    pub force: bool,
    /// Look at the device, make the image and print where it is, no more.
    #[arg(long, hide = true)]
    pub only_image: bool,
}

/// Options of `quarry bench`.
///
/// The kernel runs in QEMU with its time stamp counter tied to executed
/// instructions, so the figures are exact and do not depend on the machine that
/// QEMU runs on. Exit status: 0 all was measured (and is as the baseline says,
/// with --check); 1 not so; 124 timed out.
#[derive(Args, Clone, Debug)]
pub struct BenchOptions {
    /// Which operations, as `suite` or `suite.row` with `*` and `?`; several with
    /// commas.
    #[arg(value_name = "GLOB", default_value = "*", value_parser = parse_glob)]
    pub glob: String,
    /// Fail if a figure has grown by more than 3 % over the baseline.
    #[arg(long)]
    pub check: bool,
    /// Make what was measured the baseline.
    #[arg(long, conflicts_with = "check")]
    pub save: bool,
    /// Measure on machines of 64 MiB to 64 GiB, 1 to 4 CPUs and 1 to 8 nodes
    /// instead; with --save, write table and plot to docs/.
    #[arg(long, conflicts_with_all = ["check", "goals", "readme"])]
    pub growth: bool,
    /// Show only rows that have a goal.
    #[arg(long)]
    pub goals: bool,
    /// Write the table of rows with a goal into README.md.
    #[arg(long)]
    pub readme: bool,
    /// The baseline [default: `bench/baseline.txt`].
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
}

fn parse_glob(text: &str) -> Result<String, String> {
    let known = |c: char| c.is_ascii_alphanumeric() || "*?._,".contains(c);
    if text.is_empty() || !text.chars().all(known) {
        return Err("want letters, digits, `_`, `.`, `,`, `*` and `?`".into());
    }
    Ok(text.to_owned())
}

/// The firmware of the machine.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Firmware {
    /// PC BIOS (`SeaBIOS`).
    Bios,
    /// UEFI (OVMF).
    Uefi,
}

impl Firmware {
    /// As in file names and options.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
        }
    }
}

/// QEMU's machines.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Machine {
    /// i440FX and PIIX3, of 1996.
    Pc,
    /// Q35 and ICH9, of 2009, with PCI Express.
    Q35,
}

impl Machine {
    /// As QEMU calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pc => "pc",
            Self::Q35 => "q35",
        }
    }
}

/// How a disk is attached.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disk {
    /// A hard disk at the chipset's own controller.
    Hd,
    /// A USB stick at an xHCI controller.
    Usb,
}

/// QEMU's accelerators.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accel {
    /// Translated by QEMU.
    Tcg,
    /// Run by the processor, through Linux's KVM.
    Kvm,
}

impl Accel {
    /// As QEMU calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        }
    }
}

/// An amount of RAM as QEMU's `-m` takes it: digits and a unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Memory(pub String);

impl Memory {
    /// The units, each 1024 times the one before; the first is KiB.
    const UNITS: &str = "KMGT";

    /// The amount in KiB; `None` if it is not as promised, or too large.
    pub fn kib(&self) -> Option<u64> {
        let unit = Self::UNITS.find(self.0.chars().next_back()?)?;
        let number = self.0[..self.0.len() - 1].parse::<u64>().ok()?;
        number.checked_mul(1 << (10 * unit))
    }
}

/// A disk besides the one with the image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Drive {
    /// An empty one of that size.
    Empty(Memory),
    /// What is in this file.
    File(PathBuf),
}

/// A number with a unit is a size; a file of such a name has a `./` before it.
fn parse_drive(text: &str) -> Result<Drive, String> {
    match parse_memory(text) {
        Ok(size) if text.ends_with(|c: char| c.is_ascii_alphabetic()) => Ok(Drive::Empty(size)),
        _ if text.is_empty() => Err("want a size or a file".into()),
        _ => Ok(Drive::File(text.into())),
    }
}

fn parse_memory(text: &str) -> Result<Memory, String> {
    let (digits, unit) = match text.chars().last() {
        Some(unit) if unit.is_ascii_alphabetic() => (&text[..text.len() - 1], unit),
        _ => (text, 'M'),
    };
    let unit = unit.to_ascii_uppercase();
    let bytes = match digits.parse::<u64>() {
        Ok(number) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Memory::UNITS.find(unit).and_then(|at| number.checked_mul(1 << (10 * (at + 1))))
        }
        _ => None,
    };
    match bytes {
        Some(bytes) if bytes > 0 => Ok(Memory(format!("{digits}{unit}"))),
        _ => Err("want a number and K, M, G or T".into()),
    }
}

/// A kernel command line: one line of text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CmdLine(pub String);

fn parse_cmdline(text: &str) -> Result<CmdLine, String> {
    if text.contains(char::is_control) {
        return Err("the kernel command line is one line without control characters".into());
    }
    Ok(CmdLine(text.trim().to_owned()))
}

/// Arguments to hand on.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Words(pub Vec<String>);

fn parse_words(text: &str) -> Result<Words, String> {
    shlex::split(text).map(Words).ok_or_else(|| "a quote is not closed".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, error::ErrorKind};

    fn run(args: &[&str]) -> RunOptions {
        Cli::try_parse_from([&["quarry"], args].concat()).unwrap().run
    }

    fn refused(args: &[&str]) -> clap::Error {
        Cli::try_parse_from([&["quarry"], args].concat()).unwrap_err()
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults() {
        let options = run(&[]);
        assert_eq!(options.firmware, Firmware::Bios);
        assert_eq!(options.memory, Memory("512M".into()));
        assert_eq!((options.cpus, options.nodes), (1, 1));
        assert_eq!(options.accel, Accel::Tcg);
        assert_eq!((options.machine, options.disk), (Machine::Pc, Disk::Hd));
        assert_eq!(options.cmdline(), None);
        assert_eq!(options.time_limit(), None);
        assert!(options.qemu.0.is_empty() && !options.exit && !options.checked && !options.dry_run);
    }

    #[test]
    fn exit_joins_the_command_line() {
        assert_eq!(run(&["--exit"]).cmdline().unwrap(), "exit");
        assert_eq!(run(&["--append", " a=1 b "]).cmdline().unwrap(), "a=1 b");
        assert_eq!(run(&["--append", "a=1,2", "--exit"]).cmdline().unwrap(), "a=1,2 exit");
        assert_eq!(run(&["--append", "-x"]).cmdline().unwrap(), "-x");
        let scripts = run(&["--lab", "a", "--lab", "b"]);
        assert_eq!(scripts.cmdline().unwrap(), "exit");
        assert_eq!(scripts.lab, [PathBuf::from("a"), PathBuf::from("b")]);
    }

    #[test]
    fn memory_sizes() {
        for (text, want) in [("32M", "32M"), ("6g", "6G"), ("48", "48M"), ("1T", "1T")] {
            assert_eq!(run(&["--memory", text]).memory, Memory(want.into()), "{text}");
        }
        for text in ["", "M", "0", "0G", "-1M", "+1M", "1.5G", "12Q", "99999999999999999999", "é"]
        {
            let error = refused(&["--memory", text]);
            assert_eq!(error.exit_code(), 2, "{text}");
        }
    }

    #[test]
    fn drives_are_sizes_or_files() {
        let drives =
            run(&["--drive", "1g", "--drive", "a.img", "--drive", "12", "--drive", "./1G"]);
        let file = |path: &str| Drive::File(path.into());
        let empty = Drive::Empty(Memory("1G".into()));
        assert_eq!(drives.drive, [empty, file("a.img"), file("12"), file("./1G")]);
        assert_eq!(refused(&["--drive", ""]).kind(), ErrorKind::ValueValidation);
    }

    #[test]
    fn memory_in_kib() {
        for (text, want) in [("32M", 32 << 10), ("6g", 6 << 20), ("4K", 4), ("1T", 1 << 30)] {
            assert_eq!(run(&["--memory", text]).memory.kib(), Some(want), "{text}");
        }
    }

    #[test]
    fn wrong_usage_is_status_2() {
        for args in [
            &["--firmware", "coreboot"][..],
            &["--cpus", "0"],
            &["--cpus", "x"],
            &["--nodes", "0"],
            &["--nodes", "17"],
            &["--timeout", "0"],
            &["--timeout", "-1"],
            &["--append", "a\nb"],
            &["--qemu", "'open"],
            &["--accel", "hvf"],
            &["--machine", "isapc"],
            &["--disk", "floppy"],
            &["--image", "x.img", "--checked"],
            &["--no-serial", "--log", "x"],
            &["--picture", "x.ppm"],
            &["--log"],
            &["--bogus"],
            &["bogus"],
            &["bench", "a b"],
            &["collect"],
            &["collect", "dir", "--serial", "a", "--transcript", "b"],
            &["collect", "dir", "--serial", "a", "--", "--cpus", "2"],
            &["bench", "--save", "--check"],
            &["giveback", "nothing"],
            &["giveback", "balloon", "--save"],
        ] {
            assert_eq!(refused(args).exit_code(), 2, "{args:?}");
        }
        assert_eq!(refused(&["--help"]).kind(), ErrorKind::DisplayHelp);
    }

    #[test]
    fn more_qemu_arguments_are_split_like_a_shells() {
        let options = run(&["--qemu", "-cpu max -name 'two words'"]);
        assert_eq!(options.qemu.0, ["-cpu", "max", "-name", "two words"]);
    }

    #[test]
    fn the_last_of_an_option_counts() {
        assert_eq!(run(&["--memory", "1G", "--memory", "2G"]).memory, Memory("2G".into()));
    }

    #[test]
    fn a_boot_to_collect_from_has_options_of_its_own() {
        let collect = |args: &[&str]| {
            let cli = Cli::try_parse_from([&["quarry", "collect", "dir"], args].concat()).unwrap();
            let Some(Command::Collect(options)) = cli.command else { panic!("{args:?}") };
            options.run()
        };
        assert_eq!(collect(&[]).unwrap().memory, Memory("512M".into()));
        assert_eq!(collect(&["--", "--memory", "1G", "--cpus", "2"]).unwrap().cpus, 2);
        assert_eq!(collect(&["--", "--cpus", "0"]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn experiments_are_chosen_and_run_on_other_machines() {
        let giveback = |args: &[&str]| {
            let cli = Cli::try_parse_from([&["quarry", "giveback"], args].concat()).unwrap();
            let Some(Command::Giveback(options)) = cli.command else { panic!("{args:?}") };
            options
        };
        assert!(giveback(&[]).experiments.is_empty());
        let options = giveback(&["reporting-memfd", "idle", "--", "--cpus", "2"]);
        assert_eq!(options.experiments, [Experiment::ReportingMemfd, Experiment::Idle]);
        assert_eq!(options.run().unwrap().cpus, 2);
        assert!(Experiment::ALL.iter().all(|it| !it.name().is_empty()));
    }

    #[test]
    fn run_can_be_said() {
        let cli = Cli::try_parse_from(["quarry", "run", "--cpus", "2"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Run(options)) if options.cpus == 2));
    }
}
