//! Devices that lie, go or stop answering: the guest has its memory again, or
//! at least never shares it.

use crate::device::{COUNTED, Guest, Honest, USUAL, board, machine};
use drivers::balloon::{FEATURE_REPORTING, FEATURE_STATS_VQ, Next, VirtioBalloon};
use drivers::model::{Board, Script, dma_pages, fail_allocations};
use drivers::{Env, Error, Fault};
use mm::balloon::{Balloon, HostFailed};
use mm::host::Machine;
use mm::report::{ReportDevice, ReportFailed};
use mm::types::{Pfn, PfnRange};
use mm::{Config, Mm};

type Trick = fn(&mut Board, u16);

/// An honest device that does something else with its `nth` request, and from
/// then on.
struct Turns {
    honest: Honest,
    trick: Trick,
    left: u32,
    queues: [u16; 2],
}

impl Script for Turns {
    fn work(&mut self, board: &mut Board) {
        for queue in self.queues {
            if board.was_rung(queue) {
                if self.left == 0 {
                    (self.trick)(board, queue);
                    return;
                }
                self.left -= 1;
            }
        }
        if self.left > 0 {
            self.honest.work(board);
        }
    }
}

const TRICKS: [(&str, Trick); 9] = [
    ("never answers", |_, _| ()),
    ("runs ahead", |board, queue| {
        let used = board.used_index(queue);
        board.set_used_index(queue, used.wrapping_add(100));
    }),
    ("runs back", |board, queue| {
        let used = board.used_index(queue);
        board.set_used_index(queue, used.wrapping_sub(1));
    }),
    ("gives back what it has not got", |board, queue| board.push_used(queue, 77, 0)),
    ("writes where it may not", |board, queue| {
        if let Some(chain) = board.next(queue) {
            board.push_used(queue, chain.id(), 4);
        }
    }),
    ("gives back twice", |board, queue| {
        if let Some(chain) = board.next(queue) {
            board.push_used(queue, chain.id(), 0);
            board.push_used(queue, chain.id(), 0);
        }
    }),
    ("fails", |board, _| board.needs_reset = true),
    ("goes", |board, _| board.gone = true),
    ("flaps", |board, _| board.config_flaps = true),
];

/// Rounds until the device is at its end, while the host changes its mind.
fn to_the_end(guest: &mut Guest) -> Error {
    for round in 0..60 {
        guest.want([3000, 100, 0][round % 3]);
        match guest.settle() {
            Ok(next) => guest.wait(next),
            Err(error) => return error,
        }
    }
    panic!("it works for ever");
}

#[test]
fn each_trick_at_each_time() {
    for (name, trick) in TRICKS {
        for left in [1, 2, 13, 14, 25, 26] {
            let mut guest = Guest::new(USUAL);
            let (free, managed) = (guest.free(), guest.mm.managed_pages());
            let honest = guest.device.clone();
            guest.handle.set_script(Turns { honest, trick, left, queues: [0, 1] });
            let error = to_the_end(&mut guest);
            assert!(matches!(error, Error::Broken { quiet: true, .. }), "{name}: {error:?}");
            guest.end();
            assert_eq!(guest.balloon.size(), 0, "{name} after {left}");
            assert_eq!((guest.free(), guest.mm.managed_pages()), (free, managed), "{name}");
            guest.mm.audit().expect("whole");
            let log = guest.handle.log();
            let errors = log.iter().filter(|line| line.starts_with("Error")).count();
            assert_eq!(errors, 1, "{name}: {log:?}");
        }
    }
}

/// A device that cannot be shut off keeps what it was told of.
#[test]
fn a_device_that_cannot_be_shut_off() {
    for left in [1, 5, 13, 14, 20] {
        let mut guest = Guest::new(USUAL);
        let free = guest.free();
        let honest = guest.device.clone();
        guest.handle.with(|board| (board.obeys_reset, board.obeys_cut_off) = (false, false));
        guest.handle.set_script(Turns { honest, trick: |_, _| (), left, queues: [0, 1] });
        let error = to_the_end(&mut guest);
        assert!(matches!(error, Error::Broken { quiet: false, .. }), "{error:?}");
        guest.end();
        let kept = guest.balloon.size();
        assert_eq!(guest.free(), free - kept);
        let known = guest.device.known.lock().expect("ours");
        for &pfn in &known.lent {
            let page = guest.mm.map().try_page(Pfn(pfn.into())).expect("RAM");
            assert!(page.head().ty().is_allocated(), "{pfn:#x}");
        }
        assert_eq!(guest.mm.audit().expect("whole").balloon, kept);
    }
}

