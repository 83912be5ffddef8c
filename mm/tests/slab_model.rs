//! The slab layer against a simple model: random operations on several caches,
//! CPUs and rights, in a machine that runs short of memory and recovers; each
//! object carries its own pattern, and the audit looks at everything in between.
#![cfg(feature = "host")]

use core::ptr::NonNull;
use mm::host::{Machine, build, pc};
use mm::platform::{Context, Platform};
use mm::slab::geometry::Debug;
use mm::slab::{CacheConfig, CacheId, SlabError};
use mm::types::{CpuId, NodeId, Order, Pfn, PfnRange};
use mm::{AllocError, Config, Gfp, Mm, Page, Request};
use std::collections::BTreeMap;

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Who gave an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    Cache(usize),
    Kmalloc,
}

struct Object {
    ptr: NonNull<u8>,
    size: usize,
    owner: Owner,
}

struct Model {
    mm: Mm<Machine>,
    random: Random,
    /// Handles by place; None while there is no cache there.
    caches: Vec<Option<CacheId>>,
    /// By address.
    objects: BTreeMap<usize, Object>,
    held: Vec<Page>,
    failures: usize,
    reserves: usize,
}

fn construct(object: NonNull<u8>) {
    // SAFETY: the cache that uses it has objects of 90 bytes.
    unsafe { object.write_bytes(0xc7, 90) };
}

/// Kinds of caches: one of each can exist at a time.
fn kind(i: usize) -> (&'static str, CacheConfig) {
    let plain = CacheConfig::new;
    match i {
        0 => ("tiny", plain(8)),
        1 => ("small", plain(40)),
        2 => ("like small", plain(36)),
        3 => ("lines", CacheConfig { hwcache_align: true, ..plain(200) }),
        4 => ("checked", CacheConfig { debug: Debug::all(), ..plain(100) }),
        5 => ("poisoned", CacheConfig { debug: Debug::POISON, align: 64, ..plain(150) }),
        6 => ("constructed", CacheConfig { ctor: Some(construct), ..plain(90) }),
        7 => ("reclaimable", CacheConfig { reclaim_account: true, ..plain(700) }),
        8 => ("two pages", plain(2100)),
        9 => ("large", CacheConfig { merge: false, ..plain(20_000) }),
        _ => ("pages", CacheConfig { align: 4096, ..plain(4096) }),
    }
}

const KINDS: usize = 11;

fn many_nodes(mib: u64, nodes: u8) -> Mm<Machine> {
    let end = Pfn(mib << 8);
    let mut machine = Machine::new(Pfn(0), end, 2 * u16::from(nodes)).expect("room");
    for cpu in 0..2 * u16::from(nodes) {
        machine.set_node_of_cpu(CpuId(cpu), NodeId((cpu % u16::from(nodes)) as u8));
    }
    // Whole pageblocks each.
    let border = |i: u64| Pfn((end.0 * i / u64::from(nodes)).next_multiple_of(512));
    let ram: Vec<_> = (0..u64::from(nodes))
        .map(|i| {
            let start = border(i).max(Pfn(1));
            (PfnRange::new(start, border(i + 1).min(end)), NodeId(i as u8))
        })
        .collect();
    build(machine, &ram, &Config::default()).expect("a machine")
}

impl Model {
    /// A machine of `mib` MiB on one node with two CPUs, or on several with two
    /// on each.
    fn new(mib: u64, nodes: u8, seed: u64) -> Self {
        let mm = match nodes {
            1 => pc(mib, 2, &Config::default()).expect("a machine"),
            _ => many_nodes(mib, nodes),
        };
        mm.slab_init().expect("the slab layer");
        Self {
            mm,
            random: Random(seed),
            caches: vec![None; KINDS],
            objects: BTreeMap::new(),
            held: Vec::new(),
            failures: 0,
            reserves: 0,
        }
    }

    fn gfp(&mut self) -> (Gfp, bool) {
        let (mut gfp, mut context) = (Gfp::NOWAIT | Gfp::NOWARN, Context::default());
        match self.random.below(8) {
            0 => gfp |= Gfp::MEMALLOC,
            1 => context.memalloc = true,
            2 => context = Context { memalloc: true, in_irq: true, ..context },
            3 => gfp |= Gfp::MEMALLOC | Gfp::NOMEMALLOC,
            4 => gfp |= Gfp::HIGH,
            _ => {}
        }
        self.mm.platform().set_context(context);
        (gfp, gfp.may_use_reserves(context))
    }

