//! The slab layer with several CPUs at work at once: objects allocated on one
//! and freed on another, caches that come and go, shrinking and reaping beside
//! it. The content of each object tells whether two had it at a time.
#![cfg(feature = "host")]

use core::ptr::NonNull;
use mm::host::{Machine, pc};
use mm::slab::geometry::Debug;
use mm::slab::{CacheConfig, CacheId, SlabError};
use mm::types::CpuId;
use mm::{AllocError, Config, Gfp, Mm};
use std::sync::Mutex;

const SIZES: [usize; 4] = [64, 100, 700, 3000];

/// An object that any CPU may free.
struct Loose {
    ptr: NonNull<u8>,
    kind: usize,
    byte: u8,
}

// SAFETY: whoever has this has the object, and nobody else.
unsafe impl Send for Loose {}

impl Loose {
    fn new(ptr: NonNull<u8>, kind: usize, byte: u8) -> Self {
        // SAFETY: an object of that cache has so many bytes.
        unsafe { ptr.write_bytes(byte, SIZES[kind]) };
        Self { ptr, kind, byte }
    }

    fn check(&self) {
        // SAFETY: as above; all of them were written.
        let bytes = unsafe { core::slice::from_raw_parts(self.ptr.as_ptr(), SIZES[self.kind]) };
        assert!(bytes == vec![self.byte; bytes.len()], "two had {:p} at a time", self.ptr);
    }
}

/// What one CPU does.
fn work(mm: &Mm<Machine>, cpu: u16, caches: &[CacheId], pool: &Mutex<Vec<Loose>>, steps: usize) {
    mm.platform().run_on(CpuId(cpu));
    let gfp = Gfp::NOWAIT | Gfp::NOWARN;
    let mut state = u64::from(cpu) + 1;
    for step in 0..steps {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let kind = (state >> 33) as usize % SIZES.len();
        let byte = (state >> 48) as u8;
        match (state >> 40) % 8 {
            0..=3 => {
                if let Ok(ptr) = mm.cache_alloc(caches[kind], gfp) {
                    let loose = Loose::new(ptr, kind, byte);
                    pool.lock().expect("no panic").push(loose);
                }
            }
            4..=6 => {
                let loose = {
                    let mut pool = pool.lock().expect("no panic");
                    let n = pool.len().max(1);
                    let at = state as usize % n;
                    (at < pool.len()).then(|| pool.swap_remove(at))
                };
                if let Some(loose) = loose {
                    loose.check();
                    mm.cache_free(caches[loose.kind], loose.ptr).expect("freed");
                }
            }
            _ => {
                let ptr = mm.kmalloc(SIZES[kind], gfp).map(|ptr| Loose::new(ptr, kind, byte));
                if let Ok(loose) = ptr {
                    loose.check();
                    mm.kfree(loose.ptr).expect("freed");
                }
            }
        }
        if step % 64 == usize::from(cpu) {
            mm.cache_reap();
        }
    }
}

#[test]
fn cpus_at_work_at_once() {
    let (cpus, steps) = if cfg!(miri) { (2, 60) } else { (4, 40_000) };
    let mm = pc(if cfg!(miri) { 4 } else { 16 }, cpus + 1, &Config::default()).expect("a machine");
    mm.slab_init().expect("the slab layer");
    let caches: Vec<_> = SIZES
        .iter()
        .enumerate()
        .map(|(i, &size)| {
            let debug = if i == 1 { Debug::all() } else { Debug::empty() };
            let config = CacheConfig { merge: false, debug, ..CacheConfig::new(size) };
            mm.cache_create(&format!("cache-{i}"), config).expect("a cache")
        })
        .collect();
    let pool = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for cpu in 0..cpus {
            let (mm, caches, pool) = (&mm, &caches, &pool);
            scope.spawn(move || work(mm, cpu, caches, pool, steps));
        }
        // Meanwhile one more makes caches and takes them away.
        mm.platform().run_on(CpuId(cpus));
        for i in 0..steps / 20 {
            let config = CacheConfig { merge: i % 2 == 0, ..CacheConfig::new(40) };
            let cache = match mm.cache_create("passing", config) {
                Ok(cache) => cache,
                Err(SlabError::NoMemory) => continue,
                Err(why) => panic!("{why}"),
            };
            let object = mm.cache_alloc(cache, Gfp::NOWAIT | Gfp::NOWARN);
            if let Ok(object) = object {
                assert_eq!(mm.cache_destroy(cache), Err(SlabError::Busy { live: 1 }));
                mm.cache_free(cache, object).expect("freed");
            }
            mm.cache_destroy(cache).expect("destroyed");
            let gone = mm.cache_alloc(cache, Gfp::NOWAIT | Gfp::NOWARN);
            assert!(matches!(gone, Err(AllocError::Invalid(_))));
            if i % 10 == 0 {
                mm.slab_shrink();
                mm.slabinfo_write("cache-0 20 10 2").expect("tuned");
            }
        }
    });
    mm.audit().expect("whole");
    for loose in pool.into_inner().expect("no panic") {
        loose.check();
        mm.cache_free(caches[loose.kind], loose.ptr).expect("freed");
    }
    for cache in caches {
        mm.cache_destroy(cache).expect("nothing is in use");
    }
    mm.audit().expect("whole");
    let log = mm.platform().take_log();
    assert!(!log.iter().any(|(_, line)| line.contains("slab error")), "{log:?}");
}
