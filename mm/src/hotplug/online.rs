//! Putting memory into use: which zone it goes to, and how it gets there. May
//! call: `buddy`, `deferred`, the rest of this module.

use super::{HotplugError, OnlineType, memory_block, memory_blocks, runs};
use crate::buddy::{Buddy, Placement};
use crate::contig::{good_runs, pageblocks};
use crate::memmap::{BlockInfo, natural_blocks, zone_index};
use crate::mm::Mm;
use crate::platform::Platform;
use crate::sync::Ordering::Relaxed;
use crate::types::{MAX_ORDER, NR_ZONES, Order, PAGEBLOCK_PAGES, Pfn, PfnRange, ZoneKind};
use crate::zone::Zone;

/// Pageblocks that are out of use and may be put into use.
fn idle(word: &BlockInfo) -> Option<()> {
    (word.is_offline() && word.is_plugged()).then_some(())
}

impl<P: Platform> Mm<P> {
    /// Puts `range`, whole pageblocks of RAM, into use. Parts that are in use stay
    /// so, and what its device has not lent out stays out of use. A memory block
    /// that had nothing in use joins the zone that `how` says, as a whole; in
    /// others `how` has to agree with the zone it is in. Returns how many pages
    /// have come. Interrupts on, no lock held.
    ///
    /// # Errors
    /// [`Already`](HotplugError::Already) if there was nothing to do,
    /// [`Invalid`](HotplugError::Invalid). Nothing has changed then.
    pub fn online(&self, range: PfnRange, how: OnlineType) -> Result<u64, HotplugError> {
        let _gate = self.hotplug_gate();
        self.check_described(range)?;
        let mut pages = 0;
        for (run, ()) in runs(&self.map, range, idle) {
            let in_zone = runs(&self.map, run, |word| word.is_known().then(|| word.zone_kind()));
            let fits = |kind| match how {
                OnlineType::Auto => true,
                OnlineType::Kernel => kind != ZoneKind::Movable,
                OnlineType::Movable => kind == ZoneKind::Movable,
            };
            if in_zone.into_iter().any(|(_, kind)| !fits(kind)) {
                return Err(HotplugError::Invalid("its memory block is in another zone"));
            }
            pages += run.pages();
        }
        if pages == 0 {
            return Err(HotplugError::Already);
        }
        let populated = self.populated_nodes();
        for block in memory_blocks(range) {
            let part = block.intersect(range);
            // One run at a time: to put it into use ends it.
            while let Some((run, ())) = { runs(&self.map, part, idle).next() } {
                if self.map.info(run.start).is_some() {
                    self.online_in_zone(run);
                } else {
                    self.join_zone(block, part, how);
                }
            }
        }
        self.memory_changed(populated);
        Ok(pages)
    }

    /// The zones that a memory block out of use may go to, the one that
    /// [`Auto`](OnlineType::Auto) chooses first.
    pub(super) fn zones_to_join(&self, block: PfnRange) -> Option<[ZoneKind; 2]> {
        let (_, word) = self.map.described_blocks(block).next()?;
        let kernel = ZoneKind::ALL[Self::kernel_zone(word.node(), block) % NR_ZONES];
        let chosen = self.auto_zone(word, block);
        let other = if chosen == ZoneKind::Movable { kernel } else { ZoneKind::Movable };
        Some([chosen, other])
    }

    fn auto_zone(&self, word: &BlockInfo, block: PfnRange) -> ZoneKind {
        let node = word.node();
        let kernel = ZoneKind::ALL[Self::kernel_zone(node, block) % NR_ZONES];
        let spans = |kind: ZoneKind| {
            self.zone(node, kind).is_some_and(|zone| !zone.span().intersect(block).is_empty())
        };
        match (spans(kernel), spans(ZoneKind::Movable)) {
            (true, false) => kernel,
            (false, true) => ZoneKind::Movable,
            _ if self.hotplug.movable_node => ZoneKind::Movable,
            // New memory has its own by its place written there.
            _ if word.zone_kind() == ZoneKind::Movable => ZoneKind::Movable,
            _ => kernel,
        }
    }

    /// Puts pageblocks into use whose memory block is in a zone already.
    fn online_in_zone(&self, run: PfnRange) {
        for block in pageblocks(run) {
            self.scrub_good(block);
            let zone = self.zone_at(block);
            let cpu = self.enter();
            let mut buddy = Buddy::lock(&self.map, zone, &cpu);
            self.map.block(block).set_offline(false);
            let listed = self.list_new(&mut buddy, block);
            drop(buddy);
            drop(cpu);
            self.note_freed(zone, listed);
        }
    }

