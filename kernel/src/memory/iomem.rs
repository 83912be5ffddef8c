//! What lies where in physical address space, for `/proc/iomem`: the firmware's
//! map, the parts of the kernel image, the interrupt controllers, devices. Calls `image`,
//! `mm::proc`.

use crate::arch::irq::IrqMutex;
use crate::image;
use crate::vm::Loader;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use mm::firmware::{Map, RegionKind};
use mm::proc::{IoRange, write_iomem};
use mm::sync::LockRank;
use mm::types::{PAGE_SIZE, Pfn};
use spin::Once;

/// Ranges that have names: the image's parts, in pieces if its frames are.
const NAMED: usize = 96;

/// What Linux calls the I/O APICs.
const IO_APICS: [&str; 8] = [
    "IOAPIC 0", "IOAPIC 1", "IOAPIC 2", "IOAPIC 3", "IOAPIC 4", "IOAPIC 5", "IOAPIC 6", "IOAPIC 7",
];

/// Bytes of an I/O APIC's registers, as Linux has it.
const IO_APIC_LEN: u64 = 0x400;

/// The ranges, sorted by address.
#[derive(Clone, Copy)]
struct Named {
    ranges: [IoRange<'static>; NAMED],
    len: usize,
}

static KNOWN: Once<(Map<'static>, IrqMutex<Named>)> = Once::new();

/// Devices' ranges that get a name while the kernel runs, and its bytes.
const LATE: usize = 48;
const LATE_BYTES: usize = 32;
static LATE_NAMES: [Once<([u8; LATE_BYTES], usize)>; LATE] = [const { Once::new() }; LATE];
static LATE_TAKEN: AtomicUsize = AtomicUsize::new(0);

impl Named {
    const fn new() -> Self {
        Self { ranges: [IoRange { start: 0, end: 0, name: "" }; NAMED], len: 0 }
    }

    /// Adds a range; one that there is no room for is not shown.
    fn add(&mut self, start: u64, end: u64, name: &'static str) {
        let known = &mut self.ranges[..self.len];
        if let Some(before) = known.iter_mut().find(|r| r.end == start && r.name == name) {
            before.end = end;
        } else if self.len < NAMED {
            let at = known.partition_point(|range| range.start < start);
            self.ranges.copy_within(at..self.len, at + 1);
            self.ranges[at] = IoRange { start, end, name };
            self.len += 1;
        }
    }

    /// The first name of any of the bytes from `start` to `end`.
    fn at(&self, start: u64, end: u64) -> Option<&'static str> {
        let mut known = self.ranges[..self.len].iter();
        known.find(|it| it.start < end && start < it.end).map(|it| it.name)
    }

    /// Adds where the image's bytes from `start` to `end` lie.
    fn add_image(&mut self, loader: &Loader, start: u64, end: u64, name: &'static str) {
        let mut at = start;
        while at < end {
            let next = end.min((at / PAGE_SIZE as u64 + 1) * PAGE_SIZE as u64);
            if let Some(addr) = loader.translate(at) {
                self.add(addr, addr + (next - at), name);
            }
            at = next;
        }
    }
}

/// Keeps what is known of the machine. Once, while the loader's tables are in
/// force.
pub(crate) fn note(
    map: Map<'static>,
    loader: &Loader,
    local_apic: Option<Pfn>,
    io_apics: impl Iterator<Item = Pfn>,
) {
    let mut named = Named::new();
    for part in image::segments() {
        let file_end = part.start + part.file_len;
        let name = match (part.executable, part.writable) {
            (true, _) => "Kernel code",
            (false, true) => "Kernel data",
            (false, false) => "Kernel rodata",
        };
        named.add_image(loader, part.start, file_end, name);
        named.add_image(loader, file_end, part.end, "Kernel bss");
    }
    if let Some(pfn) = local_apic {
        named.add(pfn.addr(), pfn.addr() + PAGE_SIZE as u64, "Local APIC");
    }
    for (pfn, name) in io_apics.zip(IO_APICS) {
        named.add(pfn.addr(), pfn.addr() + IO_APIC_LEN, name);
    }
    KNOWN.call_once(|| (map, IrqMutex::new(LockRank::Leaf, named)));
}

/// Takes out all ranges of the device with that name, as [`add`] has it.
pub(crate) fn remove(name: fmt::Arguments<'_>) {
    let Some((_, named)) = KNOWN.get() else { return };
    let text = Text::of(name);
    let mut named = named.lock();
    let mut at = 0;
    while at < named.len {
        if named.ranges[at].name.as_bytes() == &text.bytes[..text.len] {
            let len = named.len;
            named.ranges.copy_within(at + 1..len, at);
            named.len -= 1;
        } else {
            at += 1;
        }
    }
}

/// Adds the bytes from `start` to `end`, a device's, of which nothing has a name
/// yet. Where there is no room for it, it is not shown.
pub(crate) fn add(start: u64, end: u64, name: fmt::Arguments<'_>) {
    let Some((_, named)) = KNOWN.get() else { return };
    let text = Text::of(name);
    let same = |slot: &&Once<([u8; LATE_BYTES], usize)>| {
        slot.get().is_some_and(|it| *it == (text.bytes, text.len))
    };
    let slot = match LATE_NAMES.iter().find(same) {
        Some(slot) => slot,
        None => match LATE_NAMES.get(LATE_TAKEN.fetch_add(1, Ordering::Relaxed)) {
            Some(slot) => slot,
            None => return,
        },
    };
    let (bytes, len) = slot.call_once(|| (text.bytes, text.len));
    let Ok(name) = core::str::from_utf8(&bytes[..*len]) else { return };
    let mut named = named.lock();
    if named.at(start, end).is_none() {
        named.add(start, end, name);
    }
}

/// What has a name already of the bytes from `start` to `end`, the first of it:
/// an interrupt controller, another device.
pub(crate) fn named(start: u64, end: u64) -> Option<&'static str> {
    let (_, named) = KNOWN.get()?;
    named.lock().at(start, end)
}

