//! Objects: freed far from where they were allocated, while arrays are reaped,
//! caches shrunk and destroyed.

use crate::run::explore;
use crate::stage::{Fault, Part, Play};
use core::ptr::NonNull;
use mm::slab::{CacheConfig, CacheId, SlabError};
use mm::{Config, Gfp};
use std::collections::BTreeSet;
use std::sync::Mutex;

const SIZE: usize = 1000;
const GFP: Gfp = Gfp::NOWAIT.union(Gfp::NOWARN);

/// Objects, each of which one owner has.
#[derive(Default)]
struct Objects(Mutex<BTreeSet<usize>>);

/// An object on its way to another CPU.
#[derive(Clone, Copy)]
struct Loose(NonNull<u8>);

// SAFETY: whoever has it is the only one who knows the memory.
unsafe impl Send for Loose {}
// SAFETY: as above.
unsafe impl Sync for Loose {}

impl Objects {
    fn get(&self, play: &Play, cache: CacheId) -> Option<Loose> {
        let object = play.mm.cache_alloc(cache, GFP).ok()?;
        let fresh = self.0.lock().expect("no panic").insert(object.addr().get());
        assert!(fresh, "{object:?} has two owners");
        // SAFETY: so many bytes were handed out.
        unsafe { object.write_bytes(0x5c, SIZE) };
        Some(Loose(object))
    }

    fn put(&self, play: &Play, cache: CacheId, Loose(object): Loose) -> Result<(), SlabError> {
        let had = self.0.lock().expect("no panic").remove(&object.addr().get());
        assert!(had, "{object:?} had no owner");
        play.mm.cache_free(cache, object)
    }
}

/// Two nodes, a CPU on each and one more on the first.
fn two_nodes() -> (Play, CacheId, Objects) {
    let play = Play::with(8, 3, 2, &Config::default(), Fault::None).slab();
    let config = CacheConfig { merge: false, ..CacheConfig::new(SIZE) };
    let cache = play.mm.cache_create("explored", config).expect("a cache");
    (play, cache, Objects::default())
}

/// CPU 1 frees objects of CPU 0's node while CPU 0 reaps and allocates, and CPU
/// 2 shrinks.
#[test]
fn remote_frees_against_a_reap() {
    explore(|| {
        let (play, cache, objects) = two_nodes();
        let loose = [(); 3].map(|()| objects.get(&play, cache).expect("an object"));
        let reaper = || {
            // Twice: at first the arrays count as used.
            play.mm.cache_reap();
            let object = objects.get(&play, cache).expect("an object");
            play.mm.cache_reap();
            objects.put(&play, cache, object).expect("freed");
        };
        let freer = || {
            for object in loose {
                objects.put(&play, cache, object).expect("freed");
            }
            let own = objects.get(&play, cache).expect("an object");
            objects.put(&play, cache, own).expect("freed");
        };
        let shrinker = || {
            play.mm.cache_shrink(cache).expect("a live cache");
        };
        play.act([Box::new(reaper) as Part<'_>, Box::new(freer), Box::new(shrinker)]);
        play.mm.audit().expect("whole");
        play.mm.cache_destroy(cache).expect("nothing in use");
        play.end();
    });
}

/// The last object is freed on another node while the cache is being destroyed:
/// it is busy with that object, or gone without it.
#[test]
fn a_remote_free_against_destruction() {
    explore(|| {
        let (play, cache, objects) = two_nodes();
        let object = objects.get(&play, cache).expect("an object");
        let gone = Mutex::new(false);
        let destroyer = || match play.mm.cache_destroy(cache) {
            Ok(()) => *gone.lock().expect("no panic") = true,
            Err(SlabError::Busy { live }) => assert_eq!(live, 1),
            Err(why) => panic!("{why}"),
        };
        let freer = || objects.put(&play, cache, object).expect("freed");
        play.act([Box::new(destroyer) as Part<'_>, Box::new(freer)]);
        play.mm.platform().quiet();
        play.mm.audit().expect("whole");
        if !gone.into_inner().expect("no panic") {
            play.mm.cache_destroy(cache).expect("nothing in use");
        }
        play.end();
    });
}

/// Two handles to one cache: one is given up while objects go through the other
/// on another CPU; then that one goes too.
#[test]
fn a_second_handle_against_destruction() {
    explore(|| {
        let play = Play::with(8, 2, 1, &Config::default(), Fault::None).slab();
        let one = play.mm.cache_create("one", CacheConfig::new(SIZE)).expect("a cache");
        let two = play.mm.cache_create("two", CacheConfig::new(SIZE)).expect("a handle");
        let objects = Objects::default();
        let loose = objects.get(&play, one).expect("an object");
        let destroyer = || play.mm.cache_destroy(one).expect("another handle is left");
        let user = || {
            let object = objects.get(&play, two).expect("an object");
            objects.put(&play, two, loose).expect("freed");
            objects.put(&play, two, object).expect("freed");
        };
        play.act([Box::new(destroyer) as Part<'_>, Box::new(user)]);
        play.mm.audit().expect("whole");
        play.mm.cache_destroy(two).expect("nothing in use");
        play.end();
    });
}

/// A cache comes and goes while all arrays are made anew.
#[test]
fn retuning_against_use() {
    explore(|| {
        let (play, cache, objects) = two_nodes();
        let user = || {
            let pair = [(); 2].map(|()| objects.get(&play, cache).expect("an object"));
            for object in pair {
                objects.put(&play, cache, object).expect("freed");
            }
        };
        let tuner = || play.mm.slabinfo_write("explored 4 2 1").expect("a live cache");
        play.act([Box::new(user) as Part<'_>, Box::new(user), Box::new(tuner)]);
        play.mm.audit().expect("whole");
        play.mm.cache_destroy(cache).expect("nothing in use");
        play.end();
    });
}
