//! What is typed, on whatever device: one queue of bytes, filled by interrupts
//! (and by the timer, for devices whose interrupts do not come) and read by
//! threads. Special keys come as the sequences that a terminal sends. Calls
//! `task` to wait, `arch` for interrupts and time.

use crate::arch::devices::{self, Delivery};
use crate::arch::irq::IrqMutex;
use crate::arch::time;
use crate::console::broken_lines;
use crate::console::keyboard::{self, Keyboard};
use crate::console::serial::Receiver;
use crate::task::WaitQueue;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use mm::sync::LockRank;
use quarry_kernel::tty::{SERIAL_LINES, Typed};

/// Serial lines.
const LINES: usize = SERIAL_LINES as usize;
/// Bytes that can be typed ahead.
const AHEAD: usize = 4096;
/// Bytes taken from a device at a time. What is more waits for the next
/// interrupt or tick: a device that is broken may not keep the CPU.
const AT_A_TIME: usize = 64;
/// Milliseconds for which a full queue leaves what serial lines have to them, so
/// that the sender waits, after the last byte was read. After that nobody
/// reads: only ^C is looked for, and the rest is lost.
const READER_MS: u64 = 1000;

/// The devices, and what came from them.
struct Input {
    serial: [Option<Receiver>; LINES],
    keyboard: Option<Keyboard>,
    typed: Typed<AHEAD>,
    /// When somebody read last.
    read_ms: u64,
}

static INPUT: IrqMutex<Input> = IrqMutex::new(
    LockRank::Leaf,
    Input { serial: [const { None }; LINES], keyboard: None, typed: Typed::new(), read_ms: 0 },
);

/// Whether a ^C is waiting to be read.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Lines that had been broken off when the reader showed its own last.
static SHOWN: AtomicU32 = AtomicU32::new(0);

/// Where readers wait.
static READERS: WaitQueue = WaitQueue::new();

/// Begins to listen. Once, on the boot CPU, when interrupts can come.
pub(super) fn start(serial: [Option<Receiver>; LINES], with_keyboard: bool) {
    for (number, receiver) in serial.iter().enumerate() {
        let Some(receiver) = receiver else { continue };
        let delivery = receiver.irq().map_or(Delivery::Polled, devices::open);
        log::info!("ttyS{number}: input by {}", how(delivery));
    }
    let keyboard = if with_keyboard { keyboard() } else { None };
    let mut input = INPUT.lock();
    (input.serial, input.keyboard) = (serial, keyboard);
    drop(input);
    poll();
}

fn keyboard() -> Option<Keyboard> {
    match Keyboard::open() {
        Ok(keyboard) => {
            log::info!("keyboard: input by {}", how(devices::open(keyboard::IRQ)));
            Some(keyboard)
        }
        Err(why) => {
            log::info!("keyboard: {why}");
            None
        }
    }
}

fn how(delivery: Delivery) -> &'static str {
    match delivery {
        Delivery::IoApic => "interrupt (I/O APIC)",
        Delivery::Pic => "interrupt (8259)",
        Delivery::Polled => "timer",
    }
}

/// Takes what the devices have. On the boot CPU, in an interrupt handler.
pub(crate) fn poll() {
    let mut input = INPUT.lock();
    let before = input.typed.len();
    let Input { serial, keyboard, typed, read_ms } = &mut *input;
    let is_read = time::now_ms().saturating_sub(*read_ms) < READER_MS;
    for serial in serial.iter_mut().flatten() {
        for _ in 0..AT_A_TIME {
            if is_read && typed.is_full() {
                break;
            }
            let Some(byte) = serial.receive() else { break };
            typed.push(byte);
        }
    }
    if let Some(keyboard) = keyboard {
        let mut push = |byte| {
            typed.push(byte);
        };
        (0..AT_A_TIME).any(|_| !keyboard.receive(&mut push));
    }
    let came = typed.len() != before || typed.is_interrupted();
    INTERRUPTED.store(typed.is_interrupted(), Ordering::Relaxed);
    drop(input);
    // Whoever logs may hold locks, and cannot wake anybody.
    if came || is_broken() {
        READERS.wake_one();
    }
}

fn take(into: &mut [u8]) -> usize {
    let mut input = INPUT.lock();
    let mut len = 0;
    while let Some(to) = into.get_mut(len) {
        let Some(byte) = input.typed.pop() else { break };
        *to = byte;
        len += 1;
    }
    input.read_ms = time::now_ms();
    INTERRUPTED.store(input.typed.is_interrupted(), Ordering::Relaxed);
    len
}

fn is_there() -> bool {
    !INPUT.lock().typed.is_empty()
}

/// Whether the reader's line was broken off.
fn is_broken() -> bool {
    broken_lines() != SHOWN.load(Ordering::Relaxed)
}

/// Reads what was typed; waits for it, or until more lines have been broken off
/// than `shown`, when the reader's own has to be shown again: then nothing may
/// have come. ^C comes as the byte 3 ([`quarry_kernel::tty::INTERRUPT`]), and what was typed
/// before it and not read is lost. In a thread, interrupts on, no lock held.
pub(crate) fn read(into: &mut [u8], shown: u32) -> usize {
    SHOWN.store(shown, Ordering::Relaxed);
    READERS.wait_until(|| is_there() || is_broken());
    take(into)
}

/// Whether ^C was typed, and neither read nor taken yet. From any context.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Whether ^C was typed; if so, drops it and what was typed before it, so that it
/// does not interrupt what comes next.
pub(crate) fn take_interrupt() -> bool {
    let mut input = INPUT.lock();
    INTERRUPTED.store(false, Ordering::Relaxed);
    input.typed.take_interrupt()
}
