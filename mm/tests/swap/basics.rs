//! One step after the other.

use crate::world::{Access, State, World};
use mm::Config;
use mm::host::swap::{FailPlan, SwapDisk};
use mm::host::{Machine, pc};
use mm::swap::{SwapOffError, SwapOnError, SwapOutError};
use mm::{Mm, types::PAGE_SIZE};

const MIB: u64 = if cfg!(miri) { 4 } else { 16 };

fn machine() -> Mm<Machine> {
    pc(MIB, 1, &Config::default()).expect("a machine")
}

/// A device for as long as the tests run: the manager wants it for ever.
pub(crate) fn disk(name: &str, slots: u32) -> &'static SwapDisk {
    Box::leak(Box::new(SwapDisk::new(name, slots)))
}

fn file(mm: &Mm<Machine>, path: &str) -> String {
    let mut text = String::new();
    mm.proc_read(path, &mut text).expect("a file");
    text
}

fn meminfo(mm: &Mm<Machine>, key: &str) -> u64 {
    let text = file(mm, "/proc/meminfo");
    let line = text.lines().find(|line| line.split(':').next() == Some(key)).expect("a key");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

#[test]
fn a_page_goes_out_and_comes_back() {
    let mm = machine();
    let free = mm.free_pages_total();
    let disk = disk("/dev/disk", 1000);
    mm.swapon(disk, None).expect("a device");
    let world = World::new(&mm, 4);
    assert!(world.map(0, 77) && world.map(1, 0));
    world.share(0, 2);
    mm.lru_drain_all();
    assert_eq!((world.swap_out(0), world.swap_out(1)), (Some(Ok(())), Some(Ok(()))));
    assert!(matches!(world.state(2), State::Swap(_)), "all who had it name the slot");
    world.audit();
    assert_eq!((disk.writes(), disk.reads()), (1, 0), "zeros are not written");
    assert_eq!((meminfo(&mm, "SwapFree"), meminfo(&mm, "SwapCached")), (998 * 4, 0));
    // Reading leaves it in the cache while the other names the slot.
    assert_eq!(world.access(0, None), Access::Done);
    assert_eq!((disk.reads(), meminfo(&mm, "SwapCached")), (1, 4));
    world.audit();
    assert_eq!(world.access(2, Some(78)), Access::Done);
    assert_eq!(world.access(1, None), Access::Done);
    assert_eq!((disk.reads(), world.swapped()), (1, 0), "from the cache, and zeros");
    assert_eq!(world.access(0, None), Access::Done);
    world.audit();
    for (key, n) in [("pswpin", 1), ("pswpout", 1), ("swpin_zero", 1), ("swpout_zero", 1)] {
        assert_eq!(mm.vmstat_value(key), Some(n), "{key}");
    }
    // What devices do for swap is counted with what they do for caches.
    assert_eq!((mm.vmstat_value("pgpgin"), mm.vmstat_value("pgpgout")), (Some(4), Some(4)));
    world.clear();
    assert_eq!(mm.swap_totals().used, 0);
    assert_eq!(world.swapoff("/dev/disk"), Ok(()));
    mm.drain_all(None);
    assert_eq!(mm.free_pages_total(), free);
    mm.audit().expect("whole");
}

#[test]
fn a_clean_page_of_the_cache_is_not_written_again() {
    let mm = machine();
    let disk = disk("/dev/disk", 1000);
    mm.swapon(disk, None).expect("a device");
    let world = World::new(&mm, 2);
    assert!(world.map(0, 5));
    world.share(0, 1);
    mm.lru_drain_all();
    assert_eq!(world.swap_out(0), Some(Ok(())));
    assert_eq!(world.access(0, None), Access::Done);
    mm.lru_drain_all();
    assert_eq!(world.swap_out(0), Some(Ok(())));
    assert_eq!((disk.writes(), disk.reads()), (1, 1));
    // Alone with it, written to: the slot is given up, and it goes to another.
    world.unmap(1);
    assert_eq!(world.access(0, Some(6)), Access::Done);
    assert_eq!(mm.swap_totals().used, 0);
    mm.lru_drain_all();
    assert_eq!(world.swap_out(0), Some(Ok(())));
    assert_eq!(disk.writes(), 2);
    assert_eq!(world.access(0, None), Access::Done);
    world.audit();
    world.clear();
}

#[test]
fn a_failed_write_loses_nothing_but_the_slot() {
    let mm = machine();
    let disk = disk("/dev/disk", 600);
    mm.swapon(disk, None).expect("a device");
    let world = World::new(&mm, 2);
    assert!(world.map(0, 5));
    world.share(0, 1);
    mm.lru_drain_all();
    disk.fail_writes(FailPlan::Nth(1));
    assert_eq!(world.swap_out(0), Some(Err(SwapOutError::Io)));
    world.audit();
    // Not tried again with that slot; it is in memory all the time.
    assert_eq!(world.access(0, None), Access::Done);
    mm.lru_drain_all();
    assert_eq!(world.swap_out(0), Some(Err(SwapOutError::Io)));
    assert_eq!((disk.writes(), disk.reads()), (1, 0));
    // Until nobody names it any more.
    assert_eq!(world.access(1, None), Access::Done);
    mm.lru_drain_all();
    assert_eq!(world.swap_out(0), Some(Ok(())));
    assert_eq!((disk.writes(), mm.swap_totals().total), (2, 599));
    world.audit();
    assert_eq!(world.access(1, Some(6)), Access::Done);
    assert_eq!(world.access(0, None), Access::Done);
    assert!(mm.platform().take_log().iter().any(|(_, line)| line.contains("cannot write")));
    world.audit();
    assert_eq!(world.swapoff("/dev/disk"), Ok(()));
    world.audit();
    world.clear();
}

#[test]
fn a_failed_read_keeps_the_slot() {
    let mm = machine();
    let disk = disk("/dev/disk", 600);
    mm.swapon(disk, None).expect("a device");
    let world = World::new(&mm, 1);
    assert!(world.map(0, 5));
    mm.lru_drain_all();
    assert_eq!(world.swap_out(0), Some(Ok(())));
    disk.fail_reads(FailPlan::Always);
    assert_eq!(world.access(0, None), Access::Io);
    assert_eq!(world.swapoff("/dev/disk"), Err(SwapOffError::Io), "it stays on");
    world.audit();
    assert_eq!(mm.swap_totals().used, 1);
    disk.fail_reads(FailPlan::Never);
    assert_eq!(world.access(0, None), Access::Done);
    world.audit();
    world.clear();
}

#[test]
fn devices_are_filled_by_priority_and_in_turns() {
    let mm = machine();
    let names = ["/dev/a", "/dev/b", "/dev/c", "/dev/d"];
    let disks = names.map(|name| disk(name, 256));
    for (disk, priority) in disks.into_iter().zip([None, Some(5), Some(5), None]) {
        mm.swapon(disk, priority).expect("a device");
    }
    assert_eq!(mm.swapon(disks[0], None), Err(SwapOnError::AlreadyOn));
    let world = World::new(&mm, 700);
    for at in 0..700 {
        assert!(world.map(at, at as u64 + 1));
        mm.lru_drain_all();
        assert_eq!(world.swap_out(at), Some(Ok(())));
        if at == 255 {
            assert_eq!(disks.map(SwapDisk::writes), [0, 128, 128, 0], "in turns");
        }
    }
    assert_eq!(disks.map(SwapDisk::writes), [188, 256, 256, 0], "the highest first");
    world.audit();
    let swaps = "\
Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority
/dev/a                                  partition\t1024\t\t752\t\t-2
/dev/b                                  partition\t1024\t\t1024\t\t5
/dev/c                                  partition\t1024\t\t1024\t\t5
/dev/d                                  partition\t1024\t\t0\t\t-3
";
    assert_eq!(file(&mm, "/proc/swaps"), swaps);
    assert_eq!(world.swapoff("/dev/a"), Ok(()));
    assert_eq!(mm.swap_area(3).map(|area| area.priority), Some(-2), "moved up");
    assert_eq!(world.swapoff("/dev/a"), Err(SwapOffError::NotOn));
    world.audit();
    world.clear();
    assert_eq!(mm.swap_totals().used, 0);
    for name in &names[1..] {
        assert_eq!(world.swapoff(name), Ok(()));
    }
    mm.audit().expect("whole");
}

#[test]
fn a_device_may_be_full() {
    let mm = machine();
    mm.swapon(disk("/dev/disk", 3), None).expect("a device");
    assert_eq!(mm.swapon(disk("/dev/none", 0), None), Err(SwapOnError::Empty));
    let world = World::new(&mm, 4);
    for at in 0..4 {
        assert!(world.map(at, 9));
        mm.lru_drain_all();
        let expected = if at < 3 { Ok(()) } else { Err(SwapOutError::NoSlot) };
        assert_eq!(world.swap_out(at), Some(expected));
    }
    world.audit();
    world.unmap(1);
    assert_eq!(world.swap_out(3), Some(Ok(())));
    for at in [0, 2, 3] {
        assert_eq!(world.access(at, None), Access::Done);
    }
    world.audit();
    world.clear();
}

#[test]
fn slots_given_up_are_discarded_before_they_are_used_again() {
    let mm = machine();
    let disk: &SwapDisk = Box::leak(Box::new(SwapDisk::new("/dev/disk", 300).discarding()));
    mm.swapon(disk, None).expect("a device");
    let world = World::new(&mm, 300);
    for round in 0..3 {
        for at in 0..300 {
            assert!(world.map(at, at as u64 + round));
        }
        mm.lru_drain_all();
        for at in 0..300 {
            assert_eq!(world.swap_out(at), Some(Ok(())));
        }
        for at in 0..300 {
            assert_eq!(world.access(at, (at % 2 == 0).then_some(1)), Access::Done);
        }
        world.audit();
        world.clear();
        assert_eq!((disk.held(), mm.swap_totals().used), (0, 0));
    }
    assert!(disk.discarded() >= 3 * 299);
    assert_eq!(world.swapoff("/dev/disk"), Ok(()));
    mm.audit().expect("whole");
}

#[test]
fn a_device_in_a_file() {
    let mm = machine();
    let path = std::env::temp_dir().join(format!("quarry-swap-{}", std::process::id()));
    let file = std::fs::File::options().read(true).write(true).create_new(true).open(&path);
    let file = file.expect("a file");
    std::fs::remove_file(&path).expect("a file without a name");
    let disk = SwapDisk::in_file("/swap file", 256, file.try_clone().expect("a handle"));
    mm.swapon(Box::leak(Box::new(disk.expect("a device"))), Some(1)).expect("a device");
    assert_eq!(file.metadata().expect("a file").len(), 256 * PAGE_SIZE as u64);
    let world = World::new(&mm, 1);
    assert!(world.map(0, 0x5eed));
    mm.lru_drain_all();
    assert_eq!(world.swap_out(0), Some(Ok(())));
    let mut swaps = String::new();
    mm.proc_read("/proc/swaps", &mut swaps).expect("a file");
    assert!(swaps.contains("file\t\t1024\t\t4\t\t1\n"), "{swaps}");
    assert_eq!(world.access(0, None), Access::Done);
    world.clear();
}

#[test]
fn a_switch_on_without_memory_leaves_nothing_behind() {
    use core::num::NonZeroU64;
    use mm::fault::FaultPlan;
    let mm = machine();
    let disk = disk("/dev/disk", 100_000);
    let free = mm.free_pages_total();
    for nth in 1.. {
        mm.set_faults(FaultPlan::Nth(NonZeroU64::new(nth).expect("from one")));
        let on = mm.swapon(disk, None);
        mm.set_faults(FaultPlan::Off);
        if on.is_ok() {
            assert!(nth > 100_000 / 512, "every page of the tables can be missing");
            break;
        }
        assert_eq!(on, Err(SwapOnError::NoMemory));
        assert_eq!(mm.swap_totals(), mm::swap::SwapTotals::default());
    }
    mm.swapoff_with("/dev/disk", &mut |_| Ok(())).expect("nothing is on it");
    mm.drain_all(None);
    assert_eq!(mm.free_pages_total(), free);
    mm.audit().expect("whole");
}
