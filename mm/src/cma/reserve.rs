//! Where contiguous areas lie: they are reserved in early memory before
//! anything else of the manager's, and their pageblocks get their type before
//! the pages become free. May call: `early`, `boot_slice`, `memmap`.

use super::bitmap::words;
use super::{CmaArea, CmaAreas, CmaRequest};
use crate::boot_slice::BootSlice;
use crate::early::EarlyMem;
use crate::memmap::MemMap;
use crate::platform::{LogLevel, Platform};
use crate::setup::{Config, DMA_END, DMA32_END};
use crate::sync::{AtomicU64, Lock, LockRank, Ordering::Relaxed, SleepLock};
use crate::types::{MigrateType, NodeId, PAGE_SIZE, PAGEBLOCK_ORDER, Pfn, PfnRange};
use crate::zone::Zone;

/// Who has the frames until they are free.
const NAME: &str = "contiguous area";

/// The zones that an area may lie in, as ranges of frames, best first: below
/// 4 GiB, where every device reaches; Movable, where contiguous memory is all
/// that does not move; DMA last.
fn zones_of_choice(movable: Pfn) -> [PfnRange; 5] {
    [
        PfnRange::new(movable.max(DMA_END), DMA32_END),
        PfnRange::new(DMA_END, movable.min(DMA32_END)),
        PfnRange::new(DMA32_END, movable),
        PfnRange::new(movable.max(DMA32_END), Pfn(u64::MAX)),
        PfnRange::new(Pfn(0), movable.min(DMA_END)),
    ]
}

/// Reserves what a request asks for, inside one zone of one node.
fn place(
    early: &mut EarlyMem<'_>,
    config: &Config,
    request: &CmaRequest,
) -> Result<PfnRange, &'static str> {
    if request.order_per_bit > PAGEBLOCK_ORDER {
        return Err("a bit stands for more than a pageblock");
    }
    let pages = request.size.div_ceil(PAGE_SIZE as u64);
    let pages = pages.checked_next_multiple_of(PAGEBLOCK_ORDER.pages()).ok_or("too large")?;
    // The kernel cannot use what is in the area, and needs something itself.
    let free = early.free_pages();
    if pages == 0 || pages > free - free / 8 {
        return Err("not that much RAM");
    }
    let within = match (request.base.map(Pfn::containing), request.end.map(Pfn::containing)) {
        (Some(base), None) => PfnRange::sized(base.align_up(PAGEBLOCK_ORDER), pages),
        (base, end) => PfnRange::new(base.unwrap_or(Pfn(0)), end.unwrap_or(Pfn(u64::MAX))),
    };
    for choice in 0..zones_of_choice(Pfn(0)).len() {
        for (node, &movable) in config.movable_start.iter().enumerate() {
            let zone = zones_of_choice(movable)[choice].intersect(within);
            let node = Some(NodeId(node as u8));
            if zone.pages() < pages {
                continue;
            }
            if let Some(start) = early.alloc_in(pages, PAGEBLOCK_ORDER, zone, node, NAME) {
                return Ok(PfnRange::sized(start, pages));
            }
        }
    }
    Err("no such range is free in one zone")
}

impl CmaArea {
    /// An area over `range`, which is reserved; gives that back on failure.
    fn new<P: Platform>(
        platform: &P,
        early: &mut EarlyMem<'_>,
        range: PfnRange,
        request: &CmaRequest,
    ) -> Result<Self, &'static str> {
        let order_per_bit = request.order_per_bit;
        let words = words(range.pages() >> order_per_bit.0);
        match BootSlice::new(platform, early, "bitmap of an area", words, |_| AtomicU64::new(0)) {
            Some(bitmap) => {
                let lock = Lock::new(LockRank::CmaArea, ());
                Ok(Self { range, order_per_bit, bitmap, lock, turn: SleepLock::new(()) })
            }
            None => {
                early.release(range);
                Err("no RAM for its bitmap")
            }
        }
    }
}

impl CmaAreas {
    /// Reserves the areas that `config` asks for. What cannot be had is left
    /// out with a message.
    pub(crate) fn reserve<P: Platform>(
        platform: &P,
        early: &mut EarlyMem<'_>,
        config: &Config,
    ) -> Self {
        let mut areas = Self::default();
        let placed = config.cma.map(|request| request.map(|r| place(early, config, &r)));
        // Only now, so that a bitmap does not lie where the next area fits.
        for ((slot, request), placed) in areas.0.iter_mut().zip(&config.cma).zip(placed) {
            let (Some(request), Some(placed)) = (request, placed) else { continue };
            let mib = request.size >> 20;
            match placed.and_then(|range| CmaArea::new(platform, early, range, request)) {
                Ok(area) => {
                    let at = area.range.start.addr();
                    let line = format_args!("cma: Reserved {mib} MiB at {at:#018x}");
                    platform.log(LogLevel::Info, line);
                    *slot = Some(area);
                }
                Err(why) => {
                    let line = format_args!("cma: Failed to reserve {mib} MiB: {why}");
                    platform.log(LogLevel::Warn, line);
                }
            }
        }
        areas
    }

