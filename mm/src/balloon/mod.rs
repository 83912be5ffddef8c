//! A memory balloon: pages that the guest has lent to its host, until the host
//! lets it have them back (Linux `mm/balloon_compaction.c`, and the part of
//! `drivers/virtio/virtio_balloon.c` that is not about the device). Whoever
//! speaks to the host implements [`BalloonHost`]. May call: `alloc`, `free`,
//! `migrate`, `oom`, `list`.
//!
//! The pages are a driver's movable ones, so compaction and contiguous
//! allocations do not stop at them: the host is given another page instead and
//! then returns the one that is in the way. Their content is the host's and is
//! neither read nor copied.
//!
//! ```text
//!   allocated --host told--> LISTED ----deflate----> LEAVING --host told--> free
//!                            ^    |
//!                    putback |    | isolate
//!                            |    v
//!                           ISOLATED --host told of both pages--> free; the other LISTED
//! ```
//!
//! The state is a word of the descriptor, changed under the balloon's lock only.
//! So deflating needs no page locks: a page it finds on the list cannot be
//! isolated any more once it has left it, and an isolated one is not on it.
//!
//! One at a time tells the host. That is no spin lock but a flag with interrupts
//! on: the host may take its time. Whoever inflates or deflates waits for it
//! while holding nothing; migration, which holds page locks, only tries. Nobody
//! asks for memory with the flag taken, so an allocation that runs out of memory
//! may wait for it.

mod ops;
mod size;

pub use size::{BATCH, RETRY_MS, Step};

use crate::list::PageList;
use crate::migrate::{OwnerId, TooManyOwners};
use crate::mm::Mm;
use crate::oom::{OomNotifier, TooManyNotifiers};
use crate::platform::Platform;
use crate::sync::{
    AtomicBool, AtomicU64, Cpu, Lock, LockGuard, LockRank, Once, Ordering, Ordering::Relaxed,
    may_wait,
};
use crate::types::Pfn;

/// Why the host could not be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostFailed {
    /// The device has been shut off and has forgotten all it was told: every
    /// page of the balloon is the guest's again.
    Gone,
    /// The device may still do as it likes with what it was told: the pages of
    /// the balloon are lost for good.
    Lost,
}

impl core::fmt::Display for HostFailed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Gone => "the device is shut off",
            Self::Lost => "the device could not be shut off",
        })
    }
}

impl core::error::Error for HostFailed {}

/// The host's side of a balloon. Called by one at a time, with interrupts on and
/// no lock held but, at times, page locks; may wait for the host. Must not ask
/// for memory. At most [`BATCH`] pages, at least one.
pub trait BalloonHost: Sync {
    /// Lends `pages` to the host, which may drop their content from now on.
    ///
    /// # Errors
    /// What became of the device; it is not called again.
    fn inflate(&self, pages: &[Pfn]) -> Result<(), HostFailed>;

    /// Wants `pages` back. On return they may be used.
    ///
    /// # Errors
    /// As [`inflate`](Self::inflate).
    fn deflate(&self, pages: &[Pfn]) -> Result<(), HostFailed>;
}

/// On what terms the host has the pages of a balloon.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// The guest may take pages back when it has no others, without being told
    /// to (`VIRTIO_BALLOON_F_DEFLATE_ON_OOM`). Then they still count as managed,
    /// for they can be had; without it they do not, as in Linux.
    pub deflate_on_oom: bool,
}

impl Terms {
    const fn bits(self) -> u32 {
        if self.deflate_on_oom { MANAGED } else { UNMANAGED }
    }
}

/// `private` of a page of a balloon that still counts as managed.
const MANAGED: u32 = 0;
/// `private` of one that does not.
pub(crate) const UNMANAGED: u32 = 1;

/// `index` of a page of a balloon: where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
enum State {
    Listed = 1,
    Isolated = 2,
    Leaving = 3,
    /// What a host that could not be shut off still has of a page that moved.
    Lost = 4,
}

/// What the balloon's lock protects.
struct Inner {
    host: Option<&'static dyn BalloonHost>,
    terms: Terms,
    /// The host is not to be spoken to any more, and keeps what it has.
    lost: bool,
    pages: PageList,
    isolated: u32,
}

/// A balloon, of one host at a time.
pub struct Balloon<P: Platform> {
    owner: Once<OwnerId>,
    /// Registered among those who are asked when memory is out.
    notifies: Once<()>,
    /// Somebody is telling the host.
    telling: AtomicBool,
    inner: Lock<Inner>,
    /// Pages in it, wherever they are. Written under the lock.
    size: AtomicU64,
    _platform: core::marker::PhantomData<fn(P)>,
}

impl<P: Platform> Default for Balloon<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Platform> core::fmt::Debug for Balloon<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Balloon").field("size", &self.size()).finish_non_exhaustive()
    }
}

/// The balloon's records, locked; the token keeps this CPU's other code out.
struct Locked<'a, P: Platform> {
    // The lock goes first, the token after it.
    inner: LockGuard<'a, Inner>,
    _cpu: Cpu<'a, P>,
}

impl<P: Platform> core::ops::Deref for Locked<'_, P> {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl<P: Platform> core::ops::DerefMut for Locked<'_, P> {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.inner
    }
}

