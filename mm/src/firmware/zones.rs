//! Where a machine's zones lie (Linux `mm/mm_init.c`). Pure arithmetic over
//! sorted ranges of RAM.

use crate::early::RamRange;
use crate::types::{MAX_NODES, MAX_ORDER, NodeId, PAGE_SHIFT, Pfn, PfnRange, ZoneKind};

/// The first frame above zone DMA: 16 MiB.
pub const DMA_END: Pfn = Pfn::containing(16 << 20);
/// The first frame above zone DMA32: 4 GiB.
pub const DMA32_END: Pfn = Pfn::containing(4 << 30);

/// An amount of memory, given in bytes or as a part of all RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CoreSize {
    /// Bytes; parts of a page do not count.
    Bytes(u64),
    /// Percent of all RAM.
    Percent(u8),
}

impl CoreSize {
    /// In pages, on a machine with `total` pages.
    pub const fn pages(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes >> PAGE_SHIFT,
            Self::Percent(percent) => (total as u128 * percent as u128 / 100) as u64,
        }
    }
}

/// How the command line divides memory between what may hold anything and zone
/// Movable. With neither, there is no zone Movable.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MovableSplit {
    /// At least this much outside zone Movable, to within a page for each node
    /// (as in Linux, which does not spread such a rest).
    pub kernelcore: Option<CoreSize>,
    /// At least this much inside it, unless `kernelcore` says otherwise.
    pub movablecore: Option<CoreSize>,
}

impl MovableSplit {
    /// Pages that must stay outside zone Movable, of `total`; `None` when that
    /// is all of them, or nothing was asked for.
    fn core_pages(self, total: u64) -> Option<u64> {
        let largest_block = MAX_ORDER.pages();
        let kernel = self.kernelcore.map_or(0, |size| size.pages(total));
        let movable = self.movablecore.map_or(0, |size| size.pages(total)).min(total);
        let beside_movable = match movable {
            0 => 0,
            pages => total - pages.next_multiple_of(largest_block).min(total),
        };
        // All of memory movable leaves the kernel none: Linux then has no zone
        // Movable either.
        Some(kernel.max(beside_movable)).filter(|&core| 0 < core && core < total)
    }
}

/// Where the zones of a machine lie, made once from its RAM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ZoneLayout {
    /// The machine's zones DMA, DMA32 and Normal, zone Movable not taken out.
    ranges: [PfnRange; 3],
    /// The zone that Movable is taken from: the highest with memory.
    donor: ZoneKind,
    /// Where zone Movable begins on each node; frame 0 where there is none.
    movable: [Pfn; MAX_NODES],
}

impl ZoneLayout {
    /// The layout for `ram`, sorted and disjoint, as
    /// [`EarlyMem::ram`](crate::early::EarlyMem::ram) has it.
    pub fn new(ram: &[RamRange], split: MovableSplit) -> Self {
        let start = ram.first().map_or(Pfn(0), |r| r.range.start);
        let end = ram.last().map_or(Pfn(0), |r| r.range.end);
        // A zone ends where the next begins; the highest, where RAM ends. So a
        // zone can end in a hole.
        let dma_end = DMA_END.min(end).max(start);
        let dma32_end = DMA32_END.min(end).max(dma_end);
        let ranges = [
            PfnRange::new(start, dma_end),
            PfnRange::new(dma_end, dma32_end),
            PfnRange::new(dma32_end, end.max(dma32_end)),
        ];
        let donor = match ranges {
            [_, _, normal] if !normal.is_empty() => ZoneKind::Normal,
            [_, dma32, _] if !dma32.is_empty() => ZoneKind::Dma32,
            _ => ZoneKind::Dma,
        };
        let mut layout = Self { ranges, donor, movable: [Pfn(0); MAX_NODES] };
        let total = ram.iter().map(|r| r.range.pages()).sum();
        if let Some(core) = split.core_pages(total) {
            layout.place_movable(ram, core);
        }
        layout
    }

