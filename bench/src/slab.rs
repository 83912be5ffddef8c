//! What objects cost: pairs, batches, bulks. Calls `mm`.

use crate::run::{Bench, MANY, OBJECTS, Objects, SOME, Why};
use core::hint::black_box;
use core::ptr::NonNull;
use mm::platform::Platform;
use mm::slab::{CacheConfig, CacheId};
use mm::{AllocError, Gfp, Mm};
use selftest::Rng;

/// Pairs in a window.
const PAIRS: usize = 64;
/// Objects of a bulk.
const BULK: usize = 64;

/// The sizes of hot kmalloc pairs.
const SIZES: [(&str, usize); 12] = [
    ("kmalloc8", 8),
    ("kmalloc16", 16),
    ("kmalloc32", 32),
    ("kmalloc64", 64),
    ("kmalloc128", 128),
    ("kmalloc256", 256),
    ("kmalloc512", 512),
    ("kmalloc1024", 1024),
    ("kmalloc2048", 2048),
    ("kmalloc4096", 4096),
    ("kmalloc8192", 8192),
    ("kmalloc16384", 16384),
];

/// A call, as from another crate: with nothing known of its arguments.
#[inline(never)]
fn alloc<P: Platform>(mm: &Mm<P>, size: usize, gfp: Gfp) -> Result<NonNull<u8>, AllocError> {
    mm.kmalloc(size, gfp)
}

/// As [`alloc`].
#[inline(never)]
fn free<P: Platform>(mm: &Mm<P>, object: NonNull<u8>) -> bool {
    mm.kfree(object).is_ok()
}

/// As [`alloc`].
#[inline(never)]
fn cache_alloc<P: Platform>(
    mm: &Mm<P>,
    cache: CacheId,
    gfp: Gfp,
) -> Result<NonNull<u8>, AllocError> {
    mm.cache_alloc(cache, gfp)
}

/// As [`alloc`].
#[inline(never)]
fn cache_free<P: Platform>(mm: &Mm<P>, cache: CacheId, object: NonNull<u8>) -> bool {
    mm.cache_free(cache, object).is_ok()
}

fn freed(well: bool) -> Result<(), Why> {
    if well { Ok(()) } else { Err(Why::Failed("a free")) }
}

pub(crate) fn run<P: Platform>(bench: &mut Bench<'_, P>) {
    for (row, size) in SIZES {
        kmalloc_pairs(bench, row, size);
    }
    batch(bench, ["batch1000_alloc", "batch1000_free"], 64, false);
    batch(bench, ["random1000_alloc", "random1000_free"], 64, true);
    batch(bench, ["batch1000x256_alloc", "batch1000x256_free"], 256, false);
    batch(bench, ["batch1000x1024_alloc", "batch1000x1024_free"], 1024, false);
    for (rows, size) in [
        (["cache64", "bulk64_alloc", "bulk64_free"], 64),
        (["cache256", "bulk64x256_alloc", "bulk64x256_free"], 256),
        (["cache1024", "bulk64x1024_alloc", "bulk64x1024_free"], 1024),
    ] {
        named_cache(bench, rows, size);
    }
}

/// An object allocated and freed, again and again.
fn kmalloc_pairs<P: Platform>(bench: &mut Bench<'_, P>, row: &'static str, size: usize) {
    if !bench.wants(&[row]) {
        return;
    }
    let mm = bench.on.mm;
    let cost = bench.meter.each(MANY, PAIRS, || {
        for _ in 0..PAIRS {
            freed(free(mm, alloc(mm, size, Gfp::KERNEL)?))?;
        }
        Ok(())
    });
    bench.one(row, cost);
}

/// A thousand objects allocated, then all of them freed, in the same order or
/// in a random one.
fn batch<P: Platform>(
    bench: &mut Bench<'_, P>,
    rows: [&'static str; 2],
    size: usize,
    random: bool,
) {
    if !bench.wants(&rows) {
        return;
    }
    let mm = bench.on.mm;
    let mut state: (Objects, Rng) = ([NonNull::dangling(); OBJECTS], Rng::new(1));
    let alloc_all = |state: &mut (Objects, Rng)| {
        for slot in &mut state.0 {
            *slot = alloc(mm, size, Gfp::KERNEL)?;
        }
        Ok(())
    };
    let shuffle = |(objects, rng): &mut (Objects, Rng)| {
        if random {
            rng.shuffle(objects);
        }
    };
    let free_all = |state: &mut (Objects, Rng)| {
        for &object in &state.0 {
            freed(free(mm, object))?;
        }
        Ok(())
    };
    let costs = bench.meter.in_turn(SOME, OBJECTS, &mut state, alloc_all, shuffle, free_all);
    bench.both(rows, costs);
}

/// A cache of its own: pairs, and bulks.
fn named_cache<P: Platform>(bench: &mut Bench<'_, P>, rows: [&'static str; 3], size: usize) {
    if !bench.wants(&rows) {
        return;
    }
    let mm = bench.on.mm;
    // Not merged with kmalloc's, or that would be measured.
    let config = CacheConfig { merge: false, ..CacheConfig::new(size) };
    let Ok(cache) = mm.cache_create("bench", config) else {
        return bench.one(rows[0], Err(Why::Failed("a cache")));
    };
    if bench.wants(&rows[..1]) {
        let cost = bench.meter.each(MANY, PAIRS, || {
            for _ in 0..PAIRS {
                freed(cache_free(mm, cache, cache_alloc(mm, cache, Gfp::KERNEL)?))?;
            }
            Ok(())
        });
        bench.one(rows[0], cost);
    }
    if bench.wants(&rows[1..]) {
        let mut objects = [NonNull::dangling(); BULK];
        let alloc_all = |objects: &mut [NonNull<u8>; BULK]| {
            Ok(mm.cache_alloc_bulk(cache, black_box(Gfp::KERNEL), objects)?)
        };
        let free_all = |objects: &mut [NonNull<u8>; BULK]| {
            mm.cache_free_bulk(cache, objects).map_err(|_| Why::Failed("a bulk of frees"))
        };
        let costs = bench.meter.in_turn(MANY, BULK, &mut objects, alloc_all, |_| (), free_all);
        bench.both([rows[1], rows[2]], costs);
    }
    if mm.cache_destroy(cache).is_err() {
        bench.one(rows[0], Err(Why::Failed("a cache's end")));
    }
}
