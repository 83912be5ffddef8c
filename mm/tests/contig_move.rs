//! Contiguous ranges out of memory in use: what can be moved is moved with its
//! content, what cannot is left as it was.
#![cfg(feature = "host")]

use mm::arena::{Handle, MovableArena};
use mm::contig::{ContigError, Reason};
use mm::host::{Machine, pc};
use mm::page::PageType;
use mm::types::{MigrateType, NodeId, Order, PAGEBLOCK_PAGES, Pfn, PfnRange, ZoneKind};
use mm::zone::Mark;
use mm::{Config, Gfp, Mm};

/// Under Miri the machines are small and the operations are what is watched: an
/// audit there takes longer than all of a test.
#[track_caller]
fn audit(mm: &Mm<Machine>) {
    if !cfg!(miri) {
        mm.audit().expect("whole");
    }
}

type Arena = MovableArena<Machine>;

fn setup(mib: u64) -> (Mm<Machine>, &'static Arena) {
    let mm = pc(mib, 1, &Config::default()).expect("a machine");
    let arena: &'static Arena = Box::leak(Box::default());
    arena.register(&mm).expect("room for a driver");
    (mm, arena)
}

/// Pages of an arena, each of which holds its number.
fn fill(mm: &Mm<Machine>, arena: &Arena, most: usize) -> Vec<Handle> {
    let gfp = Gfp::HIGHUSER_MOVABLE | Gfp::NOWARN;
    let mut handles = Vec::new();
    while handles.len() < most {
        let Ok(handle) = arena.alloc(mm, gfp) else { break };
        let n = handles.len() as u64;
        arena.with(mm, handle, |b| b[..8].copy_from_slice(&n.to_le_bytes())).expect("live");
        handles.push(handle);
    }
    handles
}

fn check(mm: &Mm<Machine>, arena: &Arena, handles: &[(usize, Handle)]) {
    for &(n, handle) in handles {
        let found = arena
            .with(mm, handle, |b| u64::from_le_bytes(b[..8].try_into().expect("8")))
            .expect("live");
        assert_eq!(found, n as u64);
    }
}

fn types(mm: &Mm<Machine>) -> Vec<Option<MigrateType>> {
    (0..mm.map().end().0)
        .step_by(PAGEBLOCK_PAGES as usize)
        .map(|pfn| mm.map().info(Pfn(pfn)).map(mm::memmap::BlockInfo::migratetype))
        .collect()
}

fn available(mm: &Mm<Machine>) -> u64 {
    mm.drain_all(None);
    mm.free_pages_total()
}

#[test]
#[cfg_attr(miri, ignore = "wants more memory below the VGA hole than is quick")]
fn what_moves_is_moved_with_its_content() {
    // In units of pages; miri is patient with few.
    let unit = if cfg!(miri) { 1 } else { 10 };
    let (mm, arena) = setup(if cfg!(miri) { 8 } else { 64 });
    let handles: Vec<_> = fill(&mm, arena, 300 * unit).into_iter().enumerate().collect();
    let unit = unit as u64;
    let at = |h: &(usize, Handle)| arena.frame(&mm, h.1).expect("live");
    let before = types(&mm);
    let free = available(&mm);
    let first = handles.iter().map(at).min().expect("some");
    // One page; some in a block, unaligned; over several blocks.
    for (offset, pages) in [(0, 1), (37, 11 * unit), (30 * unit, 150 * unit)] {
        let range = PfnRange::sized(first.add(offset), pages);
        assert!(handles.iter().any(|h| range.contains(at(h))));
        assert_eq!(mm.alloc_contig_range(range, Gfp::KERNEL), Ok(range));
        assert!(!handles.iter().any(|h| range.contains(at(h))));
        check(&mm, arena, &handles);
        assert_eq!(available(&mm), free - pages);
        assert_eq!(types(&mm), before);
        audit(&mm);
        mm.free_contig_range(range).expect("its own");
        assert_eq!(available(&mm), free);
        assert_eq!(types(&mm), before);
        audit(&mm);
    }
}

