//! Zones: where they lie, what they count, and who gets pages from which.

use super::{Ground, suite};
use crate::case::{CaseResult, Test};
use crate::hold::Block;
use crate::{check, check_eq, check_ok, skip};
use mm::memmap::zone_index;
use mm::platform::Platform;
use mm::setup::{DMA_END, DMA32_END};
use mm::types::{CpuId, NodeId, Order, Pfn, PfnRange, ZoneKind};
use mm::watermark::{DEFAULT_LOWMEM_RATIO, lowmem_reserve, marks, pcp_batch, pcp_high, pcp_large};
use mm::{Gfp, Mm, Request};

suite! {
    /// Zones.
    Zones = "zones" {
        quick spans_and_counts,
        quick marks_follow_the_formulas,
        quick cpu_lists_are_sized,
        quick requests_reach_their_zone,
        quick a_node_is_honoured,
    }
}

fn spans_and_counts<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let mut populated = 0;
    for zone in mm.zones() {
        let (span, name) = (zone.span(), zone.kind.name());
        check!(zone.managed() <= zone.present(), "{name} manages more than is present");
        check!(zone.present() <= span.pages(), "{name} has more than it spans");
        check!(zone.free_pages() <= zone.managed(), "{name} has more free than it manages");
        check!(zone.free_cma_pages() <= zone.cma_pages(), "{name} has more CMA free than CMA");
        check!(mm.pcp_pages(zone) <= zone.managed(), "{name} holds too much on CPU lists");
        let bounds = match zone.kind {
            ZoneKind::Dma => PfnRange::new(Pfn(0), DMA_END),
            ZoneKind::Dma32 => PfnRange::new(DMA_END, DMA32_END),
            ZoneKind::Normal => PfnRange::new(DMA32_END, mm.map().end()),
            ZoneKind::Movable => PfnRange::new(Pfn(0), mm.map().end()),
        };
        check_eq!(span.intersect(bounds).pages(), span.pages(), "{name} within its bounds");
        populated += u32::from(zone.managed() > 0);
    }
    check!(populated > 0, "no zone has memory");
    Ok(())
}

fn marks_follow_the_formulas<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let lowmem =
        mm.zones().iter().filter(|z| z.kind != ZoneKind::Movable).map(mm::zone::Zone::managed);
    let lowmem = lowmem.sum();
    for node in (0..mm.nodes()).map(|n| NodeId(n as u8)) {
        let zone = |kind| check_zone(mm, node, kind);
        let mut managed = [0; 4];
        for kind in ZoneKind::ALL {
            managed[kind.index()] = zone(kind)?.managed();
        }
        let reserve = lowmem_reserve(managed, DEFAULT_LOWMEM_RATIO);
        for kind in ZoneKind::ALL {
            let zone = zone(kind)?;
            let kb = mm.min_free_kbytes();
            let scale = mm.watermark_scale_factor();
            let expected = marks(kind, zone.managed(), lowmem, kb, scale);
            check_eq!(zone.marks(), expected, "{}", kind.name());
            for class in ZoneKind::ALL {
                check_eq!(
                    zone.lowmem_reserve(class),
                    reserve[kind.index()][class.index()],
                    "{} for {}",
                    kind.name(),
                    class.name()
                );
            }
        }
    }
    Ok(())
}

fn check_zone<P: Platform>(
    mm: &Mm<P>,
    node: NodeId,
    kind: ZoneKind,
) -> CaseResult<&mm::zone::Zone> {
    Ok(check_ok!(mm.zone(node, kind)))
}

fn cpu_lists_are_sized<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let (mm, platform) = (t.on.mm, t.on.mm.platform());
    for zone in mm.zones() {
        let cpus = (0..platform.cpus()).filter(|&c| platform.node_of_cpu(CpuId(c)) == zone.node);
        let cpus = match cpus.count() {
            // Where there are none, all of them come from elsewhere.
            0 => platform.cpus().into(),
            some => some as u64,
        };
        let batch = pcp_batch(zone.managed());
        check_eq!(zone.pcp_batch(), batch, "batch of {}", zone.kind.name());
        let large = pcp_large(zone.managed(), cpus);
        check_eq!(zone.pcp_large(), large, "large blocks of {}", zone.kind.name());
        let high = pcp_high(zone.marks().low, cpus, batch);
        check_eq!(zone.pcp_high(), high, "high of {}", zone.kind.name());
    }
    Ok(())
}

fn requests_reach_their_zone<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    for gfp in [
        Gfp::KERNEL | Gfp::DMA,
        Gfp::KERNEL | Gfp::DMA32,
        Gfp::KERNEL,
        Gfp::KERNEL | Gfp::MOVABLE,
        Gfp::HIGHUSER_MOVABLE,
    ] {
        let class = check_ok!(gfp.zone());
        for order in [0, 3] {
            let request = Request::new(Order(order), gfp | Gfp::NOWARN | Gfp::NORETRY);
            let Ok(block) = Block::alloc(mm, request) else { continue };
            let info = check_ok!(mm.map().try_block(block.pfn()));
            let kind = mm.zones()[info.zone_index()].kind;
            check!(kind <= class, "{gfp:?} got {:?} of {}", block.pfn(), kind.name());
            // Lower zones are for when the ones above have run dry.
            let skipped = mm.zones().iter().find(|z| {
                z.node == info.node()
                    && z.kind > kind
                    && z.kind <= class
                    && z.free_pages() > z.marks().high + z.boost() + z.lowmem_reserve(class) + 64
                    && order == 0
            });
            check!(
                skipped.is_none(),
                "{gfp:?} got {:?} of {}, with more in {:?}",
                block.pfn(),
                kind.name(),
                skipped.map(|z| z.kind.name())
            );
        }
    }
    Ok(())
}

fn a_node_is_honoured<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    if mm.nodes() == 1 {
        skip!("only one node");
    }
    for node in (0..mm.nodes()).map(|n| NodeId(n as u8)) {
        let gfp = Gfp::KERNEL | Gfp::THISNODE | Gfp::NOWARN | Gfp::NORETRY;
        let Ok(block) = Block::alloc(mm, Request::new(Order(0), gfp).on(node)) else {
            let zones = &mm.zones()[zone_index(node, ZoneKind::Dma)..][..3];
            let memory: u64 = zones.iter().map(mm::zone::Zone::free_pages).sum();
            t.note(format_args!("node {} has nothing to give of {memory}", node.0));
            continue;
        };
        check_eq!(check_ok!(mm.map().try_block(block.pfn())).node(), node);
    }
    Ok(())
}
