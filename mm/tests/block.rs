//! Disks of the host, and swap on a disk.

use mm::block::{BlockDevice, BlockRead, BlockWrite, IoFailed, SwapOnBlock, WriteFailed};
use mm::host::disk::RamDisk;
use mm::host::swap::FailPlan;
use mm::swap::SwapDevice;
use mm::types::PAGE_SIZE;

fn page(byte: u8) -> [u8; PAGE_SIZE] {
    [byte; PAGE_SIZE]
}

#[test]
fn what_is_written_is_read_and_the_rest_is_zero() {
    let disk = RamDisk::new("/dev/vda", 8);
    let mut got = page(9);
    assert_eq!(disk.read(3, &mut got), Ok(()));
    assert_eq!(got, page(0));
    assert_eq!(disk.write(3, &page(5)), Ok(()));
    assert_eq!(disk.read(3, &mut got), Ok(()));
    assert_eq!(got, page(5));
    assert_eq!((disk.read(8, &mut got), disk.write(8, &got)), (Err(IoFailed), Err(IoFailed)));
}

#[test]
fn only_what_was_flushed_outlives_a_loss_of_power() {
    let disk = RamDisk::new("/dev/vda", 8);
    assert_eq!(disk.write(1, &page(1)), Ok(()));
    assert_eq!(disk.flush(), Ok(()));
    assert_eq!(disk.write(1, &page(2)), Ok(()));
    assert_eq!(disk.write(2, &page(3)), Ok(()));
    disk.fail_flushes(FailPlan::Nth(1));
    assert_eq!(disk.flush(), Err(IoFailed));
    assert_eq!(*disk.peek(1), page(2));
    disk.cut_power();
    assert_eq!((*disk.peek(1), *disk.peek(2)), (page(1), page(0)));
}

#[test]
fn each_of_a_batch_has_a_result_of_its_own() {
    let disk = RamDisk::new("/dev/vda", 4);
    disk.fail_writes(FailPlan::Nth(2));
    let pages = [page(1), page(2), page(3)];
    let mut batch: Vec<_> =
        pages.iter().zip([0, 1, 9]).map(|(page, block)| BlockWrite::new(block, page)).collect();
    disk.write_batch(&mut batch);
    let results: Vec<_> = batch.iter().map(|one| one.result).collect();
    assert_eq!(results, [Ok(()), Err(WriteFailed::Io), Err(WriteFailed::Io)]);
    let mut got = [page(7), page(7)];
    let mut batch: Vec<_> =
        got.iter_mut().zip([0, 4]).map(|(page, block)| BlockRead::new(block, page)).collect();
    disk.read_batch(&mut batch);
    let results: Vec<_> = batch.iter().map(|one| one.result).collect();
    assert_eq!((results.as_slice(), got[0]), ([Ok(()), Err(IoFailed)].as_slice(), page(1)));
}

#[test]
fn a_disk_swaps_by_blocks_unless_it_cannot_be_written() {
    let disk: &'static RamDisk = Box::leak(Box::new(RamDisk::new("/dev/vda", 8).discarding()));
    let swap = SwapOnBlock::new(disk);
    assert_eq!((swap.name(), swap.slots(), swap.discards()), ("/dev/vda", 8, false));
    let swap = swap.discarding();
    assert!(swap.discards());
    assert_eq!(swap.write(7, &page(4)), Ok(()));
    assert_eq!(*disk.peek(7), page(4));
    swap.discard(6..8);
    assert_eq!((disk.discarded(), *disk.peek(7)), (2, page(0)));
    let disk: &'static RamDisk = Box::leak(Box::new(RamDisk::new("/dev/vdb", 8).read_only()));
    assert_eq!(SwapOnBlock::new(disk).slots(), 0);
    assert_eq!(disk.write(0, &page(1)), Err(IoFailed));
}
