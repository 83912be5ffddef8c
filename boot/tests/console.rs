//! Consoles of a machine in QEMU: serial lines, screen and keyboard. They build
//! the image and boot, so they run only when asked for:
//! `cargo test -p boot --test console -- --ignored`.

use boot::cargo::{Build, Workspace};
use boot::collect::session::Session;
use boot::image;
use boot::options::{Cli, Firmware};
use boot::qemu;
use boot::run::Guest;
use boot::screendump::Picture;
use clap::Parser;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// A machine that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(150);
/// What every console begins with, the machine's first line.
const FIRST: &str = "[    0.000000] Quarry ";
/// QEMU's key for its own commands on the same line as the machine's.
const MONITOR: &[u8] = b"\x01c";

/// Boots with `options` of `quarry run`, on a machine that has no device to leave
/// by; what the first serial line says, and is told, is the session's.
fn boot(options: &[&str]) -> (Session, Guest) {
    let options = Cli::try_parse_from([&["quarry"], options].concat()).unwrap().run;
    let workspace = Workspace::find().unwrap();
    let dir = workspace.target().join("run");
    image::make(&workspace, &dir, Build::Release, &[Firmware::Bios], "").unwrap();
    let disk = image::image_path(&dir, Firmware::Bios);
    let mut args = qemu::arguments(&options, &disk, None, None);
    for arg in args.iter_mut().filter(|arg| arg.starts_with("isa-debug-exit")) {
        *arg = "isa-debug-exit,iobase=0x700".to_owned();
    }
    let (guest, input, output) = Guest::start(qemu::QEMU, &args).unwrap();
    (Session::new(input, output, LIMIT), guest)
}

/// Has QEMU itself do something.
fn monitor(session: &mut Session, command: &str) {
    session.keys(&[MONITOR, command.as_bytes(), b"\r", MONITOR].concat(), "(qemu)").unwrap();
}

fn heard(session: &Session) -> String {
    String::from_utf8_lossy(session.transcript()).replace('\r', "")
}

/// What `path` holds once it has `what` in it.
fn wait_for(path: &Path, what: &str) -> String {
    let deadline = Instant::now() + LIMIT;
    loop {
        let text = fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).replace('\r', "");
        if text.contains(what) {
            return text;
        }
        assert!(Instant::now() < deadline, "{what:?} never came, but {text}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Time for a machine to do what it was asked for; less than [`LIMIT`].
const ANSWERS: Duration = Duration::from_secs(40);

/// The text on the machine's screen once `done` says that it is.
fn look(session: &mut Session, dir: &Path, done: impl Fn(&[String]) -> bool) -> Vec<String> {
    let path = dir.join("screen.ppm");
    let deadline = Instant::now() + ANSWERS;
    loop {
        // What it wrote last time is not what is there now.
        let _ = fs::remove_file(&path);
        monitor(session, &format!("screendump {}", path.display()));
        // It answers before it has done it.
        let picture = (0..100).find_map(|_| {
            thread::sleep(Duration::from_millis(50));
            Picture::from_ppm(&fs::read(&path).ok()?)
        });
        let lines = picture.map(|picture| picture.small_text()).unwrap_or_default();
        if done(&lines) {
            return lines;
        }
        assert!(Instant::now() < deadline, "the screen says {lines:?}");
    }
}

/// The last line that is not blank.
fn last(lines: &[String]) -> &str {
    lines.iter().rev().map(|line| line.trim_end()).find(|line| !line.is_empty()).unwrap_or_default()
}

#[test]
#[ignore = "boots a machine"]
fn what_the_keyboard_types_is_on_screen_and_serial_line() {
    let dir = tempfile::tempdir().unwrap();
    let (mut at, _guest) = boot(&["--append", "selftest=off"]);
    at.log_in(false).unwrap();
    look(&mut at, dir.path(), |lines| last(lines).starts_with("quarry>"));

    // Letters, control, shift, arrows, keys that delete.
    let keys = "x ctrl-u g e t spc v m s a t left left t end dot n r shift-minus \
        f r e e shift-minus p a g x backspace e s ret";
    for key in keys.split_whitespace() {
        // Held for a millisecond: two keys at a time would be something else.
        monitor(&mut at, &format!("sendkey {key} 1"));
        thread::sleep(Duration::from_millis(200));
    }
    look(&mut at, dir.path(), |lines| {
        lines.iter().any(|line| line.starts_with("vmstat.nr_free_pages is "))
    });

    // It scrolls: what is printed last stands last.
    at.command("dmesg").unwrap();
    at.command("uptime").unwrap();
    look(&mut at, dir.path(), |lines| {
        let up = lines.iter().rposition(|line| line.starts_with("up 0:"));
        up.is_some_and(|up| lines[up + 1] == last(lines)) && last(lines).starts_with("quarry>")
    });

    // What has scrolled out can be looked at, up to the boot's first lines; who
    // types is back.
    for _ in 0..30 {
        monitor(&mut at, "sendkey pgup 1");
        thread::sleep(Duration::from_millis(50));
    }
    look(&mut at, dir.path(), |lines| lines[0].starts_with(FIRST));
    monitor(&mut at, "sendkey x 1");
    look(&mut at, dir.path(), |lines| last(lines).trim_end() == "quarry> x");
}

#[test]
#[ignore = "boots a machine"]
fn the_command_line_chooses_consoles() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, third) = (dir.path().join("ttyS1"), dir.path().join("ttyS2"));
    let serial = format!(
        "-serial unix:{},server=on,wait=on -chardev file,id=third,path={} \
         -device isa-serial,chardev=third,iobase=0x3e8,irq=4",
        socket.display(),
        third.display()
    );
    let cmdline = "selftest=off console=ttyS2,9600e7 console=lpt0 console=ttyS0,1234 \
        console=ttyS3 console=ttyS4 console=ttyS1,57600n8";
    let (mut first, _guest) = boot(&["--append", cmdline, "--qemu", &serial]);
    // The machine waits for it, or its first lines would be lost.
    let deadline = Instant::now() + LIMIT;
    let mut second = loop {
        match Session::open(&socket, LIMIT) {
            Ok(session) => break session,
            Err(error) => assert!(Instant::now() < deadline, "{error:#}"),
        }
        thread::sleep(Duration::from_millis(10));
    };
    first.keys(b"", "Command line: ").unwrap();
    second.log_in(false).unwrap();
    second.command("uptime").unwrap();

    let second = heard(&second);
    for line in [
        FIRST,
        "malformed option \"console=lpt0\"",
        "malformed option \"console=ttyS0,1234\"",
        "console: ttyS3 is not there",
        "console: ttyS4 is not there",
        "console: ttyS2 is on, 9600e7",
        "console: ttyS1 is on, 57600n8",
        "ttyS1: input by interrupt",
        "\nup 0:",
    ] {
        assert!(second.contains(line), "no {line:?} in {second}");
    }
    // A console of no interest to the prompt shows all that the other does.
    let third = wait_for(&third, "\nup 0:");
    assert!(third.contains(FIRST) && third.contains("boot: prompt"), "{third}");
    assert!(!third.contains("ttyS2: input"), "{third}");
    // One that is not asked for is silent from then on.
    let first = heard(&first);
    assert!(first.contains(FIRST) && !first.contains("boot: memory map"), "{first}");
}

