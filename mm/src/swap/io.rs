//! Pages' contents to their slots and back. May call: `cache`, and the devices.

use super::ahead::{ReadAhead, WantsBack};
use super::cache::Inserted;
use super::out::SwapOuts;
use super::{IoFailed, PageBytes, SwapDevice, WriteFailed};
use crate::block::{BlockRead, BlockWrite};
use crate::mm::Mm;
use crate::mmu::SwapEntry;
use crate::page::{LruFlags, PageFlags};
use crate::platform::{LogLevel, Platform};
use crate::stats::Event;
use crate::sync::Ordering::Relaxed;
use crate::types::{KIB_PER_PAGE, Pfn};
use arrayvec::ArrayVec;

/// Why a page could not be brought back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SwapInError {
    /// Nobody names the slot any more: the page has been brought back, or given
    /// up, by somebody else. Whoever looks again where it came from sees that.
    Stale,
    /// There is no memory to put it in.
    NoMemory,
    /// The device could not read it. The slot stays what it is; a later try may
    /// succeed.
    Io,
}

impl core::fmt::Display for SwapInError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Stale => "the swap slot is not in use",
            Self::NoMemory => "out of memory",
            Self::Io => "the swap device has failed",
        })
    }
}

impl core::error::Error for SwapInError {}

/// A page that has been brought back: in the swap cache, locked, up to date. The
/// caller has a reference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "the page is locked and referenced"]
pub struct SwappedIn {
    /// The page.
    pub pfn: Pfn,
    /// Its device was asked for it: that makes a fault a major one.
    pub read: bool,
    /// Its device had been asked for it before anybody wanted it.
    pub ahead: bool,
}

