//! Memory before there is a memory manager: which frames are RAM, and which of
//! them are taken already (Linux `mm/memblock.c`). The kernel's page tables,
//! the memory map and the contiguous areas are allocated here; then the
//! manager is built from what is left. Calls `types` and `table`.
//!
//! Both lists are tables of fixed size that the caller owns. A table that
//! overflows loses RAM and counts it ([`EarlyMem::lost`]); it never hands out a
//! frame that is reserved.

use crate::table::Table;
use crate::types::{MAX_NODES, NodeId, Order, Pfn, PfnRange};
use core::fmt;

/// A range of RAM on one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RamRange {
    /// The frames.
    pub range: PfnRange,
    /// The node they belong to.
    pub node: NodeId,
}

impl RamRange {
    /// An empty range, to fill a table with.
    pub const EMPTY: Self = Self { range: PfnRange::new(Pfn(0), Pfn(0)), node: NodeId(0) };
}

/// Frames that are taken, RAM or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reservation {
    /// The frames.
    pub range: PfnRange,
    /// Who has them, for people to read.
    pub name: &'static str,
}

impl Reservation {
    /// An empty range, to fill a table with.
    pub const EMPTY: Self = Self { range: PfnRange::new(Pfn(0), Pfn(0)), name: "" };
}

/// What full tables cost, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Lost {
    /// RAM that is not present because the RAM table was full.
    pub ram: u64,
    /// Frames, RAM or to become RAM, that are reserved without need because the
    /// reservation table was full.
    pub reserved: u64,
}

impl Lost {
    /// Whether nothing was lost.
    pub const fn is_nothing(self) -> bool {
        self.ram == 0 && self.reserved == 0
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "early memory tables are full: {} pages of RAM left out, {} reserved without need",
            self.ram, self.reserved
        )
    }
}

/// The RAM of a machine and who has which part of it, until the manager takes
/// over. One owner, no locking: it lives while one CPU runs.
#[derive(Debug)]
pub struct EarlyMem<'a> {
    /// Sorted, disjoint; ranges of the same node do not touch.
    ram: Table<'a, RamRange>,
    /// Sorted, disjoint; ranges of the same name do not touch.
    reserved: Table<'a, Reservation>,
    lost: Lost,
}

impl<'a> EarlyMem<'a> {
    /// A machine without RAM, its tables in the slices given (their contents do
    /// not matter). With a reservation table of length 0, which could keep
    /// nothing safe, no RAM is accepted.
    pub const fn new(ram: &'a mut [RamRange], reserved: &'a mut [Reservation]) -> Self {
        Self {
            ram: Table::new(ram),
            reserved: Table::new(reserved),
            lost: Lost { ram: 0, reserved: 0 },
        }
    }

    /// Adds `range` as RAM of `node`. What is RAM already keeps its node. When
    /// the table is full, the smallest range of all is left out.
    pub fn add_ram(&mut self, range: PfnRange, node: NodeId) {
        if self.reserved.capacity() == 0 {
            self.lost.ram += range.pages();
            return;
        }
        // Better on the wrong node than lost.
        let node = if usize::from(node.0) < MAX_NODES { node } else { NodeId(0) };
        let mut at = range.start;
        while at < range.end {
            let next = self.ram.partition_point(|r| r.range.end <= at);
            let end = match self.ram.get(next) {
                Some(r) if r.range.start <= at => {
                    at = r.range.end;
                    continue;
                }
                Some(r) => r.range.start.min(range.end),
                None => range.end,
            };
            self.insert_ram(next, RamRange { range: PfnRange::new(at, end), node });
            at = end;
        }
    }

