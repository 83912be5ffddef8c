//! Free memory that gets its descriptors when it is wanted: by whatever way it
//! is wanted, every page is handed out once and comes back, the counters count
//! it all the time, and nobody can tell the difference.
#![cfg(feature = "host")]

use mm::cma::CmaRequest;
use mm::host::{Machine, build, pc};
use mm::memmap::BlockInfo;
use mm::types::{
    CpuId, MAX_NODES, MAX_ORDER, MigrateType, NodeId, Order, PAGEBLOCK_PAGES, Pfn, PfnRange,
    ZoneKind,
};
use mm::zone::Zone;
use mm::{Config, Gfp, Mm, Page, Request};
use std::collections::BTreeSet;
use std::sync::Mutex;

/// Every page there is, by whatever right.
const ALL: Gfp = Gfp::KERNEL.union(Gfp::NOWARN).union(Gfp::NORETRY).union(Gfp::MEMALLOC);

#[track_caller]
fn audit(mm: &Mm<Machine>) {
    if !cfg!(miri) {
        mm.audit().expect("whole");
    }
}

fn machine(mib: u64, cpus: u16) -> Mm<Machine> {
    let mm = pc(mib, cpus, &Config::default()).expect("a machine");
    audit(&mm);
    mm
}

fn deferred(mm: &Mm<Machine>) -> u64 {
    mm.zones().iter().map(Zone::deferred_pages).sum()
}

/// Pageblocks with descriptors.
fn populated(mm: &Mm<Machine>) -> u64 {
    let (mut at, mut count) = (Pfn(0), 0);
    loop {
        at = mm.map().next_populated(at);
        if at >= mm.map().end() {
            return count;
        }
        count += 1;
        at = at.add(PAGEBLOCK_PAGES);
    }
}

