//! What can be set, at boot and later: marks, reserves, what pages hold.
#![cfg(feature = "host")]

use mm::host::{Machine, build, pc};
use mm::platform::{LogLevel, Platform};
use mm::types::{MAX_NODES, NodeId, Order, PAGE_SIZE, Pfn, PfnRange, ZoneKind};
use mm::{Config, Gfp, Mm, Request};

/// Takes single pages until that is refused.
fn exhaust(mm: &Mm<Machine>, gfp: Gfp) -> Vec<Pfn> {
    let request = Request::new(Order(0), gfp | Gfp::NOWARN);
    core::iter::from_fn(|| mm.alloc_pages(request).ok()).map(|page| page.pfn).collect()
}

/// A machine whose RAM is full of rubbish when the manager gets it.
fn used_machine(config: &Config) -> Mm<Machine> {
    let end = Pfn(4 << 8);
    let machine = Machine::new(Pfn(0), end, 1).expect("room");
    for pfn in (0..end.0).map(Pfn) {
        // SAFETY: the frame is RAM and nobody else's yet.
        unsafe { machine.frame(pfn).write_bytes(0x5c, PAGE_SIZE) };
    }
    build(machine, &[(PfnRange::new(Pfn(1), end), NodeId(0))], config).expect("a machine")
}

#[test]
#[cfg_attr(miri, ignore = "looks at every byte or page")]
fn memory_that_was_never_allocated_is_poisoned_too() {
    let mm = used_machine(&Config { page_poison: true, ..Config::default() });
    assert!(!exhaust(&mm, Gfp::KERNEL | Gfp::MEMALLOC).is_empty());
    let errors = mm.platform().take_log().into_iter().filter(|l| l.0 == LogLevel::Error);
    assert_eq!(errors.count(), 0);
}

#[test]
#[cfg_attr(miri, ignore = "looks at every byte or page")]
fn memory_that_was_never_allocated_is_zeroed_too() {
    let mm = used_machine(&Config { init_on_free: true, ..Config::default() });
    for pfn in exhaust(&mm, Gfp::KERNEL | Gfp::MEMALLOC) {
        // SAFETY: the page is ours, and all of it is RAM.
        let bytes = unsafe { core::slice::from_raw_parts(mm.platform().frame(pfn), PAGE_SIZE) };
        assert!(bytes.iter().all(|&b| b == 0), "{pfn:?}");
    }
}

fn marks(mm: &Mm<Machine>) -> Vec<mm::watermark::Marks> {
    mm.zones().iter().map(mm::zone::Zone::marks).collect()
}

#[test]
fn marks_depend_on_the_knobs_alone() {
    let mm = pc(64, 1, &Config::default()).expect("a machine");
    let (kb, fresh) = (mm.min_free_kbytes(), marks(&mm));
    mm.set_min_free_kbytes(40 << 10);
    assert_eq!(mm.min_free_kbytes(), 40 << 10);
    mm.set_min_free_kbytes(0);
    assert_eq!((mm.min_free_kbytes(), marks(&mm)), (kb, fresh.clone()));
    for _ in 0..3 {
        mm.set_watermark_scale_factor(3000);
        mm.set_watermark_scale_factor(10);
    }
    assert_eq!((mm.min_free_kbytes(), marks(&mm)), (kb, fresh));
}

#[test]
#[cfg_attr(miri, ignore = "looks at every byte or page")]
fn no_number_is_too_large() {
    let config = Config { min_free_kb: Some(u64::MAX), ..Config::default() };
    let mm = pc(64, 1, &config).expect("a machine");
    mm.set_watermark_scale_factor(u32::MAX);
    mm.set_watermark_boost_factor(u32::MAX);
    assert!(exhaust(&mm, Gfp::KERNEL).is_empty(), "all is kept back");
    let all = mm.managed_pages();
    assert_eq!(exhaust(&mm, Gfp::KERNEL | Gfp::MEMALLOC).len() as u64, all);
    mm.audit().expect("whole");
}

#[test]
#[cfg_attr(miri, ignore = "looks at every byte or page")]
fn the_ratio_says_what_lower_zones_keep_back() {
    let mm = pc(256, 1, &Config::default()).expect("a machine");
    let managed = |kind| mm.zone(NodeId(0), kind).expect("a zone").managed();
    let dma = mm.zone(NodeId(0), ZoneKind::Dma).expect("a zone");
    let above = managed(ZoneKind::Dma32);
    assert_eq!(dma.lowmem_reserve(ZoneKind::Normal), above / 256);
    mm.set_lowmem_reserve_ratio([8, 256, 32, 0]);
    assert_eq!(dma.lowmem_reserve(ZoneKind::Normal), above / 8);
    exhaust(&mm, Gfp::KERNEL);
    assert_eq!(dma.free_pages(), dma.managed(), "16 MiB of 256 are kept back");
    mm.set_lowmem_reserve_ratio([0; 4]);
    assert_eq!(dma.lowmem_reserve(ZoneKind::Normal), 0);
    exhaust(&mm, Gfp::KERNEL);
    assert!(dma.free_pages() * 4 < dma.managed());
}

#[test]
fn a_node_beyond_the_tables_is_no_loss() {
    let end = Pfn(4 << 8);
    let machine = Machine::new(Pfn(0), end, 1).expect("room");
    let middle = Pfn(2 << 8);
    let ram = [
        (PfnRange::new(Pfn(1), middle), NodeId(0)),
        (PfnRange::new(middle, end), NodeId(MAX_NODES as u8)),
    ];
    let mm = build(machine, &ram, &Config::default()).expect("a machine");
    let present: u64 = mm.zones().iter().map(mm::zone::Zone::present).sum();
    assert_eq!((mm.nodes(), present), (1, end.0 - 1));
    mm.audit().expect("whole");
}
