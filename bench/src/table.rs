//! The rows: what they are called, and what Linux needs for the same. Linux was
//! counted under the same QEMU, a lean 6.12.117 with its slab and other
//! hardening off, and 6.1.192 with SLAB; where the zeroing or copying of bytes
//! is in a figure, with `-cpu max,-erms,-fsrm`. Calls nothing.

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// `suite.row`.
    pub name: &'static str,
    /// What is measured.
    pub what: &'static str,
    /// Linux 6.12 (with SLUB), if it was measured.
    pub linux_6_12: Option<f64>,
    /// Linux 6.1 (with SLAB), if it was measured.
    pub linux_6_1: Option<f64>,
    /// What Quarry is not to exceed.
    pub must: Option<f64>,
    /// What Quarry is to come to.
    pub aim: Option<f64>,
}

const fn row(name: &'static str, what: &'static str, linux: [f64; 2], want: [f64; 2]) -> Row {
    const fn some(number: f64) -> Option<f64> {
        if number > 0.0 { Some(number) } else { None }
    }
    Row {
        name,
        what,
        linux_6_12: some(linux[0]),
        linux_6_1: some(linux[1]),
        must: some(want[0]),
        aim: some(want[1]),
    }
}

/// Nothing to come to, or not measured.
const NONE: [f64; 2] = [0.0, 0.0];

