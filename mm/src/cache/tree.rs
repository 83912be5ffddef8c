//! The tree of a cache: from the number of a block to its page (a radix tree, as
//! Linux lib/xarray.c, in nodes as large as a page). It gets as high as the
//! highest number in it needs; a node is freed with the last thing in it. May
//! call: `memmap`, `list`.
//!
//! A node is a page of the manager's own full of [`Entry`] words. What is counted
//! of it is in its descriptor: `index`, slots that are not empty; `inuse`, of
//! these, in a leaf, pages; `private`, slots with tags, or with nodes that have
//! such in turn. So who looks for dirty pages passes over whatever has none.
//!
//! Nodes are made and freed by who calls: a tree is changed with a spin lock held.

use super::entry::{Entry, Tags};
use crate::list::PageList;
use crate::mm::Mm;
use crate::page::PageDesc;
use crate::platform::Platform;
use crate::sync::{AtomicU64, Ordering::Relaxed};
use crate::types::{PAGE_SIZE, Pfn};

/// Slots of a node, log2.
const SHIFT: u32 = (PAGE_SIZE / size_of::<AtomicU64>()).ilog2();
const SLOTS: u64 = 1 << SHIFT;
/// Levels that numbers of 32 bits need.
const MAX_HEIGHT: usize = u32::BITS.div_ceil(SHIFT) as usize;

/// A tree of pages. Whoever has the lock around it is alone.
pub(super) struct Tree {
    root: Option<Pfn>,
    height: u32,
    /// Nodes that it has.
    nodes: u64,
    /// Leaves that hold nothing but memories of pages that are gone.
    shadow_leaves: u64,
}

/// Why a page was not entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    /// There is one.
    Present,
    /// So many nodes are wanted.
    Nodes(u32),
}

/// The nodes down to a slot, the root first, each with the number of a slot.
struct Path {
    steps: [(Pfn, u64); MAX_HEIGHT],
    len: usize,
}

impl Path {
    fn steps(&self) -> &[(Pfn, u64)] {
        &self.steps[..self.len]
    }
}

/// A slot of a node.
fn slot<P: Platform>(mm: &Mm<P>, node: Pfn, i: u64) -> &AtomicU64 {
    let words = mm.platform.frame(node).cast::<AtomicU64>();
    // SAFETY: a node is a frame of the tree's own, came zeroed, which is a valid
    // word, and is reached in no other way; the index is below the slots of a node.
    unsafe { &*words.add((i % SLOTS) as usize) }
}

fn read<P: Platform>(mm: &Mm<P>, node: Pfn, i: u64) -> Entry {
    Entry(slot(mm, node, i).load(Relaxed))
}

fn write<P: Platform>(mm: &Mm<P>, node: Pfn, i: u64, entry: Entry) {
    slot(mm, node, i).store(entry.0, Relaxed);
}

/// Slots in use of a node.
fn add_used(node: &PageDesc, more: bool) {
    let used = node.index();
    node.set_index(if more { used + 1 } else { used - 1 });
}

/// The height of a tree that `index` has room in.
const fn height_for(index: u32) -> u32 {
    let bits = u32::BITS - index.leading_zeros();
    if bits == 0 { 1 } else { bits.div_ceil(SHIFT) }
}

impl Tree {
    /// An empty one.
    pub(super) const fn new() -> Self {
        Self { root: None, height: 0, nodes: 0, shadow_leaves: 0 }
    }

    /// Nodes that it has.
    pub(super) const fn nodes(&self) -> u64 {
        self.nodes
    }

    /// Leaves that hold nothing but memories of pages that are gone.
    pub(super) const fn shadow_leaves(&self) -> u64 {
        self.shadow_leaves
    }

    fn covers(&self, index: u32) -> bool {
        self.height >= height_for(index)
    }

    /// The way to the slot of `index`, as far as there are nodes.
    fn walk<P: Platform>(&self, mm: &Mm<P>, index: u32) -> Path {
        let mut path = Path { steps: [(Pfn(0), 0); MAX_HEIGHT], len: 0 };
        let mut node = self.root.filter(|_| self.covers(index));
        let mut level = self.height;
        while let Some(pfn) = node.filter(|_| level > 0) {
            level -= 1;
            let i = u64::from(index) >> (SHIFT * level) & (SLOTS - 1);
            path.steps[path.len] = (pfn, i);
            path.len += 1;
            node = read(mm, pfn, i).pfn();
        }
        path
    }

    /// The leaf that `index` has its slot in, and which slot, if there is one.
    fn leaf<P: Platform>(&self, mm: &Mm<P>, index: u32) -> Option<(Path, Pfn, u64)> {
        let path = self.walk(mm, index);
        let &(leaf, i) = path.steps().last().filter(|_| path.len == self.height as usize)?;
        Some((path, leaf, i))
    }

    /// What the slot of `index` says.
    pub(super) fn get<P: Platform>(&self, mm: &Mm<P>, index: u32) -> Entry {
        self.leaf(mm, index).map_or(Entry::EMPTY, |(_, leaf, i)| read(mm, leaf, i))
    }

