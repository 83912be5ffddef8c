//! Reserve pages and reserve objects: a test for each line of the contract, over
//! slabs of one page and of two, with a second cache where it is about others.
#![cfg(feature = "host")]

use core::ptr::NonNull;
use mm::host::{Machine, build, pc};
use mm::platform::{Context, Platform};
use mm::slab::{CacheConfig, CacheId};
use mm::types::{CpuId, NodeId, Order, Pfn, PfnRange};
use mm::{AllocError, Config, Gfp, Mm, Page, Request};

/// Objects of these sizes make slabs of one page and of two.
#[cfg(not(miri))]
const SIZES: [usize; 2] = [256, 700];
#[cfg(miri)]
const SIZES: [usize; 1] = [700];
const QUIET: Gfp = Gfp::NOWAIT.union(Gfp::NOWARN);
const ENTITLED: Gfp = QUIET.union(Gfp::MEMALLOC);

/// A machine short of memory: what there was is held in single pages.
struct Short {
    mm: Mm<Machine>,
    held: Vec<Page>,
    caches: Vec<CacheId>,
}

fn own(size: usize) -> CacheConfig {
    CacheConfig { merge: false, ..CacheConfig::new(size) }
}

impl Short {
    /// `n` caches of objects of `size`, each with an array on each CPU and
    /// nothing else; then all memory gone that takes no right.
    fn new(size: usize, n: usize, cpus: u16) -> Self {
        let mib = if cfg!(miri) { 4 } else { 16 };
        let mm = pc(mib, cpus, &Config::default()).expect("a machine");
        mm.slab_init().expect("the slab layer");
        let caches: Vec<_> = (0..n)
            .map(|i| mm.cache_create(&format!("cache-{i}"), own(size)).expect("a cache"))
            .collect();
        for cpu in (0..cpus).map(CpuId) {
            mm.platform().run_on(cpu);
            for &cache in &caches {
                let object = mm.cache_alloc(cache, Gfp::KERNEL).expect("an object");
                mm.cache_free(cache, object).expect("freed");
            }
        }
        mm.platform().run_on(CpuId(0));
        for &cache in &caches {
            mm.cache_shrink(cache).expect("shrunk");
        }
        let mut short = Self { mm, held: Vec::new(), caches };
        short.exhaust();
        short
    }

    /// Takes all memory that takes no right.
    fn exhaust(&mut self) {
        // What the lists of the CPU hold counts as taken: round after round,
        // until one finds nothing.
        let mut held = None;
        while held.replace(self.held.len()) != Some(self.held.len()) {
            for order in (0..=10).rev() {
                let request = Request::new(Order(order), QUIET);
                self.held.extend(core::iter::from_fn(|| self.mm.alloc_pages(request).ok()));
                self.mm.drain_all(None);
            }
        }
    }

    /// Lets memory go that was held: there is enough again.
    fn relieve(&mut self) {
        for page in self.held.drain(..) {
            self.mm.free_pages(page).expect("freed");
        }
    }

    fn get(&self, cache: usize, gfp: Gfp) -> Result<NonNull<u8>, AllocError> {
        self.mm.cache_alloc(self.caches[cache], gfp)
    }

    fn put(&self, cache: usize, object: NonNull<u8>) {
        self.mm.cache_free(self.caches[cache], object).expect("freed");
    }

    fn is_reserve(&self, object: NonNull<u8>) -> bool {
        self.mm.object_is_pfmemalloc(object).expect("an object")
    }

    /// An object of a slab grown on a page of the reserves.
    fn reserve_object(&self, cache: usize) -> NonNull<u8> {
        let object = self.get(cache, ENTITLED).expect("the reserves");
        assert!(self.is_reserve(object));
        object
    }

    fn per_slab(&self) -> usize {
        usize::from(self.mm.cache_info(self.caches[0]).expect("facts").objperslab)
    }

