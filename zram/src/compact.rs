//! Making the store's pages fewer: what is in the emptiest one goes where there
//! is room in others, until there is not enough (Linux `zs_compact`). This is
//! not the compaction of `mm`, which moves whole pages. Calls `store`.

use crate::device::Zram;
use crate::leaf::Shape;
use crate::store::{Emptied, Place};
use mm::Mm;
use mm::platform::Platform;
use mm::reclaim::{Shrinker, Shrunk};
use mm::sync::Ordering;
use mm::types::{NodeId, PAGE_SIZE};

/// What moving one object of the victim came to.
enum Step {
    /// It is elsewhere; these pages are empty now.
    Moved(Emptied),
    /// The victim is empty, or nobody's any more.
    Gone,
    /// There is no room for it.
    Stuck,
}

impl<P: Platform> Zram<P> {
    /// Empties pages while the others have room for what is in them; returns how
    /// many pages became free. One at a time does it: another returns at once.
    /// The lock is given up after each object. Context as for
    /// [`write`](Self::write); needs no memory.
    pub fn compact(&self, mm: &Mm<P>) -> u64 {
        self.compact_some(mm, u64::MAX)
    }

    /// [`compact`](Self::compact) until about `most` pages have become free.
    fn compact_some(&self, mm: &Mm<P>, most: u64) -> u64 {
        // Whoever sets the device up may be the one who wants memory.
        let Some(set_up) = self.slots.try_read().filter(|size| **size > 0) else { return 0 };
        if self.compacting.swap(true, Ordering::Acquire) {
            return 0;
        }
        let mut freed = 0;
        'all: while freed < most && self.choose_victim(mm) {
            loop {
                match self.move_one(mm) {
                    Step::Moved(emptied) => freed += emptied.release(mm),
                    Step::Gone => break,
                    Step::Stuck => break 'all,
                }
            }
        }
        self.lock(mm).figures.compacted += freed;
        self.compacting.store(false, Ordering::Release);
        drop(set_up);
        freed
    }

    /// Pages that [`compact`](Self::compact) might free: an estimate.
    pub fn compactable(&self, mm: &Mm<P>) -> u64 {
        self.lock(mm).listed_free / PAGE_SIZE as u64
    }

    /// Takes the emptiest page off its list if the rest has room for its content.
    fn choose_victim(&self, mm: &Mm<P>) -> bool {
        let mut store = self.lock(mm);
        let Some(pfn) = store.roomiest() else { return false };
        let Some(desc) = store.own(mm, pfn) else { return false };
        let free = u64::from(Shape::unpack(desc.private()).free);
        // What is free in it is no room for what is in it.
        if store.listed_free - free < PAGE_SIZE as u64 - free {
            return false;
        }
        store.unlist(mm, pfn, desc);
        desc.set_inuse(1);
        store.victim = Some(desc.index());
        true
    }

    /// Moves the last object of the victim.
    fn move_one(&self, mm: &Mm<P>) -> Step {
        let mut at = self.benches.take(mm);
        let mut store = self.lock(mm);
        let Some(number) = store.victim else { return Step::Gone };
        let moved = 'moved: {
            let Some(pfn) = store.frame(mm, number) else { break 'moved None };
            let Some(desc) = store.own(mm, pfn) else { break 'moved None };
            let index = Shape::unpack(desc.private()).entries.saturating_sub(1);
            let Some((_, entry)) = store.entry(mm, Place { number, index }) else {
                break 'moved None;
            };
            let Some(name) = store.slots.get(mm, entry.owner) else { break 'moved None };
            let Ok((kind, len)) = store.gather(mm, entry.owner, name, &mut at.buffer) else {
                break 'moved None;
            };
            let Some(to) = store.place(mm, entry.owner, kind, &at.buffer[..len], None) else {
                break 'moved None;
            };
            let mut emptied = Emptied::default();
            store.replace(mm, entry.owner, to.name(), &mut emptied);
            Some(emptied)
        };
        if let Some(emptied) = moved {
            return Step::Moved(emptied);
        }
        // It stays a page like others.
        store.victim = None;
        if let Some(pfn) = store.frame(mm, number)
            && let Some(desc) = store.own(mm, pfn)
        {
            desc.set_inuse(0);
            store.list(mm, pfn, desc);
        }
        Step::Stuck
    }
}

/// When memory is wanted, the store is made dense; an object is a page that it
/// would then do without.
impl<P: Platform> Shrinker<P> for Zram<P> {
    /// The store knows no nodes: what it has counts as the first one's.
    fn count(&self, mm: &Mm<P>, node: NodeId) -> u64 {
        if node == NodeId(0) { self.compactable(mm) } else { 0 }
    }

    fn scan(&self, mm: &Mm<P>, _node: NodeId, scan: u64) -> Option<Shrunk> {
        let pages = self.compact_some(mm, scan);
        (pages > 0).then_some(Shrunk { objects: pages, pages })
    }

    /// To move what is in a page costs less than to read one.
    fn seeks(&self) -> u32 {
        1
    }
}
