//! Taking a range whose pages are all free off the lists: the blocks that cover
//! it are unlinked, what they have too much at the edges goes back as natural
//! blocks, and the range is described as contiguous memory. May call: `buddy`.

use super::isolate::{Isolated, refused};
use super::walk::{Kind, good_runs, heads, last_used};
use super::{Obstacle, Purpose, Reason, pageblocks, pieces};
use crate::buddy::{Buddy, Placement};
use crate::gfp::Gfp;
use crate::memmap::natural_blocks;
use crate::mm::Mm;
use crate::page::{HeadWord, PageType, link};
use crate::platform::Platform;
use crate::sync::Ordering::Relaxed;
use crate::types::{MAX_ORDER, MigrateType, Order, PfnRange};
use crate::zone::Zone;
use core::panic::Location;

/// From which lists free pages are to be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lists {
    /// Those of blocks that the caller has isolated.
    Isolated,
    /// Those that everybody takes from.
    Open,
}

impl Buddy<'_> {
    /// Whether all of `range`, which lies in one naturally aligned block of the
    /// largest order, is free on the lists, or may stay where it is.
    fn check_range(&self, range: PfnRange, from: Lists, purpose: Purpose) -> Result<(), Obstacle> {
        debug_assert!(pieces(range, MAX_ORDER).count() == 1);
        for block in pageblocks(range) {
            let word = self.map.block(block);
            let ty = word.migratetype();
            let why = match from {
                // It may have left the zone since somebody looked without the
                // lock, and be in another. In none, nothing of it looks free.
                _ if word.zone_index() != self.zone.index() => Some(Reason::Unmovable),
                Lists::Isolated if ty == MigrateType::Isolate => None,
                Lists::Isolated => Some(Reason::InUse),
                Lists::Open => refused(ty, purpose),
            };
            if let Some(why) = why {
                return Err(Obstacle { pfn: block.max(range.start), why });
            }
        }
        let in_the_way = |ty| Kind::of(ty) != Kind::Free && !purpose.passes_over(ty);
        match heads(self.map, range).find(|(_, word)| in_the_way(word.ty())) {
            Some((pfn, _)) => Err(Obstacle { pfn: pfn.max(range.start), why: Reason::InUse }),
            None => Ok(()),
        }
    }

    /// Takes `range`, all of it free and in one block of the largest order, off
    /// the lists; what the blocks that cover it have beyond it stays there, as
    /// natural blocks. Counts it gone. What to write into its descriptors, all
    /// clear now, is the caller's to say.
    pub(crate) fn cut_out(&mut self, range: PfnRange) {
        let map = self.map;
        for (pfn, word) in heads(map, range) {
            let order = word.order();
            let block = PfnRange::sized(pfn, order.pages());
            let ty = map.block(pfn).migratetype();
            self.unlink(pfn, order, ty);
            map.page(pfn).set_head(HeadWord::TAIL);
            // Below and above the range no buddy of these pieces is free, or it
            // would have been part of the block.
            for surplus in
                [PfnRange::new(block.start, range.start), PfnRange::new(range.end, block.end)]
            {
                for (pfn, order) in natural_blocks(surplus) {
                    self.link(pfn, order, ty, false);
                }
            }
            self.account(-(block.intersect(range).pages() as i64), ty);
        }
    }
}

impl<P: Platform> Mm<P> {
    /// Takes a range that lies in one largest block if all of it is free and
    /// nobody has it isolated: then nothing has to be isolated for it.
    pub(super) fn take_if_free(
        &self,
        zone: &Zone,
        range: PfnRange,
        purpose: Purpose,
    ) -> Result<(), Obstacle> {
        if range.start.align_down(MAX_ORDER).add(MAX_ORDER.pages()) < range.end {
            return Err(Obstacle { pfn: range.start, why: Reason::InUse });
        }
        self.take_piece(zone, range, range, Lists::Open, purpose)
    }

    /// Takes a range that `isolated` has, if all of it is free by now.
    pub(super) fn take_isolated(
        &self,
        isolated: &Isolated<'_, P>,
        range: PfnRange,
        purpose: Purpose,
    ) -> Result<(), Obstacle> {
        debug_assert!(isolated.covers(range));
        let zone = isolated.zone();
        for piece in pieces(range, MAX_ORDER) {
            if let Err(obstacle) = self.take_piece(zone, piece, range, Lists::Isolated, purpose) {
                self.give_back(zone, PfnRange::new(range.start, piece.start));
                let rest = PfnRange::new(piece.start, range.end);
                return Err(last_used(&self.map, rest, purpose).unwrap_or(obstacle));
            }
        }
        Ok(())
    }

    /// Takes one piece of `range` and describes it as part of that.
    fn take_piece(
        &self,
        zone: &Zone,
        piece: PfnRange,
        range: PfnRange,
        from: Lists,
        purpose: Purpose,
    ) -> Result<(), Obstacle> {
        let cpu = self.enter();
        let mut buddy = Buddy::lock(&self.map, zone, &cpu);
        buddy.check_range(piece, from, purpose)?;
        let mut take = |run| {
            buddy.cut_out(run);
            for (pfn, order) in natural_blocks(run) {
                let page = self.map.page(pfn);
                page.set_index_and_private(link(range.start), purpose.tag());
                page.set_head(HeadWord::new(PageType::Contig, order));
            }
        };
        if purpose == Purpose::Offline {
            good_runs(&self.map, piece).for_each(take);
        } else {
            take(piece);
        }
        Ok(())
    }

    /// Returns what was taken of a range that could not be had whole.
    pub(crate) fn give_back(&self, zone: &Zone, taken: PfnRange) {
        for piece in pieces(taken, MAX_ORDER) {
            let cpu = self.enter();
            let mut buddy = Buddy::lock(&self.map, zone, &cpu);
            // A frame of it may have been found bad since it was taken.
            if self.has_notes() {
                for run in good_runs(&self.map, piece) {
                    for (pfn, order) in natural_blocks(run) {
                        self.map.page(pfn).reset(HeadWord::new(PageType::Held, order));
                    }
                }
                drop(buddy);
                drop(cpu);
                good_runs(&self.map, piece).for_each(|run| self.return_without_bad(run));
                continue;
            }
            let mut listed = Order(0);
            for run in good_runs(&self.map, piece) {
                for (pfn, order) in natural_blocks(run) {
                    self.map.page(pfn).clear();
                    listed = listed.max(buddy.free(pfn, order, Placement::Auto));
                }
            }
            drop(buddy);
            drop(cpu);
            self.note_freed(zone, listed);
        }
    }

    /// What is done to pages on their way out: checks, zeroing, their owner's
    /// name. The range is the caller's and no longer isolated.
    pub(super) fn hand_out_contig(
        &self,
        zone: &Zone,
        range: PfnRange,
        gfp: Gfp,
        at: &'static Location<'static>,
    ) {
        let t = &self.tunables;
        let poisoned = t.page_poison.load(Relaxed);
        let zero = gfp.contains(Gfp::ZERO) || t.init_on_alloc.load(Relaxed);
        let owned = self.owners.is_on();
        if poisoned || zero || owned {
            for (pfn, order) in natural_blocks(range) {
                if poisoned {
                    self.check_poison(pfn, order);
                }
                if zero {
                    self.clear(pfn, order);
                }
                if owned {
                    self.map.page(pfn).set_owner(self.owners.intern(at).0);
                }
            }
        }
        let cpu = self.enter();
        self.count_allocated(zone, range.pages(), &cpu);
    }
}
