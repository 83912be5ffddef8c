//! Why a command failed: an error number's name, as scripts compare it, and a
//! reason for the reader. Calls nothing.

use core::fmt;

/// An error number, by Linux's names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Errno {
    /// Not permitted here.
    EPERM,
    /// No such name, file or fact.
    ENOENT,
    /// Interrupted by the user.
    EINTR,
    /// Damaged content.
    EIO,
    /// Too many words or too long a line.
    E2BIG,
    /// Not now.
    EAGAIN,
    /// Out of memory.
    ENOMEM,
    /// In use.
    EBUSY,
    /// A name used twice.
    EEXIST,
    /// Nonsense.
    EINVAL,
    /// No room for more of its kind.
    ENOSPC,
    /// A number that is out of range.
    ERANGE,
    /// No such command.
    ENOSYS,
    /// Not there yet.
    EOPNOTSUPP,
}

impl Errno {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::EPERM,
        Self::ENOENT,
        Self::EINTR,
        Self::EIO,
        Self::E2BIG,
        Self::EAGAIN,
        Self::ENOMEM,
        Self::EBUSY,
        Self::EEXIST,
        Self::EINVAL,
        Self::ENOSPC,
        Self::ERANGE,
        Self::ENOSYS,
        Self::EOPNOTSUPP,
    ];

    /// The number whose name is `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|errno| errno.name() == name)
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EPERM => "EPERM",
            Self::ENOENT => "ENOENT",
            Self::EINTR => "EINTR",
            Self::EIO => "EIO",
            Self::E2BIG => "E2BIG",
            Self::EAGAIN => "EAGAIN",
            Self::ENOMEM => "ENOMEM",
            Self::EBUSY => "EBUSY",
            Self::EEXIST => "EEXIST",
            Self::EINVAL => "EINVAL",
            Self::ENOSPC => "ENOSPC",
            Self::ERANGE => "ERANGE",
            Self::ENOSYS => "ENOSYS",
            Self::EOPNOTSUPP => "EOPNOTSUPP",
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A failed command: printed as `error: ERRNO: why`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Error {
    /// What scripts compare.
    pub errno: Errno,
    /// What the reader is told.
    pub why: &'static str,
}

impl Error {
    /// An error with its reason.
    pub const fn new(errno: Errno, why: &'static str) -> Self {
        Self { errno, why }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}: {}", self.errno, self.why)
    }
}

impl core::error::Error for Error {}
