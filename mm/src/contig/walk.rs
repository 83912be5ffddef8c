//! Walking a range by heads: what kind of pages are there, and which of them
//! is in the way. Without the zone lock everything seen is a hint. May call:
//! `memmap`, `page`.

use super::{Obstacle, Purpose, Reason};
use crate::memmap::MemMap;
use crate::page::{HeadWord, PageType};
use crate::types::{Order, Pfn, PfnRange};

/// What the pages of a range are to somebody who wants to have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// On the buddy's lists.
    Free,
    /// On some CPU's list, or on the way there: free once that is drained.
    Pcp,
    /// Allocated, by somebody who can be asked to move.
    Movable,
    /// The manager itself has it for a moment, for somebody else.
    Held,
    /// In the way.
    Fixed,
}

impl Kind {
    pub(super) const fn of(ty: PageType) -> Self {
        match ty {
            PageType::Buddy => Self::Free,
            // A tail of nothing: a block that is just being freed.
            PageType::Pcp | PageType::Tail => Self::Pcp,
            PageType::Lru | PageType::Movable => Self::Movable,
            PageType::Held => Self::Held,
            _ => Self::Fixed,
        }
    }
}

/// The heads of the blocks that cover `range` (whose pageblocks are present),
/// lowest first; the first may lie before it. A frame that no head covers, as
/// can be seen without the lock, comes as a tail of one page.
pub(crate) fn heads(map: &MemMap, range: PfnRange) -> impl Iterator<Item = (Pfn, HeadWord)> + '_ {
    let mut at = range.start;
    core::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let word = map.page(at).head();
        let (head, word) = match word.ty() {
            // The first block may begin before the range; others may have
            // merged with what is behind us.
            PageType::Tail => map.head_of(at).unwrap_or((at, word)),
            _ => (at, word),
        };
        at = head.add(order_of(word).pages()).max(at.add(1));
        Some((head, word))
    })
}

/// The order of a head; a word that is no head's counts as one page.
fn order_of(word: HeadWord) -> Order {
    if word.ty() == PageType::Tail { Order(0) } else { word.order() }
}

/// The parts of `range` between frames that are out of use for good, lowest
/// first. A part that has been handed over may be described anew before the next
/// is asked for.
pub(crate) fn good_runs(map: &MemMap, range: PfnRange) -> impl Iterator<Item = PfnRange> + '_ {
    let mut at = range.start;
    core::iter::from_fn(move || {
        while at < range.end {
            let rest = PfnRange::new(at, range.end);
            let bad = heads(map, rest).find(|(_, word)| word.ty() == PageType::Poisoned);
            let run = PfnRange::new(at, bad.map_or(range.end, |(pfn, _)| pfn));
            at = run.end.add(1);
            if !run.is_empty() {
                return Some(run);
            }
        }
        None
    })
}

/// The first block in `range` that will stay in the way whatever is tried.
pub(crate) fn first_fixed(map: &MemMap, range: PfnRange, purpose: Purpose) -> Option<Obstacle> {
    let fixed = |ty| match Kind::of(ty) {
        // Only movable pages get into an area: this one is about to be given to
        // a driver, or to be freed.
        Kind::Fixed if purpose.passes_over(ty) => false,
        Kind::Fixed => ty != PageType::Kernel || !matches!(purpose, Purpose::Area(_)),
        _ => false,
    };
    heads(map, range)
        .find(|(_, word)| fixed(word.ty()))
        .map(|(pfn, _)| Obstacle { pfn: pfn.max(range.start), why: Reason::Unmovable })
}

/// The last block in `range` that is not free: no window that reaches from
/// before it beyond it is worth a try.
pub(super) fn last_used(map: &MemMap, range: PfnRange, purpose: Purpose) -> Option<Obstacle> {
    let used = |ty| Kind::of(ty) != Kind::Free && !purpose.passes_over(ty);
    let last = heads(map, range).filter(|(_, word)| used(word.ty())).last()?;
    let end = last.0.add(order_of(last.1).pages()).min(range.end);
    Some(Obstacle { pfn: Pfn(end.0 - 1), why: Reason::InUse })
}
