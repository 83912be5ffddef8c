//! What can be wrong with a device, and what its driver gets to see. Calls
//! nothing.

use core::fmt;

/// Why a device is shut off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It does not become ready: its status stays at this after a reset.
    NoReset(u32),
    /// It is not there any more: its registers read as all ones.
    Gone,
    /// It says itself that it cannot go on.
    NeedsReset,
    /// It speaks the interface from before virtio 1.0 only.
    Legacy,
    /// It refuses features that it has offered.
    FeaturesRefused(u64),
    /// It has no queue of this number.
    NoQueue(u16),
    /// Its queue takes fewer buffers than the driver needs.
    QueueTooSmall {
        /// The queue.
        queue: u16,
        /// Buffers that it takes.
        has: u32,
        /// Buffers that there must be room for.
        needs: u32,
    },
    /// The queue is in use before the driver has set it up, or not after.
    QueueState(u16),
    /// It refuses an interrupt for the queue, or for its configuration.
    NoInterrupt,
    /// What has to be written to for the queue is not part of the device.
    NoBell(u16),
    /// It has not answered within the time given (ms).
    NoAnswer {
        /// The queue.
        queue: u16,
        /// How long it was given.
        ms: u64,
    },
    /// It says that it has used more buffers than it has got.
    UsedAhead {
        /// The queue.
        queue: u16,
        /// How many more buffers it says it has used since last asked.
        used: u16,
        /// Buffers that it had.
        had: u16,
    },
    /// It gives a buffer back that it has not got.
    UsedId {
        /// The queue.
        queue: u16,
        /// The buffer's number.
        id: u32,
    },
    /// It says that it has written more bytes than there was room for.
    UsedLen {
        /// The queue.
        queue: u16,
        /// Bytes that it says it has written.
        len: u32,
        /// Bytes that it could write.
        room: u32,
    },
    /// It changes what it has said while that is read.
    UsedChanged(u16),
    /// Its configuration changes each time that it is read.
    ConfigUnstable,
    /// Its configuration has fewer bytes than the driver needs, or none.
    ConfigTooSmall(usize),
    /// What its configuration or its answers say makes no sense: the driver's
    /// words for it.
    Nonsense(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoReset(status) => write!(f, "cannot be reset (status {status:#x})"),
            Self::Gone => write!(f, "is not there any more"),
            Self::NeedsReset => write!(f, "says that it has failed"),
            Self::Legacy => write!(f, "speaks legacy virtio only"),
            Self::FeaturesRefused(bits) => write!(f, "refuses its own features ({bits:#x})"),
            Self::NoQueue(queue) => write!(f, "has no queue {queue}"),
            Self::QueueTooSmall { queue, has, needs } => {
                write!(f, "queue {queue} takes {has} buffers where {needs} are needed")
            }
            Self::QueueState(queue) => write!(f, "queue {queue} does not do as it is told"),
            Self::NoInterrupt => write!(f, "refuses its interrupt"),
            Self::NoBell(queue) => write!(f, "queue {queue} is rung outside of the device"),
            Self::NoAnswer { queue, ms } => {
                write!(f, "queue {queue} has not answered for {ms} ms")
            }
            Self::UsedAhead { queue, used, had } => {
                write!(f, "queue {queue} says it used {used} buffers of {had}")
            }
            Self::UsedId { queue, id } => {
                write!(f, "queue {queue} gives back buffer {id}, which it has not got")
            }
            Self::UsedLen { queue, len, room } => {
                write!(f, "queue {queue} says it wrote {len} bytes into {room}")
            }
            Self::UsedChanged(queue) => write!(f, "queue {queue} changes its answers"),
            Self::ConfigUnstable => write!(f, "changes its configuration for ever"),
            Self::ConfigTooSmall(bytes) => write!(f, "has {bytes} bytes of configuration only"),
            Self::Nonsense(what) => f.write_str(what),
        }
    }
}

/// Why something was not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The device is shut off; the log says so.
    Broken {
        /// What was wrong with it first.
        fault: Fault,
        /// Whether it certainly has no access to memory any more. If not,
        /// whatever memory it was told of must never be used again.
        quiet: bool,
    },
    /// The driver has stopped the device.
    Stopped,
    /// There is no memory for the driver's side.
    NoMemory,
    /// The queue has no room for as many buffers now.
    Full,
    /// The caller's fault: no buffers, an empty one, too many, those for the
    /// device to read not first, or the queue is that of another device.
    Invalid,
    /// A buffer lies where the device cannot reach it.
    Unreachable,
}

impl Error {
    /// Whether the device has no access any more to the memory that the call
    /// was about.
    pub const fn is_quiet(&self) -> bool {
        !matches!(self, Self::Broken { quiet: false, .. })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken { fault, .. } => write!(f, "the device {fault}"),
            Self::Stopped => f.write_str("the device is stopped"),
            Self::NoMemory => f.write_str("no memory for the driver"),
            Self::Full => f.write_str("the queue is full"),
            Self::Invalid => f.write_str("buffers that no queue takes"),
            Self::Unreachable => f.write_str("a buffer is out of the device's reach"),
        }
    }
}

impl core::error::Error for Error {}
