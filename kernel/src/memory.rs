//! From the boot loader's memory regions to early memory. Calls `mm::early`,
//! `mm::firmware`.

use crate::take::Take;
use bootloader_api::info::{MemoryRegion, MemoryRegionKind};
use mm::early::{EarlyMem, RamRange, Reservation};
use mm::types::{NodeId, Pfn, PfnRange};

static RAM: Take<[RamRange; 256]> = Take::new([RamRange::EMPTY; 256]);
static RESERVED: Take<[Reservation; 256]> = Take::new([Reservation::EMPTY; 256]);

pub(crate) fn early(regions: &[MemoryRegion]) -> Option<EarlyMem<'static>> {
    let mut early = EarlyMem::new(RAM.take()?, RESERVED.take()?);
    for region in regions {
        log::info!("{region:x?}");
        let range = PfnRange::new(Pfn(region.start.div_ceil(4096)), Pfn(region.end / 4096));
        match region.kind {
            MemoryRegionKind::Usable => early.add_ram(range, NodeId(0)),
            MemoryRegionKind::Bootloader => {
                early.add_ram(range, NodeId(0));
                early.reserve(range, "boot loader");
            }
            _ => {}
        }
    }
    early.remove_ram(PfnRange::new(Pfn(0), Pfn(1)));
    early.remove_ram(PfnRange::new(Pfn(0xa0), Pfn(0x100)));
    early.reserve(PfnRange::new(Pfn(0), Pfn(0x100)), "low memory");
    Some(early)
}
