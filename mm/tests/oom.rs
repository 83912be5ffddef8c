//! When nothing else is left: whoever uses most goes, one at a time, and nobody
//! who is protected or for a request that may not kill.
#![cfg(all(feature = "host", not(miri)))]

use mm::host::swap::SwapDisk;
use mm::host::{Machine, pc};
use mm::mmu::VirtAddr;
use mm::platform::{Context, Platform};
use mm::reclaim::{Shrinker, Shrunk};
use mm::space::{FaultError, HugePages, MapFlags, Prot, SpaceRef};
use mm::swap::SwapOnError;
use mm::types::{NodeId, Order, PAGE_SIZE};
use mm::{AllocError, Config, Gfp, Mm, Page, Request};
use std::panic::AssertUnwindSafe;

const PAGE: u64 = PAGE_SIZE as u64;
const RW: Prot = Prot::READ.union(Prot::WRITE);

fn setup() -> Mm<Machine> {
    let mm = pc(32, 2, &Config::default()).expect("a machine");
    mm.slab_init().expect("slab");
    mm.set_huge_pages(HugePages::Never);
    // Nobody is there to end a boost.
    mm.set_watermark_boost_factor(0);
    mm
}

/// A space that has used `pages` pages.
fn user<'m>(mm: &'m Mm<Machine>, name: &str, pages: u64) -> (SpaceRef<'m>, VirtAddr) {
    let space = mm.space_new(name).expect("a space");
    let va = mm.mmap(&space, None, (pages + 1) * PAGE, RW, MapFlags::empty()).expect("room");
    for i in 0..pages {
        mm.write_space(&space, va.add(i * PAGE), &[7]).expect("memory");
    }
    (space, va)
}

/// Takes pages for good until that fails.
fn exhaust(mm: &Mm<Machine>, gfp: Gfp) -> (Vec<Page>, AllocError) {
    let mut held = Vec::new();
    loop {
        match mm.alloc_pages(Request::new(Order(0), gfp | Gfp::NOWARN)) {
            Ok(page) => held.push(page),
            Err(why) => return (held, why),
        }
    }
}

fn kills(mm: &Mm<Machine>) -> u64 {
    mm.vmstat_value("oom_kill").expect("a counter")
}

#[test]
fn whoever_uses_most_goes_first() {
    let mm = setup();
    let (small, at) = user(&mm, "small", 500);
    let (large, _) = user(&mm, "large", 2000);
    let (middle, _) = user(&mm, "middle", 1000);
    mm.platform().take_log();
    let mut held = Vec::new();
    let mut order = Vec::new();
    while kills(&mm) < 3 {
        let before = kills(&mm);
        held.push(mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("somebody's"));
        let killed = [&small, &middle, &large].map(|space| space.is_killed());
        if kills(&mm) > before {
            assert_eq!(kills(&mm), before + 1, "one at a time");
            order.push(killed);
        }
    }
    assert_eq!(order, [[false, false, true], [false, true, true], [true, true, true]]);
    // What was theirs is given to others before they know, and they end.
    assert_eq!((large.rss(), middle.rss(), small.rss()), (0, 0, 0));
    assert_eq!(mm.write_space(&small, at, &[1]), Err(FaultError::Killed));
    let log = mm.platform().take_log();
    let line = |text: &str| log.iter().position(|(_, line)| line.contains(text));
    let dump = line("oom-killer invoked: ").expect("a dump");
    let table = line("] small").expect("a table of spaces");
    let verdict = line("Out of memory: Killed space large anon-rss:8000kB").expect("a verdict");
    assert!(dump < table && table < verdict);
    mm.audit().expect("whole");
    held.into_iter().for_each(|page| mm.free_pages(page).expect("its own"));
    [small, middle, large].into_iter().for_each(|space| mm.space_put(space));
    mm.audit().expect("whole");
}

#[test]
fn who_is_protected_is_not_chosen() {
    let mm = setup();
    let (first, _) = user(&mm, "first", 1500);
    let (second, _) = user(&mm, "second", 1000);
    let (third, _) = user(&mm, "third", 100);
    first.set_protected(true);
    second.set_oom_score_adj(-1000);
    // Nor is a copy, at any time of its life.
    let copy = mm.space_fork(&first, "copy").expect("memory");
    assert!(copy.is_protected() && copy.rss() == 1500);
    for space in [&first, &second, &copy] {
        assert_eq!(mm.oom_points(space), None);
    }
    let (_held, why) = exhaust(&mm, Gfp::KERNEL);
    assert_eq!((why, kills(&mm)), (AllocError::NoMemory, 1));
    assert!(third.is_killed() && !first.is_killed() && !second.is_killed());
    assert_eq!((first.rss(), second.rss()), (1500, 1000));
    mm.audit().expect("whole");
}

