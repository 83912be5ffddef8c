//! Address spaces on a simulated machine: what is mapped, faulted in, shared,
//! split and given back, and that every page's content is what was written.
#![cfg(all(feature = "host", not(miri)))]

use mm::host::{Machine, pc};
use mm::mmu::VirtAddr;
use mm::space::{Access, Advice, FaultError, HugePages, MapError, MapFlags, Prot, SpaceRef};
use mm::stats::Event;
use mm::types::PAGE_SIZE;
use mm::{Config, Mm};

const PAGE: u64 = PAGE_SIZE as u64;
const LARGE: u64 = 2 << 20;
const RW: Prot = Prot::READ.union(Prot::WRITE);

fn setup(mib: u64) -> Mm<Machine> {
    let mm = pc(mib, 2, &Config::default()).expect("a machine");
    mm.slab_init().expect("slab");
    mm
}

fn map(mm: &Mm<Machine>, space: &SpaceRef<'_>, len: u64) -> VirtAddr {
    mm.mmap(space, None, len, RW, MapFlags::empty()).expect("room")
}

/// Writes a word as a thread of the space does.
fn store(
    mm: &Mm<Machine>,
    space: &SpaceRef<'_>,
    va: VirtAddr,
    word: u64,
) -> Result<(), FaultError> {
    let write = |page: *mut u8| {
        // SAFETY: within a page of the machine; the tests' threads agree on words.
        unsafe { page.add((va.0 % PAGE) as usize).cast::<u64>().write(word) };
    };
    while mm.platform().access(space.root(), va, true, write).is_err() {
        mm.fault(space, va, Access::Write)?;
    }
    Ok(())
}

/// Reads a word as a thread of the space does.
fn load(mm: &Mm<Machine>, space: &SpaceRef<'_>, va: VirtAddr) -> Result<u64, FaultError> {
    let mut word = 0;
    let mut read = |page: *mut u8| {
        // SAFETY: as above.
        word = unsafe { page.add((va.0 % PAGE) as usize).cast::<u64>().read() };
    };
    while mm.platform().access(space.root(), va, false, &mut read).is_err() {
        mm.fault(space, va, Access::Read)?;
    }
    Ok(word)
}

/// Free pages with nothing put by or on any CPU's list.
fn free(mm: &Mm<Machine>) -> u64 {
    mm.lru_drain_all();
    mm.slab_shrink();
    mm.drain_all(None);
    mm.free_pages_total()
}

#[test]
fn memory_is_zero_until_it_is_written_and_gone_when_it_is_unmapped() {
    let mm = setup(64);
    mm.set_huge_pages(HugePages::Never);
    // What stays for the next time: caches, groups, the page of zeros.
    let warm = mm.space_new("warm").expect("a space");
    let va = map(&mm, &warm, PAGE);
    assert_eq!(load(&mm, &warm, va), Ok(0));
    mm.space_put(warm);
    let before = free(&mm);
    let space = mm.space_new("one").expect("a space");
    let va = map(&mm, &space, 64 * PAGE);
    assert_eq!(space.rss(), 0);
    for i in 0..64 {
        let at = va.add(i * PAGE);
        assert_eq!(load(&mm, &space, at), Ok(0));
        assert_eq!(space.rss(), i, "reading costs nothing");
        store(&mm, &space, at, i + 1).expect("mapped");
    }
    assert_eq!(mm.stats().get(Event::PgFault), space.faults().0 + 1);
    for i in 0..64 {
        assert_eq!(load(&mm, &space, va.add(i * PAGE)), Ok(i + 1));
    }
    mm.audit().expect("whole");
    mm.munmap(&space, va.add(16 * PAGE), 16 * PAGE).expect("mapped");
    assert_eq!(space.rss(), 48);
    assert_eq!(load(&mm, &space, va.add(16 * PAGE)), Err(FaultError::NoRegion));
    assert_eq!(load(&mm, &space, va.add(15 * PAGE)), Ok(16));
    assert_eq!(load(&mm, &space, va.add(32 * PAGE)), Ok(33));
    mm.audit().expect("whole");
    mm.space_put(space);
    assert_eq!(free(&mm), before);
    mm.audit().expect("whole");
}

