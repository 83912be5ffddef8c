//! Disks that do what they are asked, as well as they can.

use crate::device::{Shared, USUAL, config, disk, disk_with, open};
use drivers::blk::{Counts, FEATURE_BLK_SIZE, FEATURE_DISCARD, FEATURE_FLUSH, FEATURE_RO};
use drivers::model::dma_pages;
use mm::block::{BlockDevice, BlockRead, BlockWrite, IoFailed, WriteFailed};
use mm::types::PAGE_SIZE;

fn page(byte: u8) -> [u8; PAGE_SIZE] {
    [byte; PAGE_SIZE]
}

/// What the device has at a block.
fn held(shared: &Shared, block: usize) -> u8 {
    let disk = shared.lock();
    let bytes = &disk.bytes[block * PAGE_SIZE..(block + 1) * PAGE_SIZE];
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "block {block} is a mixture");
    bytes[0]
}

#[test]
fn blocks_go_where_they_belong() {
    let before = dma_pages();
    let (driver, shared, handle) = disk(64);
    assert_eq!((driver.name(), driver.blocks(), driver.read_only()), ("/dev/vda", 64, false));
    assert_eq!(driver.write(63, &page(7)), Ok(()));
    assert_eq!((held(&shared, 63), held(&shared, 62)), (7, 0));
    let mut got = page(1);
    assert_eq!(driver.read(63, &mut got), Ok(()));
    assert_eq!(got, page(7));
    // Beyond the end nothing is asked.
    assert_eq!(
        (driver.read(64, &mut got), driver.write(u64::MAX, &got)),
        (Err(IoFailed), Err(IoFailed))
    );
    assert_eq!(shared.lock().seen, [(1, 63 * 8, 4096), (0, 63 * 8, 4096)]);
    assert_eq!(driver.counts(), Counts { reads: 2, writes: 2, failed: 2 });
    assert_eq!(handle.log(), [""; 0]);
    driver.free();
    assert_eq!(dma_pages(), before);
}

#[test]
fn neighbours_share_a_request_and_the_queue_is_filled() {
    let (driver, shared, _) = disk(256);
    // Three runs: 0..40, then single ones, then 100..110.
    let blocks: Vec<u64> = (0..40).chain([60, 50, 70]).chain(100..110).collect();
    let pages: Vec<_> = blocks.iter().map(|block| page(*block as u8)).collect();
    let mut batch: Vec<_> =
        blocks.iter().zip(&pages).map(|(block, page)| BlockWrite::new(*block, page)).collect();
    driver.write_batch(&mut batch);
    assert!(batch.iter().all(|one| one.result == Ok(())));
    for block in &blocks {
        assert_eq!(held(&shared, *block as usize), *block as u8);
    }
    let seen: Vec<_> = shared.lock().seen.iter().map(|it| (it.1 / 8, it.2 / 4096)).collect();
    let runs = [(0, 16), (16, 16), (32, 8), (60, 1), (50, 1), (70, 1), (100, 10)];
    assert_eq!(seen, runs);
    let mut got = vec![page(0xaa); blocks.len()];
    let mut batch: Vec<_> =
        blocks.iter().zip(&mut got).map(|(block, page)| BlockRead::new(*block, page)).collect();
    driver.read_batch(&mut batch);
    assert!(batch.iter().all(|one| one.result == Ok(())));
    assert!(blocks.iter().zip(&got).all(|(block, got)| *got == page(*block as u8)));
    driver.free();
}

#[test]
fn more_than_the_queue_takes_goes_in_turns() {
    let (driver, shared, _) = disk(512);
    // The queue has room for 42 requests of one page.
    let pages: Vec<_> = (0..200).map(|at| page(at as u8)).collect();
    let mut batch: Vec<_> =
        pages.iter().enumerate().map(|(at, page)| BlockWrite::new(2 * at as u64, page)).collect();
    driver.write_batch(&mut batch);
    assert!(batch.iter().all(|one| one.result == Ok(())));
    assert!((0..200).all(|at| held(&shared, 2 * at) == at as u8));
    // Several at a time, that is.
    assert!(shared.lock().most >= 32, "{} at a time", shared.lock().most);
    driver.free();
}