#[test]
#[cfg_attr(miri, ignore = "wants more memory below the VGA hole than is quick")]
fn a_pinned_page_stays_and_so_do_the_others() {
    let (mib, n) = if cfg!(miri) { (8, 200) } else { (64, 2000) };
    let (mm, arena) = setup(mib);
    let handles: Vec<_> = fill(&mm, arena, n).into_iter().enumerate().collect();
    let pinned = handles[n / 2].1;
    let pfn = arena.pin(&mm, pinned).expect("live");
    let n = n as u64;
    let range = PfnRange::sized(Pfn(pfn.0 - n / 5), n / 3);
    let before = types(&mm);
    let free = available(&mm);
    match mm.alloc_contig_range(range, Gfp::KERNEL) {
        Err(ContigError::Busy(obstacle)) => {
            assert_eq!(obstacle.pfn, pfn);
            assert_eq!(obstacle.why, Reason::InUse);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(arena.frame(&mm, pinned), Ok(pfn));
    check(&mm, arena, &handles);
    assert_eq!(types(&mm), before);
    assert_eq!(available(&mm), free);
    audit(&mm);
    arena.unpin(&mm, pinned).expect("pinned");
    mm.alloc_contig_range(range, Gfp::KERNEL).expect("movable again");
    check(&mm, arena, &handles);
    audit(&mm);
}

#[test]
#[cfg_attr(miri, ignore = "takes all of a machine page by page")]
fn a_large_range_is_found_in_scattered_memory() {
    // Half full of movable pages, no two of which touch.
    let wanted = 64 << 8;
    let (mm, arena) = setup(512);
    let all = fill(&mm, arena, usize::MAX);
    let mut kept = Vec::new();
    for (n, handle) in all.into_iter().enumerate() {
        if n % 2 == 0 {
            kept.push((n, handle));
        } else {
            arena.free(&mm, handle).expect("live");
        }
    }
    let free = available(&mm);
    // The host's allocator has left few blocks of any size.
    let range = mm
        .alloc_contig_pages(wanted, Order(0), None, Pfn(0), Gfp::KERNEL | Gfp::RETRY_MAYFAIL)
        .expect("half of the memory is free");
    assert_eq!(range.pages(), wanted);
    check(&mm, arena, &kept);
    assert_eq!(available(&mm), free - wanted);
    audit(&mm);
    mm.free_contig_range(range).expect("its own");
    for (_, handle) in kept {
        arena.free(&mm, handle).expect("live");
    }
    audit(&mm);
}

#[test]
#[cfg_attr(miri, ignore = "fills 64 MiB")]
fn pinned_pages_in_every_block_end_it_soon() {
    let (mm, arena) = setup(64);
    let handles = fill(&mm, arena, usize::MAX);
    let mut pins = vec![false; (mm.map().end().0 / PAGEBLOCK_PAGES) as usize];
    let mut kept = Vec::new();
    for (n, handle) in handles.into_iter().enumerate() {
        let pfn = arena.frame(&mm, handle).expect("live");
        let block = (pfn.0 / PAGEBLOCK_PAGES) as usize;
        if !pins[block] && pfn.0 % PAGEBLOCK_PAGES >= 200 {
            pins[block] = true;
            arena.pin(&mm, handle).expect("live");
            kept.push((n, handle));
        } else if n % 3 == 0 {
            kept.push((n, handle));
        } else {
            arena.free(&mm, handle).expect("live");
        }
    }
    let before = types(&mm);
    let free = available(&mm);
    let found = mm.alloc_contig_pages(1024, Order(0), None, Pfn(0x400), Gfp::KERNEL);
    assert!(matches!(found, Err(ContigError::Busy(_) | ContigError::NoMemory)), "{found:?}");
    // Each page that moved did so a bounded number of times.
    let moved = mm.stats().get(mm::stats::Event::MigrateSuccess);
    assert!(moved <= 2 * kept.len() as u64 + 2048, "{moved} moves");
    assert_eq!(types(&mm), before);
    assert_eq!(available(&mm), free);
    check(&mm, arena, &kept);
    audit(&mm);
}

#[test]
#[cfg_attr(miri, ignore = "fills 32 MiB")]
fn no_room_for_what_has_to_move_is_no_memory() {
    let (mm, arena) = setup(32);
    let handles: Vec<_> = fill(&mm, arena, usize::MAX).into_iter().enumerate().collect();
    let zone = mm.zone(NodeId(0), ZoneKind::Dma32).expect("DMA32");
    let (before, free) = (types(&mm), available(&mm));
    assert!(zone.free_pages() < zone.mark(Mark::Low) + 512);
    let pfn = handles
        .iter()
        .map(|h| arena.frame(&mm, h.1).expect("live"))
        .find(|p| p.pageblock() >= Pfn(0x1200))
        .expect("memory is full of them");
    let range = PfnRange::sized(pfn.pageblock(), 512);
    assert_eq!(mm.alloc_contig_range(range, Gfp::KERNEL), Err(ContigError::NoMemory));
    assert_eq!((types(&mm), available(&mm)), (before, free));
    check(&mm, arena, &handles);
    audit(&mm);
}

#[test]
fn the_range_is_contiguous_memory_and_movable_no_more() {
    let (mm, arena) = setup(32);
    let handles = fill(&mm, arena, 100);
    let pfn = arena.frame(&mm, handles[50]).expect("live");
    let range = PfnRange::sized(pfn, 1);
    mm.alloc_contig_range(range, Gfp::KERNEL).expect("it moves");
    let word = mm.map().try_page(pfn).expect("present").head();
    assert_eq!((word.ty(), word.order()), (PageType::Contig, Order(0)));
    // Nobody else gets it now.
    let again = mm.alloc_contig_range(range, Gfp::KERNEL);
    assert!(matches!(again, Err(ContigError::Busy(o)) if o.why == Reason::Unmovable));
    mm.free_contig_range(range).expect("its own");
    audit(&mm);
}
