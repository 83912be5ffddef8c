//! Address spaces: memory that is used while it is moved, taken away, shared,
//! given up and brought back. Each access looks whether it finds what was written
//! last; a page that two share is written to by one of them only.

use crate::run::explore;
use crate::stage::{Part, Play};
use mm::gfp::AllocFlags;
use mm::host::swap::SwapDisk;
use mm::list::PageList;
use mm::migrate::MigrateMode;
use mm::mmu::VirtAddr;
use mm::page::LruFlags;
use mm::platform::Platform;
use mm::pressure::{Attempt, Pressure, Relief};
use mm::rmap::Unmap;
use mm::space::{Access, Advice, FaultError, HugePages, MapError, MapFlags, Prot, SpaceRef};
use mm::types::{MigrateType, Order, PAGE_SIZE, Pfn, ZoneKind};
use mm::{Gfp, Page, Request};

const MIB: u64 = 4;
pub(crate) const PAGE: u64 = PAGE_SIZE as u64;
const RW: Prot = Prot::READ.union(Prot::WRITE);
const DISK: &str = "/dev/disk";

/// A machine on which there has been a space before, so that what the first one
/// needs for good is there; memory comes in small pages.
fn play(cpus: u16) -> Play {
    play_with(MIB, cpus)
}

pub(crate) fn play_with(mib: u64, cpus: u16) -> Play {
    let play = Play::new(mib, cpus).slab();
    play.mm.set_huge_pages(HugePages::Never);
    let (first, at) = space(&play, 1);
    assert_eq!(get(&play, &first, at), Ok(0));
    put(&play, &first, at, 1).expect("memory");
    play.mm.space_put(first);
    play.settled()
}

fn swap(play: &Play) -> &'static SwapDisk {
    let disk = &*Box::leak(Box::new(SwapDisk::new(DISK, 16)));
    play.mm.swapon(disk, None).expect("a device");
    disk
}

/// A space with that many pages to be had.
pub(crate) fn space<'m>(play: &'m Play, pages: u64) -> (SpaceRef<'m>, VirtAddr) {
    let space = play.mm.space_new("space").expect("a space");
    let at = play.mm.mmap(&space, None, pages * PAGE, RW, MapFlags::empty()).expect("room");
    (space, at)
}

/// A space whose first page holds `value`, listed.
fn holding<'m>(play: &'m Play, value: u64) -> (SpaceRef<'m>, VirtAddr) {
    let (space, at) = space(play, 1);
    put(play, &space, at, value).expect("memory");
    play.mm.lru_drain_all();
    (space, at)
}

pub(crate) fn fork<'m>(play: &'m Play, space: &SpaceRef<'m>) -> SpaceRef<'m> {
    play.mm.space_fork(space, "child").expect("memory")
}

/// Writes as a thread of the space does.
pub(crate) fn put(
    play: &Play,
    space: &SpaceRef<'_>,
    va: VirtAddr,
    value: u64,
) -> Result<(), FaultError> {
    let write = |page: *mut u8| {
        // SAFETY: a page of the space; threads are coroutines of one of the host's.
        unsafe { page.cast::<u64>().write(value) };
    };
    while !play.mm.platform().access(space.root(), va, true, write) {
        play.mm.fault(space, va, Access::Write)?;
    }
    Ok(())
}

/// Reads as a thread of the space does.
pub(crate) fn get(play: &Play, space: &SpaceRef<'_>, va: VirtAddr) -> Result<u64, FaultError> {
    let mut value = 0;
    let mut read = |page: *mut u8| {
        // SAFETY: as above.
        value = unsafe { page.cast::<u64>().read() };
    };
    while !play.mm.platform().access(space.root(), va, false, &mut read) {
        play.mm.fault(space, va, Access::Read)?;
    }
    Ok(value)
}

/// Reads and writes by turns, looking each time for what was there last.
pub(crate) fn use_it(play: &Play, space: &SpaceRef<'_>, va: VirtAddr, mut value: u64) {
    for _ in 0..2 {
        assert_eq!(get(play, space, va), Ok(value));
        value += 1;
        put(play, space, va, value).expect("memory");
    }
    assert_eq!(get(play, space, va), Ok(value));
}

/// The frame that is behind `va` now, if one is.
fn frame(play: &Play, space: &SpaceRef<'_>, va: VirtAddr) -> Option<Pfn> {
    let mut frame = None;
    let found = |page: *mut u8| frame = play.mm.platform().pfn_of(page);
    play.mm.platform().access(space.root(), va, false, found);
    frame
}

