//! The word of a pageblock: what is known of it besides its pages' descriptors.
//! Calls `sync`, `types`.

use crate::sync::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};
use crate::types::{MigrateType, NR_ZONES, NodeId, ZoneKind};

const MT: u32 = 0b111;
const RESTORE_SHIFT: u32 = 3;
const RESTORE: u32 = MT << RESTORE_SHIFT;
const SKIP: u32 = 1 << 6;
/// The block's descriptors say something.
const POPULATED: u32 = 1 << 7;
/// The block is RAM of a zone; the rest of its word means something.
const KNOWN: u32 = 1 << 8;
/// Its pages are out of use. With KNOWN, its zone has it and its descriptors say
/// so too; without, it belongs to no zone.
const OFFLINE: u32 = 1 << 9;
/// It was not there when the machine booted.
const ADDED: u32 = 1 << 10;
/// The device that it belongs to does not lend it out just now.
const UNPLUGGED: u32 = 1 << 11;
/// It is no zone's (any more), yet its descriptors can be read: whoever had a
/// look at the block before, without a lock, may still do so.
const READABLE: u32 = 1 << 12;
/// Under which name it was added.
const NAME_SHIFT: u32 = 13;
const NAME: u32 = 0b111 << NAME_SHIFT;
const ZONE_SHIFT: u32 = 16;
const NODE_SHIFT: u32 = 18;
/// What the word keeps as memory joins and leaves zones.
const KEPT: u32 = ADDED | UNPLUGGED | NAME;

/// What is known of a pageblock: migratetype, the type to restore after
/// isolation, compaction's skip bit, zone and node, and whether its pages have
/// descriptors yet.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct BlockInfo(AtomicU32);

impl BlockInfo {
    /// Makes the block known, in that zone and node, of that type, its
    /// descriptors not populated.
    pub fn init(&self, node: NodeId, zone: ZoneKind, ty: MigrateType) {
        let word = ty as u32
            | (ty as u32) << RESTORE_SHIFT
            | KNOWN
            | (zone as u32) << ZONE_SHIFT
            | u32::from(node.0) << NODE_SHIFT;
        self.0.store(word, Relaxed);
    }

    /// Whether the block is RAM of a zone.
    #[inline]
    pub fn is_known(&self) -> bool {
        self.0.load(Relaxed) & KNOWN != 0
    }

    /// Whether there is RAM, in use or out of use.
    pub fn is_described(&self) -> bool {
        self.0.load(Relaxed) & (KNOWN | OFFLINE) != 0
    }

    /// Whether the block is out of use (`hotplug`).
    pub fn is_offline(&self) -> bool {
        self.0.load(Relaxed) & OFFLINE != 0
    }

    /// Whether it came after the boot, and may go again.
    pub fn is_added(&self) -> bool {
        self.0.load(Relaxed) & ADDED != 0
    }

    /// Whether it may be used, as far as its device is concerned. True of all
    /// RAM but what some device has told of and not lent out.
    pub fn is_plugged(&self) -> bool {
        self.0.load(Relaxed) & UNPLUGGED == 0
    }

    /// The number of the name under which it was added.
    pub(crate) fn name(&self) -> usize {
        ((self.0.load(Relaxed) & NAME) >> NAME_SHIFT) as usize
    }

    /// Kind of the zone that has the block, or had it last, or would be its own
    /// by its place.
    pub fn zone_kind(&self) -> ZoneKind {
        ZoneKind::ALL[self.zone_index() % NR_ZONES]
    }

    /// Makes the block one that came later: of no zone yet, out of use. `zone`
    /// is the one it would be in by its place.
    pub(crate) fn init_added(&self, node: NodeId, zone: ZoneKind, name: usize, plugged: bool) {
        let word = OFFLINE
            | ADDED
            | READABLE
            | if plugged { 0 } else { UNPLUGGED }
            | (name as u32) << NAME_SHIFT & NAME
            | (zone as u32) << ZONE_SHIFT
            | u32::from(node.0) << NODE_SHIFT;
        self.0.store(word, Relaxed);
    }

    /// The block is no longer there.
    pub(crate) fn init_removed(&self) {
        self.0.store(READABLE, Relaxed);
    }

    /// Says whether its device lends it out.
    pub(crate) fn set_plugged(&self, plugged: bool) {
        self.update(UNPLUGGED, if plugged { 0 } else { UNPLUGGED });
    }

    /// Puts it out of use, or into use again; under the zone lock.
    pub(crate) fn set_offline(&self, offline: bool) {
        self.update(OFFLINE, if offline { OFFLINE } else { 0 });
    }

    /// Leaves its zone, all of it being out of use; under the zone lock.
    pub(crate) fn leave_zone(&self) {
        let gone = MT | RESTORE | SKIP | POPULATED | KNOWN;
        self.update(gone | READABLE, READABLE);
    }

    /// Whether the block's pages have descriptors. Who sees that they have also
    /// sees them zeroed.
    #[inline]
    pub fn is_populated(&self) -> bool {
        self.0.load(Acquire) & POPULATED != 0
    }

    /// The migratetype now. Stable under the zone lock, a hint without.
    #[inline]
    pub fn migratetype(&self) -> MigrateType {
        MigrateType::from_bits(self.0.load(Relaxed))
    }

    /// Changes the migratetype; under the zone lock.
    pub fn set_migratetype(&self, ty: MigrateType) {
        self.update(MT, ty as u32);
    }

