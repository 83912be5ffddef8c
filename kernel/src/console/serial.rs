//! Serial lines, with bounded patience: a UART that is missing, or stops
//! answering, costs output but never the boot. Calls nothing.

use core::ptr::NonNull;
use quarry_kernel::tty::{LineMode, Parity};
use uart_16550::backend::{Backend, MmioBackend, PioBackend};
use uart_16550::spec::registers::{self, IER, LSR, WordLength};
use uart_16550::{BaudRate, Config, Uart16550};

/// Looks at a busy transmitter before it counts as stalled. Each takes a
/// microsecond or so on real hardware, where a full FIFO drains in 1.4 ms, or in
/// 140 ms at the lowest rate that anybody uses.
const PATIENCE: u32 = 1_000_000;

/// Where a UART's registers are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// In I/O space.
    Port(u16),
    /// In memory, `stride` bytes apart.
    Memory {
        /// The first one.
        base: NonNull<u8>,
        /// From one to the next.
        stride: u8,
    },
}

// SAFETY: an address; who uses it holds the devices' lock.
unsafe impl Send for Place {}

/// The UARTs of a PC: base port, interrupt of the ISA bus.
pub(super) const PORTS: [(u16, u8); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];

/// Either way to reach registers.
enum Wires {
    Port(PioBackend),
    Memory(MmioBackend),
}

impl Backend for Wires {
    unsafe fn read(&mut self, register: u8) -> u8 {
        // SAFETY: passed on to the caller.
        unsafe {
            match self {
                Self::Port(port) => port.read(register),
                Self::Memory(memory) => memory.read(register),
            }
        }
    }

    unsafe fn write(&mut self, register: u8, value: u8) {
        // SAFETY: passed on to the caller.
        unsafe {
            match self {
                Self::Port(port) => port.write(register, value),
                Self::Memory(memory) => memory.write(register, value),
            }
        }
    }
}

type Uart = Uart16550<Wires>;

/// The UART at `place`, untouched.
///
/// # Safety
///
/// Nobody else may use it, and its registers must be mapped for good.
unsafe fn uart(place: Place) -> Option<Uart> {
    // SAFETY: passed on to the caller.
    unsafe {
        let wires = match place {
            Place::Port(base) => Wires::Port(*Uart16550::new_port(base).ok()?.backend()),
            Place::Memory { base, stride } => {
                Wires::Memory(*Uart16550::new_mmio(base, stride).ok()?.backend())
            }
        };
        Some(Uart16550::new_with_backend(wires))
    }
}

/// The sending half of a serial line.
pub(super) struct Serial {
    uart: Uart,
    place: Place,
    /// Its interrupt on the ISA bus, if it has one.
    irq: Option<u8>,
    mode: LineMode,
    /// The transmitter was once given up on: it gets no patience until it has
    /// room again by itself.
    stalled: bool,
    /// The last byte that was written.
    last: u8,
    /// Up to where it has sent what there is to send.
    pub(super) position: u64,
}

impl Serial {
    /// The line at `place`, if a UART answers there; in `mode`.
    ///
    /// # Safety
    ///
    /// As for [`uart`].
    pub(super) unsafe fn open(place: Place, irq: Option<u8>, mode: LineMode) -> Option<Self> {
        // SAFETY: passed on to the caller.
        let uart = unsafe { uart(place) }?;
        let mut serial = Self { uart, place, irq, mode, stalled: false, last: 0, position: 0 };
        (serial.uart.check_present() && serial.set(mode)).then_some(serial)
    }

    /// How it talks.
    pub(super) fn mode(&self) -> LineMode {
        self.mode
    }

    /// Has it talk in another way; false if it cannot.
    pub(super) fn set(&mut self, mode: LineMode) -> bool {
        // `init` waits without limit for the transmitter to run empty, so that
        // is waited for here first, with a limit.
        if !(0..PATIENCE).any(|_| self.uart.lsr().contains(LSR::TRANSMITTER_EMPTY)) {
            return false;
        }
        let config = Config {
            baud_rate: BaudRate::from_integer(mode.baud),
            data_bits: if mode.seven { WordLength::SevenBits } else { WordLength::EightBits },
            parity: match mode.parity {
                Parity::None => registers::Parity::Disabled,
                Parity::Even => registers::Parity::Even,
                Parity::Odd => registers::Parity::Odd,
            },
            check_cts_before_sending: mode.flow,
            ..Config::DEFAULT
        };
        self.mode = mode;
        self.uart.init(config).is_ok()
    }

    /// Begins to receive, by interrupt if that can come.
    pub(super) fn listen(&mut self) -> Option<Receiver> {
        // SAFETY: the same registers, mapped for good; but of them only what has
        // come, which the sender does not touch, and the line's status, which
        // both only read.
        let uart = unsafe { uart(self.place) }?;
        self.uart.enable_interrupts(IER::DATA_READY);
        Some(Receiver { uart, irq: self.irq })
    }

    /// Sends `text`; a line feed gets a carriage return before it if it has none.
    pub(super) fn write(&mut self, text: &[u8]) {
        for part in text.split_inclusive(|&byte| byte == b'\n') {
            if let Some((b'\n', line)) = part.split_last() {
                self.send(line);
                let returned = line.last().copied().unwrap_or(self.last) == b'\r';
                self.send(if returned { b"\n" } else { b"\r\n" });
            } else {
                self.send(part);
            }
            self.last = part.last().copied().unwrap_or(self.last);
        }
    }

    /// Sends `bytes`, or drops what the transmitter does not take in time.
    fn send(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let patience = if self.stalled { 1 } else { PATIENCE };
            let sent = (0..patience).map(|_| self.uart.send_bytes(bytes)).find(|&sent| sent > 0);
            self.stalled = sent.is_none();
            let Some(sent) = sent else { return };
            bytes = &bytes[sent..];
        }
    }
}

/// The receiving half of a serial line.
pub(super) struct Receiver {
    uart: Uart,
    irq: Option<u8>,
}

impl Receiver {
    /// Its interrupt on the ISA bus, if it has one.
    pub(super) fn irq(&self) -> Option<u8> {
        self.irq
    }

    /// The next byte that has come, if one has.
    pub(super) fn receive(&mut self) -> Option<u8> {
        // All ones: the device has gone.
        if self.uart.lsr().bits() == u8::MAX {
            return None;
        }
        self.uart.try_receive_byte().ok()
    }
}