    /// Enters a page where there is none, with nodes from `spare`, which are
    /// zeroed. Returns what the slot said before.
    ///
    /// # Errors
    /// See [`Refused`]; nothing has changed then.
    pub(super) fn insert<P: Platform>(
        &mut self,
        mm: &Mm<P>,
        index: u32,
        page: Pfn,
        spare: &mut PageList,
    ) -> Result<Entry, Refused> {
        let needed = self.nodes_for(mm, index);
        if spare.len() < needed {
            return Err(Refused::Nodes(needed));
        }
        while !self.covers(index) {
            let top = spare.pop_front(&mm.map).ok_or(Refused::Nodes(needed))?;
            let desc = mm.map.page(top);
            desc.set_inuse(0);
            desc.set_index_and_private(0, 0);
            self.nodes += 1;
            match self.root.replace(top) {
                Some(below) => {
                    write(mm, top, 0, Entry::of(below));
                    let tagged = mm.map.page(below).private() > 0;
                    desc.set_index_and_private(1, u32::from(tagged));
                    self.height += 1;
                }
                None => self.height = height_for(index),
            }
        }
        // From the lowest node that is there down to the leaf.
        while self.walk(mm, index).len < self.height as usize {
            let node = spare.pop_front(&mm.map).ok_or(Refused::Nodes(needed))?;
            self.nodes += 1;
            mm.map.page(node).set_index_and_private(0, 0);
            mm.map.page(node).set_inuse(0);
            let path = self.walk(mm, index);
            if let Some(&(above, i)) = path.steps().last() {
                write(mm, above, i, Entry::of(node));
                add_used(mm.map.page(above), true);
            }
        }
        let Some((_, leaf, i)) = self.leaf(mm, index) else { return Err(Refused::Nodes(needed)) };
        let (desc, old) = (mm.map.page(leaf), read(mm, leaf, i));
        if old.pfn().is_some() {
            return Err(Refused::Present);
        }
        if desc.inuse() == 0 && desc.index() > 0 {
            self.shadow_leaves -= 1;
        }
        if old.is_empty() {
            add_used(desc, true);
        }
        desc.set_inuse(desc.inuse() + 1);
        write(mm, leaf, i, Entry::of(page));
        Ok(old)
    }

    /// Nodes that are missing on the way to `index`.
    fn nodes_for<P: Platform>(&self, mm: &Mm<P>, index: u32) -> u32 {
        let height = height_for(index);
        match self.root {
            None => height,
            // What is there hangs on the other side of the new root.
            Some(_) if height > self.height => height - self.height + height - 1,
            Some(_) => self.height - self.walk(mm, index).len as u32,
        }
    }

    /// Takes a page without tags out, leaving `instead`, which is no page. Nodes
    /// that are not needed any more are put on `freed`. False if there is no page.
    pub(super) fn remove<P: Platform>(
        &mut self,
        mm: &Mm<P>,
        index: u32,
        instead: Entry,
        freed: &mut PageList,
    ) -> bool {
        let Some((path, leaf, i)) = self.leaf(mm, index) else { return false };
        let old = read(mm, leaf, i);
        if old.pfn().is_none() {
            return false;
        }
        debug_assert!(old.tags().is_empty(), "a page leaves that is {old:?}");
        let desc = mm.map.page(leaf);
        desc.set_inuse(desc.inuse() - 1);
        write(mm, leaf, i, instead);
        if instead.is_empty() {
            add_used(desc, false);
        }
        if desc.inuse() == 0 && desc.index() > 0 {
            self.shadow_leaves += 1;
        }
        self.prune(mm, &path, freed);
        true
    }

    /// Takes the leaf of `index` off if it holds nothing but memories; its nodes
    /// are put on `freed`. Returns the first number of the leaf after it.
    pub(super) fn drop_shadow_leaf<P: Platform>(
        &mut self,
        mm: &Mm<P>,
        index: u32,
        freed: &mut PageList,
    ) -> Option<u32> {
        if let Some((path, leaf, _)) = self.leaf(mm, index)
            && mm.map.page(leaf).inuse() == 0
        {
            (0..SLOTS).for_each(|i| write(mm, leaf, i, Entry::EMPTY));
            mm.map.page(leaf).set_index(0);
            self.shadow_leaves -= 1;
            self.prune(mm, &path, freed);
        }
        ((index >> SHIFT) + 1).checked_mul(SLOTS as u32)
    }

    /// Takes nodes with nothing in them off, from a leaf upwards, and makes the
    /// tree as low as it can be.
    fn prune<P: Platform>(&mut self, mm: &Mm<P>, path: &Path, freed: &mut PageList) {
        for (depth, &(node, _)) in path.steps().iter().enumerate().rev() {
            if mm.map.page(node).index() > 0 {
                break;
            }
            debug_assert_eq!(mm.map.page(node).private(), 0, "tags in an empty node");
            match depth.checked_sub(1).map(|above| path.steps[above]) {
                Some((above, i)) => {
                    write(mm, above, i, Entry::EMPTY);
                    add_used(mm.map.page(above), false);
                }
                None => (self.root, self.height) = (None, 0),
            }
            self.nodes -= 1;
            freed.push_back(&mm.map, node);
        }
        while let Some(root) = self.root.filter(|_| self.height > 1) {
            let only = read(mm, root, 0).pfn().filter(|_| mm.map.page(root).index() == 1);
            let Some(below) = only else { break };
            (self.root, self.height) = (Some(below), self.height - 1);
            self.nodes -= 1;
            freed.push_back(&mm.map, root);
        }
    }

