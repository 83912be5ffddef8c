//! What each frame is: `/proc/kpageflags`, `/proc/kpagecount` (Linux
//! fs/proc/page.c; the bits are of its kernel-page-flags.h). They are binary, a
//! little-endian u64 for each frame from 0 on; as text they come in base64,
//! between the lines that `uuencode -m` writes. May call: `memmap`, `page`.

use crate::migrate::MovableOps;
use crate::mm::Mm;
use crate::page::{LruFlags, PageFlags, PageType};
use crate::platform::Platform;
use crate::types::{PAGEBLOCK_ORDER, Pfn};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bitflags::bitflags;
use core::fmt;

bitflags! {
    /// Bits of a word of `/proc/kpageflags`, those that a frame can have here.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct KPageFlags: u64 {
        /// Somebody holds the page lock.
        const LOCKED = 1 << 0;
        /// Reading or writing it has failed.
        const ERROR = 1 << 1;
        /// Used lately, other than through page tables.
        const REFERENCED = 1 << 2;
        /// Its content has arrived.
        const UPTODATE = 1 << 3;
        /// Newer than what its device has.
        const DIRTY = 1 << 4;
        /// On an LRU list.
        const LRU = 1 << 5;
        /// On, or bound for, an active one.
        const ACTIVE = 1 << 6;
        /// In a slab.
        const SLAB = 1 << 7;
        /// On its way to a device.
        const WRITEBACK = 1 << 8;
        /// To be freed once it is written.
        const RECLAIM = 1 << 9;
        /// In a free block, deferred ones too; not on per-CPU lists, as in Linux.
        const BUDDY = 1 << 10;
        /// Mapped.
        const MMAP = 1 << 11;
        /// Anonymous.
        const ANON = 1 << 12;
        /// In the swap cache.
        const SWAPCACHE = 1 << 13;
        /// To be written to swap, if it has to go.
        const SWAPBACKED = 1 << 14;
        /// The first page of an allocated block of several.
        const COMPOUND_HEAD = 1 << 15;
        /// One of its other pages.
        const COMPOUND_TAIL = 1 << 16;
        /// Not to be reclaimed.
        const UNEVICTABLE = 1 << 18;
        /// Found bad.
        const HWPOISON = 1 << 19;
        /// Not RAM.
        const NOPAGE = 1 << 20;
        /// In a large page.
        const THP = 1 << 22;
        /// Taken out of use, or lent to the host.
        const OFFLINE = 1 << 23;
        /// RAM that never came to the buddy.
        const RESERVED = 1 << 32;
        /// Locked into memory.
        const MLOCKED = 1 << 33;
        /// A driver's page that can be moved. Not one of Linux's bits.
        const MOVABLE_OPS = 1 << 56;
    }
}

/// Frames whose words make a line.
const FRAMES: usize = 6;
/// Characters of a full line of base64.
const LINE: usize = FRAMES * 8 / 3 * 4;

/// What is known of a mapped or cached page, in these terms.
fn of_lru(flags: LruFlags) -> KPageFlags {
    let known = [
        (LruFlags::FAILED, KPageFlags::ERROR),
        (LruFlags::REFERENCED, KPageFlags::REFERENCED),
        (LruFlags::UPTODATE, KPageFlags::UPTODATE),
        (LruFlags::DIRTY, KPageFlags::DIRTY),
        (LruFlags::LISTED, KPageFlags::LRU),
        (LruFlags::ACTIVE, KPageFlags::ACTIVE),
        (LruFlags::WRITEBACK, KPageFlags::WRITEBACK),
        (LruFlags::RECLAIM, KPageFlags::RECLAIM),
        (LruFlags::ANON, KPageFlags::ANON),
        (LruFlags::SWAPCACHE, KPageFlags::SWAPCACHE),
        (LruFlags::UNEVICTABLE, KPageFlags::UNEVICTABLE),
        (LruFlags::MLOCKED, KPageFlags::MLOCKED),
    ];
    let set = known.into_iter().filter(|&(flag, _)| flags.contains(flag));
    let bits = set.fold(KPageFlags::empty(), |bits, (_, bit)| bits | bit);
    // Swap is where its content would go.
    let backed = flags.contains(LruFlags::ANON) && !flags.contains(LruFlags::LAZYFREE);
    bits | if backed { KPageFlags::SWAPBACKED } else { KPageFlags::empty() }
}