    /// Spreads `core` pages evenly over the nodes; what lies above them, in the
    /// donor zone, is movable.
    fn place_movable(&mut self, ram: &[RamRange], mut core: u64) {
        let floor = self.ranges[self.donor.index()].start;
        // Per node: where its core memory ends so far.
        let mut ends = [Pfn(0); MAX_NODES];
        let mut nodes = (0..MAX_NODES).filter(|&n| node_range(ram, node_id(n)).is_some()).count();
        // A node smaller than its share leaves the rest to another round.
        while nodes > 0 && core > 0 {
            let mut share = core / nodes as u64;
            for (node, core_end) in ends.iter_mut().enumerate() {
                if node_range(ram, node_id(node)).is_none() {
                    continue;
                }
                if core < share {
                    share = core / nodes as u64;
                }
                let mut left = share;
                for r in ram.iter().filter(|r| r.node == node_id(node)) {
                    let start = r.range.start.max(*core_end);
                    if start >= r.range.end {
                        continue;
                    }
                    // Below the donor zone nothing can be movable: all of it is
                    // core, whatever the share.
                    let below = PfnRange::new(start, r.range.end.min(floor)).pages();
                    let above_start = start.max(floor.min(r.range.end));
                    let above = r.range.end.0 - above_start.0;
                    left = left.saturating_sub(below);
                    let taken = above.min(left);
                    left -= taken;
                    core = core.saturating_sub(below + taken);
                    *core_end = above_start.add(taken);
                    if left == 0 && r.range.end > floor {
                        break;
                    }
                }
            }
            nodes -= 1;
            if core <= nodes as u64 {
                break;
            }
        }
        for (node, core_end) in ends.iter().enumerate() {
            let start = core_end.align_up(MAX_ORDER);
            if node_range(ram, node_id(node)).is_some_and(|range| start < range.end) {
                self.movable[node] = start;
            }
        }
    }

    /// A zone of the machine as a whole, Movable not taken out of it; `None`
    /// for Movable, which is a matter of nodes.
    pub fn range(&self, kind: ZoneKind) -> Option<PfnRange> {
        self.ranges.get(kind.index()).copied()
    }

    /// Where zone Movable begins on `node`, if it has one.
    pub fn movable_start(&self, node: NodeId) -> Option<Pfn> {
        self.movable.get(usize::from(node.0)).copied().filter(|&start| start != Pfn(0))
    }

    /// Where zone Movable begins on every node, the largest number where there
    /// is none.
    pub fn movable_starts(&self) -> [Pfn; MAX_NODES] {
        self.movable.map(|start| if start == Pfn(0) { Pfn(u64::MAX) } else { start })
    }

    /// The zone of frame `pfn` on `node`.
    pub fn zone_of(&self, node: NodeId, pfn: Pfn) -> ZoneKind {
        let kind = match pfn {
            _ if pfn < DMA_END => ZoneKind::Dma,
            _ if pfn < DMA32_END => ZoneKind::Dma32,
            _ => ZoneKind::Normal,
        };
        match self.movable_start(node) {
            Some(start) if kind == self.donor && pfn >= start => ZoneKind::Movable,
            _ => kind,
        }
    }

    /// From the first to the last frame that `node` may have in zone `kind`,
    /// holes and all: its length is "spanned". Empty where it has none.
    pub fn span(&self, ram: &[RamRange], node: NodeId, kind: ZoneKind) -> PfnRange {
        let Some(whole) = node_range(ram, node) else { return PfnRange::default() };
        let source = if kind == ZoneKind::Movable { self.donor } else { kind };
        let Some(range) = self.range(source) else { return PfnRange::default() };
        let mut span = range.intersect(whole);
        let movable = self.movable_start(node).filter(|_| source == self.donor);
        match (kind, movable) {
            (ZoneKind::Movable, Some(start)) => span.start = span.start.max(start),
            (ZoneKind::Movable, None) => return PfnRange::default(),
            (_, Some(start)) => span.end = span.end.min(start),
            (_, None) => {}
        }
        // A zone that only spans a hole is not there.
        if ram_in(ram, node, span) == 0 { PfnRange::default() } else { span }
    }

    /// RAM of `node` in zone `kind`, in pages: "present".
    pub fn present(&self, ram: &[RamRange], node: NodeId, kind: ZoneKind) -> u64 {
        ram_in(ram, node, self.span(ram, node, kind))
    }
}

/// Index of a node as its id; `n` is below [`MAX_NODES`].
fn node_id(n: usize) -> NodeId {
    NodeId(n as u8)
}

/// From the first to the last frame of RAM on `node`, if it has RAM.
pub(super) fn node_range(ram: &[RamRange], node: NodeId) -> Option<PfnRange> {
    let mut theirs = ram.iter().filter(|r| r.node == node);
    let first = theirs.next()?.range;
    let last = theirs.next_back().map_or(first, |r| r.range);
    Some(PfnRange::new(first.start, last.end))
}

/// RAM of `node` inside `range`, in pages.
fn ram_in(ram: &[RamRange], node: NodeId, range: PfnRange) -> u64 {
    ram.iter().filter(|r| r.node == node).map(|r| r.range.intersect(range).pages()).sum()
}
