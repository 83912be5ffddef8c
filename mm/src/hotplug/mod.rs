//! Memory that goes out of use and comes back, and memory that is new or leaves
//! for good (Linux mm/memory_hotplug.c, drivers/base/memory.c). Emptying a range
//! is contiguous allocation's: its walk, its isolation, its migration. May call:
//! `contig`, `buddy`, `deferred`, `memmap`, `setup`, `zonelist`.
//!
//! What there is comes in *memory blocks* of 128 MiB, which users name, in
//! pageblocks of 2 MiB, which devices lend and take back. A pageblock is
//! - *in use*: of a zone, present and managed, as at boot;
//! - *out of use* in a memory block that is partly in use: of its zone still,
//!   present and not managed, its pages described as Offline;
//! - out of use in a memory block of which nothing is in use: of no zone, not
//!   present, and for everybody but this module a hole;
//! - *absent*: not known, without descriptors, not in the direct map.
//!
//! So a memory block belongs to one zone or to none, and leaves its zone with the
//! last of its pageblocks (one that lies across the border of zones since boot
//! stays in them). What came after the boot can become absent again.

mod add;
mod bad;
mod blocks;
mod offline;
mod online;
mod usage;

use crate::contig::{ContigError, Obstacle};
use crate::firmware::numa::Distances;
use crate::memmap::{BlockInfo, zone_index};
use crate::mm::Mm;
use crate::platform::{LogLevel, Platform};
use crate::setup::Config;
use crate::sync::{
    AtomicBool, AtomicU8, AtomicU64, Lock, LockRank,
    Ordering::{Acquire, Relaxed, Release},
    may_wait,
};
use crate::types::{NodeId, Order, PAGEBLOCK_ORDER, PfnRange};
use crate::zonelist::{self, NodeSet};
use core::fmt;

pub use add::NewMemory;
pub use blocks::{BlockState, MemoryBlock};
pub use usage::RangeUse;

/// Order of a memory block.
pub const MEMORY_BLOCK_ORDER: Order = Order(15);
/// Pages of a memory block: 128 MiB, as in Linux on x86-64 with less than 64 GiB.
pub const MEMORY_BLOCK_PAGES: u64 = MEMORY_BLOCK_ORDER.pages();

/// Names that added memory may have, all together.
const NAMES: usize = 8;

/// Which zone memory that comes into use goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum OnlineType {
    /// As `online` does in Linux: that of the zones by its place and Movable
    /// which spans it; if neither does or both do, the one it was in before,
    /// and new memory the one by its place (Movable with `movable_node`).
    Auto = 1,
    /// The zone by its place: DMA, DMA32, Normal (`online_kernel`).
    Kernel = 2,
    /// Zone Movable (`online_movable`).
    Movable = 3,
}

impl OnlineType {
    /// Linux's word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "online",
            Self::Kernel => "online_kernel",
            Self::Movable => "online_movable",
        }
    }

    /// What one of Linux's words means; None in it for `offline`. None for any
    /// other word.
    #[allow(clippy::option_option, reason = "a word may be none, or mean none")]
    pub fn parse(word: &str) -> Option<Option<Self>> {
        match word {
            "offline" => Some(None),
            "online" => Some(Some(Self::Auto)),
            "online_kernel" => Some(Some(Self::Kernel)),
            "online_movable" => Some(Some(Self::Movable)),
            _ => None,
        }
    }
}

/// Why memory did not come or go. What was done of it has been undone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HotplugError {
    /// The request makes no sense: not aligned, not RAM, not in one zone.
    Invalid(&'static str),
    /// All of it is in that state already.
    Already,
    /// Something is in the way that cannot be moved, or would not move.
    Busy(Obstacle),
    /// It has to be out of use first.
    InUse,
    /// Too little memory is left for what has to move out of it, or for the
    /// tables that new memory needs.
    NoMemory,
    /// The platform cannot map it, or something else is there.
    NotMapped,
}

impl fmt::Display for HotplugError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(why) => f.write_str(why),
            Self::Already => f.write_str("it is so already"),
            Self::Busy(obstacle) => ContigError::Busy(*obstacle).fmt(f),
            Self::InUse => f.write_str("it is in use"),
            Self::NoMemory => f.write_str("out of memory"),
            Self::NotMapped => f.write_str("it cannot be mapped"),
        }
    }
}

impl core::error::Error for HotplugError {}

impl From<ContigError> for HotplugError {
    fn from(error: ContigError) -> Self {
        match error {
            ContigError::Invalid(why) => Self::Invalid(why),
            ContigError::Busy(obstacle) => Self::Busy(obstacle),
            ContigError::NoMemory => Self::NoMemory,
        }
    }
}

/// What the manager knows of memory that comes and goes, beside the pageblocks'
/// words.
pub(crate) struct Hotplug {
    /// Somebody is at it: one at a time.
    busy: AtomicBool,
    /// An [`OnlineType`], or 0.
    default_online: AtomicU8,
    movable_node: bool,
    defer: bool,
    distances: Distances,
    names: Lock<[&'static str; NAMES]>,
    /// Frames behind descriptors that came after the boot, and page tables on the
    /// way to these and to the memory itself.
    map_pages: AtomicU64,
}

impl Hotplug {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            busy: AtomicBool::new(false),
            default_online: AtomicU8::new(config.default_online.map_or(0, |how| how as u8)),
            movable_node: config.movable_node,
            defer: config.defers(),
            distances: config.distances,
            names: Lock::new(LockRank::Leaf, [""; NAMES]),
            map_pages: AtomicU64::new(0),
        }
    }
}

