//! What the driver does with a device that keeps to the standard.

use crate::device::Simulated;
use crate::memory::Use;
use crate::{Bench, GIB, MIB};
use drivers::virtio_mem::{Next, RETRY_MAX_MS, RETRY_MIN_MS, Request};

#[test]
fn up_and_down_in_blocks_of_any_size() {
    for block in [MIB, 2 * MIB, 4 * MIB, 64 * MIB, 128 * MIB, 256 * MIB] {
        let mut bench = Bench::new(Simulated::new(block, 4 * GIB, 3 * GIB));
        for _ in 0..3 {
            for size in [3 * GIB, 0, 2 * GIB + 256 * MIB, 512 * MIB, GIB, 0] {
                assert_eq!(bench.request(size), Next::OnChange);
                assert_eq!(bench.memory.provided_bytes(), size, "blocks of {block:#x}");
                let group = block.max(128 * MIB);
                let added = bench.memory.added.borrow().len() as u64 * 128 * MIB;
                assert_eq!(added, size.next_multiple_of(group));
            }
        }
        assert_eq!(bench.device.logged("stay"), 0);
    }
}

#[test]
fn part_of_a_memory_block() {
    let mut bench = Bench::new(Simulated::common());
    for units in [1, 63, 64, 65, 130, 129, 66, 2, 0] {
        assert_eq!(bench.request(units * 2 * MIB), Next::OnChange);
        assert_eq!(bench.memory.provided_bytes(), units * 2 * MIB);
        assert_eq!(bench.memory.added.borrow().len() as u64, units.div_ceil(64));
    }
    // Half a unit is never plugged.
    let mut bench = Bench::new(Simulated::new(MIB, 4 * GIB, GIB));
    bench.request(5 * MIB);
    assert_eq!(bench.memory.provided_bytes(), 4 * MIB);
}

#[test]
fn a_whole_memory_block_takes_one_request() {
    let mut bench = Bench::new(Simulated::common());
    bench.request(GIB);
    assert_eq!(bench.device.asked.len(), 8);
    bench.request(0);
    assert_eq!(bench.device.asked.len(), 16);
}

#[test]
fn what_was_plugged_before_goes_first() {
    let device = Simulated::common();
    device.plugged.borrow_mut().extend([4 * GIB, 4 * GIB + 2 * MIB, 4 * GIB + 64 * MIB]);
    let mut device = device;
    device.config.plugged_size = 6 * MIB;
    device.config.requested_size = 256 * MIB;
    device.config.usable_region_size = 3 * GIB;
    let mut bench = Bench::new(device);
    assert_eq!(bench.driver.round(&mut bench.device), Ok(Next::OnChange));
    bench.check();
    assert_eq!(bench.device.asked[0], Request::UnplugAll);
    assert_eq!(bench.memory.provided_bytes(), 256 * MIB);
    assert_eq!(bench.driver.status().tally.unplug_all, 1);
}

#[test]
fn what_is_used_moves_and_the_rest_goes_first() {
    let mut bench = Bench::new(Simulated::common());
    bench.request(GIB);
    // Used from the top, so that the cheap half lies below it.
    for unit in 256..512 {
        bench.memory.set(4 * GIB + unit * 2 * MIB, Use::Movable);
    }
    bench.request(768 * MIB);
    let used = |bench: &Bench| {
        bench.memory.provided.borrow().values().filter(|is| **is == Use::Movable).count()
    };
    assert_eq!(bench.memory.provided_bytes(), 768 * MIB);
    let top = bench.memory.provided.borrow().range(4 * GIB + 512 * MIB..).count();
    assert_eq!(top, 256, "what is used stays where free memory does");
    assert_eq!(bench.request(512 * MIB), Next::OnChange);
    assert_eq!((used(&bench), bench.memory.provided_bytes()), (256, 512 * MIB));
    // Now everything is used, and nothing has a place to go to.
    assert_eq!(bench.request(256 * MIB), Next::Within(RETRY_MIN_MS));
    assert_eq!((used(&bench), bench.memory.provided_bytes()), (256, 512 * MIB));
    assert_eq!(bench.device.logged("out of memory"), 1);
}

#[test]
fn zone_movable_goes_first() {
    let mut bench = Bench::new(Simulated::common());
    bench.request(GIB);
    *bench.memory.movable.borrow_mut() = 4 * GIB..4 * GIB + 256 * MIB;
    bench.memory.elsewhere.set(512);
    for unit in 0..512 {
        bench.memory.set(4 * GIB + unit * 2 * MIB, Use::Movable);
    }
    assert_eq!(bench.request(640 * MIB), Next::OnChange);
    let left = |range| bench.memory.provided.borrow().range(range).count();
    assert_eq!(left(4 * GIB..4 * GIB + 256 * MIB), 0);
    assert_eq!(left(5 * GIB - 128 * MIB..5 * GIB), 0, "then from the top");
}

