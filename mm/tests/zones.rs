//! Zones of machines on which Linux has been seen to boot: the e820 lines it
//! printed, and what it made of them.

use mm::early::{EarlyMem, RamRange, Reservation};
use mm::firmware::{
    CoreSize, MAX_PFN, Map, MemoryLine, MovableSplit, RawRegion, Region, ZoneLayout, check_ram,
    parse_e820_line, populate, report_nodes, report_zones, reserve_bootloader, sanitize,
};
use mm::firmware::{DMA_END, DMA32_END, MIN_RAM_BYTES, RegionKind, Warning};
use mm::types::{MAX_ORDER, NodeId, Pfn, PfnRange, ZoneKind};
use proptest::prelude::*;

const BIOS_512M: &str = "\
BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable
BIOS-e820: [mem 0x000000000009fc00-0x000000000009ffff] reserved
BIOS-e820: [mem 0x00000000000f0000-0x00000000000fffff] reserved
BIOS-e820: [mem 0x0000000000100000-0x000000001ffdffff] usable
BIOS-e820: [mem 0x000000001ffe0000-0x000000001fffffff] reserved
BIOS-e820: [mem 0x00000000fffc0000-0x00000000ffffffff] reserved
BIOS-e820: [mem 0x000000fd00000000-0x000000ffffffffff] reserved
";

const UEFI_512M: &str = "\
BIOS-e820: [mem 0x0000000000000000-0x000000000009ffff] usable
BIOS-e820: [mem 0x0000000000100000-0x0000000000805fff] usable
BIOS-e820: [mem 0x0000000000806000-0x0000000000807fff] ACPI NVS
BIOS-e820: [mem 0x0000000000808000-0x000000000080ffff] usable
BIOS-e820: [mem 0x0000000000810000-0x00000000008fffff] ACPI NVS
BIOS-e820: [mem 0x0000000000900000-0x000000001ea9ffff] usable
BIOS-e820: [mem 0x000000001eaa0000-0x000000001eba1fff] reserved
BIOS-e820: [mem 0x000000001eba2000-0x000000001f4ebfff] usable
BIOS-e820: [mem 0x000000001f4ec000-0x000000001f76bfff] reserved
BIOS-e820: [mem 0x000000001f76c000-0x000000001f77dfff] ACPI data
BIOS-e820: [mem 0x000000001f77e000-0x000000001f7fdfff] ACPI NVS
BIOS-e820: [mem 0x000000001f7fe000-0x000000001fef3fff] usable
BIOS-e820: [mem 0x000000001fef4000-0x000000001ff77fff] reserved
BIOS-e820: [mem 0x000000001ff78000-0x000000001fffffff] ACPI NVS
BIOS-e820: [mem 0x00000000ffc00000-0x00000000ffffffff] reserved
";

const BIOS_6G: &str = "\
BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable
BIOS-e820: [mem 0x000000000009fc00-0x000000000009ffff] reserved
BIOS-e820: [mem 0x00000000000f0000-0x00000000000fffff] reserved
BIOS-e820: [mem 0x0000000000100000-0x00000000bffdffff] usable
BIOS-e820: [mem 0x00000000bffe0000-0x00000000bfffffff] reserved
BIOS-e820: [mem 0x00000000fffc0000-0x00000000ffffffff] reserved
BIOS-e820: [mem 0x0000000100000000-0x00000001bfffffff] usable
BIOS-e820: [mem 0x000000fd00000000-0x000000ffffffffff] reserved
";

const BIOS_2G: &str = "\
BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable
BIOS-e820: [mem 0x000000000009fc00-0x000000000009ffff] reserved
BIOS-e820: [mem 0x00000000000f0000-0x00000000000fffff] reserved
BIOS-e820: [mem 0x0000000000100000-0x000000007ffdffff] usable
BIOS-e820: [mem 0x000000007ffe0000-0x000000007fffffff] reserved
BIOS-e820: [mem 0x00000000fffc0000-0x00000000ffffffff] reserved
BIOS-e820: [mem 0x000000fd00000000-0x000000ffffffffff] reserved
";

fn entries(log: &str) -> Vec<RawRegion> {
    log.lines().filter_map(|l| parse_e820_line(l.as_bytes())).map(|e| e.unwrap()).collect()
}