    /// The type that the end of isolation brings back.
    pub fn restore_type(&self) -> MigrateType {
        MigrateType::from_bits(self.0.load(Relaxed) >> RESTORE_SHIFT)
    }

    /// Sets [`restore_type`](Self::restore_type); under the zone lock.
    pub fn set_restore_type(&self, ty: MigrateType) {
        self.update(RESTORE, (ty as u32) << RESTORE_SHIFT);
    }

    /// Compaction found nothing here lately.
    pub fn skip(&self) -> bool {
        self.0.load(Relaxed) & SKIP != 0
    }

    /// Sets or clears the skip hint; needs no lock.
    pub fn set_skip(&self, on: bool) {
        self.update(SKIP, if on { SKIP } else { 0 });
    }

    /// Index of the zone (node and kind) in the manager's table of zones.
    #[inline]
    pub fn zone_index(&self) -> usize {
        (self.0.load(Relaxed) >> ZONE_SHIFT) as usize
    }

    /// Zone and migratetype by one read, if the block is populated and of a type
    /// that everybody may have.
    #[inline]
    pub(crate) fn plain(&self) -> Option<(usize, MigrateType)> {
        const UNMOVABLE: u32 = POPULATED | MigrateType::Unmovable as u32;
        const MOVABLE: u32 = POPULATED | MigrateType::Movable as u32;
        const RECLAIMABLE: u32 = POPULATED | MigrateType::Reclaimable as u32;
        let word = self.0.load(Acquire);
        let ty = match word & (POPULATED | MT) {
            UNMOVABLE => MigrateType::Unmovable,
            MOVABLE => MigrateType::Movable,
            RECLAIMABLE => MigrateType::Reclaimable,
            _ => return None,
        };
        Some(((word >> ZONE_SHIFT) as usize, ty))
    }

    /// The node.
    pub fn node(&self) -> NodeId {
        NodeId((self.0.load(Relaxed) >> NODE_SHIFT) as u8)
    }

    /// Says that the descriptors mean something, after they were written.
    pub(super) fn set_populated(&self) {
        // After the zeroes, for those who look without a lock.
        self.0.fetch_or(POPULATED, Release);
    }

    /// As [`MemMap::join_zone`](super::MemMap::join_zone).
    pub(super) fn join_zone(&self, zone: usize, populated: bool, offline: bool) {
        let ty = MigrateType::Movable as u32;
        let word = self.0.load(Relaxed) & KEPT
            | KNOWN
            | READABLE
            | if populated { POPULATED } else { 0 }
            | if offline { OFFLINE } else { 0 }
            | ty
            | ty << RESTORE_SHIFT
            | (zone as u32) << ZONE_SHIFT;
        // After the descriptors, for those who look without a lock.
        self.0.store(word, Release);
    }

    /// Whether the descriptors can be read, whatever they say.
    pub(super) fn is_readable(&self) -> bool {
        self.0.load(Acquire) & (POPULATED | READABLE) != 0
    }

    /// Whether somebody may still be reading the descriptors from before the
    /// block was populated: as those of what it was before it left a zone, or as
    /// nobody's memory.
    pub(super) fn was_readable(&self) -> bool {
        self.0.load(Relaxed) & READABLE != 0
    }

    // Others change other bits at the same time (the skip hint has no lock).
    fn update(&self, mask: u32, bits: u32) {
        let mut seen = self.0.load(Relaxed);
        while let Err(now) =
            self.0.compare_exchange_weak(seen, seen & !mask | bits, Relaxed, Relaxed)
        {
            seen = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memmap::zone_index;

    #[test]
    fn block_word_keeps_its_parts_apart() {
        let block = BlockInfo::default();
        assert!(!block.is_known());
        block.init(NodeId(15), ZoneKind::Movable, MigrateType::Cma);
        assert!(block.is_known() && !block.is_populated());
        block.set_populated();
        assert!(block.is_populated());
        block.set_skip(true);
        block.set_migratetype(MigrateType::Isolate);
        assert_eq!(block.migratetype(), MigrateType::Isolate);
        assert_eq!(block.restore_type(), MigrateType::Cma);
        assert!(block.skip());
        assert_eq!(block.node(), NodeId(15));
        assert_eq!(block.zone_index(), zone_index(NodeId(15), ZoneKind::Movable));
    }

    #[test]
    fn memory_comes_and_goes_and_keeps_its_name() {
        let block = BlockInfo::default();
        assert!(!block.is_described() && !block.is_readable());
        block.init_added(NodeId(3), ZoneKind::Normal, 5, false);
        assert!(block.is_described() && block.is_offline() && !block.is_known());
        assert!(block.is_added() && !block.is_plugged() && block.is_readable());
        block.set_plugged(true);
        block.join_zone(zone_index(NodeId(3), ZoneKind::Movable), true, true);
        assert!(block.is_known() && block.is_populated() && block.is_offline());
        assert_eq!((block.zone_kind(), block.node()), (ZoneKind::Movable, NodeId(3)));
        block.set_offline(false);
        block.set_migratetype(MigrateType::Isolate);
        assert!(!block.is_offline() && block.plain().is_none());
        block.set_offline(true);
        block.leave_zone();
        assert!(block.is_described() && !block.is_known() && !block.is_populated());
        assert!(block.is_readable() && block.is_plugged() && block.name() == 5);
        assert_eq!((block.zone_kind(), block.node()), (ZoneKind::Movable, NodeId(3)));
        block.init_removed();
        assert!(!block.is_described() && block.is_readable());
    }
}
