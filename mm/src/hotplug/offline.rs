//! Putting memory out of use. May call: `contig`, `buddy`, the rest of this
//! module.

use super::{HotplugError, memory_blocks, runs};
use crate::buddy::Buddy;
use crate::contig::{Purpose, good_runs, pageblocks, pieces};
use crate::gfp::Gfp;
use crate::memmap::{BlockInfo, natural_blocks};
use crate::mm::Mm;
use crate::page::PageType;
use crate::platform::{LogLevel, Platform};
use crate::poison::MAX_NOTED;
use crate::sync::Ordering::Relaxed;
use crate::types::{MAX_ORDER, MigrateType, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, Pfn, PfnRange};
use crate::zone::Zone;
use core::panic::Location;

/// How hard to try to find new places for what has to move.
const GFP: Gfp = Gfp::KERNEL.union(Gfp::RETRY_MAYFAIL).union(Gfp::NOWARN);

/// The zone of a pageblock that is in use.
fn in_use(word: &BlockInfo) -> Option<usize> {
    (!word.is_offline()).then(|| word.zone_index())
}

impl<P: Platform> Mm<P> {
    /// Puts `range`, whole pageblocks of RAM, out of use: what can be moved out
    /// of it is moved, all CPUs' lists are drained. Parts that are out of use
    /// already stay so. A memory block of which nothing is in use any more leaves
    /// its zone. Returns how many pages have gone.
    ///
    /// Interrupts on, no lock held; takes its turn with others that change what
    /// memory there is, and may wait for a page that is locked.
    ///
    /// # Errors
    /// [`Busy`](HotplugError::Busy) with what is in the way: kernel memory, a
    /// contiguous area, RAM reserved since boot, a page whose owner would not
    /// move it, a block that somebody else is emptying;
    /// [`NoMemory`](HotplugError::NoMemory) if there is no place for what has to
    /// move; [`Already`](HotplugError::Already);
    /// [`Invalid`](HotplugError::Invalid). All of the range is as it was then.
    pub fn offline(&self, range: PfnRange) -> Result<u64, HotplugError> {
        let _gate = self.hotplug_gate();
        self.check_described(range)?;
        if self.has_hole(range) {
            return Err(HotplugError::Invalid("there are holes in it"));
        }
        self.make_room_for_all_but(range)?;
        let at = Location::caller();
        let mut pages = 0;
        for (run, _) in runs(&self.map, range, in_use) {
            if let Err(why) = self.alloc_contig(run, Purpose::Offline, GFP, at) {
                let before = PfnRange::new(range.start, run.start);
                for (run, zone) in runs(&self.map, before, in_use) {
                    self.give_back(&self.zones[zone], run);
                }
                return Err(why.into());
            }
            pages += run.pages();
        }
        if pages == 0 {
            return Err(HotplugError::Already);
        }
        let populated = self.populated_nodes();
        // One run at a time: to describe it ends it.
        while let Some((run, zone)) = { runs(&self.map, range, in_use).next() } {
            self.describe_run_offline(&self.zones[zone], run);
        }
        let mut blocks = 0;
        for block in memory_blocks(range) {
            blocks += u64::from(self.leave_zone(block));
        }
        self.memory_changed(populated);
        if blocks > 0 {
            self.log_hotplug(format_args!("Offlined Pages {pages}"));
        }
        Ok(pages)
    }

    /// Says in the log, in Linux's words, why `range` is still in use.
    pub fn log_offline_failure(&self, range: PfnRange, why: HotplugError) {
        self.platform.log(
            LogLevel::Warn,
            format_args!(
                "memory offlining [mem {:#018x}-{:#018x}] failed due to {why}",
                range.start.addr(),
                range.end.addr().wrapping_sub(1),
            ),
        );
    }

    /// Makes room for what has to move out of `range`, zone by zone.
    fn make_room_for_all_but(&self, range: PfnRange) -> Result<(), HotplugError> {
        // All of it before anything of it is looked at.
        for (run, index) in runs(&self.map, range, in_use) {
            self.populate(&self.zones[index], run);
        }
        let mut last = None;
        for (run, index) in runs(&self.map, range, in_use) {
            let zone = &self.zones[index];
            if last == Some(index) {
                continue;
            }
            last = Some(index);
            let rest = PfnRange::new(run.start, range.end);
            let gone = |f: &mut dyn FnMut(PfnRange)| {
                runs(&self.map, rest, in_use).filter(|run| run.1 == index).for_each(|run| f(run.0));
            };
            self.make_room_without(zone, &gone, GFP)?;
        }
        Ok(())
    }

