//! Lists of mapped and cached pages by their last use: for each node an inactive
//! and an active list of anonymous and of file-like pages, and one of those that
//! are not to be reclaimed. What becomes of the pages at their ends is reclaim's
//! business. After Linux mm/swap.c, include/linux/mm_inline.h. May call: `free`,
//! `list`, `memmap`, `page`.
//!
//! A page of type Lru whose flag LISTED is set is on the list of its node that
//! its other flags name ([`LruList::of`]). These flags (ACTIVE, ANON, LAZYFREE,
//! UNEVICTABLE) are changed under the node's lock only, once the page has been
//! published, whether it is listed just then or not. The lists hold no
//! reference: whoever drops the last one takes the page off.
//!
//! ```text
//!            lru_add            lru_isolate                 lru_putback
//!   (none) ---------> batch ---------------> LISTED <--------------------+
//!                     15 pages a CPU,          |                         |
//!                     with a reference         +----> ISOLATED, and one -+
//!                                                     reference more
//! ```

mod audit;
mod batch;
mod ops;
mod take;

pub(crate) use audit::{LruCount, audit_lru_head};
pub(crate) use ops::Turn;
pub(crate) use take::{Isolator, Zones};

use crate::boot_slice::BootSlice;
use crate::early::EarlyMem;
use crate::list::PageList;
use crate::memmap::MemMap;
use crate::mm::Mm;
use crate::page::{HeadWord, LruFlags};
use crate::platform::Platform;
use crate::sync::{AtomicU64, Cpu, CpuCell, Lock, LockGuard, LockRank, Ordering::Relaxed};
use crate::types::{NR_ZONES, NodeId, Order, Pfn, ZoneKind};
use crate::zone::Zone;
use batch::Batch;

/// Number of lists of a node.
pub const NR_LRU_LISTS: usize = 5;

/// One of a node's lists (Linux `enum lru_list`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum LruList {
    /// Anonymous, not used lately.
    InactiveAnon = 0,
    /// Anonymous, in use.
    ActiveAnon = 1,
    /// Of a file or device, or anonymous and free to be dropped; not used lately.
    InactiveFile = 2,
    /// Of a file or device, in use.
    ActiveFile = 3,
    /// Never reclaimed.
    Unevictable = 4,
}

impl LruList {
    /// All lists in index order, which is Linux's.
    pub const ALL: [Self; NR_LRU_LISTS] = [
        Self::InactiveAnon,
        Self::ActiveAnon,
        Self::InactiveFile,
        Self::ActiveFile,
        Self::Unevictable,
    ];

    /// The list that a page with these flags belongs on.
    pub const fn of(flags: LruFlags) -> Self {
        let file = !flags.contains(LruFlags::ANON) || flags.contains(LruFlags::LAZYFREE);
        match (flags.contains(LruFlags::ACTIVE), file) {
            _ if flags.contains(LruFlags::UNEVICTABLE) => Self::Unevictable,
            (false, false) => Self::InactiveAnon,
            (true, false) => Self::ActiveAnon,
            (false, true) => Self::InactiveFile,
            (true, true) => Self::ActiveFile,
        }
    }

    /// The index in tables by list.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The key in `/proc/vmstat`, for the whole machine or a node.
    pub const fn key(self) -> &'static str {
        [
            "nr_inactive_anon",
            "nr_active_anon",
            "nr_inactive_file",
            "nr_active_file",
            "nr_unevictable",
        ][self as usize]
    }

    /// The key in `/proc/vmstat` and `/proc/zoneinfo` of what is counted by zone.
    pub const fn zone_key(self) -> &'static str {
        [
            "nr_zone_inactive_anon",
            "nr_zone_active_anon",
            "nr_zone_inactive_file",
            "nr_zone_active_file",
            "nr_zone_unevictable",
        ][self as usize]
    }
}

/// The kinds of pages that reclaim weighs against each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum LruKind {
    /// Reclaimed by writing them to swap.
    Anon = 0,
    /// Reclaimed by forgetting them, once they are written where they belong.
    File = 1,
}

impl LruKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Anon, Self::File];

    /// Its inactive list.
    pub const fn inactive(self) -> LruList {
        match self {
            Self::Anon => LruList::InactiveAnon,
            Self::File => LruList::InactiveFile,
        }
    }

    /// Its active list.
    pub const fn active(self) -> LruList {
        match self {
            Self::Anon => LruList::ActiveAnon,
            Self::File => LruList::ActiveFile,
        }
    }
}

/// A node's lists and what is counted of them.
pub(crate) struct NodeLru {
    lists: Lock<[PageList; NR_LRU_LISTS]>,
    /// Pages listed, by zone and list. Written under the lock.
    sizes: [[AtomicU64; NR_LRU_LISTS]; NR_ZONES],
    /// Pages that are isolated: anonymous ones, others.
    isolated: [AtomicU64; 2],
}

impl NodeLru {
    fn new() -> Self {
        Self {
            lists: Lock::new(LockRank::Lru, [PageList::new(); NR_LRU_LISTS]),
            sizes: [const { [const { AtomicU64::new(0) }; NR_LRU_LISTS] }; NR_ZONES],
            isolated: [const { AtomicU64::new(0) }; 2],
        }
    }

