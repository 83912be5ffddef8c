//! The balloon's pages are moved: by exchange, nothing is copied. Called by
//! `migrate`.

use super::{Balloon, HostFailed, State, UNMANAGED};
use crate::migrate::{MigrateError, MigrateMode, MovableOps};
use crate::mm::Mm;
use crate::platform::Platform;
use crate::stats::Event;
use crate::sync::Ordering::Relaxed;
use crate::types::Pfn;

impl<P: Platform> MovableOps<P> for Balloon<P> {
    /// Who must not wait at all gets none: an exchange waits for the host.
    fn isolate(&self, mm: &Mm<P>, page: Pfn, mode: MigrateMode) -> bool {
        if mode == MigrateMode::Atomic {
            return false;
        }
        let mut inner = self.lock(mm);
        let desc = mm.map.page(page);
        if inner.host.is_none() || desc.index() != State::Listed as u32 {
            return false;
        }
        inner.pages.remove(&mm.map, page);
        inner.isolated += 1;
        desc.set_index(State::Isolated as u32);
        true
    }

    fn migrate(
        &self,
        mm: &Mm<P>,
        dst: Pfn,
        src: Pfn,
        _mode: MigrateMode,
    ) -> Result<(), MigrateError> {
        // Page locks are held: whoever is telling the host may take long.
        let _alone = self.try_alone().ok_or(MigrateError::Again)?;
        let host = self.lock(mm).host.ok_or(MigrateError::Busy)?;
        let mut told = host.inflate(&[dst]);
        if told == Err(HostFailed::Gone) {
            self.fail(mm, HostFailed::Gone);
            // `src` is freed when it is put back.
            return Err(MigrateError::Busy);
        }
        self.exchange(mm, dst, src);
        if told.is_ok() {
            told = host.deflate(&[src]);
        }
        if let Err(why) = told {
            if why == HostFailed::Lost {
                self.lose(mm, src);
            }
            self.fail(mm, why);
        }
        Ok(())
    }

    fn putback(&self, mm: &Mm<P>, page: Pfn) {
        let mut inner = self.lock(mm);
        inner.isolated -= 1;
        if inner.host.is_some() || inner.lost {
            mm.map.page(page).set_index(State::Listed as u32);
            inner.pages.push_back(&mm.map, page);
            return;
        }
        drop(inner);
        self.release_one(mm, page);
    }

    fn pages(&self) -> Option<u64> {
        Some(self.size())
    }

    fn is_balloon(&self) -> bool {
        true
    }
}

impl<P: Platform> Balloon<P> {
    /// `dst` takes the place of `src`, which is isolated.
    fn exchange(&self, mm: &Mm<P>, dst: Pfn, src: Pfn) {
        let (from, to) = (mm.zone_at(src), mm.zone_at(dst));
        let desc = mm.map.page(dst);
        if desc.private() == UNMANAGED && from.index() != to.index() {
            to.managed.fetch_sub(1, Relaxed);
            from.managed.fetch_add(1, Relaxed);
        }
        let mut inner = self.lock(mm);
        inner.isolated -= 1;
        desc.set_index(State::Listed as u32);
        inner.pages.push_back(&mm.map, dst);
        drop(inner);
        mm.stats.count(Event::BalloonMigrate);
    }

    /// The host keeps `src` though it has moved: nobody may ever have it. The
    /// reference that nobody drops sees to that.
    fn lose(&self, mm: &Mm<P>, src: Pfn) {
        let desc = mm.map.page(src);
        if desc.private() == UNMANAGED {
            mm.zone_at(src).managed.fetch_sub(1, Relaxed);
        }
        desc.set_index(State::Lost as u32);
        desc.get();
        self.size.fetch_add(1, Relaxed);
    }
}
