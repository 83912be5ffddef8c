//! The devices that show what is written: serial lines and the screen. Whoever
//! finds them free feeds them; who finds them busy leaves it to that one. Calls
//! `serial`, `screen`, `input`, `acpi`, `vm`.

use crate::arch::{irq, percpu};
use crate::console::firmware;
use crate::console::screen::{Framebuffer, Screen};
use crate::console::serial::{PORTS, Place, Serial};
use crate::console::{OUT, OUTPUT, RINGS, input, logger};
use crate::task;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use quarry_kernel::tty::{Console, Consoles, Device, FIRMWARE_LINE, LineMode, SERIAL_LINES};
use spin::{Mutex, MutexGuard};

/// Only ever tried, so that an interrupt handler, or a CPU that must not wait,
/// passes by.
static DEVICES: Mutex<Devices> = Mutex::new(Devices::new());

/// Up to where all devices have shown what there is to show.
static SHOWN: AtomicU64 = AtomicU64::new(0);

/// Rounds that a crash report waits for those who use the devices before it
/// takes them away.
const SEIZE_SPINS: u32 = 1_000_000;
/// Rounds that a writer waits for devices that lag.
const LAG_SPINS: u32 = 10_000_000;

/// Bytes taken for a device at a time.
const PIECE: usize = 128;

struct Devices {
    serial: [Option<Serial>; SERIAL_LINES as usize],
    screen: Screen,
    /// Where the prompt reads; None: everywhere.
    reads: Option<Device>,
}

impl Devices {
    const fn new() -> Self {
        let serial = [const { None }; SERIAL_LINES as usize];
        Self { serial, screen: Screen::new(), reads: None }
    }

    /// Shows all that there is to show. Returns up to where that was.
    fn show(&mut self) -> u64 {
        let end = OUTPUT.lock().end();
        for serial in self.serial.iter_mut().flatten() {
            let mut position = serial.position;
            feed(&mut position, &mut |text| serial.write(text));
            serial.position = position;
        }
        if self.screen.on {
            let mut position = self.screen.position;
            feed(&mut position, &mut |text| self.screen.write(text));
            self.screen.position = position;
            self.screen.redraw();
        }
        end
    }
}

/// Hands what follows `position` to `show`.
fn feed(position: &mut u64, show: &mut dyn FnMut(&[u8])) {
    let mut piece = [0; PIECE];
    loop {
        let output = OUTPUT.lock();
        let Some(rings) = &output.rings else { return };
        let (len, from) = rings.out.read(*position, &mut piece);
        drop(output);
        if from > *position {
            show(b"\n** some output was lost here **\n");
        }
        if len == 0 {
            return;
        }
        show(&piece[..len]);
        *position = from + len as u64;
    }
}

/// Hands all of the log to `show`, for a device that comes late; returns where to
/// go on from.
fn replay(show: &mut dyn FnMut(&[u8])) -> u64 {
    let mut piece = [0; PIECE];
    let mut position = 0;
    loop {
        let output = OUTPUT.lock();
        let Some(rings) = &output.rings else { return 0 };
        let start = rings.log.line_start(position);
        let (len, from) = rings.log.read(start, &mut piece);
        let end = rings.out.end();
        drop(output);
        if len == 0 {
            return end;
        }
        show(&piece[..len]);
        position = from + len as u64;
    }
}

/// Shows what was written, unless somebody does so already. From any context but
/// an NMI.
fn drain() {
    loop {
        let Some(mut devices) = DEVICES.try_lock() else { return };
        let end = devices.show();
        SHOWN.store(end, Ordering::Relaxed);
        drop(devices);
        // Who wrote meanwhile has left it to this one.
        if OUTPUT.lock().end() == end {
            return;
        }
    }
}

/// How much the devices lag, in bytes.
fn lag() -> u64 {
    OUTPUT.lock().end().saturating_sub(SHOWN.load(Ordering::Relaxed))
}

/// As [`drain`]; if the devices lag and the caller may wait, waits for them.
pub(super) fn drain_or_wait() {
    drain();
    for _ in 0..LAG_SPINS {
        if lag() < OUT as u64 / 2 || !irq::are_on() || percpu::in_irq() {
            return;
        }
        core::hint::spin_loop();
        drain();
    }
}

/// Shows all that was written, whoever else wants to, for the end of a run.
pub(crate) fn flush() {
    for _ in 0..LAG_SPINS {
        if lag() == 0 {
            return;
        }
        drain();
        core::hint::spin_loop();
    }
}

/// Waits for the devices. In a thread, or while nothing else runs.
fn lock() -> MutexGuard<'static, Devices> {
    loop {
        if let Some(devices) = DEVICES.try_lock() {
            return devices;
        }
        // Who has them may be a thread of this CPU.
        if task::may_sleep() {
            task::yield_now();
        }
    }
}

/// Output devices that were found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    /// A serial line.
    pub(crate) serial: bool,
    /// A screen.
    pub(crate) screen: bool,
}

/// Finds the devices that are consoles unless the command line says otherwise,
/// so that whatever happens is seen, and takes over the `log` facade.
///
/// # Safety
///
/// As for [`move_screen`].
pub(crate) unsafe fn init(framebuffer: Option<Framebuffer>) -> Found {
    OUTPUT.lock().rings = RINGS.take();
    let mut devices = lock();
    // SAFETY: passed on to the caller.
    devices.screen.on = unsafe { devices.screen.open(framebuffer) };
    devices.open(0, LineMode::USUAL);
    logger::install();
    Found { serial: devices.serial[0].is_some(), screen: devices.screen.on }
}

