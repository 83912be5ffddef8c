//! The slab layer's part of the audit: every slab page on exactly one list of
//! its cache and node, counters equal to what they count, every object in an
//! array in use by its slab's count and in no other array. For a stopped
//! machine, as all of the audit. May call: everything in this layer.

use super::MAX_CACHES;
use super::cache::Cache;
use super::node::NodeLists;
use super::slabs::{Fill, Key};
use crate::audit::{AuditError, Auditor};
use crate::mm::Mm;
use crate::page::{NIL, PageType, link};
use crate::platform::Platform;
use crate::sync::{AtomicI64, Cpu, Lock, LockRank, Ordering::Relaxed};
use crate::types::{MAX_NODES, NodeId};
use core::ptr::NonNull;

/// What the walk over all caches counted.
#[derive(Default)]
struct SlabCount {
    pages: u64,
    reclaimable: [u64; MAX_NODES],
    unreclaimable: [u64; MAX_NODES],
    reserve: u64,
}

/// Objects in arrays are marked free in their slab for a moment: that fails
/// for one that is free already, or in two arrays.
#[derive(Clone, Copy)]
enum Mark {
    Set,
    Clear,
}

impl<P: Platform> Mm<P> {
    /// Checks the slab layer, given the pages of type Slab and those in large
    /// kmalloc blocks that a walk over all zones has found.
    pub(crate) fn audit_slab(
        &self,
        auditor: &mut Auditor,
        slab_pages: u64,
        large_pages: u64,
    ) -> Result<(), AuditError> {
        let mut count = SlabCount::default();
        for index in 0..MAX_CACHES as u16 {
            let cpu = self.enter();
            let Some(cache) = self.slab.own_cache(&cpu, index) else {
                continue;
            };
            for node in (0..self.nodes() as u8).map(NodeId) {
                let mut lists = cache.node(node).lists.lock(&cpu);
                self.audit_node(auditor, cache, node, &mut lists, &mut count)?;
            }
        }
        auditor.equal("pages of slabs on lists", None, slab_pages, count.pages)?;
        auditor.equal("large kmalloc pages", None, large_pages, self.kmalloc_large_pages())?;
        auditor.equal("reserve slabs", None, count.reserve, self.reserve_slabs())?;
        for (node, pages) in self.slab.pages.iter().enumerate() {
            let load = |n: &AtomicI64| n.load(Relaxed) as u64;
            let (yes, no) = (count.reclaimable[node], count.unreclaimable[node]);
            auditor.equal("reclaimable slab pages", None, yes, load(&pages.reclaimable))?;
            auditor.equal("unreclaimable slab pages", None, no, load(&pages.unreclaimable))?;
        }
        self.audit_arrays(auditor, Mark::Set)?;
        self.audit_arrays(auditor, Mark::Clear)
    }

    fn audit_node(
        &self,
        auditor: &mut Auditor,
        cache: &Cache,
        node: NodeId,
        lists: &mut NodeLists,
        count: &mut SlabCount,
    ) -> Result<(), AuditError> {
        let mut free = 0;
        for reserve in [false, true] {
            for fill in [Fill::Full, Fill::Partial, Fill::Free] {
                let list = *lists.list(reserve, fill);
                let (mut prev, mut seen) = (NIL, 0);
                for pfn in list.iter(&self.map) {
                    let slab = self.slab_at(cache, pfn);
                    let is_slab = slab.desc.head().is(PageType::Slab, cache.geometry.order);
                    auditor.holds("type of a listed slab", pfn, is_slab)?;
                    let key = Key::of(slab.desc);
                    let (own, owner) = (u64::from(cache.index), u64::from(key.cache()));
                    auditor.equal("cache of a listed slab", Some(pfn), own, owner)?;
                    let back = u64::from(slab.desc.prev());
                    auditor.equal("back link of a slab", Some(pfn), u64::from(prev), back)?;
                    prev = link(pfn);
                    let here = self.map.block(pfn).node() == node && key.node() == node;
                    auditor.holds("node of a listed slab", pfn, here)?;
                    auditor.holds("reserve slab's list", pfn, slab.is_reserve() == reserve)?;
                    auditor.holds("list of a slab so full", pfn, slab.fill() == fill)?;
                    let counted = u64::from(slab.count_free());
                    let says = u64::from(slab.free());
                    auditor.equal("free objects of a slab", Some(pfn), counted, says)?;
                    auditor.holds("bits of a slab's objects", pfn, slab.has_only_its_bits())?;
                    free += counted;
                    seen += 1;
                    auditor.holds("length of a list of slabs", pfn, seen <= list.len())?;
                }
                let (len, seen) = (u64::from(list.len()), u64::from(seen));
                auditor.equal("length of a list of slabs", None, len, seen)?;
                let pages = seen * cache.geometry.order.pages();
                count.pages += pages;
                let kind = if cache.reclaimable() {
                    &mut count.reclaimable
                } else {
                    &mut count.unreclaimable
                };
                kind[usize::from(node.0)] += pages;
                if reserve {
                    count.reserve += seen;
                }
            }
        }
        auditor.equal("free objects of a cache", None, free, lists.free_objects)
    }

