//! The census of pageblocks: true, and its text means the same when read back.
#![cfg(feature = "host")]

use mm::arena::MovableArena;
use mm::census::{BlockRun, Usage};
use mm::host::{Machine, build, pc};
use mm::proc::PAGEBLOCKS;
use mm::types::{MigrateType, NodeId, Order, PAGEBLOCK_PAGES, Pfn, PfnRange, ZoneKind};
use mm::zone::Zone;
use mm::{Config, Gfp, Mm, Request};
use proptest::prelude::*;

const FILE: &str = "/sys/kernel/debug/quarry/pageblocks";

fn census(mm: &Mm<Machine>) -> Vec<BlockRun> {
    let mut text = String::new();
    mm.proc_read(FILE, &mut text).expect("a census");
    let lines: Vec<&str> = text.lines().collect();
    let (Some((first, rest)), ended) = (lines.split_first(), text.ends_with('\n')) else {
        panic!("an empty file");
    };
    let (last, runs) = rest.split_last().expect("a last line");
    assert_eq!(*first, format!("{PAGEBLOCKS}512 pages each"));
    let runs: Vec<BlockRun> = runs.iter().map(|line| line.parse().expect(line)).collect();
    let blocks: u64 = runs.iter().map(BlockRun::blocks).sum();
    assert_eq!(*last, format!("{PAGEBLOCKS}end, {blocks} blocks"));
    assert!(ended);
    assert_eq!(runs, mm.pageblock_runs().collect::<Vec<_>>(), "the text says the same");
    runs
}

fn sum(runs: &[BlockRun], usage: Usage) -> u64 {
    runs.iter().map(|run| run.blocks() * run.block.pages(usage)).sum()
}

/// All pages of all zones: as many as the manager counts, where it counts.
fn agrees(mm: &Mm<Machine>) {
    let runs = census(mm);
    let free: u64 = mm.zones().iter().map(Zone::free_pages).sum();
    assert_eq!(sum(&runs, Usage::Free), free);
    assert_eq!(sum(&runs, Usage::Unsettled), 0);
    for zone in mm.zones().iter().filter(|zone| zone.present() > 0) {
        let mut types = [0; 6];
        let of_zone = |run: &&BlockRun| run.block.zone == zone.kind && run.block.node == zone.node;
        for run in runs.iter().filter(of_zone) {
            types[run.block.ty.index()] += run.blocks();
        }
        assert_eq!(types, mm.pageblocks_by_type(zone));
    }
}

#[test]
#[cfg_attr(miri, ignore = "large machines")]
fn it_counts_what_the_manager_counts() {
    let mm = pc(64, 1, &Config::default()).expect("a machine");
    mm.slab_init().expect("the slab layer");
    agrees(&mm);
    assert!(census(&mm).iter().any(|run| run.block.deferred), "nothing has been wanted yet");
    let arena = Box::leak(Box::new(MovableArena::new()));
    arena.register(&mm).expect("a place for a driver");
    let kernel = Request::new(Order(3), Gfp::KERNEL);
    let blocks: Vec<_> = (0..200).map(|_| mm.alloc_pages(kernel).expect("eight pages")).collect();
    let objects: Vec<_> = (0..600).map(|_| mm.kmalloc(512, Gfp::KERNEL).expect("memory")).collect();
    let pages: Vec<_> =
        (0..3000).map(|_| arena.alloc(&mm, Gfp::HIGHUSER_MOVABLE).expect("a page")).collect();
    mm.drain_all(None);
    agrees(&mm);
    let runs = census(&mm);
    assert_eq!(sum(&runs, Usage::Movable), 3000);
    assert!(sum(&runs, Usage::Kernel) >= 1600);
    assert!(sum(&runs, Usage::Slab) >= 600 / 8);
    let splintered = |runs: &[BlockRun]| -> u64 {
        runs.iter().map(|run| run.blocks() * run.block.splintered()).sum()
    };
    let before = splintered(&runs);
    for (i, page) in pages.into_iter().enumerate() {
        if i % 2 == 0 {
            arena.free(&mm, page).expect("freed");
        }
    }
    mm.drain_all(None);
    agrees(&mm);
    let runs = census(&mm);
    assert_eq!(sum(&runs, Usage::Movable), 1500);
    assert!(splintered(&runs) > before + 1000, "{} of {before}", splintered(&runs));
    drop((blocks, objects));
}

#[test]
#[cfg_attr(miri, ignore = "large machines")]
fn nodes_and_holes_are_told_apart() {
    let middle = Pfn(0x2000);
    let machine = Machine::new(Pfn(0), Pfn(0x8000), 1).expect("room");
    let ram = [
        (PfnRange::new(Pfn(1), Pfn(0xa0)), NodeId(0)),
        (PfnRange::new(Pfn(0x100), middle), NodeId(0)),
        (PfnRange::new(Pfn(0x4000), Pfn(0x8000)), NodeId(1)),
    ];
    let mm = build(machine, &ram, &Config::default()).expect("a machine");
    agrees(&mm);
    let runs = census(&mm);
    let at = |pfn| runs.iter().find(|run| run.range.contains(Pfn(pfn))).map(|run| run.block);
    let first = at(0).expect("the first pageblock");
    assert_eq!((first.zone, first.node), (ZoneKind::Dma, NodeId(0)));
    assert_eq!(first.pages(Usage::Hole), 0x61);
    assert_eq!(at(0x3000), None, "a hole");
    assert_eq!(
        at(0x4000).map(|block| (block.zone, block.node)),
        Some((ZoneKind::Dma32, NodeId(1)))
    );
    assert_eq!(mm.pageblock_census(Pfn(u64::MAX >> 12)), None);
}

/// A census that can be: pieces of free memory and usages that add up.
fn run() -> impl Strategy<Value = String> {
    (0..1u64 << 23, 1..1000u64, 0..16u8, 0..4usize, 0..6usize, 0..10u8, 0..513u64, any::<bool>())
        .prop_map(|(start, blocks, node, zone, ty, order, used, deferred)| {
            let range = PfnRange::sized(Pfn(start * PAGEBLOCK_PAGES), blocks * PAGEBLOCK_PAGES);
            let counts = if deferred {
                "deferred".into()
            } else {
                let piece = Order(order).pages();
                let pieces = (PAGEBLOCK_PAGES - used) / piece;
                let rest = PAGEBLOCK_PAGES - pieces * piece;
                let free = format!("free={} pieces={pieces} largest={order} ", pieces * piece);
                let kernel = format!("slab={rest}");
                match (pieces, rest) {
                    (0, _) => kernel,
                    (_, 0) => free.trim_end().into(),
                    _ => free + &kernel,
                }
            };
            format!(
                "{}-{:#x} node={node} zone={} type={} {counts}",
                range.start,
                range.end.0 - 1,
                ZoneKind::ALL[zone].name(),
                MigrateType::ALL[ty].name(),
            )
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    #[cfg_attr(miri, ignore = "many cases")]
    fn any_census_survives_its_text(line in run()) {
        prop_assert_eq!(line.parse::<BlockRun>().map(|run| run.to_string()), Ok(line));
    }

    #[test]
    #[cfg_attr(miri, ignore = "many cases")]
    fn any_text_is_read_or_refused(line in "[ -~]*", word in "[a-z]{1,9}=[0-9]{1,30}") {
        for line in [line, format!("0x0-0x1ff node=0 zone=DMA type=Movable deferred {word}")] {
            if let Ok(run) = line.parse::<BlockRun>() {
                prop_assert_eq!(run.to_string().parse::<BlockRun>(), Ok(run));
            }
        }
    }
}
