//! A virtio device under its driver: status, features, configuration, and the
//! end: stopped, or shut off for what it has said. Calls `link`, `env`.

use crate::{Bell, Config, DeviceStatus, DeviceType, Env, Error, Fault, Link, Memory, Queue};
use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use mm::platform::LogLevel;
use spin::Once;
use spin::mutex::SpinMutex;

/// `VIRTIO_F_VERSION_1`: not the interface from before the standard.
pub const VERSION_1: u64 = 1 << 32;
/// `VIRTIO_F_ACCESS_PLATFORM`: the device is at the mercy of the platform's
/// IOMMU. Where none is switched on, it sees memory as the CPUs do.
pub const ACCESS_PLATFORM: u64 = 1 << 33;

/// Queues of a device that a driver can use at most.
pub const MAX_QUEUES: usize = 8;

/// How long a device may take to be reset (ms).
pub const RESET_MS: u64 = 5_000;

/// How long a device may take for what a driver asks of it (ms), where the
/// driver does not know better: the host may be busy, or be swapping.
pub const ANSWER_MS: u64 = 30_000;

/// How often a configuration is read again that changed meanwhile.
const CONFIG_TRIES: usize = 256;

/// What a device may do with memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// All that it is told.
    Working = 0,
    /// It is being reset by somebody.
    Ending = 1,
    /// Nothing: its driver has stopped it.
    Stopped = 2,
    /// Nothing: it was declared broken and certainly stands still.
    Quiet = 3,
    /// Unknown: it was declared broken and cannot be made to stand still.
    Loose = 4,
}

impl State {
    const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Working,
            1 => Self::Ending,
            2 => Self::Stopped,
            3 => Self::Quiet,
            _ => Self::Loose,
        }
    }
}

/// A virtio device that belongs to a driver. Threads share it; each of its
/// queues is one thread's at a time.
pub struct Device<T: Link, E: Env> {
    number: u32,
    kind: DeviceType,
    features: u64,
    env: E,
    link: SpinMutex<T>,
    bells: [Option<T::Bell>; MAX_QUEUES],
    state: AtomicU8,
    /// What was wrong first; written before the state says so.
    fault: Once<Fault>,
    leaked: AtomicU64,
}

impl<T: Link, E: Env> fmt::Debug for Device<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Device");
        out.field("name", &format_args!("{self}")).field("state", &self.state());
        out.field("fault", &self.fault.get()).finish_non_exhaustive()
    }
}

/// The device's name in the log, with what it is.
impl<T: Link, E: Env> fmt::Display for Device<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virtio{}: {:?}", self.number, self.kind)
    }
}

impl<T: Link, E: Env> Device<T, E> {
    /// Takes the device behind `link` over: resets it, and agrees with it on
    /// those of its features that are in `wanted`; version 1 is always among
    /// them. `number` is for its name, `virtioN`. Then come the queues, then
    /// [`Device::start`].
    ///
    /// # Errors
    ///
    /// [`Error::Broken`], after one line in the log.
    pub fn new(number: u32, link: T, env: E, wanted: u64) -> Result<Self, Error> {
        let mut device = Self {
            number,
            kind: link.device_type(),
            features: 0,
            env,
            link: SpinMutex::new(link),
            bells: [const { None }; MAX_QUEUES],
            state: AtomicU8::new(State::Working as u8),
            fault: Once::new(),
            leaked: AtomicU64::new(0),
        };
        match device.negotiate(wanted | VERSION_1 | ACCESS_PLATFORM) {
            Ok(features) => {
                device.features = features;
                Ok(device)
            }
            Err(fault) => Err(device.shut_off(fault)),
        }
    }

    fn negotiate(&self, wanted: u64) -> Result<u64, Fault> {
        if self.status().bits() == u32::from(u8::MAX) {
            return Err(Fault::Gone);
        }
        if !self.reset() {
            return Err(Fault::NoReset(self.status().bits()));
        }
        let known = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
        let offered = self.with(|link| {
            link.set_status(DeviceStatus::ACKNOWLEDGE);
            link.set_status(known);
            link.read_device_features()
        });
        if offered & VERSION_1 == 0 {
            return Err(Fault::Legacy);
        }
        let agreed = offered & wanted;
        let status = self.with(|link| {
            link.write_driver_features(agreed);
            link.set_status(known | DeviceStatus::FEATURES_OK);
            link.get_status()
        });
        if status.bits() == u32::from(u8::MAX) {
            return Err(Fault::Gone);
        }
        if !status.contains(DeviceStatus::FEATURES_OK) {
            return Err(Fault::FeaturesRefused(agreed));
        }
        self.with(Link::config_interrupt)?;
        Ok(agreed)
    }