    /// Gives the areas' pageblocks their type and their pages back to early
    /// memory, so that they become free like all others. The map knows them;
    /// nothing is free yet.
    pub(crate) fn activate<P: Platform>(
        &mut self,
        platform: &P,
        early: &mut EarlyMem<'_>,
        map: &MemMap,
        zones: &[Zone],
    ) {
        for slot in &mut self.0 {
            let Some(area) = slot else { continue };
            let range = area.range;
            early.release(range);
            let zone = map.info(range.start).map(crate::memmap::BlockInfo::zone_index);
            let whole = early.is_free(range)
                && crate::contig::pageblocks(range)
                    .all(|b| map.info(b).map(crate::memmap::BlockInfo::zone_index) == zone);
            let Some(zone) = zone.filter(|_| whole).and_then(|i| zones.get(i)) else {
                platform.log(
                    LogLevel::Warn,
                    format_args!("cma: {:#018x} is left to everybody", range.start.addr()),
                );
                *slot = None;
                continue;
            };
            for block in crate::contig::pageblocks(range) {
                if let Some(info) = map.info(block) {
                    info.set_migratetype(MigrateType::Cma);
                }
            }
            zone.cma_pages.fetch_add(range.pages(), Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::early::{RamRange, Reservation};
    use crate::types::Order;

    const G: u64 = 1 << 18;

    fn placed(ram: &[(u64, u64, u8)], movable: u64, request: CmaRequest) -> Option<(u64, u64)> {
        let mut ranges = [RamRange::EMPTY; 8];
        let mut reserved = [Reservation::EMPTY; 8];
        let mut early = EarlyMem::new(&mut ranges, &mut reserved);
        for &(start, end, node) in ram {
            early.add_ram(PfnRange::new(Pfn(start), Pfn(end)), NodeId(node));
        }
        let mut config = Config::default();
        config.movable_start = config.movable_start.map(|_| Pfn(movable));
        let free = early.free_pages();
        let range = place(&mut early, &config, &request).ok();
        let taken = free - early.free_pages();
        assert_eq!(taken, range.map_or(0, PfnRange::pages));
        range.map(|r| (r.start.0, r.end.0))
    }

    fn request(mib: u64) -> CmaRequest {
        CmaRequest { size: mib << 20, base: None, end: None, order_per_bit: Order(0) }
    }

    #[test]
    fn places() {
        let none = u64::MAX;
        let small = [(1, 0x20000 - 32, 0)];
        let large = [(1, 3 * G, 0), (4 * G, 6 * G, 0)];
        // The top of memory, whole pageblocks.
        assert_eq!(placed(&small, none, request(16)), Some((0x1ee00, 0x1fe00)));
        // The top below 4 GiB; only what does not fit there goes above.
        assert_eq!(placed(&large, none, request(64)), Some((3 * G - 0x4000, 3 * G)));
        assert_eq!(
            placed(&[(1, G, 0), (4 * G, 9 * G, 0)], none, request(2048)),
            Some((7 * G, 9 * G))
        );
        // In zone Movable, never over its border.
        assert_eq!(placed(&small, 0x1f000, request(6)), Some((0x1f800, 0x1fe00)));
        assert_eq!(placed(&small, 0x1f000, request(16)), Some((0x1e000, 0x1f000)));
        assert_eq!(placed(&small, 0x1f801, request(2)), Some((0x1fc00, 0x1fe00)));
        // Where it is asked for, or not at all.
        let at = |base, end, mib| CmaRequest { base: Some(base), end, ..request(mib) };
        assert_eq!(placed(&small, none, at(0x400_0000, None, 4)), Some((0x4000, 0x4400)));
        assert_eq!(placed(&small, none, at(0x400_1000, None, 4)), Some((0x4200, 0x4600)));
        assert_eq!(placed(&small, none, at(0x1fe0_0000, None, 4)), None);
        assert_eq!(placed(&small, none, at(0x40_0000, Some(0x80_0000), 4)), Some((0x400, 0x800)));
        assert_eq!(placed(&small, none, at(0x40_0000, Some(0x70_0000), 4)), None);
        // Over the border of zone DMA, or of nodes.
        assert_eq!(placed(&small, none, at(0xe0_0000, None, 4)), None);
        let nodes = [(1, 0x8000, 0), (0x8000, 0x10000, 1)];
        assert_eq!(placed(&nodes, none, at(0x7e0_0000, None, 4)), None);
        assert_eq!(placed(&nodes, none, request(120)), Some((0x8800, 0x10000)));
        // Nothing, everything, nonsense.
        assert_eq!(placed(&small, none, request(0)), None);
        assert_eq!(placed(&small, none, request(500)), None);
        assert_eq!(placed(&small, none, CmaRequest { size: u64::MAX, ..request(1) }), None);
        assert_eq!(
            placed(&small, none, CmaRequest { order_per_bit: Order(10), ..request(16) }),
            None
        );
    }
}
