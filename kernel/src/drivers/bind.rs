//! From functions on the bus to devices with drivers. Calls `config`,
//! `registers`, `messages`, `pins`, and the drivers.

use super::config::{self, Config};
use super::env::{self, Events};
use super::list::{self, Use};
use super::registers::{self, Registers};
use super::{balloon, blk, entropy, hotplug, messages, pins, virtio_mem};
use crate::arch::devices::Delivery;
use crate::memory::iomem;
use crate::platform::Machine;
use ::drivers::pci::{
    self, Bar, Bars, CommandRegister, Function, MAX_BARS, Msix, Oddity, PciAddress, Slot, Window,
};
use ::drivers::virtio_pci::{Layout, PciLink, Vectors};
use ::drivers::{DeviceType, Mmio};
use core::fmt;
use core::ops::Range;
use mm::Mm;

/// Where the processor takes writes for interrupts.
const MESSAGES: Range<u64> = 0xfee0_0000..0xfef0_0000;

/// A virtio device's registers.
pub(crate) type Link = PciLink<Registers, &'static Config>;

/// What a driver gets: the device, not yet touched.
pub(crate) struct Found {
    /// N of its name `virtioN`.
    pub(crate) number: u32,
    /// Its registers.
    pub(crate) link: Link,
    /// Its interrupts.
    pub(crate) events: &'static Events,
}

/// The driver for devices of type `kind`. Returns at once, or when the device
/// works; what goes on is for threads of its own.
fn driver(kind: DeviceType) -> Option<fn(&'static Mm<Machine>, Found)> {
    match kind {
        DeviceType::Block => Some(blk::start),
        DeviceType::EntropySource => Some(entropy::start),
        DeviceType::Memory => Some(virtio_mem::start),
        DeviceType::MemoryBalloon => Some(balloon::start),
        _ => None,
    }
}

/// Why a device that there is a driver for is left out.
enum LeftOut {
    NotVirtio(::drivers::virtio_pci::NotVirtio),
    NotMapped(registers::NotMapped),
    TooMany,
    Bridge,
    Overlap(u8, &'static str),
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotVirtio(why) => why.fmt(f),
            Self::NotMapped(why) => why.fmt(f),
            Self::TooMany => f.write_str("too many devices"),
            Self::Overlap(bar, other) => write!(f, "BAR {bar} lies where {other} is"),
            Self::Bridge => f.write_str("calls itself a bridge"),
        }
    }
}

/// Finds all devices.
pub(super) fn all(mm: &'static Mm<Machine>) {
    let Some(config) = config::open() else {
        log::info!("PCI: none on this machine");
        return;
    };
    for (segment, buses) in config.segments() {
        let (first, last) = buses;
        let how = config.how(segment);
        log::info!("PCI: domain {segment:04x} [bus {first:02x}-{last:02x}] through {how}");
        let odd = &mut |oddity: Oddity| log::warn!("{oddity}");
        let each = &mut |function: &Function| {
            found(mm, config, function, None);
            if let Some(slot) = Slot::find(config, function) {
                hotplug::add(slot);
            }
        };
        pci::scan(config, segment, buses, each, odd);
    }
    hotplug::start(mm, config);
}

/// Finds what has come to bus `bus` behind `port`, and gives registers addresses
/// that the port lets through.
pub(super) fn behind(mm: &'static Mm<Machine>, config: &'static Config, port: PciAddress, bus: u8) {
    let mut windows = pci::windows(config, port);
    let odd = &mut |oddity: Oddity| log::warn!("{oddity}");
    let each = &mut |function: &Function| found(mm, config, function, Some(&mut windows));
    pci::scan(config, port.segment(), (bus, bus), each, odd);
}

