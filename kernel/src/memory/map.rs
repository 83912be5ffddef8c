//! The firmware's map: from what the boot loader hands over to early memory.
//! Calls `mm::firmware`, `mm::early`.

use crate::take::Take;
use bootloader_api::info::{MemoryRegion, MemoryRegionKind};
use mm::early::{EarlyMem, RamRange, Reservation};
use mm::firmware::{
    MapEdit, RawMap, RawRegion, Region, RegionKind, apply_edits, populate, reserve_bootloader,
    sanitize,
};
use mm::types::{Pfn, PfnRange};

/// Entries of the firmware that are kept: Linux keeps 128 of an e820 map, UEFI
/// machines have been seen with some 300.
const ENTRIES: usize = 512;

static RAW: Take<[RawRegion; ENTRIES]> = Take::new([RawRegion::EMPTY; ENTRIES]);
static CLEAN: Take<[Region; 2 * ENTRIES]> = Take::new([Region::EMPTY; 2 * ENTRIES]);
static RAM: Take<[RamRange; ENTRIES]> = Take::new([RamRange::EMPTY; ENTRIES]);
static RESERVED: Take<[Reservation; ENTRIES]> = Take::new([Reservation::EMPTY; ENTRIES]);

/// The first MiB: its start is the BIOS's, a second CPU begins there, and some
/// firmware writes to it unasked (Linux reserves all of it for those reasons).
const LOW_MEMORY: PfnRange = PfnRange::new(Pfn(0), Pfn(0x100));

/// Frames that are in use already, whatever the map says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InUse {
    /// The kernel's file.
    pub(crate) kernel: PfnRange,
    /// The boot image's ramdisk.
    pub(crate) ramdisk: PfnRange,
    /// What is on the screen.
    pub(crate) framebuffer: PfnRange,
}

/// What became of the firmware's map.
pub(crate) struct FirmwareMap {
    /// All that the firmware said, cleaned.
    pub(crate) map: mm::firmware::Map<'static>,
    /// The RAM, and what of it is taken.
    pub(crate) early: EarlyMem<'static>,
}

fn kind(kind: MemoryRegionKind) -> RegionKind {
    match kind {
        MemoryRegionKind::Usable => RegionKind::Usable,
        MemoryRegionKind::Bootloader => RegionKind::Bootloader,
        MemoryRegionKind::UnknownUefi(number) => RegionKind::from_uefi(number),
        MemoryRegionKind::UnknownBios(number) => RegionKind::from_e820(number),
        // The loader may learn more kinds; nobody may use what is unknown.
        _ => RegionKind::Reserved,
    }
}

/// Logs `entries`, those that touch and print the same as one: UEFI's maps have
/// a hundred entries where people want ten.
fn log_entries(entries: &[RawRegion], who: &str) {
    // The kinds that print as the first of them does.
    let printed = |kind| match kind {
        RegionKind::Bootloader => RegionKind::Usable,
        RegionKind::EfiRuntime => RegionKind::Reserved,
        kind => kind,
    };
    let alike = |a: &RawRegion, b: &RawRegion| {
        a.end == b.start && !a.wraps() && !b.wraps() && printed(a.kind) == printed(b.kind)
    };
    for run in entries.chunk_by(alike) {
        if let [first, .., last] | [first @ last] = run {
            let merged = RawRegion::new(first.start, last.end, first.kind);
            log::info!("{who}: {} {}", merged.mem(), merged.kind);
        }
    }
}

/// Reads and logs the firmware's map, edited as the command line says. None if
/// that was done before.
pub(crate) fn early(
    regions: &[MemoryRegion],
    phys_bits: u8,
    edits: &[MapEdit],
    in_use: &InUse,
) -> Option<FirmwareMap> {
    let mut early = EarlyMem::new(RAM.take()?, RESERVED.take()?);
    let mut raw = RawMap::new(RAW.take()?);
    for region in regions {
        raw.push(RawRegion::new(region.start, region.end, kind(region.kind)));
    }
    log::info!("BIOS-provided physical RAM map:");
    log_entries(raw.entries(), "BIOS-e820");
    reserve_bootloader(raw.entries(), &mut early);
    if !edits.is_empty() {
        apply_edits(&mut raw, edits);
        log::info!("user-defined physical RAM map:");
        log_entries(raw.entries(), "user");
    }

    let warn = &mut |warning| log::warn!("{warning}");
    let raw = raw.finish(warn);
    let map = sanitize(raw, u32::from(phys_bits), CLEAN.take()?, warn);
    let too_high = populate(&map, &mut early);
    if too_high > 0 {
        log::warn!("{too_high} pages of RAM lie too high to be managed");
    }
    early.reserve(LOW_MEMORY, "low memory");
    early.reserve(in_use.kernel, "kernel");
    early.reserve(in_use.ramdisk, "ramdisk");
    early.reserve(in_use.framebuffer, "framebuffer");
    Some(FirmwareMap { map, early })
}
