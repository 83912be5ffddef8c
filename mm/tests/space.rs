//! Address spaces on a simulated machine: what is mapped, faulted in, shared,
//! split and given back, and that every page's content is what was written.
#![cfg(all(feature = "host", not(miri)))]

use mm::host::{Machine, pc};
use mm::mmu::{Entry, VirtAddr};
use mm::page::PageType;
use mm::space::{Access, Advice, FaultError, HugePages, MapError, MapFlags, Prot, SpaceRef};
use mm::stats::Event;
use mm::types::{PAGE_SIZE, Pfn, PfnRange};
use mm::{Config, Gfp, Mm};

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
    mm.access(space, va, Access::Write, write)
}

/// Reads a word as a thread of the space does.
fn load(mm: &Mm<Machine>, space: &SpaceRef<'_>, va: VirtAddr) -> Result<u64, FaultError> {
    let mut word = 0;
    let read = |page: *mut u8| {
        // SAFETY: as above.
        word = unsafe { page.add((va.0 % PAGE) as usize).cast::<u64>().read() };
    };
    mm.access(space, va, Access::Read, read)?;
    Ok(word)
}

/// Free pages with nothing put by or on any CPU's list.
fn free(mm: &Mm<Machine>) -> u64 {
    mm.lru_drain_all();
    mm.shrink_groups(u64::MAX);
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

/// What the most regions at a time have needed is not kept for good.
#[test]
fn regions_that_are_gone_leave_nothing() {
    const REGIONS: u64 = 2000;
    let mm = setup(32);
    mm.set_huge_pages(HugePages::Never);
    let warm = mm.space_new("warm").expect("a space");
    let va = map(&mm, &warm, PAGE);
    assert_eq!(load(&mm, &warm, va), Ok(0));
    mm.space_put(warm);
    let before = free(&mm);
    let space = mm.space_new("one").expect("a space");
    let at = |i: u64| VirtAddr((1 << 30) + i * 3 * PAGE);
    let fixed = |i| mm.mmap(&space, Some(at(i)), PAGE, RW, MapFlags::FIXED);
    (0..REGIONS).for_each(|i| assert_eq!(fixed(i), Ok(at(i))));
    for i in (0..REGIONS).step_by(40) {
        store(&mm, &space, at(i), i).expect("mapped");
    }
    // Most go, from all over; what some of them had is used for others again.
    for i in (0..REGIONS).filter(|i| i % 40 != 0) {
        mm.munmap(&space, at(i), PAGE).expect("mapped");
    }
    for i in (0..REGIONS).filter(|i| i % 40 == 1) {
        assert_eq!(fixed(i), Ok(at(i)));
        store(&mm, &space, at(i), i).expect("mapped");
    }
    mm.shrink_groups(u64::MAX);
    mm.audit().expect("whole");
    let child = mm.space_fork(&space, "child").expect("memory");
    for i in (0..REGIONS).filter(|i| i % 40 < 2) {
        store(&mm, &space, at(i), i + 1).expect("mapped");
        assert_eq!(load(&mm, &child, at(i)), Ok(i));
    }
    mm.space_put(space);
    mm.space_put(child);
    assert_eq!(free(&mm), before);
    assert_eq!(mm.shrink_groups(u64::MAX), 0, "nothing is left to give back");
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

/// Sum of what `/proc/zoneinfo` says of nodes or zones.
fn of_zones(mm: &Mm<Machine>, key: &str) -> u64 {
    let mut text = String::new();
    mm.proc_read("/proc/zoneinfo", &mut text).expect("a file");
    let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix(key));
    let numbers = lines.filter(|rest| rest.starts_with(' '));
    numbers.map(|number| number.trim().parse::<u64>().expect("a number")).sum()
}

#[test]
fn what_pages_are_used_for_is_counted_by_zone() {
    let mm = setup(64);
    let space = mm.space_new("one").expect("a space");
    let va = map(&mm, &space, 2 * LARGE + 8 * PAGE);
    let check = |anon: u64, huge: u64, locked: u64| {
        for (key, pages) in
            [("nr_anon_pages", anon), ("nr_anon_transparent_hugepages", huge), ("nr_mlock", locked)]
        {
            assert_eq!((key, mm.vmstat_value(key)), (key, Some(pages)));
            assert_eq!((key, of_zones(&mm, key)), (key, pages));
        }
        let mut text = String::new();
        mm.proc_read("/proc/meminfo", &mut text).expect("a file");
        let kb = 4 * locked;
        assert!(text.contains(&format!("\nMlocked:{kb:>16} kB\n")), "{text}");
        mm.audit().expect("whole");
    };
    check(0, 0, 0);
    for i in 0..2 * 512 + 8 {
        store(&mm, &space, va.add(i * PAGE), i).expect("memory");
    }
    check(1032, 2, 0);
    mm.mlock(&space, va, LARGE + 4 * PAGE).expect("memory");
    let locked = mm.vmstat_value("nr_mlock").expect("a key");
    assert!(locked >= 516, "{locked}");
    check(1032, mm.vmstat_value("nr_anon_transparent_hugepages").expect("a key"), locked);
    // A part of a large page is let go of, and one page is locked no more.
    mm.munlock(&space, va, PAGE).expect("mapped");
    check(1032, mm.vmstat_value("nr_anon_transparent_hugepages").expect("a key"), locked - 1);
    // They move, and are still locked.
    mm.lru_drain_all();
    let Entry::Page(first) = mm.entry_at(&space, va.add(PAGE)) else { panic!("not mapped") };
    let block = PfnRange::sized(first.pfn.pageblock(), 512);
    mm.alloc_contig_range(block, Gfp::KERNEL).expect("room");
    let Entry::Page(moved) = mm.entry_at(&space, va.add(PAGE)) else { panic!("not mapped") };
    assert_ne!(first.pfn, moved.pfn);
    check(1032, mm.vmstat_value("nr_anon_transparent_hugepages").expect("a key"), locked - 1);
    mm.free_contig_range(block).expect("its own");
    // What goes is counted no more, though nobody has unlocked it.
    mm.munmap(&space, va.add(LARGE), LARGE + 8 * PAGE).expect("mapped");
    check(512, mm.vmstat_value("nr_anon_transparent_hugepages").expect("a key"), 511);
    mm.space_put(space);
    check(0, 0, 0);
}

/// What a zone of these machines is said to have locked, in pages.
fn locked_in(mm: &Mm<Machine>, zone: &str) -> u64 {
    let mut text = String::new();
    mm.proc_read("/proc/zoneinfo", &mut text).expect("a file");
    let from = text.find(&format!("zone {zone:>8}\n")).expect("a zone");
    let line = text[from..].lines().find(|line| line.contains("nr_mlock")).expect("a key");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

#[test]
fn what_moves_to_another_zone_is_counted_there() {
    let mm = setup(32);
    mm.set_huge_pages(HugePages::Never);
    let space = mm.space_new("one").expect("a space");
    const PAGES: u64 = 20 << 8;
    let va = map(&mm, &space, PAGES * PAGE);
    mm.mlock(&space, va, PAGES * PAGE).expect("memory");
    let low = locked_in(&mm, "DMA");
    assert!(low > 512 && low + locked_in(&mm, "DMA32") == PAGES, "{low}");
    // What was touched first lies in the zone that was best.
    mm.munmap(&space, va, PAGES / 4 * PAGE).expect("mapped");
    mm.lru_drain_all();
    mm.drain_all(None);
    let is_lru = |pfn: u64| {
        mm.map().try_page(Pfn(pfn)).is_some_and(|page| page.head().ty() == PageType::Lru)
    };
    let mut blocks = (512..4096).step_by(512);
    let full = blocks.find(|&block| (block..block + 512).all(is_lru)).expect("a block");
    let (low, high) = (locked_in(&mm, "DMA"), locked_in(&mm, "DMA32"));
    let range = PfnRange::sized(Pfn(full), 512);
    mm.alloc_contig_range(range, Gfp::KERNEL).expect("room");
    assert_eq!((locked_in(&mm, "DMA"), locked_in(&mm, "DMA32")), (low - 512, high + 512));
    mm.audit().expect("whole");
    mm.free_contig_range(range).expect("its own");
    mm.space_put(space);
    assert_eq!((locked_in(&mm, "DMA"), locked_in(&mm, "DMA32")), (0, 0));
}

/// A page's number in its group is a word.
#[test]
fn a_region_has_no_more_pages_than_can_be_numbered() {
    const MOST: u64 = 1 << 44;
    let mm = setup(64);
    let space = mm.space_new("one").expect("a space");
    assert_eq!(mm.mmap(&space, None, MOST + PAGE, RW, MapFlags::empty()), Err(MapError::NoSpace));
    for _ in 0..2 {
        let va = map(&mm, &space, MOST);
        store(&mm, &space, va, 1).expect("mapped");
        store(&mm, &space, va.add(MOST - PAGE), 2).expect("mapped");
        assert_eq!((load(&mm, &space, va), load(&mm, &space, va.add(MOST - PAGE))), (Ok(1), Ok(2)));
    }
    mm.audit().expect("whole");
    mm.space_put(space);
    mm.audit().expect("whole");
}

/// Regions come and go, of few and many pages; each new one is where there is room
/// for it highest up, whatever was known of where there is none.
#[test]
fn room_is_found_where_it_is_highest() {
    let mm = setup(64);
    let space = mm.space_new("one").expect("a space");
    let mut taken = std::collections::BTreeMap::new();
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for round in 0..3000 {
        // Runs of one length, so that there is something to be known.
        let pages = [1, 3, 512, 700][(round / 100 + usize::from(random(8) == 0)) % 4];
        if random(3) > 0 || taken.is_empty() {
            let len = pages * PAGE;
            let align = if pages >= 512 { LARGE } else { PAGE };
            let (mut end, mut at) = (1_u64 << 47, None);
            for (&start, &bytes) in taken.iter().rev() {
                at = end
                    .checked_sub(len)
                    .map(|at| at / align * align)
                    .filter(|&at| at >= start + bytes);
                if at.is_some() {
                    break;
                }
                end = start;
            }
            let at = at.unwrap_or((end - len) / align * align);
            assert_eq!(map(&mm, &space, len), VirtAddr(at), "round {round}");
            taken.insert(at, len);
        } else {
            let which = random(taken.len() as u64) as usize;
            let (&start, &bytes) = taken.iter().nth(which).expect("one of them");
            // All of it, or its first or last page.
            let (at, len) =
                [(start, bytes), (start, PAGE), (start + bytes - PAGE, PAGE)][random(3) as usize];
            mm.munmap(&space, VirtAddr(at), len).expect("mapped");
            taken.remove(&start);
            if len < bytes {
                taken.insert(if at == start { start + PAGE } else { start }, bytes - PAGE);
            }
        }
    }
    mm.audit().expect("whole");
    mm.space_put(space);
}
