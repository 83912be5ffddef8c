//! The balloon grows and shrinks, a batch at a time. May call: `alloc`, `free`,
//! `migrate`.

use super::{Balloon, HostFailed, State, UNMANAGED};
use crate::gfp::{Gfp, Page, Request};
use crate::migrate::OwnerId;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::stats::Event;
use crate::sync::Ordering::Relaxed;
use crate::types::{Order, Pfn};

/// Pages that the host is told of at once (Linux
/// `VIRTIO_BALLOON_ARRAY_PFNS_MAX`).
pub const BATCH: usize = 256;

/// Milliseconds after which a balloon that could not be inflated or deflated
/// further tries again.
pub const RETRY_MS: u64 = 200;

/// Pages of a balloon can be anywhere and can be moved; they are never worth
/// an effort, nor a line in the log.
const GFP: Gfp =
    Gfp::HIGHUSER_MOVABLE.union(Gfp::NOMEMALLOC).union(Gfp::NORETRY).union(Gfp::NOWARN);

/// How far a balloon has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It has the size wanted.
    Done,
    /// On its way: there is more to do at once.
    More,
    /// Nothing could be done now: no memory to spare, or every page is about to
    /// be moved. Worth another try after [`RETRY_MS`].
    Wait,
}

/// A batch of pages, on its way in or out.
struct Pages {
    pfns: [Pfn; BATCH],
    len: usize,
}

impl Pages {
    const fn new() -> Self {
        Self { pfns: [Pfn(0); BATCH], len: 0 }
    }

    fn push(&mut self, pfn: Pfn) {
        self.pfns[self.len] = pfn;
        self.len += 1;
    }

    fn as_slice(&self) -> &[Pfn] {
        &self.pfns[..self.len]
    }
}

impl<P: Platform> Balloon<P> {
    /// Brings the balloon a batch nearer to `target` pages. Interrupts on, no
    /// lock held.
    ///
    /// # Errors
    /// The host that failed; the balloon is without one then.
    pub fn toward(&self, mm: &Mm<P>, target: u64) -> Result<Step, HostFailed> {
        let size = self.size();
        let done = match target.checked_sub(size) {
            Some(0) => return Ok(Step::Done),
            Some(more) => self.inflate(mm, more)?,
            None => self.deflate(mm, size - target)?,
        };
        Ok(match done {
            0 => Step::Wait,
            _ if self.size() == target => Step::Done,
            _ => Step::More,
        })
    }

    /// Lends up to `want` pages to the host, at most [`BATCH`], as far as nobody
    /// else will be short of them; returns how many. Interrupts on, no lock
    /// held.
    ///
    /// Linux has reclaim make room, and so can give what lies above the min
    /// mark. Where nothing is reclaimed that would leave nothing to whoever
    /// comes next: a balloon stops at what is available beyond the high marks.
    ///
    /// # Errors
    /// As [`toward`](Self::toward).
    pub fn inflate(&self, mm: &Mm<P>, want: u64) -> Result<u64, HostFailed> {
        let Some(&owner) = self.owner.get() else { return Ok(0) };
        if self.terms(mm).is_none() {
            return Ok(0);
        }
        let want = want.min(BATCH as u64).min(mm.available_pages());
        let mut pages = Pages::new();
        // Not yet with the right to tell: this may compact, and so move pages of
        // this very balloon.
        for _ in 0..want {
            let Ok(page) = mm.alloc_pages(Request::new(Order(0), GFP)) else { break };
            pages.push(page.pfn);
        }
        if pages.len == 0 {
            return Ok(0);
        }
        let _alone = self.alone(mm);
        let inner = self.lock(mm);
        let (host, terms) = (inner.host, inner.terms);
        drop(inner);
        let told = host.map_or(Err(HostFailed::Gone), |host| host.inflate(pages.as_slice()));
        if told == Err(HostFailed::Gone) {
            for &pfn in pages.as_slice() {
                // Just allocated, and nobody else's.
                let freed = mm.free_pages(Page { pfn, order: Order(0) });
                debug_assert!(freed.is_ok(), "a page that changed hands");
            }
        } else {
            self.enqueue(mm, owner, terms.bits(), pages.as_slice());
        }
        if let (Err(why), Some(_)) = (told, host) {
            self.fail(mm, why);
            return Err(why);
        }
        Ok(if host.is_some() { pages.len as u64 } else { 0 })
    }

