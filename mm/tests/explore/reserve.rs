//! Objects of the reserves: nobody without the right gets one, and when pressure
//! is over they become everybody's, all of them and once.

use crate::run::explore;
use crate::stage::{Fault, Part, Play};
use core::ptr::NonNull;
use mm::slab::{CacheConfig, CacheId};
use mm::{Config, Gfp};

const QUIET: Gfp = Gfp::NOWAIT.union(Gfp::NOWARN);
const ENTITLED: Gfp = QUIET.union(Gfp::MEMALLOC);

/// An object in the hands of one of the CPUs.
struct Loose(NonNull<u8>);

// SAFETY: whoever has it is the only one who knows the memory.
unsafe impl Send for Loose {}

fn get(play: &Play, cache: CacheId, gfp: Gfp) -> Option<Loose> {
    let object = play.mm.cache_alloc(cache, gfp).ok()?;
    // A slab never becomes one of the reserves: what is wrong now was wrong then.
    let reserve = play.mm.object_is_pfmemalloc(object).expect("an object");
    assert!(!reserve || gfp.contains(Gfp::MEMALLOC), "{object:?} is kept for others");
    Some(Loose(object))
}

fn put(play: &Play, cache: CacheId, Loose(object): Loose) {
    play.mm.cache_free(cache, object).expect("freed");
}

#[test]
fn demotion_against_allocation() {
    explore(|| {
        let play = Play::with(4, 3, 1, &Config::default(), Fault::None).slab();
        let mm = &play.mm;
        let config = CacheConfig { merge: false, ..CacheConfig::new(1000) };
        let cache = mm.cache_create("explored", config).expect("a cache");
        let first = get(&play, cache, QUIET).expect("an object");
        put(&play, cache, first);
        mm.cache_shrink(cache).expect("shrunk");
        let mut held = Vec::new();
        for order in (0..=10).rev().chain([1, 0]) {
            while let Some(page) = play.alloc(order, QUIET) {
                held.push(page);
            }
            mm.drain_all(None);
        }
        let loose = [(); 3].map(|()| get(&play, cache, ENTITLED).expect("the reserves"));
        assert!(mm.reserve_slabs() > 0);
        // There is memory again: two CPUs allocate without the right, which ends
        // the pressure; the third has it, and frees what it had.
        held.into_iter().for_each(|page| play.free(page));
        let plain = || {
            let pair = [(); 2].map(|()| get(&play, cache, QUIET));
            pair.into_iter().flatten().for_each(|object| put(&play, cache, object));
            let again = get(&play, cache, QUIET);
            again.into_iter().for_each(|object| put(&play, cache, object));
        };
        let entitled = || {
            for object in loose {
                put(&play, cache, object);
            }
            let object = get(&play, cache, ENTITLED);
            object.into_iter().for_each(|object| put(&play, cache, object));
        };
        play.act([Box::new(plain) as Part<'_>, Box::new(plain), Box::new(entitled)]);
        mm.audit().expect("whole");
        mm.cache_destroy(cache).expect("nothing in use");
        assert_eq!(mm.reserve_slabs(), 0);
        play.end();
    });
}
