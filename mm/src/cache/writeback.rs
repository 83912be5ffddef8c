//! Writing dirty pages back, in the order of their blocks and several at a time:
//! all of them, or some. May call: `io`, `dirty`, `tree`.

use super::entry::Tags;
use super::io::{BATCH, Locked};
use super::tree::Which;
use super::{CacheError, PageCache};
use crate::mm::Mm;
use crate::page::LruFlags;
use crate::platform::Platform;
use crate::sync::{Ordering::Relaxed, may_wait};
use crate::types::Pfn;
use core::ops::Range;

/// All blocks that a cache can have.
const ALL: Range<u64> = 0..1 << 32;

/// What a sweep over dirty pages does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Sweep {
    /// Pages to write at most.
    most: u64,
    /// Pages that others have locked are waited for: when it is over all is
    /// written that was dirty when it began.
    wait: bool,
    /// What has failed before is tried again.
    again: bool,
}

/// What a sweep has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Swept {
    /// Pages that the device was handed.
    tried: u64,
    /// Of these, pages that it has.
    written: u64,
    /// The block to go on from.
    end: u64,
}

impl PageCache {
    /// Writes all pages to the device that are dirty, waits for those that others
    /// write just now, and has the device keep what it has. Interrupts on, no
    /// lock held.
    ///
    /// # Errors
    /// [`CacheError::Io`] if a page could not be written now, or by whomever since
    /// this was last asked: it stays dirty, and the next call tries again.
    pub fn sync<P: Platform>(&self, mm: &Mm<P>) -> Result<(), CacheError> {
        may_wait(&mm.platform, "a device");
        let swept = self.sweep(mm, ALL, Sweep { most: u64::MAX, wait: true, again: true });
        let flushed = self.device.flush();
        // Another who asks at the same time may have been told of both failures.
        let failed = self.failed.swap(false, Relaxed) || swept.written < swept.tried;
        if failed || flushed.is_err() {
            return Err(CacheError::Io);
        }
        Ok(())
    }

    /// Writes up to `most` pages from where the last such call has stopped; those
    /// that others have locked, or that have failed before, are left. Returns how
    /// many were written.
    pub(super) fn write_some<P: Platform>(&self, mm: &Mm<P>, most: u64) -> u64 {
        let how = |most| Sweep { most, wait: false, again: false };
        let from = u64::from(self.cursor.load(Relaxed));
        let first = self.sweep(mm, from..ALL.end, how(most));
        let rest = match most.saturating_sub(first.written) {
            0 => Swept { written: 0, ..first },
            left => self.sweep(mm, ALL.start..from, how(left)),
        };
        // A number that does not fit is the end, where it begins again.
        self.cursor.store(u32::try_from(rest.end).unwrap_or(0), Relaxed);
        first.written + rest.written
    }

    /// Writes what is dirty, as the flusher does when some of it has been so for
    /// long; returns how many pages.
    pub(super) fn write_old<P: Platform>(&self, mm: &Mm<P>) -> u64 {
        let began = mm.platform.now_ms();
        let how = Sweep { most: u64::MAX, wait: false, again: true };
        let Swept { written, .. } = self.sweep(mm, ALL, how);
        // What is still dirty has become so since, or has had its try.
        self.dirty_since.store(began, Relaxed);
        written
    }

    /// Writes dirty pages of some blocks.
    fn sweep<P: Platform>(&self, mm: &Mm<P>, blocks: Range<u64>, how: Sweep) -> Swept {
        let mut swept = Swept { tried: 0, written: 0, end: blocks.start };
        while swept.end < blocks.end && swept.tried < how.most {
            let most = (how.most - swept.tried).min(BATCH as u64) as usize;
            let (pages, next) = self.gather(mm, swept.end..blocks.end, how, most);
            swept.end = next;
            if pages.is_empty() {
                break;
            }
            swept.tried += pages.len() as u64;
            swept.written += self.write_and_unlock(mm, &pages);
        }
        swept
    }

    fn write_and_unlock<P: Platform>(&self, mm: &Mm<P>, pages: &[Pfn]) -> u64 {
        let written = self.write_out(mm, pages);
        for &pfn in pages {
            mm.map.page(pfn).unlock();
            mm.put_lru(pfn);
        }
        written
    }