    fn reserve_objs(&self, cache: usize) -> u64 {
        self.mm.cache_info(self.caches[cache]).expect("facts").reserve_objs
    }

    fn audit(&self) {
        self.mm.audit().expect("whole");
    }
}

impl Drop for Short {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.audit();
        }
        self.mm.platform().set_context(Context::default());
    }
}

#[test]
#[cfg_attr(miri, ignore = "the other tests go the same ways")]
fn a_page_is_marked_when_the_check_fails_and_the_right_helps() {
    for order in [0, 1] {
        let short = Short::new(256, 1, 1);
        let mm = &short.mm;
        let request = Request::new(Order(order), QUIET);
        assert!(mm.alloc_pages(request).is_err());
        let task = Context { memalloc: true, ..Context::default() };
        let victim = Context { oom_victim: true, ..Context::default() };
        for (context, gfp) in
            [(Context::default(), Gfp::MEMALLOC), (task, Gfp::empty()), (victim, Gfp::empty())]
        {
            mm.platform().set_context(context);
            let page = mm.alloc_pages(Request { gfp: QUIET | gfp, ..request }).expect("reserves");
            assert!(mm.is_pfmemalloc(page.pfn));
            // Any page of the block says so, and the mark goes with the block.
            assert!(mm.is_pfmemalloc(page.pfn.add(page.order.pages() - 1)));
            mm.free_pages(page).expect("freed");
            assert!(!mm.is_pfmemalloc(page.pfn));
        }
        mm.platform().set_context(Context { memalloc: true, in_irq: true, ..Context::default() });
        assert!(mm.alloc_pages(request).is_err(), "an interrupt has not its task's rights");
        mm.platform().set_context(task);
        assert!(mm.alloc_pages(Request { gfp: QUIET | Gfp::NOMEMALLOC, ..request }).is_err());
    }
}

#[test]
#[cfg_attr(miri, ignore = "the other tests go the same ways")]
fn the_right_alone_marks_nothing() {
    for size in SIZES {
        let mut short = Short::new(size, 1, 1);
        short.relieve();
        let object = short.get(0, ENTITLED).expect("an object");
        assert!(!short.is_reserve(object));
        let block = short.mm.kmalloc(20_000, ENTITLED).expect("a block");
        assert!(!short.is_reserve(block));
        assert_eq!(short.mm.reserve_slabs(), 0);
        short.mm.kfree(block).expect("freed");
        short.put(0, object);
    }
}

#[test]
#[cfg_attr(miri, ignore = "the other tests go the same ways")]
fn large_kmalloc_and_krealloc_keep_the_mark() {
    let mut short = Short::new(256, 1, 1);
    assert!(short.mm.kmalloc(12_000, QUIET).is_err());
    let block = short.mm.kmalloc(12_000, ENTITLED).expect("the reserves");
    assert!(short.is_reserve(block));
    // SAFETY: inside the block.
    assert!(short.is_reserve(unsafe { block.add(9000) }));
    // In place: the memory stays, and so does its mark, whoever asks.
    assert_eq!(short.mm.krealloc(block, 16_000, QUIET), Ok(block));
    assert!(short.is_reserve(block));
    // To a place of its own: under the caller's own rights.
    assert!(short.mm.krealloc(block, 20_000, QUIET).is_err());
    let moved = short.mm.krealloc(block, 20_000, ENTITLED).expect("the reserves");
    assert!(short.is_reserve(moved));
    short.relieve();
    let moved = short.mm.krealloc(moved, 40_000, QUIET).expect("memory");
    assert!(!short.is_reserve(moved));
    short.mm.kfree(moved).expect("freed");
}

#[test]
fn a_slab_on_a_marked_page_is_a_reserve_slab_to_its_last_object() {
    for size in SIZES {
        let short = Short::new(size, 1, 1);
        let n = short.per_slab();
        let objects: Vec<_> = (0..n).map(|_| short.reserve_object(0)).collect();
        assert_eq!(short.mm.reserve_slabs(), 1, "one slab has them all");
        assert_eq!(short.reserve_objs(0), n as u64);
        for object in objects {
            short.put(0, object);
            assert!(short.is_reserve(object));
        }
    }
}