    /// Takes allocated pages in that the host has been told of.
    fn enqueue(&self, mm: &Mm<P>, owner: OwnerId, private: u32, pages: &[Pfn]) {
        for &pfn in pages {
            let page = Page { pfn, order: Order(0) };
            // Not to be isolated before it is listed: the state comes then.
            let made = mm.make_movable(page, owner, 0, private);
            debug_assert!(made.is_ok(), "a page that changed hands");
            if private == UNMANAGED {
                mm.zone_at(pfn).managed.fetch_sub(1, Relaxed);
            }
        }
        let mut inner = self.lock(mm);
        for &pfn in pages {
            mm.map.page(pfn).set_index(State::Listed as u32);
            inner.pages.push_back(&mm.map, pfn);
        }
        self.size.fetch_add(pages.len() as u64, Relaxed);
        drop(inner);
        mm.stats.add(Event::BalloonInflate, pages.len() as u64);
    }

    /// Wants up to `want` pages back from the host, at most [`BATCH`], and frees
    /// them; returns how many. Fewer where the rest is about to be moved.
    /// Interrupts on, no lock held.
    ///
    /// # Errors
    /// As [`toward`](Self::toward).
    pub fn deflate(&self, mm: &Mm<P>, want: u64) -> Result<u64, HostFailed> {
        let _alone = self.alone(mm);
        let Some(host) = self.lock(mm).host else { return Ok(0) };
        let mut pages = Pages::new();
        self.dequeue(mm, want, &mut pages);
        if pages.len == 0 {
            return Ok(0);
        }
        if let Err(why) = host.deflate(pages.as_slice()) {
            match why {
                HostFailed::Gone => self.release(mm, pages.as_slice()),
                HostFailed::Lost => self.relist(mm, pages.as_slice()),
            }
            self.fail(mm, why);
            return Err(why);
        }
        self.release(mm, pages.as_slice());
        Ok(pages.len as u64)
    }

    /// Takes up to `want` pages off the list, the last that came first.
    fn dequeue(&self, mm: &Mm<P>, want: u64, pages: &mut Pages) {
        let mut inner = self.lock(mm);
        while pages.len < BATCH
            && (pages.len as u64) < want
            && let Some(pfn) = inner.pages.pop_back(&mm.map)
        {
            mm.map.page(pfn).set_index(State::Leaving as u32);
            pages.push(pfn);
        }
    }

    /// Puts pages that were leaving back on the list.
    fn relist(&self, mm: &Mm<P>, pages: &[Pfn]) {
        let mut inner = self.lock(mm);
        for &pfn in pages {
            mm.map.page(pfn).set_index(State::Listed as u32);
            inner.pages.push_back(&mm.map, pfn);
        }
    }

    /// Frees pages that are off the list and the guest's again.
    fn release(&self, mm: &Mm<P>, pages: &[Pfn]) {
        for &pfn in pages {
            self.release_one(mm, pfn);
        }
    }

    /// Frees one page that is off the list and the guest's again.
    pub(super) fn release_one(&self, mm: &Mm<P>, pfn: Pfn) {
        if mm.map.page(pfn).private() == UNMANAGED {
            mm.zone_at(pfn).managed.fetch_add(1, Relaxed);
        }
        self.size.fetch_sub(1, Relaxed);
        mm.stats.count(Event::BalloonDeflate);
        mm.release_movable(pfn);
    }

    /// Gives up the host, and frees all that is in the balloon but the isolated
    /// pages, which are freed when they are put back. With the right to tell.
    pub(super) fn burst(&self, mm: &Mm<P>) {
        self.lock(mm).host = None;
        loop {
            let mut pages = Pages::new();
            if !self.lock(mm).lost {
                self.dequeue(mm, u64::MAX, &mut pages);
            }
            if pages.len == 0 {
                return;
            }
            self.release(mm, pages.as_slice());
        }
    }
}
