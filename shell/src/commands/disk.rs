//! Disks through their page caches: a pattern written and found again, pages
//! dropped, all of it written back. May call `mm`.

use super::swap::is_swapped_to;
use crate::errno::{Errno, Error};
use crate::lab::{Done, Lab, Subject};
use crate::parse::{Args, number};
use crate::world::World;
use mm::cache::{CacheError, CacheFile, PageCache};
use mm::gfp::Request;
use mm::platform::Platform;
use mm::types::{Order, PAGE_SIZE};
use mm::{Gfp, Page};

/// Bytes of a word of the pattern.
const WORD: u64 = size_of::<u64>() as u64;
const PAGE: u64 = PAGE_SIZE as u64;
const USAGE: &str = "disk DEVICE [write | read | verify OFFSET SIZE | sync | drop]";

impl From<CacheError> for Error {
    fn from(why: CacheError) -> Self {
        match why {
            CacheError::Io => Self::new(Errno::EIO, "the device has failed"),
            CacheError::NoMemory => Self::new(Errno::ENOMEM, "out of memory"),
            CacheError::OutOfRange => Self::new(Errno::EINVAL, "beyond the end of the device"),
            CacheError::ReadOnly => Self::new(Errno::EPERM, "the device cannot be written"),
            CacheError::NotRegistered => Self::new(Errno::ENOENT, "no cache of that device"),
        }
    }
}

/// What is done with the bytes of a part of a disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Write,
    Read,
    Verify,
}

/// The word of the pattern at that place of a disk: no two are the same.
fn word_at(offset: u64) -> [u8; WORD as usize] {
    (offset / WORD + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_ne_bytes()
}

/// A page of memory to copy from and to, given back when it goes.
struct Bounce<W: World> {
    on: Subject<W>,
    page: Page,
}

impl<W: World> Bounce<W> {
    fn new(on: Subject<W>) -> Result<Self, Error> {
        let page = on.mm.alloc_pages(Request::new(Order(0), Gfp::KERNEL))?;
        Ok(Self { on, page })
    }

    fn bytes(&mut self) -> &mut [u8; PAGE_SIZE] {
        // SAFETY: a frame that was allocated for this and is reached through this
        // alone; any bytes are good ones.
        unsafe { &mut *self.on.mm.platform().frame(self.page.pfn).cast() }
    }
}

impl<W: World> Drop for Bounce<W> {
    fn drop(&mut self) {
        // It is its own, so nothing can be wrong with freeing it.
        let _ = self.on.mm.free_pages(self.page);
    }
}

impl<W: World> Lab<W> {
    /// Reads or writes a part of a disk, or says what is cached of it.
    pub(super) fn disk(&mut self, mut args: Args<'_>) -> Done {
        let on = self.subject()?;
        let path = args.need(USAGE)?;
        let none = Error::new(Errno::ENOENT, "no such disk").about(path);
        let cache = self.world.page_cache(path)?.ok_or(none)?;
        let access = match args.next() {
            None => return self.show_disk(path, cache),
            Some("sync") => {
                args.done()?;
                return Ok(cache.sync(on.mm).map_err(Error::from)?);
            }
            Some("drop") => {
                args.done()?;
                let dropped = cache.invalidate(on.mm, 0..cache.device().blocks());
                self.world.print(format_args!("{path}: {dropped} pages dropped\n"));
                return Ok(());
            }
            Some("write") => Access::Write,
            Some("read") => Access::Read,
            Some("verify") => Access::Verify,
            Some(word) => return Err(Error::new(Errno::EINVAL, USAGE).about(word).into()),
        };
        let (offset, size) = (number(args.need(USAGE)?)?, number(args.need(USAGE)?)?);
        args.done()?;
        // Swap does not go through the cache, and would not forgive a write.
        if is_swapped_to(on, path) {
            return Err(Error::new(Errno::EBUSY, "it is swapped to").about(path).into());
        }
        let whole = offset.is_multiple_of(WORD) && size.is_multiple_of(WORD);
        if !whole {
            return Err(Error::new(Errno::EINVAL, "the pattern is made of 8 bytes").into());
        }
        Ok(self.transfer(cache, access, offset, size)?)
    }

    fn show_disk(&mut self, path: &str, cache: &'static PageCache) -> Done {
        let (size, pages) = (cache.size(), cache.pages());
        let (dirty, failing) = (cache.dirty_pages(), cache.failing_pages());
        let read_only = if cache.device().read_only() { ", read-only" } else { "" };
        self.world.print(format_args!(
            "{path}: {size} bytes{read_only}, {pages} pages cached, {dirty} dirty, {failing} failing\n"
        ));
        Ok(())
    }

    fn transfer(
        &mut self,
        cache: &'static PageCache,
        access: Access,
        offset: u64,
        size: u64,
    ) -> Result<(), Error> {
        let on = self.subject()?;
        let mut bounce = Bounce::new(on)?;
        let mut file = CacheFile::default();
        let beyond = Error::from(CacheError::OutOfRange);
        let end = offset.checked_add(size).filter(|&end| end <= cache.size()).ok_or(beyond)?;
        let mut at = offset;
        while at < end {
            self.go_on()?;
            // A block after the other, the first one perhaps from its middle.
            let len = (PAGE - at % PAGE).min(end - at) as usize;
            let bytes = &mut bounce.bytes()[..len];
            let words = (at..).step_by(WORD as usize);
            if access == Access::Write {
                for (word, at) in bytes.chunks_mut(WORD as usize).zip(words) {
                    word.copy_from_slice(&word_at(at)[..word.len()]);
                }
                cache.write(on.mm, &mut file, at, bytes)?;
            } else {
                cache.read(on.mm, &mut file, at, bytes)?;
                let mut both = bytes.chunks(WORD as usize).zip(words);
                if access == Access::Verify && both.any(|(word, at)| *word != word_at(at)) {
                    return Err(Error::new(Errno::EIO, "the pattern is not there"));
                }
            }
            at += len as u64;
        }
        Ok(())
    }

    /// Has all that is dirty written to where it belongs.
    pub(super) fn sync(&mut self, args: Args<'_>) -> Done {
        args.done()?;
        Ok(self.subject()?.mm.sync_all().map_err(Error::from)?)
    }
}