impl<P: Platform> Mm<P> {
    /// The device of an entry. It stays switched on for as long as the slot is in
    /// use, which the caller sees to.
    fn swap_device(&self, entry: SwapEntry) -> Option<&'static dyn SwapDevice> {
        self.with_swap(entry.device(), |on| on.active.device)
    }

    /// The content of a page that nobody else reads or writes meanwhile.
    ///
    /// # Safety
    /// So it is, for as long as the caller uses what this returns: the page is
    /// locked, mapped by nobody, and whoever else has a reference to it waits for
    /// the page lock before looking at its content.
    #[expect(clippy::mut_from_ref, reason = "what is returned is no part of the manager")]
    unsafe fn content(&self, pfn: Pfn) -> &mut PageBytes {
        // SAFETY: a frame is readable and writable, as large as that, and by the
        // contract the caller's alone.
        unsafe { &mut *self.platform.frame(pfn).cast::<PageBytes>() }
    }

    /// Has a page of the cache ready to be written to its slot, if that does not
    /// have it already: false if there is nothing to write. The page is locked,
    /// mapped nowhere, and nobody but the caller and the cache has a reference.
    /// A page of zeros is only noted. After true comes
    /// [`swap_write_batch`](Self::swap_write_batch), and the page stays locked.
    ///
    /// # Errors
    /// When the device has failed at this slot before.
    pub(super) fn swap_write_begin(&self, pfn: Pfn) -> Result<bool, IoFailed> {
        let desc = self.map.page(pfn);
        debug_assert!(desc.head().flags().contains(PageFlags::LOCKED) && desc.mapcount() == 0);
        if !desc.head().lru().contains(LruFlags::DIRTY) {
            return Ok(false);
        }
        let entry = SwapEntry::from_bits(desc.private());
        // SAFETY: the page is locked and mapped by nobody; those who find it in
        // the cache lock it before they look.
        let content: &PageBytes = unsafe { self.content(pfn) };
        let zero = content.chunks(64).all(|part| part == [0; 64]);
        // Written before the page can be clean, so that what is read is right.
        let noted = self.with_swap(entry.device(), |mut on| {
            let word = on.slot(entry.slot());
            on.set(entry.slot(), word.with_zero(zero));
            !word.has_failed()
        });
        if noted != Some(true) {
            return Err(IoFailed);
        }
        desc.clear_lru(LruFlags::DIRTY);
        if zero {
            self.stats.count(Event::SwpOutZero);
            return Ok(false);
        }
        desc.set_lru(LruFlags::WRITEBACK);
        Ok(true)
    }

    /// Writes pages that are ready for it, as many at a time as their devices can,
    /// and tells `each` what became of them. After a failure a page is dirty and
    /// active, and its slot will not be used again once it is given up, unless the
    /// device only did not take the page. Waits for the devices.
    pub(super) fn swap_write_batch(
        &self,
        pages: &[Pfn],
        each: &mut dyn FnMut(Pfn, Result<(), WriteFailed>),
    ) {
        let entry_of = |pfn: Pfn| SwapEntry::from_bits(self.map.page(pfn).private());
        for part in pages.chunks(SwapOuts::MOST) {
            let mut todo: ArrayVec<Pfn, { SwapOuts::MOST }> = part.iter().copied().collect();
            // Those of one device go together.
            while let Some(index) = todo.first().map(|&pfn| entry_of(pfn).device()) {
                let mut batch = ArrayVec::<BlockWrite<'_>, { SwapOuts::MOST }>::new();
                let mut of = ArrayVec::<Pfn, { SwapOuts::MOST }>::new();
                todo.retain(|&mut pfn| {
                    let entry = entry_of(pfn);
                    let here = entry.device() == index;
                    if here {
                        of.push(pfn);
                        // SAFETY: as in `swap_write_begin`, until `each` is told.
                        let content = unsafe { self.content(pfn) };
                        batch.push(BlockWrite::new(entry.slot().into(), content));
                    }
                    !here
                });
                if let Some(device) = self.with_swap(index, |on| on.active.device) {
                    device.write_batch(&mut batch);
                }
                for (pfn, one) in of.into_iter().zip(batch) {
                    each(pfn, self.swap_write_end(pfn, one.result));
                }
            }
        }
    }

    /// Notes how writing a page has ended.
    fn swap_write_end(
        &self,
        pfn: Pfn,
        written: Result<(), WriteFailed>,
    ) -> Result<(), WriteFailed> {
        let desc = self.map.page(pfn);
        let entry = SwapEntry::from_bits(desc.private());
        desc.clear_lru(LruFlags::WRITEBACK);
        let Err(why) = written else {
            self.note_swap_write(entry, true);
            self.stats.count(Event::PswpOut);
            self.stats.add(Event::PgPgOut, KIB_PER_PAGE);
            return Ok(());
        };
        desc.set_lru(LruFlags::DIRTY | LruFlags::FAILED);
        self.lru_change(pfn, LruFlags::ACTIVE, LruFlags::empty());
        if why == WriteFailed::Refused {
            desc.set_lru(LruFlags::REFUSED);
            return Err(why);
        }
        self.with_swap(entry.device(), |mut on| {
            let word = on.slot(entry.slot());
            on.set(entry.slot(), word.failed());
        });
        self.note_swap_write(entry, false);
        if let Some(device) = self.swap_device(entry) {
            self.note_swap_failure(device, entry, "write");
        }
        Err(why)
    }

    fn note_swap_write(&self, entry: SwapEntry, ok: bool) {
        if let Some(area) = self.swap.areas.get(entry.device()) {
            area.note_write(ok);
        }
    }

    /// A broken device fails many times; the log is told of few.
    fn note_swap_failure(&self, device: &dyn SwapDevice, entry: SwapEntry, what: &str) {
        let failures = self.swap.failures.fetch_add(1, Relaxed) + 1;
        if failures.is_power_of_two() {
            let (name, slot) = (device.name(), entry.slot());
            self.platform.log(
                LogLevel::Warn,
                format_args!("swap: {name}: cannot {what} slot {slot} (failure {failures})"),
            );
        }
    }

    /// Brings the page of `entry` back: from the cache, or by reading it. Two who
    /// want the same page read it once. `fresh` allocates a page and makes it an
    /// anonymous one with one reference, on no list, which it is put on here; it
    /// is not called if the page is in memory. The caller names `entry` itself.
    /// Interrupts on, no lock held; may wait for memory, the page lock, and the
    /// device.
    ///
    /// # Errors
    /// See [`SwapInError`]; the slot stays as it is.
    pub fn swap_in(
        &self,
        entry: SwapEntry,
        fresh: &mut dyn FnMut() -> Option<Pfn>,
    ) -> Result<SwappedIn, SwapInError> {
        self.swap_in_for(entry, &mut Named { fresh })
    }

    /// As [`swap_in`](Self::swap_in), for somebody who can tell whether what he
    /// found still names the slot, and what else he may want soon.
    ///
    /// # Errors
    /// See [`SwapInError`]; the slot stays as it is.
    pub(crate) fn swap_in_for(
        &self,
        entry: SwapEntry,
        wants: &mut dyn WantsBack,
    ) -> Result<SwappedIn, SwapInError> {
        loop {
            if let Some(pfn) = self.swap_lookup(entry) {
                let desc = self.map.page(pfn);
                self.lock_page(desc);
                let flags = desc.head().lru();
                if self.is_cached_as(pfn, entry) && flags.contains(LruFlags::UPTODATE) {
                    let ahead = flags.contains(LruFlags::READAHEAD);
                    if ahead {
                        desc.clear_lru(LruFlags::READAHEAD);
                        self.stats.count(Event::SwapRaHit);
                    }
                    return Ok(SwappedIn { pfn, read: false, ahead });
                }
                // It has left the cache meanwhile, or could not be read.
                desc.unlock();
                self.put_lru(pfn);
                continue;
            }
            if self.swap_slot(entry).is_none() {
                return Err(SwapInError::Stale);
            }
            let pfn = wants.fresh().ok_or(SwapInError::NoMemory)?;
            let desc = self.map.page(pfn);
            // Nobody knows it but those who look at any page for a moment.
            self.lock_page(desc);
            let mut inserted = Inserted::Stale;
            // What names the slot by now may be another's page.
            wants.if_named(&mut || inserted = self.swap_insert(entry, pfn));
            if let Inserted::Yes { zero } = inserted {
                return self.swap_read(entry, pfn, zero, wants);
            }
            desc.unlock();
            self.put_lru(pfn);
            if inserted == Inserted::Stale {
                return Err(SwapInError::Stale);
            }
        }
    }

    /// Reads a page that has just been put in the cache, locked, and what is
    /// wanted besides.
    fn swap_read(
        &self,
        entry: SwapEntry,
        pfn: Pfn,
        zero: bool,
        wants: &mut dyn WantsBack,
    ) -> Result<SwappedIn, SwapInError> {
        let read = if zero {
            // SAFETY: the page is new and locked; those who find it in the cache
            // lock it before they look.
            unsafe { self.content(pfn) }.fill(0);
            self.stats.count(Event::SwpInZero);
            Ok(())
        } else {
            let mut ahead = ReadAhead::new(entry);
            if self.swap_device(entry).is_some_and(|device| !device.is_synchronous()) {
                wants.around(&mut ahead);
            }
            self.swap_read_batch(entry, pfn, &ahead)
        };
        let desc = self.map.page(pfn);
        if read.is_err() {
            self.swap_forget(pfn);
            desc.unlock();
            self.put_lru(pfn);
            return Err(SwapInError::Io);
        }
        desc.set_lru(LruFlags::UPTODATE);
        // Reclaim finds it, whatever becomes of whoever wanted it.
        self.lru_add(pfn);
        Ok(SwappedIn { pfn, read: !zero, ahead: false })
    }

    /// Reads a page, and those that are in the cache and locked to be read with
    /// it; these are unlocked then, and referenced by the cache alone.
    fn swap_read_batch(
        &self,
        entry: SwapEntry,
        pfn: Pfn,
        ahead: &ReadAhead,
    ) -> Result<(), IoFailed> {
        // SAFETY: the pages are new and locked; those who find them in the cache
        // lock them before they look.
        let read = |slot: u32, pfn| BlockRead::new(slot.into(), unsafe { self.content(pfn) });
        let mut batch = ArrayVec::<BlockRead<'_>, { ReadAhead::MOST + 1 }>::new();
        batch.push(read(entry.slot(), pfn));
        batch.extend(ahead.pages().iter().map(|&(slot, pfn)| read(slot, pfn)));
        let device = self.swap_device(entry);
        if let Some(device) = device {
            device.read_batch(&mut batch);
        }
        let mut results = batch.into_iter().map(|one| one.result);
        let result = results.next().unwrap_or(Err(IoFailed));
        match (result, device) {
            (Ok(()), _) => self.note_swap_read(),
            (Err(_), Some(device)) => self.note_swap_failure(device, entry, "read"),
            (Err(_), None) => {}
        }
        for (&(_, pfn), result) in ahead.pages().iter().zip(results) {
            self.swap_read_ahead(pfn, result);
        }
        result
    }

    fn note_swap_read(&self) {
        self.stats.count(Event::PswpIn);
        self.stats.add(Event::PgPgIn, KIB_PER_PAGE);
    }

    /// A page that was read before anybody asked is in the cache for whoever does,
    /// or forgotten if it could not be read: who asks is told then.
    fn swap_read_ahead(&self, pfn: Pfn, result: Result<(), IoFailed>) {
        let desc = self.map.page(pfn);
        match result {
            Ok(()) => {
                desc.set_lru(LruFlags::UPTODATE | LruFlags::READAHEAD);
                self.note_swap_read();
                self.stats.count(Event::SwapRa);
                self.lru_add(pfn);
            }
            Err(_) => self.swap_forget(pfn),
        }
        desc.unlock();
        self.put_lru(pfn);
    }
}

/// Whoever wants a page, and knows no more than its slot.
struct Named<'a> {
    fresh: &'a mut dyn FnMut() -> Option<Pfn>,
}

impl WantsBack for Named<'_> {
    fn fresh(&mut self) -> Option<Pfn> {
        (self.fresh)()
    }

    fn if_named(&mut self, f: &mut dyn FnMut()) {
        f();
    }

    fn around(&mut self, _ahead: &mut ReadAhead) {}
}
