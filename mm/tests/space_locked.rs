//! Memory that is kept in memory (`mlock`): which pages, as long as which of those
//! who share them want it, and no longer.
#![cfg(all(feature = "host", not(miri)))]

use mm::host::swap::SwapDisk;
use mm::host::{Machine, pc};
use mm::lru::LruList;
use mm::mmu::VirtAddr;
use mm::space::{Advice, HugePages, MapError, MapFlags, Prot, SpaceRef};
use mm::types::{CpuId, NodeId, PAGE_SIZE};
use mm::{Config, Mm};
use std::sync::Barrier;
use std::thread;

const PAGE: u64 = PAGE_SIZE as u64;
const LARGE: u64 = 2 << 20;
const RW: Prot = Prot::READ.union(Prot::WRITE);

fn setup() -> Mm<Machine> {
    let mm = pc(64, 2, &Config::default()).expect("a machine");
    mm.slab_init().expect("slab");
    mm
}

/// A space with `len` bytes that are all written.
fn filled<'m>(mm: &'m Mm<Machine>, len: u64) -> (SpaceRef<'m>, VirtAddr) {
    let space = mm.space_new("one").expect("a space");
    let va = mm.mmap(&space, None, len, RW, MapFlags::empty()).expect("room");
    fill(mm, &space, va, len);
    (space, va)
}

fn fill(mm: &Mm<Machine>, space: &SpaceRef<'_>, va: VirtAddr, len: u64) {
    for page in 0..len / PAGE {
        mm.write_space(space, va.add(page * PAGE), &[1]).expect("mapped");
    }
}

/// Pages that are not to be reclaimed.
fn locked(mm: &Mm<Machine>) -> u64 {
    mm.lru_drain_all();
    mm.audit().expect("whole");
    mm.node_lru_pages(NodeId(0), LruList::Unevictable)
}

#[test]
fn what_one_locks_can_go_when_he_has_left_it_to_another() {
    for huge in [HugePages::Never, HugePages::Always] {
        let mm = setup();
        mm.set_huge_pages(huge);
        let (parent, va) = filled(&mm, LARGE);
        mm.mlock(&parent, va, LARGE).expect("memory");
        assert_eq!(locked(&mm), 512);
        let child = mm.space_fork(&parent, "child").expect("memory");
        assert_eq!(locked(&mm), 512, "the child has them too, and wants nothing");
        mm.munmap(&parent, va, LARGE / 2).expect("mapped");
        assert_eq!(locked(&mm), 256, "the other half is the child's alone");
        mm.space_put(parent);
        assert_eq!((locked(&mm), child.rss()), (0, 512));
        mm.space_put(child);
    }
}

#[test]
fn what_one_locks_is_his_own_page_once_he_has_written_it() {
    let mm = setup();
    mm.set_huge_pages(HugePages::Never);
    let (parent, va) = filled(&mm, 8 * PAGE);
    mm.mlock(&parent, va, 8 * PAGE).expect("memory");
    let child = mm.space_fork(&parent, "child").expect("memory");
    fill(&mm, &parent, va, 3 * PAGE);
    assert_eq!(locked(&mm), 8, "three copies, and not what the child has left of them");
    mm.space_put(child);
    mm.munlock(&parent, va, 8 * PAGE).expect("mapped");
    assert_eq!(locked(&mm), 0);
    mm.space_put(parent);
}

#[test]
fn a_hole_does_not_keep_what_is_beside_it() {
    let mm = setup();
    mm.set_huge_pages(HugePages::Never);
    let (space, va) = filled(&mm, 8 * PAGE);
    mm.mlock(&space, va, 8 * PAGE).expect("memory");
    mm.munmap(&space, va.add(3 * PAGE), PAGE).expect("mapped");
    assert_eq!(mm.munlock(&space, va, 8 * PAGE), Err(MapError::NotMapped));
    assert_eq!(locked(&mm), 0, "what is there is locked no more");
    mm.space_put(space);
}