/// Devices whose very features or queues are wrong.
#[test]
fn devices_that_do_not_come_up() {
    let mm: &'static Mm<Machine> = machine(&Config::default());
    let before = dma_pages();
    for (sizes, fault) in [
        (&[][..], Fault::NoQueue(0)),
        (&[128], Fault::NoQueue(1)),
        (&[128, 128], Fault::NoQueue(2)),
        (&[128, 128, 128], Fault::NoQueue(3)),
        (&[2, 128, 128, 32], Fault::QueueTooSmall { queue: 0, has: 2, needs: 4 }),
        (&[128, 128, 128, 16], Fault::QueueTooSmall { queue: 3, has: 16, needs: 32 }),
    ] {
        let (link, env, handle, _) = board(USUAL, sizes);
        let result = VirtioBalloon::<_, _, drivers::model::HostMemory, _>::new(0, link, env, mm);
        assert_eq!(result.err(), Some(Error::Broken { fault, quiet: true }));
        assert_eq!(handle.log().len(), 1);
    }
    for left in 0..12 {
        let (link, env, ..) = board(USUAL, COUNTED);
        fail_allocations(Some(left));
        let result = VirtioBalloon::<_, _, drivers::model::HostMemory, _>::new(0, link, env, mm);
        fail_allocations(None);
        match result {
            Err(error) => assert_eq!(error, Error::NoMemory, "{left}"),
            Ok((driver, service)) => {
                assert!(left >= 8, "{left}");
                core::mem::forget((driver, service));
                return assert!(dma_pages() > before);
            }
        }
        assert_eq!(dma_pages(), before, "after {left} allocations");
    }
    panic!("it never has enough");
}

/// A configuration that is missing or never stands still.
#[test]
fn a_configuration_that_is_nonsense() {
    for cut in [0, 3, 7] {
        let mut guest = Guest::new(USUAL);
        guest.want(1000);
        guest.settle().expect("honest");
        guest.handle.with(|board| board.config.truncate(cut));
        let error = guest.settle().expect_err("nothing to be read");
        assert!(
            matches!(error, Error::Broken { fault: Fault::ConfigTooSmall(_), .. }),
            "{error:?}"
        );
        guest.end();
        assert_eq!(guest.balloon.size(), 0);
    }
}

/// Questions without end are answered now and then, and lies found out.
#[test]
fn a_device_that_asks_too_much() {
    struct Asks(Honest, u32);
    impl Script for Asks {
        fn work(&mut self, board: &mut Board) {
            self.0.work(board);
            if let Some(kept) = self.0.known.lock().expect("ours").kept.take() {
                self.1 += 1;
                board.push_used(2, kept.id(), 0);
            }
        }
    }
    let mut guest = Guest::new(USUAL);
    guest.handle.set_script(Asks(guest.device.clone(), 0));
    let before = guest.driver.device().env().now_ms();
    for _ in 0..50 {
        let next = guest.settle().expect("no lie");
        guest.wait(next);
    }
    let ms = guest.driver.device().env().now_ms() - before;
    let answers = guest.device.known.lock().expect("ours").answers.len() as u64;
    assert!(answers > 10 && answers <= 2 + ms / 100, "{answers} answers in {ms} ms");
    // And one that says it wrote into the answer.
    guest.handle.set_script(guest.device.clone());
    let mut guest = Guest::new(FEATURE_STATS_VQ);
    let kept = guest.device.known.lock().expect("ours").kept.take().expect("primed");
    guest.handle.with(|board| board.push_used(2, kept.id(), 1));
    guest.wait(Next::Within(500));
    let error = guest.settle().expect_err("a lie");
    assert_eq!(
        error,
        Error::Broken { fault: Fault::UsedLen { queue: 2, len: 1, room: 0 }, quiet: true }
    );
    guest.end();
}

