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
use core::fmt;
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

/// A size as the log has it.
struct Sectors(u64);

impl fmt::Display for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kib = self.0.saturating_mul(SECTOR_BYTES) >> 10;
        let (size, unit) = if kib < 10 << 10 { (kib, "KiB") } else { (kib >> 10, "MiB") };
        write!(f, "{} 512-byte sectors ({size} {unit})", self.0)
    }
}

/// As Linux's log has it.
fn say_what(disk: &Disk) {
    let driver = &disk.driver;
    let agreed = |is: bool, name: &'static str| if is { name } else { "" };
    log::info!(
        "{}: [{}] {}, {} segments{}{}{}",
        driver.device(),
        disk.short_name(),
        Sectors(driver.sectors()),
        driver.config().segments,
        agreed(driver.has_cache(), ", write cache"),
        agreed(driver.discards(), ", discard"),
        agreed(driver.read_only(), ", read-only"),
    );
}

/// The disks of the device with that number: one, and those whose devices have
/// gone and had it before.
fn of(number: usize) -> impl Iterator<Item = &'static Disk> {
    all().filter(move |disk| disk.driver.device().number() as usize == number)
}

/// Whether somebody cannot do without the device with that number. What is cached of
/// it is written there first, as far as it can be, so that it can be taken away.
pub(super) fn is_needed(mm: &Mm<Machine>, number: usize) -> bool {
    let there = |disk: &&'static Disk| disk.driver.device().check().is_ok();
    let Some(disk) = of(number).find(there) else { return false };
    if let Some(cache) = CACHES[disk.index % DISKS].get()
        && cache.sync(mm).is_err()
    {
        log::warn!("{}: not all can be written that is cached of it", disk.driver.name());
    }
    // Last, for writing may take its time.
    mm.is_swap_on(disk.driver.name())
}

/// Takes the device with that number from its driver, whether or not it is there
/// still. The disk stays, and fails whatever it is asked.
pub(super) fn remove(number: usize) {
    for disk in of(number) {
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

/// The disk of that path, as large as it is now.
pub(crate) fn find(path: &str) -> Option<&'static Disk> {
    let disk = all().find(|disk| disk.driver.name() == path)?;
    let driver = &disk.driver;
    if driver.look_at_size() {
        let (name, size) = (disk.short_name(), Sectors(driver.sectors()));
        log::info!("{}: [{name}] new size: {size}", driver.device());
    }
    Some(disk)
}

impl Disk {
    fn short_name(&self) -> &'static str {
        NAMES[self.index % DISKS].trim_start_matches("/dev/")
    }

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