/// Nobody is killed so that a device can come, whose tables take all memory there
/// is, or more.
#[test]
fn a_device_too_large_for_memory_costs_nobody_his_life() {
    let mm = setup();
    let (space, _) = user(&mm, "one", 1000);
    for tables in [mm.managed_pages() * 9 / 10, mm.managed_pages() * 2] {
        let slots = tables * PAGE / size_of::<u64>() as u64;
        let disk = SwapDisk::new("/dev/disk", u32::try_from(slots).expect("not that large"));
        assert_eq!(mm.swapon(Box::leak(Box::new(disk)), None), Err(SwapOnError::NoMemory));
        assert_eq!((space.is_killed(), kills(&mm)), (false, 0));
    }
    mm.audit().expect("whole");
}

#[test]
fn an_adjustment_outweighs_use() {
    let mm = setup();
    let (large, _) = user(&mm, "large", 2000);
    let (small, _) = user(&mm, "small", 100);
    small.set_oom_score_adj(500);
    assert!(mm.oom_points(&small) > mm.oom_points(&large));
    let mut held = Vec::new();
    while kills(&mm) == 0 {
        held.push(mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("somebody's"));
    }
    let log = mm.platform().take_log();
    let killed: Vec<_> = log.iter().filter(|(_, line)| line.contains("Killed")).collect();
    assert!(small.is_killed() && !large.is_killed(), "{killed:?}");
}

#[test]
fn not_every_request_is_worth_a_life() {
    let mm = setup();
    let (space, _) = user(&mm, "one", 1000);
    for gfp in [
        Gfp::KERNEL | Gfp::NORETRY,
        Gfp::KERNEL | Gfp::RETRY_MAYFAIL,
        Gfp::KERNEL | Gfp::THISNODE,
        Gfp::KERNEL | Gfp::DMA,
        Gfp::NOWAIT,
        Gfp::ATOMIC,
    ] {
        let (held, why) = exhaust(&mm, gfp);
        assert_eq!((why, kills(&mm)), (AllocError::NoMemory, 0), "{gfp:?}");
        let costly = Request::new(Order(4), Gfp::KERNEL | Gfp::NOWARN);
        let blocks: Vec<_> = std::iter::from_fn(|| mm.alloc_pages(costly).ok()).collect();
        assert_eq!(kills(&mm), 0);
        held.into_iter().chain(blocks).for_each(|page| mm.free_pages(page).expect("its own"));
    }
    assert!(!space.is_killed() && kills(&mm) == 0);
    // One that is only asks for a page, and may wait, is.
    let (held, _) = exhaust(&mm, Gfp::NOWAIT);
    let last: Vec<_> =
        (0..100).map(|_| mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL))).collect();
    assert!(last.iter().all(Result::is_ok) && space.is_killed());
    drop(held);
    mm.audit().expect("whole");
}

#[test]
fn a_fault_of_the_chosen_ends_it() {
    let mm = setup();
    let (other, _) = user(&mm, "other", 200);
    let space = mm.space_new("greedy").expect("a space");
    let pages = 2 * mm.managed_pages();
    let va = mm.mmap(&space, None, pages * PAGE, RW, MapFlags::empty()).expect("room");
    let failed = (0..pages).find_map(|i| mm.write_space(&space, va.add(i * PAGE), &[7]).err());
    assert_eq!(failed, Some(FaultError::Killed));
    assert!(space.is_killed() && !other.is_killed());
    assert_eq!(kills(&mm), 1);
    mm.audit().expect("whole");
    mm.space_put(space);
    mm.space_put(other);
    mm.lru_drain_all();
    assert_eq!(mm.audit().expect("whole").lru, 0);
}

/// All that requests of that kind can get; freed again.
fn reach(mm: &Mm<Machine>, context: Context, gfp: Gfp) -> usize {
    let before = mm.platform().context();
    mm.platform().set_context(context);
    let (held, why) = exhaust(mm, gfp);
    mm.platform().set_context(before);
    assert_eq!(why, AllocError::NoMemory);
    let reach = held.len();
    held.into_iter().for_each(|page| mm.free_pages(page).expect("its own"));
    reach
}

