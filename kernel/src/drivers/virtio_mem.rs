//! virtio-mem devices: each has a thread that does its driver's rounds. Calls
//! `drivers::virtio_mem`, `numa`, `task`, `workers`.

use super::bind::{Found, Link, claimed};
use super::dma::DeviceMemory;
use super::env::Events;
use crate::arch::irq::IrqMutex;
use crate::memory::iomem;
use crate::platform::Machine;
use crate::task::{self, Config};
use crate::{numa, workers};
use ::drivers::virtio_mem::{Group, MemConfig, MemFault, MemPort, Status, VirtioMem};
use ::shell::Plugged;
use alloc::vec::Vec;
use core::fmt;
use mm::Mm;
use mm::sync::LockRank;
use mm::types::NodeId;
use quarry_kernel::sched::Name;

/// How the devices stand, for people.
pub(crate) const FILE: &str = "/sys/kernel/debug/quarry/virtio_mem";

/// Devices that [`FILE`] has room for.
const DEVICES: usize = 8;

/// Number and state of each device, as of its last round; no state: it was given
/// up.
type States = [Option<(u32, Option<Status>)>; DEVICES];

static STATES: IrqMutex<States> = IrqMutex::new(LockRank::Leaf, [None; DEVICES]);

type Port = MemPort<Link, &'static Events, DeviceMemory>;

/// Takes a device over, in a thread of its own.
pub(super) fn start(mm: &'static Mm<Machine>, found: Found) {
    let number = found.number;
    let config = Config::new(Name::numbered("virtio_mem", u64::from(number)));
    if let Err(error) = task::spawn(&config, move || serve(mm, found)) {
        log::error!("virtio_mem virtio{number}: no thread: {error}");
    }
}

/// The device's life.
fn serve(mm: &'static Mm<Machine>, found: Found) {
    let number = found.number;
    let mut port = match Port::open(number, found.link, found.events) {
        Ok(port) => port,
        Err(error) => return log::error!("virtio_mem virtio{number}: {error}"),
    };
    let fault = match port.first_config() {
        Ok(config) if iomem::is_listed(config.addr, config.addr + config.region_size) => {
            log::error!("virtio_mem virtio{number}: its region lies in the firmware's map");
            return port.close();
        }
        Ok(config) if claimed(config.addr, config.addr + config.region_size).is_some() => {
            log::error!("virtio_mem virtio{number}: its region lies on another device's registers");
            return port.close();
        }
        Ok(config) => match drive(mm, number, &mut port, config) {
            Some(fault) => fault,
            None => {
                log::error!("virtio_mem virtio{number}: no memory for the driver");
                return port.close();
            }
        },
        Err(fault) => fault,
    };
    publish(number, None);
    port.give_up(&fault);
}

/// Does round after round until something is wrong with the device; None if
/// there is no memory to begin with.
fn drive(
    mm: &'static Mm<Machine>,
    number: u32,
    port: &mut Port,
    config: MemConfig,
) -> Option<MemFault> {
    let groups = VirtioMem::storage(&config, mm);
    let mut storage = Vec::new();
    storage.try_reserve_exact(groups).ok()?;
    #[allow(clippy::disallowed_methods, reason = "there is room")]
    storage.resize(groups, Group::EMPTY);
    let mut driver = VirtioMem::new(config, mm, node(number, &config), &mut storage);
    driver.introduce(port);
    loop {
        // Not while somebody measures what it would change.
        match workers::round(|| driver.round(port)) {
            Ok(next) => {
                publish(number, Some(driver.status()));
                port.wait(next);
            }
            Err(fault) => return Some(fault),
        }
    }
}

/// The node that the device's memory is of.
fn node(number: u32, config: &MemConfig) -> NodeId {
    let Some(pxm) = config.pxm else { return NodeId(0) };
    numa::node_of_domain(u32::from(pxm)).unwrap_or_else(|| {
        log::warn!("virtio_mem virtio{number}: unknown proximity domain {pxm}: taken as node 0");
        NodeId(0)
    })
}

fn publish(number: u32, status: Option<Status>) {
    let mut states = STATES.lock();
    let taken = |slot: &&mut Option<(u32, _)>| slot.is_none_or(|(of, _)| of == number);
    if let Some(slot) = states.iter_mut().find(taken) {
        *slot = Some((number, status));
    }
}

/// What the devices have plugged; None without one that works.
pub(crate) fn plugged() -> Option<Plugged> {
    let states = *STATES.lock();
    let statuses = states.into_iter().flatten().filter_map(|(_, status)| status);
    statuses.fold(None, |sum: Option<Plugged>, status| {
        let sum = sum.unwrap_or_default();
        Some(Plugged {
            plugged: sum.plugged + status.plugged,
            requested: sum.requested + status.config.requested_size,
            most: sum.most + status.config.region_size,
            retry_ms: sum.retry_ms.max(status.retry_ms),
        })
    })
}

/// Writes [`FILE`]: of each device its name and what there is to know of it,
/// `key value`, sizes in bytes.
///
/// # Errors
///
/// `out`'s.
pub(crate) fn write(out: &mut dyn fmt::Write) -> fmt::Result {
    let states = *STATES.lock();
    for (number, status) in states.into_iter().flatten() {
        writeln!(out, "virtio{number}")?;
        match status {
            Some(status) => write!(out, "{status}")?,
            None => writeln!(out, "given up")?,
        }
    }
    Ok(())
}