    fn lock<'a, P: Platform>(&'a self, map: &'a MemMap, cpu: &Cpu<'a, P>) -> Lists<'a> {
        Lists { map, node: self, lists: self.lists.lock(cpu) }
    }

    /// Pages of one zone on a list.
    pub(crate) fn pages(&self, zone: ZoneKind, list: LruList) -> u64 {
        self.sizes[zone.index()][list.index()].load(Relaxed)
    }
}

/// A node's lists, locked.
struct Lists<'a> {
    map: &'a MemMap,
    node: &'a NodeLru,
    lists: LockGuard<'a, [PageList; NR_LRU_LISTS]>,
}

impl Lists<'_> {
    /// The lock's holder is the only writer: no read-modify-write is needed.
    fn count(&self, pfn: Pfn, order: Order, list: LruList, more: bool) {
        let zone = self.map.block(pfn).zone_index() % NR_ZONES;
        let size = &self.node.sizes[zone][list.index()];
        let (now, pages) = (size.load(Relaxed), order.pages());
        size.store(if more { now + pages } else { now - pages }, Relaxed);
    }

    /// Lists a page that is not listed: at the front, or where it is next to be
    /// reclaimed.
    fn insert(&mut self, pfn: Pfn, front: bool) {
        let page = self.map.page(pfn);
        page.set_lru(LruFlags::LISTED);
        let word = page.head();
        let list = LruList::of(word.lru());
        let at = &mut self.lists[list.index()];
        if front {
            at.push_front(self.map, pfn);
        } else {
            at.push_back(self.map, pfn);
        }
        self.count(pfn, word.order(), list, true);
    }

    /// Takes a listed page off its list.
    fn remove(&mut self, pfn: Pfn) {
        self.unlink(pfn, self.map.page(pfn).head());
        self.map.page(pfn).clear_lru(LruFlags::LISTED);
    }

    /// Takes a listed page, to which the caller has a reference, off its list and
    /// marks it as isolated.
    fn isolate(&mut self, pfn: Pfn) {
        let page = self.map.page(pfn);
        let word = page.head();
        self.unlink(pfn, word);
        page.isolate_listed();
        self.node.count_isolated(word);
    }

    fn unlink(&mut self, pfn: Pfn, word: HeadWord) {
        let list = LruList::of(word.lru());
        self.lists[list.index()].remove(self.map, pfn);
        self.count(pfn, word.order(), list, false);
    }

    /// Changes flags that say where a page belongs, and brings it there; returns
    /// those that it had.
    fn change(&mut self, pfn: Pfn, set: LruFlags, clear: LruFlags, front: bool) -> LruFlags {
        let page = self.map.page(pfn);
        let listed = page.head().lru().contains(LruFlags::LISTED);
        if listed {
            self.remove(pfn);
        }
        let before = page.set_lru(set);
        page.clear_lru(clear);
        if listed {
            self.insert(pfn, front);
        }
        before
    }
}

/// All that the lists keep in the manager.
pub(crate) struct LruState {
    nodes: BootSlice<NodeLru>,
    batches: BootSlice<CpuCell<Batch>>,
}

impl LruState {
    /// Empty lists; None when early memory has no room for them.
    pub(crate) fn new<P: Platform>(
        platform: &P,
        early: &mut EarlyMem<'_>,
        nodes: usize,
    ) -> Option<Self> {
        let cpus = usize::from(platform.cpus());
        Some(Self {
            nodes: BootSlice::new(platform, early, "LRU lists", nodes, |_| NodeLru::new())?,
            batches: BootSlice::new(platform, early, "LRU batches", cpus, |_| {
                CpuCell::new(Batch::default())
            })?,
        })
    }

    /// A node's lists.
    pub(crate) fn node(&self, node: NodeId) -> &NodeLru {
        &self.nodes[usize::from(node.0)]
    }
}

impl<P: Platform> Mm<P> {
    /// The lists that a page of type Lru belongs to.
    fn lru_of(&self, pfn: Pfn) -> &NodeLru {
        self.lru.node(NodeId((self.map.block(pfn).zone_index() / NR_ZONES) as u8))
    }

    /// Pages of `zone` on its node's list; what is isolated or waits in a CPU's
    /// batch is on none. Any context.
    pub fn lru_pages(&self, zone: &Zone, list: LruList) -> u64 {
        self.lru.node(zone.node).pages(zone.kind, list)
    }

    /// Pages of a node on a list, of all its zones. Any context.
    pub fn node_lru_pages(&self, node: NodeId, list: LruList) -> u64 {
        let lists = self.lru.node(node);
        ZoneKind::ALL.into_iter().map(|zone| lists.pages(zone, list)).sum()
    }

    /// Pages of a node that somebody has isolated. Any context.
    pub fn node_isolated_pages(&self, node: NodeId, kind: LruKind) -> u64 {
        self.lru.node(node).isolated[kind as usize].load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_name_the_list() {
        use LruFlags as F;
        for (flags, list) in [
            (F::empty(), LruList::InactiveFile),
            (F::ACTIVE, LruList::ActiveFile),
            (F::ANON, LruList::InactiveAnon),
            (F::ANON | F::ACTIVE | F::DIRTY, LruList::ActiveAnon),
            (F::ANON | F::LAZYFREE, LruList::InactiveFile),
            (F::ANON | F::ACTIVE | F::UNEVICTABLE, LruList::Unevictable),
            (F::UNEVICTABLE, LruList::Unevictable),
        ] {
            assert_eq!(LruList::of(flags), list, "{flags:?}");
        }
    }
}