/// Why what is on bus `bus` of `segment` cannot be taken away, for somebody uses it.
/// If nobody does, the devices have what was meant for them, as far as they take it.
pub(super) fn needed(mm: &Mm<Machine>, segment: u16, bus: u8) -> Option<&'static str> {
    list::driven(segment, bus).find_map(|(kind, number)| match kind {
        DeviceType::Memory => Some("memory behind it is in use"),
        DeviceType::Block => blk::is_needed(mm, number).then_some("a disk behind it has swap on"),
        _ => None,
    })
}

/// Takes what is on bus `bus` of `segment` from its drivers, whether or not it is
/// there still. False if a driver does not let go.
pub(super) fn release(config: &'static Config, segment: u16, bus: u8) -> bool {
    let mut all = true;
    while let Some((function, driven)) = list::take(segment, bus) {
        let address = function.address;
        if let Some((kind, number)) = driven {
            let gone = match kind {
                DeviceType::Block => {
                    blk::remove(number);
                    true
                }
                DeviceType::EntropySource => {
                    entropy::remove(number);
                    true
                }
                DeviceType::MemoryBalloon => balloon::remove(number),
                _ => false,
            };
            function.cut_off(config);
            if gone {
                messages::close(number);
                env::give_back(number);
            } else {
                log::warn!("pci {address}: virtio{number}: its driver does not let go of it");
                all = false;
            }
        }
        iomem::remove(format_args!("{address}"));
        log::info!("pci {address}: removed");
    }
    all
}

/// A function was found.
fn found(
    mm: &'static Mm<Machine>,
    config: &'static Config,
    function: &Function,
    windows: Option<&mut [Window; 2]>,
) {
    log::info!("{function}");
    let address = function.address;
    let kind = match Layout::kind(function) {
        None => return list::add(function, Use::None),
        Some(Err(why)) => {
            log::warn!("pci {address}: {why}: left out");
            return list::add(function, Use::LeftOut);
        }
        Some(Ok(kind)) => kind,
    };
    let Some(start) = driver(kind) else {
        log::info!("pci {address}: virtio {kind:?}: no driver");
        return list::add(function, Use::None);
    };
    match attach(config, function, windows) {
        Ok(found) => {
            list::add(function, Use::Driven(kind, found.number as usize));
            start(mm, found);
        }
        Err(why) => {
            log::error!("pci {address}: virtio {kind:?}: {why}: left out");
            list::add(function, Use::LeftOut);
        }
    }
}

/// Makes the device behind `function` ready for its driver.
fn attach(
    config: &'static Config,
    function: &Function,
    windows: Option<&mut [Window; 2]>,
) -> Result<Found, LeftOut> {
    // SAFETY: no driver has the function yet.
    let mut bars = unsafe { function.bars(config) }.ok_or(LeftOut::Bridge)?;
    // SAFETY: nobody has it, nor what lies in the windows of its port, behind which
    // there was nothing.
    if windows.is_some_and(|windows| unsafe { function.assign(config, &bars, windows) }) {
        // SAFETY: as above.
        bars = unsafe { function.bars(config) }.ok_or(LeftOut::Bridge)?;
    }
    let layout = Layout::find(config, function, &bars).map_err(LeftOut::NotVirtio)?;
    let msix = Msix::find(config, function, &bars);
    let mut mapped: [Option<Registers>; MAX_BARS] = [None; MAX_BARS];
    for bar in layout.bars().chain(msix.map(|it| it.bar)) {
        if let (Some(slot @ None), Some(Some(Ok(Bar::Memory { addr, bytes, .. })))) =
            (mapped.get_mut(usize::from(bar)), bars.get(usize::from(bar)))
        {
            if let Some(other) = claimed(*addr, addr + bytes) {
                return Err(LeftOut::Overlap(bar, other));
            }
            *slot = Some(registers::map(*addr, *bytes).map_err(LeftOut::NotMapped)?);
        }
    }
    let range = |bar: u8| mapped.get(usize::from(bar)).copied().flatten();
    let (number, events) = env::take().ok_or(LeftOut::TooMany)?;
    log_bars(function, &bars);
    note_bars(function, &bars);
    let command = function.command(config) - CommandRegister::BUS_MASTER_ENABLE;
    // SAFETY: its ranges were looked at: they are not where RAM is. It masters
    // nothing yet.
    unsafe {
        let quiet = command | CommandRegister::MEMORY_ENABLE | CommandRegister::INTERRUPT_DISABLE;
        function.set_command(config, quiet);
    }
    let vectors =
        msix.and_then(|msix| by_message(config, function, number, &msix, range(msix.bar)?));
    let address = function.address;
    match vectors {
        Some(_) => log::info!("pci {address}: virtio{number}, interrupts by MSI-X"),
        None => {
            let status = range(layout.isr.bar).and_then(|it| it.part(layout.isr.offset, 1));
            let delivery = match status {
                Some(status) if function.pin != 0 => pins::open(function.line, number, status),
                _ => Delivery::Polled,
            };
            log::info!("pci {address}: virtio{number}, interrupts by pin: {delivery:?}");
            if delivery == Delivery::Polled {
                events.set_silent();
            }
        }
    }
    let link = PciLink::new(*function, config, &layout, vectors, range);
    let link = link.ok_or(LeftOut::NotMapped(registers::NotMapped::BadAddress))?;
    // SAFETY: the device has been told of no memory since it was reset, or by the
    // firmware only, whose drivers have stopped it; the driver resets it first.
    unsafe {
        let mut command = function.command(config) | CommandRegister::BUS_MASTER_ENABLE;
        if vectors.is_none() {
            command -= CommandRegister::INTERRUPT_DISABLE;
        }
        function.set_command(config, command);
    }
    Ok(Found { number: number as u32, link, events })
}

