//! The real device as a [`Port`]: one queue, one request at a time. May call:
//! `device`, `queue`.

use super::config::MemConfig;
use super::driver::{MemFault, Next, Port};
use super::request::{BadResponse, REQUEST_BYTES, RESPONSE_BYTES, Request, Response};
use super::{FEATURE_ACPI_PXM, FEATURE_UNPLUGGED_INACCESSIBLE};
use crate::device::ANSWER_MS;
use crate::{Coherent, Device, Env, Error, Fault, Link, Memory, Queue};
use core::fmt;
use mm::platform::LogLevel;

/// The requests' queue.
const QUEUE: u16 = 0;
/// How long a request of the host's may go unseen if no interrupt tells of it.
const LOOK_MS: u64 = 1000;

/// A virtio device of memory that its driver talks to. For one thread.
pub struct MemPort<T: Link, E: Env, H: Memory> {
    device: Device<T, E>,
    queue: Queue<H, 4>,
    request: Coherent<H>,
    answer: Coherent<H>,
    /// How often the configuration had changed before it was last read.
    seen: u32,
}

impl<T: Link, E: Env, H: Memory> fmt::Debug for MemPort<T, E, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemPort").field("device", &self.device).finish_non_exhaustive()
    }
}

impl<T: Link, E: Env, H: Memory> MemPort<T, E, H> {
    /// Takes over the device behind `link`, and starts it. `number` is for its
    /// name.
    ///
    /// # Errors
    /// The device is shut off, or there is no memory for the driver's side.
    pub fn open(number: u32, link: T, env: E) -> Result<Self, Error> {
        let features = FEATURE_ACPI_PXM | FEATURE_UNPLUGGED_INACCESSIBLE;
        let request = Coherent::new(1).ok_or(Error::NoMemory)?;
        let answer = Coherent::new(1).ok_or(Error::NoMemory)?;
        let mut device = Device::new(number, link, env, features)?;
        let queue = match device.queue(QUEUE) {
            Ok(queue) => queue,
            Err(error) => {
                device.stop();
                return Err(error);
            }
        };
        let port = Self { device, queue, request, answer, seen: 0 };
        match port.device.start() {
            Ok(()) => Ok(port),
            Err(error) => {
                port.close();
                Err(error)
            }
        }
    }

    /// Its first configuration, checked.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn first_config(&mut self) -> Result<MemConfig, MemFault> {
        let config = self.config()?;
        config.check()?;
        Ok(config)
    }

    /// Waits until the next round is due.
    pub fn wait(&self, next: Next) {
        let (seen, env) = (self.seen, self.device.env());
        let changed = &mut || env.config_changes() != seen || !self.device.is_working();
        match next {
            Next::Within(ms) => drop(env.wait(ms, changed)),
            // A device without interrupts is looked at now and then.
            Next::OnChange => drop(env.wait(LOOK_MS, changed)),
        }
    }

    /// Shuts the device off for what it has done, with one line that says so.
    pub fn give_up(self, fault: &MemFault) {
        let nonsense = match fault {
            MemFault::Device(_) => None,
            MemFault::Config(_) => Some("has a configuration that cannot be"),
            MemFault::Response(..) => Some("gave an answer that there is not"),
        };
        if let Some(nonsense) = nonsense {
            self.log(LogLevel::Info, format_args!("{fault}"));
            self.device.shut_off(Fault::Nonsense(nonsense));
        }
        self.close();
    }

    /// Stops the device and frees what was for it. What is plugged stays so.
    pub fn close(self) {
        let Self { device, queue, mut request, mut answer, .. } = self;
        if !device.stop() {
            // It may write there yet.
            request.abandon();
            answer.abandon();
        }
        queue.free(&device);
    }
}

impl<T: Link, E: Env, H: Memory> Port for MemPort<T, E, H> {
    fn config(&mut self) -> Result<MemConfig, Error> {
        self.seen = self.device.env().config_changes();
        let has_pxm = self.device.features() & FEATURE_ACPI_PXM != 0;
        self.device.config(|c| MemConfig::read(|at| c.u64(at), |at| c.u16(at), has_pxm))
    }

    fn ask(&mut self, request: Request) -> Result<Result<Response, BadResponse>, Error> {
        self.request.write(0, request.encode());
        // What the device does not write must not look like an answer.
        self.answer.write(0, [u8::MAX; RESPONSE_BYTES]);
        let written = self.queue.exchange(
            &self.device,
            (&mut self.request, REQUEST_BYTES as u32),
            (&mut self.answer, RESPONSE_BYTES as u32),
            ANSWER_MS,
        )?;
        let bytes = self.answer.read::<[u8; RESPONSE_BYTES]>(0).unwrap_or_default();
        Ok(Response::decode(&request, &bytes, written as usize))
    }

    fn config_changed(&mut self) -> bool {
        self.device.env().config_changes() != self.seen
    }

    fn log(&self, level: LogLevel, line: fmt::Arguments<'_>) {
        let number = self.device.number();
        self.device.env().log(level, format_args!("virtio_mem virtio{number}: {line}"));
    }
}