fn with_map<R>(raw: &[RawRegion], f: impl FnOnce(&Map<'_>, &mut EarlyMem<'_>) -> R) -> R {
    let mut raw = raw.to_vec();
    let mut out = vec![Region::EMPTY; 2 * raw.len()];
    let map = sanitize(&mut raw, 52, &mut out, &mut |w| panic!("{w}"));
    let mut ram = vec![RamRange::EMPTY; 64];
    let mut reserved = vec![Reservation::EMPTY; 64];
    let mut early = EarlyMem::new(&mut ram, &mut reserved);
    assert_eq!(populate(&map, &mut early), 0);
    f(&map, &mut early)
}

/// (spanned, present) of DMA, DMA32, Normal and Movable.
fn sizes(early: &EarlyMem<'_>, layout: &ZoneLayout, node: u8) -> [(u64, u64); 4] {
    ZoneKind::ALL.map(|kind| {
        let span = layout.span(early.ram(), NodeId(node), kind);
        (span.pages(), layout.present(early.ram(), NodeId(node), kind))
    })
}

/// The same of a manager built from `early` on a simulated machine: it must
/// come to what the layout says.
#[cfg(all(feature = "host", not(miri)))]
fn built(early: &EarlyMem<'_>, layout: &ZoneLayout, node: u8) -> [(u64, u64); 4] {
    use mm::host::{Machine, build};
    let machine = Machine::new(Pfn(0), early.end_of_ram(), 1).unwrap();
    let ram: Vec<_> = early.ram().iter().map(|r| (r.range, r.node)).collect();
    let config = mm::Config { movable_start: layout.movable_starts(), ..mm::Config::default() };
    let mm = build(machine, &ram, &config).unwrap();
    mm.audit().unwrap();
    ZoneKind::ALL.map(|kind| {
        let zone = mm.zones().iter().find(|z| (z.node, z.kind) == (NodeId(node), kind)).unwrap();
        (zone.span().pages(), zone.present())
    })
}

#[cfg(not(all(feature = "host", not(miri))))]
fn built(early: &EarlyMem<'_>, layout: &ZoneLayout, node: u8) -> [(u64, u64); 4] {
    sizes(early, layout, node)
}

fn report(early: &EarlyMem<'_>, layout: &ZoneLayout) -> String {
    let mut text = String::new();
    report_zones(layout, &mut |line| text += &format!("{line}\n"));
    report_nodes(layout, early.ram(), 1, &mut |line| text += &format!("{line}\n"));
    text
}

fn golden(log: &str, split: MovableSplit, expected: [(u64, u64); 4], words: &str) {
    with_map(&entries(log), |_, early| {
        let layout = ZoneLayout::new(early.ram(), split);
        assert_eq!(sizes(early, &layout, 0), expected);
        assert_eq!(built(early, &layout, 0), expected);
        assert_eq!(report(early, &layout), words);
    });
}

#[test]
fn bios_512m() {
    golden(
        BIOS_512M,
        MovableSplit::default(),
        [(4095, 3998), (126_944, 126_944), (0, 0), (0, 0)],
        "\
Zone ranges:
  DMA      [mem 0x0000000000001000-0x0000000000ffffff]
  DMA32    [mem 0x0000000001000000-0x000000001ffdffff]
  Normal   empty
Movable zone start for each node
Early memory node ranges
  node   0: [mem 0x0000000000001000-0x000000000009efff]
  node   0: [mem 0x0000000000100000-0x000000001ffdffff]
Initmem setup node 0 [mem 0x0000000000001000-0x000000001ffdffff]
",
    );
}

#[test]
fn uefi_512m() {
    golden(
        UEFI_512M,
        MovableSplit::default(),
        [(4095, 3757), (126_708, 125_664), (0, 0), (0, 0)],
        "\
Zone ranges:
  DMA      [mem 0x0000000000001000-0x0000000000ffffff]
  DMA32    [mem 0x0000000001000000-0x000000001fef3fff]
  Normal   empty
Movable zone start for each node
Early memory node ranges
  node   0: [mem 0x0000000000001000-0x000000000009ffff]
  node   0: [mem 0x0000000000100000-0x0000000000805fff]
  node   0: [mem 0x0000000000808000-0x000000000080ffff]
  node   0: [mem 0x0000000000900000-0x000000001ea9ffff]
  node   0: [mem 0x000000001eba2000-0x000000001f4ebfff]
  node   0: [mem 0x000000001f7fe000-0x000000001fef3fff]
Initmem setup node 0 [mem 0x0000000000001000-0x000000001fef3fff]
",
    );
}