    /// What it is.
    pub fn kind(&self) -> DeviceType {
        self.kind
    }

    /// N of its name `virtioN`.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The features that device and driver have agreed on.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Its surroundings.
    pub fn env(&self) -> &E {
        &self.env
    }

    /// Sets up queue `index` with room for `SIZE` buffers, a power of two.
    /// Before [`Device::start`], once per queue.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`] for the rings; [`Error::Broken`] if the device has no
    /// such queue or a smaller one; [`Error::Invalid`] beyond [`MAX_QUEUES`] or
    /// for a queue that is set up.
    pub fn queue<H: Memory, const SIZE: usize>(
        &mut self,
        index: u16,
    ) -> Result<Queue<H, SIZE>, Error> {
        self.check()?;
        if self.bells.get(usize::from(index)).is_none_or(Option::is_some) {
            return Err(Error::Invalid);
        }
        // Not under the lock, for there memory cannot be waited for.
        let link = self.link.get_mut();
        let queue = match Queue::set_up(link, index, self.number) {
            Ok(queue) => queue,
            Err(SetUp::NoMemory) => return Err(Error::NoMemory),
            Err(SetUp::Fault(fault)) => return Err(self.shut_off(fault)),
        };
        match link.bell(index) {
            Ok(bell) => {
                self.bells[usize::from(index)] = Some(bell);
                Ok(queue)
            }
            Err(fault) => {
                let error = self.shut_off(fault);
                queue.free(self);
                Err(error)
            }
        }
    }

    /// Whether the device has a queue of number `index`, of whatever size.
    pub fn has_queue(&self, index: u16) -> bool {
        self.with(|link| link.max_queue_size(index)) != 0
    }

    /// From here on the device works.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`].
    pub fn start(&self) -> Result<(), Error> {
        self.check()?;
        self.with(|link| {
            let status = DeviceStatus::ACKNOWLEDGE
                | DeviceStatus::DRIVER
                | DeviceStatus::FEATURES_OK
                | DeviceStatus::DRIVER_OK;
            link.set_status(status);
        });
        self.check_status()
    }

    /// Tells the device that queue `index` has buffers for it.
    pub(crate) fn ring(&self, index: u16) {
        if let Some(Some(bell)) = self.bells.get(usize::from(index)) {
            bell.ring();
        }
    }