/// The page behind `va` is not kept in memory.
#[track_caller]
fn assert_can_go(play: &Play, space: &SpaceRef<'_>, va: VirtAddr) {
    let pfn = frame(play, space, va).expect("a page");
    let flags = play.mm.map().try_page(pfn).expect("a page").head().lru();
    assert!(!flags.intersects(LruFlags::MLOCKED | LruFlags::UNEVICTABLE), "{flags:?}");
}

/// Moves the page at a frame elsewhere, if it can be had.
fn move_away(play: &Play, pfn: Pfn) {
    let mm = &play.mm;
    if mm.isolate_movable(pfn, MigrateMode::Sync).is_err() {
        return;
    }
    let mut list = PageList::new();
    list.push_back(mm.map(), pfn);
    let request = Request::new(Order(0), Gfp::HIGHUSER_MOVABLE | Gfp::NOWARN);
    let mut target = || mm.alloc_pages(request).ok().map(|page| page.pfn);
    let mut unused = |pfn| mm.free_pages(Page { pfn, order: Order(0) }).expect("a held page");
    mm.migrate_pages(&mut list, &mut target, &mut unused, MigrateMode::Sync);
    mm.putback_list(&mut list);
}

/// Swaps the page at a frame out, as reclaim does, if it can be had.
fn page_out(play: &Play, pfn: Pfn) {
    let mm = &play.mm;
    if !mm.lru_isolate(pfn) {
        return;
    }
    let desc = mm.map().try_page(pfn).expect("a page");
    let anon = desc.head().lru().contains(LruFlags::ANON);
    if !anon || desc.head().lru().contains(LruFlags::UNEVICTABLE) || !desc.try_lock() {
        return mm.lru_putback(pfn);
    }
    let out = mm.swap_out(pfn, &mut |entry| {
        mm.try_unmap(pfn, Unmap::Swap(entry));
    });
    desc.unlock();
    if out.is_ok() {
        mm.lru_end_isolation(pfn);
        desc.set_count(1);
        mm.put_lru(pfn);
    } else {
        mm.lru_putback(pfn);
    }
}

/// Reclaims what there is to be had.
pub(crate) fn reclaim(play: &Play) {
    let zone = play.mm.zones().iter().find(|zone| zone.managed() > 0).expect("a zone");
    play.mm.reclaim_in_zone(zone.index(), 8, Gfp::KERNEL);
}

/// Nothing is left of these spaces.
pub(crate) fn end<'m>(play: &'m Play, spaces: impl IntoIterator<Item = SpaceRef<'m>>) {
    play.mm.audit().expect("whole");
    for space in spaces {
        play.mm.space_put(space);
    }
    play.mm.lru_drain_all();
    if play.mm.swap_totals().total > 0 {
        play.mm.swapoff(DISK).expect("nothing on it");
    }
    play.end();
}

