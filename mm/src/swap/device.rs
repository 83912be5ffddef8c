//! What swap asks of the device that the pages go to: compressed memory, a disk,
//! one day a network. Calls nothing but the devices.

use crate::block::{BlockRead, BlockWrite, IoFailed, PageBytes, WriteFailed};
use core::ops::Range;

/// What kind of thing a device is, as `/proc/swaps` says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SwapKind {
    /// A block device.
    Partition,
    /// A file.
    File,
}

/// A device with room for pages, in slots numbered from 0.
///
/// [`read`](Self::read), [`write`](Self::write), their batches and
/// [`discard`](Self::discard) are called with interrupts on and no lock held but
/// those of pages; they may wait for the device. Several may be called at a time,
/// on any CPU, but never two of one slot. They are on the way by which memory is
/// made free: what memory they need they ask for without DIRECT_RECLAIM, or with
/// the rights of `PF_MEMALLOC`, which who writes has.
pub trait SwapDevice: Sync {
    /// Its name, as a path: `/dev/zram0`. The same for as long as it lives.
    fn name(&self) -> &str;

    /// What it is.
    fn kind(&self) -> SwapKind {
        SwapKind::Partition
    }

    /// Slots that it has; asked once, when it is switched on.
    fn slots(&self) -> u32;

    /// Reads slot `slot`, which has been written and not discarded since.
    ///
    /// # Errors
    /// When it cannot; `page` may hold anything then.
    fn read(&self, slot: u32, page: &mut PageBytes) -> Result<(), IoFailed>;

    /// Writes slot `slot`. When it returns, the content is the device's.
    ///
    /// # Errors
    /// When it does not: the slot holds nothing then. After a failure it will not
    /// be used again.
    fn write(&self, slot: u32, page: &PageBytes) -> Result<(), WriteFailed>;

    /// Reads several slots, as many at a time as the device can; returns when all
    /// are done, each with a result of its own.
    fn read_batch(&self, batch: &mut [BlockRead<'_>]) {
        for one in batch {
            one.result = slot_of(one.block).and_then(|slot| self.read(slot, one.page));
        }
    }

    /// Writes several slots, as many at a time and in whatever order the device
    /// can; returns when all are done, each with a result of its own. A slot is
    /// there at most once.
    fn write_batch(&self, batch: &mut [BlockWrite<'_>]) {
        for one in batch {
            let slot = slot_of(one.block).map_err(WriteFailed::from);
            one.result = slot.and_then(|slot| self.write(slot, one.page));
        }
    }

    /// Whether it answers at once, without a wait: then nothing is read before
    /// anybody asks.
    fn is_synchronous(&self) -> bool {
        false
    }

    /// Whether there are pages that it refuses. These go to devices that do not,
    /// whatever the priorities, if there are such.
    fn may_refuse(&self) -> bool {
        false
    }

    /// Whether [`discard`](Self::discard) does anything: if not, slots are free
    /// at once.
    fn discards(&self) -> bool {
        false
    }

    /// What is in `slots` is not needed any more. Some may hold nothing: never
    /// written, or a write failed. Slots are written again only after this
    /// returns. Is only a hint to some devices, so it cannot fail.
    fn discard(&self, _slots: Range<u32>) {}
}

/// The slot that a request of a batch names.
fn slot_of(block: u64) -> Result<u32, IoFailed> {
    u32::try_from(block).map_err(|_| IoFailed)
}