    /// An object has come: it is nobody else's, and allowed.
    fn came(&mut self, ptr: NonNull<u8>, size: usize, owner: Owner, entitled: bool) {
        let at = ptr.addr().get();
        let before = self.objects.range(..at + size).next_back();
        assert!(before.is_none_or(|(&b, o)| b + o.size <= at), "{at:#x} overlaps another");
        let reserve = self.mm.object_is_pfmemalloc(ptr).expect("an object");
        assert!(entitled || !reserve, "an object of the reserves for nobody in particular");
        self.reserves += usize::from(reserve);
        if owner != Owner::Cache(6) {
            // SAFETY: the object has so many bytes, and is ours.
            unsafe { ptr.write_bytes((at >> 3) as u8, size) };
        }
        self.objects.insert(at, Object { ptr, size, owner });
    }

    /// Takes an object out of the model, its content having been kept.
    fn leaves(&mut self) -> Option<Object> {
        let at = self.random.next() as usize;
        let first = *self.objects.keys().next()?;
        let last = *self.objects.keys().next_back()?;
        let key = *self.objects.range(first + at % (last - first + 1)..).next()?.0;
        let object = self.objects.remove(&key)?;
        let byte = if object.owner == Owner::Cache(6) { 0xc7 } else { (key >> 3) as u8 };
        // SAFETY: the object has so many bytes, all of them written.
        let bytes = unsafe { core::slice::from_raw_parts(object.ptr.as_ptr(), object.size) };
        assert!(bytes == vec![byte; object.size], "{key:#x} was written to: {:?}", object.owner);
        Some(object)
    }

    fn alloc(&mut self) {
        let (gfp, entitled) = self.gfp();
        let i = self.random.below(KINDS * 2);
        let (result, size, owner) = match self.caches.get(i).copied().flatten() {
            Some(cache) if self.random.one_in(8) => {
                let node = NodeId(self.random.below(self.mm.nodes()) as u8);
                let result = self.mm.cache_alloc_node(cache, gfp, node);
                (result, kind(i).1.size, Owner::Cache(i))
            }
            Some(cache) => (self.mm.cache_alloc(cache, gfp), kind(i).1.size, Owner::Cache(i)),
            None => {
                let bits = self.random.below(15);
                let size = 1 + self.random.below(1 << bits);
                (self.mm.kmalloc(size, gfp), size, Owner::Kmalloc)
            }
        };
        match result {
            Ok(ptr) => self.came(ptr, size, owner, entitled),
            Err(AllocError::NoMemory) => self.failures += 1,
            Err(why) => panic!("{why}"),
        }
    }

    fn free(&mut self) {
        let Some(object) = self.leaves() else { return };
        let by_handle = self.random.one_in(2);
        let result = match object.owner {
            Owner::Cache(i) if by_handle => {
                self.mm.cache_free(self.caches[i].expect("a cache with objects"), object.ptr)
            }
            _ => self.mm.kfree(object.ptr),
        };
        result.expect("freed");
    }

    fn bulk(&mut self) {
        let i = self.random.below(KINDS);
        let Some(cache) = self.caches[i] else { return };
        let (gfp, entitled) = self.gfp();
        let mut out = vec![NonNull::dangling(); self.random.below(100)];
        match self.mm.cache_alloc_bulk(cache, gfp, &mut out) {
            Ok(()) => {
                let kept = self.random.below(out.len() + 1);
                self.mm.cache_free_bulk(cache, &out[kept..]).expect("freed");
                for &ptr in &out[..kept] {
                    self.came(ptr, kind(i).1.size, Owner::Cache(i), entitled);
                }
            }
            Err(_) => self.failures += 1,
        }
    }

    fn realloc(&mut self) {
        let at = self.objects.iter().find(|(_, o)| o.owner == Owner::Kmalloc).map(|(&at, _)| at);
        let Some(object) = at.and_then(|at| self.objects.remove(&at)) else { return };
        let (gfp, entitled) = self.gfp();
        let size = 1 + self.random.below(10_000);
        let was_reserve = self.mm.object_is_pfmemalloc(object.ptr).expect("an object");
        match self.mm.krealloc(object.ptr, size, gfp) {
            Ok(ptr) => {
                let stayed = ptr == object.ptr;
                self.came(ptr, size, Owner::Kmalloc, entitled || stayed && was_reserve);
            }
            Err(_) => {
                self.objects.insert(object.ptr.addr().get(), object);
            }
        }
    }