/// A name that is being written.
struct Text {
    bytes: [u8; LATE_BYTES],
    len: usize,
}

impl Text {
    /// What is too long is cut off.
    fn of(name: fmt::Arguments<'_>) -> Self {
        let mut text = Self { bytes: [0; LATE_BYTES], len: 0 };
        let _ = fmt::write(&mut text, name);
        text
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for &byte in s.as_bytes() {
            let slot =
                self.bytes.get_mut(self.len).filter(|_| byte.is_ascii()).ok_or(fmt::Error)?;
            *slot = byte;
            self.len += 1;
        }
        Ok(())
    }
}

/// Whether the firmware says that there is RAM, of whatever use, or something
/// else that is no device's, in the bytes from `start` to `end`.
pub(crate) fn is_memory(start: u64, end: u64) -> bool {
    let Some((map, _)) = KNOWN.get() else { return false };
    map.regions().iter().any(|region| {
        // Holes, and what is called reserved, may be devices.
        region.kind != RegionKind::Reserved && region.start < end && start < region.end
    })
}

/// Whether the firmware's map has something between the two addresses, RAM or
/// not.
pub(crate) fn is_listed(start: u64, end: u64) -> bool {
    let Some((map, _)) = KNOWN.get() else { return false };
    map.regions().iter().any(|region| region.start < end && start < region.end)
}

/// Writes `/proc/iomem`; nothing before [`note`].
///
/// # Errors
///
/// What `out` fails with.
pub(crate) fn write(out: &mut dyn fmt::Write) -> fmt::Result {
    match KNOWN.get() {
        Some((map, named)) => {
            // Not under the lock: who reads may be slow.
            let mut all = *named.lock();
            if let Some(mm) = super::MM.get() {
                mm.added_memory().for_each(|(range, name)| {
                    all.add(range.start.addr(), range.end.addr(), name);
                });
            }
            let Named { ranges, len } = all;
            write_iomem(map.regions(), map.scraps(), &ranges[..len], out)
        }
        None => Ok(()),
    }
}