/// Fault of Linux 6.1: what is left of a fresh reserve slab goes into the array
/// without a check.
#[test]
#[cfg_attr(miri, ignore = "the other tests go the same ways")]
fn the_rest_of_a_fresh_reserve_slab_is_not_handed_out_unchecked() {
    for size in SIZES {
        let short = Short::new(size, 1, 1);
        let object = short.reserve_object(0);
        for _ in 0..short.per_slab() {
            assert_eq!(short.get(0, QUIET), Err(AllocError::NoMemory));
        }
        short.put(0, object);
        assert_eq!(short.get(0, QUIET), Err(AllocError::NoMemory), "nor the freed one");
    }
}

/// Fault of the seed: its search begins at index 1.
#[test]
#[cfg_attr(miri, ignore = "the other tests go the same ways")]
fn a_normal_object_is_found_anywhere_in_the_array() {
    for size in SIZES {
        for at in [0, 1, 2] {
            let mut short = Short::new(size, 1, 1);
            // A normal slab, all of whose objects are out.
            short.relieve();
            let normal: Vec<_> =
                (0..short.per_slab()).map(|_| short.get(0, QUIET).expect("an object")).collect();
            short.exhaust();
            // A reserve slab, the same.
            let reserve: Vec<_> = (0..short.per_slab()).map(|_| short.reserve_object(0)).collect();
            for (i, &object) in reserve[..2].iter().enumerate() {
                if i == at {
                    short.put(0, normal[0]);
                }
                short.put(0, object);
            }
            if at == 2 {
                short.put(0, normal[0]);
            }
            assert_eq!(short.get(0, QUIET), Ok(normal[0]), "at index {at}");
            assert_eq!(short.get(0, QUIET), Err(AllocError::NoMemory));
            // Both are there still, for those who may.
            for _ in 0..2 {
                assert!(reserve[..2].contains(&short.reserve_object(0)));
            }
        }
    }
}

/// Fault of the seed: a forced grow passes over normal objects on the node.
#[test]
#[cfg_attr(miri, ignore = "the other tests go the same ways")]
fn normal_objects_on_the_node_come_before_growing() {
    for size in SIZES {
        let mut short = Short::new(size, 1, 1);
        short.relieve();
        let n = short.per_slab();
        let normal: Vec<_> = (0..n).map(|_| short.get(0, QUIET).expect("an object")).collect();
        short.exhaust();
        let reserve: Vec<_> = (0..n).map(|_| short.reserve_object(0)).collect();
        // One normal object free in its slab, one reserve object in the array.
        short.put(0, normal[0]);
        short.mm.cache_shrink(short.caches[0]).expect("shrunk");
        short.put(0, reserve[0]);
        assert_eq!(short.get(0, QUIET), Ok(normal[0]));
        // A partial slab is no sign that pressure is over.
        assert!(short.is_reserve(reserve[0]));
        assert_eq!(short.get(0, QUIET), Err(AllocError::NoMemory));
    }
}

