//! Sessions at the prompt of a machine in QEMU, as somebody who types would have
//! them. They build the image and boot, so they run only when asked for:
//! `cargo test -p boot --test prompt -- --ignored`.

use boot::cargo::{Build, Workspace};
use boot::collect::session::Session;
use boot::image;
use boot::options::{Cli, Firmware};
use boot::qemu;
use boot::qmp::Qmp;
use boot::run::Guest;
use clap::Parser;
use serde_json::json;
use std::time::Duration;

/// A machine that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(150);
/// A machine that was told to go has gone by then.
const GOES: Duration = Duration::from_secs(30);

/// Boots with `options` of `quarry run` and waits for the prompt.
fn boot(options: &[&str]) -> (Session, Guest) {
    boot_with(options, &[])
}

/// As [`boot`], with more for QEMU.
fn boot_with(options: &[&str], qemu_options: &[String]) -> (Session, Guest) {
    let options = Cli::try_parse_from([&["quarry"], options].concat()).unwrap().run;
    let workspace = Workspace::find().unwrap();
    let dir = workspace.target().join("run");
    image::make(&workspace, &dir, Build::Release, &[Firmware::Bios], "").unwrap();
    let disk = image::image_path(&dir, Firmware::Bios);
    let mut args = qemu::arguments(&options, &disk, None, None);
    args.extend(qemu_options.iter().map(Into::into));
    let (guest, input, output) = Guest::start(qemu::QEMU, &args).unwrap();
    let mut session = Session::new(input, output, LIMIT);
    session.log_in(false).unwrap();
    (session, guest)
}

#[test]
#[ignore = "boots a machine"]
fn somebody_types() {
    let (mut at, mut guest) =
        boot(&["--cpus", "2", "--append", "selftest=off page_owner=on cma=16M"]);
    let mut say = |keys: &[u8], answer: &str| at.keys(keys, answer).unwrap();

    // Completion, with one key more where there is a choice.
    say(b"al\t", "alloc ");
    say(b"grp 0 AT\t", "ATOMIC ");
    say(b"\r", "-> grp: 1 x order 0, pfn 0x");
    say(b"free g\t", "grp ");
    say(b"\x15pow\t", "poweroff ");
    say(b"\x15cat /p\t", "/proc/");
    say(b"b\t", "buddyinfo ");
    say(b"\r", "Node 0, zone    DMA32");
    say(b"get zone.D\t\t", "zone.DMA.    zone.DMA32.");
    say(b"\x15", "\rquarry> ");

    // History, and editing in the middle: QEMU wants its own ^A doubled.
    say(b"\x1b[A\x1b[A", "alloc grp 0 ATOMIC");
    say(b"\x01\x01\x1b[1;5C p\x7f\x7f\x1b[1;5C2\r", "-> grp2: 1 x order 0");

    // What takes long is stopped.
    say(b"cat /proc/kpageflags\r", "begin-base64");
    say(b"\x03", "error: EINTR: interrupted\r\nquarry> ");
    say(b"tick 600000\r", "\n");
    say(b"\x03", "error: EINTR: interrupted\r\nquarry> ");
    say(b"never run\x03", "^C\r\nquarry> ");

    // Nonsense of all sorts, and the machine stands.
    say(&[&[b'x'; 10_000][..], b"\r"].concat(), "error: E2BIG: ");
    let noise: Vec<u8> =
        (0..4000_u32).map(|i| (i.wrapping_mul(2_654_435_769) >> 13) as u8).collect();
    // QEMU's own escape key, and what would be a command that ends all.
    let noise: Vec<u8> = noise.into_iter().filter(|&byte| byte != 1).collect();
    say(&[&noise[..], b"\x03"].concat(), "^C\r\nquarry> ");
    // Not what it would be without what is no part of a line.
    say(b"free grp\xe9\r", "error: EINVAL: a line has neither control characters");
    say(b"free gr\x07p\r", "error: EINVAL: a line has neither control characters");
    say(b"get grp.count\r", "grp.count is 1");
    say(b"\r\naudit\r", "audit: ok (");

    // What only a kernel has.
    say(b"dmesg\r", "boot: prompt");
    say(b"help poweroff\r", "example: poweroff");
    say(b"leaks mark\r", "leaks: marked");
    say(b"alloc more 3 count=5\r", "-> more: 5 x order 3");
    say(b"leaks\r", "      40 pages in 5 blocks: shell/src/");
    say(b"selftest buddy.every_order\r", "QUARRY-END pass=1 fail=0");
    say(b"selftest no.such\r", "error: EIO: ");
    say(b"bench pages.order0\r", "QUARRY-BENCH-END figures=1 failed=0");
    say(b"cat /proc/iomem\r", " : Kernel code");
    say(b"cat /proc/cmdline\r", "selftest=off page_owner=on cma=16M\r\n");
    say(b"cpus\r", "2 of 2 CPUs run");
    say(b"audit\r", "audit: ok (");

    // ACPI switches it off, which QEMU calls success; its exit device would not.
    at.farewell("poweroff");
    assert_eq!(guest.status(GOES).unwrap(), Some(0));
}

