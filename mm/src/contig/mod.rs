//! Contiguous ranges of any size: a range's pageblocks are isolated, what moves
//! is moved away, and the range is taken off the free lists whole (Linux
//! `alloc_contig_range`, mm/page_alloc.c; mm/page_isolation.c). Everything is
//! done by heads of blocks, never page by page. May call: `migrate`,
//! `pressure`, `free`, `buddy`, and what those call.

mod evacuate;
mod isolate;
mod pages;
mod places;
mod release;
mod room;
mod take;
mod walk;

use crate::gfp::Gfp;
use crate::memmap::BlockInfo;
use crate::mm::Mm;
use crate::page::{HeadWord, PageType};
use crate::platform::Platform;
use crate::sync::may_wait;
use crate::types::{Order, PAGEBLOCK_PAGES, Pfn, PfnRange};
use crate::zone::Zone;
use core::fmt;
use core::panic::Location;
use evacuate::Evacuation;

pub(crate) use places::Sought;
pub(crate) use walk::{first_fixed, good_runs, heads};

/// Times that what moves is asked to move before the range counts as busy.
const ATTEMPTS: u32 = 5;

/// Times that room is made for a range: what was made may be gone before what has
/// to move gets there.
const ROUNDS: u32 = 4;

/// Times that a range waits, in all, for blocks that the manager itself holds: a
/// host may take a second for a batch.
const HELD_STALLS: u32 = 100;

/// Whom a contiguous range is for: it decides which blocks may be emptied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// Anybody. What belongs to a contiguous area is left to its area.
    General,
    /// The area with that index, which owns all blocks of the range.
    Area(u8),
    /// Nobody: it is about to be put out of use.
    Offline,
}

impl Purpose {
    /// What marks the heads of such a range, so that each allocation is given
    /// back the way it was made.
    pub(crate) const fn tag(self) -> u32 {
        match self {
            Self::General => 0,
            Self::Area(index) => index as u32 + 1,
            Self::Offline => u32::MAX,
        }
    }

    /// Whether pages of type `ty`, which cannot be had, may stay where they are
    /// in the middle of such a range: what is out of use for good is no obstacle
    /// to putting all around it out of use (as in Linux).
    pub(crate) const fn passes_over(self, ty: PageType) -> bool {
        matches!(self, Self::Offline) && matches!(ty, PageType::Poisoned)
    }
}

/// Why a frame keeps a range from being taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Its pageblock is being emptied for somebody else.
    Isolated,
    /// It is not RAM, reserved, kernel memory, or another's contiguous area.
    Unmovable,
    /// Its owner would not move it, or it came into use meanwhile.
    InUse,
}

/// What stands in the way of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Obstacle {
    /// A frame in the way. No window that contains it can be had just now.
    pub pfn: Pfn,
    /// Why.
    pub why: Reason,
}

/// Why there was no contiguous range. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContigError {
    /// The request makes no sense: empty, outside of RAM, over the border of a
    /// zone or node, or with flags that contradict each other.
    Invalid(&'static str),
    /// Something is in the way.
    Busy(Obstacle),
    /// The zone would fall below its low mark and nothing more could be freed, or
    /// others were faster each time that something was, or there is no place for a
    /// larger block in the way, or no range of that size can be had at all.
    NoMemory,
}

impl fmt::Display for ContigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(why) => write!(f, "invalid request: {why}"),
            Self::Busy(Obstacle { pfn, why: Reason::Isolated }) => {
                write!(f, "{pfn:?} is being isolated by another")
            }
            Self::Busy(Obstacle { pfn, why: Reason::Unmovable }) => {
                write!(f, "{pfn:?} cannot be moved")
            }
            Self::Busy(Obstacle { pfn, why: Reason::InUse }) => write!(f, "{pfn:?} is in use"),
            Self::NoMemory => f.write_str("out of memory"),
        }
    }
}

impl core::error::Error for ContigError {}

impl From<Obstacle> for ContigError {
    fn from(obstacle: Obstacle) -> Self {
        Self::Busy(obstacle)
    }
}

impl Obstacle {
    /// Where the first range can begin that lies behind `range`, which this was in
    /// the way of, and may be had: what is isolated is so a pageblock at a time.
    pub(crate) fn past(&self, range: PfnRange) -> Pfn {
        let pfn = self.pfn.max(range.start);
        match self.why {
            Reason::Isolated => pfn.pageblock().add(PAGEBLOCK_PAGES),
            Reason::Unmovable | Reason::InUse => pfn.add(1),
        }
    }
}

impl<P: Platform> Mm<P> {
    /// Allocates exactly the frames of `range`, which lie in one zone and
    /// outside of contiguous areas, moving what can be moved out of the way.
    /// The caller gives them back, whole or in parts, by
    /// [`free_contig_range`](Self::free_contig_range).
    ///
    /// The zone stays above its low mark: room is made first, as `gfp` allows
    /// (without DIRECT_RECLAIM kswapd is woken and that is all). Waits for
    /// other CPUs whatever the gfp: called with interrupts on and no lock held.
    /// Ends in bounded time.
    ///
    /// # Errors
    /// See [`ContigError`]; all pageblocks have their old types then. Of two
    /// requests that overlap one wins and the other is told
    /// [`Busy`](ContigError::Busy).
    #[track_caller]
    pub fn alloc_contig_range(&self, range: PfnRange, gfp: Gfp) -> Result<PfnRange, ContigError> {
        self.alloc_contig(range, Purpose::General, gfp, Location::caller())
    }