    fn make_or_destroy(&mut self) {
        let i = self.random.below(KINDS);
        let Some(cache) = self.caches[i] else {
            let (name, config) = kind(i);
            self.caches[i] = self.mm.cache_create(name, config).ok();
            return;
        };
        let shares = |o: &Owner| match *o {
            // These two are one cache, if both are there.
            Owner::Cache(j) => j == i || (i == 1 || i == 2) && (j == 1 || j == 2),
            Owner::Kmalloc => false,
        };
        let live = self.objects.values().filter(|o| shares(&o.owner)).count() as u64;
        let other = if i == 1 { 2 } else { 1 };
        let shared = (i == 1 || i == 2) && self.caches[other].is_some();
        match self.mm.cache_destroy(cache) {
            Ok(()) => {
                assert!(live == 0 || shared);
                self.caches[i] = None;
                for object in self.objects.values_mut() {
                    if object.owner == Owner::Cache(i) {
                        object.owner = Owner::Cache(other);
                    }
                }
                let gone = self.mm.cache_alloc(cache, Gfp::NOWAIT);
                assert!(matches!(gone, Err(AllocError::Invalid(_))));
            }
            Err(why) => assert_eq!(why, SlabError::Busy { live }),
        }
    }

    /// Takes much of the memory away, or gives it back.
    fn pressure(&mut self) {
        if self.held.is_empty() {
            let leave = self.random.below(40) as u64;
            let request =
                Request::new(Order(self.random.below(2) as u8), Gfp::NOWAIT | Gfp::NOWARN);
            self.mm.platform().set_context(Context::default());
            while let Ok(page) = self.mm.alloc_pages(request) {
                self.held.push(page);
            }
            for _ in 0..leave.min(self.held.len() as u64) {
                self.mm.free_pages(self.held.remove(0)).expect("freed");
            }
        } else {
            for page in self.held.drain(..) {
                self.mm.free_pages(page).expect("freed");
            }
        }
    }

    fn step(&mut self) {
        match self.random.below(1000) {
            0..=1 => self.pressure(),
            2..=11 => self.make_or_destroy(),
            12..=16 => {
                self.mm.slab_shrink();
            }
            17..=36 => {
                self.mm.platform().advance_ms(2000);
                self.mm.cache_reap();
            }
            37..=66 => self.bulk(),
            67..=96 => self.realloc(),
            97..=146 => {
                let cpus = self.mm.platform().cpus();
                let cpu = self.random.below(usize::from(cpus)) as u16;
                self.mm.platform().run_on(CpuId(cpu));
            }
            // Grows for a while, shrinks for a while.
            n if (n < 560) == (self.random.0 >> 40 & 1 == 0) || self.objects.len() < 20 => {
                self.alloc();
            }
            _ => self.free(),
        }
    }

    fn finish(mut self) {
        while !self.objects.is_empty() {
            self.free();
        }
        for cache in self.caches.iter_mut().filter_map(Option::take) {
            self.mm.cache_destroy(cache).expect("nothing is in use");
        }
        self.mm.slab_shrink();
        assert_eq!(self.mm.reserve_slabs(), 0);
        assert_eq!(self.mm.kmalloc_large_pages(), 0);
        self.mm.audit().expect("whole");
        let broken: Vec<_> = self
            .mm
            .platform()
            .take_log()
            .into_iter()
            .filter(|(_, line)| line.contains("slab error"))
            .collect();
        assert_eq!(broken, []);
        self.mm.platform().set_context(Context::default());
    }
}

fn run(mib: u64, nodes: u8, seed: u64, steps: usize, audit_every: usize) {
    println!("seed {seed:#x}, {steps} steps");
    let mut model = Model::new(mib, nodes, seed);
    for step in 0..steps {
        model.step();
        if step % audit_every == 0
            && let Err(wrong) = model.mm.audit()
        {
            panic!("seed {seed:#x}, step {step}: {wrong}");
        }
    }
    if steps >= 10_000 {
        assert!(model.failures > 0 && model.reserves > 0, "the machine was never short");
    }
    model.finish();
}

#[test]
#[cfg_attr(miri, ignore = "takes hours")]
fn long_runs_audited_now_and_then() {
    for seed in 1..=4 {
        run(8, 1, seed, 100_000, 64);
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes hours")]
fn runs_audited_after_each_step() {
    run(4, 1, 0x51ab, 10_000, 1);
}

#[test]
fn a_short_run() {
    run(2, 1, 7, if cfg!(miri) { 150 } else { 5000 }, 50);
}

#[test]
#[cfg_attr(miri, ignore = "takes hours")]
fn several_nodes() {
    run(8, 2, 0xa11e, 60_000, 64);
    run(16, 3, 0xa11f, 30_000, 64);
}
