//! The first serial port, with bounded patience: a UART that is missing, or
//! stops answering, costs output but never the boot. Calls nothing.

use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::{IER, LSR};
use uart_16550::{BaudRate, Config, Uart16550};

/// COM1's base port.
const COM1: u16 = 0x3f8;
/// Its interrupt.
const COM1_IRQ: u8 = 4;

/// Looks at a busy transmitter before it counts as stalled. Each takes a
/// microsecond or so on real hardware, where a full FIFO drains in 1.4 ms.
const PATIENCE: u32 = 1_000_000;

/// A serial line, if there is one.
pub(crate) struct Serial {
    uart: Option<Uart16550<PioBackend>>,
    /// The transmitter was once given up on: it gets no patience until it has
    /// room again by itself.
    stalled: bool,
}

impl Serial {
    pub(crate) const fn new() -> Self {
        Self { uart: None, stalled: false }
    }

    /// Looks for a working UART and sets it to 115200 8N1.
    pub(crate) fn probe(&mut self) -> bool {
        // SAFETY: COM1's ports; this is their only user.
        let Ok(mut uart) = (unsafe { Uart16550::new_port(COM1) }) else { return false };
        if !uart.check_present() {
            return false;
        }
        // `init` waits without limit for the transmitter to run empty, so that
        // is waited for here first, with a limit.
        if !(0..PATIENCE).any(|_| uart.lsr().contains(LSR::TRANSMITTER_EMPTY)) {
            return false;
        }
        let config = Config { baud_rate: BaudRate::Baud115200, ..Config::DEFAULT };
        if uart.init(config).is_err() {
            return false;
        }
        self.uart = Some(uart);
        true
    }

    /// Begins to receive, by interrupt if that can come.
    pub(crate) fn listen(&mut self) -> Option<Receiver> {
        let uart = self.uart.as_mut()?;
        // SAFETY: the same ports, but of the registers only those that the
        // sender does not touch, or, like the line's status, only reads.
        let receiver = unsafe { Uart16550::new_port(COM1) }.ok()?;
        uart.enable_interrupts(IER::DATA_READY);
        Some(Receiver { uart: receiver, irq: COM1_IRQ })
    }

    /// Sends `bytes`, or drops what the transmitter does not take in time.
    pub(crate) fn send(&mut self, mut bytes: &[u8]) {
        let Some(uart) = &mut self.uart else { return };
        while !bytes.is_empty() {
            let patience = if self.stalled { 1 } else { PATIENCE };
            let sent = (0..patience).map(|_| uart.send_bytes(bytes)).find(|&sent| sent > 0);
            self.stalled = sent.is_none();
            let Some(sent) = sent else { return };
            bytes = &bytes[sent..];
        }
    }
}

/// The receiving half of a serial line.
pub(crate) struct Receiver {
    uart: Uart16550<PioBackend>,
    irq: u8,
}

impl Receiver {
    /// Its interrupt on the ISA bus.
    pub(crate) fn irq(&self) -> u8 {
        self.irq
    }

    /// The next byte that has come, if one has.
    pub(crate) fn receive(&mut self) -> Option<u8> {
        // All ones: the device has gone.
        if self.uart.lsr().bits() == u8::MAX {
            return None;
        }
        self.uart.try_receive_byte().ok()
    }
}
