//! What the memory manager asks of the device: to take pages, to give them back,
//! and to hear what is free. Calls `queue`.

use super::driver::{Pages, VirtioBalloon};
use super::{PFN_BYTES, QUEUE_DEFLATE, QUEUE_INFLATE};
use crate::device::ANSWER_MS;
use crate::{Buffer, Env, Error, Fault, Link, Memory};
use core::ptr::NonNull;
use mm::balloon::{BATCH, BalloonHost, HostFailed};
use mm::platform::Platform;
use mm::report::policy::CAPACITY;
use mm::report::{ReportDevice, ReportFailed};
use mm::types::{PAGE_SIZE, Pfn, PfnRange};

/// What an error leaves of the device.
pub(super) const fn failed(error: Error) -> HostFailed {
    if error.is_quiet() { HostFailed::Gone } else { HostFailed::Lost }
}

impl<T: Link, E: Env, H: Memory, P: Platform> VirtioBalloon<T, E, H, P> {
    /// Tells the device of `pages` through queue `which`, and waits until it has
    /// taken notice.
    fn tell(&self, which: u16, pages: &[Pfn]) -> Result<(), HostFailed> {
        let mut guard = self.pages.lock();
        let Pages { inflate, deflate, list } = &mut *guard;
        let queue = if which == QUEUE_INFLATE { inflate } else { deflate };
        let mut written = pages.len() <= BATCH;
        for (at, pfn) in pages.iter().enumerate().take(BATCH) {
            let number = u32::try_from(pfn.0);
            written &= number.is_ok_and(|number| list.write(at * PFN_BYTES, number.to_le()));
        }
        let told = match written {
            true => queue.send(&self.device, list, (pages.len() * PFN_BYTES) as u32, ANSWER_MS),
            // Not of this machine: no memory has such numbers.
            false => Err(Error::Unreachable),
        };
        // What cannot be told now cannot be told later: the device goes.
        told.map_err(|error| match error {
            Error::Broken { .. } | Error::Stopped => failed(error),
            _ => failed(self.device.shut_off(Fault::Nonsense("cannot be told of pages"))),
        })
    }
}

impl<T: Link, E: Env, H: Memory, P: Platform> BalloonHost for VirtioBalloon<T, E, H, P> {
    fn inflate(&self, pages: &[Pfn]) -> Result<(), HostFailed> {
        self.tell(QUEUE_INFLATE, pages)
    }

    fn deflate(&self, pages: &[Pfn]) -> Result<(), HostFailed> {
        self.tell(QUEUE_DEFLATE, pages)
    }
}

impl<T: Link, E: Env, H: Memory, P: Platform> ReportDevice for VirtioBalloon<T, E, H, P> {
    fn report(&self, blocks: &[PfnRange]) -> Result<(), ReportFailed> {
        let mut guard = self.reporting.lock();
        let Some(queue) = guard.as_mut() else { return Err(ReportFailed::Gone) };
        let mut chain = [Buffer::writable(NonNull::dangling(), 0); CAPACITY];
        let chain = chain.get_mut(..blocks.len()).ok_or(ReportFailed::Refused)?;
        for (buffer, block) in chain.iter_mut().zip(blocks) {
            let first = NonNull::new(self.mm.platform().frame(block.start));
            let bytes = u32::try_from(block.pages() * PAGE_SIZE as u64);
            let (Some(first), Ok(bytes)) = (first, bytes) else {
                return Err(ReportFailed::Refused);
            };
            *buffer = Buffer::writable(first, bytes);
        }
        // SAFETY: the blocks are nobody's until this returns, and for good if it
        // says that the device may still reach them.
        match unsafe { queue.transfer(&self.device, chain, ANSWER_MS) } {
            Ok(_) => Ok(()),
            Err(Error::Broken { quiet: true, .. } | Error::Stopped) => Err(ReportFailed::Gone),
            Err(Error::Broken { quiet: false, .. }) => Err(ReportFailed::Lost),
            Err(_) => Err(ReportFailed::Refused),
        }
    }

    /// QEMU leaves blocks as they are while it knows of a pattern other than
    /// zeros, and else reads zeros from them.
    fn preserves(&self, pattern: u8) -> bool {
        self.pattern == Some(pattern)
    }
}
