//! Large pages in the way of a contiguous range, and requests that nobody helps.
#![cfg(not(miri))]

use super::disk::Disk;
use super::{CACHE, dma32, event};
use mm::host::swap::SwapDisk;
use mm::host::{Machine, pc};
use mm::page::PageType;
use mm::pressure::Pressure;
use mm::space::{HugePages, MapFlags, Prot};
use mm::types::{Order, PAGE_SIZE, Pfn, PfnRange};
use mm::zone::Mark;
use mm::{AllocError, Config, Gfp, Mm, Page, Request};

const PAGE: u64 = PAGE_SIZE as u64;
const LARGE: u64 = 512;
const RW: Prot = Prot::READ.union(Prot::WRITE);

fn machine(huge: HugePages) -> Mm<Machine> {
    let mm = pc(32, 1, &Config::default()).expect("a machine");
    mm.slab_init().expect("slab");
    mm.set_huge_pages(huge);
    mm.set_watermark_boost_factor(0);
    mm
}

fn single(gfp: Gfp) -> Request {
    Request::new(Order(0), gfp | Gfp::NOWARN)
}

/// Without a place for it as a whole a large page is taken apart, and its parts
/// move.
#[test]
fn a_large_page_moves_in_pieces_where_it_has_to() {
    let mm = machine(HugePages::Always);
    let space = mm.space_new("large").expect("a space");
    let va = mm.mmap(&space, None, 3 * LARGE * PAGE, RW, MapFlags::empty()).expect("room");
    for i in 0..3 * LARGE {
        mm.write_space(&space, va.add(i * PAGE), &i.to_ne_bytes()).expect("memory");
    }
    mm.lru_drain_all();
    let is_large = |&pfn: &Pfn| {
        mm.map().try_page(pfn).is_some_and(|page| page.head().is(PageType::Lru, Order(9)))
    };
    let at = (0..32 << 8).map(Pfn).find(is_large).expect("a large page");
    let range = PfnRange::sized(at, LARGE);
    // All else is in use, and then every second page is not: nowhere are there 512
    // together.
    let mut held: Vec<Page> =
        std::iter::from_fn(|| mm.alloc_pages(single(Gfp::MEMALLOC | Gfp::NOWAIT)).ok()).collect();
    held.sort_by_key(|page| page.pfn);
    let (give, keep): (Vec<_>, Vec<_>) = held.into_iter().partition(|page| page.pfn.0 % 2 == 0);
    give.into_iter().for_each(|page| mm.free_pages(page).expect("its own"));
    mm.drain_all(None);
    let zone = mm.zones().iter().find(|zone| zone.span().contains(at)).expect("a zone");
    assert!(zone.free_pages() > zone.mark(Mark::Low) + LARGE, "room enough, in pieces");
    let split = event(&mm, "thp_split_page");

    let got = mm.alloc_contig_range(range, Gfp::KERNEL | Gfp::RETRY_MAYFAIL);

    assert_eq!(got, Ok(range));
    assert_eq!(event(&mm, "thp_split_page"), split + 1);
    assert!(event(&mm, "thp_split_pmd") > 0);
    mm.audit().expect("whole");
    for i in 0..3 * LARGE {
        let mut bytes = [0; 8];
        mm.read_space(&space, va.add(i * PAGE), &mut bytes).expect("there");
        assert_eq!(u64::from_ne_bytes(bytes), i);
    }
    mm.free_contig_range(range).expect("its own");
    keep.into_iter().for_each(|page| mm.free_pages(page).expect("its own"));
    mm.space_put(space);
    mm.audit().expect("whole");
}

/// The parts of a large page that nobody uses go to swap in its stead, not after
/// all that is used as little and came later.
#[test]
fn the_parts_of_a_large_page_have_its_turn() {
    let mm = machine(HugePages::Always);
    let disk = Box::leak(Box::new(SwapDisk::new("/dev/disk", 4096)));
    mm.swapon(disk, None).expect("memory for its tables");
    let [old, new] = ["old", "new"].map(|name| mm.space_new(name).expect("a space"));
    let fill = |space, pages| {
        let va = mm.mmap(space, None, pages * PAGE, RW, MapFlags::empty()).expect("room");
        for i in 0..pages {
            mm.write_space(space, va.add(i * PAGE), &i.to_ne_bytes()).expect("memory");
        }
        mm.lru_drain_all();
        va
    };
    let va = fill(&old, LARGE);
    mm.set_huge_pages(HugePages::Never);
    fill(&new, 3 * LARGE);
    assert_eq!((old.huge(), new.huge()), (LARGE, 0));
    for _ in 0..1000 {
        if old.swapped() < LARGE && new.swapped() < LARGE {
            mm.reclaim_in_zone(dma32(&mm).index(), 8, Gfp::KERNEL);
        }
    }
    assert_eq!(old.swapped(), LARGE);
    assert!(new.swapped() < 64, "{} that came later went first", new.swapped());
    mm.audit().expect("whole");
    for i in 0..LARGE {
        let mut bytes = [0; 8];
        mm.read_space(&old, va.add(i * PAGE), &mut bytes).expect("there");
        assert_eq!(u64::from_ne_bytes(bytes), i);
    }
    mm.space_put(old);
    mm.space_put(new);
    mm.audit().expect("whole");
}