    /// Reads fields that belong together: again until the device has not changed
    /// its configuration meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`] if a field is missing, the device is gone or never stops
    /// changing.
    pub fn config<R>(&self, read: impl Fn(&Config<'_, T>) -> Result<R, Fault>) -> Result<R, Error> {
        self.check()?;
        for _ in 0..CONFIG_TRIES {
            let found = self.with(|link| {
                let before = link.read_config_generation();
                let found = read(&Config::new(link));
                (link.read_config_generation() == before).then_some(found)
            });
            match found {
                Some(Ok(found)) => return self.check_status().map(|()| found),
                Some(Err(fault)) => return Err(self.shut_off(fault)),
                None => core::hint::spin_loop(),
            }
        }
        Err(self.shut_off(Fault::ConfigUnstable))
    }

    /// Writes a 32-bit field of the configuration.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`], also if there is no such field.
    pub fn write_config(&self, offset: usize, value: u32) -> Result<(), Error> {
        self.check()?;
        self.with(|link| link.write_config_space(offset, value))
            .map_err(|_| self.shut_off(Fault::ConfigTooSmall(offset)))
    }

    /// Whether the device works still.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`] or [`Error::Stopped`]; a device that is just being shut
    /// off is waited for.
    pub fn check(&self) -> Result<(), Error> {
        match self.state() {
            State::Working => Ok(()),
            _ => Err(self.ended()),
        }
    }

    /// Whether the device works still, as far as this CPU has heard: for a look
    /// within a wait.
    pub(crate) fn is_working(&self) -> bool {
        self.state() == State::Working
    }

    /// [`Device::check`], after a look at the device's status.
    ///
    /// # Errors
    ///
    /// As [`Device::check`].
    pub fn check_status(&self) -> Result<(), Error> {
        self.check()?;
        let status = self.status();
        if status.bits() == u32::from(u8::MAX) {
            return Err(self.shut_off(Fault::Gone));
        }
        if status.contains(DeviceStatus::DEVICE_NEEDS_RESET) {
            return Err(self.shut_off(Fault::NeedsReset));
        }
        Ok(())
    }

    /// Whether the device certainly has no access to memory.
    pub fn is_quiet(&self) -> bool {
        matches!(self.state(), State::Stopped | State::Quiet)
    }

    /// Whether the device has no access to memory, after another look at one that
    /// could not be shut off: it may have been reset at last, or be gone.
    /// Interrupts on, no lock held.
    pub fn look_again(&self) -> bool {
        if self.state() == State::Loose {
            let status = self.status();
            // Its status was not 0 when it was last told to reset itself.
            let ended = status.is_empty() || status.bits() == u32::from(u8::MAX);
            if self.with(Link::cut_off) || ended {
                self.leave(State::Quiet);
                self.env.log(LogLevel::Info, format_args!("{self} is quiet at last"));
            }
        }
        self.is_quiet()
    }

    /// What was wrong with the device first, if it was declared broken.
    pub fn fault(&self) -> Option<Fault> {
        self.fault.get().copied()
    }

    /// Pages that a broken device may still write to: never used again.
    pub fn leaked(&self) -> u64 {
        self.leaked.load(Ordering::Relaxed)
    }

    /// Declares the device broken: one line in the log, a reset that is waited
    /// for, and its access to memory taken away. Of several faults the first
    /// counts. Returns what the driver is to return, when all is done. Interrupts
    /// on, no lock held.
    pub fn shut_off(&self, fault: Fault) -> Error {
        if self.enter(State::Ending) {
            self.fault.call_once(|| fault);
            let gone = fault == Fault::Gone;
            let reset = !gone && !matches!(fault, Fault::NoReset(_)) && self.reset();
            let cut = self.with(Link::cut_off);
            let quiet = reset || cut;
            self.leave(if quiet { State::Quiet } else { State::Loose });
            let more = if quiet { "" } else { ", and cannot be kept from memory" };
            self.env.log(LogLevel::Error, format_args!("{self} {fault}: shut off{more}"));
        }
        self.ended()
    }

    /// Resets the device for good, because its driver goes. False if it cannot
    /// be reset; then it is shut off as broken.
    pub fn stop(&self) -> bool {
        if self.state() == State::Working {
            if self.reset() {
                if self.enter(State::Ending) {
                    self.leave(State::Stopped);
                }
            } else {
                self.shut_off(Fault::NoReset(self.status().bits()));
            }
        }
        let _ = self.ended();
        self.is_quiet()
    }

    /// Counts `pages` that must never be used again, and says so once.
    pub(crate) fn leak(&self, pages: u64) {
        if self.leaked.fetch_add(pages, Ordering::Relaxed) == 0 {
            let line = format_args!("{self}: memory that it may write to is never freed");
            self.env.log(LogLevel::Warn, line);
        }
    }

    /// Resets the device, and waits until it says that it is done.
    fn reset(&self) -> bool {
        self.with(|link| link.set_status(DeviceStatus::empty()));
        self.env.wait(RESET_MS, &mut || self.status().is_empty())
    }

    fn status(&self) -> DeviceStatus {
        self.with(|link| link.get_status())
    }

    fn state(&self) -> State {
        State::from_u8(self.state.load(Ordering::Acquire))
    }

    /// Whether this call has ended the device's work.
    fn enter(&self, state: State) -> bool {
        let (old, new) = (State::Working as u8, state as u8);
        self.state.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn leave(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
        self.env.wake();
    }

    /// Waits until it is settled how the device ended.
    fn ended(&self) -> Error {
        let settled = &mut || self.state() != State::Ending;
        self.env.wait(2 * RESET_MS, settled);
        match (self.state(), self.fault()) {
            (State::Stopped, _) => Error::Stopped,
            (state, Some(fault)) => Error::Broken { fault, quiet: state == State::Quiet },
            // Between the two steps of `shut_off`, for ages.
            (_, None) => Error::Broken { fault: Fault::NoReset(0), quiet: false },
        }
    }

    /// Runs `f` with the device's registers to itself.
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        let (mut f, mut result) = (Some(f), None);
        self.env.exclusively(&mut || {
            if let Some(f) = f.take() {
                result = Some(f(&mut self.link.lock()));
            }
        });
        match result {
            Some(result) => result,
            None => unreachable!("an Env runs what it is given"),
        }
    }
}

/// Why a queue was not set up.
pub(crate) enum SetUp {
    /// No memory for its rings.
    NoMemory,
    /// The device has it not as needed.
    Fault(Fault),
}
