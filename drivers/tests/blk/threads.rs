//! Several threads at one disk.

use crate::device::disk;
use mm::block::{BlockDevice, BlockRead, BlockWrite, IoFailed};
use mm::types::PAGE_SIZE;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const THREADS: usize = 4;

/// What thread `who` writes to a block in round `round`.
fn content(who: usize, block: u64, round: usize) -> [u8; PAGE_SIZE] {
    let mut page = [0; PAGE_SIZE];
    for (at, word) in page.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *word = ((who << 56 | (block as usize) << 32 | round << 16 | at) as u64).to_le_bytes();
    }
    page
}

#[test]
fn each_gets_what_it_has_written() {
    let (driver, shared, _) = disk(THREADS * 64);
    shared.lock().backwards = true;
    std::thread::scope(|scope| {
        for who in 0..THREADS {
            let driver = &driver;
            scope.spawn(move || {
                let blocks = (who as u64 * 64)..(who as u64 * 64 + 64);
                for round in 0..8 {
                    let pages: Vec<_> =
                        blocks.clone().map(|block| content(who, block, round)).collect();
                    let mut batch: Vec<_> = blocks
                        .clone()
                        .zip(&pages)
                        .map(|(block, page)| BlockWrite::new(block, page))
                        .collect();
                    // Single ones and runs.
                    if round % 2 == 0 {
                        batch.sort_by_key(|one| one.block % 7);
                    }
                    driver.write_batch(&mut batch);
                    assert!(batch.iter().all(|one| one.result == Ok(())));
                    let mut got = vec![[0; PAGE_SIZE]; 64];
                    let mut batch: Vec<_> = blocks
                        .clone()
                        .zip(&mut got)
                        .map(|(block, page)| BlockRead::new(block, page))
                        .collect();
                    driver.read_batch(&mut batch);
                    assert!(batch.iter().all(|one| one.result == Ok(())));
                    assert!(got == pages, "thread {who}, round {round}");
                }
            });
        }
    });
    driver.free();
}

#[test]
fn all_are_told_when_the_device_goes() {
    let (driver, shared, handle) = disk(64);
    let failed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for who in 0..THREADS {
            let (driver, failed) = (&driver, &failed);
            scope.spawn(move || {
                let mut got = [0; PAGE_SIZE];
                // Whatever the others find, this one finds the end as well.
                while driver.read(who as u64, &mut got) != Err(IoFailed) {
                    std::thread::yield_now();
                }
                failed.fetch_add(1, Relaxed);
            });
        }
        shared.lock().hold = 2;
        handle.with(|board| board.gone = true);
    });
    assert_eq!((failed.load(Relaxed), handle.log().len()), (THREADS, 1));
    driver.free();
}