#[test]
fn what_cannot_be_moved_stays_and_the_reason_is_told() {
    let mut bench = Bench::new(Simulated::common());
    bench.request(256 * MIB);
    let fixed = 4 * GIB + 10 * 2 * MIB;
    bench.memory.set(fixed, Use::Fixed);
    assert_eq!(bench.request(0), Next::Within(RETRY_MIN_MS));
    assert_eq!(bench.memory.provided_bytes(), 2 * MIB);
    assert_eq!(bench.device.logged("2048 kB stay plugged: at 0x101400000"), 1);
    assert_eq!(bench.device.logged("pfn 0x101400 cannot be moved"), 1);
    assert_eq!(bench.driver.status().retry_ms, Some(RETRY_MIN_MS));
    // Tried again less and less often, and told once.
    for n in 1..10 {
        let ms = (RETRY_MIN_MS << n).min(RETRY_MAX_MS);
        assert_eq!(bench.round(), Ok(Next::Within(ms)));
        assert_eq!(bench.driver.status().retry_ms, Some(ms));
    }
    assert_eq!(bench.device.logged("stay plugged"), 1);
    bench.memory.set(fixed, Use::Free);
    assert_eq!(bench.round(), Ok(Next::OnChange));
    assert_eq!(bench.memory.provided_bytes(), 0);
    assert_eq!(bench.driver.status().retry_ms, None);
}

#[test]
fn memory_for_descriptors_may_run_out() {
    let mut bench = Bench::new(Simulated::common());
    bench.memory.adds.set(2);
    assert_eq!(bench.request(GIB), Next::Within(RETRY_MIN_MS));
    assert_eq!(bench.memory.provided_bytes(), 256 * MIB);
    assert_eq!(bench.device.logged("cannot add memory: out of memory"), 1);
    bench.memory.adds.set(u64::MAX);
    bench.memory.provides.set(1);
    assert_eq!(bench.round(), Ok(Next::Within(RETRY_MIN_MS)));
    // Plugged, but nobody has it; when it can be had, it is.
    assert_eq!(bench.driver.status().withheld, 128 * MIB);
    bench.memory.provides.set(u64::MAX);
    assert_eq!(bench.round(), Ok(Next::OnChange));
    assert_eq!(bench.memory.provided_bytes(), GIB);
    // What is withheld goes without anything to move.
    bench.memory.provides.set(0);
    bench.request(GIB + 128 * MIB);
    assert_eq!(bench.driver.status().withheld, 128 * MIB);
    assert_eq!(bench.request(GIB), Next::OnChange);
    assert_eq!(bench.driver.status().withheld, 0);
}

#[test]
fn memory_of_others_is_left_alone() {
    let mut bench = Bench::new(Simulated::common());
    bench.memory.taken.set(4 * GIB + 128 * MIB);
    assert_eq!(bench.request(512 * MIB), Next::OnChange);
    assert_eq!(bench.memory.provided_bytes(), 512 * MIB);
    assert_eq!(bench.device.logged("cannot use memory at 0x108000000"), 1);
    assert_eq!(bench.request(0), Next::OnChange);
    assert_eq!(bench.request(512 * MIB), Next::OnChange);
    assert_eq!(bench.device.logged("cannot use memory"), 1);
}

#[test]
fn offline_memory_is_not_piled_up() {
    let mut bench = Bench::new(Simulated::common());
    bench.memory.stays_offline.set(true);
    assert_eq!(bench.request(2 * GIB), Next::Within(RETRY_MIN_MS));
    assert_eq!(bench.memory.provided_bytes(), GIB);
    assert_eq!(bench.device.logged("offline"), 1);
    for unit in 0..512 {
        bench.memory.set(4 * GIB + unit * 2 * MIB, Use::Free);
    }
    assert_eq!(bench.round(), Ok(Next::OnChange));
    assert_eq!(bench.memory.provided_bytes(), 2 * GIB);
    // What is offline goes before what is in use.
    for unit in 0..512 {
        bench.memory.set(4 * GIB + unit * 2 * MIB, Use::Movable);
    }
    assert_eq!(bench.request(GIB), Next::OnChange);
    assert_eq!(bench.memory.provided.borrow().range(5 * GIB..).count(), 0);
}

#[test]
fn nothing_beyond_the_usable_region() {
    let mut device = Simulated::common();
    device.config.requested_size = GIB;
    device.config.usable_region_size = 300 * MIB;
    let mut bench = Bench::new(device);
    assert_eq!(bench.round(), Ok(Next::OnChange));
    assert_eq!(bench.memory.provided_bytes(), 300 * MIB);
    bench.request(GIB);
    assert_eq!(bench.memory.provided_bytes(), GIB);
}
