//! What caches with checks find: overruns, double frees, writes to free
//! objects; and that a refused free leaves everything as it was.
#![cfg(feature = "host")]

use core::ptr::NonNull;
use mm::host::{Machine, pc};
use mm::slab::geometry::Debug;
use mm::slab::{CacheConfig, CacheId, SlabError};
use mm::types::CpuId;
use mm::{Config, Gfp, Mm};

fn machine() -> Mm<Machine> {
    let mm = pc(if cfg!(miri) { 2 } else { 16 }, 2, &Config::default()).expect("a machine");
    mm.slab_init().expect("the slab layer");
    mm.platform().take_log();
    mm
}

fn checked(size: usize) -> CacheConfig {
    CacheConfig { debug: Debug::all(), ..CacheConfig::new(size) }
}

fn alloc(mm: &Mm<Machine>, cache: CacheId) -> NonNull<u8> {
    mm.cache_alloc(cache, Gfp::KERNEL).expect("an object")
}

/// All lines logged since the last look, in one string.
fn log(mm: &Mm<Machine>) -> String {
    mm.platform().take_log().into_iter().map(|(_, line)| line + "\n").collect()
}

fn poke(object: NonNull<u8>, offset: isize, byte: u8) {
    // SAFETY: the tests stay inside the object's slot, which is the cache's.
    unsafe { object.as_ptr().offset(offset).write(byte) };
}

fn peek(object: NonNull<u8>, offset: isize) -> u8 {
    // SAFETY: as above.
    unsafe { object.as_ptr().offset(offset).read() }
}

#[test]
fn objects_look_used_and_free() {
    let mm = machine();
    let cache = mm.cache_create("checked", checked(40)).expect("a cache");
    let info = mm.cache_info(cache).expect("facts");
    assert_eq!((info.debug, info.size, info.arrays.limit), (Debug::all(), 64, 32));
    let object = alloc(&mm, cache);
    assert_eq!((peek(object, 0), peek(object, 38), peek(object, 39)), (0x5a, 0x5a, 0xa5));
    mm.cache_free(cache, object).expect("freed");
    assert_eq!((peek(object, 0), peek(object, 38), peek(object, 39)), (0x6b, 0x6b, 0xa5));
    let object = mm.cache_alloc(cache, Gfp::KERNEL | Gfp::ZERO).expect("an object");
    assert!((0..40).all(|i| peek(object, i) == 0));
    mm.cache_free(cache, object).expect("freed");
    mm.cache_destroy(cache).expect("destroyed");
    assert_eq!(log(&mm), "");
    mm.audit().expect("whole");
}

#[test]
fn overruns_are_found_on_either_side_to_the_byte() {
    let mm = machine();
    // 37 bytes: three bytes of padding before the red zone.
    let all = [(40, 40), (-8, 40), (37, 37), (47, 40), (-1, 40), (39, 37), (40, 37)];
    for &(offset, size) in &all[..if cfg!(miri) { 3 } else { all.len() }] {
        let cache = mm.cache_create("overrun", checked(size)).expect("a cache");
        let object = alloc(&mm, cache);
        let old = peek(object, offset);
        poke(object, offset, !old);
        assert_eq!(mm.cache_free(cache, object), Err(SlabError::Overrun), "{offset} of {size}");
        let said = log(&mm);
        assert!(said.contains("'overrun'") && said.contains(&format!("{object:p}")), "{said}");
        assert!(said.contains("slab_debug.rs"), "the last user: {said}");
        mm.audit().expect("whole");
        // It is allocated still, and free to be repaired.
        assert_eq!(mm.cache_destroy(cache), Err(SlabError::Busy { live: 1 }));
        poke(object, offset, old);
        mm.cache_free(cache, object).expect("freed");
        mm.cache_destroy(cache).expect("destroyed");
    }
    mm.audit().expect("whole");
}

#[test]
fn double_frees_are_refused_wherever_the_object_is() {
    let mm = machine();
    // With red zones; with poison alone (the alignment leaves no room).
    for align in [0, 64] {
        let config = CacheConfig { align, ..checked(128) };
        let cache = mm.cache_create("twice", config).expect("a cache");
        let others: Vec<_> = (0..3).map(|_| alloc(&mm, cache)).collect();
        let object = alloc(&mm, cache);
        mm.cache_free(cache, object).expect("freed");
        let twice = |what| {
            assert_eq!(mm.cache_free(cache, object), Err(SlabError::DoubleFree), "{what}");
            let said = log(&mm);
            assert!(said.contains("'twice'") && said.contains("double free"), "{said}");
            assert!(said.contains(&format!("{object:p}")), "{said}");
            mm.audit().expect("whole");
        };
        twice("in this CPU's array");
        mm.platform().run_on(CpuId(1));
        twice("in another CPU's array");
        mm.platform().run_on(CpuId(0));
        mm.cache_shrink(cache).expect("shrunk");
        twice("in its slab");
        for object in others {
            mm.cache_free(cache, object).expect("freed");
        }
        mm.cache_destroy(cache).expect("destroyed");
    }
}

