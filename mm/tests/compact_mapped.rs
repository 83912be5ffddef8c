//! Compaction of memory as programs have it: mapped, shared, locked, in large
//! pages; with every byte right, and hardly a block short of what can be had.
#![cfg(all(feature = "host", not(miri)))]

use mm::contig::{ContigError, Reason};
use mm::host::{Machine, pc};
use mm::mmu::VirtAddr;
use mm::page::{LruFlags, PageType};
use mm::platform::Worker;
use mm::space::{Access, Advice, FaultError, HugePages, MapFlags, Prot, SpaceRef};
use mm::stats::Event;
use mm::types::{NodeId, Order, PAGE_SIZE, Pfn, PfnRange};
use mm::{Config, Gfp, Mm, Page, Request};

const PAGE: u64 = PAGE_SIZE as u64;
const BLOCK: u64 = 512;
const RW: Prot = Prot::READ.union(Prot::WRITE);

fn setup(mib: u64) -> Mm<Machine> {
    let mm = pc(mib, 2, &Config::default()).expect("a machine");
    mm.slab_init().expect("slab");
    mm.set_huge_pages(HugePages::Never);
    mm
}

fn stamp(page: u64) -> u64 {
    page.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// Writes a page's stamp as a thread of the space does, at both its ends.
fn store(mm: &Mm<Machine>, space: &SpaceRef<'_>, va: VirtAddr) -> Result<(), FaultError> {
    let write = |page: *mut u8| {
        // SAFETY: a page of the machine, which this thread alone writes.
        unsafe {
            page.cast::<u64>().write(stamp(va.page()));
            page.cast::<u64>().add(511).write(!stamp(va.page()));
        }
    };
    mm.access(space, va, Access::Write, write)
}

/// The words at both ends of a page, as a thread of the space reads them.
fn load(mm: &Mm<Machine>, space: &SpaceRef<'_>, va: VirtAddr) -> (u64, u64) {
    let mut words = (0, 0);
    let read = |page: *mut u8| {
        // SAFETY: as above.
        words = unsafe { (page.cast::<u64>().read(), page.cast::<u64>().add(511).read()) };
    };
    mm.access(space, va, Access::Read, read).expect("mapped memory");
    words
}

fn check(mm: &Mm<Machine>, space: &SpaceRef<'_>, va: VirtAddr) {
    let stamp = stamp(va.page());
    assert_eq!(load(mm, space, va), (stamp, !stamp), "{va}");
}

/// Blocks of 2 MiB that are free, and that the free pages of each zone make.
fn blocks(mm: &Mm<Machine>) -> (u64, u64) {
    let there = mm.zones().iter().map(|z| mm.free_block_counts(z).suitable(Order(9))).sum();
    (there, mm.zones().iter().map(|z| z.free_pages() / BLOCK).sum())
}

fn settle(mm: &Mm<Machine>) {
    mm.lru_drain_all();
    mm.drain_all(None);
}

/// Touches most of a machine, keeps `kept` of each `of` pages and compacts once.
fn experiment(kept: u64, of: u64) {
    let mm = setup(384);
    let space = mm.space_new("experiment").expect("a space");
    let pages = mm.free_pages_total() * 4 / 5;
    let va = mm.mmap(&space, None, pages * PAGE, RW, MapFlags::empty()).expect("room");
    let at = |page: u64| va.add(page * PAGE);
    for page in 0..pages {
        store(&mm, &space, at(page)).expect("memory");
    }
    for page in (0..pages).filter(|page| page % of >= kept) {
        mm.madvise(&space, at(page), PAGE, Advice::DontNeed).expect("mapped");
    }
    let before = blocks(&mm).0;
    let done = mm.compact_memory(None);
    settle(&mm);
    let (after, possible) = blocks(&mm);
    println!(
        "{kept} of {of} kept: {before} -> {after} of {possible} blocks, {} pages moved, {} for each block",
        done.moved,
        done.moved / (after - before).max(1),
    );
    assert!(100 * after >= 98 * possible, "{kept} of {of} kept: {after} of {possible}");
    // What is kept of a block has to go from there, and once is enough.
    let fair = 2 * BLOCK * kept / (of - kept);
    assert!(done.moved <= (after - before) * fair, "{} moved for {}", done.moved, after - before);
    for page in (0..pages).filter(|page| page % of < kept) {
        check(&mm, &space, at(page));
    }
    mm.audit().expect("sound");
    mm.space_put(space);
    mm.audit().expect("sound");
}

#[test]
fn every_second_page_kept() {
    experiment(1, 2);
}

#[test]
fn one_page_of_eight_kept() {
    experiment(1, 8);
}

#[test]
fn three_pages_of_four_kept() {
    experiment(3, 4);
}

#[test]
fn seven_pages_of_eight_kept() {
    experiment(7, 8);
}

/// A page that is mapped by itself, in a block with no page that stays.
fn mapped(mm: &Mm<Machine>) -> Pfn {
    let stays = |pfn: Pfn| {
        mm.map().try_page(pfn).is_none_or(|desc| {
            let ty = desc.head().ty();
            !matches!(ty, PageType::Lru | PageType::Buddy | PageType::Pcp | PageType::Tail)
        })
    };
    let is_mapped = |pfn: &Pfn| {
        let desc = mm.map().try_page(*pfn);
        desc.is_some_and(|desc| desc.head().is(PageType::Lru, Order(0)) && desc.mapcount() > 0)
    };
    let blocks = (0..mm.map().end().0).step_by(512);
    let pure = blocks.filter(|&block| !(block..block + BLOCK).map(Pfn).any(stays));
    let found = pure.flat_map(|block| block..block + BLOCK).map(Pfn).find(is_mapped);
    found.expect("a mapped page")
}

/// More spaces map a page than entries are stopped at a time.
#[test]
fn pages_that_many_share_move_too() {
    let mm = setup(64);
    let first = mm.space_new("first").expect("a space");
    let va = mm.mmap(&first, None, 2048 * PAGE, RW, MapFlags::empty()).expect("room");
    for page in 0..2048 {
        store(&mm, &first, va.add(page * PAGE)).expect("memory");
    }
    for page in (0..2048).step_by(2) {
        mm.madvise(&first, va.add(page * PAGE), PAGE, Advice::DontNeed).expect("mapped");
    }
    for copies in [3, 70] {
        let spaces: Vec<_> =
            (0..copies).map(|_| mm.space_fork(&first, "copy").expect("a copy")).collect();
        settle(&mm);
        let moved = mm.stats().get(Event::MigrateSuccess);
        let range = PfnRange::sized(Pfn(mapped(&mm).0 & !(BLOCK - 1)), BLOCK);
        mm.alloc_contig_range(range, Gfp::KERNEL).expect("all of it moves");
        let moved = mm.stats().get(Event::MigrateSuccess) - moved;
        assert!(moved > 0, "with {copies} copies");
        for space in spaces.iter().chain([&first]) {
            (1..2048).step_by(2).for_each(|page| check(&mm, space, va.add(page * PAGE)));
        }
        mm.audit().expect("sound");
        mm.free_contig_range(range).expect("taken above");
        spaces.into_iter().for_each(|space| mm.space_put(space));
    }
    mm.space_put(first);
    mm.audit().expect("sound");
}

/// A page that somebody looks at just now stays, and is mapped as before.
#[test]
fn a_page_in_use_stays_where_it_is() {
    let mm = setup(64);
    let space = mm.space_new("held").expect("a space");
    let va = mm.mmap(&space, None, 2048 * PAGE, RW, MapFlags::empty()).expect("room");
    for page in 0..2048 {
        store(&mm, &space, va.add(page * PAGE)).expect("memory");
    }
    settle(&mm);
    let held = mapped(&mm);
    let desc = mm.map().try_page(held).expect("there");
    assert!(desc.get_unless_zero());
    let range = PfnRange::sized(Pfn(held.0 & !(BLOCK - 1)), BLOCK);
    mm.alloc_contig_range(range, Gfp::KERNEL).expect_err("somebody uses a page of it");
    assert!(desc.head().is(PageType::Lru, Order(0)));
    settle(&mm);
    assert!(desc.head().lru().contains(LruFlags::LISTED));
    (0..2048).for_each(|page| check(&mm, &space, va.add(page * PAGE)));
    mm.put_lru(held);
    mm.alloc_contig_range(range, Gfp::KERNEL).expect("nobody does");
    (0..2048).for_each(|page| check(&mm, &space, va.add(page * PAGE)));
    mm.audit().expect("sound");
    mm.space_put(space);
}

/// Fragments a machine with pages of a space: one of eight is kept.
fn fragmented(mm: &Mm<Machine>) -> (SpaceRef<'_>, VirtAddr, u64) {
    let space = mm.space_new("pieces").expect("a space");
    let pages = mm.free_pages_total() * 9 / 10;
    let va = mm.mmap(&space, None, pages * PAGE, RW, MapFlags::empty()).expect("room");
    for page in 0..pages {
        store(mm, &space, va.add(page * PAGE)).expect("memory");
    }
    for page in (0..pages).filter(|page| page % 8 > 0) {
        mm.madvise(&space, va.add(page * PAGE), PAGE, Advice::DontNeed).expect("mapped");
    }
    settle(mm);
    (space, va, pages)
}

#[test]
fn the_background_lowers_a_high_score() {
    let mm = setup(64);
    let kcompactd = Worker::Kcompactd(NodeId(0));
    let pass = |ms: u64| mm.platform().advance_ms(ms);
    let score = || mm.node_fragmentation_score(NodeId(0));
    assert!(mm.work(kcompactd).is_some(), "it looks again");
    let (space, ..) = fragmented(&mm);
    assert!(score() > 90, "{}", score());
    // Off: nobody looks.
    mm.proc_write("/proc/sys/vm/compaction_proactiveness", "0").expect("a knob");
    pass(100_000);
    assert_eq!(mm.work(kcompactd), None);
    assert!(score() > 90);
    let woken = mm.stats().get(Event::CompactDaemonWake);
    mm.platform().take_woken();
    mm.proc_write("/proc/sys/vm/compaction_proactiveness", "20").expect("a knob");
    assert_eq!(mm.platform().take_woken(), [kcompactd]);
    assert_eq!(mm.work(kcompactd), Some(500));
    assert!(score() <= 80, "{}", score());
    let left = score();
    assert!(left > 20, "no more than it was asked for: {left}");
    // Low enough, and not before its time.
    assert_eq!(mm.work(kcompactd), Some(500));
    pass(500);
    assert_eq!(mm.work(kcompactd), Some(500));
    assert_eq!(score(), left);
    mm.proc_write("/proc/sys/vm/compaction_proactiveness", "100").expect("a knob");
    assert_eq!(mm.work(kcompactd), Some(500));
    assert!(score() <= 15, "{}", score());
    assert_eq!(mm.stats().get(Event::CompactDaemonWake), woken, "nobody has asked");
    assert!(mm.stats().get(Event::CompactDaemonMigrateScanned) > 0);
    mm.audit().expect("sound");
    mm.space_put(space);
}

#[test]
fn the_background_does_not_leave_a_score_between_for_ever() {
    let mm = setup(256);
    let kcompactd = Worker::Kcompactd(NodeId(0));
    let score = || mm.node_fragmentation_score(NodeId(0));
    let scanned = || mm.stats().get(Event::CompactDaemonMigrateScanned);
    mm.proc_write("/proc/sys/vm/compaction_proactiveness", "100").expect("a knob");
    assert_eq!(mm.work(kcompactd), Some(500));
    let space = mm.space_new("pieces").expect("a space");
    let va = mm.mmap(&space, None, 8192 * PAGE, RW, MapFlags::empty()).expect("room");
    for page in 0..8192 {
        store(&mm, &space, va.add(page * PAGE)).expect("memory");
    }
    settle(&mm);
    // The boot's own pieces are looked at once more, whatever comes of it.
    for _ in 0..4 {
        mm.platform().advance_ms(500);
        assert_eq!(mm.work(kcompactd), Some(500));
    }
    assert!(score() <= 5, "it is content: {}", score());
    for page in (0..8192).filter(|page| page % 8 > 0) {
        mm.madvise(&space, va.add(page * PAGE), PAGE, Advice::DontNeed).expect("mapped");
    }
    settle(&mm);
    let (between, before) = (score(), scanned());
    assert!((6..=15).contains(&between), "{between}");
    mm.platform().advance_ms(500);
    assert_eq!(mm.work(kcompactd), Some(500));
    assert_eq!((score(), scanned()), (between, before), "no work is begun for it at once");
    mm.platform().advance_ms(500);
    assert_eq!(mm.work(kcompactd), Some(500));
    assert!(score() <= 5, "{}", score());
    mm.audit().expect("sound");
    mm.space_put(space);
}

#[test]
fn the_background_waits_when_it_is_no_use() {
    let mm = setup(64);
    let kcompactd = Worker::Kcompactd(NodeId(0));
    let (space, va, pages) = fragmented(&mm);
    // What may not be moved stays in pieces.
    mm.proc_write("/proc/sys/vm/compact_unevictable_allowed", "0").expect("a knob");
    for page in (0..pages).step_by(8) {
        mm.mlock(&space, va.add(page * PAGE), PAGE).expect("mapped");
    }
    settle(&mm);
    assert!(mm.node_fragmentation_score(NodeId(0)) > 90);
    assert_eq!(mm.work(kcompactd), Some(500));
    let left = mm.node_fragmentation_score(NodeId(0));
    let scanned = || mm.stats().get(Event::CompactDaemonMigrateScanned);
    let waits = |periods: u32| {
        let before = scanned();
        for _ in 1..periods {
            mm.platform().advance_ms(500);
            assert_eq!(mm.work(kcompactd), Some(500));
            assert_eq!((mm.node_fragmentation_score(NodeId(0)), scanned()), (left, before));
        }
        mm.platform().advance_ms(500);
        assert_eq!(mm.work(kcompactd), Some(500));
        assert!(scanned() > before, "after {periods} periods");
    };
    // Each time twice as long, up to 32 s.
    [2, 4, 8, 16, 32, 64].into_iter().for_each(waits);
    // And whatever could be done now.
    mm.proc_write("/proc/sys/vm/compact_unevictable_allowed", "1").expect("a knob");
    waits(64);
    assert!(mm.node_fragmentation_score(NodeId(0)) <= 80);
    mm.audit().expect("sound");
    mm.space_put(space);
}

#[test]
fn the_background_does_not_wait_when_more_is_in_pieces() {
    let mm = setup(64);
    let kcompactd = Worker::Kcompactd(NodeId(0));
    let (space, va, pages) = fragmented(&mm);
    mm.proc_write("/proc/sys/vm/compact_unevictable_allowed", "0").expect("a knob");
    for page in (0..pages).step_by(8) {
        mm.mlock(&space, va.add(page * PAGE), PAGE).expect("mapped");
    }
    settle(&mm);
    assert_eq!(mm.work(kcompactd), Some(500));
    let left = mm.node_fragmentation_score(NodeId(0));
    mm.proc_write("/proc/sys/vm/compact_unevictable_allowed", "1").expect("a knob");
    let request = Request::new(Order(9), Gfp::NOWAIT | Gfp::NOWARN);
    let whole: Vec<_> = std::iter::from_fn(|| mm.alloc_pages(request).ok()).collect();
    assert!(mm.node_fragmentation_score(NodeId(0)) > left, "{left}, {} blocks", whole.len());
    mm.platform().advance_ms(500);
    assert_eq!(mm.work(kcompactd), Some(500));
    assert!(mm.node_fragmentation_score(NodeId(0)) <= 80);
    whole.into_iter().for_each(|page| mm.free_pages(page).expect("taken above"));
    mm.audit().expect("sound");
    mm.space_put(space);
}

/// A space with four large pages, and the block that one of them is.
fn large(mm: &Mm<Machine>) -> (SpaceRef<'_>, VirtAddr, PfnRange) {
    mm.set_huge_pages(HugePages::Always);
    let space = mm.space_new("large").expect("a space");
    let va = mm.mmap(&space, None, 4 * BLOCK * PAGE, RW, MapFlags::empty()).expect("room");
    (0..4 * BLOCK).for_each(|page| store(mm, &space, va.add(page * PAGE)).expect("memory"));
    assert_eq!(space.huge(), 4 * BLOCK);
    settle(mm);
    let is_large = |pfn: &Pfn| {
        mm.map().try_page(*pfn).is_some_and(|desc| desc.head().is(PageType::Lru, Order(9)))
    };
    let pfn = (0..mm.map().end().0).step_by(512).map(Pfn).find(is_large).expect("a large page");
    (space, va, PfnRange::sized(pfn, BLOCK))
}

#[test]
fn a_large_page_makes_way_as_a_whole_where_it_can() {
    let mm = setup(64);
    let (space, va, range) = large(&mm);
    mm.alloc_contig_range(range, Gfp::KERNEL).expect("what is there moves");
    assert_eq!(space.huge(), 4 * BLOCK);
    assert_eq!(mm.stats().get(Event::ThpSplitPage), 0);
    (0..4 * BLOCK).for_each(|page| check(&mm, &space, va.add(page * PAGE)));
    mm.audit().expect("sound");
    mm.free_contig_range(range).expect("taken above");
    mm.space_put(space);
}

/// Takes all blocks of 2 MiB and more; 4 MiB are free in pages. What has been taken.
fn in_pieces(mm: &Mm<Machine>) -> Vec<Page> {
    let gfp = Gfp::NOWAIT | Gfp::NOWARN;
    let page = |_| mm.alloc_pages(Request::new(Order(0), gfp)).expect("memory");
    let singles: Vec<_> = (0..2048).map(page).collect();
    let mut taken = Vec::new();
    for order in [10, 9] {
        while let Ok(page) = mm.alloc_pages(Request::new(Order(order), gfp)) {
            taken.push(page);
        }
    }
    for (i, page) in singles.into_iter().enumerate() {
        if i % 2 == 0 {
            mm.free_pages(page).expect("allocated");
        } else {
            taken.push(page);
        }
    }
    settle(mm);
    taken
}

#[test]
fn a_large_page_makes_way_in_pieces_where_it_must() {
    let mm = setup(64);
    let (space, va, range) = large(&mm);
    let rest = in_pieces(&mm);
    // One that somebody else uses just now can neither move nor be taken apart: that
    // is what is in the way, not that there is no memory.
    let desc = mm.map().try_page(range.start).expect("there");
    assert!(desc.get_unless_zero());
    match mm.alloc_contig_range(range, Gfp::KERNEL) {
        Err(ContigError::Busy(at)) => assert_eq!(at.why, Reason::InUse),
        other => panic!("{other:?}"),
    }
    mm.put_lru(range.start);
    assert_eq!(space.huge(), 4 * BLOCK);
    mm.alloc_contig_range(range, Gfp::KERNEL).expect("what is there moves");
    assert_eq!(space.huge(), 3 * BLOCK);
    assert_eq!(mm.stats().get(Event::ThpSplitPage), 1);
    (0..4 * BLOCK).for_each(|page| check(&mm, &space, va.add(page * PAGE)));
    mm.audit().expect("sound");
    mm.free_contig_range(range).expect("taken above");
    rest.into_iter().for_each(|page| mm.free_pages(page).expect("allocated"));
    mm.space_put(space);
    mm.audit().expect("sound");
}