/// What the kernel has to say while somebody types stands above the line, which
/// is shown again, without a key being hit.
#[test]
#[ignore = "boots a machine"]
fn the_log_speaks_while_somebody_types() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("qmp");
    let more = [
        "-m 512M,slots=1,maxmem=1G -object memory-backend-ram,id=more,size=256M",
        "-device virtio-mem-pci,id=vm0,memdev=more,requested-size=0 -qmp",
    ];
    let mut more: Vec<String> = more.join(" ").split(' ').map(String::from).collect();
    more.push(format!("unix:{},server=on,wait=off", socket.display()));
    let (mut at, mut guest) = boot_with(
        &["--machine", "q35", "--append", "selftest=off memhp_default_state=online"],
        &more,
    );
    let mut monitor = Qmp::connect(&socket).unwrap();
    let mut plug = |at: &mut Session, mib: u64, shown: &str| {
        let from = at.transcript().len();
        let size = mib << 20;
        let set = json!({ "path": "/machine/peripheral/vm0", "property": "requested-size", "value": size });
        monitor.ask("qom-set", &set).unwrap();
        // The device may still have had something else to say.
        let wanted = format!("requested size: {size:#x}");
        let said = loop {
            let said = String::from_utf8_lossy(&at.transcript()[from..]).into_owned();
            if said.split_once(&wanted).is_some_and(|(_, after)| after.contains(shown)) {
                break said;
            }
            at.keys(b"", &shown[shown.len() - 1..]).unwrap();
        };
        // What stood there has made room: each line of the log begins in the
        // first column, where nothing else is left.
        for line in said.split("\r\n") {
            let seen = line.rsplit('\r').next().unwrap_or_default();
            assert!(seen.starts_with('[') || seen.starts_with("quarry> "), "{line:?}");
        }
    };
    plug(&mut at, 2, "\r\nquarry> ");
    at.keys(b"alloc gr", "alloc gr").unwrap();
    plug(&mut at, 4, "\r\nquarry> alloc gr");
    // The cursor is where it was, in the middle; and all of it is one line.
    at.keys(b"p 0 ATOMIC\x1b[D\x1b[D", "\x08").unwrap();
    plug(&mut at, 6, "\r\nquarry> alloc grp 0 ATOMIC\x08\x08");
    at.keys(b"\r", "-> grp: 1 x order 0").unwrap();
    at.keys(b"audit\r", "audit: ok (").unwrap();
    at.farewell("poweroff");
    assert_eq!(guest.status(GOES).unwrap(), Some(0));
}

#[test]
#[ignore = "boots two machines"]
fn machines_start_anew() {
    // One by the keyboard controller, one by the register that ACPI names.
    for machine in ["-machine pc", "-machine q35"] {
        let (mut at, mut guest) = boot(&["--append", "selftest=off", "--qemu", machine]);
        at.farewell("reboot");
        // QEMU was told to leave then.
        assert_eq!(guest.status(GOES).unwrap(), Some(0), "{machine}");
    }
}

#[test]
#[ignore = "boots a machine"]
fn a_modern_machine_switches_itself_off() {
    let (mut at, mut guest) = boot(&["--append", "selftest=off", "--qemu", "-machine q35"]);
    at.farewell("poweroff");
    assert_eq!(guest.status(GOES).unwrap(), Some(0));
}
