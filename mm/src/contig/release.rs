//! Giving contiguous ranges back, whole or in parts. May call: `buddy`, `free`.

use super::{Purpose, pieces};
use crate::buddy::{Buddy, Placement};
use crate::gfp::{FreeError, Page};
use crate::memmap::{MemMap, natural_blocks};
use crate::mm::Mm;
use crate::page::{HeadWord, PageType};
use crate::platform::Platform;
use crate::sync::Ordering::Relaxed;
use crate::types::{MAX_ORDER, Order, PfnRange};

use super::walk::heads;

impl<P: Platform> Mm<P> {
    /// Frees `range`, which is what [`alloc_contig_range`](Self::alloc_contig_range)
    /// or [`alloc_contig_pages`](Self::alloc_contig_pages) returned, or any part
    /// of that. From any context.
    ///
    /// # Errors
    /// Anything else is refused: nothing has changed then but a counter and a
    /// line in the log.
    pub fn free_contig_range(&self, range: PfnRange) -> Result<(), FreeError> {
        self.free_contig(range, Purpose::General)
    }

    /// As [`free_contig_range`](Self::free_contig_range), for whomever the range
    /// was allocated.
    pub(crate) fn free_contig(&self, range: PfnRange, purpose: Purpose) -> Result<(), FreeError> {
        let refuse = |why| {
            let page = Page { pfn: range.start, order: Order::for_pages(range.pages()) };
            Err(self.refuse(page, why))
        };
        // One allocation lies in one zone; a range that does not is refused as
        // its heads are looked at.
        if self.map.try_block(range.start).is_none() || range.is_empty() {
            return refuse(FreeError::NotManaged);
        }
        let zone = self.zone_at(range.start);
        let allocation = self.map.head_of(range.start).map(|(head, _)| self.map.page(head).index());
        let check = |piece| check(&self.map, piece, purpose.tag(), allocation.unwrap_or(0));
        for piece in pieces(range, MAX_ORDER) {
            let cpu = self.enter();
            let buddy = Buddy::lock(&self.map, zone, &cpu);
            let checked = check(piece);
            drop(buddy);
            drop(cpu);
            if let Err(why) = checked {
                return refuse(why);
            }
        }
        for piece in pieces(range, MAX_ORDER) {
            let cpu = self.enter();
            let buddy = Buddy::lock(&self.map, zone, &cpu);
            // Asked again: whoever frees a range twice at once must not do any
            // harm but to himself.
            let checked = check(piece);
            if checked.is_ok() {
                cut_out(&self.map, piece);
            }
            // With the lock held: who puts a note after this finds the head Held.
            let noted = self.has_notes();
            drop(buddy);
            drop(cpu);
            if let Err(why) = checked {
                return refuse(why);
            }
            if noted {
                self.free_without_bad(piece);
            } else {
                self.free_piece(piece);
            }
        }
        Ok(())
    }

    /// Frees a piece whose heads say Held.
    fn free_piece(&self, piece: PfnRange) {
        let t = &self.tunables;
        for (pfn, order) in natural_blocks(piece) {
            if t.init_on_free.load(Relaxed) {
                self.clear(pfn, order);
            }
            if t.page_poison.load(Relaxed) {
                self.poison(pfn, order);
            }
        }
        let zone = self.zone_at(piece.start);
        let cpu = self.enter();
        let mut buddy = Buddy::lock(&self.map, zone, &cpu);
        let blocks = natural_blocks(piece);
        let listed = blocks.map(|(pfn, order)| buddy.free(pfn, order, Placement::Auto)).max();
        drop(buddy);
        self.count_freed(zone, piece.pages(), &cpu);
        self.note_freed(zone, listed.unwrap_or_default());
    }
}

/// Whether all of `piece` belongs to the contiguous allocation that is marked
/// so. Under the zone lock.
fn check(map: &MemMap, piece: PfnRange, tag: u32, allocation: u32) -> Result<(), FreeError> {
    if piece.end > map.end() || map.try_block(piece.start).is_none() {
        return Err(FreeError::NotManaged);
    }
    let last = piece.end.0 - 1;
    if map.try_block(crate::types::Pfn(last)).is_none() {
        return Err(FreeError::NotManaged);
    }
    for (pfn, word) in heads(map, piece) {
        let page = map.page(pfn);
        match word.ty() {
            PageType::Contig if page.private() == tag && page.index() == allocation => {}
            PageType::Buddy | PageType::Pcp | PageType::Held => return Err(FreeError::DoubleFree),
            PageType::Tail
            | PageType::Reserved
            | PageType::Hole
            | PageType::Offline
            | PageType::Poisoned => return Err(FreeError::NotManaged),
            _ => return Err(FreeError::WrongOwner),
        }
    }
    Ok(())
}

/// Cuts `piece` out of the contiguous blocks that cover it: what they have
/// beyond it stays contiguous memory, the piece itself is Held in natural
/// blocks. Under the zone lock.
fn cut_out(map: &MemMap, piece: PfnRange) {
    for (pfn, word) in heads(map, piece) {
        let block = PfnRange::sized(pfn, word.order().pages());
        let page = map.page(pfn);
        let (mark, owner) = (page.both(), page.owner());
        page.clear();
        for rest in [PfnRange::new(block.start, piece.start), PfnRange::new(piece.end, block.end)] {
            for (pfn, order) in natural_blocks(rest) {
                let page = map.page(pfn);
                page.set_both(mark);
                page.set_owner(owner);
                page.set_head(HeadWord::new(PageType::Contig, order));
            }
        }
    }
    map.describe(piece, PageType::Held);
}
