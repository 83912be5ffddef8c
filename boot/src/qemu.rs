//! The QEMU command line. Pure, but for looking where the firmware lies.

use crate::options::{Disk, Drive, RunOptions};
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

/// QEMU's arguments for a run from `disk`. `ovmf` is given for UEFI, `script` if
/// the lab is to run one.
///
/// Disk and UEFI variables are written to copies that QEMU throws away, so the
/// image stays as built and a line that is printed can be repeated.
pub fn arguments(
    options: &RunOptions,
    disk: &Path,
    ovmf: Option<&Ovmf>,
    script: Option<&Path>,
) -> Vec<String> {
    let mut args = Vec::new();
    let mut arg = |words: &[&str]| args.extend(words.iter().map(|&word| word.to_owned()));

    arg(&["-M", options.machine.name(), "-accel", options.accel.name(), "-cpu", cpu(options)]);
    arg(&["-m", &options.memory.0, "-smp", &options.cpus.to_string()]);
    args.extend(memory(options));
    let mut arg = |words: &[&str]| args.extend(words.iter().map(|&word| word.to_owned()));
    if let Some(Ovmf { code, vars }) = ovmf {
        let chip = |unit, mode, path| {
            format!("if=pflash,format=raw,unit={unit},{mode}=on,file={}", escape_path(path))
        };
        arg(&["-drive", &chip(0, "readonly", code), "-drive", &chip(1, "snapshot", vars)]);
    }
    let disk = format!("format=raw,snapshot=on,file={}", escape_path(disk));
    match options.disk {
        Disk::Hd => arg(&["-drive", &disk]),
        Disk::Usb => {
            arg(&["-drive", &format!("if=none,id=stick,{disk}"), "-device", "qemu-xhci"]);
            arg(&["-device", "usb-storage,drive=stick,removable=on,bootindex=0"]);
        }
    }
    for drive in &options.drive {
        arg(&["-drive", &besides(drive)]);
    }
    arg(&["-display", "none", "-nic", "none"]);
    // A crash that resets the machine ends the run instead of starting it over.
    arg(&["-no-reboot"]);
    if options.no_serial {
        // Nor the exit device: the screen would go with the machine.
        arg(&["-serial", "none", "-parallel", "none", "-monitor", "none", "-qmp", "stdio"]);
    } else {
        arg(&["-serial", "mon:stdio"]);
        arg(&["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
    }
    if let Some(line) = options.cmdline() {
        arg(&["-fw_cfg", &format!("name=opt/quarry/cmdline,string={}", escape(&line))]);
    }
    if let Some(script) = script {
        arg(&["-fw_cfg", &format!("name=opt/quarry/lab,file={}", escape_path(script))]);
    }
    args.extend(options.qemu.0.iter().cloned());
    args
}

/// A virtio disk. An empty one is an overlay over nothing, which grows in the
/// host's directory for temporary files as it is written.
fn besides(drive: &Drive) -> String {
    let of = match drive {
        Drive::Empty(size) => {
            format!("driver=null-co,size={},read-zeroes=on,snapshot=on", size.0)
        }
        Drive::File(path) => format!("format=raw,cache=unsafe,file={}", escape_path(path)),
    };
    format!("if=virtio,discard=unmap,{of}")
}

/// Above this many KiB the host is not asked to set aside what the machine may
/// use: it backs what is touched. A host that is smaller than the machine would
/// refuse.
const UNRESERVED_KIB: u64 = 8 << 20;
/// Above this many KiB the emulated processor needs more than its 40 bits of
/// physical address: RAM goes on beyond 1 TiB, past a hole below that.
const WIDE_KIB: u64 = 512 << 20;

fn cpu(options: &RunOptions) -> &'static str {
    let wide = options.memory.kib().is_some_and(|kib| kib > WIDE_KIB);
    if wide { "max,phys-bits=46" } else { "max" }
}

/// The arguments that say where memory comes from, if there is anything to say:
/// it is large, or divided among nodes.
fn memory(options: &RunOptions) -> Vec<String> {
    let Some(kib) = options.memory.kib() else { return Vec::new() };
    let reserve = if kib > UNRESERVED_KIB { ",reserve=off" } else { "" };
    if options.nodes > 1 {
        return numa(options, kib, reserve);
    }
    if reserve.is_empty() {
        return Vec::new();
    }
    let object = format!("memory-backend-ram,id=ram,size={kib}K{reserve}");
    ["-machine", "memory-backend=ram", "-object", &object].map(str::to_owned).into()
}

/// The arguments that divide memory and processors among nodes.
/// The nodes stand in a row: each is 10 further from the first than the one
/// before it.
fn numa(options: &RunOptions, kib: u64, reserve: &str) -> Vec<String> {
    let (nodes, cpus) = (u64::from(options.nodes), u64::from(options.cpus));
    let mut args = Vec::new();
    // In whole MiB, what is left over on the last.
    let each = (kib / nodes) >> 10 << 10;
    for node in 0..nodes {
        let size = if node + 1 < nodes { each } else { kib - each * node };
        let mut place = format!("node,nodeid={node},memdev=node{node}");
        let (first, end) = (cpus * node / nodes, cpus * (node + 1) / nodes);
        if first < end {
            place += &format!(",cpus={first}-{}", end - 1);
        }
        let object = format!("memory-backend-ram,id=node{node},size={size}K{reserve}");
        args.extend(["-object".into(), object]);
        args.extend(["-numa".into(), place]);
    }
    for (a, b) in (0..nodes).flat_map(|a| (a + 1..nodes).map(move |b| (a, b))) {
        let distance = format!("dist,src={a},dst={b},val={}", 10 + 10 * (b - a));
        args.extend(["-numa".into(), distance]);
    }
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
        let script = (!cli.run.lab.is_empty()).then_some(Path::new("/x/c,d.lab"));
        arguments(&cli.run, Path::new("/x/a,b.img"), ovmf, script)
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
    fn a_script_is_handed_over() {
        let args = args(&["--lab", "x"], None);
        assert!(has(&args, "-fw_cfg", "name=opt/quarry/lab,file=/x/c,,d.lab"));
        assert!(has(&args, "-fw_cfg", "name=opt/quarry/cmdline,string=exit"));
    }

    #[test]
    fn a_stick_and_no_serial_port() {
        let args = args(&["--machine", "q35", "--disk", "usb", "--no-serial"], None);
        assert!(has(&args, "-M", "q35") && has(&args, "-device", "qemu-xhci"));
        assert!(has(&args, "-drive", "if=none,id=stick,format=raw,snapshot=on,file=/x/a,,b.img"));
        assert!(has(&args, "-serial", "none") && has(&args, "-qmp", "stdio"));
        assert!(!args.iter().any(|arg| arg.contains("isa-debug-exit") || arg.contains("stdio,")));
    }

    #[test]
    fn disks_besides() {
        let args = args(&["--drive", "1G", "--drive", "/x/a,b"], None);
        let empty = "if=virtio,discard=unmap,driver=null-co,size=1G,read-zeroes=on,snapshot=on";
        assert!(has(&args, "-drive", empty));
        assert!(has(
            &args,
            "-drive",
            "if=virtio,discard=unmap,format=raw,cache=unsafe,file=/x/a,,b"
        ));
    }

    #[test]
    fn large_machines_are_not_reserved() {
        let small = args(&["--memory", "8G"], None);
        assert!(has(&small, "-cpu", "max") && !small.iter().any(|arg| arg.contains("backend")));
        let large = args(&["--memory", "64G"], None);
        assert!(has(&large, "-cpu", "max") && has(&large, "-machine", "memory-backend=ram"));
        assert!(has(&large, "-object", "memory-backend-ram,id=ram,size=67108864K,reserve=off"));
        let huge = args(&["--memory", "2T", "--nodes", "2"], None);
        assert!(has(&huge, "-cpu", "max,phys-bits=46"));
        let object = "memory-backend-ram,id=node1,size=1073741824K,reserve=off";
        assert!(has(&huge, "-object", object) && !has(&huge, "-machine", "memory-backend=ram"));
    }

    #[test]
    fn nodes_share_memory_and_processors() {
        let args = args(&["--memory", "1G", "--cpus", "2", "--nodes", "3"], None);
        assert!(has(&args, "-object", "memory-backend-ram,id=node0,size=349184K"));
        assert!(has(&args, "-object", "memory-backend-ram,id=node2,size=350208K"));
        assert!(has(&args, "-numa", "node,nodeid=0,memdev=node0"));
        assert!(has(&args, "-numa", "node,nodeid=1,memdev=node1,cpus=0-0"));
        assert!(has(&args, "-numa", "node,nodeid=2,memdev=node2,cpus=1-1"));
        assert!(has(&args, "-numa", "dist,src=0,dst=2,val=30"));
        assert_eq!(2 * 349_184 + 350_208, 1 << 20);
    }

    #[test]
    fn one_node_is_no_topology() {
        assert!(!args(&[], None).iter().any(|arg| arg == "-numa" || arg == "-object"));
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