#[test]
fn bios_6g() {
    golden(
        BIOS_6G,
        MovableSplit::default(),
        [(4095, 3998), (1_044_480, 782_304), (786_432, 786_432), (0, 0)],
        "\
Zone ranges:
  DMA      [mem 0x0000000000001000-0x0000000000ffffff]
  DMA32    [mem 0x0000000001000000-0x00000000ffffffff]
  Normal   [mem 0x0000000100000000-0x00000001bfffffff]
Movable zone start for each node
Early memory node ranges
  node   0: [mem 0x0000000000001000-0x000000000009efff]
  node   0: [mem 0x0000000000100000-0x00000000bffdffff]
  node   0: [mem 0x0000000100000000-0x00000001bfffffff]
Initmem setup node 0 [mem 0x0000000000001000-0x00000001bfffffff]
",
    );
}

#[test]
fn bios_2g_movablecore_512m() {
    let split =
        MovableSplit { movablecore: Some(CoreSize::Bytes(512 << 20)), ..MovableSplit::default() };
    golden(
        BIOS_2G,
        split,
        [(4095, 3998), (389_120, 389_120), (0, 0), (131_040, 131_040)],
        "\
Zone ranges:
  DMA      [mem 0x0000000000001000-0x0000000000ffffff]
  DMA32    [mem 0x0000000001000000-0x000000007ffdffff]
  Normal   empty
Movable zone start for each node
  Node 0: 0x0000000060000000
Early memory node ranges
  node   0: [mem 0x0000000000001000-0x000000000009efff]
  node   0: [mem 0x0000000000100000-0x000000007ffdffff]
Initmem setup node 0 [mem 0x0000000000001000-0x000000007ffdffff]
",
    );
}

#[test]
fn two_nodes() {
    with_map(&entries(BIOS_2G), |_, early| {
        early.set_node(PfnRange::new(Pfn(0x40000), Pfn(0x80000)), NodeId(1));
        let layout = ZoneLayout::new(early.ram(), MovableSplit::default());
        assert_eq!(sizes(early, &layout, 0), [(4095, 3998), (258_048, 258_048), (0, 0), (0, 0)]);
        assert_eq!(sizes(early, &layout, 1), [(0, 0), (262_112, 262_112), (0, 0), (0, 0)]);
        assert_eq!(built(early, &layout, 0), sizes(early, &layout, 0));
        assert_eq!(built(early, &layout, 1), sizes(early, &layout, 1));
        assert_eq!(sizes(early, &layout, 2), [(0, 0); 4]);
        let text = report(early, &layout);
        let nodes = "\
  node   0: [mem 0x0000000000001000-0x000000000009efff]
  node   0: [mem 0x0000000000100000-0x000000003fffffff]
  node   1: [mem 0x0000000040000000-0x000000007ffdffff]
Initmem setup node 0 [mem 0x0000000000001000-0x000000003fffffff]
Initmem setup node 1 [mem 0x0000000040000000-0x000000007ffdffff]
";
        assert!(text.ends_with(nodes), "{text}");
    });
}

#[test]
fn core_memory_is_spread_over_the_nodes() {
    with_map(&entries(BIOS_2G), |_, early| {
        // Node 1 has only 64 MiB: what it cannot take of the core goes to node 0.
        early.set_node(PfnRange::new(Pfn(0x7c000), Pfn(0x80000)), NodeId(1));
        let half = MovableSplit { kernelcore: Some(CoreSize::Percent(50)), movablecore: None };
        let layout = ZoneLayout::new(early.ram(), half);
        assert_eq!(layout.movable_start(NodeId(1)), None);
        // 262079 pages of core less node 1's 16352; 158 + 3840 lie in zone DMA.
        let expected = Pfn(0x1000 + 262_079 - 16_352 - 3_998).align_up(MAX_ORDER);
        assert_eq!(layout.movable_start(NodeId(0)), Some(expected));
        assert_eq!(layout.zone_of(NodeId(0), expected), ZoneKind::Movable);
        assert_eq!(layout.zone_of(NodeId(0), Pfn(expected.0 - 1)), ZoneKind::Dma32);
        assert_eq!(layout.zone_of(NodeId(1), Pfn(0x7d000)), ZoneKind::Dma32);
        assert_eq!(layout.zone_of(NodeId(0), Pfn(DMA_END.0 - 1)), ZoneKind::Dma);
        assert_eq!(layout.zone_of(NodeId(0), DMA32_END), ZoneKind::Normal);
    });
}