/// The right to tell the host.
struct Alone<'a>(&'a AtomicBool);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Why a balloon has no host now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachError {
    /// It has one already, or what an earlier one has not given back.
    InUse,
    /// The manager has no room for another driver of movable pages.
    Owners(TooManyOwners),
    /// The manager has no room for another OOM notifier.
    Notifiers(TooManyNotifiers),
}

impl core::fmt::Display for AttachError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::InUse => f.write_str("the balloon is in use"),
            Self::Owners(e) => e.fmt(f),
            Self::Notifiers(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for AttachError {}

impl<P: Platform> Balloon<P> {
    /// An empty balloon without a host.
    pub const fn new() -> Self {
        let inner = Inner {
            host: None,
            terms: Terms { deflate_on_oom: false },
            lost: false,
            pages: PageList::new(),
            isolated: 0,
        };
        Self {
            owner: Once::new(),
            notifies: Once::new(),
            telling: AtomicBool::new(false),
            inner: Lock::new(LockRank::Driver, inner),
            size: AtomicU64::new(0),
            _platform: core::marker::PhantomData,
        }
    }

    /// Gives the balloon, which always is of the same manager, a host.
    ///
    /// # Errors
    /// See [`AttachError`]; nothing has changed then.
    pub fn attach(
        &'static self,
        mm: &Mm<P>,
        host: &'static dyn BalloonHost,
        terms: Terms,
    ) -> Result<(), AttachError> {
        let _alone = self.alone(mm);
        let inner = self.lock(mm);
        if inner.host.is_some() || inner.lost || self.size() > 0 {
            return Err(AttachError::InUse);
        }
        drop(inner);
        if self.owner.get().is_none() {
            let id = mm.register_movable(self).map_err(AttachError::Owners)?;
            self.owner.call_once(|| id);
        }
        if self.notifies.get().is_none() {
            mm.register_oom_notifier(self).map_err(AttachError::Notifiers)?;
            self.notifies.call_once(|| ());
        }
        let mut inner = self.lock(mm);
        inner.host = Some(host);
        inner.terms = terms;
        Ok(())
    }

    /// Takes the host away, which has been shut off or told that all is the
    /// guest's: whatever is still in the balloon becomes free. Interrupts on,
    /// no lock held.
    pub fn detach(&self, mm: &Mm<P>) {
        let _alone = self.alone(mm);
        self.burst(mm);
    }

    /// Gives the host up, which could not be shut off: it keeps for good what is
    /// in the balloon. Interrupts on, no lock held.
    pub fn abandon(&self, mm: &Mm<P>) {
        let _alone = self.alone(mm);
        self.fail(mm, HostFailed::Lost);
    }

    /// The host that was [given up](Self::abandon) has been reset at last, or is
    /// not there any more: frees what it had, but for a page that it kept while
    /// that was moved. Interrupts on, no lock held.
    pub fn recover(&self, mm: &Mm<P>) {
        let _alone = self.alone(mm);
        self.lock(mm).lost = false;
        self.burst(mm);
    }

    /// Pages in the balloon.
    pub fn size(&self) -> u64 {
        self.size.load(Relaxed)
    }

    /// Pages of it that somebody is about to move.
    pub fn isolated(&self, mm: &Mm<P>) -> u64 {
        u64::from(self.lock(mm).isolated)
    }

    /// The terms of its host, if it has one that can be spoken to.
    pub fn terms(&self, mm: &Mm<P>) -> Option<Terms> {
        let inner = self.lock(mm);
        inner.host.map(|_| inner.terms)
    }

    fn lock<'a>(&'a self, mm: &'a Mm<P>) -> Locked<'a, P> {
        let cpu = mm.enter();
        Locked { inner: self.inner.lock(&cpu), _cpu: cpu }
    }

    /// Waits for the right to tell the host; interrupts on, nothing held.
    fn alone(&self, mm: &Mm<P>) -> Alone<'_> {
        may_wait(&mm.platform, "the balloon's host");
        loop {
            if let Some(alone) = self.try_alone() {
                return alone;
            }
            mm.platform.stall();
        }
    }

    fn try_alone(&self) -> Option<Alone<'_>> {
        // Not made before it is had: dropping it gives it up.
        (!self.telling.swap(true, Ordering::Acquire)).then(|| Alone(&self.telling))
    }

    /// Draws the consequences of a host that failed. With the right to tell it.
    fn fail(&self, mm: &Mm<P>, why: HostFailed) {
        match why {
            HostFailed::Gone => self.burst(mm),
            HostFailed::Lost => {
                let mut inner = self.lock(mm);
                inner.host = None;
                inner.lost = true;
            }
        }
    }
}

impl<P: Platform> OomNotifier<P> for Balloon<P> {
    fn out_of_memory(&self, mm: &Mm<P>) -> u64 {
        if self.size() == 0 || !self.terms(mm).is_some_and(|terms| terms.deflate_on_oom) {
            return 0;
        }
        // The device that fails here gives back all there is.
        let before = self.size();
        self.deflate(mm, BATCH as u64).unwrap_or(before - self.size().min(before))
    }
}
