//! What the manager asks of a disk: blocks as large as a page, read and written
//! whole. The page cache stands on it, and swap by [`SwapOnBlock`]. Calls
//! nothing but the devices.

use crate::swap::{SwapDevice, SwapKind};
use crate::types::PAGE_SIZE;
use core::fmt;
use core::ops::Range;

/// A page's content, or a block's.
pub type PageBytes = [u8; PAGE_SIZE];

/// The device could not do it. What was to be written may be there, in part
/// even; what was to be read cannot be had, now at least.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoFailed;

impl fmt::Display for IoFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the device has failed")
    }
}

impl core::error::Error for IoFailed {}

/// Why a page was not written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteFailed {
    /// The device is well, but does not take this page, or not now: it is
    /// compressed memory, and the page does not get smaller, or there is none.
    /// No disk says that.
    Refused,
    /// The device could not do it.
    Io,
}

impl From<IoFailed> for WriteFailed {
    fn from(_: IoFailed) -> Self {
        Self::Io
    }
}

impl fmt::Display for WriteFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("the device does not take the page"),
            Self::Io => IoFailed.fmt(f),
        }
    }
}

impl core::error::Error for WriteFailed {}

/// One of several reads.
#[derive(Debug)]
pub struct BlockRead<'a> {
    /// Which block, or slot.
    pub block: u64,
    /// Where its content goes; anything may be there if it fails.
    pub page: &'a mut PageBytes,
    /// What became of it: written by the device, whatever it was before.
    pub result: Result<(), IoFailed>,
}

impl<'a> BlockRead<'a> {
    /// A read that is still to be done.
    pub fn new(block: u64, page: &'a mut PageBytes) -> Self {
        Self { block, page, result: Err(IoFailed) }
    }
}

/// One of several writes.
#[derive(Debug)]
pub struct BlockWrite<'a> {
    /// Which block, or slot.
    pub block: u64,
    /// What goes there.
    pub page: &'a PageBytes,
    /// What became of it: written by the device, whatever it was before.
    pub result: Result<(), WriteFailed>,
}

impl<'a> BlockWrite<'a> {
    /// A write that is still to be done.
    pub const fn new(block: u64, page: &'a PageBytes) -> Self {
        Self { block, page, result: Err(WriteFailed::Io) }
    }
}

/// A disk, in blocks of [`PAGE_SIZE`] bytes numbered from 0. What is left over at
/// its end, less than a block, cannot be reached.
///
/// All but [`name`](Self::name), [`blocks`](Self::blocks) and the questions what
/// it can do are called with interrupts on and no lock held but, maybe, those of
/// the pages; they may wait for the device, and return in bounded time whatever
/// it does. Any number may be called at a time, on any CPU; of two at one block
/// at a time, one of which writes, the outcome is either's, or a mixture. They are
/// on the way by which memory is made free: what memory they need they have had
/// since before, or ask for without DIRECT_RECLAIM, or with the rights of
/// `PF_MEMALLOC`, which the caller has.
///
/// Pages are those of the machine's RAM, or anything else that the caller can
/// reach: a device that wants an address it can use itself copies what it has to.
pub trait BlockDevice: Sync {
    /// Its name, as a path: `/dev/vda`. The same for as long as it lives.
    fn name(&self) -> &str;

    /// Blocks that it has. A device that has been taken away keeps its size, and
    /// fails whatever it is asked.
    fn blocks(&self) -> u64;

    /// Whether it cannot be written: every write fails.
    fn read_only(&self) -> bool {
        false
    }

    /// Reads a block. One that was never written holds whatever the device says.
    ///
    /// # Errors
    /// When it cannot, or there is no such block; `page` may hold anything then.
    fn read(&self, block: u64, page: &mut PageBytes) -> Result<(), IoFailed>;

    /// Writes a block. When it returns reads give that content; it outlives a
    /// loss of power only after a [`flush`](Self::flush).
    ///
    /// # Errors
    /// When it cannot, there is no such block, or the device cannot be written.
    /// The block holds the old content then, or the new one, or part of both.
    fn write(&self, block: u64, page: &PageBytes) -> Result<(), IoFailed>;

    /// Reads several blocks, as many at a time as the device can; returns when
    /// all are done, each with a result of its own.
    fn read_batch(&self, batch: &mut [BlockRead<'_>]) {
        for one in batch {
            one.result = self.read(one.block, one.page);
        }
    }

    /// Writes several blocks, as many at a time and in whatever order the device
    /// can; returns when all are done, each with a result of its own. A block is
    /// there at most once.
    fn write_batch(&self, batch: &mut [BlockWrite<'_>]) {
        for one in batch {
            one.result = self.write(one.block, one.page).map_err(WriteFailed::from);
        }
    }

    /// Has all that was written before outlive a loss of power. A device without
    /// a cache of its own has nothing to do.
    ///
    /// # Errors
    /// When it cannot: any of it may be lost.
    fn flush(&self) -> Result<(), IoFailed> {
        Ok(())
    }

    /// Whether [`discard`](Self::discard) does anything.
    fn discards(&self) -> bool {
        false
    }

    /// What is in `blocks` is not needed any more, and may be anything when it is
    /// read. Only a hint, so it cannot fail.
    fn discard(&self, _blocks: Range<u64>) {}
}

/// A disk as a device to swap to: a slot is a block.
#[derive(Clone, Copy)]
pub struct SwapOnBlock {
    disk: &'static dyn BlockDevice,
    discards: bool,
}

impl fmt::Debug for SwapOnBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SwapOnBlock").field(&self.disk.name()).finish()
    }
}

impl SwapOnBlock {
    /// Swap on that disk, which nobody else may write to while it is on. The disk
    /// is not told of slots that are not needed any more: that would be a request
    /// more for most of them.
    pub const fn new(disk: &'static dyn BlockDevice) -> Self {
        Self { disk, discards: false }
    }

    /// The same, the disk being told if it wants to know (as `swapon --discard`).
    #[must_use]
    pub const fn discarding(self) -> Self {
        Self { discards: true, ..self }
    }

    /// The disk.
    pub const fn disk(&self) -> &'static dyn BlockDevice {
        self.disk
    }
}

impl SwapDevice for SwapOnBlock {
    fn name(&self) -> &str {
        self.disk.name()
    }

    fn kind(&self) -> SwapKind {
        SwapKind::Partition
    }

    /// None of a disk that cannot be written.
    fn slots(&self) -> u32 {
        let blocks = if self.disk.read_only() { 0 } else { self.disk.blocks() };
        u32::try_from(blocks).unwrap_or(u32::MAX)
    }

    fn read(&self, slot: u32, page: &mut PageBytes) -> Result<(), IoFailed> {
        self.disk.read(slot.into(), page)
    }

    fn write(&self, slot: u32, page: &PageBytes) -> Result<(), WriteFailed> {
        Ok(self.disk.write(slot.into(), page)?)
    }

    fn read_batch(&self, batch: &mut [BlockRead<'_>]) {
        self.disk.read_batch(batch);
    }

    fn write_batch(&self, batch: &mut [BlockWrite<'_>]) {
        self.disk.write_batch(batch);
    }

    fn discards(&self) -> bool {
        self.discards && self.disk.discards()
    }

    fn discard(&self, slots: Range<u32>) {
        self.disk.discard(slots.start.into()..slots.end.into());
    }
}
