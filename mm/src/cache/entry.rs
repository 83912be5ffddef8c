//! What a slot of a cache's tree says: nothing, which page is cached there and
//! what is being done with it, or when one was reclaimed. Pure; calls nothing.

use crate::page::{link, linked};
use crate::types::Pfn;
use bitflags::bitflags;

bitflags! {
    /// What sets a cached page apart from others, for those who look for such
    /// pages in the tree (Linux `PAGECACHE_TAG_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Tags: u64 {
        /// It is newer than what the device has.
        const DIRTY = 1 << 32;
        /// It is on its way to the device.
        const WRITEBACK = 1 << 33;
    }
}

/// A slot that remembers a page that was reclaimed, and not a page.
const SHADOW: u64 = 1 << 63;

/// A slot's word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry(pub(super) u64);

impl Entry {
    /// Nothing.
    pub(super) const EMPTY: Self = Self(0);

    /// A page without tags; in an upper node, a node below it.
    pub(super) fn of(pfn: Pfn) -> Self {
        Self(u64::from(link(pfn)) + 1)
    }

    /// What is remembered of a page that is gone; less than 2^63.
    pub(super) const fn shadow(memory: u64) -> Self {
        Self(memory | SHADOW)
    }

    /// Whether it says nothing.
    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is remembered of a page that is gone.
    pub(super) const fn memory(self) -> Option<u64> {
        if self.0 & SHADOW != 0 { Some(self.0 & !SHADOW) } else { None }
    }

    /// The page, or the node.
    pub(super) fn pfn(self) -> Option<Pfn> {
        if self.0 & SHADOW != 0 {
            return None;
        }
        (self.0 as u32).checked_sub(1).and_then(linked)
    }

    /// The tags of a page.
    pub(super) const fn tags(self) -> Tags {
        if self.0 & SHADOW != 0 { Tags::empty() } else { Tags::from_bits_truncate(self.0) }
    }

    /// A page's with other tags.
    pub(super) const fn retagged(self, set: Tags, clear: Tags) -> Self {
        Self((self.0 & !clear.bits()) | set.bits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_says_one_thing() {
        for pfn in [Pfn(0), Pfn(1), Pfn(u64::from(u32::MAX) - 1)] {
            let entry = Entry::of(pfn);
            assert_eq!(
                (entry.pfn(), entry.tags(), entry.memory()),
                (Some(pfn), Tags::empty(), None)
            );
            let dirty = entry.retagged(Tags::DIRTY, Tags::WRITEBACK);
            assert_eq!((dirty.pfn(), dirty.tags()), (Some(pfn), Tags::DIRTY));
            assert_eq!(dirty.retagged(Tags::empty(), Tags::all()), entry);
        }
        let gone = Entry::shadow(u64::MAX >> 1);
        assert_eq!((gone.pfn(), gone.tags()), (None, Tags::empty()));
        assert_eq!(gone.memory(), Some(u64::MAX >> 1));
        assert_eq!((Entry::EMPTY.pfn(), Entry::EMPTY.memory()), (None, None));
        assert!(Entry::EMPTY.is_empty() && !gone.is_empty());
    }
}
