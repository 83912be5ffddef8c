//! All about each zone: `/proc/zoneinfo` (Linux mm/vmstat.c). Zones without
//! memory are there with what little there is to say of them. May call:
//! everything that counts.

use crate::lru::{LruKind, LruList};
use crate::mm::Mm;
use crate::page_stats::PageStat;
use crate::platform::Platform;
use crate::sync::{AtomicU64, Cpu, Ordering::Relaxed};
use crate::types::{CpuId, NodeId, PAGEBLOCK_PAGES, ZoneKind};
use crate::zone::{Mark, Zone};
use core::fmt;

/// CPUs that are asked for their counts at once.
const CPUS: usize = 64;

impl<P: Platform> Mm<P> {
    /// Writes `/proc/zoneinfo`.
    pub(super) fn zoneinfo(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let mut described = None;
        for zone in self.zones() {
            writeln!(out, "Node {}, zone {:>8}", zone.node.0, zone.kind.name())?;
            // The node itself, with the first of its zones that has memory.
            if zone.present() > 0 && described != Some(zone.node) {
                described = Some(zone.node);
                out.write_str("  per-node stats\n")?;
                for list in LruList::ALL {
                    counter(out, list.key(), self.node_lru_pages(zone.node, list))?;
                }
                let (reclaimable, unreclaimable) = self.slab_pages(zone.node);
                counter(out, "nr_slab_reclaimable", reclaimable)?;
                counter(out, "nr_slab_unreclaimable", unreclaimable)?;
                for (key, kind) in
                    [("nr_isolated_anon", LruKind::Anon), ("nr_isolated_file", LruKind::File)]
                {
                    counter(out, key, self.node_isolated_pages(zone.node, kind))?;
                }
                self.write_uses(zone.node, out)?;
            }
            write_sizes(zone, out)?;
            if zone.present() > 0 {
                counter(out, "nr_free_pages", zone.free_pages())?;
                for list in LruList::ALL {
                    counter(out, list.zone_key(), self.lru_pages(zone, list))?;
                }
                let pages = |what| self.zone_pages(zone, what);
                let pending = pages(PageStat::Dirty) + pages(PageStat::Writeback);
                counter(out, "nr_zone_write_pending", pending)?;
                counter(out, PageStat::Mlocked.name(), pages(PageStat::Mlocked))?;
                counter(out, "nr_free_cma", zone.free_cma_pages())?;
                self.write_pagesets(zone, out)?;
                let hopeless = u8::from(self.reclaim.is_hopeless(zone.node));
                writeln!(out, "  node_unreclaimable:  {hopeless}")?;
                writeln!(out, "  start_pfn:           {}", zone.span().start.0)?;
            }
        }
        Ok(())
    }

    /// What a node's pages are used for, as `/proc/vmstat` counts it.
    fn write_uses(&self, node: NodeId, out: &mut dyn fmt::Write) -> fmt::Result {
        let swapcached = self.node_pages(node, PageStat::SwapCached);
        for what in [
            PageStat::Anon,
            PageStat::File,
            PageStat::Dirty,
            PageStat::Writeback,
            PageStat::AnonHuge,
            PageStat::SwapCached,
        ] {
            let pages = self.node_pages(node, what);
            let shown = match what {
                PageStat::File => pages + swapcached,
                PageStat::AnonHuge => pages / PAGEBLOCK_PAGES,
                _ => pages,
            };
            counter(out, what.name(), shown)?;
        }
        Ok(())
    }

    fn write_pagesets(&self, zone: &Zone, out: &mut dyn fmt::Write) -> fmt::Result {
        out.write_str("  pagesets\n")?;
        let cpus = usize::from(self.platform.cpus());
        for first in (0..cpus).step_by(CPUS) {
            let counts = self.pcp_counts(zone, first);
            for (cpu, count) in (first..cpus).zip(&counts) {
                writeln!(out, "    cpu: {cpu}")?;
                writeln!(out, "              count: {}", count.load(Relaxed))?;
                writeln!(out, "              high:  {}", zone.pcp_high())?;
                writeln!(out, "              batch: {}", zone.pcp_batch())?;
                // Counters are exact: no CPU keeps a difference of its own.
                writeln!(out, "  vm stats threshold: 0")?;
            }
        }
        Ok(())
    }

    /// Pages on the lists of `zone` of the CPUs from `first` on.
    fn pcp_counts(&self, zone: &Zone, first: usize) -> [AtomicU64; CPUS] {
        let counts = [const { AtomicU64::new(0) }; CPUS];
        Cpu::on_each(&self.platform, &|cpu| {
            let CpuId(id) = cpu.id();
            if let Some(slot) = usize::from(id).checked_sub(first).and_then(|i| counts.get(i)) {
                // SAFETY: `cpu` is that CPU's token; the closure does not nest.
                let count = unsafe { self.pcp(cpu.id(), zone).with(|pcp| pcp.pages()) };
                slot.store(count, Relaxed);
            }
        });
        counts
    }
}

fn write_sizes(zone: &Zone, out: &mut dyn fmt::Write) -> fmt::Result {
    writeln!(out, "  pages free     {}", zone.free_pages())?;
    for (key, pages) in [
        ("boost", zone.boost()),
        ("min", zone.mark(Mark::Min)),
        ("low", zone.mark(Mark::Low)),
        ("high", zone.mark(Mark::High)),
        ("promo", zone.marks().promo + zone.boost()),
        ("spanned", zone.span().pages()),
        ("present", zone.present()),
        ("managed", zone.managed()),
        ("cma", zone.cma_pages()),
    ] {
        writeln!(out, "        {key:<8} {pages}")?;
    }
    let [dma, dma32, normal, movable] = ZoneKind::ALL.map(|class| zone.lowmem_reserve(class));
    writeln!(out, "        protection: ({dma}, {dma32}, {normal}, {movable})")
}

fn counter(out: &mut dyn fmt::Write, key: &str, value: u64) -> fmt::Result {
    writeln!(out, "      {key:<12} {value}")
}