#[test]
#[cfg_attr(miri, ignore = "the other tests go the same ways")]
fn the_shared_array_gives_normal_objects_only() {
    for size in SIZES {
        let mut short = Short::new(size, 1, 2);
        short.relieve();
        let info = short.mm.cache_info(short.caches[0]).expect("facts");
        assert_eq!(info.arrays.shared, 8);
        // More than an array holds, so that freeing them fills the shared one.
        let limit = info.arrays.limit as usize;
        let mut normal: Vec<_> =
            (0..limit).map(|_| short.get(0, QUIET).expect("an object")).collect();
        short.exhaust();
        normal.extend(core::iter::from_fn(|| short.get(0, QUIET).ok()));
        let reserve: Vec<_> = (0..normal.len()).map(|_| short.reserve_object(0)).collect();
        for (&a, &b) in normal.iter().zip(&reserve) {
            short.put(0, a);
            short.put(0, b);
        }
        assert!(short.mm.cache_info(short.caches[0]).expect("facts").shared_avail > 0);
        short.audit();
        // The other CPU gets all that the first one's array does not hold.
        short.mm.platform().run_on(CpuId(1));
        let mut got = 0;
        while let Ok(object) = short.get(0, QUIET) {
            assert!(!short.is_reserve(object));
            got += 1;
        }
        assert!(got > 0);
        short.mm.platform().run_on(CpuId(0));
        while let Ok(object) = short.get(0, QUIET) {
            assert!(!short.is_reserve(object));
            got += 1;
        }
        assert_eq!(got, normal.len(), "all that is normal, and nothing else");
    }
}

#[test]
#[cfg_attr(miri, ignore = "the other tests go the same ways")]
fn nothing_but_reserve_objects_means_grow_then_nothing() {
    for size in SIZES {
        let mut short = Short::new(size, 1, 1);
        let object = short.reserve_object(0);
        let failed = short.mm.stats().get(mm::stats::Event::AllocFailed);
        assert_eq!(short.get(0, QUIET), Err(AllocError::NoMemory));
        assert!(short.mm.stats().get(mm::stats::Event::AllocFailed) > failed, "it tried to grow");
        // With memory to be had, it grows past the free reserve objects.
        short.relieve();
        let normal = short.get(0, QUIET).expect("a new slab");
        assert!(!short.is_reserve(normal));
        assert!(short.is_reserve(object), "growing is no sign that pressure is over");
        short.put(0, normal);
        short.put(0, object);
    }
}

/// Fault of the seed: the right to an object ignores NOMEMALLOC and interrupts.
#[test]
#[cfg_attr(miri, ignore = "the other tests go the same ways")]
fn rights_to_objects_are_rights_to_pages() {
    for size in SIZES {
        let short = Short::new(size, 1, 1);
        let object = short.reserve_object(0);
        short.put(0, object);
        let none = Context::default();
        let task = Context { memalloc: true, ..none };
        let victim = Context { oom_victim: true, ..none };
        let irq = |context| Context { in_irq: true, ..context };
        for (context, gfp, may) in [
            (none, QUIET, false),
            (none, ENTITLED, true),
            (irq(none), ENTITLED, true),
            (task, QUIET, true),
            (victim, QUIET, true),
            (irq(task), QUIET, false),
            (irq(victim), QUIET, false),
            (none, ENTITLED | Gfp::NOMEMALLOC, false),
            (task, QUIET | Gfp::NOMEMALLOC, false),
            (victim, QUIET | Gfp::NOMEMALLOC, false),
        ] {
            short.mm.platform().set_context(context);
            let got = short.get(0, gfp);
            assert_eq!(got.is_ok(), may, "{context:?} {gfp:?}");
            if let Ok(object) = got {
                assert!(short.is_reserve(object));
                short.put(0, object);
            }
        }
    }
}

