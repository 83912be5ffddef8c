//! Where units and groups lie in the device's region. A *unit* is what is
//! plugged and unplugged at once: the device's block, or a pageblock if that is
//! larger. A *group* is what the memory manager learns of at once: a memory
//! block, or a unit if that is larger. So a group has up to 64 units if the
//! device's blocks are small (Linux's sub-block mode, drivers/virtio/virtio_mem.c)
//! and one if they are large (its big-block mode). May call: `config`, `request`.

use super::config::MemConfig;
use super::request::Blocks;
use mm::types::{PAGE_SIZE, PAGEBLOCK_PAGES, Pfn, PfnRange};

/// Bytes of a memory block: what is added and removed at once.
pub const MEMORY_BLOCK_BYTES: u64 = 128 << 20;
const PAGEBLOCK_BYTES: u64 = PAGEBLOCK_PAGES * PAGE_SIZE as u64;

/// Number of a group, from the start of the region's usable groups.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GroupId(pub u32);

/// Units of one group that follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The group.
    pub group: GroupId,
    /// The first unit.
    pub first: u8,
    /// How many, at least 1.
    pub count: u8,
}

impl Run {
    /// Its bits in a mask of the group's units.
    #[must_use]
    pub const fn mask(self) -> u64 {
        (u64::MAX >> (64 - self.count as u32)) << self.first
    }

    /// Each of its units alone.
    pub fn units(self) -> impl DoubleEndedIterator<Item = Self> {
        (self.first..self.first + self.count).map(move |first| Self { first, count: 1, ..self })
    }
}

/// How a region is divided. Sizes in bytes, all powers of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    block: u64,
    unit: u64,
    group: u64,
    /// Where the first group begins.
    start: u64,
    groups: u32,
}

impl Geometry {
    /// Divides the region of a checked configuration. Only whole groups count,
    /// and only those below `limit`, where frames end that the memory manager
    /// can ever have. Perhaps there is none.
    #[must_use]
    pub fn new(config: &MemConfig, limit: Pfn) -> Self {
        let unit = config.block_size.max(PAGEBLOCK_BYTES);
        let group = unit.max(MEMORY_BLOCK_BYTES);
        let end = (config.addr + config.region_size).min(limit.addr());
        // The addresses of a checked configuration lie far below 2^64.
        let start = config.addr.next_multiple_of(group);
        let groups = end.saturating_sub(start) / group;
        // What could not be counted could not be kept either.
        let groups = u32::try_from(groups).unwrap_or(u32::MAX);
        Self { block: config.block_size, unit, group, start, groups }
    }

    /// Number of groups.
    #[must_use]
    pub const fn groups(&self) -> u32 {
        self.groups
    }

    /// Bytes of a unit.
    #[must_use]
    pub const fn unit_bytes(&self) -> u64 {
        self.unit
    }

    /// Bytes of a group.
    #[must_use]
    pub const fn group_bytes(&self) -> u64 {
        self.group
    }

    /// Units of a group, 1 to 64.
    #[must_use]
    pub const fn units_per_group(&self) -> u8 {
        (self.group / self.unit) as u8
    }

    /// All addresses that the groups cover.
    #[must_use]
    pub const fn covered(&self) -> u64 {
        self.groups as u64 * self.group
    }

    /// How many groups, from the first on, have units that lie wholly below
    /// `end` (physical address), and how many units of the last of them do.
    #[must_use]
    pub fn below(&self, end: u64) -> (u32, u8) {
        let bytes = end.saturating_sub(self.start).min(self.covered());
        let units = bytes / self.unit;
        let per = u64::from(self.units_per_group());
        let groups = units.div_ceil(per);
        let last = units - groups.saturating_sub(1) * per;
        (groups as u32, last as u8)
    }

    /// Physical address of a group.
    const fn addr(&self, group: GroupId) -> u64 {
        self.start + group.0 as u64 * self.group
    }

    /// The frames of a group.
    #[must_use]
    pub const fn group_range(&self, group: GroupId) -> PfnRange {
        PfnRange::sized(Pfn::containing(self.addr(group)), self.group / PAGE_SIZE as u64)
    }

