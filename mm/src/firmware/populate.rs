//! From a clean map to early memory, and whether there is enough of it.

use super::{Map, RawRegion, RegionKind};
use crate::early::EarlyMem;
use crate::types::{NodeId, PAGE_SIZE, Pfn, PfnRange};
use core::fmt;

/// Frames at and beyond this one have no descriptor: links between descriptors
/// are 32-bit frame numbers, the last of which means "none".
pub const MAX_PFN: Pfn = Pfn(0xffff_ffff);

/// RAM that a machine must have for Quarry to boot, in bytes: kernel, page
/// tables, memory map and enough free pages for the self-tests to mean
/// something. (Boot loaders and firmware need more than this on their own.)
pub const MIN_RAM_BYTES: u64 = 16 << 20;

/// Frame 0, which nobody may have: its number is often taken for "none".
const FRAME_0: PfnRange = PfnRange::new(Pfn(0), Pfn(1));
/// 0xA0000-0xFFFFF: video memory and ROMs on a PC, whatever the map says.
const VGA_AND_ROMS: PfnRange = PfnRange::new(Pfn(0xa0), Pfn(0x100));

/// Makes the RAM of `map` that of `early`, all on node 0, without frame 0 and
/// without 0xA0000-0xFFFFF (so "present" counts as in Linux), and reserves what
/// the boot loader holds. Returns the pages of RAM that lie too high to have
/// descriptors (see [`MAX_PFN`]) and were left out.
pub fn populate(map: &Map<'_>, early: &mut EarlyMem<'_>) -> u64 {
    let mut too_high = 0;
    for ram in map.ram() {
        let reachable = PfnRange::new(ram.start, ram.end.min(MAX_PFN));
        early.add_ram(reachable, NodeId(0));
        too_high += ram.pages() - reachable.pages();
    }
    early.remove_ram(FRAME_0);
    early.remove_ram(VGA_AND_ROMS);
    for range in map.unmanaged() {
        early.reserve(range, "boot loader");
    }
    too_high
}

/// Reserves what the boot loader holds according to the firmware's own entries,
/// RAM or not, rounded outwards. To be done before the command line's edits,
/// which may hide such an entry and make RAM of its place.
pub fn reserve_bootloader(raw: &[RawRegion], early: &mut EarlyMem<'_>) {
    for entry in raw.iter().filter(|e| e.kind == RegionKind::Bootloader && !e.is_empty()) {
        let end = if entry.wraps() { u64::MAX } else { entry.end };
        let last = Pfn::containing(end - 1);
        early.reserve(PfnRange::new(Pfn::containing(entry.start), last.add(1)), "boot loader");
    }
}

/// Why a machine cannot boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooLittleRam {
    /// RAM found, in pages.
    pub pages: u64,
}

impl fmt::Display for TooLittleRam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let have = self.pages * (PAGE_SIZE as u64 / 1024);
        write!(f, "too little RAM to boot: {have}K, at least {}K are needed", MIN_RAM_BYTES / 1024)
    }
}

impl core::error::Error for TooLittleRam {}

/// Whether `pages` of RAM are enough to boot.
///
/// # Errors
///
/// [`TooLittleRam`], to be shown to the user, below [`MIN_RAM_BYTES`].
pub const fn check_ram(pages: u64) -> Result<(), TooLittleRam> {
    if pages < MIN_RAM_BYTES / PAGE_SIZE as u64 { Err(TooLittleRam { pages }) } else { Ok(()) }
}