    /// Locks the next dirty pages of some blocks and puts them on their way;
    /// returns them, and the block to go on from. No page is waited for while
    /// another one is locked.
    fn gather<P: Platform>(
        &self,
        mm: &Mm<P>,
        blocks: Range<u64>,
        how: Sweep,
        most: usize,
    ) -> (Locked, u64) {
        let (mut pages, mut at) = (Locked::new(), blocks.start);
        while at < blocks.end && pages.len() < most {
            let Some((index, found)) = self.next_tagged(mm, at..blocks.end) else {
                return (pages, blocks.end);
            };
            at = u64::from(index);
            let Some(pfn) = found else {
                // It is moving.
                if how.wait && !pages.is_empty() {
                    break;
                }
                if how.wait {
                    mm.platform.stall();
                } else {
                    at += 1;
                }
                continue;
            };
            let desc = mm.map.page(pfn);
            if how.wait && pages.is_empty() {
                mm.lock_page(desc);
            } else if !desc.try_lock() {
                mm.put_lru(pfn);
                if how.wait {
                    break;
                }
                at += 1;
                continue;
            }
            at += 1;
            let skipped = !how.again && desc.head().lru().contains(LruFlags::FAILED);
            if !skipped && self.begin_write(mm, pfn) {
                pages.push(pfn);
            } else {
                desc.unlock();
                mm.put_lru(pfn);
            }
        }
        (pages, at)
    }

    /// The first of some blocks whose page is dirty or on its way, and the page
    /// with a reference if that can be had at once.
    fn next_tagged<P: Platform>(
        &self,
        mm: &Mm<P>,
        blocks: Range<u64>,
    ) -> Option<(u32, Option<Pfn>)> {
        let from = u32::try_from(blocks.start).ok()?;
        let cpu = mm.enter();
        let (index, entry) = self.tree.lock(&cpu).next(mm, from, Which::Tagged)?;
        if u64::from(index) >= blocks.end {
            return None;
        }
        let pfn = entry.pfn().filter(|&pfn| mm.map.page(pfn).get_unless_zero());
        Some((index, pfn))
    }

    /// Writes a dirty page that the caller has locked, and with it its dirty
    /// neighbours, whom nobody has locked: a device likes them together. False if
    /// it could not be written.
    pub(super) fn write_around<P: Platform>(&self, mm: &Mm<P>, pfn: Pfn) -> bool {
        if !self.begin_write(mm, pfn) {
            return true;
        }
        let index = mm.map.page(pfn).index();
        // Those of a window that are dirty without a gap.
        let window = index - index % BATCH as u32..=index | (BATCH as u32 - 1);
        let mut before = Locked::new();
        for neighbour in (*window.start()..index).rev() {
            let Some(page) = self.lock_dirty(mm, neighbour) else { break };
            before.push(page);
        }
        let mut pages: Locked = before.into_iter().rev().collect();
        pages.push(pfn);
        for neighbour in index + 1..=*window.end() {
            let Some(page) = self.lock_dirty(mm, neighbour) else { break };
            pages.push(page);
        }
        self.write_out(mm, &pages);
        for &page in pages.iter().filter(|&&page| page != pfn) {
            mm.map.page(page).unlock();
            mm.put_lru(page);
        }
        !mm.map.page(pfn).head().lru().contains(LruFlags::DIRTY)
    }

    /// The page of a block, locked, referenced and on its way to the device, if it
    /// is dirty and can be had at once.
    fn lock_dirty<P: Platform>(&self, mm: &Mm<P>, index: u32) -> Option<Pfn> {
        let pfn = {
            let cpu = mm.enter();
            let entry = self.tree.lock(&cpu).get(mm, index);
            let dirty = entry.pfn().filter(|_| entry.tags() == Tags::DIRTY);
            dirty.filter(|&pfn| mm.map.page(pfn).get_unless_zero())?
        };
        let desc = mm.map.page(pfn);
        if desc.try_lock() {
            let failed = desc.head().lru().contains(LruFlags::FAILED);
            if !failed && self.begin_write(mm, pfn) {
                return Some(pfn);
            }
            desc.unlock();
        }
        mm.put_lru(pfn);
        None
    }
}
