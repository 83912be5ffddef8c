//! A page's content to its slot and back. May call: `cache`, and the devices.

use super::cache::Inserted;
use super::{IoFailed, PageBytes, SwapDevice, WriteFailed};
use crate::mm::Mm;
use crate::mmu::SwapEntry;
use crate::page::{LruFlags, PageFlags};
use crate::platform::{LogLevel, Platform};
use crate::stats::Event;
use crate::sync::Ordering::Relaxed;
use crate::types::Pfn;

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

    /// Writes a page of the cache to its slot if that does not have it already.
    /// The page is locked, mapped nowhere, and nobody but the caller and the
    /// cache has a reference. May wait for the device. A page of zeros is only
    /// noted.
    ///
    /// # Errors
    /// When the device fails, or has before: the slot will not be used again once
    /// it is given up. Or when it does not take the page. The page is dirty and
    /// active then.
    pub(super) fn swap_write(&self, pfn: Pfn) -> Result<(), WriteFailed> {
        let desc = self.map.page(pfn);
        debug_assert!(desc.head().flags().contains(PageFlags::LOCKED) && desc.mapcount() == 0);
        if !desc.head().lru().contains(LruFlags::DIRTY) {
            return Ok(());
        }
        let entry = SwapEntry::from_bits(desc.private());
        let Some(device) = self.swap_device(entry) else { return Err(WriteFailed::Io) };
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
            return Err(WriteFailed::Io);
        }
        desc.clear_lru(LruFlags::DIRTY);
        if zero {
            self.stats.count(Event::SwpOutZero);
            return Ok(());
        }
        desc.set_lru(LruFlags::WRITEBACK);
        let written = device.write(entry.slot(), content);
        desc.clear_lru(LruFlags::WRITEBACK);
        if let Err(why) = written {
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
            self.note_swap_failure(device, entry, "write");
            return Err(why);
        }
        self.note_swap_write(entry, true);
        self.stats.count(Event::PswpOut);
        Ok(())
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
    /// is not called if the page is in memory. The caller names `entry` itself, or finds out afterwards,
    /// with the page locked, whether what named it still does. Interrupts on, no
    /// lock held; may wait for memory, the page lock, and the device.
    ///
    /// # Errors
    /// See [`SwapInError`]; the slot stays as it is.
    pub fn swap_in(
        &self,
        entry: SwapEntry,
        fresh: &mut dyn FnMut() -> Option<Pfn>,
    ) -> Result<SwappedIn, SwapInError> {
        loop {
            if let Some(pfn) = self.swap_lookup(entry) {
                let desc = self.map.page(pfn);
                self.lock_page(desc);
                if self.is_cached_as(pfn, entry) && desc.head().lru().contains(LruFlags::UPTODATE) {
                    return Ok(SwappedIn { pfn, read: false });
                }
                // It has left the cache meanwhile, or could not be read.
                desc.unlock();
                self.put_lru(pfn);
                continue;
            }
            if self.swap_slot(entry).is_none() {
                return Err(SwapInError::Stale);
            }
            let pfn = fresh().ok_or(SwapInError::NoMemory)?;
            let desc = self.map.page(pfn);
            // Nobody knows it but those who look at any page for a moment.
            self.lock_page(desc);
            match self.swap_insert(entry, pfn) {
                Inserted::Yes { zero } => return self.swap_read(entry, pfn, zero),
                another => {
                    desc.unlock();
                    self.put_lru(pfn);
                    if another == Inserted::Stale {
                        return Err(SwapInError::Stale);
                    }
                }
            }
        }
    }

    /// Reads a page that has just been put in the cache, locked.
    fn swap_read(&self, entry: SwapEntry, pfn: Pfn, zero: bool) -> Result<SwappedIn, SwapInError> {
        let desc = self.map.page(pfn);
        // SAFETY: the page is new and locked; those who find it in the cache lock
        // it before they look.
        let content = unsafe { self.content(pfn) };
        let read = match self.swap_device(entry) {
            _ if zero => {
                content.fill(0);
                self.stats.count(Event::SwpInZero);
                Ok(())
            }
            Some(device) => {
                let read = device.read(entry.slot(), content);
                match read {
                    Ok(()) => self.stats.count(Event::PswpIn),
                    Err(_) => self.note_swap_failure(device, entry, "read"),
                }
                read
            }
            None => Err(IoFailed),
        };
        if read.is_err() {
            self.swap_forget(pfn);
            desc.unlock();
            self.put_lru(pfn);
            return Err(SwapInError::Io);
        }
        desc.set_lru(LruFlags::UPTODATE);
        // Reclaim finds it, whatever becomes of whoever wanted it.
        self.lru_add(pfn);
        Ok(SwappedIn { pfn, read: !zero })
    }
}
