//! Disks: `/dev/vda` and those after it, as they are found. Calls
//! `drivers::blk`, `mm`.

use super::bind::{Found, Link};
use super::dma::DeviceMemory;
use super::env::Events;
use crate::arch::irq::IrqMutex;
use crate::platform::Machine;
use ::drivers::Link as _;
use ::drivers::blk::{SECTOR_BYTES, VirtioBlk};
use alloc::vec::Vec;
use mm::Mm;
use mm::block::{BlockDevice, SwapOnBlock};
use mm::cache::PageCache;
use mm::reclaim::TooManyCaches;
use mm::sync::LockRank;

/// A disk. It is kept for good: whoever swaps to it may still ask it for pages
/// when its device has gone, and be told that it has failed.
pub(crate) struct Disk {
    driver: VirtioBlk<Link, &'static Events, DeviceMemory>,
    index: usize,
}

/// Disks that there can be over all the time that the machine runs.
const DISKS: usize = 16;

/// Their paths.
const NAMES: [&str; DISKS] = [
    "/dev/vda", "/dev/vdb", "/dev/vdc", "/dev/vdd", "/dev/vde", "/dev/vdf", "/dev/vdg", "/dev/vdh",
    "/dev/vdi", "/dev/vdj", "/dev/vdk", "/dev/vdl", "/dev/vdm", "/dev/vdn", "/dev/vdo", "/dev/vdp",
];

struct Table {
    disks: [Option<&'static Disk>; DISKS],
    len: usize,
}

static TABLE: IrqMutex<Table> =
    IrqMutex::new(LockRank::Leaf, Table { disks: [None; DISKS], len: 0 });

/// By index in the table: what swap sees of each.
static SWAP: [mm::sync::Once<SwapOnBlock>; DISKS] = [const { mm::sync::Once::new() }; DISKS];

/// By index in the table: what is cached of each.
static CACHES: [mm::sync::Once<PageCache>; DISKS] = [const { mm::sync::Once::new() }; DISKS];

/// Takes a device over.
pub(super) fn start(_: &'static Mm<Machine>, mut found: Found) {
    let number = found.number;
    // Devices are found one after the other.
    let index = TABLE.lock().len;
    let Some(name) = NAMES.get(index) else {
        found.link.cut_off();
        log::warn!("virtio{number}: there are {DISKS} disks already: left out");
        return;
    };
    let mut place = Vec::new();
    if place.try_reserve_exact(1).is_err() {
        found.link.cut_off();
        log::error!("virtio{number}: no memory for its driver");
        return;
    }
    // What is wrong was said.
    let Ok(driver) = VirtioBlk::new(name, number, found.link, found.events) else { return };
    #[allow(clippy::disallowed_methods, reason = "there is room")]
    place.push(Disk { driver, index });
    let Some(disk) = place.leak().first() else { return };
    say_what(disk);
    let mut table = TABLE.lock();
    table.disks[index] = Some(disk);
    table.len = index + 1;
}

/// As Linux's log has it.
fn say_what(disk: &Disk) {
    let (driver, config) = (&disk.driver, disk.driver.config());
    let agreed = |is: bool, name: &'static str| if is { name } else { "" };
    let mib = (config.sectors * SECTOR_BYTES) >> 20;
    log::info!(
        "{}: [{}] {} 512-byte sectors ({mib} MiB), {} segments{}{}{}",
        driver.device(),
        driver.name().trim_start_matches("/dev/"),
        config.sectors,
        config.segments,
        agreed(driver.has_cache(), ", write cache"),
        agreed(driver.discards(), ", discard"),
        agreed(driver.read_only(), ", read-only"),
    );
}

/// Takes the device with that number from its driver, whether or not it is there
/// still. The disk stays, and fails whatever it is asked.
pub(super) fn remove(number: usize) {
    for disk in all().filter(|disk| disk.driver.device().number() as usize == number) {
        if disk.driver.device().check().is_ok() {
            log::info!("{}: its device goes", disk.driver.name());
        }
        disk.driver.stop();
    }
}

/// The disks, those included whose devices have gone.
fn all() -> impl Iterator<Item = &'static Disk> {
    let disks = TABLE.lock().disks;
    disks.into_iter().flatten()
}

/// The disk of that path.
pub(crate) fn find(path: &str) -> Option<&'static Disk> {
    all().find(|disk| disk.driver.name() == path)
}

impl Disk {
    /// The disk as the page cache sees it.
    pub(crate) fn device(&'static self) -> &'static dyn BlockDevice {
        &self.driver
    }

    /// What is cached of the disk, known to `mm`.
    ///
    /// # Errors
    /// When that knows as many caches as it can.
    pub(crate) fn cache(
        &'static self,
        mm: &Mm<Machine>,
    ) -> Result<&'static PageCache, TooManyCaches> {
        let cache = CACHES[self.index % DISKS].call_once(|| PageCache::new(self.device()));
        cache.register(mm)?;
        Ok(cache)
    }

    /// The disk as swap sees it.
    pub(crate) fn swap(&'static self) -> &'static SwapOnBlock {
        SWAP[self.index % DISKS].call_once(|| SwapOnBlock::new(self.device()))
    }
}
