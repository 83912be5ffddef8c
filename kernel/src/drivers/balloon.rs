//! The balloon device: the host's wishes for memory, its questions, and what it
//! is told of free memory. Calls `drivers::balloon`, `mm`, `workers`.

use super::bind::{Found, Link};
use super::dma::DeviceMemory;
use super::env::Events;
use crate::platform::Machine;
use crate::task::{self, Config};
use crate::workers;
use ::drivers::Device;
use ::drivers::balloon::{
    FEATURE_DEFLATE_ON_OOM, FEATURE_PAGE_POISON, FEATURE_REPORTING, FEATURE_STATS_VQ, Service,
    VirtioBalloon,
};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use mm::Mm;
use mm::balloon::Balloon;
use mm::sync::Once;
use quarry_kernel::sched::Name;

type Driver = VirtioBalloon<Link, &'static Events, DeviceMemory, Machine>;

/// How often a device is looked at that could not be shut off (ms).
const LOOK_AGAIN_MS: u64 = 10_000;

/// The pages that the host has.
static BALLOON: Balloon<Machine> = Balloon::new();
/// The device: the first one that works.
static DEVICE: Once<Driver> = Once::new();
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

/// Takes a device over, and starts the thread that serves it.
pub(super) fn start(mm: &'static Mm<Machine>, found: Found) {
    let number = found.number;
    if DEVICE.get().is_some() {
        log::warn!("virtio{number}: there is a balloon already: left out");
        return;
    }
    // What is wrong was said.
    let Ok((device, service)) = VirtioBalloon::new(number, found.link, found.events, mm) else {
        return;
    };
    let device: &'static Driver = DEVICE.call_once(|| device);
    if let Err(error) = BALLOON.attach(mm, device, device.terms()) {
        log::error!("{}: {error}", device.device());
        device.device().stop();
        return;
    }
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
    if let Err(error) = task::spawn(&config, move || serve(device, service)) {
        log::error!("{}: no thread to serve it: {error}", device.device());
        mm.report_unregister();
        device.device().stop();
        BALLOON.detach(mm);
    }
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
fn serve(device: &'static Driver, mut service: Service<DeviceMemory>) {
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
}
