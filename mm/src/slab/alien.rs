//! Objects freed on one node that belong to another: they gather in an array of
//! the freeing node and go home a batch at a time (Linux 6.1 mm/slab.c, alien
//! caches). May call: `node`, `free`.
//!
//! No two locks are held at once: a batch is taken out of its array under that
//! array's lock, and put away under the home node's, while in between it is in
//! the hands of a CPU that keeps its token. Whoever wants to have seen all of a
//! cache's objects visits all CPUs first and the arrays afterwards.

use super::alloc::Target;
use super::array::ArrayCache;
use super::cache::Cache;
use super::node::ALIEN_LIMIT;
use crate::gfp::AllocError;
use crate::list::PageList;
use crate::mm::Mm;
use crate::platform::Platform;
use crate::sync::Cpu;
use crate::types::NodeId;
use core::ptr::NonNull;

impl<P: Platform> Mm<P> {
    /// Whether this CPU's node should have an array for objects of `of` and has
    /// none.
    pub(crate) fn lacks_alien(&self, cpu: &Cpu<'_, P>, cache: &Cache, of: NodeId) -> bool {
        let home = self.slab_node(cpu);
        of != home && cache.alien(home, of).is_some_and(|alien| alien.lock(cpu).array().is_none())
    }

    /// Sends objects of node `of`, freed on node `by`, on their way: a few into
    /// the array, where they wait for more; many home at once.
    pub(crate) fn send_home(
        &self,
        cpu: &Cpu<'_, P>,
        cache: &Cache,
        (by, of): (NodeId, NodeId),
        objects: &[NonNull<u8>],
        surplus: &mut PageList,
    ) {
        let mut rest = objects;
        while !rest.is_empty() && rest.len() < ALIEN_LIMIT as usize {
            let mut out = [NonNull::dangling(); ALIEN_LIMIT as usize];
            let n = {
                let Some(mut alien) = cache.alien(by, of).map(|alien| alien.lock(cpu)) else {
                    break;
                };
                let Some(array) = alien.array() else { break };
                let put = array.append(rest);
                rest = &rest[put as usize..];
                if rest.is_empty() { 0 } else { array.take_newest(&mut out) }
            };
            self.arrive(cpu, cache, of, &out[..n], surplus);
        }
        self.arrive(cpu, cache, of, rest, surplus);
    }

    /// Takes objects in on their own node, from the hands of a CPU of another.
    fn arrive(
        &self,
        cpu: &Cpu<'_, P>,
        cache: &Cache,
        node: NodeId,
        objects: &[NonNull<u8>],
        surplus: &mut PageList,
    ) {
        if objects.is_empty() {
            return;
        }
        let mut lists = cache.node(node).lists.lock(cpu);
        let shared = lists.shared().map_or(0, |shared| shared.append(objects)) as usize;
        if shared < objects.len() {
            self.put_objects(cache, node, &mut lists, &objects[shared..], surplus);
        }
    }

    /// Sends home what the CPUs of node `by` have gathered of others.
    pub(crate) fn drain_aliens(
        &self,
        cpu: &Cpu<'_, P>,
        cache: &Cache,
        by: NodeId,
        surplus: &mut PageList,
    ) {
        for of in (0..self.nodes() as u8).map(NodeId).filter(|&of| of != by) {
            let mut out = [NonNull::dangling(); ALIEN_LIMIT as usize];
            let n = match cache.alien(by, of) {
                Some(alien) => alien
                    .lock(cpu)
                    .array()
                    .map_or(0, |array| ArrayCache::take_newest(array, &mut out)),
                None => 0,
            };
            self.arrive(cpu, cache, of, &out[..n], surplus);
        }
    }

    /// Sends home what all nodes have gathered of each other.
    pub(crate) fn send_all_home(&self, target: Target) -> Result<(), AllocError> {
        for node in self.all_nodes() {
            let cpu = self.enter();
            let cache = self.resolve(&cpu, target)?;
            let mut surplus = PageList::new();
            self.drain_aliens(&cpu, cache, node, &mut surplus);
            self.release_slabs(cache, surplus);
        }
        Ok(())
    }
}