#[test]
fn impossible_splits_leave_no_zone_movable() {
    with_map(&entries(BIOS_2G), |_, early| {
        for (kernelcore, movablecore) in [
            (None, Some(CoreSize::Bytes(u64::MAX))),
            (None, Some(CoreSize::Percent(100))),
            (Some(CoreSize::Percent(100)), None),
            (Some(CoreSize::Bytes(1 << 40)), Some(CoreSize::Bytes(512 << 20))),
            (Some(CoreSize::Bytes(0)), Some(CoreSize::Bytes(4095))),
        ] {
            let split = MovableSplit { kernelcore, movablecore };
            let layout = ZoneLayout::new(early.ram(), split);
            assert_eq!(layout.movable_start(NodeId(0)), None, "{split:?}");
            assert_eq!(sizes(early, &layout, 0)[3], (0, 0));
        }
        // One page of kernel core: all that zone DMA32 has is movable.
        let split = MovableSplit { kernelcore: Some(CoreSize::Bytes(4096)), movablecore: None };
        let layout = ZoneLayout::new(early.ram(), split);
        assert_eq!(layout.movable_start(NodeId(0)), Some(DMA_END));
        assert_eq!(sizes(early, &layout, 0)[1], (0, 0));
    });
}

#[test]
fn machines_that_miss_zones() {
    let ram = |start, end| RamRange { range: PfnRange::new(Pfn(start), Pfn(end)), node: NodeId(0) };
    let layout = |ram: &[RamRange]| {
        let layout = ZoneLayout::new(ram, MovableSplit::default());
        ZoneKind::ALL.map(|k| layout.range(k).map_or(0, PfnRange::pages))
    };
    assert_eq!(layout(&[]), [0; 4]);
    assert_eq!(layout(&[ram(1, 0x800)]), [0x7ff, 0, 0, 0]);
    assert_eq!(layout(&[ram(0x2000, 0x3000)]), [0, 0x1000, 0, 0]);
    assert_eq!(layout(&[ram(0x14_0000, 0x15_0000)]), [0, 0, 0x1_0000, 0]);
    assert_eq!(layout(&[ram(1, 2), ram(0x14_0000, 0x14_0001)]), [0xfff, 0xf_f000, 0x4_0001, 0]);
    // Only Normal and DMA have pages: zone DMA32 spans nothing.
    let holes = [ram(1, 2), ram(0x14_0000, 0x14_0001)];
    let spans = ZoneLayout::new(&holes, MovableSplit::default());
    assert!(spans.span(&holes, NodeId(0), ZoneKind::Dma32).is_empty());
}

#[test]
fn what_the_loader_holds_is_present_but_taken() {
    let mut raw = entries(BIOS_512M);
    raw.push(RawRegion::new(0x10_0000, 0x50_0800, RegionKind::Bootloader));
    raw[3].start = 0x50_0800;
    with_map(&raw, |map, early| {
        assert_eq!(map.ram_pages(), 0x9f + 0x1ffe0 - 0x100);
        assert_eq!(early.present_pages(), 3998 + 126_944);
        assert_eq!(early.reserved_by("boot loader"), 0x401);
        assert_eq!(early.free_pages(), 3998 + 126_944 - 0x401);
    });
    let mut ram = [RamRange::EMPTY; 4];
    let mut reserved = [Reservation::EMPTY; 4];
    let mut early = EarlyMem::new(&mut ram, &mut reserved);
    reserve_bootloader(&raw, &mut early);
    early.add_ram(PfnRange::new(Pfn(0), Pfn(0x1000)), NodeId(0));
    assert_eq!(early.reserved_by("boot loader"), 0x401);
}

#[test]
fn frame_0_and_the_hole_below_1m_are_never_present() {
    with_map(&[RawRegion::new(0, 64 << 20, RegionKind::Usable)], |map, early| {
        assert_eq!(map.ram_pages(), 0x4000);
        assert_eq!(early.present_pages(), 0x4000 - 1 - 0x60);
        assert_eq!(early.ram_pages_in(PfnRange::new(Pfn(0xa0), Pfn(0x100))), 0);
        assert_eq!(early.ram()[0].range.start, Pfn(1));
    });
}

