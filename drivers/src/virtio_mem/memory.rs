//! What the driver needs of the memory manager. Calls nothing.

use core::fmt;
use mm::contig::{ContigError, Obstacle};
use mm::types::{NodeId, Pfn, PfnRange};

/// Why the memory manager did not do as asked. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryError {
    /// There was no memory for it, or none to move something to.
    NoMemory,
    /// Something is in the way.
    Busy(Obstacle),
    /// It will never be done.
    Refused(&'static str),
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory => f.write_str("out of memory"),
            Self::Busy(obstacle) => ContigError::Busy(*obstacle).fmt(f),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

impl core::error::Error for MemoryError {}

/// What is done with some memory just now.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Usage {
    /// It is offline: plugged, and given to nobody.
    Offline,
    /// It is free.
    Free,
    /// Something in it is in use.
    Used,
}

/// The memory manager, as the driver sees it. Nothing here is called with a
/// lock held; all but the questions may wait.
pub trait MemorySink {
    /// Frames from here on can never be added.
    fn limit(&self) -> Pfn;

    /// Makes the frames of whole memory blocks known. None of them is memory
    /// yet: nobody touches them, the manager included.
    ///
    /// # Errors
    /// There is no room for their descriptors, or there are such frames.
    fn add(&self, blocks: PfnRange, node: NodeId) -> Result<(), MemoryError>;

    /// Frames of an added block are memory from now on: puts them to use, or
    /// keeps them offline, as the command line wants memory treated that was
    /// added.
    ///
    /// # Errors
    /// They are as they were.
    fn provide(&self, range: PfnRange) -> Result<(), MemoryError>;

    /// Takes frames out of use that had been provided, moving what can be
    /// moved. From now on nobody touches them.
    ///
    /// # Errors
    /// What is in the way; all are in use as before.
    fn withdraw(&self, range: PfnRange) -> Result<(), MemoryError>;

    /// Forgets the frames of blocks of which nothing is memory any more.
    ///
    /// # Errors
    /// They are as they were.
    fn remove(&self, blocks: PfnRange) -> Result<(), MemoryError>;

    /// What is done with `range`, which has been provided, just now.
    fn usage(&self, range: PfnRange) -> Usage;

    /// Whether all that may be in `range` can be moved (zone Movable).
    fn is_movable(&self, range: PfnRange) -> bool;
}
