//! Swapping to the device: pages come back as they were, what it does not take
//! goes to the next device, and the slots stay good.

mod common;
#[path = "../../mm/tests/swap/world.rs"]
#[allow(dead_code)]
mod world;

use common::corpus::Rng;
use common::{Device, Guest, MIB, audit, device, free_pages, machine};
use mm::host::Machine;
use mm::host::swap::SwapDisk;
use mm::platform::Platform;
use mm::swap::{SwapDevice, SwapOutError};
use mm::types::PAGE_SIZE;
use world::{Access, State, World};
use zram::ZramSwap;

const ENTRIES: usize = if cfg!(miri) { 20 } else { 1500 };
const SLOTS: u32 = if cfg!(miri) { 64 } else { 2048 };

fn swap_to(mm: &'static Guest) -> Device {
    let zram = device(mm, SLOTS);
    let face: &'static dyn SwapDevice = Box::leak(Box::new(ZramSwap::new(mm, zram)));
    mm.swapon(face, Some(10)).expect("a device");
    zram
}

/// Makes a page random but for the words that are looked at.
fn scramble(world: &World<'_, Machine>, mm: &Guest, at: usize, rng: &mut Rng) {
    let State::Page { pfn, .. } = world.state(at) else { panic!("no page at {at}") };
    let words = mm.platform().frame(pfn).cast::<u64>();
    for i in 0..PAGE_SIZE / 8 {
        if ![0, 200, PAGE_SIZE / 8 - 1].contains(&i) {
            // SAFETY: a word of a page of this test, which nobody else uses now.
            unsafe { words.add(i).write(rng.next()) };
        }
    }
}

#[test]
fn pages_go_there_and_come_back() {
    let mm = machine(MIB, 1);
    let free = free_pages(mm);
    let zram = swap_to(mm);
    let world = World::new(mm, ENTRIES);
    for at in 0..ENTRIES {
        assert!(world.map(at, at as u64));
    }
    mm.lru_drain_all();
    for at in 0..ENTRIES {
        assert_eq!(world.swap_out(at), Some(Ok(())));
    }
    world.audit();
    zram.audit(mm).expect("a whole device");
    let stat = zram.mm_stat(mm);
    assert_eq!(stat.orig_data_size, (ENTRIES as u64 - 1) * 4096, "zeros never get here");
    assert!(stat.mem_used_total < stat.orig_data_size / 8);
    for at in (0..ENTRIES).step_by(3) {
        assert_eq!(world.access(at, Some(7)), Access::Done);
    }
    for at in (1..ENTRIES).step_by(3) {
        world.unmap(at);
    }
    world.audit();
    zram.audit(mm).expect("a whole device");
    assert_eq!(world.swapoff("/dev/zram0"), Ok(()));
    assert_eq!(zram.mm_stat(mm).orig_data_size, 0, "all slots are discarded");
    for at in 0..ENTRIES {
        let expected = if at % 3 == 1 { Access::Nothing } else { Access::Done };
        assert_eq!(world.access(at, None), expected);
    }
    world.clear();
    zram.reset(mm);
    assert_eq!(free_pages(mm), free);
    audit(mm, zram);
}

#[test]
fn what_it_refuses_goes_to_the_next_device() {
    let mm = machine(MIB, 1);
    let zram = swap_to(mm);
    let disk: &'static SwapDisk = Box::leak(Box::new(SwapDisk::new("/dev/disk", SLOTS)));
    mm.swapon(disk, Some(1)).expect("a device");
    let world = World::new(mm, 2);
    assert!(world.map(0, 5) && world.map(1, 6));
    let mut rng = Rng(1);
    scramble(&world, mm, 0, &mut rng);
    // Nor is there memory for the other.
    zram.set_limit(1);
    mm.lru_drain_all();
    let slots = mm.swap_totals().total;
    for at in [0, 1] {
        assert_eq!(world.swap_out(at), Some(Err(SwapOutError::Refused)));
        // Not offered again while its slot is named.
        mm.lru_drain_all();
        assert_eq!(world.swap_out(at), None, "it is not mapped");
        assert_eq!(world.access(at, None), Access::Done);
    }
    assert_eq!(zram.mm_stat(mm).huge_pages_since, 1);
    world.audit();
    mm.lru_drain_all();
    for at in [0, 1] {
        assert_eq!(world.swap_out(at), Some(Ok(())));
    }
    assert_eq!((disk.writes(), mm.swap_totals().total), (2, slots), "no slot went bad");
    world.audit();
    for at in [0, 1] {
        assert_eq!(world.access(at, Some(8)), Access::Done);
    }
    // With a limit no more, what shrinks goes to the first device again.
    zram.set_limit(0);
    mm.lru_drain_all();
    assert_eq!(world.swap_out(1), Some(Ok(())));
    assert_eq!((disk.writes(), zram.mm_stat(mm).orig_data_size), (2, 4096));
    world.audit();
    world.clear();
    audit(mm, zram);
}

#[test]
fn alone_it_is_offered_a_page_again_that_it_refused() {
    let mm = machine(MIB, 1);
    let zram = swap_to(mm);
    let world = World::new(mm, 1);
    assert!(world.map(0, 5));
    scramble(&world, mm, 0, &mut Rng(2));
    for round in 1..4 {
        mm.lru_drain_all();
        assert_eq!(world.swap_out(0), Some(Err(SwapOutError::Refused)));
        assert_eq!(zram.mm_stat(mm).huge_pages_since, round);
        assert_eq!(world.access(0, Some(round)), Access::Done);
    }
    let State::Page { pfn, .. } = world.state(0) else { panic!("no page") };
    // SAFETY: the test's own page.
    unsafe { mm.platform().frame(pfn).write_bytes(0, PAGE_SIZE) };
    world.unmap(0);
    assert!(world.map(0, 9));
    mm.lru_drain_all();
    assert_eq!(world.swap_out(0), Some(Ok(())));
    assert_eq!(world.access(0, None), Access::Done);
    world.audit();
    world.clear();
}
