//! Quarry: one machine of 256 MiB with one zone, and a thread that keeps a CPU.

use crate::pool::PAGES;
use crate::workload::{Objects, Pages, Thread, Threads};
use mm::host::lean::{Claim, Lean};
use mm::host::{Machine, build};
use mm::slab::CacheId;
use mm::types::{CpuId, NodeId, Order, Pfn, PfnRange};
use mm::{Config, Gfp, Mm, Page, Request};
use std::ptr::NonNull;

/// A manager of `pages` pages on `nodes` nodes. The RAM begins at 4 GiB, where
/// all of it is in zone Normal.
pub fn manager(pages: u64, cpus: u16, nodes: u64) -> Mm<Lean> {
    let start = Pfn(1 << 20);
    let share = pages / nodes;
    let (mut machine, pieces) = Machine::scattered(start, pages, cpus).expect("address space");
    for cpu in 0..cpus {
        machine.set_node_of_cpu(CpuId(cpu), NodeId((u64::from(cpu) % nodes) as u8));
    }
    if pieces.len() > 1 {
        eprintln!("RAM of {} MiB lies in pieces: {pieces:x?}", pages >> 8);
    }
    // As many pages for each node, whatever pieces they lie in.
    let mut ram = Vec::new();
    let (mut node, mut room) = (0, share);
    for mut piece in pieces {
        while piece.pages() > 0 {
            let part = PfnRange::sized(piece.start, piece.pages().min(room));
            ram.push((part, NodeId(node)));
            piece.start = part.end;
            room -= part.pages();
            if room == 0 {
                (node, room) = (node + 1, share);
            }
        }
    }
    let mm = build(Lean::new(machine), &ram, &Config::default()).expect("a manager");
    mm.slab_init().expect("the slab layer");
    mm
}

/// A manager and a claim on its first CPU.
pub struct Quarry {
    claim: Option<Claim<'static>>,
    mm: &'static Mm<Lean>,
    owned: *mut Mm<Lean>,
}

impl Quarry {
    /// A machine of that size, with this thread as CPU 0.
    pub fn sized(pages: u64, nodes: u64) -> Self {
        let owned = Box::into_raw(Box::new(manager(pages, 1, nodes)));
        // SAFETY: it lives until this value is dropped, and nobody keeps the
        // reference longer.
        let mm = unsafe { &*owned };
        Self { claim: Some(mm.platform().claim(CpuId(0))), mm, owned }
    }

    /// The manager.
    pub fn mm(&self) -> &Mm<Lean> {
        self.mm
    }
}

impl Drop for Quarry {
    fn drop(&mut self) {
        self.claim = None;
        // SAFETY: from `Box::into_raw`, and no longer borrowed.
        drop(unsafe { Box::from_raw(self.owned) });
    }
}

#[inline]
fn alloc_page(mm: &Mm<Lean>, order: u8) -> Option<usize> {
    mm.alloc_pages(Request::new(Order(order), Gfp::KERNEL)).ok().map(|page| page.pfn.0 as usize)
}

#[inline]
fn free_page(mm: &Mm<Lean>, block: usize, order: u8) {
    let page = Page { pfn: Pfn(block as u64), order: Order(order) };
    mm.free_pages(page).expect("a block of ours");
}

impl Pages for Quarry {
    fn fresh() -> Self {
        Self::sized(PAGES as u64, 1)
    }
    #[inline]
    fn alloc(&mut self, order: u8) -> Option<usize> {
        alloc_page(self.mm, order)
    }
    #[inline]
    fn free(&mut self, block: usize, order: u8) {
        free_page(self.mm, block, order);
    }
}

/// Objects by size.
pub struct Kmalloc(Quarry);

impl Objects for Kmalloc {
    fn fresh(_size: usize) -> Self {
        Self(Quarry::fresh())
    }
    #[inline]
    fn alloc(&mut self, size: usize) -> Option<NonNull<u8>> {
        self.0.mm.kmalloc(size, Gfp::KERNEL).ok()
    }
    #[inline]
    fn free(&mut self, object: NonNull<u8>, _: usize) {
        self.0.mm.kfree(object).expect("an object of ours");
    }
}

/// Objects of a named cache.
pub struct Cache(Quarry, CacheId);

impl Objects for Cache {
    fn fresh(size: usize) -> Self {
        let quarry = Quarry::fresh();
        let config = mm::slab::CacheConfig { merge: false, ..mm::slab::CacheConfig::new(size) };
        let cache = quarry.mm.cache_create("peers", config).expect("a cache");
        Self(quarry, cache)
    }
    #[inline]
    fn alloc(&mut self, _: usize) -> Option<NonNull<u8>> {
        self.0.mm.cache_alloc(self.1, Gfp::KERNEL).ok()
    }
    #[inline]
    fn free(&mut self, object: NonNull<u8>, _: usize) {
        self.0.mm.cache_free(self.1, object).expect("an object of ours");
    }
}

/// A manager for threads, each of which is a CPU of it.
pub struct Parallel(Mm<Lean>);

/// A thread as a CPU.
pub struct OneCpu<'a>(&'a Mm<Lean>, #[allow(dead_code)] Claim<'a>);

impl Threads for Parallel {
    type Thread<'a> = OneCpu<'a>;
    fn fresh(threads: u16) -> Self {
        Self(manager(PAGES as u64, threads, 1))
    }
    fn thread(&self, index: u16) -> OneCpu<'_> {
        OneCpu(&self.0, self.0.platform().claim(CpuId(index)))
    }
}

impl Thread for OneCpu<'_> {
    #[inline]
    fn alloc(&mut self) -> Option<usize> {
        alloc_page(self.0, 0)
    }
    #[inline]
    fn free(&mut self, block: usize) {
        free_page(self.0, block, 0);
    }
}