    /// Has another page in the place of the one at `index`, with its tags.
    pub(super) fn replace<P: Platform>(&mut self, mm: &Mm<P>, index: u32, page: Pfn) {
        if let Some((_, leaf, i)) = self.leaf(mm, index) {
            let tags = read(mm, leaf, i).tags();
            write(mm, leaf, i, Entry::of(page).retagged(tags, Tags::empty()));
        }
    }

    /// Sets and clears tags of the page at `index`; returns those it had.
    pub(super) fn retag<P: Platform>(
        &mut self,
        mm: &Mm<P>,
        index: u32,
        set: Tags,
        clear: Tags,
    ) -> Tags {
        let Some((path, leaf, i)) = self.leaf(mm, index) else { return Tags::empty() };
        let old = read(mm, leaf, i);
        let new = old.retagged(set, clear);
        write(mm, leaf, i, new);
        let (was, is) = (!old.tags().is_empty(), !new.tags().is_empty());
        if was != is {
            for &(node, _) in path.steps().iter().rev() {
                let desc = mm.map.page(node);
                let tagged = desc.private();
                desc.set_private(if is { tagged + 1 } else { tagged - 1 });
                // Above it is known already that there is something, or still so.
                if tagged != u32::from(was) {
                    break;
                }
            }
        }
        old.tags()
    }

    /// The first slot from `from` on that has what is looked for.
    pub(super) fn next<P: Platform>(
        &self,
        mm: &Mm<P>,
        from: u32,
        which: Which,
    ) -> Option<(u32, Entry)> {
        let mut at = u64::from(from);
        'down: loop {
            if at >> (SHIFT * self.height) != 0 {
                return None;
            }
            let (mut node, mut level) = (self.root?, self.height);
            loop {
                level -= 1;
                let span = SHIFT * level;
                let mut i = at >> span & (SLOTS - 1);
                while i < SLOTS && !which.is_met(mm, read(mm, node, i), level) {
                    i += 1;
                    at = ((at >> span) + 1) << span;
                }
                if i == SLOTS {
                    // It is behind the whole node now.
                    continue 'down;
                }
                let entry = read(mm, node, i);
                match entry.pfn().filter(|_| level > 0) {
                    Some(below) => node = below,
                    None => return Some((at as u32, entry)),
                }
            }
        }
    }

    /// Calls `each` with every node, its level (0: a leaf) and what is counted of
    /// it, for the audit.
    pub(super) fn each_node<P: Platform, E>(
        &self,
        mm: &Mm<P>,
        each: &mut dyn FnMut(Pfn, u32) -> Result<(), E>,
    ) -> Result<(), E> {
        fn visit<P: Platform, E>(
            mm: &Mm<P>,
            node: Pfn,
            level: u32,
            each: &mut dyn FnMut(Pfn, u32) -> Result<(), E>,
        ) -> Result<(), E> {
            each(node, level)?;
            for below in (0..SLOTS).filter_map(|i| read(mm, node, i).pfn().filter(|_| level > 0)) {
                visit(mm, below, level - 1, each)?;
            }
            Ok(())
        }
        self.root.map_or(Ok(()), |root| visit(mm, root, self.height - 1, each))
    }
}

/// What is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Which {
    /// Any page.
    Page,
    /// A page with a tag.
    Tagged,
    /// A page that is gone, in a leaf that has no others: of the rest of the leaves
    /// no slot is looked at.
    Gone,
}

impl Which {
    fn is_met<P: Platform>(self, mm: &Mm<P>, entry: Entry, level: u32) -> bool {
        match (self, entry.pfn()) {
            (Self::Gone, _) if level == 0 => entry.memory().is_some(),
            (_, None) => false,
            (Self::Gone, Some(leaf)) if level == 1 => mm.map.page(leaf).inuse() == 0,
            (Self::Tagged, Some(below)) if level > 0 => mm.map.page(below).private() > 0,
            (Self::Tagged, Some(_)) => !entry.tags().is_empty(),
            (Self::Page | Self::Gone, Some(_)) => true,
        }
    }
}

/// What the slots of a node come to: those in use, pages, tagged.
pub(super) fn count_node<P: Platform>(mm: &Mm<P>, node: Pfn, level: u32) -> [u32; 3] {
    let entries = (0..SLOTS).map(|i| read(mm, node, i));
    entries.fold([0; 3], |[used, pages, tagged], entry| {
        [
            used + u32::from(!entry.is_empty()),
            pages + u32::from(level == 0 && entry.pfn().is_some()),
            tagged + u32::from(Which::Tagged.is_met(mm, entry, level)),
        ]
    })
}

#[cfg(all(test, feature = "host"))]
mod tests;
