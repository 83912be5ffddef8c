//! Virtio's entropy device (virtio 1.2, 5.4): the host's dice. The smallest
//! driver there is, and so the first user of all that is below it. Calls
//! `device`, `queue`.

use crate::device::ANSWER_MS;
use crate::{Coherent, Device, Env, Error, Fault, Link, Memory, Queue};
use core::fmt;
use virtio_drivers::PAGE_SIZE;

/// How long a request for bytes may take (ms): a device may give one at a time.
pub const FILL_MS: u64 = 4 * ANSWER_MS;

/// An entropy device.
pub struct Entropy<T: Link, E: Env, H: Memory> {
    device: Device<T, E>,
    queue: Queue<H, 8>,
    page: Coherent<H>,
}

impl<T: Link, E: Env, H: Memory> fmt::Debug for Entropy<T, E, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Entropy").field(&self.device).finish()
    }
}

impl<T: Link, E: Env, H: Memory> Entropy<T, E, H> {
    /// Takes the device behind `link` over; `number` is for its name.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`], [`Error::NoMemory`]; then the device does nothing.
    pub fn new(number: u32, link: T, env: E) -> Result<Self, Error> {
        let page = Coherent::new(1).ok_or(Error::NoMemory)?;
        let mut device = Device::new(number, link, env, 0)?;
        let queue = match device.queue(0) {
            Ok(queue) => queue,
            Err(error) => {
                device.stop();
                return Err(error);
            }
        };
        if let Err(error) = device.start() {
            queue.free(&device);
            return Err(error);
        }
        Ok(Self { device, queue, page })
    }

    /// The device.
    pub fn device(&self) -> &Device<T, E> {
        &self.device
    }

    /// Fills `bytes`, as the device gives them: some at a time, within
    /// [`FILL_MS`].
    ///
    /// # Errors
    ///
    /// [`Error::Broken`]; what was filled by then is no better than nothing.
    pub fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        let mut rest = bytes;
        let until = self.device.env().now_ms().saturating_add(FILL_MS);
        while !rest.is_empty() {
            let want = rest.len().min(PAGE_SIZE) as u32;
            let left = until.saturating_sub(self.device.env().now_ms());
            if left == 0 {
                let fault = Fault::NoAnswer { queue: self.queue.index(), ms: FILL_MS };
                return Err(self.device.shut_off(fault));
            }
            let limit = left.min(ANSWER_MS);
            let got = self.queue.receive(&self.device, &mut self.page, want, limit)?;
            if got == 0 {
                return Err(self.device.shut_off(Fault::Nonsense("gives back an empty buffer")));
            }
            let (now, then) = rest.split_at_mut(got as usize);
            for (at, byte) in now.iter_mut().enumerate() {
                *byte = self.page.read(at).unwrap_or(0);
            }
            rest = then;
        }
        Ok(())
    }

    /// Stops the device, and frees all that it is certain not to use any more.
    pub fn stop(self) {
        let Self { device, queue, mut page } = self;
        if !device.stop() {
            page.abandon();
        }
        queue.free(&device);
    }
}