#[test]
fn answers_may_come_in_any_order() {
    let (driver, shared, _) = disk(64);
    shared.lock().backwards = true;
    let pages: Vec<_> = (0..20).map(|at| page(at as u8 + 1)).collect();
    let mut batch: Vec<_> =
        pages.iter().enumerate().map(|(at, page)| BlockWrite::new(3 * at as u64, page)).collect();
    driver.write_batch(&mut batch);
    assert!(batch.iter().all(|one| one.result == Ok(())));
    assert!((0..20).all(|at| held(&shared, 3 * at) == at as u8 + 1));
    driver.free();
}

#[test]
fn a_device_that_takes_one_piece_gets_one() {
    for (features, seg_max) in [(USUAL & !(1 << 2), 99), (USUAL, 1), (USUAL, 0)] {
        let (driver, shared, _) = disk_with(16, features, seg_max);
        assert_eq!(driver.config().segments, 1);
        let pages = [page(1), page(2), page(3)];
        let mut batch: Vec<_> =
            pages.iter().zip(4..).map(|(page, block)| BlockWrite::new(block, page)).collect();
        driver.write_batch(&mut batch);
        assert_eq!(shared.lock().seen, [(1, 32, 4096), (1, 40, 4096), (1, 48, 4096)]);
        driver.free();
    }
}

/// Whatever requests the blocks were asked for in, and whether the device joins
/// these.
#[test]
fn of_what_fails_together_only_the_bad_one_fails() {
    for (seg_max, joins) in [(254, false), (254, true), (5, true), (1, true)] {
        let (driver, shared, handle) = disk_with(64, USUAL, seg_max);
        shared.lock().bad.extend([5, 9]);
        shared.lock().joins = joins;
        let blocks: Vec<u64> = (0..16).chain([40]).collect();
        let pages: Vec<_> = blocks.iter().map(|&block| page(block as u8 + 1)).collect();
        let mut batch: Vec<_> =
            blocks.iter().zip(&pages).map(|(&block, page)| BlockWrite::new(block, page)).collect();
        driver.write_batch(&mut batch);
        for one in &batch {
            let expected = if [5, 9].contains(&one.block) { Err(WriteFailed::Io) } else { Ok(()) };
            assert_eq!(one.result, expected, "block {}, {seg_max} pieces", one.block);
        }
        let good = || blocks.iter().filter(|at| ![5, 9].contains(*at));
        assert!(good().all(|&at| held(&shared, at as usize) == at as u8 + 1));
        let mut got = vec![page(0); blocks.len()];
        let mut batch: Vec<_> =
            blocks.iter().zip(&mut got).map(|(&block, page)| BlockRead::new(block, page)).collect();
        driver.read_batch(&mut batch);
        let failed = batch.iter().filter(|it| it.result.is_err());
        assert_eq!(failed.map(|it| it.block).collect::<Vec<_>>(), [5, 9], "{seg_max} pieces");
        assert_eq!(driver.counts(), Counts { reads: 17, writes: 17, failed: 4 });
        // A bad sector is nothing that the device would be shut off for.
        assert_eq!((handle.log(), driver.write(1, &pages[0])), (vec![], Ok(())));
        driver.free();
    }
}

#[test]
fn a_flush_is_asked_for_where_there_is_a_cache() {
    let (driver, shared, _) = disk(8);
    assert_eq!(driver.flush(), Ok(()));
    assert_eq!(shared.lock().flushes, 1);
    shared.lock().unsupported = Some(4);
    assert_eq!(driver.flush(), Err(IoFailed));
    driver.free();
    let (driver, shared, _) = disk_with(8, USUAL & !FEATURE_FLUSH, 4);
    assert!(!driver.has_cache());
    assert_eq!((driver.flush(), shared.lock().seen.len()), (Ok(()), 0));
    driver.stop();
    assert_eq!(driver.flush(), Err(IoFailed));
    driver.free();
}

#[test]
fn discards_are_as_long_as_the_device_takes() {
    let (driver, shared, _) = disk(64);
    assert!(driver.discards());
    driver.discard(3..23);
    assert_eq!(shared.lock().discarded, [(24, 64), (88, 64), (152, 32)]);
    driver.discard(60..100);
    assert_eq!(shared.lock().discarded.last(), Some(&(480, 32)));
    shared.lock().unsupported = Some(11);
    driver.discard(0..64);
    // Asked once, and believed.
    assert_eq!(shared.lock().seen.iter().filter(|it| it.0 == 11).count(), 5);
    driver.free();
    let (driver, shared, _) = disk_with(64, USUAL & !FEATURE_DISCARD, 4);
    driver.discard(0..64);
    assert!(!driver.discards() && shared.lock().seen.is_empty());
    driver.free();
}