#[test]
fn a_fault_against_a_move() {
    explore(|| {
        let play = play(2);
        let (space, at) = holding(&play, 7);
        let pfn = frame(&play, &space, at).expect("a page");
        let program = || use_it(&play, &space, at, 7);
        let mover = || move_away(&play, pfn);
        play.act([Box::new(program) as Part<'_>, Box::new(mover)]);
        assert_eq!(get(&play, &space, at), Ok(9));
        end(&play, [space]);
    });
}

/// Whoever may only read keeps what it has, whenever the other one writes.
#[test]
fn a_shared_page_is_written_while_it_moves() {
    explore(|| {
        let play = play(3);
        let (parent, at) = holding(&play, 7);
        let child = fork(&play, &parent);
        let pfn = frame(&play, &parent, at).expect("a page");
        let writer = || use_it(&play, &parent, at, 7);
        let reader = || {
            for _ in 0..3 {
                assert_eq!(get(&play, &child, at), Ok(7));
            }
        };
        let mover = || move_away(&play, pfn);
        play.act([Box::new(writer) as Part<'_>, Box::new(mover), Box::new(reader)]);
        assert_eq!((get(&play, &parent, at), get(&play, &child, at)), (Ok(9), Ok(7)));
        end(&play, [parent, child]);
    });
}

#[test]
fn two_write_to_a_shared_page_that_moves() {
    explore(|| {
        let play = play(3);
        let (parent, at) = holding(&play, 7);
        let child = fork(&play, &parent);
        let pfn = frame(&play, &parent, at).expect("a page");
        let one = || use_it(&play, &parent, at, 7);
        let other = || use_it(&play, &child, at, 7);
        let mover = || move_away(&play, pfn);
        play.act([Box::new(one) as Part<'_>, Box::new(mover), Box::new(other)]);
        assert_eq!((get(&play, &parent, at), get(&play, &child, at)), (Ok(9), Ok(9)));
        end(&play, [parent, child]);
    });
}

#[test]
fn a_fault_against_a_page_out() {
    explore(|| {
        let play = play(2);
        swap(&play);
        let (space, at) = holding(&play, 7);
        let pfn = frame(&play, &space, at).expect("a page");
        let program = || use_it(&play, &space, at, 7);
        let reclaimer = || {
            page_out(&play, pfn);
            page_out(&play, pfn);
        };
        play.act([Box::new(program) as Part<'_>, Box::new(reclaimer)]);
        assert_eq!(get(&play, &space, at), Ok(9));
        end(&play, [space]);
    });
}

#[test]
fn a_fork_against_a_page_out() {
    explore(|| {
        let play = play(3);
        swap(&play);
        let (parent, at) = holding(&play, 7);
        let pfn = frame(&play, &parent, at).expect("a page");
        let forker = || {
            let child = fork(&play, &parent);
            assert_eq!(get(&play, &child, at), Ok(7));
            put(&play, &child, at, 8).expect("memory");
            assert_eq!(get(&play, &child, at), Ok(8));
            play.mm.space_put(child);
        };
        let reader = || assert_eq!(get(&play, &parent, at), Ok(7));
        let reclaimer = || page_out(&play, pfn);
        play.act([Box::new(forker) as Part<'_>, Box::new(reclaimer), Box::new(reader)]);
        assert_eq!(get(&play, &parent, at), Ok(7));
        end(&play, [parent]);
    });
}

/// A thread goes on writing while its space is copied, and the copy is of one
/// moment; what is copied is moved meanwhile.
#[test]
fn a_fork_against_a_write_and_a_move() {
    explore(|| {
        let play = play(3);
        let (parent, at) = holding(&play, 7);
        let pfn = frame(&play, &parent, at).expect("a page");
        let writer = || use_it(&play, &parent, at, 7);
        let forker = || {
            let child = fork(&play, &parent);
            let seen = get(&play, &child, at).expect("memory");
            assert!((7..=9).contains(&seen));
            assert_eq!(get(&play, &child, at), Ok(seen), "it changes still");
            play.mm.space_put(child);
        };
        let mover = || move_away(&play, pfn);
        play.act([Box::new(writer) as Part<'_>, Box::new(forker), Box::new(mover)]);
        assert_eq!(get(&play, &parent, at), Ok(9));
        end(&play, [parent]);
    });
}

#[test]
fn an_unmapping_against_a_move_and_a_page_out() {
    explore(|| {
        let play = play(3);
        swap(&play);
        let (space, at) = holding(&play, 7);
        let pfn = frame(&play, &space, at).expect("a page");
        let owner = || {
            play.mm.munmap(&space, at, PAGE).expect("mapped");
            assert_eq!(get(&play, &space, at), Err(FaultError::NoRegion));
        };
        let mover = || move_away(&play, pfn);
        let reclaimer = || page_out(&play, pfn);
        play.act([Box::new(owner) as Part<'_>, Box::new(mover), Box::new(reclaimer)]);
        assert_eq!((space.rss(), space.swapped()), (0, 0));
        end(&play, [space]);
    });
}

#[test]
fn a_swap_in_against_swapping_off() {
    explore(|| {
        let play = play(2);
        swap(&play);
        let (parent, at) = holding(&play, 7);
        let child = fork(&play, &parent);
        page_out(&play, frame(&play, &parent, at).expect("a page"));
        assert_eq!((parent.swapped(), child.swapped()), (1, 1));
        let program = || use_it(&play, &parent, at, 7);
        let off = || play.mm.swapoff(DISK).expect("memory for all");
        play.act([Box::new(program) as Part<'_>, Box::new(off)]);
        assert_eq!((parent.swapped(), child.swapped()), (0, 0));
        assert_eq!((get(&play, &parent, at), get(&play, &child, at)), (Ok(9), Ok(7)));
        end(&play, [parent, child]);
    });
}

/// A fork of what is in swap, of which the device goes.
#[test]
fn a_fork_against_swapping_off() {
    explore(|| {
        let play = play(2);
        swap(&play);
        let (parent, at) = holding(&play, 7);
        page_out(&play, frame(&play, &parent, at).expect("a page"));
        let forker = || {
            let child = fork(&play, &parent);
            assert_eq!(get(&play, &child, at), Ok(7));
            play.mm.space_put(child);
        };
        let off = || play.mm.swapoff(DISK).expect("memory for all");
        play.act([Box::new(forker) as Part<'_>, Box::new(off)]);
        assert_eq!(parent.swapped(), 0);
        assert_eq!(get(&play, &parent, at), Ok(7));
        end(&play, [parent]);
    });
}

/// What is not needed goes, unless it is written again: then all of that stays.
#[test]
fn giving_up_and_writing_against_reclaim() {
    explore(|| {
        let play = play(2);
        let (space, at) = holding(&play, 7);
        let program = || {
            play.mm.madvise(&space, at, PAGE, Advice::Free).expect("mapped");
            let seen = get(&play, &space, at).expect("memory");
            assert!(seen == 7 || seen == 0, "{seen}");
            put(&play, &space, at, 8).expect("memory");
            assert_eq!(get(&play, &space, at), Ok(8));
        };
        let reclaimer = || {
            reclaim(&play);
            reclaim(&play);
        };
        play.act([Box::new(program) as Part<'_>, Box::new(reclaimer)]);
        reclaim(&play);
        assert_eq!(get(&play, &space, at), Ok(8));
        end(&play, [space]);
    });
}

/// So does what somebody else writes there, who has been told that he has.
#[test]
fn writing_from_outside_against_reclaim() {
    explore(|| {
        let play = play(2);
        let (space, at) = holding(&play, 7);
        play.mm.madvise(&space, at, PAGE, Advice::Free).expect("mapped");
        let writer = || {
            play.mm.platform().look_away(true);
            play.mm.write_space(&space, at, &8_u64.to_ne_bytes()).expect("memory");
            play.mm.platform().look_away(false);
        };
        let reclaimer = || {
            reclaim(&play);
            reclaim(&play);
        };
        play.act([Box::new(writer) as Part<'_>, Box::new(reclaimer)]);
        assert_eq!(get(&play, &space, at), Ok(8));
        end(&play, [space]);
    });
}

/// What was given up and written again is copied, and goes, while reclaim has just
/// found out that it has to stay.
#[test]
fn a_fork_and_an_exit_against_a_discard() {
    explore(|| {
        let play = play(2);
        let (parent, at) = holding(&play, 7);
        play.mm.madvise(&parent, at, PAGE, Advice::Free).expect("mapped");
        put(&play, &parent, at, 8).expect("memory");
        let program = || {
            let child = fork(&play, &parent);
            assert_eq!(get(&play, &child, at), Ok(8));
            play.mm.space_put(child);
            play.mm.munmap(&parent, at, PAGE).expect("mapped");
        };
        let reclaimer = || {
            reclaim(&play);
            reclaim(&play);
        };
        play.act([Box::new(program) as Part<'_>, Box::new(reclaimer)]);
        assert_eq!(parent.rss(), 0);
        end(&play, [parent]);
    });
}

/// What is locked is there from then on, whatever was about to become of it.
#[test]
fn locking_against_a_page_out() {
    explore(|| {
        let play = play(2);
        swap(&play);
        let (space, at) = holding(&play, 7);
        let pfn = frame(&play, &space, at).expect("a page");
        let program = || {
            play.mm.mlock(&space, at, PAGE).expect("memory");
            assert_eq!((space.rss(), space.swapped()), (1, 0), "it is to stay");
            assert_eq!(get(&play, &space, at), Ok(7));
        };
        let reclaimer = || page_out(&play, pfn);
        play.act([Box::new(program) as Part<'_>, Box::new(reclaimer)]);
        let pfn = frame(&play, &space, at).expect("it is to stay");
        play.mm.lru_drain_all();
        page_out(&play, pfn);
        assert_eq!((space.rss(), space.swapped()), (1, 0));
        let flags = play.mm.map().try_page(pfn).expect("a page").head().lru();
        assert!(flags.contains(LruFlags::MLOCKED | LruFlags::UNEVICTABLE), "{flags:?}");
        end(&play, [space]);
    });
}

/// Two who share a page lock it and let go of it.
#[test]
fn locking_against_letting_go() {
    explore(|| {
        let play = play(2);
        let (parent, at) = holding(&play, 7);
        let child = fork(&play, &parent);
        play.mm.mlock(&parent, at, PAGE).expect("memory");
        let one = || play.mm.munlock(&parent, at, PAGE).expect("mapped");
        let other = || play.mm.space_put(fork(&play, &child));
        play.act([Box::new(one) as Part<'_>, Box::new(other)]);
        assert_can_go(&play, &parent, at);
        end(&play, [parent, child]);
    });
}

/// What is locked no more can be reclaimed, wherever it was on its way to.
#[test]
fn unlocking_against_a_move() {
    explore(|| {
        let play = play(2);
        let (space, at) = holding(&play, 7);
        play.mm.mlock(&space, at, PAGE).expect("memory");
        play.mm.lru_drain_all();
        let pfn = frame(&play, &space, at).expect("a page");
        let program = || play.mm.munlock(&space, at, PAGE).expect("mapped");
        let mover = || move_away(&play, pfn);
        play.act([Box::new(program) as Part<'_>, Box::new(mover)]);
        assert_eq!(get(&play, &space, at), Ok(7));
        assert_can_go(&play, &space, at);
        end(&play, [space]);
    });
}

/// Nor does reclaim, which has seen it locked, say so when it is not any more.
#[test]
fn unlocking_against_a_look_of_reclaim() {
    explore(|| {
        let play = play(2);
        swap(&play);
        let (space, at) = holding(&play, 7);
        play.mm.lru_drain_all();
        let program = || {
            play.mm.mlock(&space, at, PAGE).expect("memory");
            play.mm.munlock(&space, at, PAGE).expect("mapped");
        };
        let reclaimer = || reclaim(&play);
        play.act([Box::new(program) as Part<'_>, Box::new(reclaimer)]);
        assert_eq!(get(&play, &space, at), Ok(7));
        assert_can_go(&play, &space, at);
        end(&play, [space]);
    });
}

/// A victim's memory is taken while its thread is about to have more: in the end
/// it has none.
#[test]
fn the_reaper_against_a_fault() {
    explore(|| {
        let play = play(2);
        let (space, at) = space(&play, 3);
        put(&play, &space, at, 7).expect("memory");
        let thread = || {
            for page in 1..3 {
                match put(&play, &space, at.add(page * PAGE), page) {
                    Ok(()) => {}
                    Err(why) => return assert_eq!(why, FaultError::Killed),
                }
            }
        };
        let killer = || assert_eq!(kill(&play), Relief::Freed);
        play.act([Box::new(thread) as Part<'_>, Box::new(killer)]);
        assert!(space.is_killed());
        assert_eq!(space.rss(), 0, "nobody takes that any more");
        play.mm.platform().quiet();
        end(&play, [space]);
    });
}

/// What becomes of a request for which nothing is left.
fn kill(play: &Play) -> Relief {
    let attempt = Attempt {
        request: Request::new(Order(0), Gfp::KERNEL),
        class: ZoneKind::Normal,
        migratetype: MigrateType::Unmovable,
        flags: AllocFlags::empty(),
    };
    play.mm.out_of_memory(&attempt, &mut || false)
}

/// A victim that is just copying itself keeps its regions for a while: who comes
/// next takes what it has, and does not kill another one.
#[test]
fn the_reaper_against_a_fork() {
    explore(|| {
        let play = play(2);
        let (parent, at) = holding(&play, 7);
        let forker = || match play.mm.space_fork(&parent, "child") {
            Ok(child) => {
                match get(&play, &child, at) {
                    Ok(value) => assert_eq!(value, 7),
                    Err(why) => assert_eq!(why, FaultError::Killed),
                }
                play.mm.space_put(child);
            }
            Err(why) => assert_eq!(why, MapError::NoMemory),
        };
        let killer = || assert_eq!(kill(&play), Relief::Freed);
        play.act([Box::new(forker) as Part<'_>, Box::new(killer)]);
        if parent.is_killed() && parent.rss() > 0 {
            let (bystander, _) = holding(&play, 7);
            assert_eq!(kill(&play), Relief::Freed);
            assert!(!bystander.is_killed());
            assert_eq!(parent.rss(), 0);
            play.mm.space_put(bystander);
        }
        play.mm.platform().quiet();
        end(&play, [parent]);
    });
}

/// What one victim had is enough for two who found nothing at a time: the second
/// sees that before he kills another one.
#[test]
fn two_who_find_nothing_kill_one() {
    explore(|| {
        let play = play(2);
        let victims = [(); 2].map(|()| {
            let (space, at) = space(&play, 150);
            for page in 0..150 {
                put(&play, &space, at.add(page * PAGE), 7).expect("memory");
            }
            space
        });
        let mut held = Vec::new();
        let last = (0, Gfp::KERNEL | Gfp::NORETRY);
        for (order, gfp) in [(6, Gfp::NOWAIT), (3, Gfp::NOWAIT), last] {
            held.extend(std::iter::from_fn(|| play.alloc(order, gfp)));
        }
        let mut found = [None, None];
        play.act(found.each_mut().map(|found| {
            let play = &play;
            Box::new(move || *found = play.alloc(0, Gfp::KERNEL)) as Part<'_>
        }));
        let killed = victims.iter().filter(|space| space.is_killed()).count();
        assert_eq!((killed, found.iter().flatten().count()), (1, 2));
        held.extend(found.into_iter().flatten());
        held.into_iter().for_each(|page| play.free(page));
        play.mm.platform().quiet();
        end(&play, victims);
    });
}

/// The last reference to a page goes while somebody looks whether it can be had.
#[test]
fn the_last_reference_against_isolation() {
    explore(|| {
        let play = play(3);
        let (space, at) = holding(&play, 7);
        let pfn = frame(&play, &space, at).expect("a page");
        let owner = || {
            play.mm.madvise(&space, at, PAGE, Advice::DontNeed).expect("mapped");
            put(&play, &space, at, 8).expect("memory");
        };
        let looker = || {
            if play.mm.lru_isolate(pfn) {
                play.mm.lru_putback(pfn);
            }
        };
        play.act([Box::new(owner) as Part<'_>, Box::new(looker), Box::new(looker)]);
        assert_eq!(get(&play, &space, at), Ok(8));
        end(&play, [space]);
    });
}

/// The last user of a space goes while its memory is moved and taken away.
#[test]
fn an_exit_against_a_move_and_a_page_out() {
    explore(|| {
        let play = play(3);
        swap(&play);
        let (space, at) = holding(&play, 7);
        let pfn = frame(&play, &space, at).expect("a page");
        let exit = || play.mm.space_put(space);
        let mover = || move_away(&play, pfn);
        let reclaimer = || page_out(&play, pfn);
        play.act([Box::new(exit) as Part<'_>, Box::new(mover), Box::new(reclaimer)]);
        end(&play, []);
    });
}

/// Two threads of a space touch the same page for the first time.
#[test]
fn two_first_faults() {
    explore(|| {
        let play = play(3);
        let (space, at) = space(&play, 1);
        let writer = || put(&play, &space, at, 7).expect("memory");
        let reader = || {
            let seen = get(&play, &space, at).expect("memory");
            assert!(seen == 0 || seen == 7);
        };
        play.act([Box::new(writer) as Part<'_>, Box::new(reader), Box::new(reader)]);
        assert_eq!((get(&play, &space, at), space.rss()), (Ok(7), 1));
        end(&play, [space]);
    });
}

/// A page is looked for by the number of a group that is nobody's any more, while
/// the memory of groups goes to somebody else.
#[test]
fn a_walk_against_groups_that_go() {
    explore(|| {
        let play = play(3);
        let (space, at) = holding(&play, 7);
        let pfn = frame(&play, &space, at).expect("a page");
        let walker = || {
            if play.mm.lru_isolate(pfn) {
                for _ in 0..2 {
                    play.mm.rmap_walk(pfn, &mut |_, _, _| true);
                }
                play.mm.lru_putback(pfn);
            }
        };
        let owner = || play.mm.munmap(&space, at, PAGE).expect("mapped");
        let taker = || {
            for _ in 0..2 {
                play.mm.shrink_groups(u64::MAX);
                let Some(page) = play.alloc(0, Gfp::KERNEL) else { continue };
                let frame = play.mm.platform().frame(page.pfn);
                // SAFETY: a page of this thread's.
                unsafe { frame.write_bytes(0xff, PAGE_SIZE) };
                play.free(page);
            }
        };
        play.act([Box::new(walker) as Part<'_>, Box::new(owner), Box::new(taker)]);
        end(&play, [space]);
    });
}
