//! How many pageblocks make a cell, and how large cells are, so that a machine
//! fits into a rectangle of pixels.

/// Cells in rows, all of the same size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grid {
    /// Pageblocks that make a cell, a power of two.
    pub group: u64,
    /// Cells of a row, a power of two.
    pub columns: u64,
    /// Pixels from one cell to the next, both ways.
    pub pitch: u64,
}

impl Grid {
    /// Cells that are drawn at least as large as that can be told apart.
    const LEAST: u64 = 5;
    /// There is no use in larger ones.
    const MOST: u64 = 24;

    /// The finest grid for `blocks` pageblocks in `width` by `height` pixels, of
    /// which `spare` are left of the height for every further zone or hole, of
    /// which there are `parts`. None if even the coarsest has no room.
    pub fn fit(blocks: u64, parts: u64, spare: u64, width: u64, height: u64) -> Option<Self> {
        let height = height.checked_sub(parts.checked_mul(spare)?)?;
        for shift in 0..40 {
            let group = 1 << shift;
            let cells = blocks.div_ceil(group).max(1);
            let fits = |pitch: &u64| {
                let columns = (width / pitch).checked_ilog2().map(|log| 1 << log);
                // Each part begins and ends in a row of its own.
                let rows = columns.map(|columns: u64| cells.div_ceil(columns) + parts);
                rows.is_some_and(|rows| rows * pitch <= height)
            };
            if let Some(pitch) = (Self::LEAST..=Self::MOST).rev().find(fits) {
                return Some(Self { group, columns: 1 << (width / pitch).ilog2(), pitch });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_of_all_sizes_fit() {
        for blocks in [1, 16, 256, 4096, 32_768, 1 << 20, 1 << 23] {
            for (width, height) in [(300, 600), (512, 1080), (100, 100)] {
                let parts = 3;
                let grid = Grid::fit(blocks, parts, 10, width, height).expect("room");
                let cells = blocks.div_ceil(grid.group);
                let rows = cells.div_ceil(grid.columns) + parts;
                assert!(grid.columns * grid.pitch <= width);
                assert!(rows * grid.pitch + 30 <= height);
                assert!(grid.pitch >= 5);
            }
        }
        let small = Grid::fit(16, 2, 10, 300, 600).expect("room");
        assert_eq!((small.group, small.pitch), (1, 24));
        assert_eq!(Grid::fit(1, 100, 10, 300, 600), None);
        assert_eq!(Grid::fit(1, 1, 1, 3, 3), None);
    }
}
