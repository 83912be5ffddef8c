//! Where what lies in a picture: cells in rows, in parts that are of one zone and
//! have no large hole, each part with its place in a column of them. Pure.

use super::snapshot::Snapshot;
use mm::types::{NodeId, PAGEBLOCK_PAGES, Pfn, PfnRange, ZoneKind};
use picture::{Cell, Grid};

/// Pageblocks without RAM that are left out of the picture, if so many follow
/// each other: 128 MiB.
const HOLE: u64 = 64;

/// A cell, and where it is in its part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) row: u64,
    pub(super) column: u64,
    /// The frames, those that are no RAM too.
    pub(super) frames: PfnRange,
    /// What is there; nothing if it is a hole.
    pub(super) cell: Cell,
}

/// Cells of one zone.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) node: NodeId,
    pub(super) zone: ZoneKind,
    /// Bytes between it and what is before it.
    pub(super) hole: u64,
    /// The first frame of its first row.
    pub(super) start: Pfn,
    pub(super) rows: u64,
    pub(super) cells: Vec<Placed>,
}

/// Pageblocks with as few holes as one likes to see in a picture.
struct Stretch {
    node: NodeId,
    zone: ZoneKind,
    frames: PfnRange,
    runs: std::ops::Range<usize>,
}

fn stretches(snapshot: &Snapshot) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    for (i, run) in snapshot.runs.iter().enumerate() {
        let (node, zone) = (run.block.node, run.block.zone);
        match stretches.last_mut() {
            Some(last)
                if (last.node, last.zone) == (node, zone)
                    && run.range.start.0 - last.frames.end.0 < HOLE * PAGEBLOCK_PAGES =>
            {
                last.frames.end = run.range.end;
                last.runs.end = i + 1;
            }
            _ => stretches.push(Stretch { node, zone, frames: run.range, runs: i..i + 1 }),
        }
    }
    stretches
}

/// The finest grid in which all of these snapshots have room in `width` by about
/// `height` pixels each; a further part takes `spare` of the height.
pub(super) fn grid(snapshots: &[Snapshot], spare: u64, width: u64, height: u64) -> Option<Grid> {
    let (mut blocks, mut parts) = (1, 1);
    for snapshot in snapshots {
        let stretches = stretches(snapshot);
        let pages: u64 = stretches.iter().map(|stretch| stretch.frames.pages()).sum();
        blocks = blocks.max(pages / PAGEBLOCK_PAGES);
        parts = parts.max(stretches.len() as u64);
    }
    // However many parts there are, each has room for a few rows.
    Grid::fit(blocks, parts, spare, width, height + parts * (spare + 24))
}

/// The parts of a snapshot.
pub(super) fn parts(snapshot: &Snapshot, grid: Grid) -> Vec<Part> {
    let pages = grid.group * PAGEBLOCK_PAGES;
    let row_pages = grid.columns * pages;
    let mut before: Option<Pfn> = None;
    let mut parts = Vec::new();
    for stretch in stretches(snapshot) {
        let start = Pfn(stretch.frames.start.0 / row_pages * row_pages);
        let first = stretch.frames.start.0 / pages;
        let last = (stretch.frames.end.0 - 1) / pages;
        let mut cells: Vec<Placed> = (first..=last)
            .map(|at| {
                let place = at - start.0 / pages;
                let frames = PfnRange::sized(Pfn(at * pages), pages).intersect(stretch.frames);
                let (row, column) = (place / grid.columns, place % grid.columns);
                Placed { row, column, frames, cell: Cell::default() }
            })
            .collect();
        for run in &snapshot.runs[stretch.runs] {
            let blocks = (run.range.start.0..run.range.end.0).step_by(PAGEBLOCK_PAGES as usize);
            blocks.for_each(|pfn| cells[(pfn / pages - first) as usize].cell.add(&run.block));
        }
        parts.push(Part {
            node: stretch.node,
            zone: stretch.zone,
            hole: before.map_or(0, |end| stretch.frames.start.addr() - end.addr()),
            start,
            rows: cells.last().map_or(0, |cell| cell.row + 1),
            cells,
        });
        before = Some(stretch.frames.end);
    }
    parts
}