/// The right to change what memory there is.
pub(crate) struct Gate<'a>(&'a AtomicBool);

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        self.0.store(false, Release);
    }
}

impl<P: Platform> Mm<P> {
    /// Waits for its turn to change what memory there is.
    pub(crate) fn hotplug_gate(&self) -> Gate<'_> {
        may_wait(&self.platform, "memory to come or go");
        let busy = &self.hotplug.busy;
        while busy.compare_exchange(false, true, Acquire, Relaxed).is_err() {
            self.platform.stall();
        }
        Gate(busy)
    }

    /// What becomes of memory that is added, if whoever adds it has no other
    /// wish; None: it stays out of use until somebody puts it into use
    /// (`memhp_default_state=`, `auto_online_blocks`).
    pub fn default_online(&self) -> Option<OnlineType> {
        let all = [OnlineType::Auto, OnlineType::Kernel, OnlineType::Movable];
        let now = self.hotplug.default_online.load(Relaxed);
        all.into_iter().find(|&how| how as u8 == now)
    }

    /// Sets [`default_online`](Self::default_online).
    pub fn set_default_online(&self, how: Option<OnlineType>) {
        self.hotplug.default_online.store(how.map_or(0, |how| how as u8), Relaxed);
    }

    /// Frames behind the descriptors of memory that has been added, page tables
    /// for both among them. Some stay when the memory goes: the words of 2 GiB
    /// of pageblocks, tables of the memory map.
    pub fn added_map_pages(&self) -> u64 {
        self.hotplug.map_pages.load(Relaxed)
    }

    /// Whether `range` is made of whole pageblocks of RAM, in use or not.
    fn check_described(&self, range: PfnRange) -> Result<(), HotplugError> {
        let whole =
            range.start.is_aligned(PAGEBLOCK_ORDER) && range.end.is_aligned(PAGEBLOCK_ORDER);
        if range.is_empty() || !whole {
            return Err(HotplugError::Invalid("not a multiple of 2 MiB, or nothing at all"));
        }
        let mut at = range.start;
        for (block, _) in self.map.described_blocks(range) {
            if block != at {
                break;
            }
            at = at.add(PAGEBLOCK_ORDER.pages());
        }
        if at < range.end {
            return Err(HotplugError::Invalid("not all of it is memory"));
        }
        Ok(())
    }

    /// What follows from zones having gained or lost memory: marks, reserves and
    /// list sizes, and who asks whom for memory. `populated`: which nodes had
    /// any before.
    fn memory_changed(&self, populated: NodeSet) {
        let now = self.populated_nodes();
        if now != populated {
            let orders =
                crate::setup::orders(&self.platform, now, self.nodes(), &self.hotplug.distances);
            // One entry after the other: who walks a list meanwhile may pass over
            // a zone or see one twice, and tries again if it has found nothing.
            for (i, entry) in self.zonelists.iter().enumerate() {
                entry.store(zonelist::entry(&orders, self.nodes(), i), Relaxed);
            }
            self.recompute_watermarks();
            self.log_zonelists(&orders);
        } else {
            self.recompute_watermarks();
        }
    }

    /// The nodes with memory in use.
    fn populated_nodes(&self) -> NodeSet {
        let mut nodes = NodeSet::default();
        self.zones.iter().filter(|z| z.present() > 0).for_each(|z| nodes.insert(z.node));
        nodes
    }

    /// Index of the zone of a node that memory is of by its place.
    fn kernel_zone(node: NodeId, range: PfnRange) -> usize {
        zone_index(node, crate::backing::kind_of(range.start, crate::memmap::PFN_LIMIT))
    }

    /// The zone that all pageblocks of a memory block have that are described;
    /// None if that is more than one, or some pageblock is of none.
    fn zone_of_memory_block(&self, range: PfnRange) -> Option<usize> {
        let mut zones = self
            .map
            .described_blocks(range)
            .map(|(_, word)| word.is_known().then(|| word.zone_index()));
        let first = zones.next()??;
        zones.all(|zone| zone == Some(first)).then_some(first)
    }

    fn log_hotplug(&self, line: fmt::Arguments<'_>) {
        self.platform.log(LogLevel::Info, line);
    }
}

/// The memory block that holds the first page of `range`.
fn memory_block(range: PfnRange) -> PfnRange {
    PfnRange::sized(range.start.align_down(MEMORY_BLOCK_ORDER), MEMORY_BLOCK_PAGES)
}

/// The memory blocks that `range` touches.
fn memory_blocks(range: PfnRange) -> impl Iterator<Item = PfnRange> {
    crate::contig::pieces(range, MEMORY_BLOCK_ORDER).map(memory_block)
}

/// Pageblocks in a row for which `wanted` gives the same value, cut at the
/// borders of memory blocks; those with None are left out.
fn runs<'a, K: PartialEq + 'a>(
    map: &'a crate::memmap::MemMap,
    range: PfnRange,
    wanted: impl Fn(&BlockInfo) -> Option<K> + 'a,
) -> impl Iterator<Item = (PfnRange, K)> + 'a {
    let mut blocks = map
        .described_blocks(range)
        .filter_map(move |(block, word)| Some((block, wanted(word)?)))
        .peekable();
    core::iter::from_fn(move || {
        let (start, key) = blocks.next()?;
        let mut end = start.add(PAGEBLOCK_ORDER.pages());
        while !end.is_aligned(MEMORY_BLOCK_ORDER)
            && blocks.next_if(|(block, more)| *block == end && *more == key).is_some()
        {
            end = end.add(PAGEBLOCK_ORDER.pages());
        }
        Some((PfnRange::new(start, end), key))
    })
}