impl<P: Platform> Mm<P> {
    /// What a frame is, in the terms of `/proc/kpageflags`. Needs no lock: a
    /// hint on a running machine.
    pub fn kpageflags(&self, pfn: Pfn) -> KPageFlags {
        let bad = if self.is_noted(pfn) { KPageFlags::HWPOISON } else { KPageFlags::empty() };
        self.flags_of_use(pfn) | bad
    }

    fn flags_of_use(&self, pfn: Pfn) -> KPageFlags {
        let _walk = self.look_around();
        if self.map.is_deferred(pfn) {
            return KPageFlags::BUDDY;
        }
        if self.map.try_page(pfn).is_none() {
            return KPageFlags::NOPAGE;
        }
        // Between a head and the next a frame may be nobody's for a moment.
        let Some((head, word)) = self.map.head_of(pfn) else { return KPageFlags::empty() };
        let mut flags = match word.ty() {
            // On their way somewhere, or one of many pages of a range.
            PageType::Tail | PageType::Pcp | PageType::Held | PageType::Contig => {
                return KPageFlags::empty();
            }
            PageType::Buddy => return KPageFlags::BUDDY,
            PageType::Offline => return KPageFlags::OFFLINE,
            PageType::Reserved => return KPageFlags::RESERVED,
            PageType::Hole => return KPageFlags::NOPAGE,
            PageType::Poisoned => return KPageFlags::HWPOISON,
            PageType::Kernel | PageType::LargeKmalloc => KPageFlags::empty(),
            PageType::Slab => KPageFlags::SLAB,
            PageType::Movable => {
                let ops = self.movable_ops(self.map.page(head));
                let balloon = ops.is_some_and(MovableOps::is_balloon);
                KPageFlags::MOVABLE_OPS
                    | if balloon { KPageFlags::OFFLINE } else { KPageFlags::empty() }
            }
            PageType::Lru => {
                let mapped = self.kpagecount(pfn) > 0;
                let flags = if mapped { KPageFlags::MMAP } else { KPageFlags::empty() };
                let large = word.order() == PAGEBLOCK_ORDER;
                let large = if large { KPageFlags::THP } else { KPageFlags::empty() };
                flags | large | of_lru(word.lru())
            }
        };
        if word.order().0 > 0 {
            flags |=
                if pfn == head { KPageFlags::COMPOUND_HEAD } else { KPageFlags::COMPOUND_TAIL };
        }
        if pfn == head && word.flags().contains(PageFlags::LOCKED) {
            flags |= KPageFlags::LOCKED;
        }
        flags
    }

    /// How often a frame is mapped, as `/proc/kpagecount` has it.
    pub fn kpagecount(&self, pfn: Pfn) -> u64 {
        let _walk = self.look_around();
        let mapped = self.map.head_of(pfn).filter(|(_, word)| word.ty() == PageType::Lru);
        mapped.map_or(0, |(head, _)| u64::from(self.map.page(head).inuse()))
    }

    /// Writes a file that has a word for each frame as a block of base64.
    pub(super) fn write_words(
        &self,
        name: &str,
        word: impl Fn(Pfn) -> u64,
        out: &mut dyn fmt::Write,
    ) -> fmt::Result {
        writeln!(out, "begin-base64 444 {name}")?;
        let mut frames = 0..self.map.end().0;
        let mut words = [[0; 8]; FRAMES];
        let mut line = [0; LINE];
        loop {
            let mut full = 0;
            for (slot, pfn) in words.iter_mut().zip(frames.by_ref()) {
                *slot = word(Pfn(pfn)).to_le_bytes();
                full += 1;
            }
            if full == 0 {
                return writeln!(out, "====");
            }
            let bytes = words[..full].as_flattened();
            let written = STANDARD.encode_slice(bytes, &mut line).map_err(|_| fmt::Error)?;
            let text = core::str::from_utf8(&line[..written]).map_err(|_| fmt::Error)?;
            writeln!(out, "{text}")?;
        }
    }
}