    /// Makes `range` something that is not RAM. Where that would split a range
    /// and the table is full, the smaller part goes too.
    pub fn remove_ram(&mut self, range: PfnRange) {
        let mut i = self.ram.partition_point(|r| r.range.end <= range.start);
        while let Some(&ram) = self.ram.get(i) {
            if range.is_empty() || ram.range.start >= range.end {
                break;
            }
            let below = PfnRange::new(ram.range.start, range.start);
            let above = PfnRange::new(range.end, ram.range.end);
            match (below.is_empty(), above.is_empty()) {
                (true, true) => {
                    self.ram.remove(i);
                    continue;
                }
                (false, true) => self.ram[i].range = below,
                (true, false) => self.ram[i].range = above,
                (false, false) => {
                    self.ram[i].range = below;
                    self.insert_ram(i + 1, RamRange { range: above, node: ram.node });
                    break;
                }
            }
            i += 1;
        }
    }

    /// Says that the RAM inside `range` belongs to `node`.
    pub fn set_node(&mut self, range: PfnRange, node: NodeId) {
        let mut at = range.start;
        while let Some(&ram) = self.ram.get(self.ram.partition_point(|r| r.range.end <= at)) {
            let part = ram.range.intersect(PfnRange::new(at, range.end));
            if part.is_empty() {
                break;
            }
            if ram.node != node {
                self.remove_ram(part);
                self.add_ram(part, node);
            }
            at = part.end;
        }
    }

    /// Puts a range that overlaps no other in before index `at`, merging it
    /// with neighbours of the same node.
    fn insert_ram(&mut self, at: usize, new: RamRange) {
        let joins_below = at > 0
            && self.ram[at - 1].node == new.node
            && self.ram[at - 1].range.end == new.range.start;
        let joins_above =
            self.ram.get(at).is_some_and(|r| r.node == new.node && r.range.start == new.range.end);
        match (joins_below, joins_above) {
            (true, true) => {
                self.ram[at - 1].range.end = self.ram[at].range.end;
                self.ram.remove(at);
            }
            (true, false) => self.ram[at - 1].range.end = new.range.end,
            (false, true) => self.ram[at].range.start = new.range.start,
            (false, false) => self.insert_apart(at, new),
        }
    }

    /// As [`insert_ram`](Self::insert_ram), when there is nothing to merge with.
    fn insert_apart(&mut self, mut at: usize, new: RamRange) {
        if self.ram.is_full() {
            let smallest = (0..self.ram.len()).min_by_key(|&i| self.ram[i].range.pages());
            match smallest {
                Some(i) if self.ram[i].range.pages() < new.range.pages() => {
                    self.lost.ram += self.ram[i].range.pages();
                    self.ram.remove(i);
                    at -= usize::from(i < at);
                }
                _ => {
                    self.lost.ram += new.range.pages();
                    return;
                }
            }
        }
        self.ram.insert(at, new);
    }

    /// Takes `range` (RAM or not) for `name`. What is reserved already keeps its
    /// name. When the table is full, a neighbouring reservation grows over it and
    /// over what lies between.
    pub fn reserve(&mut self, range: PfnRange, name: &'static str) {
        let mut at = range.start;
        while at < range.end {
            let next = self.reserved.partition_point(|r| r.range.end <= at);
            let end = match self.reserved.get(next) {
                Some(r) if r.range.start <= at => {
                    at = r.range.end;
                    continue;
                }
                Some(r) => r.range.start.min(range.end),
                None => range.end,
            };
            self.insert_reserved(next, Reservation { range: PfnRange::new(at, end), name });
            at = end;
        }
    }

    /// Puts a range that overlaps no other in before index `at`.
    fn insert_reserved(&mut self, at: usize, new: Reservation) {
        let joins_below = at > 0
            && self.reserved[at - 1].name == new.name
            && self.reserved[at - 1].range.end == new.range.start;
        let joins_above = self
            .reserved
            .get(at)
            .is_some_and(|r| r.name == new.name && r.range.start == new.range.end);
        match (joins_below, joins_above) {
            (true, true) => {
                self.reserved[at - 1].range.end = self.reserved[at].range.end;
                self.reserved.remove(at);
            }
            (true, false) => self.reserved[at - 1].range.end = new.range.end,
            (false, true) => self.reserved[at].range.start = new.range.start,
            (false, false) => {
                if !self.reserved.insert(at, new) {
                    self.grow_neighbour(at, new.range);
                }
            }
        }
    }