/// Whose the bytes from `start` to `end` are, if somebody's: writes there are
/// interrupts, or reach another device.
pub(super) fn claimed(start: u64, end: u64) -> Option<&'static str> {
    let messages = start < MESSAGES.end && MESSAGES.start < end;
    if messages { Some("Local APIC") } else { iomem::named(start, end) }
}

/// Has the function send messages for its configuration and its queues.
fn by_message(
    config: &'static Config,
    function: &Function,
    number: usize,
    msix: &Msix,
    range: Registers,
) -> Option<Vectors> {
    let table = range.part(msix.table, u64::from(msix.entries) * 16)?;
    if !msix.enable(config, function, &table) || !messages::open(number, true, msix, table, 0) {
        msix.disable(config, function);
        return None;
    }
    // One for all queues: their drivers look at each of theirs.
    let queues = msix.entries > 1 && messages::open(number, false, msix, table, 1);
    Some(Vectors { config: 0, queue: 1, queues: queues.into() })
}

/// Has `/proc/iomem` show them.
fn note_bars(function: &Function, bars: &Bars) {
    for bar in bars {
        if let Some(Ok(Bar::Memory { addr, bytes, .. })) = bar {
            iomem::add(*addr, addr + bytes, format_args!("{}", function.address));
        }
    }
}

/// As Linux's log has them.
fn log_bars(function: &Function, bars: &Bars) {
    let address = function.address;
    for (at, bar) in bars.iter().enumerate() {
        match bar {
            Some(Ok(Bar::Memory { addr, bytes, prefetchable })) => {
                let (last, more) = (addr + (bytes - 1), if *prefetchable { " pref" } else { "" });
                log::info!("pci {address}: BAR {at} [mem {addr:#010x}-{last:#010x}{more}]");
            }
            Some(Ok(Bar::Io { port, ports })) => {
                let last = port + (ports - 1);
                log::info!("pci {address}: BAR {at} [io  {port:#06x}-{last:#06x}]");
            }
            Some(Ok(Bar::Unassigned { bytes })) => {
                log::info!("pci {address}: BAR {at} without an address ({bytes:#x} bytes)");
            }
            Some(Err(error)) => log::warn!("pci {address}: BAR {at} {error}"),
            None => {}
        }
    }
}