/// A request that may not kill, because file systems would have to help, does not
/// wait for ever for others to.
#[test]
fn who_may_not_kill_does_not_wait_for_a_murderer() {
    let mm = machine(HugePages::Never);
    let space = mm.space_new("user").expect("a space");
    let va = mm.mmap(&space, None, 1000 * PAGE, RW, MapFlags::empty()).expect("room");
    for i in 0..1000 {
        mm.write_space(&space, va.add(i * PAGE), &[7]).expect("memory");
    }
    let mut held = Vec::new();
    let why = loop {
        match mm.alloc_pages(single(Gfp::NOFS)) {
            Ok(page) => held.push(page),
            Err(why) => break why,
        }
    };
    assert_eq!(why, AllocError::NoMemory);
    assert!(!space.is_killed() && event(&mm, "oom_kill") == 0);
    // With the right to it the same request succeeds.
    held.push(mm.alloc_pages(single(Gfp::KERNEL)).expect("the user's"));
    assert!(space.is_killed());
    held.into_iter().for_each(|page| mm.free_pages(page).expect("its own"));
    mm.space_put(space);
    mm.audit().expect("whole");
}

/// Takes all there is page by page and gives every second one back, so that no
/// two lie together; returns the others.
fn shatter(mm: &Mm<Machine>) -> Vec<Page> {
    let mut held: Vec<Page> =
        std::iter::from_fn(|| mm.alloc_pages(single(Gfp::MEMALLOC | Gfp::NOWAIT)).ok()).collect();
    held.sort_by_key(|page| page.pfn);
    let (give, keep): (Vec<_>, Vec<_>) = held.into_iter().partition(|page| page.pfn.0 % 2 == 0);
    give.into_iter().for_each(|page| mm.free_pages(page).expect("its own"));
    mm.drain_all(None);
    keep
}

/// Compaction that has failed is not tried harder where nothing was reclaimed:
/// once without waiting and once with, that is all.
#[test]
fn compaction_is_not_tried_harder_where_nothing_is_reclaimed() {
    let mm = machine(HugePages::Never);
    let held = shatter(&mm);
    let got = mm.alloc_pages(Request::new(Order(1), Gfp::KERNEL | Gfp::NOWARN));
    assert_eq!(got, Err(AllocError::NoMemory));
    assert_eq!((event(&mm, "compact_stall"), event(&mm, "compact_fail")), (2, 2));
    held.into_iter().for_each(|page| mm.free_pages(page).expect("its own"));
    mm.audit().expect("whole");
}

/// Where so much is free that a large block could be made of it, no more is
/// reclaimed for one: what is missing is compaction's to give.
#[test]
fn a_large_block_is_not_reclaimed_for_where_one_could_be_made() {
    let mm = machine(HugePages::Never);
    let disk = Disk::of(&mm);
    // Too few to make room for the block by themselves.
    for block in 0..8 {
        disk.read(&mm, block, CACHE).expect("a page");
    }
    let held = shatter(&mm);
    for gfp in [Gfp::KERNEL, Gfp::KERNEL | Gfp::RETRY_MAYFAIL] {
        let before = event(&mm, "allocstall_normal");
        let got = mm.alloc_pages(Request::new(Order(4), gfp | Gfp::NOWARN));
        assert_eq!(got, Err(AllocError::NoMemory));
        assert!(event(&mm, "allocstall_normal") > before, "it was asked for");
        assert_eq!((event(&mm, "pgscan_direct"), disk.cached()), (0, 8));
    }
    held.into_iter().for_each(|page| mm.free_pages(page).expect("its own"));
    mm.audit().expect("whole");
}

/// Where compaction is never worth it by the knob, and much is free, a large block is
/// not asked for again and again: what is reclaimed comes to an end.
#[test]
fn what_compaction_would_leave_alone_is_not_asked_for_for_ever() {
    let mm = machine(HugePages::Never);
    let disk = Disk::of(&mm);
    // Too few to make room for the block by themselves.
    for block in 0..8 {
        disk.read(&mm, block, CACHE).expect("a page");
    }
    mm.lru_drain_all();
    let held = shatter(&mm);
    mm.proc_write("/proc/sys/vm/extfrag_threshold", "1000").expect("a knob");
    let gfp = Gfp::KERNEL | Gfp::RETRY_MAYFAIL | Gfp::NOWARN;
    assert_eq!(mm.alloc_pages(Request::new(Order(4), gfp)), Err(AllocError::NoMemory));
    let scanned = event(&mm, "pgscan_direct");
    assert!(disk.cached() < 8, "nothing was reclaimed of {scanned} that were looked at");
    assert_eq!(event(&mm, "pgmigrate_success"), 0, "compaction has done nothing");
    held.into_iter().for_each(|page| mm.free_pages(page).expect("its own"));
    mm.audit().expect("whole");
}
