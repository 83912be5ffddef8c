//! Disks that fail as a whole, go, or lie.

use crate::device::{Driver, Shared, USUAL, config, disk, open};
use drivers::blk::{FEATURE_BLK_SIZE, FEATURE_SEG_MAX};
use drivers::model::{Board, Handle, Script, dma_pages, fail_allocations};
use drivers::{Error, Fault};
use mm::block::{BlockDevice, BlockRead, IoFailed};
use mm::types::PAGE_SIZE;

fn page(byte: u8) -> [u8; PAGE_SIZE] {
    [byte; PAGE_SIZE]
}

/// Does with each request what it says, given how many there were before.
struct Liar(Lie, u32);

type Lie = fn(&mut Board, u32);

impl Script for Liar {
    fn work(&mut self, board: &mut Board) {
        if board.was_rung(0) {
            (self.0)(board, self.1);
            self.1 += 1;
        }
    }
}

fn liar(lie: Lie) -> (Driver, Handle) {
    let (driver, handle) = open(Liar(lie, 0), USUAL, &config(512, 16, 512, 0));
    (driver.expect("it begins well"), handle)
}

/// Answers with a status, having written `len` bytes, it says.
fn answer(board: &mut Board, status: u8, extra: u32) {
    while let Some(chain) = board.next(0) {
        let room: u32 = chain.parts().iter().filter(|it| it.2).map(|it| it.1).sum();
        let mut bytes = vec![5; room as usize];
        *bytes.last_mut().expect("a status") = status;
        chain.write(board, &bytes);
        board.push_used(0, chain.id(), room + extra);
    }
}

#[test]
fn each_lie_ends_the_device_and_nothing_else() {
    let lies: [(Lie, &str); 7] = [
        (|board, _| answer(board, 3, 0), "answers with a status that there is not"),
        (|board, _| answer(board, 0xff, 0), "answers with a status that there is not"),
        (|board, _| answer(board, 0, 1), "says it wrote"),
        (|board, _| board.push_used(0, 77, 1), "gives back buffer 77"),
        (|board, _| board.set_used_index(0, 9), "says it used 9 buffers"),
        (|board, _| board.needs_reset = true, "says that it has failed"),
        (|_, _| (), "has not answered for 30000 ms"),
    ];
    for (lie, says) in lies {
        let before = dma_pages();
        let (driver, handle) = liar(lie);
        let mut got = page(1);
        assert_eq!(driver.read(3, &mut got), Err(IoFailed), "{says}");
        let log = handle.log();
        assert_eq!(log.len(), 1, "{log:?}");
        assert!(log[0].contains(says) && log[0].ends_with("shut off"), "{log:?}, not {says}");
        // Nothing is asked of it any more.
        let index = handle.with(|board| board.used_index(0));
        assert_eq!((driver.write(3, &got), driver.flush()), (Err(IoFailed), Err(IoFailed)));
        driver.discard(0..4);
        assert_eq!(handle.with(|board| board.used_index(0)), index);
        driver.free();
        assert_eq!(dma_pages(), before, "{says}");
    }
}

#[test]
fn a_device_that_goes_fails_all_that_it_has() {
    let (driver, handle) =
        liar(|board, before| if before < 2 { answer(board, 0, 0) } else { board.gone = true });
    let mut got = [page(1), page(1)];
    assert_eq!(driver.read(1, &mut got[0]), Ok(()));
    assert_eq!(driver.read(2, &mut got[0]), Ok(()));
    let mut batch: Vec<_> =
        got.iter_mut().zip([3, 9]).map(|(page, block)| BlockRead::new(block, page)).collect();
    driver.read_batch(&mut batch);
    assert!(batch.iter().all(|one| one.result == Err(IoFailed)));
    assert_eq!(driver.device().fault(), Some(Fault::Gone));
    assert_eq!(handle.log().len(), 1);
    driver.free();
}

#[test]
fn what_a_device_may_write_to_yet_is_not_given_back() {
    /// Takes requests and does nothing; after a while it can be cut off.
    struct Stubborn(u32);
    impl Script for Stubborn {
        fn work(&mut self, board: &mut Board) {
            self.0 += 1;
            let looks = if board.is_started() { 4_000 } else { u32::MAX };
            board.obeys_cut_off = self.0 > looks;
        }
    }
    let before = dma_pages();
    let (driver, handle) = open(Stubborn(0), USUAL, &config(512, 16, 512, 0));
    let driver = driver.expect("it begins well");
    handle.with(|board| {
        board.obeys_cut_off = false;
        board.obeys_reset = false;
    });
    let mut got = page(1);
    // Comes back when the device has no access any more, and not before.
    assert_eq!(driver.read(3, &mut got), Err(IoFailed));
    assert!(driver.device().is_quiet() && !handle.with(|board| board.has_memory()));
    let log = handle.log();
    assert!(log[0].ends_with("and cannot be kept from memory"), "{log:?}");
    assert!(log[1].ends_with("is quiet at last"), "{log:?}");
    driver.free();
    assert_eq!(dma_pages(), before);
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    let before = dma_pages();
    let short = &config(64, 1, 512, 0)[..16];
    let huge = config(u64::MAX, 1, 512, 0);
    for (config, features) in [(short, FEATURE_SEG_MAX | FEATURE_BLK_SIZE), (&huge[..], 0)] {
        let (driver, handle) = open(Shared::new(8), features, config);
        assert!(matches!(driver, Err(Error::Broken { quiet: true, .. })), "{driver:?}");
        assert!(handle.log().last().is_some_and(|line| line.ends_with("shut off")));
    }
    // The first fields alone are enough where nothing else was agreed on.
    let (driver, _) = open(Shared::new(64), 0, short);
    driver.expect("a disk").free();
    assert_eq!(dma_pages(), before);
}

#[test]
fn without_memory_there_is_no_driver_and_nothing_is_lost() {
    let before = dma_pages();
    for left in 0.. {
        fail_allocations(Some(left));
        let (driver, handle) = open(Shared::new(64), USUAL, &config(64, 4, 512, 0));
        fail_allocations(None);
        match driver {
            Err(error) => assert_eq!(error, Error::NoMemory),
            Ok(driver) => {
                assert!(left >= 3, "words, a page to copy by, the rings");
                driver.free();
                break;
            }
        }
        assert!(!handle.with(|board| board.is_started()));
        assert_eq!(dma_pages(), before);
    }
    assert_eq!(dma_pages(), before);
}

#[test]
fn requests_that_are_left_lying_shut_it_off_in_time() {
    let (driver, shared, handle) = disk(64);
    shared.lock().hold = 1;
    let mut got = [page(1), page(1)];
    let mut batch: Vec<_> =
        got.iter_mut().zip([3, 9]).map(|(page, block)| BlockRead::new(block, page)).collect();
    driver.read_batch(&mut batch);
    assert!(batch.iter().all(|one| one.result == Err(IoFailed)));
    let ms = handle.with(|board| board.now_ms());
    assert!((30_000..40_000).contains(&ms), "{ms} ms");
    driver.free();
}