#[test]
fn a_disk_that_cannot_be_written_is_not() {
    let (driver, shared, _) = disk_with(8, USUAL | FEATURE_RO, 4);
    shared.lock().bytes[4096..8192].fill(9);
    let mut got = page(0);
    assert!(driver.read_only() && !driver.discards());
    assert_eq!((driver.write(1, &page(1)), driver.read(1, &mut got)), (Err(IoFailed), Ok(())));
    assert_eq!((got, shared.lock().seen.len()), (page(9), 1));
    driver.free();
}

#[test]
fn sizes_are_cut_off_at_whole_blocks() {
    for (sectors, blocks) in [(0, 0), (1, 0), (7, 0), (8, 1), (15, 1), (2047, 255)] {
        let config = config(sectors, 4, 512, 0);
        let (driver, _) = open(Shared::new(sectors as usize), USUAL, &config);
        let driver = driver.expect("a disk");
        assert_eq!(driver.blocks(), blocks, "{sectors} sectors");
        let mut got = page(0);
        assert_eq!(driver.read(blocks, &mut got), Err(IoFailed));
        if let Some(last) = blocks.checked_sub(1) {
            assert_eq!(driver.read(last, &mut got), Ok(()));
        }
        // No limit was said.
        assert_eq!(driver.config().discard_sectors, Some(u32::MAX));
        driver.free();
    }
}

#[test]
fn sizes_may_change() {
    let (driver, shared, handle) = disk(8);
    let set = |sectors| handle.with(|board| board.set_config(&config(sectors, 254, 512, 64)));
    assert!(!driver.look_at_size());
    shared.lock().bytes.resize(16 * PAGE_SIZE, 0);
    set(16 * 8);
    // It is looked at when somebody wants to know.
    assert_eq!((driver.blocks(), driver.write(15, &page(3))), (8, Err(IoFailed)));
    assert!(driver.look_at_size() && !driver.look_at_size());
    assert_eq!((driver.blocks(), driver.write(15, &page(3))), (16, Ok(())));
    shared.lock().bytes.truncate(4 * PAGE_SIZE);
    set(4 * 8);
    // The device knows already.
    assert_eq!(driver.write(4, &page(3)), Err(IoFailed));
    assert!(driver.look_at_size());
    assert_eq!((driver.blocks(), driver.write(3, &page(3))), (4, Ok(())));
    // Nonsense, or nothing any more.
    set(u64::MAX);
    assert!(!driver.look_at_size());
    driver.stop();
    set(64);
    assert_eq!((driver.look_at_size(), driver.blocks()), (false, 4));
    driver.free();
}

#[test]
fn blocks_of_the_device_larger_than_a_page_cannot_be_written() {
    for (bytes, fits) in [(512, true), (4096, true), (8192, false), (0, false), (520, false)] {
        let before = dma_pages();
        let config = config(64, 4, bytes, 0);
        let (driver, handle) = open(Shared::new(64), FEATURE_BLK_SIZE, &config);
        assert_eq!(driver.is_ok(), fits, "{bytes} bytes");
        if let Ok(driver) = driver {
            driver.free();
        } else {
            assert_eq!(
                handle.log()[0],
                format!("Info: virtio0: Block has blocks of {bytes} bytes")
            );
        }
        assert_eq!(dma_pages(), before);
    }
}

#[test]
fn a_disk_that_was_stopped_fails_what_it_is_asked() {
    let (driver, shared, _) = disk(8);
    assert_eq!(driver.write(1, &page(1)), Ok(()));
    driver.stop();
    let mut got = page(0);
    assert_eq!(
        (driver.write(1, &page(2)), driver.read(1, &mut got)),
        (Err(IoFailed), Err(IoFailed))
    );
    assert_eq!((driver.blocks(), held(&shared, 1)), (8, 1));
    driver.discard(0..8);
    driver.stop();
    driver.free();
}
