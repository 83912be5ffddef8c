//! The balloon device: the host's wishes for memory, its questions, and what it
//! is told of free memory. Calls `drivers::balloon`, `mm`, `workers`.

use super::bind::{Found, Link};
use super::dma::DeviceMemory;
use super::env::Events;
use crate::platform::Machine;
use crate::task::{self, Config, Mutex};
use crate::workers;
use ::drivers::balloon::{
    FEATURE_DEFLATE_ON_OOM, FEATURE_PAGE_POISON, FEATURE_REPORTING, FEATURE_STATS_VQ, Service,
    VirtioBalloon,
};
use ::drivers::{Device, Link as _};
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use mm::Mm;
use mm::balloon::Balloon;
use quarry_kernel::sched::Name;

type Driver = VirtioBalloon<Link, &'static Events, DeviceMemory, Machine>;

/// How often a device is looked at that could not be shut off (ms).
const LOOK_AGAIN_MS: u64 = 10_000;

/// How long it may take to take a device from its driver, and the time between
/// two looks (ms).
const REMOVE_MS: u64 = 60_000;
const REMOVE_STEP_MS: u64 = 20;

/// The pages that the host has.
static BALLOON: Balloon<Machine> = Balloon::new();
/// The device: the first one that works. Who has the lock may use it; it is gone
/// before what it refers to is.
static DEVICE: Mutex<Option<&'static Driver>> = Mutex::new(None);
/// Pages that the host wants, plus 1; 0 without a device that has said so.
static TARGET: AtomicU64 = AtomicU64::new(0);

/// The balloon.
pub(crate) fn pages() -> &'static Balloon<Machine> {
    &BALLOON
}

/// Pages that the host wants, if there is a host that does.
pub(crate) fn target() -> Option<u64> {
    TARGET.load(Relaxed).checked_sub(1)
}

/// A driver where it can be referred to, for as long as its thread runs.
struct Placed(NonNull<Driver>);

// SAFETY: as good as the box that it would be.
unsafe impl Send for Placed {}

impl Placed {
    /// Keeps `driver`; None without memory.
    fn new(driver: Driver) -> Option<Self> {
        let mut place = Vec::new();
        place.try_reserve_exact(1).ok()?;
        #[allow(clippy::disallowed_methods, reason = "there is room")]
        place.push(driver);
        NonNull::new(place.leak().as_mut_ptr()).map(Self)
    }

    /// The driver.
    fn get(&self) -> &'static Driver {
        // SAFETY: it lives until `free`, whose caller knows of no reference.
        unsafe { self.0.as_ref() }
    }

    /// Frees it.
    ///
    /// # Safety
    ///
    /// Nobody refers to it any more.
    unsafe fn free(self) {
        // SAFETY: what `new` has leaked, a vector of one; the caller's word.
        let mut place = unsafe { Vec::from_raw_parts(self.0.as_ptr(), 1, 1) };
        if let Some(driver) = place.pop() {
            driver.free();
        }
    }
}

/// Takes a device over, and starts the thread that serves it.
pub(super) fn start(mm: &'static Mm<Machine>, mut found: Found) {
    let number = found.number;
    let mut current = DEVICE.lock();
    if current.is_some() {
        found.link.cut_off();
        log::warn!("virtio{number}: there is a balloon already: left out");
        return;
    }
    // What is wrong was said.
    let Ok((device, service)) = VirtioBalloon::new(number, found.link, found.events, mm) else {
        return;
    };
    let Some(placed) = Placed::new(device) else {
        log::error!("virtio{number}: no memory for its driver");
        return;
    };
    let device = placed.get();
    if let Err(error) = BALLOON.attach(mm, device, device.terms()) {
        log::error!("{}: {error}", device.device());
        device.device().stop();
        return;
    }
    *current = Some(device);
    say_what(device.device(), device.reports());
    if device.device().features() & FEATURE_REPORTING != 0
        && !device.reports()
        && let Some(byte) = mm.free_page_pattern()
    {
        log::warn!(
            "{}: free pages hold {byte:#04x}, of which the host cannot be told: nothing is reported",
            device.device()
        );
    }
    if device.reports()
        && let Err(error) = mm.report_register(device, None)
    {
        log::warn!("{}: {error}: nothing is reported", device.device());
    }
    let config = Config::new(Name::new("balloon"));
    if let Err(error) = task::spawn(&config, move || serve(placed, service)) {
        log::error!("{}: no thread to serve it: {error}", device.device());
        mm.report_unregister();
        device.device().stop();
        BALLOON.detach(mm);
        *current = None;
    }
}

/// Takes the device with that number from its driver, whether or not it is there
/// still. False if that takes too long: a device that does not let go.
pub(super) fn remove(number: usize) -> bool {
    let has = || DEVICE.lock().is_some_and(|it| it.device().number() as usize == number);
    if let Some(device) = *DEVICE.lock()
        && device.device().number() as usize == number
    {
        device.device().stop();
    }
    for _ in 0..REMOVE_MS / REMOVE_STEP_MS {
        if !has() {
            return true;
        }
        task::sleep(REMOVE_STEP_MS);
    }
    !has()
}

/// What host and guest have agreed on.
fn say_what(device: &Device<Link, &'static Events>, reports: bool) {
    let agreed = |feature: u64, name: &'static str| {
        if device.features() & feature != 0 { name } else { "" }
    };
    log::info!(
        "{device}: pages for the host{}{}{}{}",
        agreed(FEATURE_DEFLATE_ON_OOM, ", deflate on OOM"),
        agreed(FEATURE_STATS_VQ, ", statistics"),
        if reports { ", free page reporting" } else { "" },
        agreed(FEATURE_PAGE_POISON, ", page poison"),
    );
}

/// The thread that serves the device, to its end. Its rounds are a worker's: who
/// measures memory keeps them quiet.
fn serve(placed: Placed, mut service: Service<DeviceMemory>) {
    let device = placed.get();
    let mm = device.mm();
    let mut alive = service.begin(device).is_ok();
    while alive {
        let before = service.target();
        let round = workers::round(|| service.round(device, &BALLOON));
        TARGET.store(service.target().map_or(0, |pages| u64::from(pages) + 1), Relaxed);
        if let Some(target) = service.target().filter(|_| service.target() != before) {
            log::debug!("{}: {target} pages wanted", device.device());
        }
        match round {
            Ok(next) => service.wait(device, &BALLOON, next),
            Err(_) => alive = false,
        }
    }
    TARGET.store(0, Relaxed);
    workers::round(|| {
        mm.report_unregister();
        service.end(device, &BALLOON);
    });
    // What it could not be kept from is worth waiting for.
    while !device.device().look_again() {
        task::sleep(LOOK_AGAIN_MS);
    }
    workers::round(|| {
        mm.report_recover();
        BALLOON.recover(mm);
    });
    log::info!("{}: released", device.device());
    *DEVICE.lock() = None;
    // SAFETY: the balloon and reporting have forgotten it and waited for whoever
    // had it, whoever has it from `DEVICE` has its lock, and this thread, whose
    // service is at its end, is done with it.
    unsafe { placed.free() };
}