#[test]
fn a_write_after_free_is_found_when_the_object_is_next_handed_out() {
    let mm = machine();
    let cache = mm.cache_create("stale", checked(100)).expect("a cache");
    let object = alloc(&mm, cache);
    mm.cache_free(cache, object).expect("freed");
    poke(object, 17, 1);
    let mut found = false;
    for _ in 0..64 {
        alloc(&mm, cache);
        let said = log(&mm);
        found |= said.contains("'stale'") && said.contains("byte 0x11 is 0x01");
    }
    assert!(found);
}

#[test]
fn a_write_after_free_is_found_when_the_slab_goes() {
    let mm = machine();
    let cache = mm.cache_create("gone", checked(100)).expect("a cache");
    let object = alloc(&mm, cache);
    mm.cache_free(cache, object).expect("freed");
    poke(object, 99, 0);
    mm.cache_destroy(cache).expect("destroyed");
    assert!(log(&mm).contains("byte 0x63 is 0x00"));
}

#[test]
fn pointers_into_an_object_are_refused() {
    let mm = machine();
    for debug in [Debug::empty(), Debug::all()] {
        let config = CacheConfig { debug, merge: false, ..CacheConfig::new(2000) };
        let cache = mm.cache_create("inside", config).expect("a cache");
        let object = alloc(&mm, cache);
        // SAFETY: inside the object.
        let inside = unsafe { object.add(8) };
        if !debug.is_empty() {
            assert_eq!(mm.cache_free(cache, inside), Err(SlabError::NotObject));
        }
        mm.cache_free(cache, object).expect("freed");
        mm.cache_destroy(cache).expect("destroyed");
    }
}

#[test]
fn a_double_free_that_nobody_checks_does_no_harm_to_the_slabs() {
    let mm = machine();
    let config = CacheConfig { merge: false, ..CacheConfig::new(64) };
    let cache = mm.cache_create("unchecked", config).expect("a cache");
    let object = alloc(&mm, cache);
    mm.cache_free(cache, object).expect("freed");
    mm.cache_free(cache, object).expect("not noticed yet");
    mm.cache_shrink(cache).expect("shrunk");
    let said = log(&mm);
    assert!(said.contains("'unchecked'") && said.contains("double free"), "{said}");
    mm.cache_destroy(cache).expect("destroyed");
    mm.audit().expect("whole");
}

/// Numbers in no order.
fn shuffle<T>(items: &mut [T]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for i in (1..items.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        items.swap(i, (state >> 33) as usize % (i + 1));
    }
}

#[test]
fn wrong_frees_among_many_in_no_order_are_all_found() {
    let mm = machine();
    // Sizes that are powers of two, odd multiples, coloured, and in numbers that
    // a descriptor has no room for.
    for size in [32, 64, 96, 192, 328, 1024] {
        let config = CacheConfig { merge: false, ..CacheConfig::new(size) };
        let cache = mm.cache_create("many", config).expect("a cache");
        let other = mm.cache_create("other", config).expect("a cache");
        let keeper = alloc(&mm, cache);
        let mut objects: Vec<_> = (0..900).map(|_| alloc(&mm, cache)).collect();
        shuffle(&mut objects);
        // One that is free already, one that is none, and one in the midst.
        let mut wrong = Vec::new();
        for (i, &object) in objects.iter().enumerate().skip(3).step_by(50) {
            wrong.push(match i % 100 {
                3 => object,
                // SAFETY: inside of the object.
                _ => unsafe { object.add(8) },
            });
        }
        mm.platform().take_log();
        for (i, &object) in objects.iter().enumerate() {
            assert_eq!(mm.cache_free(cache, object), Ok(()));
            if let Some(&object) = wrong.get(i / 50).filter(|_| i % 50 == 47) {
                assert_eq!(mm.cache_free(other, keeper), Err(SlabError::WrongCache));
                // Found now, or when it leaves the array.
                mm.cache_free(cache, object).ok();
            }
        }
        mm.cache_shrink(cache).expect("a cache");
        let log = log(&mm);
        let said = |what: &str| log.matches(what).count();
        let found = said("double free") + said("not the start") + said("not an object");
        assert_eq!(found, wrong.len(), "{size}: {log}");
        assert_eq!(said("of another cache"), wrong.len(), "{size}: {log}");
        mm.audit().expect("a whole machine");
        mm.cache_free(cache, keeper).expect("an object of it");
        mm.cache_destroy(cache).expect("nothing is in use");
        mm.cache_destroy(other).expect("nothing is in use");
    }
}

