//! The hook by which the allocator's slow path asks for room: the one way in
//! which `alloc` reaches layers above it (compaction, reclaim, OOM). Calls
//! nothing; names types of `gfp`, `list` and `types`.

use crate::gfp::{AllocFlags, Gfp, Request};
use crate::list::PageList;
use crate::types::{MigrateType, Pfn, ZoneKind};

/// How hard compaction tries, least first (Linux `enum compact_priority`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum CompactPriority {
    /// Never waits; blocks of the request's own type only.
    Async,
    /// May wait, but not for I/O.
    SyncLight,
    /// The whole zone, whatever hints say.
    SyncFull,
}

/// What a compaction run came to, least first (Linux `enum compact_result`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum CompactResult {
    /// Not worth a try: too little free memory, or not fragmentation's fault.
    Skipped,
    /// Failed too often lately.
    Deferred,
    /// The scanners met in the middle of a zone they did not scan whole.
    PartialSkipped,
    /// The whole zone was scanned in vain.
    Complete,
    /// Gave way to somebody else.
    Contended,
    /// A block of the order is there now.
    Success,
}

/// What the last resort came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relief {
    /// Something was or is being freed: a retry makes sense.
    Freed,
    /// There may be somebody to be killed, but not for this request: others may
    /// kill him. Nobody knows whether they will.
    Others,
    /// Nobody is left who could give anything.
    None,
}

/// One attempt to get memory, as the slow path describes it to those who can
/// make room.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// The request.
    pub request: Request,
    /// The highest zone it may use.
    pub class: ZoneKind,
    /// The mobility of what it wants.
    pub migratetype: MigrateType,
    /// Its rights.
    pub flags: AllocFlags,
}

/// Those above the allocator who can make room. Called with no lock held and
/// interrupts as the caller had them; may allocate, but not wait for memory.
pub trait Pressure {
    /// Compacts the zones the attempt may use. A block that was made for this
    /// very request is returned: it is off the lists, its head word Held.
    fn compact(&self, attempt: &Attempt, priority: CompactPriority)
    -> (CompactResult, Option<Pfn>);

    /// Reclaims pages directly; returns how many were freed.
    fn reclaim(&self, attempt: &Attempt) -> u64;

    /// Pages that reclaim could still free in the zone with that index.
    fn reclaimable(&self, zone: usize) -> u64;

    /// Reclaims up to `pages` in the zone with that index and nowhere else;
    /// returns how many were freed.
    fn reclaim_in_zone(&self, zone: usize, pages: u64, gfp: Gfp) -> u64;

    /// Frees those of some isolated pages that have a copy elsewhere, written
    /// first if need be and `gfp` allows; the others stay on the list. Returns
    /// how many were freed.
    fn discard(&self, pages: &mut PageList, gfp: Gfp) -> u64;

    /// Last resort: frees memory by force, unless `eased` says that there is
    /// enough by now: asked when nobody else is at it any more, for what others
    /// have freed meanwhile may do.
    fn out_of_memory(&self, attempt: &Attempt, eased: &mut dyn FnMut() -> bool) -> Relief;
}