impl Devices {
    /// Opens a serial line, unless it is open in that mode; it shows the log from
    /// its first line on. False if there is none.
    fn open(&mut self, number: u8, mode: LineMode) -> bool {
        let slot = &mut self.serial[usize::from(number)];
        match slot {
            Some(serial) if serial.mode() == mode => return true,
            Some(serial) => {
                if !serial.set(mode) {
                    return false;
                }
            }
            None => {
                let told = firmware::line().filter(|line| line.number == number);
                let (place, irq) = match (told, PORTS.get(usize::from(number))) {
                    (Some(line), _) => (line.place, line.irq),
                    (None, Some(&(port, irq))) => (Place::Port(port), Some(irq)),
                    (None, None) => return false,
                };
                // SAFETY: a PC's ports for serial lines, or what the firmware
                // says are such registers, mapped if they are in memory; this
                // module is their only user.
                *slot = unsafe { Serial::open(place, irq, mode) };
            }
        }
        let Some(serial) = slot else { return false };
        serial.position = replay(&mut |text| serial.write(text));
        true
    }

    fn show_on_screen(&mut self) -> bool {
        let is_there = self.screen.is_there();
        if is_there && !self.screen.on {
            self.screen.position = replay(&mut |text| self.screen.write(text));
            self.screen.redraw();
            self.screen.on = true;
        }
        is_there
    }
}

/// Makes the devices consoles that the command line asks for, and no others; if
/// it asks for none that is there, those that are consoles already stay. If it
/// asks for none at all, the firmware's serial line becomes one more. To be
/// called twice: as soon as the command line is known, and when page tables are
/// in force that map the firmware's line; `all` says that they are.
pub(crate) fn attach(consoles: &Consoles, all: bool) {
    let firmware = firmware::line().filter(|_| all);
    if consoles.as_slice().is_empty() {
        if let Some(line) = firmware {
            let is_on = lock().open(line.number, line.mode);
            let (device, how) =
                (Device::Serial(line.number), if is_on { "is on" } else { "does not answer" });
            log::info!("console: {device}, the firmware's, {how}");
        }
        return;
    }
    let late = |console: &Console| console.device == Device::Serial(FIRMWARE_LINE);
    let mut opened = Consoles::NONE;
    for &console in consoles.as_slice() {
        let Console { device, mode } = console;
        if late(&console) && !all {
            continue;
        }
        let mut devices = lock();
        let found = match device {
            Device::Screen => devices.show_on_screen(),
            Device::Serial(number) => devices.open(number, mode),
        };
        drop(devices);
        if found {
            opened.add(console);
        } else if all {
            log::warn!("console: {device} is not there");
        }
    }
    // What is to come later may be the only one.
    let Some(last) = opened.as_slice().last() else { return };
    if all {
        for Console { device, mode } in opened.as_slice() {
            match device {
                Device::Screen => log::info!("console: {device} is on"),
                Device::Serial(_) => log::info!("console: {device} is on, {mode}"),
            }
        }
    }
    let mut devices = lock();
    devices.reads = Some(last.device);
    let is_open = |device| opened.as_slice().iter().any(|console| console.device == device);
    devices.screen.on &= is_open(Device::Screen);
    for (number, serial) in devices.serial.iter_mut().enumerate() {
        if !is_open(Device::Serial(number as u8)) {
            *serial = None;
        }
    }
}

/// Says where the framebuffer is mapped from now on; with None, nowhere.
///
/// # Safety
///
/// All of it must be mapped until the next call, and nobody else may write to
/// it.
pub(crate) unsafe fn move_screen(framebuffer: Option<Framebuffer>) {
    let mut devices = lock();
    // SAFETY: passed on to the caller.
    unsafe { devices.screen.attach(framebuffer) };
    devices.screen.redraw();
}

/// Begins to take input. Once, on the boot CPU, when interrupts can come.
pub(crate) fn listen() {
    let mut devices = lock();
    let reads = devices.reads;
    let wanted = |device| reads.is_none_or(|reads| reads == device);
    let mut receivers = [const { None }; SERIAL_LINES as usize];
    for (number, serial) in devices.serial.iter_mut().enumerate() {
        if wanted(Device::Serial(number as u8)) {
            receivers[number] = serial.as_mut().and_then(Serial::listen);
        }
    }
    drop(devices);
    input::start(receivers, wanted(Device::Screen));
}

/// Has `draw` draw on the screen, in its own part of it. In a thread, no lock
/// held.
pub(super) fn with_screen<R>(draw: impl FnOnce(&mut Screen) -> R) -> R {
    let drawn = draw(&mut lock().screen);
    // What was written meanwhile was left to this one.
    drain();
    drawn
}

/// The devices for a crash report, at the start of a line.
pub(crate) struct Seized(MutexGuard<'static, Devices>);

/// Takes the devices from whoever has them.
///
/// # Safety
///
/// Nothing else of the kernel may run on, see [`irq::IrqMutex::seize`].
pub(crate) unsafe fn seize() -> Seized {
    // SAFETY: passed on to the caller.
    drop(unsafe { OUTPUT.seize(SEIZE_SPINS) });
    let devices = (0..SEIZE_SPINS).find_map(|_| {
        core::hint::spin_loop();
        DEVICES.try_lock()
    });
    let mut devices = devices.unwrap_or_else(|| {
        // SAFETY: its holder does not run on; what it was doing was to show
        // text, and the text may be in disorder.
        unsafe { DEVICES.force_unlock() };
        DEVICES.lock()
    });
    OUTPUT.lock().fresh_line();
    // All that came before, then a screen for the report alone: it is to fit on
    // a photograph.
    devices.show();
    devices.screen.clear();
    Seized(devices)
}

impl fmt::Write for Seized {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        fmt::Write::write_str(&mut super::Lines(&mut OUTPUT.lock()), text)?;
        SHOWN.store(self.0.show(), Ordering::Relaxed);
        Ok(())
    }
}
