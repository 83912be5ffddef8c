//! What the slab layer gives when memory is short: slabs without an object in
//! use, which it keeps because they may be wanted again. May call: `node`,
//! `free`.

use crate::list::PageList;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::types::NodeId;

impl<P: Platform> Mm<P> {
    /// Pages of slabs on `node` without an object in use. Takes the lock of each
    /// cache in turn; any context without such a lock.
    pub(crate) fn free_slab_pages(&self, node: NodeId) -> u64 {
        let mut pages = 0;
        self.each_cache_index(|index| {
            let cpu = self.enter();
            if let Some(cache) = self.slab.own_cache(&cpu, index) {
                let lists = cache.node(node).lists.lock(&cpu);
                pages += lists.free_slabs() * cache.geometry.order.pages();
            }
            true
        });
        pages
    }

    /// Frees slabs on `node` without an object in use, until `most` pages have
    /// been freed; returns how many were. Context as above.
    pub(crate) fn shrink_free_slabs(&self, node: NodeId, most: u64) -> u64 {
        let mut freed = 0;
        self.each_cache_index(|index| {
            let cpu = self.enter();
            let Some(cache) = self.slab.own_cache(&cpu, index) else { return true };
            let mut surplus = PageList::new();
            let mut lists = cache.node(node).lists.lock(&cpu);
            let pages = cache.geometry.order.pages();
            while freed + u64::from(surplus.len()) * pages < most
                && self.take_surplus(cache, &mut lists, &mut surplus)
            {}
            drop(lists);
            freed += self.release_slabs(cache, surplus);
            freed < most
        });
        freed
    }

    /// Calls `f` for each number that a cache may have, until it says false.
    /// Interrupts get in between any two.
    fn each_cache_index(&self, mut f: impl FnMut(u16) -> bool) {
        for index in 0..self.slab.used_slots() {
            if !f(index) {
                return;
            }
        }
    }
}
