//! An honest device gets what it wants, as far as that is good for the guest.

use crate::device::{COUNTED, Guest, MIB, USUAL, machine};
use drivers::Env;
use drivers::balloon::{
    FEATURE_PAGE_POISON, FEATURE_REPORTING, FEATURE_STATS_VQ, Next, STATS_BYTES, Tag,
};
use mm::report::{NoPass, RegisterError};
use mm::types::{Order, PAGE_SIZE};
use mm::{Config, Gfp, Request};

#[test]
fn there_and_back_ten_times() {
    let mut guest = Guest::new(USUAL);
    let free = guest.free();
    for round in 0..10 {
        for target in [free as u32 / 4 * 3, 100 + round, 0] {
            guest.want(target);
            guest.settle().expect("honest");
            assert_eq!((guest.balloon.size(), guest.actual()), (target.into(), target));
            guest.check();
        }
    }
    assert_eq!(guest.free(), free);
    assert_eq!(guest.device.known.lock().expect("ours").most, 256);
    assert!(guest.handle.log().is_empty(), "{:?}", guest.handle.log());
}

/// A host that wants more than there is, or cannot make up its mind, neither
/// stops the guest nor fills its log.
#[test]
fn wishes_that_cannot_be_met() {
    let mut guest = Guest::new(USUAL);
    let free = guest.free();
    for target in [free as u32, u32::MAX, (MIB << 8) as u32 + 1, u32::MAX - 1, 1 << 31] {
        guest.want(target);
        assert_eq!(guest.settle(), Ok(Next::Within(200)));
        let before = guest.driver.device().env().now_ms();
        for _ in 0..20 {
            let next = guest.settle().expect("honest");
            guest.wait(next);
        }
        assert!(guest.driver.device().env().now_ms() - before >= 3_000, "it waits in between");
        guest.check();
        let page = guest.mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL)).expect("still one");
        guest.mm.free_pages(page).expect("its own");
    }
    let log = guest.handle.log();
    assert!((1..=3).contains(&log.len()), "{log:?}");
    assert!(log[0].contains("more to spare"), "{log:?}");
    for target in 0..200 {
        guest.want(target * 7919 % free as u32);
        guest.service.as_mut().expect("there").round(guest.driver, guest.balloon).expect("honest");
    }
    guest.want(0);
    guest.settle().expect("honest");
    assert_eq!(guest.free(), free);
}

/// Pages that were taken back in need stay with the guest until the host says
/// again what it wants.
#[test]
fn what_need_took_back_is_told_and_not_lent_again() {
    let mut guest = Guest::new(USUAL);
    let target = (guest.free() / 2) as u32;
    guest.want(target);
    guest.settle().expect("honest");
    let mut pages = Vec::new();
    let request = Request::new(Order(0), Gfp::KERNEL | Gfp::NOWARN);
    while guest.balloon.size() > u64::from(target) / 2 {
        pages.push(guest.mm.alloc_pages(request).expect("from the balloon"));
    }
    guest.check();
    let (size, next) = (guest.balloon.size(), guest.settle().expect("honest"));
    assert_eq!((guest.balloon.size(), u64::from(guest.actual())), (size, size));
    pages.into_iter().for_each(|page| guest.mm.free_pages(page).expect("its own"));
    guest.wait(next);
    guest.settle().expect("honest");
    assert_eq!(guest.balloon.size(), size);
    guest.want(target + 1);
    guest.settle().expect("honest");
    assert_eq!(guest.actual(), target + 1);
}

#[test]
fn questions_are_answered_with_the_truth() {
    let mut guest = Guest::new(USUAL);
    for lent in [0, 5000, 0] {
        guest.want(lent);
        guest.settle().expect("honest");
        let known = guest.device.known.clone();
        let asked = {
            let mut known = known.lock().expect("ours");
            (known.kept.take().expect("one is there"), known.answers.len())
        };
        guest.handle.with(|board| board.push_used(2, asked.0.id(), 0));
        guest.wait(Next::Within(500));
        guest.settle().expect("honest");
        let known = known.lock().expect("ours");
        assert_eq!(known.answers.len(), asked.1 + 1, "one answer for each question");
        let answer = known.answers.last().expect("just now");
        assert_eq!(answer.len() * 10, STATS_BYTES);
        let value = |tag: Tag| answer.iter().find(|it| it.0 == tag as u16).expect("sent").1;
        let bytes = |pages: u64| pages * PAGE_SIZE as u64;
        assert_eq!(value(Tag::Free), bytes(guest.mm.free_pages_total()));
        assert_eq!(value(Tag::Total), bytes(guest.mm.managed_pages()));
        assert_eq!(value(Tag::Available), bytes(guest.mm.available_pages()));
        assert!(value(Tag::Available) < value(Tag::Free));
        assert_eq!((value(Tag::SwapIn), value(Tag::MajorFaults), value(Tag::Caches)), (0, 0, 0));
    }
}

