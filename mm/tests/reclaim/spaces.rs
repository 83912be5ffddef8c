//! Programs' memory under pressure: more than there is RAM goes to swap and comes
//! back as it was, what is used stays, what is locked or not needed does not go
//! there at all.
#![cfg(not(miri))]

use super::disk::Disk;
use super::{CACHE, NODE, event};
use mm::host::swap::{FailPlan, SwapDisk};
use mm::host::{Machine, pc};
use mm::lru::LruList;
use mm::mmu::VirtAddr;
use mm::platform::Worker;
use mm::space::{Access, Advice, FaultError, HugePages, MapFlags, Prot, SpaceRef};
use mm::stats::Event;
use mm::types::{CpuId, PAGE_SIZE};
use mm::{Config, Mm};

const PAGE: u64 = PAGE_SIZE as u64;
const RW: Prot = Prot::READ.union(Prot::WRITE);

fn setup(mib: u64, cpus: u16) -> (Mm<Machine>, &'static SwapDisk) {
    let mm = pc(mib, cpus, &Config::default()).expect("a machine");
    mm.slab_init().expect("slab");
    mm.set_huge_pages(HugePages::Never);
    let store: &'static SwapDisk = Box::leak(Box::new(SwapDisk::new("/dev/store", 64 << 8)));
    mm.swapon(store, None).expect("memory for its table");
    (mm, store)
}

fn map(mm: &Mm<Machine>, space: &SpaceRef<'_>, pages: u64) -> VirtAddr {
    mm.mmap(space, None, pages * PAGE, RW, MapFlags::empty()).expect("room")
}

/// Writes a word as a thread of the space does.
fn store(
    mm: &Mm<Machine>,
    space: &SpaceRef<'_>,
    va: VirtAddr,
    word: u64,
) -> Result<(), FaultError> {
    let write = |page: *mut u8| {
        // SAFETY: within a page of the machine; threads have words of their own.
        unsafe { page.cast::<u64>().write(word) };
    };
    mm.access(space, va, Access::Write, write)
}

/// Reads a word as a thread of the space does.
fn load(mm: &Mm<Machine>, space: &SpaceRef<'_>, va: VirtAddr) -> Result<u64, FaultError> {
    let mut word = 0;
    let read = |page: *mut u8| {
        // SAFETY: as above.
        word = unsafe { page.cast::<u64>().read() };
    };
    mm.access(space, va, Access::Read, read)?;
    Ok(word)
}

#[test]
fn three_times_as_much_as_there_is() {
    let (mm, _) = setup(16, 1);
    let space = mm.space_new("big").expect("a space");
    let pages = 3 * mm.managed_pages();
    let va = map(&mm, &space, pages);
    let value = |round: u64, i: u64| (round << 32 | i).wrapping_mul(0x9e37_79b9) + 1;
    for round in 0..3 {
        for i in 0..pages {
            let at = va.add(i * PAGE);
            if round > 0 {
                assert_eq!(load(&mm, &space, at), Ok(value(round - 1, i)), "page {i}");
            }
            store(&mm, &space, at, value(round, i)).expect("memory or swap");
            if i % 512 == 0 {
                for worker in mm.platform().take_woken() {
                    mm.work(worker);
                }
            }
        }
        mm.audit().expect("whole");
    }
    assert!(event(&mm, "pswpout") > pages && event(&mm, "pswpin") > pages);
    assert!(event(&mm, "pgsteal_anon") > pages);
    assert_eq!(event(&mm, "pgsteal_file"), 0);
    assert!(space.swapped() > pages / 2 && space.rss() + space.swapped() >= pages);
    mm.space_put(space);
    mm.lru_drain_all();
    assert_eq!(mm.audit().expect("whole").lru, 0);
    assert_eq!(mm.vmstat_value("nr_swapcached"), Some(0));
}

#[test]
fn what_is_used_stays() {
    let (mm, _) = setup(32, 1);
    let space = mm.space_new("one").expect("a space");
    let (hot, cold) = (256, 2 * mm.managed_pages());
    let va = map(&mm, &space, hot + cold);
    for i in 0..hot {
        store(&mm, &space, va.add(i * PAGE), i).expect("memory");
    }
    let majors = |mm: &Mm<Machine>| mm.stats().get(Event::PgMajFault);
    for i in hot..hot + cold {
        store(&mm, &space, va.add(i * PAGE), i).expect("memory");
        // All of it is used often, and little of it looked for in vain.
        if i % 32 == 0 {
            for j in 0..hot {
                assert_eq!(load(&mm, &space, va.add(j * PAGE)), Ok(j));
            }
        }
    }
    assert!(event(&mm, "pswpout") > cold / 4);
    // Of 256 reads of each 32 writes.
    assert!(majors(&mm) < 4 * hot, "{} reads of {hot} pages were in vain", majors(&mm));
    mm.audit().expect("whole");
}

