//! Contiguous ranges: of any place and size, of areas, given back in parts.

use crate::world::World;
use mm::Gfp;
use mm::cma::CmaId;
use mm::contig::ContigError;
use mm::types::{MigrateType, Order, PAGEBLOCK_PAGES, Pfn, PfnRange};

/// A range that is held, or what is left of it.
struct Held {
    range: PfnRange,
    id: u32,
    area: Option<CmaId>,
}

/// The ranges that are held.
#[derive(Default)]
pub(crate) struct Ranges {
    held: Vec<Held>,
    pub(crate) served: u64,
    pub(crate) refused: u64,
}

const GFPS: [Gfp; 4] = [
    Gfp::KERNEL.union(Gfp::NOWARN),
    Gfp::KERNEL.union(Gfp::NOWARN).union(Gfp::NORETRY),
    Gfp::NOWAIT.union(Gfp::NOWARN),
    Gfp::KERNEL.union(Gfp::NOWARN).union(Gfp::ZERO),
];

impl World<'_> {
    pub(crate) fn allocate_range(&mut self) {
        let gfp = self.rng.pick(&GFPS);
        let end = self.mm.map().end();
        let pages = match self.rng.below(4) {
            0 => 1,
            1 => 1 + self.rng.below(64),
            2 => 1 + self.rng.below(PAGEBLOCK_PAGES),
            _ => 1 + self.rng.below(1500),
        };
        let align = Order(self.rng.below(11) as u8);
        let areas: Vec<CmaId> = self.mm.cma_areas().map(|(id, _)| id).collect();
        let (result, area) = match self.rng.below(3) {
            0 => {
                let start = Pfn(self.rng.below(end.0));
                (self.mm.alloc_contig_range(PfnRange::sized(start, pages), gfp), None)
            }
            1 if !areas.is_empty() => {
                let id = self.rng.pick(&areas);
                (self.mm.cma_alloc(id, pages, align, gfp), Some(id))
            }
            _ => {
                let min = Pfn(if self.rng.percent(50) { 0 } else { self.rng.below(end.0) });
                let result = self.mm.alloc_contig_pages(pages, align, None, min, gfp);
                if let Ok(range) = result {
                    assert!(range.start >= min && range.start.is_aligned(align), "{range:?}");
                }
                (result, None)
            }
        };
        match result {
            Ok(range) => {
                assert_eq!(range.pages(), pages);
                let id = self.owners.take_range(range);
                self.stamp_range(range, id);
                self.ranges.held.push(Held { range, id, area });
                self.ranges.served += 1;
            }
            Err(ContigError::Invalid(_) | ContigError::Busy(_) | ContigError::NoMemory) => {
                self.ranges.refused += 1;
            }
        }
    }

    /// Gives back a range, or a part of one from either end.
    pub(crate) fn free_range(&mut self) {
        if self.ranges.held.is_empty() {
            return;
        }
        let index = self.rng.below(self.ranges.held.len() as u64) as usize;
        let held = &mut self.ranges.held[index];
        let (whole, id, area) = (held.range, held.id, held.area);
        let mut part = whole;
        if self.rng.percent(40) {
            let at = whole.start.add(self.rng.below(whole.pages() + 1));
            part = if self.rng.percent(50) {
                PfnRange::new(whole.start, at)
            } else {
                PfnRange::new(at, whole.end)
            };
        }
        if part.is_empty() {
            return;
        }
        held.range = if part.start > whole.start {
            PfnRange::new(whole.start, part.start)
        } else {
            PfnRange::new(part.end, whole.end)
        };
        if held.range.is_empty() {
            self.ranges.held.swap_remove(index);
        }
        self.check_range_stamp(part, id);
        self.owners.drop_range(part, id);
        let freed = match area {
            Some(id) => self.mm.cma_release(id, part),
            None => self.mm.free_contig_range(part),
        };
        freed.unwrap_or_else(|why| panic!("{part:?} of {whole:?}, area {area:?}: {why}"));
    }

    /// What is given back that is not held: refused, and nothing changes.
    pub(crate) fn free_range_wrongly(&mut self) {
        let start = Pfn(self.rng.below(self.mm.map().end().0));
        let range = PfnRange::sized(start, 1 + self.rng.below(100));
        let mut inside = self.ranges.held.iter().filter(|held| held.area.is_none());
        if inside.any(|held| held.range.intersect(range) == range) {
            return;
        }
        let result = self.mm.free_contig_range(range);
        assert!(result.is_err(), "{range:?}, which nobody holds, was freed");
    }

    /// No pageblock stays isolated, and all areas are lent.
    pub(crate) fn check_types(&self) {
        for zone in self.mm.zones() {
            let span = zone.span();
            let mut block = span.start.pageblock();
            while block < span.end {
                let ty = self.mm.map().info(block).map(mm::memmap::BlockInfo::migratetype);
                assert_ne!(ty, Some(MigrateType::Isolate), "{block:?} is isolated by nobody");
                block = block.add(PAGEBLOCK_PAGES);
            }
        }
        for (_, area) in self.mm.cma_areas() {
            let ty = self.mm.map().info(area.range().start).map(mm::memmap::BlockInfo::migratetype);
            assert_eq!(ty, Some(MigrateType::Cma));
        }
    }

    pub(crate) fn free_ranges(&mut self) {
        while !self.ranges.held.is_empty() {
            self.free_range();
        }
    }
}