    /// Covers `range` with the reservation below or above it (it would be
    /// number `at`), whichever wastes less.
    fn grow_neighbour(&mut self, at: usize, range: PfnRange) {
        let below = at.checked_sub(1).and_then(|i| self.reserved.get(i));
        let below = below.map(|r| PfnRange::new(r.range.end, range.start));
        let above = self.reserved.get(at).map(|r| PfnRange::new(range.end, r.range.start));
        let (grown, gap) = match (below, above) {
            (Some(gap), above) if above.is_none_or(|a| gap.pages() <= a.pages()) => (at - 1, gap),
            (_, Some(gap)) => (at, gap),
            // A table of length 0: there is no RAM to be kept from anybody.
            _ => return,
        };
        self.lost.reserved += gap.pages();
        let whole = &mut self.reserved[grown].range;
        *whole = PfnRange::new(whole.start.min(range.start), whole.end.max(range.end));
        if let [.., low, high] = self.reserved[..self.reserved.len().min(at + 1)]
            && low.name == high.name
            && low.range.end == high.range.start
        {
            self.reserved[at - 1].range.end = high.range.end;
            self.reserved.remove(at);
        }
    }

    /// Gives `range` back: nothing in it is reserved any more. Where that would
    /// split a reservation and the table is full, the part above stays reserved
    /// together with what was to be given back.
    pub fn release(&mut self, range: PfnRange) {
        let mut i = self.reserved.partition_point(|r| r.range.end <= range.start);
        while let Some(&taken) = self.reserved.get(i) {
            if range.is_empty() || taken.range.start >= range.end {
                break;
            }
            let below = PfnRange::new(taken.range.start, range.start);
            let above = PfnRange::new(range.end, taken.range.end);
            match (below.is_empty(), above.is_empty()) {
                (true, true) => {
                    self.reserved.remove(i);
                    continue;
                }
                (false, true) => self.reserved[i].range = below,
                (true, false) => self.reserved[i].range = above,
                (false, false) => {
                    let rest = Reservation { range: above, name: taken.name };
                    if self.reserved.insert(i + 1, rest) {
                        self.reserved[i].range = below;
                    } else {
                        self.lost.reserved += range.pages();
                    }
                    break;
                }
            }
            i += 1;
        }
    }

    /// Reserves `pages` frames for `name`, the first aligned to `align` (any
    /// order), all below `limit` if there is one and on one node: the highest
    /// that are free. `None` when there are none, or for 0 pages. The content
    /// is whatever was there.
    pub fn alloc(
        &mut self,
        pages: u64,
        align: Order,
        limit: Option<Pfn>,
        name: &'static str,
    ) -> Option<Pfn> {
        let within = PfnRange::new(Pfn(0), limit.unwrap_or(Pfn(u64::MAX)));
        self.alloc_in(pages, align, within, None, name)
    }

    /// As [`alloc`](Self::alloc), with all frames inside `within` and, if one is
    /// given, on `node`.
    pub fn alloc_in(
        &mut self,
        pages: u64,
        align: Order,
        within: PfnRange,
        node: Option<NodeId>,
        name: &'static str,
    ) -> Option<Pfn> {
        let mask = 1u64.checked_shl(u32::from(align.0))? - 1;
        if pages == 0 {
            return None;
        }
        let mut best = None;
        for free in self.free_ram() {
            if node.is_some_and(|node| node != free.node) {
                continue;
            }
            let range = free.range.intersect(within);
            if range.pages() >= pages {
                let start = Pfn((range.end.0 - pages) & !mask);
                if start >= range.start {
                    best = Some(start);
                }
            }
        }
        let start = best?;
        self.reserve(PfnRange::sized(start, pages), name);
        Some(start)
    }

