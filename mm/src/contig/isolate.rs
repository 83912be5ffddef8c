//! Isolation of pageblocks: what is free in them leaves the lists that others
//! take from, what is freed joins it, and nothing of it is handed out until the
//! isolation ends. Linux mm/page_isolation.c. Contiguous allocation uses it;
//! nothing here reclaims, wakes or waits. May call: `buddy`, `fallback`.

use super::walk::first_fixed;
use super::{Obstacle, Purpose, Reason, pageblocks};
use crate::buddy::Buddy;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::sync::Ordering::Relaxed;
use crate::types::{MigrateType, PAGEBLOCK_PAGES, Pfn, PfnRange};
use crate::zone::Zone;

/// Pageblocks that this value keeps isolated: when it goes, however that comes
/// about, each has its old type again.
pub(crate) struct Isolated<'a, P: Platform> {
    mm: &'a Mm<P>,
    zone: &'a Zone,
    /// Whole pageblocks, all isolated for this value.
    blocks: PfnRange,
}

impl<P: Platform> Isolated<'_, P> {
    /// The zone.
    pub(crate) fn zone(&self) -> &Zone {
        self.zone
    }

    /// Whether all of `range` is isolated by this value.
    pub(crate) fn covers(&self, range: PfnRange) -> bool {
        self.blocks.start <= range.start && range.end <= self.blocks.end
    }
}

impl<P: Platform> Drop for Isolated<'_, P> {
    fn drop(&mut self) {
        for block in pageblocks(self.blocks) {
            // The lock is had anew for each block: others have to get through.
            let cpu = self.mm.enter();
            Buddy::lock(&self.mm.map, self.zone, &cpu).unisolate_block(block);
        }
    }
}

impl<P: Platform> Mm<P> {
    /// Isolates all pageblocks that `range`, all in `zone`, touches. What lies
    /// in those blocks but outside of the range may be anything.
    ///
    /// # Errors
    /// What is in the way: a block somebody else has isolated, or something in
    /// the range that can never be moved. No block is isolated then.
    pub(crate) fn isolate<'a>(
        &'a self,
        zone: &'a Zone,
        range: PfnRange,
        purpose: Purpose,
    ) -> Result<Isolated<'a, P>, Obstacle> {
        let start = range.start.pageblock();
        let mut isolated = Isolated { mm: self, zone, blocks: PfnRange::new(start, start) };
        for block in pageblocks(range) {
            let whole = PfnRange::sized(block, PAGEBLOCK_PAGES);
            let cpu = self.enter();
            let mut buddy = Buddy::lock(&self.map, zone, &cpu);
            // On failure the blocks so far go back as `isolated` is dropped,
            // after the lock.
            let result = buddy.isolate_block(block, whole.intersect(range), purpose);
            drop(buddy);
            drop(cpu);
            result?;
            isolated.blocks.end = whole.end;
        }
        Ok(isolated)
    }
}

impl Buddy<'_> {
    /// Isolates one pageblock unless something in `wanted`, the part of it that
    /// the caller is after, is in the way.
    fn isolate_block(
        &mut self,
        block: Pfn,
        wanted: PfnRange,
        purpose: Purpose,
    ) -> Result<(), Obstacle> {
        let info = self.map.block(block);
        let ty = info.migratetype();
        if let Some(why) = refused(ty, purpose) {
            return Err(Obstacle { pfn: wanted.start, why });
        }
        if let Some(obstacle) = first_fixed(self.map, wanted, purpose) {
            return Err(obstacle);
        }
        info.set_restore_type(ty);
        self.retype_block(block, MigrateType::Isolate);
        self.zone.isolated_blocks.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Gives an isolated pageblock the type back that it had.
    fn unisolate_block(&mut self, block: Pfn) {
        let info = self.map.block(block);
        debug_assert!(info.migratetype() == MigrateType::Isolate, "{block:?} is not isolated");
        self.retype_block(block, info.restore_type());
        self.zone.isolated_blocks.fetch_sub(1, Relaxed);
    }
}

/// Why blocks of that type are not for that purpose, if they are not.
pub(super) fn refused(ty: MigrateType, purpose: Purpose) -> Option<Reason> {
    match (ty, purpose) {
        (MigrateType::Isolate, _) => Some(Reason::Isolated),
        (MigrateType::Cma, Purpose::Area(_)) => None,
        (MigrateType::Cma, _) => Some(Reason::Unmovable),
        _ => None,
    }
}
