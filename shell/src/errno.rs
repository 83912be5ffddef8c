//! Why a command failed: an error number's name, as scripts compare it, and a
//! reason for the reader. Names `mm`'s errors, calls nothing.

use core::fmt;
use mm::contig::ContigError;
use mm::hotplug::HotplugError;
use mm::slab::SlabError;
use mm::{AllocError, FreeError};

/// An error number, by Linux's names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Errno {
    /// Not permitted here.
    EPERM,
    /// No such name, file or fact.
    ENOENT,
    /// Nobody of that name any more.
    ESRCH,
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
    /// No such address, or not for that.
    EFAULT,
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
    /// It is so already.
    EALREADY,
}

impl Errno {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::EPERM,
        Self::ENOENT,
        Self::ESRCH,
        Self::EINTR,
        Self::EIO,
        Self::E2BIG,
        Self::EAGAIN,
        Self::ENOMEM,
        Self::EFAULT,
        Self::EBUSY,
        Self::EEXIST,
        Self::EINVAL,
        Self::ENOSPC,
        Self::ERANGE,
        Self::ENOSYS,
        Self::EOPNOTSUPP,
        Self::EALREADY,
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
            Self::ESRCH => "ESRCH",
            Self::EINTR => "EINTR",
            Self::EIO => "EIO",
            Self::E2BIG => "E2BIG",
            Self::EAGAIN => "EAGAIN",
            Self::ENOMEM => "ENOMEM",
            Self::EFAULT => "EFAULT",
            Self::EBUSY => "EBUSY",
            Self::EEXIST => "EEXIST",
            Self::EINVAL => "EINVAL",
            Self::ENOSPC => "ENOSPC",
            Self::ERANGE => "ERANGE",
            Self::ENOSYS => "ENOSYS",
            Self::EOPNOTSUPP => "EOPNOTSUPP",
            Self::EALREADY => "EALREADY",
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
    about: About,
}

/// Bytes of a culprit that are shown.
const SHOWN: usize = 48;

/// The word that an error is about, shortened and made printable.
#[derive(Clone, Copy, PartialEq, Eq)]
struct About {
    len: u8,
    bytes: [u8; SHOWN],
}

impl About {
    const NOTHING: Self = Self { len: 0, bytes: [0; SHOWN] };

    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("?")
    }
}

impl fmt::Debug for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Write for About {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            let c = if c.is_control() { '?' } else { c };
            let from = usize::from(self.len);
            let Some(place) = self.bytes.get_mut(from..from + c.len_utf8()) else {
                return Err(fmt::Error);
            };
            c.encode_utf8(place);
            self.len += c.len_utf8() as u8;
        }
        Ok(())
    }
}

impl Error {
    /// An error with its reason.
    pub const fn new(errno: Errno, why: &'static str) -> Self {
        Self { errno, why, about: About::NOTHING }
    }

    /// The same, with what it is about, such as the word that is not
    /// understood. As much of it is shown as fits.
    #[must_use]
    pub fn about(mut self, what: impl fmt::Display) -> Self {
        self.about = About::NOTHING;
        // What does not fit is left out.
        let _ = fmt::Write::write_fmt(&mut self.about, format_args!("{what}"));
        self
    }

    /// As [`about`](Self::about), unless it says what it is about already.
    #[must_use]
    pub(crate) fn or_about(self, what: impl fmt::Display) -> Self {
        if self.about.len > 0 { self } else { self.about(what) }
    }

    /// `ERRNO: why`, as a line about an expected error shows it.
    pub(crate) fn reason(&self) -> Reason<'_> {
        Reason(self)
    }
}

/// An error without the word `error`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reason<'a>(&'a Error);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Error { errno, why, about } = self.0;
        write!(f, "{errno}: {why}")?;
        if about.len > 0 {
            write!(f, ": {}", about.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.reason())
    }
}

impl core::error::Error for Error {}

impl From<AllocError> for Error {
    fn from(error: AllocError) -> Self {
        match error {
            AllocError::Invalid(why) => Self::new(Errno::EINVAL, why),
            AllocError::NoMemory => Self::new(Errno::ENOMEM, "out of memory"),
            AllocError::Injected => Self::new(Errno::ENOMEM, "failure injected"),
        }
    }
}

impl From<FreeError> for Error {
    fn from(error: FreeError) -> Self {
        Self::new(Errno::EIO, "the manager refused the free").about(error)
    }
}

impl From<ContigError> for Error {
    fn from(error: ContigError) -> Self {
        match error {
            ContigError::Invalid(why) => Self::new(Errno::EINVAL, why),
            ContigError::Busy(_) => Self::new(Errno::EBUSY, "something stays").about(error),
            ContigError::NoMemory => Self::new(Errno::ENOMEM, "out of memory"),
        }
    }
}

impl From<HotplugError> for Error {
    fn from(error: HotplugError) -> Self {
        match error {
            HotplugError::Invalid(why) => Self::new(Errno::EINVAL, why),
            HotplugError::Already => Self::new(Errno::EALREADY, "all of it is so already"),
            HotplugError::Busy(_) => Self::new(Errno::EBUSY, "something stays").about(error),
            HotplugError::InUse => Self::new(Errno::EBUSY, "it has to be offline first"),
            HotplugError::NoMemory => Self::new(Errno::ENOMEM, "too little memory is left"),
            HotplugError::NotMapped => Self::new(Errno::EIO, "it cannot be mapped"),
        }
    }
}

impl From<SlabError> for Error {
    fn from(error: SlabError) -> Self {
        match error {
            SlabError::NotUp => Self::new(Errno::EAGAIN, "the slab layer is not up"),
            SlabError::NoSuchCache => Self::new(Errno::ENOENT, "no such cache"),
            SlabError::Invalid(why) => Self::new(Errno::EINVAL, why),
            SlabError::NoMemory => Self::new(Errno::ENOMEM, "out of memory"),
            SlabError::Busy { .. } => Self::new(Errno::EBUSY, "in use").about(error),
            SlabError::Overrun => Self::new(Errno::EIO, "written to outside of its bounds"),
            SlabError::NotSlab
            | SlabError::WrongCache
            | SlabError::NotObject
            | SlabError::DoubleFree => {
                Self::new(Errno::EIO, "the manager refused the free").about(error)
            }
        }
    }
}