    /// Reserves exactly `range` for `name` if all of it is free RAM.
    pub fn alloc_at(&mut self, range: PfnRange, name: &'static str) -> bool {
        let free = self.is_free(range);
        if free {
            self.reserve(range, name);
        }
        free
    }

    /// Whether all of `range`, and at least one frame, is RAM that nobody has.
    pub fn is_free(&self, range: PfnRange) -> bool {
        let free: u64 = self.free_ranges().map(|free| free.intersect(range).pages()).sum();
        !range.is_empty() && free == range.pages()
    }

    /// The RAM, lowest first; ranges of the same node do not touch.
    pub fn ram(&self) -> &[RamRange] {
        &self.ram
    }

    /// What is taken, lowest first. It need not be RAM.
    pub fn reserved(&self) -> &[Reservation] {
        &self.reserved
    }

    /// The RAM that nobody has, lowest first, each range on one node.
    pub fn free_ram(&self) -> FreeRam<'_> {
        FreeRam { ram: &self.ram, reserved: &self.reserved, at: Pfn(0) }
    }

    /// The frames of [`free_ram`](Self::free_ram).
    pub fn free_ranges(&self) -> impl Iterator<Item = PfnRange> + '_ {
        self.free_ram().map(|free| free.range)
    }

    /// RAM inside `range`, reserved or not, in pages.
    pub fn ram_pages_in(&self, range: PfnRange) -> u64 {
        self.ram.iter().map(|r| r.range.intersect(range).pages()).sum()
    }

    /// All RAM, reserved or not, in pages: "present".
    pub fn present_pages(&self) -> u64 {
        self.ram.iter().map(|r| r.range.pages()).sum()
    }

    /// RAM that nobody has, in pages.
    pub fn free_pages(&self) -> u64 {
        self.free_ranges().map(PfnRange::pages).sum()
    }

    /// RAM that is taken, in pages.
    pub fn reserved_pages(&self) -> u64 {
        self.present_pages() - self.free_pages()
    }

    /// RAM that reservations called `name` hold, in pages.
    pub fn reserved_by(&self, name: &str) -> u64 {
        let theirs = self.reserved.iter().filter(|r| r.name == name);
        theirs.map(|r| self.ram_pages_in(r.range)).sum()
    }

    /// One past the last frame of RAM (frame 0 if there is none): what sizes
    /// the memory map.
    pub fn end_of_ram(&self) -> Pfn {
        self.ram.last().map_or(Pfn(0), |r| r.range.end)
    }

    /// What full tables have cost so far.
    pub const fn lost(&self) -> Lost {
        self.lost
    }
}

/// Iterator over free RAM, see [`EarlyMem::free_ram`].
#[derive(Clone, Debug)]
pub struct FreeRam<'a> {
    ram: &'a [RamRange],
    reserved: &'a [Reservation],
    /// Everything below has been dealt with.
    at: Pfn,
}

impl Iterator for FreeRam<'_> {
    type Item = RamRange;

    fn next(&mut self) -> Option<RamRange> {
        loop {
            let ram = *self.ram.first()?;
            let start = ram.range.start.max(self.at);
            if start >= ram.range.end {
                self.ram = &self.ram[1..];
                continue;
            }
            while self.reserved.first().is_some_and(|r| r.range.end <= start) {
                self.reserved = &self.reserved[1..];
            }
            let end = match self.reserved.first() {
                Some(r) if r.range.start <= start => {
                    self.at = r.range.end;
                    continue;
                }
                Some(r) => r.range.start.min(ram.range.end),
                None => ram.range.end,
            };
            self.at = end;
            return Some(RamRange { range: PfnRange::new(start, end), node: ram.node });
        }
    }
}