/// Free blocks say the same as free pages, type by type or together.
fn check_counts(mm: &Mm<Machine>) {
    for zone in mm.zones() {
        let by_type: u64 = (0..)
            .zip(mm.free_blocks(zone))
            .map(|(order, types)| types.iter().map(|&n| u64::from(n) << order).sum::<u64>())
            .sum();
        assert_eq!(by_type, zone.free_pages());
        assert_eq!(mm.free_block_counts(zone).pages(), zone.free_pages());
    }
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Takes blocks of random orders until there is not even a page left.
fn exhaust(mm: &Mm<Machine>, rng: &mut Rng) -> Vec<Page> {
    let kinds = [Gfp::empty(), Gfp::MOVABLE | Gfp::HIGHMEM, Gfp::RECLAIMABLE];
    let mut held = Vec::new();
    loop {
        // What is movable may use every zone.
        let kind = [kinds[rng.below(3) as usize], kinds[1]];
        let order = Order(rng.below(11) as u8);
        let taken = kind.into_iter().find_map(|kind| {
            (0..=order.0)
                .rev()
                .find_map(|order| mm.alloc_pages(Request::new(Order(order), ALL | kind)).ok())
        });
        match taken {
            Some(page) => held.push(page),
            None => return held,
        }
    }
}

/// No page is in two blocks.
fn check_disjoint(held: &[Page]) {
    let mut all: Vec<_> = held.iter().map(|p| (p.pfn, p.pfn.add(p.order.pages()))).collect();
    all.sort_unstable();
    assert!(all.windows(2).all(|pair| pair[0].1 <= pair[1].0), "a page was handed out twice");
}

#[test]
#[cfg_attr(miri, ignore = "too large a machine")]
fn a_boot_populates_next_to_nothing() {
    let mm = machine(1024, 1);
    check_counts(&mm);
    assert_eq!(mm.free_pages_total(), mm.managed_pages());
    // What is reserved, its neighbours, and a block for each zone.
    let blocks = (1024 / 2) - deferred(&mm) / PAGEBLOCK_PAGES;
    assert_eq!(populated(&mm), blocks);
    assert!(blocks < 20, "{blocks} pageblocks are populated");
    let zone = mm.zone(NodeId(0), ZoneKind::Dma32).expect("DMA32");
    let block = Pfn(512 << 8);
    assert!(mm.map().is_deferred(block) && mm.map().try_page(block).is_none());
    assert!(mm.map().head_of(block).is_none());
    let info = mm.map().info(block).expect("RAM");
    assert_eq!((info.zone_index(), info.migratetype()), (zone.index(), MigrateType::Movable));
    // A page that nobody was given is not to be given back.
    mm.free_pages(Page { pfn: block, order: Order(0) }).expect_err("nobody has it");
    audit(&mm);
}

#[test]
#[cfg_attr(miri, ignore = "too large a machine")]
fn every_page_is_handed_out_once_and_comes_back() {
    let mm = machine(512, 1);
    let mut rng = Rng(1);
    let free = mm.free_pages_total();
    for _ in 0..2 {
        let held = exhaust(&mm, &mut rng);
        check_disjoint(&held);
        assert_eq!(held.iter().map(|page| page.order.pages()).sum::<u64>(), free);
        assert_eq!((deferred(&mm), mm.free_pages_total()), (0, 0));
        audit(&mm);
        for page in held {
            mm.free_pages(page).expect("its own");
        }
        mm.drain_all(None);
        assert_eq!(mm.free_pages_total(), free);
        check_counts(&mm);
        audit(&mm);
    }
}

/// The same requests on a machine that defers and on one that does not.
#[test]
#[cfg_attr(miri, ignore = "too large a machine")]
fn nobody_can_tell_the_difference() {
    let machines = [true, false].map(|defer| {
        let config = Config { defer, ..Config::default() };
        pc(256, 1, &config).expect("a machine")
    });
    assert_eq!(deferred(&machines[1]), 0);
    let mut rng = Rng(2);
    let mut held: Vec<Page> = Vec::new();
    for round in 0..20_000 {
        let fill = round / 2000 % 2 == 0;
        if held.is_empty() || rng.below(100) < if fill { 70 } else { 30 } {
            let kinds = [Gfp::empty(), Gfp::MOVABLE | Gfp::HIGHMEM, Gfp::RECLAIMABLE, Gfp::DMA];
            let gfp = Gfp::NOWAIT | Gfp::NOWARN | kinds[rng.below(4) as usize];
            let order = if rng.below(20) == 0 { 6 + rng.below(5) } else { rng.below(6) };
            let request = Request::new(Order(order as u8), gfp);
            let [one, other] = machines.each_ref().map(|mm| mm.alloc_pages(request));
            assert_eq!(one, other, "{request:?}, request {round}");
            held.extend(one);
        } else {
            let page = held.swap_remove(rng.below(held.len() as u64) as usize);
            machines.iter().for_each(|mm| mm.free_pages(page).expect("its own"));
        }
        let [one, other] = machines.each_ref().map(|mm| {
            let facts = |z: &Zone| (z.free_pages(), z.boost(), mm.free_blocks(z));
            mm.zones().iter().map(facts).collect::<Vec<_>>()
        });
        assert_eq!(one, other, "after request {round}");
    }
    machines.iter().for_each(audit);
}

#[test]
#[cfg_attr(miri, ignore = "too large a machine")]
fn ranges_populate_what_they_need_and_no_more() {
    let mm = machine(256, 1);
    let before = (deferred(&mm), mm.free_pages_total());
    let block = MAX_ORDER.pages();
    // Over borders, into the middle of two blocks; whole blocks; half of one.
    for (start, end, touched) in [
        (0x8000 - 7, 0x8000 + 9, 2),
        (0x9000, 0x9000 + 3 * block, 3),
        (0xa000 + 512, 0xa000 + 1024, 1),
        (0xb000 + 1, 0xb000 + 2, 1),
    ] {
        let left = deferred(&mm);
        let range = PfnRange::new(Pfn(start), Pfn(end));
        assert_eq!(mm.alloc_contig_range(range, Gfp::KERNEL), Ok(range));
        assert_eq!(deferred(&mm), left - touched * block, "{range:?}");
        audit(&mm);
        mm.free_contig_range(range).expect("its own");
        assert_eq!(mm.free_pages_total(), before.1);
        check_counts(&mm);
        audit(&mm);
    }
    // A search takes deferred blocks for free ones, and only looks at them.
    let left = deferred(&mm);
    let count = 5 * block + 3;
    let range = mm
        .alloc_contig_pages(count, Order(12), None, Pfn(0x4001), Gfp::KERNEL)
        .expect("a free range");
    assert_eq!((range.pages(), range.start), (count, Pfn(0x5000)));
    assert_eq!(deferred(&mm), left - 6 * block);
    audit(&mm);
    mm.free_contig_range(range).expect("its own");
    // All of a zone that can be had: it crosses what is populated and what not.
    let most = (0xf000 - 0x1000) / 2;
    let range = mm.alloc_contig_pages(most, Order(0), None, Pfn(0), Gfp::KERNEL).expect("half");
    audit(&mm);
    mm.free_contig_range(range).expect("its own");
    assert_eq!(mm.free_pages_total(), before.1);
    audit(&mm);
}

#[test]
#[cfg_attr(miri, ignore = "too large a machine")]
fn isolated_and_lent_memory_is_populated() {
    let mut config = Config::default();
    let request = CmaRequest { size: 18 << 20, base: None, end: None, order_per_bit: Order(0) };
    config.cma[0] = Some(request);
    let mm = pc(128, 1, &config).expect("a machine");
    audit(&mm);
    let (id, area) = mm.cma_areas().next().expect("an area");
    let range = area.range();
    for block in (range.start.0..range.end.0).step_by(PAGEBLOCK_PAGES as usize) {
        let ty = mm.map().try_block(Pfn(block)).map(BlockInfo::migratetype);
        assert_eq!(ty, Some(MigrateType::Cma));
    }
    assert!(deferred(&mm) > 0);
    let taken = mm.cma_alloc(id, range.pages(), Order(0), Gfp::KERNEL).expect("all of it");
    audit(&mm);
    mm.cma_release(id, taken).expect("its own");
    check_counts(&mm);
    audit(&mm);
}

/// Whole-zone compaction has nothing to do with deferred memory, and finds its
/// way past it in both directions.
#[test]
#[cfg_attr(miri, ignore = "too large a machine")]
fn compaction_passes_over() {
    let mm = machine(512, 1);
    let held: Vec<_> = (0..600)
        .map(|_| mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("a page"))
        .collect();
    let left = deferred(&mm);
    mm.compact_memory(None);
    assert_eq!(deferred(&mm), left);
    audit(&mm);
    for page in held {
        mm.free_pages(page).expect("its own");
    }
}

/// Halves of a block in two zones, and nodes that take turns.
#[test]
#[cfg_attr(miri, ignore = "too large a machine")]
fn borders_cut_blocks() {
    let odd = Config { movable_start: [Pfn(66 << 8); MAX_NODES], ..Config::default() };
    let mm = pc(128, 1, &odd).expect("a machine");
    audit(&mm);
    assert!(!mm.map().is_deferred(Pfn(64 << 8)) && !mm.map().is_deferred(Pfn(66 << 8)));
    assert!(mm.map().is_deferred(Pfn(72 << 8)));
    let held = exhaust(&mm, &mut Rng(3));
    check_disjoint(&held);
    assert_eq!((deferred(&mm), mm.free_pages_total()), (0, 0));
    audit(&mm);

    let machine = Machine::new(Pfn(0), Pfn(256 << 8), 1).expect("room");
    let stripe = |n: u64| PfnRange::new(Pfn((n * 10) << 8), Pfn((n * 10 + 10) << 8));
    let ram: Vec<_> = (0..25).map(|n| (stripe(n), NodeId((n % 3) as u8))).collect();
    let mm = build(machine, &ram, &Config::default()).expect("a machine");
    audit(&mm);
    let all = mm.free_pages_total();
    let held = exhaust(&mm, &mut Rng(4));
    check_disjoint(&held);
    assert_eq!(held.iter().map(|page| page.order.pages()).sum::<u64>(), all);
    assert_eq!(deferred(&mm), 0);
    audit(&mm);
}

/// What has to be written to before it is free is not put off.
#[test]
#[cfg_attr(miri, ignore = "too large a machine")]
fn scrubbed_memory_is_not_deferred() {
    let poison = Config { page_poison: true, ..Config::default() };
    let zero = Config { init_on_free: true, ..Config::default() };
    for config in [poison, zero] {
        let mm = pc(16, 1, &config).expect("a machine");
        assert_eq!(deferred(&mm), 0);
        let page = mm.alloc_pages(Request::new(Order(10), Gfp::KERNEL)).expect("a block");
        mm.free_pages(page).expect("its own");
        audit(&mm);
    }
}

#[test]
#[cfg_attr(miri, ignore = "too large a machine")]
fn cpus_populate_at_once() {
    const CPUS: u16 = 4;
    let mm = machine(1024, CPUS);
    let free = mm.free_pages_total();
    let all = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for cpu in 0..CPUS {
            let (mm, all) = (&mm, &all);
            scope.spawn(move || {
                mm.platform().run_on(CpuId(cpu));
                let mut rng = Rng(u64::from(cpu));
                let mut ranges = Vec::new();
                let mut held = Vec::new();
                for _ in 0..200 {
                    let order = Order(rng.below(11) as u8);
                    held.extend(mm.alloc_pages(Request::new(order, ALL)));
                    let start = Pfn(rng.below(mm.map().end().0));
                    let range = PfnRange::sized(start, 1 + rng.below(3000));
                    if rng.below(4) == 0 && mm.alloc_contig_range(range, Gfp::NOWAIT).is_ok() {
                        ranges.push(range);
                    }
                }
                for range in ranges {
                    mm.free_contig_range(range).expect("its own");
                }
                all.lock().expect("unharmed").append(&mut held);
            });
        }
    });
    audit(&mm);
    let mut held = all.into_inner().expect("unharmed");
    held.extend(exhaust(&mm, &mut Rng(9)));
    // What lies on the lists of other CPUs.
    mm.drain_all(None);
    held.extend(exhaust(&mm, &mut Rng(10)));
    check_disjoint(&held);
    assert_eq!(held.iter().map(|page| page.order.pages()).sum::<u64>(), free);
    assert_eq!(deferred(&mm), 0);
    audit(&mm);
    for page in held {
        mm.free_pages(page).expect("its own");
    }
    mm.drain_all(None);
    assert_eq!(mm.free_pages_total(), free);
    audit(&mm);
}