/// A table that names `port` as the firmware's console, without its header.
fn spcr(port: u16) -> Vec<u8> {
    let mut table = [0; 80];
    // In I/O space, with registers of 8 bits.
    (table[40], table[41]) = (1, 8);
    table[44..46].copy_from_slice(&port.to_le_bytes());
    // At the 8259, 9600 bits per second.
    (table[52], table[53], table[58]) = (1, 3, 3);
    table[36..].to_vec()
}

#[test]
#[ignore = "boots two machines"]
fn the_firmware_tells_of_a_serial_line() {
    let dir = tempfile::tempdir().unwrap();
    let (table, line) = (dir.path().join("spcr"), dir.path().join("line"));
    for (port, said) in [
        (0x2f8, "console: ttyS1, the firmware's, is on"),
        // No PC has one there by itself.
        (0x240, "console: ttyS4, the firmware's, is on"),
    ] {
        fs::write(&table, spcr(port)).unwrap();
        let _ = fs::remove_file(&line);
        let devices = format!(
            "-acpitable sig=SPCR,rev=2,data={} -chardev file,id=line,path={} \
             -device isa-serial,chardev=line,iobase={port:#x},irq=3",
            table.display(),
            line.display()
        );
        let (mut first, _guest) = boot(&["--append", "selftest=off", "--qemu", &devices]);
        first.log_in(false).unwrap();
        assert!(heard(&first).contains(said), "{}", heard(&first));
        let second = wait_for(&line, "boot: prompt");
        assert!(second.contains(FIRST), "{second}");
    }
}

/// The last words of a machine fill its screen, from the first one on.
#[test]
#[ignore = "boots a machine"]
fn a_crash_report_has_the_screen_for_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (mut at, _guest) = boot(&["--append", "crash=pf"]);
    at.keys(b"", "end of crash report").unwrap();
    let lines = look(&mut at, dir.path(), |lines| last(lines).starts_with("end of crash report"));
    assert!(lines[0].starts_with("CRASH: page fault: writing"), "{lines:?}");
}
