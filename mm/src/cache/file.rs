//! Reading and writing bytes of a device through its cache. May call: `pages`,
//! `readahead`, `io`, `dirty`.

use super::{CacheError, PageCache, Readahead};
use crate::gfp::Gfp;
use crate::mm::Mm;
use crate::page::LruFlags;
use crate::platform::Platform;
use crate::sync::may_wait;
use crate::types::{PAGE_SIZE, Pfn};

const PAGE: u64 = PAGE_SIZE as u64;

/// How somebody reads and writes a device: as an open file, without a position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheFile {
    /// How pages are got.
    pub gfp: Gfp,
    pub(super) ahead: Readahead,
}

impl Default for CacheFile {
    fn default() -> Self {
        Self::new(Gfp::HIGHUSER_MOVABLE)
    }
}

impl CacheFile {
    /// A file whose pages are got so; they should be movable.
    pub fn new(gfp: Gfp) -> Self {
        Self { gfp, ahead: Readahead::default() }
    }
}

/// A part of a request: what lies in one block.
struct Part {
    index: u32,
    /// Where it begins in there.
    within: usize,
    len: usize,
}

/// The first part of a request at `offset` for `len` bytes.
fn first_part(offset: u64, len: usize) -> Part {
    let within = (offset % PAGE) as usize;
    Part { index: (offset / PAGE) as u32, within, len: len.min(PAGE_SIZE - within) }
}

impl PageCache {
    /// Bytes of the device.
    pub fn size(&self) -> u64 {
        // More than that many blocks have no numbers here.
        self.device.blocks().min(u64::from(u32::MAX)) * PAGE
    }

    fn check(&self, offset: u64, len: usize) -> Result<(), CacheError> {
        let end = offset.checked_add(len as u64).ok_or(CacheError::OutOfRange)?;
        if end > self.size() { Err(CacheError::OutOfRange) } else { Ok(()) }
    }

    /// Reads the device's bytes from `offset` on. Interrupts on, no lock held; may
    /// wait for memory and the device.
    ///
    /// # Errors
    /// See [`CacheError`]; but for OutOfRange some of `buf` may have been written.
    pub fn read<P: Platform>(
        &self,
        mm: &Mm<P>,
        file: &mut CacheFile,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), CacheError> {
        may_wait(&mm.platform, "a device");
        self.check(offset, buf.len())?;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let part = first_part(at, rest.len());
            let (now, later) = rest.split_at_mut(part.len);
            let last = (at + (part.len + later.len()) as u64 - 1) / PAGE;
            let wanted = (last - u64::from(part.index) + 1) as u32;
            let pfn = self.page_to_read(mm, file, part.index, wanted)?;
            {
                let _shared = self.copying(part.index).read(&mm.platform);
                let from = mm.platform.frame(pfn).wrapping_add(part.within);
                // SAFETY: within a frame that stays as long as there is a
                // reference, up to date, and nobody writes to it meanwhile.
                unsafe { core::ptr::copy_nonoverlapping(from, now.as_mut_ptr(), part.len) };
            }
            self.done_with(mm, file, pfn, part.index);
            at += part.len as u64;
            rest = later;
        }
        Ok(())
    }

    /// Writes bytes from `offset` on, in memory for now. Context as
    /// [`read`](Self::read); waits when there is too much that is dirty.
    ///
    /// # Errors
    /// See [`CacheError`]; but for OutOfRange and ReadOnly some of it may have
    /// been written.
    pub fn write<P: Platform>(
        &self,
        mm: &Mm<P>,
        file: &mut CacheFile,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), CacheError> {
        may_wait(&mm.platform, "a device");
        self.check(offset, bytes.len())?;
        if self.device.read_only() {
            return Err(CacheError::ReadOnly);
        }
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let part = first_part(at, rest.len());
            let (now, later) = rest.split_at(part.len);
            self.balance_dirty(mm)?;
            let pfn = self.page_to_write(mm, file, part.index, part.len == PAGE_SIZE)?;
            let desc = mm.map.page(pfn);
            {
                let _alone = self.copying(part.index).write(&mm.platform);
                let to = mm.platform.frame(pfn).wrapping_add(part.within);
                // SAFETY: within a frame that stays as long as there is a
                // reference; it is locked, and those who read wait.
                unsafe { core::ptr::copy_nonoverlapping(now.as_ptr(), to, part.len) };
                desc.set_lru(LruFlags::UPTODATE);
            }
            self.mark_dirty(mm, pfn);
            desc.unlock();
            self.done_with(mm, file, pfn, part.index);
            at += part.len as u64;
            rest = later;
        }
        Ok(())
    }

    /// Notes the use of a page and drops the reference.
    fn done_with<P: Platform>(&self, mm: &Mm<P>, file: &mut CacheFile, pfn: Pfn, index: u32) {
        // Whoever reads a block bit by bit uses it once.
        if file.ahead.note(index) {
            mm.lru_mark_accessed(pfn);
        }
        mm.put_lru(pfn);
    }

    /// The page of a block, with a reference and up to date. `wanted`: how many
    /// from there on are asked for.
    fn page_to_read<P: Platform>(
        &self,
        mm: &Mm<P>,
        file: &mut CacheFile,
        index: u32,
        wanted: u32,
    ) -> Result<Pfn, CacheError> {
        loop {
            let Some(pfn) = self.find(mm, index) else {
                self.read_missing(mm, file, index, wanted)?;
                continue;
            };
            self.read_on(mm, file, index);
            let desc = mm.map.page(pfn);
            if !desc.head().lru().contains(LruFlags::UPTODATE) {
                mm.lock_page(desc);
                let read = self.read_locked(mm, pfn);
                desc.unlock();
                if let Err(why) = read {
                    mm.put_lru(pfn);
                    return Err(why);
                }
            }
            return Ok(pfn);
        }
    }

    /// Has a locked page up to date.
    fn read_locked<P: Platform>(&self, mm: &Mm<P>, pfn: Pfn) -> Result<(), CacheError> {
        let is_there = || mm.map.page(pfn).head().lru().contains(LruFlags::UPTODATE);
        if !is_there() {
            self.fill(mm, &[pfn]);
        }
        if is_there() { Ok(()) } else { Err(CacheError::Io) }
    }

    /// The page of a block, locked and with a reference; up to date unless all of
    /// it is to be written.
    fn page_to_write<P: Platform>(
        &self,
        mm: &Mm<P>,
        file: &CacheFile,
        index: u32,
        whole: bool,
    ) -> Result<Pfn, CacheError> {
        let pfn = loop {
            if let Some(pfn) = self.find(mm, index) {
                mm.lock_page(mm.map.page(pfn));
                break pfn;
            }
            if let Some(pfn) = self.add(mm, index, file.gfp)? {
                mm.lru_add(pfn);
                break pfn;
            }
        };
        if !whole && let Err(why) = self.read_locked(mm, pfn) {
            mm.map.page(pfn).unlock();
            mm.put_lru(pfn);
            return Err(why);
        }
        Ok(pfn)
    }
}