/// Lines of the file that lists a space's regions.
fn regions(mm: &Mm<Machine>) -> usize {
    let mut text = String::new();
    mm.proc_read("/proc/one/maps", &mut text).expect("a file");
    text.lines().count()
}

#[test]
fn who_changes_his_mind_page_by_page_has_no_more_regions_for_it() {
    let mm = setup();
    mm.set_huge_pages(HugePages::Never);
    let space = mm.space_new("one").expect("a space");
    let map = |pages| mm.mmap(&space, None, pages * PAGE, RW, MapFlags::empty()).expect("room");
    let (next, va) = (map(1), map(64));
    assert_eq!(va.add(64 * PAGE), next);
    fill(&mm, &space, va, 64 * PAGE);
    let odd = |page: &u64| page % 2 == 1;
    for page in (0..64).filter(odd) {
        mm.mlock(&space, va.add(page * PAGE), PAGE).expect("memory");
    }
    assert_eq!((regions(&mm), locked(&mm)), (65, 32));
    for page in (0..64).filter(odd) {
        mm.munlock(&space, va.add(page * PAGE), PAGE).expect("mapped");
    }
    assert_eq!((regions(&mm), locked(&mm)), (2, 0));
    // Not what has never been one, nor what is not alike.
    mm.mlock(&space, va, 32 * PAGE).expect("memory");
    mm.munlock(&space, va.add(16 * PAGE), 49 * PAGE).expect("mapped");
    assert_eq!((regions(&mm), locked(&mm)), (3, 16));
    mm.munmap(&space, next, PAGE).expect("mapped");
    mm.madvise(&space, va, 64 * PAGE, Advice::NoHuge).expect("mapped");
    assert_eq!(regions(&mm), 2);
    for page in 0..64 {
        let mut byte = [0];
        mm.read_space(&space, va.add(page * PAGE), &mut byte).expect("mapped");
        assert_eq!(byte, [1]);
    }
    mm.space_put(space);
    mm.audit().expect("whole");
}

/// A page of swap that two share, one of whom has it in memory and locked: when he has
/// written it and so got one of his own, the other's can go again.
#[test]
fn what_others_have_in_swap_is_not_kept_by_who_has_left_it() {
    let mm = setup();
    mm.set_huge_pages(HugePages::Never);
    let store: &'static SwapDisk = Box::leak(Box::new(SwapDisk::new("/dev/store", 4096)));
    mm.swapon(store, None).expect("memory for its table");
    let len = 64 * PAGE;
    let (parent, va) = filled(&mm, len);
    mm.reclaim_proactively(None, 64);
    assert_eq!(parent.rss(), 0, "all is in swap");
    let child = mm.space_fork(&parent, "child").expect("memory");
    mm.mlock(&parent, va, len).expect("memory");
    assert_eq!(locked(&mm), 64);
    // Half is left to the other by writing, half by going.
    fill(&mm, &parent, va, len / 2);
    assert_eq!(locked(&mm), 64, "his own, and what he has not written");
    mm.space_put(parent);
    assert_eq!(locked(&mm), 0, "nobody has asked for it any more");
    fill(&mm, &child, va, len);
    assert_eq!(locked(&mm), 0);
    mm.space_put(child);
    mm.audit().expect("whole");
}

/// One gives a large page up that he had locked while another, who has not, has it
/// taken apart by a write: nothing of it stays locked.
#[test]
fn giving_up_against_taking_apart() {
    let mm = setup();
    mm.set_huge_pages(HugePages::Always);
    for _ in 0..200 {
        let (parent, va) = filled(&mm, LARGE);
        mm.mlock(&parent, va, LARGE).expect("memory");
        let child = mm.space_fork(&parent, "child").expect("memory");
        let start = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                mm.platform().run_on(CpuId(1));
                start.wait();
                mm.write_space(&child, va, &[2]).expect("memory");
            });
            mm.platform().run_on(CpuId(0));
            start.wait();
            mm.munmap(&parent, va, LARGE).expect("mapped");
        });
        assert_eq!(locked(&mm), 0);
        mm.space_put(parent);
        mm.space_put(child);
    }
}
