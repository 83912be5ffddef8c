//! What swap asks of the device that the pages go to: compressed memory, a disk,
//! one day a network. Calls nothing.

use crate::types::PAGE_SIZE;
use core::fmt;
use core::ops::Range;

/// A page's content.
pub type PageBytes = [u8; PAGE_SIZE];

/// The device could not do it. What was to be written is not there; what was to
/// be read cannot be had, now at least.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoFailed;

impl fmt::Display for IoFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the device has failed")
    }
}

impl core::error::Error for IoFailed {}

/// Why a page was not written. What the slot held before is not needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteFailed {
    /// The device is well, but does not take this page, or not now: it is
    /// compressed memory, and the page does not get smaller, or there is none.
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
/// [`read`](Self::read), [`write`](Self::write) and [`discard`](Self::discard)
/// are called with interrupts on and no lock held but, for the first two, the
/// page lock; they may wait for the device. Several may be called at a time, on
/// any CPU, but never two of one slot. They are on the way by which memory is
/// made free: what memory they need they ask for without DIRECT_RECLAIM, or with
/// the rights of `PF_MEMALLOC`, which the caller has.
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
