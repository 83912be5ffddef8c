//! Large pages in the way of a contiguous range, and requests that nobody helps.
#![cfg(not(miri))]

use super::event;
use mm::host::{Machine, pc};
use mm::page::PageType;
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