    /// Looks at the arrays of all CPUs and nodes.
    fn audit_arrays(&self, auditor: &mut Auditor, mark: Mark) -> Result<(), AuditError> {
        for index in 0..MAX_CACHES as u16 {
            let cpu = self.enter();
            let Some(cache) = self.slab.own_cache(&cpu, index) else {
                continue;
            };
            for node in (0..self.nodes() as u8).map(NodeId) {
                let mut lists = cache.node(node).lists.lock(&cpu);
                if let Some(shared) = lists.shared() {
                    for &object in shared.objects() {
                        self.audit_object(auditor, cache, node, object, mark)?;
                    }
                }
                drop(lists);
                for of in (0..self.nodes() as u8).map(NodeId) {
                    let Some(alien) = cache.alien(node, of) else { continue };
                    let mut alien = alien.lock(&cpu);
                    let Some(array) = alien.array() else { continue };
                    let away = u64::from(of != node);
                    auditor.equal("an array for objects of elsewhere", None, 1, away)?;
                    for &object in array.objects() {
                        self.audit_object(auditor, cache, of, object, mark)?;
                    }
                }
            }
        }
        // A verdict per CPU, brought out of the closure through a lock.
        let state = Lock::new(LockRank::Audit, (core::mem::take(&mut auditor.report), Ok(())));
        Cpu::on_each(&self.platform, &|cpu| {
            let mut state = state.lock(cpu);
            let mut inner = Auditor { report: state.0 };
            if state.1.is_ok() {
                state.1 = self.audit_cpu_arrays(&mut inner, cpu, mark);
            }
            state.0 = inner.report;
        });
        let (report, result) = state.into_inner();
        auditor.report = report;
        result
    }

    fn audit_cpu_arrays(
        &self,
        auditor: &mut Auditor,
        cpu: &Cpu<'_, P>,
        mark: Mark,
    ) -> Result<(), AuditError> {
        let node = self.slab_node(cpu);
        // SAFETY: `cpu` is that CPU's token; the closure does not nest.
        unsafe {
            self.slab.arrays(cpu).with(|arrays| {
                for index in 0..MAX_CACHES as u16 {
                    let slot = arrays.at(index);
                    let Some(cache) = self.slab.cache(cpu, index) else {
                        let left = u64::from(slot.is_some());
                        auditor.equal("an array of no cache", None, 0, left)?;
                        continue;
                    };
                    if cache.index != index {
                        let own = arrays.at(cache.index);
                        let same = slot.is_none() || slot == own;
                        auditor.equal("an array's second name", None, 1, u64::from(same))?;
                        continue;
                    }
                    let Some(array) = arrays.get(index) else { continue };
                    let fits = u64::from(array.avail <= array.limit);
                    auditor.equal("an array beyond its limit", None, 1, fits)?;
                    for &object in array.objects() {
                        self.audit_object(auditor, cache, node, object, mark)?;
                    }
                }
                Ok(())
            })
        }
    }

    /// An object in an array: of that cache and node, and only here.
    fn audit_object(
        &self,
        auditor: &mut Auditor,
        cache: &Cache,
        node: NodeId,
        object: NonNull<u8>,
        mark: Mark,
    ) -> Result<(), AuditError> {
        let found = self.slab_of(object).map(|(pfn, _)| self.slab_at(cache, pfn));
        let owned = found.filter(|slab| Key::of(slab.desc).cache() == cache.index);
        let place = owned.and_then(|slab| Some((slab, slab.number(object)?)));
        auditor.equal("an object in an array", None, 1, u64::from(place.is_some()))?;
        let Some((slab, i)) = place else { return Ok(()) };
        let here = Key::of(slab.desc).node() == node;
        auditor.holds("node of an object in an array", slab.pfn, here)?;
        match mark {
            Mark::Set => {
                auditor.holds("an object free twice", slab.pfn, !slab.is_free(i))?;
                slab.set_free(i, true);
            }
            Mark::Clear => slab.set_free(i, false),
        }
        Ok(())
    }
}