#[test]
fn ram_beyond_the_descriptors_is_left_out() {
    let mut raw = [RawRegion::new(0, 1 << 45, RegionKind::Usable)];
    let mut out = [Region::EMPTY; 2];
    let map = sanitize(&mut raw, 52, &mut out, &mut |_: Warning| {});
    let mut ram = [RamRange::EMPTY; 4];
    let mut reserved = [Reservation::EMPTY; 4];
    let mut early = EarlyMem::new(&mut ram, &mut reserved);
    assert_eq!(populate(&map, &mut early), (1 << 33) - MAX_PFN.0);
    assert_eq!(early.end_of_ram(), MAX_PFN);
}

#[test]
fn enough_ram() {
    let least = MIN_RAM_BYTES / 4096;
    assert!(check_ram(least).is_ok());
    let error = check_ram(least - 1).unwrap_err();
    assert_eq!(error.to_string(), "too little RAM to boot: 16380K, at least 16384K are needed");
}

#[test]
fn memory_line_is_worded_as_linux_words_it() {
    let line = MemoryLine {
        available: 1_976_244,
        present: 2_096_632,
        code: 6144,
        rwdata: 1224,
        rodata: 1508,
        init: 844,
        bss: 2348,
        reserved: 52_492,
        cma: 65_536,
    };
    assert_eq!(
        line.to_string(),
        "Memory: 1976244K/2096632K available (6144K kernel code, 1224K rwdata, 1508K rodata, \
         844K init, 2348K bss, 52492K reserved, 65536K cma-reserved)"
    );
}

/// Sorted, disjoint ranges on up to three nodes, around the zones' borders.
fn ram() -> impl Strategy<Value = Vec<RamRange>> {
    let border = prop_oneof![Just(0u64), Just(DMA_END.0), Just(DMA32_END.0)];
    let frame = (border, 0..6000u64).prop_map(|(b, o)| (b + o).saturating_sub(3000));
    let cuts = prop::collection::btree_set(frame, 2..14);
    (cuts, prop::collection::vec(0..3u8, 7)).prop_map(|(cuts, nodes)| {
        let cuts: Vec<_> = cuts.into_iter().collect();
        let pairs = cuts.as_chunks::<2>().0.iter().zip(nodes);
        let range = |c: &[u64]| PfnRange::new(Pfn(c[0]), Pfn(c[1]));
        pairs.map(|(c, node)| RamRange { range: range(c), node: NodeId(node) }).collect()
    })
}

fn core_size() -> impl Strategy<Value = Option<CoreSize>> {
    prop_oneof![
        Just(None),
        (0..=100u8).prop_map(|p| Some(CoreSize::Percent(p))),
        (0..8000u64).prop_map(|pages| Some(CoreSize::Bytes(pages << 12))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 2000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Every frame of RAM is in exactly one zone, the one that the layout says;
    /// zone Movable takes from the highest zone only, and leaves the core, but
    /// for what is too little to be spread over the nodes once more.
    #[test]
    fn zones_part_the_ram(ram in ram(), kernelcore in core_size(), movablecore in core_size()) {
        let split = MovableSplit { kernelcore, movablecore };
        let layout = ZoneLayout::new(&ram, split);
        let total: u64 = ram.iter().map(|r| r.range.pages()).sum();
        let mut present = 0;
        let mut movable = 0;
        for node in (0..4).map(NodeId) {
            for kind in ZoneKind::ALL {
                let span = layout.span(&ram, node, kind);
                let pages = layout.present(&ram, node, kind);
                prop_assert!(pages <= span.pages());
                prop_assert_eq!(pages == 0, span.is_empty());
                present += pages;
                movable += if kind == ZoneKind::Movable { pages } else { 0 };
            }
            if let Some(start) = layout.movable_start(node) {
                prop_assert!(start.is_aligned(MAX_ORDER));
                prop_assert_eq!(layout.movable_starts()[node.0 as usize], start);
            }
        }
        prop_assert_eq!(present, total);
        for r in &ram {
            let middle = Pfn(r.range.start.0.midpoint(r.range.end.0));
            for pfn in [r.range.start, middle, Pfn(r.range.end.0 - 1)] {
                let kind = layout.zone_of(r.node, pfn);
                prop_assert!(layout.span(&ram, r.node, kind).contains(pfn), "{:?} {:?}", pfn, kind);
            }
        }
        let core = kernelcore.map_or(0, |size| size.pages(total));
        let rest = 2; // less than a page for each of the three nodes
        prop_assert!(movable == 0 || total - movable + rest >= core);
        if kernelcore.is_none() && movablecore.is_none() {
            prop_assert_eq!(movable, 0);
        }
    }
}