#[test]
fn what_a_region_does_not_allow_is_refused() {
    let mm = setup(32);
    let space = mm.space_new("one").expect("a space");
    let va = mm.mmap(&space, None, PAGE, Prot::READ, MapFlags::empty()).expect("room");
    assert_eq!(load(&mm, &space, va), Ok(0));
    assert_eq!(store(&mm, &space, va, 1), Err(FaultError::Protection));
    assert_eq!(mm.write_space(&space, va, &[1]), Err(FaultError::Protection));
    assert_eq!(load(&mm, &space, VirtAddr(0)), Err(FaultError::NoRegion));
    let fixed = mm.mmap(&space, Some(va), PAGE, RW, MapFlags::FIXED);
    assert_eq!(fixed, Err(MapError::Exists));
    assert_eq!(mm.mmap(&space, None, 0, RW, MapFlags::empty()), Err(MapError::Invalid));
    assert_eq!(mm.munmap(&space, va.add(1), PAGE), Err(MapError::Invalid));
    space.kill();
    assert_eq!(load(&mm, &space, va.add(PAGE)), Err(FaultError::NoRegion));
    mm.space_put(space);
    mm.audit().expect("whole");
}

#[test]
fn a_fork_shares_until_somebody_writes() {
    let mm = setup(64);
    mm.set_huge_pages(HugePages::Never);
    let parent = mm.space_new("parent").expect("a space");
    let va = map(&mm, &parent, 200 * PAGE);
    for i in 0..150 {
        store(&mm, &parent, va.add(i * PAGE), i).expect("mapped");
    }
    let before = free(&mm);
    let child = mm.space_fork(&parent, "child").expect("memory");
    assert_eq!((child.rss(), parent.rss()), (150, 150));
    assert!(before - free(&mm) < 20, "only tables were copied");
    mm.audit().expect("whole");
    for i in 0..150 {
        assert_eq!(load(&mm, &child, va.add(i * PAGE)), Ok(i));
    }
    for i in 0..75 {
        store(&mm, &child, va.add(i * PAGE), 1000 + i).expect("mapped");
        store(&mm, &parent, va.add((i + 75) * PAGE), 2000 + i).expect("mapped");
    }
    for i in 0..75 {
        assert_eq!(load(&mm, &parent, va.add(i * PAGE)), Ok(i));
        assert_eq!(load(&mm, &child, va.add(i * PAGE)), Ok(1000 + i));
        assert_eq!(load(&mm, &parent, va.add((i + 75) * PAGE)), Ok(2000 + i));
        assert_eq!(load(&mm, &child, va.add((i + 75) * PAGE)), Ok(75 + i));
    }
    mm.audit().expect("whole");
    mm.space_put(parent);
    mm.audit().expect("whole");
    // What is its alone now is not copied any more.
    let free_before = free(&mm);
    for i in 75..150 {
        store(&mm, &child, va.add(i * PAGE), 1).expect("mapped");
    }
    assert_eq!(free(&mm), free_before);
    mm.space_put(child);
    mm.audit().expect("whole");
}

