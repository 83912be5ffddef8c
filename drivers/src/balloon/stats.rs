//! What the host asks about the guest: numbers by tag, as they stand in the
//! buffer. Calls `mm`.

use mm::Mm;
use mm::platform::Platform;
use mm::stats::Event;
use mm::types::PAGE_SIZE;

/// What a number says (virtio 1.2, 5.5.6.4, and what Linux has added).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Tag {
    /// Bytes read from swap.
    SwapIn = 0,
    /// Bytes written to swap.
    SwapOut = 1,
    /// Faults that waited for input or output.
    MajorFaults = 2,
    /// Other faults.
    MinorFaults = 3,
    /// Bytes that are free.
    Free = 4,
    /// Bytes that there are for anybody.
    Total = 5,
    /// Bytes that programs could get without making others short.
    Available = 6,
    /// Bytes that cache files.
    Caches = 7,
    /// Huge pages allocated.
    HugeAllocated = 8,
    /// Huge pages that could not be allocated.
    HugeFailed = 9,
    /// Times that somebody was killed for memory.
    OomKill = 10,
    /// Times that a request had to make room itself.
    AllocStall = 11,
    /// Pages looked at by reclaim in the background.
    AsyncScan = 12,
    /// Pages looked at by reclaim of those in need.
    DirectScan = 13,
    /// Pages freed by reclaim in the background.
    AsyncReclaim = 14,
    /// Pages freed by reclaim of those in need.
    DirectReclaim = 15,
}

/// A number with what it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// What it says.
    pub tag: Tag,
    /// The number.
    pub value: u64,
}

/// Numbers that are sent.
const STATS: usize = 14;
/// Bytes of a number: tag, then value, packed.
const STAT_BYTES: usize = 10;
/// Bytes of an answer.
pub const BYTES: usize = STATS * STAT_BYTES;

/// How the guest is off. There are no files to cache, no swap and no huge pages
/// of programs yet: nothing is said of huge pages, the rest is 0. Waits for each
/// CPU, so no lock may be held.
pub fn stats_of<P: Platform>(mm: &Mm<P>) -> [Stat; STATS] {
    let bytes = |pages: u64| pages * PAGE_SIZE as u64;
    let vmstat = |key: &str| mm.vmstat_value(key).unwrap_or(0);
    let stalls = [
        Event::AllocStallDma,
        Event::AllocStallDma32,
        Event::AllocStallNormal,
        Event::AllocStallMovable,
    ];
    let stat = |tag, value| Stat { tag, value };
    [
        stat(Tag::SwapIn, 0),
        stat(Tag::SwapOut, 0),
        stat(Tag::MajorFaults, 0),
        stat(Tag::MinorFaults, 0),
        stat(Tag::Free, bytes(mm.free_pages_total())),
        stat(Tag::Total, bytes(mm.managed_pages())),
        stat(Tag::Available, bytes(mm.available_pages())),
        stat(Tag::Caches, 0),
        stat(Tag::OomKill, vmstat("oom_kill")),
        stat(Tag::AllocStall, stalls.into_iter().map(|event| mm.stats().get(event)).sum()),
        stat(Tag::AsyncScan, vmstat("pgscan_kswapd")),
        stat(Tag::DirectScan, vmstat("pgscan_direct")),
        stat(Tag::AsyncReclaim, vmstat("pgsteal_kswapd")),
        stat(Tag::DirectReclaim, vmstat("pgsteal_direct")),
    ]
}

/// The answer as the device reads it: little-endian, without gaps.
pub fn encode(stats: &[Stat; STATS]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    for (place, stat) in bytes.as_chunks_mut::<STAT_BYTES>().0.iter_mut().zip(stats) {
        let (tag, value) = place.split_at_mut(2);
        tag.copy_from_slice(&(stat.tag as u16).to_le_bytes());
        value.copy_from_slice(&stat.value.to_le_bytes());
    }
    bytes
}
