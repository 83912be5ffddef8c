//! What is free, by order and migratetype: `/proc/buddyinfo`,
//! `/proc/pagetypeinfo`, and the two fragmentation indices (Linux mm/vmstat.c).
//! Zones without memory are left out. May call: `buddy`, `compact::index`,
//! `memmap`.

use crate::compact::index::FreeBlocks;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::types::{
    MigrateType, NR_MIGRATETYPES, NR_ORDERS, Order, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES,
};
use crate::zone::Zone;
use core::fmt;

/// Linux counts the blocks of a list by walking it and stops here.
const MOST_COUNTED: u32 = 100_000;

impl<P: Platform> Mm<P> {
    /// The zones that have memory, node by node.
    pub(super) fn populated_zones(&self) -> impl Iterator<Item = &Zone> {
        self.zones().iter().filter(|zone| zone.present() > 0)
    }

    /// Writes `/proc/buddyinfo`. Deferred blocks count as what they are: free
    /// blocks of the largest order.
    pub(super) fn buddyinfo(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        self.populated_zones().try_for_each(|zone| {
            write_zone(out, zone)?;
            self.free_block_counts(zone).0.iter().try_for_each(|n| write!(out, "{n:>6} "))?;
            out.write_str("\n")
        })
    }

    /// Writes `/proc/pagetypeinfo`: all of it again for each node with memory.
    pub(super) fn pagetypeinfo(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        (0..self.nodes()).try_for_each(|node| self.pagetypeinfo_of(node, out))
    }

    fn pagetypeinfo_of(&self, node: usize, out: &mut dyn fmt::Write) -> fmt::Result {
        let zones = || self.populated_zones().filter(|zone| usize::from(zone.node.0) == node);
        if zones().next().is_none() {
            return Ok(());
        }
        writeln!(out, "Page block order: {PAGEBLOCK_ORDER}")?;
        writeln!(out, "Pages per block:  {PAGEBLOCK_PAGES}\n")?;
        write!(out, "{:<43} ", "Free pages count per migrate type at order")?;
        (0..NR_ORDERS).try_for_each(|order| write!(out, "{order:>6} "))?;
        out.write_str("\n")?;
        for zone in zones() {
            let blocks = self.free_blocks(zone);
            for ty in MigrateType::ALL {
                let kind = zone.kind.name();
                write!(out, "Node {node:>4}, zone {kind:>8}, type {:>12} ", ty.name())?;
                for row in &blocks {
                    let n = row[ty.index()].min(MOST_COUNTED);
                    write!(out, "{}{n:>6} ", if n == MOST_COUNTED { ">" } else { "" })?;
                }
                out.write_str("\n")?;
            }
        }
        write!(out, "\n{:<23}", "Number of blocks type ")?;
        MigrateType::ALL.iter().try_for_each(|ty| write!(out, "{:>12} ", ty.name()))?;
        out.write_str("\n")?;
        zones().try_for_each(|zone| {
            write_zone(out, zone)?;
            self.pageblocks_by_type(zone).iter().try_for_each(|n| write!(out, "{n:>12} "))?;
            out.write_str("\n")
        })
    }

    /// Writes `/sys/kernel/debug/extfrag/extfrag_index`.
    pub(super) fn extfrag_index(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        self.write_index(out, |blocks, order, out| {
            let index = blocks.fragmentation_index(order);
            // Between -1 and 0 the sign is the fraction's, as in Linux.
            write!(out, "{:>2}.{:03} ", index / 1000, index % 1000)
        })
    }

    /// Writes `/sys/kernel/debug/extfrag/unusable_index`.
    pub(super) fn unusable_index(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        self.write_index(out, |blocks, order, out| {
            let index = blocks.unusable_index(order);
            write!(out, "{}.{:03} ", index / 1000, index % 1000)
        })
    }

    fn write_index(
        &self,
        out: &mut dyn fmt::Write,
        write_one: impl Fn(&FreeBlocks, Order, &mut dyn fmt::Write) -> fmt::Result,
    ) -> fmt::Result {
        self.populated_zones().try_for_each(|zone| {
            write_zone(out, zone)?;
            let blocks = self.free_block_counts(zone);
            (0..NR_ORDERS as u8).try_for_each(|order| write_one(&blocks, Order(order), out))?;
            out.write_str("\n")
        })
    }

    /// Pageblocks of a zone by migratetype, those that it has in part too. Needs
    /// no lock: a hint on a running machine.
    pub fn pageblocks_by_type(&self, zone: &Zone) -> [u64; NR_MIGRATETYPES] {
        let mut blocks = [0; NR_MIGRATETYPES];
        for (_, info) in self.map.known_blocks(zone.span()) {
            // Zones of other nodes may lie in between.
            if info.zone_index() == zone.index() {
                blocks[info.migratetype().index()] += 1;
            }
        }
        blocks
    }
}

fn write_zone(out: &mut dyn fmt::Write, zone: &Zone) -> fmt::Result {
    write!(out, "Node {}, zone {:>8} ", zone.node.0, zone.kind.name())
}