/// Faults of the seed: only one page of the slab is demoted, and the evidence
/// of one cache switches protection off for all.
#[test]
fn a_free_normal_slab_ends_the_pressure_of_its_cache_alone() {
    for size in SIZES {
        let mut short = Short::new(size, 2, 2);
        let n = short.per_slab();
        // Reserve objects everywhere: in this CPU's array, in the other's, in
        // slabs, in use.
        let mut reserve: Vec<_> = (0..2 * n).map(|_| short.reserve_object(0)).collect();
        short.put(0, reserve[0]);
        short.mm.platform().run_on(CpuId(1));
        short.put(0, reserve[1]);
        short.mm.platform().run_on(CpuId(0));
        let other = short.reserve_object(1);
        assert_eq!(short.mm.reserve_slabs(), 3);
        // A normal slab of the first cache, free altogether.
        short.relieve();
        let normal: Vec<_> = core::iter::from_fn(|| {
            (short.mm.cache_info(short.caches[0]).expect("facts").num_slabs == 2)
                .then(|| short.get(0, QUIET).expect("an object"))
        })
        .collect();
        assert_eq!(normal.len(), 1);
        short.put(0, normal[0]);
        short.audit();
        // All that lies in arrays goes home, so that the new slab is free.
        let config = short.mm.cache_info(short.caches[0]).expect("facts").arrays;
        short
            .mm
            .slabinfo_write(&format!("cache-0 {} {} 0", config.limit, config.batch))
            .expect("tuned");
        short.put(0, reserve[2]);
        let info = short.mm.cache_info(short.caches[0]).expect("facts");
        assert!(info.num_slabs > info.active_slabs, "a slab is free: {info:?}");
        assert_eq!(info.reserve_objs, 2 * n as u64);
        // Now one who has no right and is kept from objects that there are.
        let got = short.get(0, QUIET).expect("pressure is over");
        assert_eq!(short.reserve_objs(0), 0);
        reserve.push(got);
        assert!(reserve.iter().all(|&object| !short.is_reserve(object)), "wherever they are");
        assert!(short.is_reserve(other), "the other cache has seen no relief");
        assert_eq!(short.reserve_objs(1), n as u64);
        assert_eq!(short.mm.reserve_slabs(), 1);
        // Its objects stay out of reach.
        short.put(1, other);
        short.exhaust();
        while let Ok(object) = short.get(1, QUIET) {
            assert!(!short.is_reserve(object));
        }
    }
}

/// Fault of the seed: a slab grown for the request itself counts as relief.
#[test]
#[cfg_attr(miri, ignore = "the other tests go the same ways")]
fn a_slab_grown_for_the_request_is_no_relief() {
    for size in SIZES {
        let mut short = Short::new(size, 1, 1);
        let object = short.reserve_object(0);
        short.put(0, object);
        short.relieve();
        let normal = short.get(0, QUIET).expect("a new slab");
        assert!(!short.is_reserve(normal));
        assert!(short.is_reserve(object));
        assert_eq!(short.mm.reserve_slabs(), 1);
        short.put(0, normal);
    }
}

#[test]
fn no_way_of_freeing_launders_a_reserve_object() {
    for size in SIZES {
        let short = Short::new(size, 1, 2);
        let limit = short.mm.cache_info(short.caches[0]).expect("facts").arrays.limit as usize;
        let objects: Vec<_> =
            core::iter::from_fn(|| short.get(0, ENTITLED).ok()).take(2 * limit).collect();
        assert!(objects.len() > limit && objects.iter().all(|&o| short.is_reserve(o)));
        // Another CPU, in bulk, one by one: through its array, the shared one,
        // the slabs.
        short.mm.platform().run_on(CpuId(1));
        let (bulk, single) = objects.split_at(objects.len() / 2);
        short.mm.cache_free_bulk(short.caches[0], bulk).expect("freed");
        short.mm.platform().run_on(CpuId(0));
        for &object in single {
            short.put(0, object);
        }
        short.audit();
        for cpu in [CpuId(1), CpuId(0)] {
            short.mm.platform().run_on(cpu);
            assert_eq!(short.get(0, QUIET), Err(AllocError::NoMemory));
            let mut out = [NonNull::dangling(); 4];
            let bulk = short.mm.cache_alloc_bulk(short.caches[0], QUIET, &mut out);
            assert_eq!(bulk, Err(AllocError::NoMemory), "nor in bulk");
        }
        let mut out = vec![NonNull::dangling(); 4];
        short.mm.cache_alloc_bulk(short.caches[0], ENTITLED, &mut out).expect("the right");
        assert!(out.iter().all(|&o| short.is_reserve(o)));
        short.mm.cache_free_bulk(short.caches[0], &out).expect("freed");
        assert!(short.mm.reserve_slabs() > 0);
        // Slabs that go back take their mark along.
        short.mm.cache_shrink(short.caches[0]).expect("shrunk");
        assert_eq!(short.mm.reserve_slabs(), 0);
    }
}