/// Small, and for Miri most of all: one CPU looks at descriptors without a lock
/// while another one's requests populate them.
#[test]
fn who_looks_without_a_lock_sees_all_or_nothing() {
    let mm = pc(if cfg!(miri) { 20 } else { 64 }, 2, &Config::default()).expect("a machine");
    let blocks = deferred(&mm) / MAX_ORDER.pages();
    assert!(blocks > 0);
    std::thread::scope(|scope| {
        let looker = scope.spawn(|| {
            mm.platform().run_on(CpuId(1));
            let mut rng = Rng(11);
            for _ in 0..if cfg!(miri) { 300 } else { 100_000 } {
                let pfn = Pfn(rng.below(mm.map().end().0));
                if let Some((head, word)) = mm.map().head_of(pfn) {
                    assert!(head <= pfn && pfn < head.add(word.order().pages()));
                }
            }
        });
        while let Ok(page) = mm.alloc_pages(Request::new(MAX_ORDER, ALL)) {
            assert!(mm.map().head_of(page.pfn.add(1000)).is_some());
        }
        looker.join().expect("no contradiction");
    });
    assert_eq!(deferred(&mm), 0);
    audit(&mm);
}

/// As large as machines come: what is not used is not touched.
#[test]
#[cfg_attr(miri, ignore = "too large a machine")]
fn two_tib() {
    for (gib, hole) in [(64, 0), (2048, 1024)] {
        let (low, high) = (Pfn(2 << 18), Pfn((gib + hole) << 18));
        let machine = Machine::new(Pfn(0), high, 2).expect("room");
        let ram = [
            (PfnRange::new(Pfn(1), Pfn(0xa0)), NodeId(0)),
            (PfnRange::new(Pfn(0x100), low), NodeId(0)),
            (PfnRange::new(Pfn(hole.max(4) << 18), high), NodeId(0)),
        ];
        let mm = build(machine, &ram, &Config::default()).expect("a machine");
        audit(&mm);
        check_counts(&mm);
        let present: u64 = mm.zones().iter().map(Zone::present).sum();
        // 32 bytes for each page, and small change.
        assert!(mm.managed_pages() > present - present / 127);
        // The map's own frames have descriptors, and hardly anything else.
        let share = present / PAGEBLOCK_PAGES / 128;
        assert!(populated(&mm) < share + 20, "{} pageblocks, {share}", populated(&mm));
        // A GiB at once, and what uses it up goes on from there.
        let gib_pages = 1 << 18;
        let range = mm
            .alloc_contig_pages(gib_pages, Order(18), None, Pfn(0), Gfp::KERNEL)
            .expect("a free GiB");
        assert!(range.start.is_aligned(Order(18)));
        let mut seen = BTreeSet::new();
        for _ in 0..2000 {
            let page = mm.alloc_pages(Request::new(Order(9), Gfp::KERNEL)).expect("a block");
            assert!(!range.contains(page.pfn) && seen.insert(page.pfn));
        }
        mm.free_contig_range(range).expect("its own");
        check_counts(&mm);
        audit(&mm);
    }
}