/// All rows, in the order in which they are printed. Numbers are instructions
/// per operation but where it says what else.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    row("pages.order0", "order 0, alloc + free, hot", [628.0, 544.0], [200.0, 120.0]),
    row("pages.order1", "order 1, alloc + free, hot", [702.0, 630.0], NONE),
    row("pages.order2", "order 2, alloc + free, hot", [720.0, 692.0], NONE),
    row("pages.order3", "order 3, alloc + free, hot", [756.0, 762.0], [260.0, 180.0]),
    row("pages.order4", "order 4, alloc + free, hot", [985.0, 1500.0], NONE),
    row("pages.order5", "order 5, alloc + free, hot", [1118.0, 1922.0], NONE),
    row("pages.order6", "order 6, alloc + free, hot", [1606.0, 2856.0], NONE),
    row("pages.order7", "order 7, alloc + free, hot", [2090.0, 4904.0], NONE),
    row("pages.order8", "order 8, alloc + free, hot", [3136.0, 8993.0], NONE),
    row("pages.order9", "order 9, alloc + free, hot", [5305.0, 10340.0], [400.0, 250.0]),
    row("pages.order10", "order 10, alloc + free, hot", [10278.0, 33536.0], [500.0, 300.0]),
    row("pages.order0_movable", "order 0, movable, alloc + free, hot", [622.0, 536.0], NONE),
    row("pages.order0_atomic", "order 0, atomic, alloc + free, hot", [628.0, 544.0], NONE),
    row("pages.batch4096_alloc", "4096 order-0 pages: alloc, each", [416.0, 363.0], [160.0, 110.0]),
    row("pages.batch4096_free", "4096 order-0 pages: free, each", [219.0, 198.0], [140.0, 90.0]),
    row("pages.batch1024_order3_alloc", "1024 blocks of order 3: alloc, each", [612.0, 411.0], NONE),
    row("pages.batch1024_order3_free", "1024 blocks of order 3: free, each", [548.0, 350.0], NONE),
    row("pages.batch64_order9_alloc", "64 blocks of order 9: alloc, each", [528.0, 6591.0], NONE),
    row("pages.batch64_order9_free", "64 blocks of order 9: free, each", [4900.0, 10120.0], NONE),
    row("pages.bulk64_alloc", "bulk of 64 pages: alloc, each", [102.0, 42.0], [40.0, 25.0]),
    row("pages.bulk64_free", "bulk of 64 pages: free, each", [216.0, 192.0], [50.0, 40.0]),
    row("slab.kmalloc8", "kmalloc + kfree 8 B, hot", [108.0, 157.0], NONE),
    row("slab.kmalloc16", "kmalloc + kfree 16 B, hot", [108.0, 157.0], NONE),
    row("slab.kmalloc32", "kmalloc + kfree 32 B, hot", [108.0, 157.0], NONE),
    row("slab.kmalloc64", "kmalloc + kfree 64 B, hot", [108.0, 157.0], [95.0, 50.0]),
    row("slab.kmalloc128", "kmalloc + kfree 128 B, hot", [108.0, 157.0], NONE),
    row("slab.kmalloc256", "kmalloc + kfree 256 B, hot", [108.0, 157.0], NONE),
    row("slab.kmalloc512", "kmalloc + kfree 512 B, hot", [108.0, 157.0], NONE),
    row("slab.kmalloc1024", "kmalloc + kfree 1 KiB, hot", [108.0, 157.0], NONE),
    row("slab.kmalloc2048", "kmalloc + kfree 2 KiB, hot", NONE, NONE),
    row("slab.kmalloc4096", "kmalloc + kfree 4 KiB, hot", [109.0, 157.0], NONE),
    row("slab.kmalloc8192", "kmalloc + kfree 8 KiB, hot", [109.0, 157.0], NONE),
    row("slab.kmalloc16384", "kmalloc + kfree 16 KiB (whole pages), hot", [1002.0, 814.0], NONE),
    row("slab.cache64", "named cache, 64 B, alloc + free, hot", [112.0, 126.0], [85.0, 45.0]),
    row("slab.cache256", "named cache, 256 B, alloc + free, hot", [112.0, 126.0], NONE),
    row("slab.cache1024", "named cache, 1 KiB, alloc + free, hot", [112.0, 126.0], NONE),
    row("slab.batch1000_alloc", "1000 objects of 64 B: alloc, each", [70.5, 90.6], [65.0, 40.0]),
    row("slab.batch1000_free", "1000 objects of 64 B: free, each", [132.8, 139.9], [90.0, 55.0]),
    row("slab.random1000_alloc", "1000 objects of 64 B, freed at random: alloc, each", [72.1, 78.2], [65.0, 40.0]),
    row("slab.random1000_free", "1000 objects of 64 B, freed at random: free, each", [133.2, 136.5], [90.0, 55.0]),
    row("slab.batch1000x256_alloc", "1000 objects of 256 B: alloc, each", [108.5, 109.3], NONE),
    row("slab.batch1000x256_free", "1000 objects of 256 B: free, each", [152.8, 150.6], NONE),
    row("slab.batch1000x1024_alloc", "1000 objects of 1 KiB: alloc, each", [182.0, 212.0], NONE),
    row("slab.batch1000x1024_free", "1000 objects of 1 KiB: free, each", [213.0, 211.0], NONE),
    row("slab.bulk64_alloc", "bulk of 64 objects of 64 B: alloc, each", [21.9, 26.9], [12.0, 10.0]),
    row("slab.bulk64_free", "bulk of 64 objects of 64 B: free, each", [44.6, 61.6], [25.0, 15.0]),
    row("slab.bulk64x256_alloc", "bulk of 64 objects of 256 B: alloc, each", NONE, NONE),
    row("slab.bulk64x256_free", "bulk of 64 objects of 256 B: free, each", NONE, NONE),
    row("slab.bulk64x1024_alloc", "bulk of 64 objects of 1 KiB: alloc, each", [54.9, 58.5], NONE),
    row("slab.bulk64x1024_free", "bulk of 64 objects of 1 KiB: free, each", [79.3, 119.5], NONE),
    row("contig.alloc512", "alloc_contig_range of 512 free pages", [196_000.0, 216_000.0], [8000.0, 3000.0]),
    row("contig.free512", "free_contig_range of 512 pages", [115_700.0, 102_400.0], NONE),
    row("contig.pages512_alloc", "alloc_contig_pages of 512, anywhere", [303_000.0, 0.0], NONE),
    row("contig.pages512_free", "free of 512 pages from anywhere", [115_700.0, 102_400.0], NONE),
    row("cma.alloc512", "cma_alloc of 512, hot", [214_000.0, 237_000.0], [8000.0, 3000.0]),
    row("cma.release512", "cma_release of 512", [117_000.0, 0.0], NONE),
    row("cma.alloc64", "cma_alloc of 64", [268_000.0, 269_000.0], NONE),
    row("cma.release64", "cma_release of 64", [14_800.0, 0.0], NONE),
    row("cma.alloc1", "cma_alloc of 1", [277_000.0, 274_000.0], [2000.0, 1000.0]),
    row("cma.release1", "cma_release of 1", [374.0, 0.0], NONE),
    row("migrate.page", "moving one driver page, beyond the copy", [3950.0, 3600.0], [800.0, 600.0]),
    row("migrate.copy", "the copy of a page", [1550.0, 512.0], NONE),
    row("fault.4k", "first touch of a page of 4 KiB", [2418.0, 0.0], [2418.0, 1200.0]),
    row("fault.thp", "first touch in pages of 2 MiB, each 4 KiB", [563.0, 0.0], [563.0, 300.0]),
    row("fault.read", "first read of a page", NONE, NONE),
    row("fault.fork", "copying a space, each page", NONE, NONE),
    row("fault.cow", "writing a page that is shared: the copy included", NONE, NONE),
    row("fault.reuse", "writing a page that is not shared any more", NONE, NONE),
    row("fault.dontneed", "forgetting one page, each", NONE, NONE),
    row("fault.unmap", "unmapping a region, each page", NONE, NONE),
    row("swap.out", "a page to compressed memory, by reclaim", NONE, NONE),
    row("swap.in", "a page from compressed memory, by a fault", NONE, NONE),
    row("compact.half", "compaction, 1 page of 2 kept: each moved, beyond the copy", [3465.0, 3619.0], [1500.0, 1500.0]),
    row("compact.half_moved", "the same: pages moved for each block gained", [657.4, 266.3], NONE),
    row("compact.half_lost", "the same: blocks that could be and are not, percent", [46.9, 5.5], [2.0, 2.0]),
    row("compact.eighth", "compaction, 1 page of 8 kept: each moved, beyond the copy", NONE, [1500.0, 1500.0]),
    row("compact.eighth_moved", "the same: pages moved for each block gained", [6514.0, 69.6], NONE),
    row("compact.eighth_lost", "the same: blocks that could be and are not, percent", [79.3, 7.0], [2.0, 2.0]),
    row("compact.quarters", "compaction, 3 pages of 4 kept: each moved, beyond the copy", NONE, [1500.0, 1500.0]),
    row("compact.quarters_moved", "the same: pages moved for each block gained", [3203.0, 414.1], NONE),
    row("compact.quarters_lost", "the same: blocks that could be and are not, percent", [44.9, 12.0], [2.0, 2.0]),
    row("compact.eighths", "compaction, 7 pages of 8 kept: each moved, beyond the copy", NONE, [1500.0, 1500.0]),
    row("compact.eighths_moved", "the same: pages moved for each block gained", [133.3, 505.5], NONE),
    row("compact.eighths_lost", "the same: blocks that could be and are not, percent", [10.3, 9.9], [2.0, 2.0]),
    row("boot.per_page", "memory map and free lists at boot, per page", [39.0, 0.0], [10.0, 2.0]),
    row("boot.descriptor_bytes", "descriptor, bytes per page", [64.0, 64.0], [32.0, 32.0]),
];

/// The row called `name`.
pub fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}
