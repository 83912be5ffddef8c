//! The device and its queues. Calls `device`, `queue`.

use super::{
    CONFIG_POISON_VAL, FEATURE_DEFLATE_ON_OOM, FEATURE_MUST_TELL_HOST, FEATURE_PAGE_POISON,
    FEATURE_REPORTING, FEATURE_STATS_VQ, QUEUE_DEFLATE, QUEUE_INFLATE, QUEUE_REPORTING,
    QUEUE_REPORTING_COUNTED, QUEUE_STATS, Service,
};
use crate::{Coherent, Device, Env, Error, Link, Memory, Queue};
use core::fmt;
use mm::Mm;
use mm::balloon::Terms;
use mm::platform::Platform;
use mm::report::policy::CAPACITY;
use spin::mutex::SpinMutex;

/// Buffers of the queues on which one thing is said at a time.
pub(super) const SMALL: usize = 4;

/// What pages go through. One at a time uses it, by the balloon's contract: the
/// lock around it is never waited for.
pub(super) struct Pages<H: Memory> {
    pub(super) inflate: Queue<H, SMALL>,
    pub(super) deflate: Queue<H, SMALL>,
    /// Their frame numbers.
    pub(super) list: Coherent<H>,
}

/// What the host asks through.
pub(super) struct Stats<H: Memory> {
    pub(super) queue: Queue<H, SMALL>,
    pub(super) answer: Coherent<H>,
}

/// A virtio-balloon device.
pub struct VirtioBalloon<T: Link, E: Env, H: Memory, P: Platform> {
    pub(super) device: Device<T, E>,
    pub(super) mm: &'static Mm<P>,
    pub(super) pages: SpinMutex<Pages<H>>,
    /// As [`Pages`], by the reporting core's contract.
    pub(super) reporting: SpinMutex<Option<Queue<H, CAPACITY>>>,
    /// What the host was told that free pages hold.
    pub(super) pattern: Option<u8>,
}

impl<T: Link, E: Env, H: Memory, P: Platform> fmt::Debug for VirtioBalloon<T, E, H, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioBalloon").field("device", &self.device).finish_non_exhaustive()
    }
}

/// Queues that are set up one after the other, until one cannot be.
struct Parts<H: Memory> {
    inflate: Option<Queue<H, SMALL>>,
    deflate: Option<Queue<H, SMALL>>,
    stats: Option<Queue<H, SMALL>>,
    reporting: Option<Queue<H, CAPACITY>>,
}

impl<H: Memory> Parts<H> {
    fn set_up<T: Link, E: Env>(
        &mut self,
        device: &mut Device<T, E>,
        reports: bool,
    ) -> Result<(), Error> {
        self.inflate = Some(device.queue(QUEUE_INFLATE)?);
        self.deflate = Some(device.queue(QUEUE_DEFLATE)?);
        if device.features() & FEATURE_STATS_VQ != 0 {
            self.stats = Some(device.queue(QUEUE_STATS)?);
        }
        if reports {
            let by_standard = device.has_queue(QUEUE_REPORTING);
            let index = if by_standard { QUEUE_REPORTING } else { QUEUE_REPORTING_COUNTED };
            self.reporting = Some(device.queue(index)?);
        }
        Ok(())
    }

    fn free<T: Link, E: Env>(self, device: &Device<T, E>) {
        let small = [self.inflate, self.deflate, self.stats];
        small.into_iter().flatten().for_each(|queue| queue.free(device));
        if let Some(queue) = self.reporting {
            queue.free(device);
        }
    }
}

impl<T: Link, E: Env, H: Memory, P: Platform> VirtioBalloon<T, E, H, P> {
    /// Takes the device behind `link` over, for `mm`; `number` is for its name.
    /// Comes with what is for the thread that serves it.
    ///
    /// # Errors
    /// [`Error::Broken`], [`Error::NoMemory`]; then the device does nothing.
    pub fn new(
        number: u32,
        link: T,
        env: E,
        mm: &'static Mm<P>,
    ) -> Result<(Self, Service<H>), Error> {
        let list = Coherent::new(1).ok_or(Error::NoMemory)?;
        let answer = Coherent::new(1).ok_or(Error::NoMemory)?;
        let holds = mm.free_page_pattern();
        let poison = if holds.is_some() { FEATURE_PAGE_POISON } else { 0 };
        let wanted = FEATURE_MUST_TELL_HOST
            | FEATURE_STATS_VQ
            | FEATURE_DEFLATE_ON_OOM
            | FEATURE_REPORTING
            | poison;
        let mut device = Device::new(number, link, env, wanted)?;
        let agreed = device.features();
        let pattern = holds.filter(|_| agreed & FEATURE_PAGE_POISON != 0);
        // Free pages that hold something may be reported only if the host knows.
        let reports = agreed & FEATURE_REPORTING != 0 && holds == pattern;
        let mut parts = Parts { inflate: None, deflate: None, stats: None, reporting: None };
        let started = parts.set_up(&mut device, reports).and_then(|()| {
            if let Some(byte) = pattern {
                device.write_config(CONFIG_POISON_VAL, u32::from_le_bytes([byte; 4]))?;
            }
            device.start()
        });
        let started = started.and(match (parts.inflate.is_some(), parts.deflate.is_some()) {
            (true, true) => Ok(()),
            _ => Err(Error::Invalid),
        });
        if let Err(error) = started {
            device.stop();
            parts.free(&device);
            return Err(error);
        }
        let Parts { inflate: Some(inflate), deflate: Some(deflate), stats, reporting } = parts
        else {
            return Err(Error::Invalid);
        };
        let service = Service::new(stats.map(|queue| Stats { queue, answer }));
        let balloon = Self {
            device,
            mm,
            pages: SpinMutex::new(Pages { inflate, deflate, list }),
            reporting: SpinMutex::new(reporting),
            pattern,
        };
        Ok((balloon, service))
    }

    /// Frees the rings and all else that the device, which was stopped or shut
    /// off, certainly does not know any more.
    pub fn free(self) {
        let Self { device, pages, reporting, .. } = self;
        let Pages { inflate, deflate, mut list } = pages.into_inner();
        if !device.is_quiet() {
            list.abandon();
        }
        inflate.free(&device);
        deflate.free(&device);
        if let Some(queue) = reporting.into_inner() {
            queue.free(&device);
        }
    }

    /// The device.
    pub fn device(&self) -> &Device<T, E> {
        &self.device
    }

    /// The memory manager whose pages it is about.
    pub fn mm(&self) -> &'static Mm<P> {
        self.mm
    }

    /// The terms on which the host has pages.
    pub fn terms(&self) -> Terms {
        Terms { deflate_on_oom: self.device.features() & FEATURE_DEFLATE_ON_OOM != 0 }
    }

    /// Whether the host wants to know what is free.
    pub fn reports(&self) -> bool {
        self.reporting.lock().is_some()
    }
}
