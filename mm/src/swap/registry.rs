//! Which devices are switched on, and whose turn it is: the highest priority
//! first, those of the same one in turns. May call: nothing.

use super::{SwapDevice, SwapKind};
use crate::mm::Mm;
use crate::mmu::SwapEntry;
use crate::platform::Platform;
use crate::sync::Ordering::Relaxed;

/// Slots that one device hands out before the next one of the same priority
/// does.
const TURN: u32 = 64;

const DEVICES: usize = SwapEntry::DEVICES;

/// Where a device stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Its tables are being made.
    Coming,
    /// In use.
    On,
    /// Its pages are being brought back.
    Leaving,
}

#[derive(Clone, Copy)]
pub(super) struct Registered {
    pub(super) device: &'static dyn SwapDevice,
    pub(super) priority: i16,
    pub(super) phase: Phase,
}

/// The devices, by index.
pub(super) struct Registry {
    pub(super) devices: [Option<Registered>; DEVICES],
    /// What the last device got to which nobody gave a priority.
    least: i16,
    /// Indices of those in use, the first to be asked first.
    order: [u8; DEVICES],
    len: usize,
}

/// Devices to ask for a slot, in this order.
pub(super) struct Order {
    order: [u8; DEVICES],
    len: usize,
}

impl Order {
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.order.iter().take(self.len).map(|&index| usize::from(index))
    }
}

impl Registry {
    pub(super) const fn new() -> Self {
        Self { devices: [None; DEVICES], least: -1, order: [0; DEVICES], len: 0 }
    }

    /// The index of the device of that name.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.devices.iter().position(|d| d.is_some_and(|d| d.device.name() == name))
    }

    /// A device is in use from now on, with `priority` or a lower one than all
    /// before it. Returns which.
    pub(super) fn switch_on(&mut self, index: usize, priority: Option<i16>) -> i16 {
        let priority = priority.unwrap_or_else(|| {
            self.least = self.least.saturating_sub(1);
            self.least
        });
        if let Some(Some(entry)) = self.devices.get_mut(index) {
            entry.priority = priority;
            entry.phase = Phase::On;
        }
        self.sort();
        priority
    }

    /// Moves a device that is in use out of it, or back.
    pub(super) fn set_phase(&mut self, index: usize, phase: Phase) {
        if let Some(Some(entry)) = self.devices.get_mut(index) {
            entry.phase = phase;
        }
        self.sort();
    }

    /// Forgets a device. Those that got their priority after it move up.
    pub(super) fn remove(&mut self, index: usize) {
        let Some(entry) = self.devices.get_mut(index).and_then(Option::take) else { return };
        if entry.phase != Phase::Coming && entry.priority < 0 {
            self.least += 1;
            for other in self.devices.iter_mut().flatten() {
                if other.phase != Phase::Coming && other.priority < entry.priority {
                    other.priority += 1;
                }
            }
        }
        self.sort();
    }

    fn sort(&mut self) {
        self.len = 0;
        for (index, _) in
            self.devices.iter().enumerate().filter(|(_, d)| d.is_some_and(|d| d.phase == Phase::On))
        {
            self.order[self.len] = index as u8;
            self.len += 1;
        }
        let devices = &self.devices;
        let key = |index: u8| devices[usize::from(index)].map_or(i16::MIN, |d| d.priority);
        self.order[..self.len]
            .sort_unstable_by_key(|&index| (core::cmp::Reverse(key(index)), index));
    }

    /// Whom to ask for a slot, when `turn` slots have been handed out before.
    pub(super) fn order(&self, turn: u32) -> Order {
        let mut order = Order { order: self.order, len: self.len };
        let priority = |&index: &u8| self.devices[usize::from(index)].map(|d| d.priority);
        for same in order.order[..self.len].chunk_by_mut(|a, b| priority(a) == priority(b)) {
            same.rotate_left((turn / TURN) as usize % same.len());
        }
        order
    }
}

/// A device that is switched on, as `/proc/swaps` shows it.
#[derive(Clone, Copy)]
pub struct SwapArea {
    /// Which one: the number that entries name it by.
    pub index: usize,
    /// The device.
    pub device: &'static dyn SwapDevice,
    /// Its priority.
    pub priority: i16,
    /// Slots that are not bad.
    pub slots: u64,
    /// Slots in use.
    pub used: u64,
}

impl core::fmt::Debug for SwapArea {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SwapArea")
            .field("index", &self.index)
            .field("name", &self.device.name())
            .field("priority", &self.priority)
            .field("slots", &self.slots)
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

impl<P: Platform> Mm<P> {
    /// Runs `f` on the registry, locked.
    pub(super) fn with_registry<R>(&self, f: impl FnOnce(&mut Registry) -> R) -> R {
        let cpu = self.enter();
        let mut registry = self.swap.registry.lock(&cpu);
        let result = f(&mut registry);
        drop(registry);
        result
    }

    /// The device of that index, if it is switched on, or being switched off.
    /// Any context.
    pub fn swap_area(&self, index: usize) -> Option<SwapArea> {
        let entry = self.with_registry(|r| r.devices.get(index).copied().flatten())?;
        let area = self.swap.areas.get(index)?;
        (entry.phase != Phase::Coming).then(|| SwapArea {
            index,
            device: entry.device,
            priority: entry.priority,
            slots: area.usable.load(Relaxed),
            used: area.used.load(Relaxed),
        })
    }

    /// Whether a device of that name is switched on, or about to be, or not yet
    /// empty. Any context.
    pub fn is_swap_on(&self, name: &str) -> bool {
        self.with_registry(|registry| registry.find(name).is_some())
    }

    /// Writes `/proc/swaps`.
    pub(crate) fn write_swaps(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        writeln!(out, "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority")?;
        for area in (0..DEVICES).filter_map(|index| self.swap_area(index)) {
            let kib = |slots: u64| slots * (crate::types::PAGE_SIZE as u64 / 1024);
            let (size, used) = (kib(area.slots), kib(area.used));
            let name = area.device.name();
            let width = if name.len() < 40 { 40 - name.len() } else { 1 };
            let kind = match area.device.kind() {
                SwapKind::Partition => "partition",
                SwapKind::File => "file\t",
            };
            // Numbers of eight digits reach the next stop by themselves.
            let tab = |kib: u64| if kib < 10_000_000 { "\t" } else { "" };
            let (a, b, priority) = (tab(size), tab(used), area.priority);
            writeln!(out, "{name}{:width$}{kind}\t{size}\t{a}{used}\t{b}{priority}", " ")?;
        }
        Ok(())
    }
}