    /// As [`alloc_contig_range`](Self::alloc_contig_range), for whomever.
    pub(crate) fn alloc_contig(
        &self,
        range: PfnRange,
        purpose: Purpose,
        gfp: Gfp,
        at: &'static Location<'static>,
    ) -> Result<PfnRange, ContigError> {
        may_wait(&self.platform, "a range");
        if let Err(bad) = gfp.zone().and(gfp.migratetype()) {
            return Err(ContigError::Invalid(bad.0));
        }
        let zone = self.one_zone(range)?;
        self.populate(zone, range);
        // Who puts memory out of use has made room for all of it.
        if purpose == Purpose::Offline {
            self.take(zone, range, purpose, gfp, Sought::Anyhow)?;
        } else {
            self.make_room_and_take(zone, range, purpose, gfp)?;
        }
        // What goes out of use is nobody's, and not counted as allocated.
        if purpose != Purpose::Offline {
            self.hand_out_contig(zone, range, gfp, at);
        }
        Ok(range)
    }

    /// Takes the range when there is room for what has to move out of it, and for
    /// all others beside it.
    #[inline(always)]
    fn make_room_and_take(
        &self,
        zone: &Zone,
        range: PfnRange,
        purpose: Purpose,
        gfp: Gfp,
    ) -> Result<(), ContigError> {
        let mut left = if gfp.contains(Gfp::NORETRY) { 1 } else { ROUNDS };
        let mut moving = u64::MAX;
        loop {
            self.make_room(zone, range, gfp)?;
            left -= 1;
            match self.take(zone, range, purpose, gfp, Sought::Spare) {
                // Others have had what was made. What moved has moved: with nothing
                // isolated, room is made for the rest.
                Err(ContigError::NoMemory)
                    if left > 0 && self.is_worth_a_round(zone, range, &mut moving) => {}
                result => return result,
            }
        }
    }

    /// Takes the range, emptied first if it has to be.
    #[inline(always)]
    fn take(
        &self,
        zone: &Zone,
        range: PfnRange,
        purpose: Purpose,
        gfp: Gfp,
        sought: Sought,
    ) -> Result<(), ContigError> {
        match self.take_if_free(zone, range, purpose) {
            Ok(()) => Ok(()),
            Err(_) => self.empty_and_take(zone, range, purpose, gfp, sought),
        }
    }

    /// Isolates the range, empties it and takes it. NoMemory: there were no places for
    /// what has to move.
    #[inline(never)]
    fn empty_and_take(
        &self,
        zone: &Zone,
        range: PfnRange,
        purpose: Purpose,
        gfp: Gfp,
        sought: Sought,
    ) -> Result<(), ContigError> {
        let isolated = self.isolate(zone, range, purpose)?;
        let mut patience = if gfp.can_block() { HELD_STALLS } else { 0 };
        for _ in 0..ATTEMPTS {
            // Whether something was busy on the way does not matter: what
            // counts is whether everything is free now.
            let Err(obstacle) = self.take_isolated(&isolated, range, purpose) else {
                return Ok(());
            };
            // On its way from one hand of the manager's to the other, or out for a
            // device to be told of it: not in use, and free again before long.
            while patience > 0 && self.is_held(obstacle.pfn) {
                patience -= 1;
                self.platform.stall();
            }
            self.drain_all(Some(zone));
            if self.evacuate(&isolated, range, gfp, sought) == Evacuation::OutOfMemory {
                return self
                    .take_isolated(&isolated, range, purpose)
                    .map_err(|_| ContigError::NoMemory);
            }
        }
        Ok(self.take_isolated(&isolated, range, purpose)?)
    }

    fn is_held(&self, pfn: Pfn) -> bool {
        let held = |word: HeadWord| word.ty() == PageType::Held && !word.is_lost();
        self.map.head_of(pfn).is_some_and(|(_, word)| held(word))
    }

    /// The zone that all of `range` lies in.
    fn one_zone(&self, range: PfnRange) -> Result<&Zone, ContigError> {
        if range.is_empty() || range.end > self.map.end() {
            return Err(ContigError::Invalid("an empty range or one beyond RAM"));
        }
        let index = self.map.info(range.start).map(BlockInfo::zone_index);
        let mut blocks = pageblocks(range);
        match index {
            Some(zone) if blocks.all(|b| self.map.info(b).map(BlockInfo::zone_index) == index) => {
                Ok(&self.zones[zone])
            }
            _ => Err(ContigError::Invalid("not all in one zone")),
        }
    }
}

/// First frames of the pageblocks that `range` touches, lowest first.
pub(crate) fn pageblocks(range: PfnRange) -> impl Iterator<Item = Pfn> {
    pieces(range, crate::types::PAGEBLOCK_ORDER).map(|piece| piece.start.pageblock())
}

/// `range` cut at every multiple of `1 << order` pages, lowest first.
pub(crate) fn pieces(range: PfnRange, order: Order) -> impl Iterator<Item = PfnRange> {
    let mut at = range.start;
    core::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let end = at.align_down(order).add(order.pages()).min(range.end);
        let piece = PfnRange::new(at, end);
        at = end;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_isolated_is_passed_over_whole() {
        let (range, pfn) = (PfnRange::new(Pfn(500), Pfn(3000)), Pfn(1025));
        let past = |pfn, why| Obstacle { pfn, why }.past(range);
        assert_eq!(past(pfn, Reason::InUse), Pfn(1026));
        assert_eq!(past(pfn, Reason::Unmovable), Pfn(1026));
        assert_eq!(past(pfn, Reason::Isolated), Pfn(1536));
        // A block that begins before the range may be what is in the way.
        assert_eq!(past(Pfn(496), Reason::InUse), Pfn(501));
        assert_eq!(past(Pfn(496), Reason::Isolated), Pfn(512));
    }
}