fn construct(object: NonNull<u8>) {
    // SAFETY: the caches that use it have objects of 100 bytes.
    unsafe { object.write_bytes(0xc7, 100) };
}

#[test]
fn constructed_objects_stay_constructed() {
    let mm = machine();
    for debug in [Debug::empty(), Debug::all()] {
        let config = CacheConfig { ctor: Some(construct), debug, ..CacheConfig::new(100) };
        let cache = mm.cache_create("constructed", config).expect("a cache");
        for _ in 0..3 {
            let n = if cfg!(miri) { 4 } else { 100 };
            let objects: Vec<_> = (0..n).map(|_| alloc(&mm, cache)).collect();
            assert!(objects.iter().all(|&o| (0..100).all(|i| peek(o, i) == 0xc7)));
            for object in objects {
                mm.cache_free(cache, object).expect("freed");
            }
        }
        // Zeroes would undo it.
        let zeroed = mm.cache_alloc(cache, Gfp::KERNEL | Gfp::ZERO);
        assert!(matches!(zeroed, Err(mm::AllocError::Invalid(_))));
        let mut out = [NonNull::dangling(); 70];
        let zeroed = mm.cache_alloc_bulk(cache, Gfp::KERNEL | Gfp::ZERO, &mut out);
        assert!(matches!(zeroed, Err(mm::AllocError::Invalid(_))));
        mm.cache_destroy(cache).expect("nothing leaked");
        assert_eq!(log(&mm), "");
    }
    mm.audit().expect("whole");
}

#[test]
#[cfg_attr(miri, ignore = "the other tests go the same ways")]
fn memory_is_cleared_on_request_of_the_machine() {
    for (init_on_alloc, init_on_free) in [(true, false), (false, true), (true, true)] {
        let config = Config { init_on_alloc, init_on_free, ..Config::default() };
        let mm = pc(16, 1, &config).expect("a machine");
        mm.slab_init().expect("the slab layer");
        let object = mm.kmalloc(256, Gfp::KERNEL).expect("memory");
        for i in 0..256 {
            assert_eq!(peek(object, i), 0);
            poke(object, i, 1);
        }
        mm.kfree(object).expect("freed");
        if init_on_free {
            assert!((0..256).all(|i| peek(object, i) == 0));
        }
        let again = mm.kmalloc(256, Gfp::KERNEL).expect("memory");
        assert_eq!(again, object, "the hottest first");
        assert!((0..256).all(|i| peek(object, i) == 0));
        mm.audit().expect("whole");
    }
}

#[test]
fn defaults_reach_caches_by_name() {
    use mm::options::SlabDebug;
    use mm::slab::SlabDefaults;
    let mm = pc(16, 1, &Config::default()).expect("a machine");
    let checks = SlabDebug { red_zone: true, poison: true, user: true, ..SlabDebug::default() };
    let debug = SlabDebug { caches: "kmalloc-6*,inode", ..checks };
    mm.set_slab_defaults(SlabDefaults { debug: Some(debug), no_merge: true });
    mm.slab_init().expect("the slab layer");
    // General caches of that name fill free objects, others do not. (Their
    // alignment leaves no room for red zones.)
    let poisoned = |size: usize| {
        let object = mm.kmalloc(size, Gfp::KERNEL).expect("an object");
        poke(object, 20, 1);
        mm.kfree(object).expect("freed");
        peek(object, 20) == 0x6b
    };
    assert!(poisoned(64) && !poisoned(120));
    let facts = |name: &str, config: CacheConfig| {
        let cache = mm.cache_create(name, config).expect("a cache");
        mm.cache_info(cache).expect("facts")
    };
    let (inode, other) =
        (facts("inode", CacheConfig::new(200)), facts("inodes", CacheConfig::new(200)));
    assert_eq!(inode.debug, Debug::all());
    assert_eq!(other.debug, Debug::empty());
    // A cache's own checks stay.
    assert_eq!(facts("own", checked(200)).debug, Debug::all());
    // Nobody serves as another's.
    let twins = ["twin_a", "twin_b"].map(|name| mm.cache_create(name, CacheConfig::new(96)));
    let [Ok(a), Ok(b)] = twins else { panic!("{twins:?}") };
    let object = alloc(&mm, a);
    assert_eq!(mm.cache_free(b, object), Err(SlabError::WrongCache));
    mm.cache_free(a, object).expect("freed");
    mm.audit().expect("whole");
}