#[test]
fn pressure_that_ends_on_one_node_says_nothing_of_another() {
    for size in SIZES {
        // Two nodes of 16 MiB with a CPU each.
        let border = Pfn(if cfg!(miri) { 0x400 } else { 0x1000 });
        let end = Pfn(2 * border.0);
        let mut machine = Machine::new(Pfn(0), end, 2).expect("room");
        machine.set_node_of_cpu(CpuId(1), NodeId(1));
        let ram =
            [(PfnRange::new(Pfn(1), border), NodeId(0)), (PfnRange::new(border, end), NodeId(1))];
        let mm = build(machine, &ram, &Config::default()).expect("a machine");
        mm.slab_init().expect("the slab layer");
        let cache = mm.cache_create("two nodes", own(size)).expect("a cache");
        let warm = |cpu| {
            mm.platform().run_on(CpuId(cpu));
            let object = mm.cache_alloc(cache, Gfp::KERNEL).expect("an object");
            mm.cache_free(cache, object).expect("freed");
        };
        warm(0);
        warm(1);
        mm.cache_shrink(cache).expect("shrunk");
        let mut held = [Vec::new(), Vec::new()];
        let exhaust = |held: &mut Vec<Page>, node| {
            let mut before = None;
            while before.replace(held.len()) != Some(held.len()) {
                for order in (0..=10).rev() {
                    let gfp = QUIET | Gfp::THISNODE;
                    let request = Request::new(Order(order), gfp).on(NodeId(node));
                    held.extend(core::iter::from_fn(|| mm.alloc_pages(request).ok()));
                }
                mm.drain_all(None);
            }
        };
        exhaust(&mut held[0], 0);
        exhaust(&mut held[1], 1);
        let mut reserve = Vec::new();
        for cpu in 0..2 {
            mm.platform().run_on(CpuId(cpu));
            let gfp = ENTITLED | Gfp::THISNODE;
            let object = mm.cache_alloc(cache, gfp).expect("the reserves");
            assert!(mm.object_is_pfmemalloc(object).expect("an object"));
            reserve.push(object);
            assert!(mm.cache_alloc(cache, QUIET).is_err());
        }
        let node_of = |object: NonNull<u8>| {
            let pfn = mm.platform().pfn_of(object.as_ptr()).expect("RAM");
            mm.map().try_block(pfn).expect("present").node()
        };
        assert_ne!(node_of(reserve[0]), node_of(reserve[1]));
        // Node 1 has memory again, and a free normal slab.
        for page in held[1].drain(..) {
            mm.free_pages(page).expect("freed");
        }
        mm.platform().run_on(CpuId(1));
        let normal = mm.cache_alloc(cache, QUIET | Gfp::THISNODE).expect("a new slab");
        mm.cache_free(cache, normal).expect("freed");
        let sizes = mm.cache_info(cache).expect("facts").arrays;
        assert_eq!(
            mm.slabinfo_write("two nodes 1 1 0"),
            Err(mm::slab::SlabError::Invalid(&"expected: name limit batchcount shared"))
        );
        let _ = sizes;
        while mm.reserve_slabs() == 2 {
            // The reaper brings the array's objects home.
            mm.cache_reap();
            let Ok(object) = mm.cache_alloc(cache, QUIET | Gfp::THISNODE) else { continue };
            mm.cache_free(cache, object).expect("freed");
            mm.cache_reap();
            mm.cache_reap();
        }
        assert!(!mm.object_is_pfmemalloc(reserve[1]).expect("an object"));
        assert!(mm.object_is_pfmemalloc(reserve[0]).expect("an object"), "node 0 is short still");
        mm.audit().expect("whole");
        for object in reserve {
            mm.cache_free(cache, object).expect("freed");
        }
        mm.audit().expect("whole");
    }
}
