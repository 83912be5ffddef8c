//! The QEMU command line. Pure, but for looking where the firmware lies.

use crate::options::RunOptions;
use std::path::{Path, PathBuf};

/// The program.
pub const QEMU: &str = "qemu-system-x86_64";

/// The two flash chips of UEFI firmware.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ovmf {
    /// The code, read only.
    pub code: PathBuf,
    /// The variables as they were delivered.
    pub vars: PathBuf,
}

/// Where distributions put OVMF without Secure Boot: code, variables.
const OVMF: [(&str, &str); 4] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
];

impl Ovmf {
    /// The first pair of files that is there.
    pub fn find() -> Option<Self> {
        let pair = OVMF.iter().find(|(code, vars)| [code, vars].iter().all(|p| is_file(p)))?;
        Some(Self { code: pair.0.into(), vars: pair.1.into() })
    }
}

fn is_file(path: &str) -> bool {
    Path::new(path).is_file()
}

/// QEMU's arguments for a run from `disk`. `ovmf` is given for UEFI.
///
/// Disk and UEFI variables are written to copies that QEMU throws away, so the
/// image stays as built and a line that is printed can be repeated.
pub fn arguments(options: &RunOptions, disk: &Path, ovmf: Option<&Ovmf>) -> Vec<String> {
    let mut args = Vec::new();
    let mut arg = |words: &[&str]| args.extend(words.iter().map(|&word| word.to_owned()));

    arg(&["-accel", options.accel.name(), "-cpu", "max"]);
    arg(&["-m", &options.memory.0, "-smp", &options.cpus.to_string()]);
    if let Some(Ovmf { code, vars }) = ovmf {
        let chip = |unit, mode, path| {
            format!("if=pflash,format=raw,unit={unit},{mode}=on,file={}", escape_path(path))
        };
        arg(&["-drive", &chip(0, "readonly", code), "-drive", &chip(1, "snapshot", vars)]);
    }
    arg(&["-drive", &format!("format=raw,snapshot=on,file={}", escape_path(disk))]);
    arg(&["-display", "none", "-serial", "mon:stdio", "-nic", "none"]);
    // A crash that resets the machine ends the run instead of starting it over.
    arg(&["-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
    if let Some(line) = options.cmdline() {
        arg(&["-fw_cfg", &format!("name=opt/quarry/cmdline,string={}", escape(&line))]);
    }
    args.extend(options.qemu.0.iter().cloned());
    args
}

/// A value inside one of QEMU's comma-separated lists.
fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

fn escape_path(path: &Path) -> String {
    escape(&path.to_string_lossy())
}

/// The command as one line that a shell takes apart again as it was.
pub fn line(args: &[String]) -> String {
    let words = std::iter::once(QEMU).chain(args.iter().map(String::as_str));
    // Only a NUL byte cannot be quoted, and no argument can hold one.
    shlex::try_join(words).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Cli;
    use clap::Parser;

    fn args(options: &[&str], ovmf: Option<&Ovmf>) -> Vec<String> {
        let cli = Cli::try_parse_from([&["quarry"], options].concat()).unwrap();
        arguments(&cli.run, Path::new("/x/a,b.img"), ovmf)
    }

    fn has(args: &[String], option: &str, value: &str) -> bool {
        args.windows(2).any(|pair| pair[0] == option && pair[1] == value)
    }

    #[test]
    fn the_machine() {
        let args = args(&["--memory", "6G", "--cpus", "2", "--accel", "kvm"], None);
        assert!(has(&args, "-m", "6G"));
        assert!(has(&args, "-smp", "2"));
        assert!(has(&args, "-accel", "kvm"));
        assert!(has(&args, "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"));
        assert!(args.contains(&"-no-reboot".into()));
        assert!(has(&args, "-drive", "format=raw,snapshot=on,file=/x/a,,b.img"));
        assert!(!args.iter().any(|arg| arg.contains("pflash") || arg == "-fw_cfg"));
    }

    #[test]
    fn commas_of_the_command_line_are_doubled() {
        let args = args(&["--append", "memmap=1M@16M,4K$1M", "--exit"], None);
        let want = "name=opt/quarry/cmdline,string=memmap=1M@16M,,4K$1M exit";
        assert!(has(&args, "-fw_cfg", want), "{args:?}");
    }

    #[test]
    fn uefi_keeps_the_delivered_variables() {
        let ovmf = Ovmf { code: "/o/code.fd".into(), vars: "/o/vars.fd".into() };
        let args = args(&["--firmware", "uefi"], Some(&ovmf));
        assert!(has(&args, "-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/o/code.fd"));
        assert!(has(&args, "-drive", "if=pflash,format=raw,unit=1,snapshot=on,file=/o/vars.fd"));
    }

    #[test]
    fn more_arguments_come_last() {
        let args = args(&["--qemu", "-cpu qemu64"], None);
        assert_eq!(args[args.len() - 2..], ["-cpu", "qemu64"]);
    }

    #[test]
    fn the_line_survives_a_shell() {
        let args = args(&["--append", "a=$HOME 'b' \"c\""], None);
        let words = shlex::split(&line(&args)).unwrap();
        assert_eq!(words[0], QEMU);
        assert_eq!(words[1..], args);
    }
}