    /// Whether something in a range of RAM is none. Firmware's memory ends where
    /// it likes, and what lies behind it in a pageblock is not to be touched.
    fn has_hole(&self, range: PfnRange) -> bool {
        runs(&self.map, range, in_use).any(|(run, _)| {
            let populated = pageblocks(run).filter(|&block| self.map.try_block(block).is_some());
            populated.into_iter().any(|block| {
                let block = PfnRange::sized(block, PAGEBLOCK_PAGES);
                crate::contig::heads(&self.map, block).any(|(_, word)| word.ty() == PageType::Hole)
            })
        })
    }

    /// Describes what has been claimed as out of use. Frames that are out of use
    /// for good stay what they are, and those that were found bad meanwhile become
    /// that.
    fn describe_run_offline(&self, zone: &Zone, run: PfnRange) {
        for piece in pieces(run, MAX_ORDER) {
            let mut bad = [Pfn(0); MAX_NOTED];
            let cpu = self.enter();
            let lists = Buddy::lock(&self.map, zone, &cpu);
            let mut gone = 0;
            for good in good_runs(&self.map, piece) {
                for (pfn, order) in natural_blocks(good) {
                    let word = self.map.page(pfn).head();
                    debug_assert!(word.is(PageType::Contig, order), "{pfn:?} is {word:?}");
                    self.map.page(pfn).clear();
                }
                for part in pieces(good, PAGEBLOCK_ORDER) {
                    self.map.describe(part, PageType::Offline);
                }
                gone += good.pages();
            }
            for block in pageblocks(piece) {
                let word = self.map.block(block);
                if word.migratetype() == MigrateType::HighAtomic {
                    zone.reserved_highatomic.fetch_sub(PAGEBLOCK_PAGES, Relaxed);
                }
                word.set_migratetype(MigrateType::Movable);
                word.set_restore_type(MigrateType::Movable);
                word.set_offline(true);
            }
            zone.managed.fetch_sub(gone, Relaxed);
            let bad = self.claim_notes(piece, &mut bad);
            bad.iter().for_each(|&pfn| self.map.leave_out(pfn, PageType::Offline));
            drop(lists);
            drop(cpu);
            self.enlist_freed(bad);
        }
    }

    /// Takes a memory block out of its zone if nothing of it is in use and it has
    /// just one; whether it has.
    fn leave_zone(&self, block: PfnRange) -> bool {
        let Some(zone) = self.zone_of_memory_block(block).and_then(|i| self.zones.get(i)) else {
            return false;
        };
        if runs(&self.map, block, in_use).next().is_some() {
            return false;
        }
        let cpu = self.enter();
        let _lists = Buddy::lock(&self.map, zone, &cpu);
        let mut gone = 0;
        for (_, word) in self.map.described_blocks(block) {
            word.leave_zone();
            gone += PAGEBLOCK_PAGES;
        }
        zone.present.fetch_sub(gone, Relaxed);
        self.shrink_span(zone, block);
        true
    }

    /// Has the zone begin or end with what is left of it, if `gone` was where it
    /// did. Under the zone lock.
    fn shrink_span(&self, zone: &Zone, gone: PfnRange) {
        let mut span = zone.span();
        if zone.present() == 0 {
            span = PfnRange::default();
        } else if gone.start <= span.start {
            let rest = PfnRange::new(gone.end, span.end);
            let mut left = self.map.known_blocks(rest);
            let first = left.find(|(_, word)| word.zone_index() == zone.index());
            span.start = first.map_or(span.start, |(block, _)| block);
        } else if gone.end >= span.end {
            let rest = PfnRange::new(span.start, gone.start);
            let last = self.map.last_of_zone(rest, zone.index());
            span.end = last.map_or(span.end, |block: Pfn| block.add(PAGEBLOCK_PAGES));
        }
        zone.set_span(span);
    }
}