#[test]
fn a_victim_has_part_of_the_reserves() {
    let mm = setup();
    let none = Context::default();
    let gfp = Gfp::KERNEL | Gfp::NORETRY;
    let ordinary = reach(&mm, none, gfp);
    let victim = reach(&mm, Context { oom_victim: true, ..none }, gfp);
    let all = reach(&mm, Context { memalloc: true, ..none }, gfp);
    assert!(ordinary < victim && victim < all, "{ordinary} {victim} {all}");
    assert_eq!(reach(&mm, Context { oom_victim: true, ..none }, gfp | Gfp::NOMEMALLOC), ordinary);
    // It is to end: it neither kills nor goes round for ever.
    let (space, _) = user(&mm, "one", 1000);
    let least = reach(&mm, Context { oom_victim: true, ..none }, Gfp::KERNEL);
    assert!(least > 0 && !space.is_killed() && kills(&mm) == 0);
    mm.audit().expect("whole");
}

/// Has whoever reclaims be chosen just then.
struct Chooser;

impl Shrinker<Machine> for Chooser {
    fn count(&self, _: &Mm<Machine>, _: NodeId) -> u64 {
        1
    }

    fn scan(&self, mm: &Mm<Machine>, _: NodeId, _: u64) -> Option<Shrunk> {
        let context = mm.platform().context();
        mm.platform().set_context(Context { oom_victim: true, ..context });
        None
    }
}

/// Who is chosen while he makes room himself has what is there for such all the
/// same, and is told no only then.
#[test]
fn who_is_chosen_meanwhile_has_part_of_the_reserves_too() {
    let mm = setup();
    mm.register_shrinker(&Chooser).expect("room for a shrinker");
    let (ordinary, _) = exhaust(&mm, Gfp::NOWAIT);
    let page = mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL | Gfp::NOWARN));
    assert!(mm.platform().context().oom_victim, "it was");
    let (more, _) = exhaust(&mm, Gfp::KERNEL);
    assert_eq!((page.is_ok(), more.is_empty(), kills(&mm)), (true, false, 0));
    ordinary.into_iter().chain(page).chain(more).for_each(|page| {
        mm.free_pages(page).expect("its own");
    });
    mm.audit().expect("whole");
}

/// Whoever frees memory, and asks for some that he must not fail to get, does not
/// free memory for that in turn, nor wait for himself to.
#[test]
fn who_frees_memory_does_not_reclaim_for_himself() {
    let mm = setup();
    let (space, _) = user(&mm, "one", 1000);
    let (held, _) = exhaust(&mm, Gfp::ATOMIC);
    let stalls = || mm.vmstat_value("allocstall_normal").expect("a counter");
    let before = stalls();
    mm.platform().set_context(Context { memalloc: true, ..Context::default() });
    let gfp = Gfp::KERNEL | Gfp::NOFAIL | Gfp::NOMEMALLOC;
    let page = mm.alloc_pages(Request::new(Order(0), gfp)).expect("it must");
    mm.platform().set_context(Context::default());
    assert_eq!((stalls(), space.is_killed()), (before, true));
    held.into_iter().chain([page]).for_each(|page| mm.free_pages(page).expect("its own"));
    mm.audit().expect("whole");
}

/// Reclaim for such a request cannot do all it might, so nobody is killed for it;
/// but nobody else is there who would kill, and it comes to an end all the same.
#[test]
fn a_request_without_file_systems_hopes_for_others_not_for_ever() {
    let mm = setup();
    let (space, _) = user(&mm, "one", 1000);
    for gfp in [Gfp::NOFS, Gfp::NOIO] {
        let (held, why) = exhaust(&mm, gfp);
        assert_eq!((why, kills(&mm)), (AllocError::NoMemory, 0), "{gfp:?}");
        held.into_iter().for_each(|page| mm.free_pages(page).expect("its own"));
    }
    assert!(!space.is_killed());
    // One that may not fail has what is kept for need.
    let (held, _) = exhaust(&mm, Gfp::NOFS);
    let more = mm.alloc_pages(Request::new(Order(0), Gfp::NOFS | Gfp::NOFAIL)).expect("it must");
    assert_eq!(kills(&mm), 0);
    held.into_iter().chain([more]).for_each(|page| mm.free_pages(page).expect("its own"));
    mm.audit().expect("whole");
}

#[test]
fn whoever_asks_may_be_the_one() {
    let mm = setup();
    let (large, _) = user(&mm, "large", 2000);
    let (small, _) = user(&mm, "small", 100);
    let (safe, _) = user(&mm, "safe", 200);
    safe.set_protected(true);
    mm.proc_write("/proc/sys/vm/oom_kill_allocating_task", "1").expect("a knob");
    let mut held = Vec::new();
    let mut until = |many| {
        while kills(&mm) < many {
            held.push(mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("somebody's"));
        }
    };
    mm.platform().run_in(Some(small.root()));
    until(1);
    assert!(small.is_killed() && !large.is_killed());
    // One that is protected is not; then it is whoever uses most.
    mm.platform().run_in(Some(safe.root()));
    until(2);
    assert!(!safe.is_killed() && large.is_killed());
    mm.platform().run_in(None);
    mm.audit().expect("whole");
}

