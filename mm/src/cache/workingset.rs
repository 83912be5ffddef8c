//! What is remembered of pages that were reclaimed: one that is wanted again
//! before as many others have gone as are in use now would still be there if it
//! had been in use, so it is put among those (Linux mm/workingset.c). May call:
//! `tree`, `lru`.
//!
//! A node counts pages that leave its caches; that number is left in the tree in
//! the place of the page. It costs no memory as long as a node of the tree has
//! pages besides; nodes with nothing but memories are given up when memory is
//! short, by a shrinker.

use super::PageCache;
use super::entry::Entry;
use super::pages::free_nodes;
use super::tree::Which;
use crate::list::PageList;
use crate::lru::LruList;
use crate::mm::Mm;
use crate::page::LruFlags;
use crate::platform::Platform;
use crate::reclaim::{Shrinker, Shrunk};
use crate::stats::Event;
use crate::types::{NodeId, Pfn};

/// Bits of the clock that are kept.
const CLOCK_BITS: u32 = 48;
const CLOCK: u64 = (1 << CLOCK_BITS) - 1;

/// What is remembered of a page: when it went, of which node, and whether it had
/// been in use before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Memory {
    clock: u64,
    node: NodeId,
    workingset: bool,
}

impl Memory {
    const fn pack(self) -> u64 {
        (self.clock & CLOCK)
            | (self.node.0 as u64) << CLOCK_BITS
            | (self.workingset as u64) << (CLOCK_BITS + 8)
    }

    const fn unpack(bits: u64) -> Self {
        Self {
            clock: bits & CLOCK,
            node: NodeId((bits >> CLOCK_BITS) as u8),
            workingset: bits >> (CLOCK_BITS + 8) & 1 != 0,
        }
    }
}

/// A page leaves its cache: what is to be remembered of it.
pub(super) fn evict<P: Platform>(mm: &Mm<P>, pfn: Pfn) -> Entry {
    let node = mm.map.block(pfn).node();
    let workingset = mm.map.page(pfn).head().lru().contains(LruFlags::WORKINGSET);
    let clock = mm.nonresident_age(node, 1);
    Entry::shadow(Memory { clock, node, workingset }.pack())
}

/// A page is back, locked and on no list yet.
pub(super) fn refault<P: Platform>(mm: &Mm<P>, pfn: Pfn, memory: u64) {
    let Memory { clock, node, workingset } = Memory::unpack(memory);
    if usize::from(node.0) >= mm.nodes() {
        return;
    }
    mm.stats.count(Event::WorkingsetRefaultFile);
    let distance = mm.nonresident_age(node, 0).wrapping_sub(clock) & CLOCK;
    let pages = |list| mm.node_lru_pages(node, list);
    let mut in_use = pages(LruList::ActiveFile);
    if mm.swap_free_slots() > 0 {
        in_use += pages(LruList::ActiveAnon) + pages(LruList::InactiveAnon);
    }
    if distance > in_use {
        return;
    }
    let desc = mm.map.page(pfn);
    desc.set_lru(LruFlags::ACTIVE);
    mm.nonresident_age(node, 1);
    mm.stats.count(Event::WorkingsetActivateFile);
    if workingset {
        desc.set_lru(LruFlags::WORKINGSET);
        mm.stats.count(Event::WorkingsetRestoreFile);
    }
}

impl PageCache {
    /// Leaves of the tree that hold nothing but memories.
    pub(super) fn count_shadow_nodes<P: Platform>(&self, mm: &Mm<P>) -> u64 {
        let cpu = mm.enter();
        self.tree.lock(&cpu).shadow_leaves()
    }

    /// Frees up to `most` of them; returns how many nodes were freed.
    pub(super) fn free_shadow_nodes<P: Platform>(&self, mm: &Mm<P>, most: u64) -> u64 {
        let (mut at, mut freed, mut leaves) = (Some(0), 0, 0);
        while let Some(from) = at.filter(|_| leaves < most) {
            let mut nodes = PageList::new();
            {
                let cpu = mm.enter();
                let mut tree = self.tree.lock(&cpu);
                if tree.shadow_leaves() == 0 {
                    break;
                }
                let Some((index, _)) = tree.next(mm, from, Which::Gone) else { break };
                at = tree.drop_shadow_leaf(mm, index, &mut nodes);
            }
            leaves += u64::from(!nodes.is_empty());
            freed += u64::from(nodes.len());
            free_nodes(mm, &mut nodes);
        }
        mm.stats.add(Event::WorkingsetNodeReclaim, leaves);
        freed
    }
}

/// Nodes of caches' trees that hold nothing but memories; an object is a node.
pub(crate) struct ShadowNodes;

impl<P: Platform> Shrinker<P> for ShadowNodes {
    fn count(&self, mm: &Mm<P>, node: NodeId) -> u64 {
        // They are not kept by node: they are the first one's business.
        if node != NodeId(0) {
            return 0;
        }
        mm.cache_owners().map(|cache| cache.shadow_nodes(mm)).sum()
    }

    fn scan(&self, mm: &Mm<P>, _node: NodeId, scan: u64) -> Option<Shrunk> {
        let mut left = scan;
        for cache in mm.cache_owners() {
            left -= cache.drop_shadow_nodes(mm, left).min(left);
        }
        let pages = scan - left;
        (pages > 0).then_some(Shrunk { objects: pages, pages })
    }

    /// Without it nothing has to be read that would not be read anyway.
    fn seeks(&self) -> u32 {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_survive_the_word() {
        for memory in [
            Memory { clock: 0, node: NodeId(0), workingset: false },
            Memory { clock: CLOCK, node: NodeId(15), workingset: true },
            Memory { clock: 12345, node: NodeId(1), workingset: false },
        ] {
            assert_eq!(Memory::unpack(memory.pack()), memory);
            assert_eq!(Entry::shadow(memory.pack()).memory(), Some(memory.pack()));
        }
    }
}
