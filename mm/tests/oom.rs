//! When nothing else is left: whoever uses most goes, one at a time, and nobody
//! who is protected or for a request that may not kill.
#![cfg(all(feature = "host", not(miri)))]

use mm::host::{Machine, pc};
use mm::mmu::VirtAddr;
use mm::space::{FaultError, HugePages, MapFlags, Prot, SpaceRef};
use mm::types::{Order, PAGE_SIZE};
use mm::{AllocError, Config, Gfp, Mm, Page, Request};

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
    assert_eq!((mm.oom_points(&first), mm.oom_points(&second)), (None, None));
    let (_held, why) = exhaust(&mm, Gfp::KERNEL);
    assert_eq!((why, kills(&mm)), (AllocError::NoMemory, 1));
    assert!(third.is_killed() && !first.is_killed() && !second.is_killed());
    assert_eq!((first.rss(), second.rss()), (1500, 1000));
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

#[test]
#[should_panic(expected = "panic_on_oom is set")]
fn a_machine_may_rather_stop() {
    let mm = setup();
    let (_space, _) = user(&mm, "one", 1000);
    mm.proc_write("/proc/sys/vm/panic_on_oom", "1").expect("a knob");
    exhaust(&mm, Gfp::KERNEL);
}