#[test]
fn when_nobody_may_be_killed_that_is_said() {
    let mm = setup();
    mm.platform().take_log();
    let mut held = Vec::new();
    while let Ok(page) = mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)) {
        held.push(page);
    }
    let log = mm.platform().take_log();
    assert!(log.iter().any(|(_, line)| line.contains("no space may be killed")), "{log:?}");
}

/// Whatever it says beyond 0, and whether or not somebody could be killed.
fn stops(level: &str, users: u64) {
    let mm = setup();
    let spaces: Vec<_> = (0..users).map(|_| user(&mm, "one", 1000)).collect();
    mm.proc_write("/proc/sys/vm/panic_on_oom", level).expect("a knob");
    let end = std::panic::catch_unwind(AssertUnwindSafe(|| exhaust(&mm, Gfp::KERNEL)));
    let why = end.expect_err("it stops").downcast::<String>().expect("a message");
    assert_eq!(*why, format!("out of memory, and panic_on_oom is set ({level})"));
    assert_eq!(kills(&mm), 0);
    assert!(spaces.iter().all(|(space, _)| !space.is_killed()));
    let log = mm.platform().take_log();
    assert!(log.iter().any(|(_, line)| line.contains("oom-killer invoked: ")));
}

#[test]
fn a_machine_may_rather_stop() {
    stops("1", 1);
    stops("2", 1);
    stops("2", 0);
    let mm = setup();
    assert!(mm.proc_write("/proc/sys/vm/panic_on_oom", "3").is_err());
}

/// What a request that may not kill comes to does not stop the machine either.
#[test]
fn a_machine_does_not_stop_for_less() {
    let mm = setup();
    mm.proc_write("/proc/sys/vm/panic_on_oom", "2").expect("a knob");
    for gfp in [Gfp::KERNEL | Gfp::NORETRY, Gfp::KERNEL | Gfp::RETRY_MAYFAIL, Gfp::NOFS] {
        let (held, why) = exhaust(&mm, gfp);
        assert_eq!(why, AllocError::NoMemory);
        held.into_iter().for_each(|page| mm.free_pages(page).expect("its own"));
    }
}

/// Memory of a space whose thread never runs again is there for others, what it
/// has in swap too.
#[test]
fn what_sleeps_in_swap_is_had_too() {
    let mm = setup();
    let disk: &'static SwapDisk = Box::leak(Box::new(SwapDisk::new("/dev/disk", 2000)));
    mm.swapon(disk, None).expect("a device");
    let pages = mm.managed_pages() + 1000;
    let (sleeper, at) = user(&mm, "sleeper", pages);
    assert!(sleeper.swapped() > 500);
    let (other, there) = user(&mm, "other", 1500);
    assert!(sleeper.is_killed() && !other.is_killed());
    assert_eq!((sleeper.rss(), sleeper.swapped()), (0, 0));
    assert_eq!(mm.write_space(&sleeper, at, &[1]), Err(FaultError::Killed));
    for i in 0..1500 {
        let mut byte = [0];
        mm.read_space(&other, there.add(i * PAGE), &mut byte).expect("its own");
        assert_eq!(byte, [7]);
    }
    mm.audit().expect("whole");
    [sleeper, other].into_iter().for_each(|space| mm.space_put(space));
    mm.swapoff("/dev/disk").expect("nothing on it");
    mm.audit().expect("whole");
}

/// Nor has a victim somebody else killed for what he may not be denied: there are the
/// reserves.
#[test]
fn a_victim_has_nobody_killed_for_what_may_not_fail() {
    let mm = setup();
    let (space, _) = user(&mm, "one", 1000);
    let context = mm.platform().context();
    mm.platform().set_context(Context { oom_victim: true, ..context });
    let (held, _) = exhaust(&mm, Gfp::KERNEL);
    let request = Request::new(Order(0), Gfp::KERNEL | Gfp::NOFAIL);
    let mut pages: Vec<Page> = Vec::new();
    while mm.free_pages_total() > 8 {
        pages.push(mm.alloc_pages(request).expect("it may not fail"));
    }
    assert!(!space.is_killed() && kills(&mm) == 0, "{} pages", pages.len());
    mm.platform().set_context(context);
    held.into_iter().chain(pages).for_each(|page| mm.free_pages(page).expect("its own"));
    mm.space_put(space);
    mm.audit().expect("whole");
}