#[test]
fn what_is_locked_or_not_needed_is_not_written() {
    let (mm, _) = setup(32, 1);
    let space = mm.space_new("one").expect("a space");
    let (locked, free) = (map(&mm, &space, 512), map(&mm, &space, 512));
    for i in 0..512 {
        store(&mm, &space, locked.add(i * PAGE), i).expect("memory");
        store(&mm, &space, free.add(i * PAGE), i).expect("memory");
    }
    mm.mlock(&space, locked, 512 * PAGE).expect("memory");
    mm.madvise(&space, free, 512 * PAGE, Advice::Free).expect("mapped");
    // One is wanted again after all.
    store(&mm, &space, free, 77).expect("memory");
    mm.lru_drain_all();
    assert_eq!(mm.node_lru_pages(NODE, LruList::Unevictable), 512);
    let disk = Disk::of(&mm);
    for block in 0..(2 * mm.managed_pages()) as u32 {
        disk.read(&mm, block, CACHE).expect("a page");
    }
    mm.audit().expect("whole");
    for i in 0..512 {
        assert_eq!(load(&mm, &space, locked.add(i * PAGE)), Ok(i));
    }
    assert_eq!(load(&mm, &space, free), Ok(77));
    let gone = (1..512).filter(|i| load(&mm, &space, free.add(i * PAGE)) == Ok(0)).count();
    assert!(gone > 400, "{gone}");
    assert_eq!(mm.node_lru_pages(NODE, LruList::Unevictable), 512);
    assert!(event(&mm, "pswpout") < 100, "files come first");
    mm.audit().expect("whole");
}

#[test]
fn swappiness_decides_what_goes() {
    let share = |swappiness: u32| {
        let (mm, _) = setup(32, 1);
        mm.set_swappiness(swappiness);
        let space = mm.space_new("one").expect("a space");
        let half = mm.managed_pages() / 2;
        let va = map(&mm, &space, half);
        let disk = Disk::of(&mm);
        for i in 0..half {
            store(&mm, &space, va.add(i * PAGE), i).expect("memory");
        }
        // Twice, so that they are in use: what is read once goes first anyhow.
        for block in 0..2 * half as u32 {
            for _ in 0..2 {
                disk.read(&mm, block, CACHE).expect("a page");
            }
        }
        mm.audit().expect("whole");
        event(&mm, "pgscan_anon")
    };
    let (never, some, much) = (share(0), share(60), share(200));
    assert!(never == 0 && 0 < some && some < much, "{never} {some} {much}");
}

#[test]
fn a_broken_device_loses_nothing() {
    let (mm, device) = setup(8, 1);
    let space = mm.space_new("one").expect("a space");
    space.set_protected(true);
    let pages = 2 * mm.managed_pages();
    let va = map(&mm, &space, pages);
    let mut written = 0;
    for i in 0..pages {
        // It works for a while.
        if i == pages * 3 / 4 {
            device.fail_writes(FailPlan::Always);
        }
        if store(&mm, &space, va.add(i * PAGE), i + 1).is_err() {
            break;
        }
        written += 1;
    }
    assert!(written > pages / 2);
    mm.audit().expect("whole");
    device.fail_writes(FailPlan::Never);
    // What could not be written is in memory, and keeps others out until somebody
    // uses it: that is what came last.
    let mut left: Vec<_> = (0..written).rev().collect();
    while !left.is_empty() {
        let before = left.len();
        left.retain(|i| match load(&mm, &space, va.add(i * PAGE)) {
            Ok(word) => {
                assert_eq!(word, i + 1);
                false
            }
            Err(why) => {
                assert_eq!(why, FaultError::NoMemory);
                true
            }
        });
        assert!(left.len() < before, "{before} pages cannot be had");
    }
    mm.audit().expect("whole");
}

#[test]
fn large_pages_come_apart_under_pressure() {
    let (mm, _) = setup(32, 1);
    mm.set_huge_pages(HugePages::Always);
    let space = mm.space_new("large").expect("a space");
    let pages = 2 * mm.managed_pages();
    let va = map(&mm, &space, pages);
    for i in 0..pages {
        store(&mm, &space, va.add(i * PAGE), i).expect("memory or swap");
    }
    assert!(event(&mm, "thp_split_page") > 0);
    mm.audit().expect("whole");
    for i in 0..pages {
        assert_eq!(load(&mm, &space, va.add(i * PAGE)), Ok(i));
    }
    mm.audit().expect("whole");
}

/// Everybody wants more than there is, shares some of it, and kswapd and
/// compaction go on meanwhile.
#[test]
fn all_at_once() {
    const CPUS: u16 = 4;
    let (mm, _) = setup(24, CPUS);
    let pages = mm.managed_pages() / 2;
    std::thread::scope(|scope| {
        for cpu in 0..CPUS {
            let mm = &mm;
            scope.spawn(move || {
                mm.platform().run_on(CpuId(cpu));
                if cpu == 0 {
                    for _ in 0..100 {
                        mm.work(Worker::Kswapd(NODE));
                        mm.compact_memory(None);
                        std::thread::yield_now();
                    }
                    return;
                }
                let space = mm.space_new("one").expect("a space");
                let va = map(mm, &space, pages);
                let value = |round: u64, i: u64| round << 40 | u64::from(cpu) << 32 | i;
                for round in 0..3 {
                    for i in 0..pages {
                        let at = va.add(i * PAGE);
                        if round > 0 {
                            assert_eq!(load(mm, &space, at), Ok(value(round - 1, i)));
                        }
                        store(mm, &space, at, value(round, i)).expect("memory or swap");
                    }
                    let copy = mm.space_fork(&space, "copy").expect("memory");
                    for i in (0..pages).step_by(7) {
                        assert_eq!(load(mm, &copy, va.add(i * PAGE)), Ok(value(round, i)));
                    }
                    mm.space_put(copy);
                }
                mm.space_put(space);
            });
        }
    });
    mm.lru_drain_all();
    assert_eq!(mm.audit().expect("whole").lru, 0);
    assert!(event(&mm, "pswpout") > 0);
}
