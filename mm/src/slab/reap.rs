//! The reaper: what a cache keeps and has not used lately goes back, a part at
//! a time. Numbers after Linux 6.1 mm/slab.c. May call: `free`, `alien`, `node`.

use super::array::ArrayCache;
use super::cache::Cache;
use super::geometry::free_limit;
use super::node::NodeLists;
use crate::list::PageList;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::sync::{Cpu, Ordering::Relaxed};
use crate::types::NodeId;

/// How often each CPU's arrays are looked at, ms.
const ARRAY_PERIOD_MS: u64 = 2000;
/// How often a node's slabs are, ms.
const NODE_PERIOD_MS: u64 = 4000;

/// Objects to take out of an array that was not used lately: a fifth of what
/// it can hold, or half of what it has if that is less.
const fn stale(avail: u32, limit: u32) -> u32 {
    let n = limit.div_ceil(5);
    if n > avail { avail.div_ceil(2) } else { n }
}

impl<P: Platform> Mm<P> {
    /// One round for the CPU this runs on: its arrays, and its node's slabs
    /// when those are due. Returns the milliseconds until the next round. One
    /// worker per CPU calls it; from any context.
    pub fn cache_reap(&self) -> u64 {
        for index in 0..super::MAX_CACHES as u16 {
            // Interrupts get in between any two caches.
            let cpu = self.enter();
            if let Some(cache) = self.slab.own_cache(&cpu, index) {
                self.reap_cache(&cpu, cache);
            }
        }
        ARRAY_PERIOD_MS
    }

    /// Empties a CPU's arrays of all caches into the slabs; the arrays stay.
    /// Returns the pages that became free.
    pub(crate) fn drain_cpu_arrays(&self, cpu: &Cpu<'_, P>) -> u64 {
        self.slab
            .caches(cpu)
            .map(|cache| {
                let mut surplus = PageList::new();
                self.drain_array(cpu, cache, &mut surplus);
                self.release_slabs(cache, surplus)
            })
            .sum()
    }

    fn reap_cache(&self, cpu: &Cpu<'_, P>, cache: &Cache) {
        let node = self.slab_node(cpu);
        let now = self.platform.now_ms();
        let mut surplus = PageList::new();
        self.drain_aliens(cpu, cache, node, &mut surplus);
        // SAFETY: `cpu` is this CPU's token, and nothing below reaches the
        // arrays again.
        unsafe {
            self.slab.arrays(cpu).with(|arrays| {
                if let Some(array) = arrays.get(cache.index) {
                    let mut lists = cache.node(node).lists.lock(cpu);
                    self.reap_array(cache, node, &mut lists, array, &mut surplus);
                }
            });
        }
        let mut lists = cache.node(node).lists.lock(cpu);
        if now >= lists.next_reap {
            lists.next_reap = now + NODE_PERIOD_MS;
            self.reap_node(cache, node, &mut lists, &mut surplus);
        }
        drop(lists);
        self.release_slabs(cache, surplus);
    }

    /// Takes a part out of an array that was not used since the last round.
    fn reap_array(
        &self,
        cache: &Cache,
        node: NodeId,
        lists: &mut NodeLists,
        array: &mut ArrayCache,
        surplus: &mut PageList,
    ) {
        if core::mem::take(&mut array.touched) {
            return;
        }
        let n = stale(array.avail, array.limit);
        self.put_objects(cache, node, lists, &array.objects()[..n as usize], surplus);
        array.forget_oldest(n);
    }

    fn reap_node(
        &self,
        cache: &Cache,
        node: NodeId,
        lists: &mut NodeLists,
        surplus: &mut PageList,
    ) {
        if let Some(mut array) = lists.shared.take() {
            // SAFETY: the array is alive; while it is out of the lists this is
            // the only way to it, and the lock is held.
            self.reap_array(cache, node, lists, unsafe { array.as_mut() }, surplus);
            lists.shared = Some(array);
        }
        if core::mem::take(&mut lists.free_touched) {
            return;
        }
        let objects = cache.geometry.objects;
        let cpus = self.slab.cpus_of_node(node);
        let limit = free_limit(cache.batch.load(Relaxed), objects, cpus);
        for _ in 0..limit.div_ceil(5 * u64::from(objects)) {
            if !self.take_surplus(cache, lists, surplus) {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::stale;

    #[test]
    fn a_fifth_or_half_of_the_rest() {
        assert_eq!(stale(120, 120), 24);
        assert_eq!(stale(24, 120), 24);
        assert_eq!(stale(23, 120), 12);
        assert_eq!(stale(1, 8), 1);
        assert_eq!(stale(0, 8), 0);
    }
}