    /// The frames of a run.
    #[must_use]
    pub const fn range(&self, run: Run) -> PfnRange {
        let addr = self.addr(run.group) + run.first as u64 * self.unit;
        PfnRange::sized(Pfn::containing(addr), run.count as u64 * self.unit / PAGE_SIZE as u64)
    }

    /// The device's blocks of a run.
    #[must_use]
    pub const fn blocks(&self, run: Run) -> Blocks {
        // A unit of many blocks is a pageblock, of at most 512 pages, and a run
        // is at most 64 units: it fits.
        let count = run.count as u64 * (self.unit / self.block);
        Blocks { addr: self.addr(run.group) + run.first as u64 * self.unit, count: count as u16 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    fn geometry(block: u64, addr: u64, size: u64) -> Geometry {
        let config = MemConfig {
            block_size: block,
            pxm: None,
            addr,
            region_size: size,
            usable_region_size: size,
            plugged_size: 0,
            requested_size: 0,
        };
        assert_eq!(config.check(), Ok(()));
        Geometry::new(&config, Pfn::containing(1 << 46))
    }

    #[test]
    fn small_blocks_share_a_memory_block() {
        let g = geometry(2 * MIB, 4 * GIB, 3 * GIB);
        assert_eq!((g.groups(), g.units_per_group(), g.unit_bytes()), (24, 64, 2 * MIB));
        let run = Run { group: GroupId(1), first: 3, count: 2 };
        assert_eq!(run.mask(), 0b11000);
        assert_eq!(g.range(run), PfnRange::sized(Pfn(0x10_8600), 1024));
        assert_eq!(g.blocks(run), Blocks { addr: 0x1_0860_0000, count: 2 });
        let whole = Run { group: GroupId(0), first: 0, count: 64 };
        assert_eq!(whole.mask(), u64::MAX);
        assert_eq!(g.range(whole), g.group_range(GroupId(0)));
        assert_eq!(g.below(4 * GIB), (0, 0));
        assert_eq!(g.below(4 * GIB + 3 * MIB), (1, 1));
        assert_eq!(g.below(4 * GIB + 128 * MIB), (1, 64));
        assert_eq!(g.below(4 * GIB + 130 * MIB), (2, 1));
        assert_eq!(g.below(u64::MAX), (24, 64));
    }

    #[test]
    fn tiny_blocks_go_a_pageblock_at_a_time() {
        let g = geometry(4096, 4 * GIB, GIB);
        assert_eq!((g.units_per_group(), g.unit_bytes()), (64, 2 * MIB));
        let whole = Run { group: GroupId(7), first: 0, count: 64 };
        assert_eq!(g.blocks(whole).count, 32768);
    }

    #[test]
    fn large_blocks_are_groups() {
        let g = geometry(256 * MIB, 4 * GIB, 3 * GIB);
        assert_eq!((g.groups(), g.units_per_group(), g.group_bytes()), (12, 1, 256 * MIB));
        let last = Run { group: GroupId(11), first: 0, count: 1 };
        assert_eq!(g.range(last), g.group_range(GroupId(11)));
        assert_eq!(g.blocks(last), Blocks { addr: 4 * GIB + 11 * 256 * MIB, count: 1 });
        assert_eq!(geometry(128 * MIB, 4 * GIB, GIB).units_per_group(), 1);
        assert_eq!(geometry(64 * MIB, 4 * GIB, GIB).units_per_group(), 2);
    }

    #[test]
    fn what_is_no_whole_group_is_left_out() {
        let g = geometry(2 * MIB, 4 * GIB + 2 * MIB, GIB);
        assert_eq!(g.groups(), 7);
        assert_eq!(g.group_range(GroupId(0)).start, Pfn::containing(4 * GIB + 128 * MIB));
        assert_eq!(geometry(2 * MIB, 4 * GIB + 2 * MIB, 128 * MIB).groups(), 0);
        let config = MemConfig {
            block_size: 2 * MIB,
            pxm: None,
            addr: 4 * GIB,
            region_size: GIB,
            usable_region_size: GIB,
            plugged_size: 0,
            requested_size: 0,
        };
        let limited = |end| Geometry::new(&config, Pfn::containing(end)).groups();
        assert_eq!(limited(4 * GIB + 300 * MIB), 2);
        assert_eq!(limited(GIB), 0);
    }
}