/// Reporting: what the device does wrong ends the device, and no block.
#[test]
fn a_device_that_is_told_what_is_free() {
    for (name, trick) in TRICKS {
        let guest = Guest::new(FEATURE_REPORTING);
        let honest = guest.device.clone();
        guest.handle.set_script(Turns { honest, trick, left: 0, queues: [3, 3] });
        let block = PfnRange::sized(Pfn(1 << 11), 512);
        let told = guest.driver.report(&[block; 3]);
        match name {
            // Of so much room it may say that it wrote 4 bytes; and nobody looks
            // at the configuration here.
            "writes where it may not" => assert_eq!(told, Ok(())),
            _ => assert_eq!(told, Err(ReportFailed::Gone), "{name}"),
        }
        assert!(guest.driver.report(&[block; 33]).is_err());
    }
}

/// One that cannot be shut off says so soon enough, and is seen to be quiet once
/// it is.
#[test]
fn a_device_that_keeps_what_it_is_told_is_free() {
    for gone in [false, true] {
        let mut guest = Guest::new(USUAL);
        guest.want(600);
        guest.settle().expect("honest");
        let free = guest.free();
        let honest = guest.device.clone();
        guest.handle.with(|board| (board.obeys_reset, board.obeys_cut_off) = (false, false));
        guest.handle.set_script(Turns { honest, trick: |_, _| (), left: 0, queues: [3, 3] });
        let device = guest.driver.device();
        let before = device.env().now_ms();
        guest.mm.report_register(guest.driver, None).expect("the first");
        assert_eq!(guest.mm.report_now(), Ok(0));
        let ms = device.env().now_ms() - before;
        assert!(ms <= 60_000, "{ms} ms");
        let audit = guest.mm.audit().expect("whole");
        assert!(audit.lost > 0 && guest.free() == free - audit.lost);
        assert_eq!(guest.mm.report_stats().lost_pages, audit.lost);
        guest.settle().expect_err("it is broken");
        guest.end();
        assert_eq!(guest.balloon.size(), 600);
        assert!(!device.look_again() && !device.is_quiet());
        // Somebody resets it, or pulls it out.
        guest.handle.with(|board| {
            (board.obeys_reset, board.gone) = (true, gone);
            board.reset();
        });
        assert!(device.look_again() && device.is_quiet());
        assert_eq!(guest.mm.report_recover(), audit.lost);
        guest.balloon.recover(guest.mm);
        assert_eq!((guest.balloon.size(), guest.free()), (0, free + 600));
        assert_eq!(guest.mm.audit().expect("whole").lost, 0);
        let again = guest.balloon.attach(guest.mm, guest.driver, guest.driver.terms());
        assert_eq!(again, Ok(()), "a free balloon");
    }
}

/// The balloon learns from whoever notices first.
#[test]
fn a_device_that_breaks_while_pages_move() {
    let mut guest = Guest::new(USUAL);
    let free = guest.free();
    guest.want(1000);
    guest.settle().expect("honest");
    guest.handle.set_script(Turns {
        honest: guest.device.clone(),
        trick: |_, _| (),
        left: 3,
        queues: [0, 1],
    });
    let lent = *guest.device.known.lock().expect("ours").lent.first().expect("many");
    let range = PfnRange::sized(Pfn(lent.into()).pageblock(), 512);
    let _ = guest.mm.alloc_contig_range(range, mm::Gfp::KERNEL | mm::Gfp::NOWARN).map(|range| {
        guest.mm.free_contig_range(range).expect("ours");
    });
    assert!(guest.mm.stats().get(mm::stats::Event::BalloonMigrate) > 0);
    let balloon: &Balloon<Machine> = guest.balloon;
    let left = balloon.deflate(guest.mm, 1);
    assert!(left == Err(HostFailed::Gone) || left == Ok(0), "{left:?}");
    guest.settle().expect_err("it is broken");
    guest.end();
    assert_eq!((balloon.size(), guest.free()), (0, free));
    guest.mm.audit().expect("whole");
}