/// Without the right to take pages back, they do not count as the guest's.
#[test]
fn total_memory_is_without_what_cannot_be_had() {
    let mut guest = Guest::new(FEATURE_STATS_VQ);
    let managed = guest.mm.managed_pages();
    guest.want(1000);
    guest.settle().expect("honest");
    assert_eq!(guest.mm.managed_pages(), managed - 1000);
    guest.check();
    guest.want(0);
    guest.settle().expect("honest");
    assert_eq!(guest.mm.managed_pages(), managed);
}

/// Every way of numbering queues, with every choice of features.
#[test]
fn queues_are_found_whichever_way_they_are_counted() {
    let hints = 1 << 3;
    for features in 0..64 {
        // QEMU always has a queue for statistics, and counts the others.
        let mut sizes = vec![128, 128, 128];
        sizes.extend((features & hints != 0).then_some(1024));
        sizes.extend((features & FEATURE_REPORTING != 0).then_some(32));
        let standard = [128, 128, 128, 1024, 32];
        for sizes in [&sizes[..], &standard] {
            let mut guest =
                Guest::try_on(machine(&Config::default()), features, sizes).expect("honest");
            let agreed = guest.driver.device().features();
            assert_eq!(agreed & hints, 0, "nobody gives hints");
            assert_eq!(agreed & FEATURE_PAGE_POISON, 0, "nothing is in free pages");
            assert_eq!(agreed & USUAL, features & USUAL);
            guest.want(300);
            guest.settle().expect("honest");
            guest.check();
            assert_eq!(guest.driver.reports(), features & FEATURE_REPORTING != 0);
            let answers = guest.device.known.lock().expect("ours").answers.len();
            assert_eq!(answers > 0, features & FEATURE_STATS_VQ != 0);
            if guest.driver.reports() {
                reports_all(&guest);
            }
        }
    }
}

/// What is free and large enough is reported, once.
fn reports_all(guest: &Guest) {
    guest.mm.report_register(guest.driver, None).expect("the first");
    guest.mm.report_all();
    let reported = guest.mm.report_now().expect("a device");
    let known = guest.device.known.lock().expect("ours");
    let bytes: u64 = known.free.iter().map(|block| u64::from(block.1)).sum();
    let starts: std::collections::BTreeSet<_> = known.free.iter().map(|block| block.0).collect();
    assert_eq!((bytes, starts.len()), (reported * PAGE_SIZE as u64, known.free.len()));
    // All but the small zone, which has no blocks to spare.
    assert!(reported > guest.mm.free_pages_total() / 2, "{reported} pages");
}

/// What free pages hold is told; without that nothing is reported.
#[test]
fn free_pages_that_hold_something() {
    for (config, byte) in [
        (Config { page_poison: true, ..Config::default() }, 0xaa),
        (Config { init_on_free: true, ..Config::default() }, 0),
    ] {
        for offered in [USUAL, USUAL | FEATURE_PAGE_POISON] {
            let poison = offered & FEATURE_PAGE_POISON != 0;
            let mut guest = Guest::try_on(machine(&config), offered, COUNTED).expect("honest");
            assert_eq!(guest.driver.reports(), poison);
            let expected = if poison { u32::from_le_bytes([byte; 4]) } else { 0 };
            assert_eq!(guest.poison_val(), expected);
            let registered = guest.mm.report_register(guest.driver, None);
            match poison {
                true => assert_eq!(registered, Ok(())),
                false => {
                    assert_eq!(registered, Err(RegisterError::Pattern(byte)));
                    assert_eq!(guest.mm.report_now().err(), Some(NoPass::NoDevice));
                }
            }
            guest.want(2000);
            guest.settle().expect("honest");
            guest.check();
            guest.want(0);
            guest.settle().expect("honest");
            guest.check();
        }
    }
}