#[test]
fn a_large_page_is_mapped_where_it_fits_and_split_where_a_part_goes() {
    let mm = setup(64);
    let space = mm.space_new("one").expect("a space");
    let va = map(&mm, &space, 3 * LARGE);
    assert_eq!(va.0 % LARGE, 0);
    store(&mm, &space, va.add(5 * PAGE), 7).expect("mapped");
    assert_eq!((space.rss(), space.huge()), (512, 512));
    assert_eq!(mm.stats().get(Event::ThpFaultAlloc), 1);
    for i in 0..512 {
        store(&mm, &space, va.add(i * PAGE), i).expect("mapped");
    }
    mm.audit().expect("whole");
    let child = mm.space_fork(&space, "child").expect("memory");
    assert_eq!(child.huge(), 512);
    mm.munmap(&space, va.add(100 * PAGE), 10 * PAGE).expect("mapped");
    assert_eq!(mm.stats().get(Event::ThpSplitPage), 1);
    assert_eq!((space.rss(), space.huge(), child.rss(), child.huge()), (502, 0, 512, 0));
    mm.audit().expect("whole");
    for i in 0..512 {
        assert_eq!(load(&mm, &child, va.add(i * PAGE)), Ok(i));
        let expected = if (100..110).contains(&i) { Err(FaultError::NoRegion) } else { Ok(i) };
        assert_eq!(load(&mm, &space, va.add(i * PAGE)), expected);
    }
    // A write to one that is shared as a whole makes a copy of the small page.
    store(&mm, &space, va.add(LARGE), 1).expect("mapped");
    let other = mm.space_fork(&space, "other").expect("memory");
    store(&mm, &other, va.add(LARGE), 2).expect("mapped");
    assert_eq!(load(&mm, &space, va.add(LARGE)), Ok(1));
    assert_eq!(mm.stats().get(Event::ThpSplitPage), 2);
    mm.audit().expect("whole");
    for space in [space, child, other] {
        mm.space_put(space);
    }
    mm.audit().expect("whole");
}

#[test]
fn advice_is_taken() {
    let mm = setup(64);
    let space = mm.space_new("one").expect("a space");
    let va = map(&mm, &space, 3 * LARGE);
    mm.munmap(&space, va.add(2 * LARGE), LARGE).expect("mapped");
    mm.madvise(&space, va, 2 * LARGE, Advice::NoHuge).expect("mapped");
    for i in 0..1024 {
        store(&mm, &space, va.add(i * PAGE), i + 1).expect("mapped");
    }
    assert_eq!(space.huge(), 0);
    mm.madvise(&space, va, LARGE, Advice::DontNeed).expect("mapped");
    assert_eq!(space.rss(), 512);
    assert_eq!(load(&mm, &space, va), Ok(0));
    mm.madvise(&space, va.add(LARGE), LARGE, Advice::Free).expect("mapped");
    assert_eq!(load(&mm, &space, va.add(LARGE)), Ok(513), "nobody needed the memory yet");
    assert_eq!(
        mm.madvise(&space, va, 3 * LARGE, Advice::DontNeed),
        Err(MapError::NotMapped),
        "beyond its end"
    );
    mm.audit().expect("whole");
    mm.mlock(&space, va, LARGE).expect("memory");
    assert_eq!(space.rss(), 512);
    assert_eq!(mm.madvise(&space, va, PAGE, Advice::DontNeed), Err(MapError::Invalid));
    mm.munlock(&space, va, LARGE).expect("mapped");
    mm.madvise(&space, va, PAGE, Advice::DontNeed).expect("not locked any more");
    mm.space_put(space);
    mm.audit().expect("whole");
}

#[test]
fn a_space_is_read_and_written_from_outside() {
    let mm = setup(64);
    let space = mm.space_new("one").expect("a space");
    let va = map(&mm, &space, LARGE + 3 * PAGE);
    let bytes: Vec<u8> = (0..3 * PAGE_SIZE).map(|i| (i % 251) as u8).collect();
    let at = va.add(LARGE - 100);
    mm.write_space(&space, at, &bytes).expect("mapped");
    let mut back = vec![0; bytes.len()];
    mm.read_space(&space, at, &mut back).expect("mapped");
    assert!(back == bytes);
    let end = mm.write_space(&space, va.add(LARGE + 2 * PAGE), &[1; 2 * PAGE_SIZE]);
    assert_eq!(end, Err(FaultError::NoRegion));
    mm.audit().expect("whole");
    mm.space_put(space);
    mm.audit().expect("whole");
}
