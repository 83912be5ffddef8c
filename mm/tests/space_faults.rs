//! Each allocation on the way of what is done with address spaces fails once:
//! whoever asked is told, nothing is lost, and the machine is whole.
#![cfg(all(feature = "host", not(miri)))]

use core::num::NonZeroU64;
use mm::fault::FaultPlan;
use mm::host::{Machine, pc};
use mm::mmu::VirtAddr;
use mm::space::{Access, Advice, FaultError, MapError, MapFlags, Prot, SpaceRef};
use mm::types::PAGE_SIZE;
use mm::{Config, Mm};

const PAGE: u64 = PAGE_SIZE as u64;
const LARGE: u64 = 2 << 20;
const RW: Prot = Prot::READ.union(Prot::WRITE);

/// What a program does; false where memory ran out.
fn story<'m>(mm: &'m Mm<Machine>, spaces: &mut Vec<SpaceRef<'m>>) -> bool {
    let mapped = |result: Result<VirtAddr, MapError>| match result {
        Err(why) => {
            assert_eq!(why, MapError::NoMemory);
            None
        }
        Ok(va) => Some(va),
    };
    let touched = |result: Result<(), FaultError>| match result {
        Err(why) => {
            assert_eq!(why, FaultError::NoMemory);
            false
        }
        Ok(()) => true,
    };
    let done = |result: Result<(), MapError>| match result {
        Err(why) => {
            assert_eq!(why, MapError::NoMemory);
            false
        }
        Ok(()) => true,
    };
    let Ok(space) = mm.space_new("one") else { return false };
    spaces.push(space);
    let space = spaces.pop().expect("just pushed");
    let good = (|| {
        let Some(va) = mapped(mm.mmap(&space, None, 3 * LARGE, RW, MapFlags::empty())) else {
            return false;
        };
        let word = 0x5eed_u64.to_ne_bytes();
        touched(mm.fault(&space, va.add(LARGE), Access::Read))
            && touched(mm.write_space(&space, va, &word))
            && touched(mm.write_space(&space, va.add(LARGE), &word))
            && {
                let mut back = [0; 8];
                touched(mm.read_space(&space, va, &mut back)) && back == word
            }
            && match mm.space_fork(&space, "two") {
                Err(why) => {
                    assert_eq!(why, MapError::NoMemory);
                    false
                }
                Ok(child) => {
                    let wrote = touched(mm.write_space(&child, va.add(5 * PAGE), &word));
                    let mut back = [1; 8];
                    let kept = touched(mm.read_space(&space, va.add(5 * PAGE), &mut back));
                    assert!(!kept || back == [0; 8], "the child's write shows in the parent");
                    spaces.push(child);
                    wrote && kept
                }
            }
            && done(mm.munmap(&space, va.add(7 * PAGE), 3 * PAGE))
            && done(mm.madvise(&space, va.add(20 * PAGE), PAGE, Advice::NoHuge))
            && done(mm.mlock(&space, va.add(2 * LARGE + PAGE), 2 * PAGE))
    })();
    spaces.push(space);
    good
}

#[test]
fn every_allocation_may_fail() {
    let mm = pc(64, 1, &Config::default()).expect("a machine");
    mm.slab_init().expect("slab");
    let mut n = 0;
    loop {
        n += 1;
        let mut spaces = Vec::new();
        mm.set_faults(FaultPlan::Nth(NonZeroU64::new(n).expect("above 0")));
        let good = story(&mm, &mut spaces);
        let counts = mm.fault_counts();
        mm.set_faults(FaultPlan::Off);
        mm.audit().unwrap_or_else(|why| panic!("after failure {n}: {why}"));
        spaces.into_iter().for_each(|space| mm.space_put(space));
        mm.audit().unwrap_or_else(|why| panic!("at the end, after failure {n}: {why}"));
        // Small objects are had from slabs that are there by the next time.
        mm.slab_shrink();
        mm.shrink_groups(u64::MAX);
        if counts.failed == 0 {
            assert!(good && n > 10, "{n} allocations");
            return;
        }
        assert!(n < 1000, "it does not end");
    }
}