    /// Lists a pageblock that is described as out of use, but for frames that stay
    /// so for good, and counts it managed. Returns the order that it came to be
    /// listed at.
    fn list_new(&self, buddy: &mut Buddy<'_>, block: Pfn) -> Order {
        let mut listed = Order(0);
        for run in good_runs(&self.map, PfnRange::sized(block, PAGEBLOCK_PAGES)) {
            buddy.zone.managed.fetch_add(run.pages(), Relaxed);
            for (pfn, order) in natural_blocks(run) {
                self.map.page(pfn).clear();
                listed = listed.max(buddy.free(pfn, order, Placement::Tail));
            }
        }
        listed
    }

    /// As [`scrub`](Self::scrub), for a pageblock that is described as out of use:
    /// what is bad in it is not touched.
    fn scrub_good(&self, block: Pfn) {
        for run in good_runs(&self.map, PfnRange::sized(block, PAGEBLOCK_PAGES)) {
            natural_blocks(run).for_each(|(pfn, order)| self.scrub(pfn, order));
        }
    }

    /// Gives a memory block of no zone to the one that `how` says, and puts
    /// `part` of it into use, but for what is not plugged.
    fn join_zone(&self, block: PfnRange, part: PfnRange, how: OnlineType) {
        debug_assert!(block == memory_block(part));
        let Some((_, word)) = self.map.described_blocks(block).next() else { return };
        let node = word.node();
        let zone = match how {
            OnlineType::Auto => zone_index(node, self.auto_zone(word, block)),
            OnlineType::Kernel => Self::kernel_zone(node, block),
            OnlineType::Movable => zone_index(node, ZoneKind::Movable),
        };
        let zone = &self.zones[zone];
        let comes = |block: Pfn| {
            part.contains(block) && self.map.described(block).is_some_and(BlockInfo::is_plugged)
        };
        // Whole blocks of the largest order that come, and are good, may stay
        // without descriptors.
        let has_bad = self.has_taken(block);
        let defers = |block: Pfn| {
            let first = block.align_down(MAX_ORDER);
            self.hotplug.defer
                && !(has_bad && self.has_taken(PfnRange::sized(first, MAX_ORDER.pages())))
                && [first, first.add(PAGEBLOCK_PAGES)]
                    .into_iter()
                    .all(|half| comes(half) && self.map.described(half).is_some())
        };
        let mut words = [(Pfn(0), false, false); BLOCKS];
        let mut known = 0;
        for ((pfn, _), slot) in self.map.described_blocks(block).zip(&mut words) {
            *slot = (pfn, comes(pfn), defers(pfn));
            known += 1;
        }
        let words = &words[..known];
        for &(pfn, comes, defers) in words {
            if !defers {
                // SAFETY: the block is of no zone, its descriptors are there, and
                // who changes that waits at the gate.
                unsafe { self.map.describe_offline(pfn) };
            }
            if comes && !defers {
                self.scrub_good(pfn);
            }
        }
        let cpu = self.enter();
        let mut buddy = Buddy::lock(&self.map, zone, &cpu);
        self.grow_span(zone, words);
        for &(pfn, comes, defers) in words {
            self.map.join_zone(pfn, zone.index(), !defers, !comes);
            zone.present.fetch_add(PAGEBLOCK_PAGES, Relaxed);
        }
        let mut listed = Order(0);
        for &(pfn, comes, defers) in words {
            if defers && pfn.is_aligned(MAX_ORDER) {
                zone.managed.fetch_add(MAX_ORDER.pages(), Relaxed);
                buddy.defer(PfnRange::sized(pfn, MAX_ORDER.pages()));
            } else if comes && !defers {
                listed = listed.max(self.list_new(&mut buddy, pfn));
            }
        }
        buddy.list_deferred();
        drop(buddy);
        drop(cpu);
        self.note_freed(zone, listed);
    }

    /// Has the zone span these pageblocks too. Under the zone lock.
    fn grow_span(&self, zone: &Zone, words: &[(Pfn, bool, bool)]) {
        let (Some(first), Some(last)) = (words.first(), words.last()) else { return };
        let new = PfnRange::new(first.0, last.0.add(PAGEBLOCK_PAGES));
        let old = zone.span();
        zone.set_span(if old.is_empty() {
            new
        } else {
            PfnRange::new(old.start.min(new.start), old.end.max(new.end))
        });
    }
}

/// Pageblocks of a memory block.
const BLOCKS: usize = (super::MEMORY_BLOCK_PAGES / PAGEBLOCK_PAGES) as usize;
