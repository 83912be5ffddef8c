//! The slab layer on simulated machines: caches, arrays, kmalloc, and what is
//! left behind.
#![cfg(feature = "host")]

use core::alloc::Layout;
use core::ptr::NonNull;
use mm::host::{Machine, pc};
use mm::slab::{CacheConfig, SlabError, ZERO_SIZE};
use mm::{AllocError, Config, Gfp, Mm};

fn machine(mib: u64, cpus: u16) -> Mm<Machine> {
    // An interpreter takes its time over each page.
    let mib = if cfg!(miri) { mib / 16 } else { mib };
    let mm = pc(mib, cpus, &Config::default()).expect("a machine");
    mm.slab_init().expect("the slab layer");
    mm.audit().expect("a whole machine");
    mm
}

fn own(size: usize) -> CacheConfig {
    CacheConfig { merge: false, ..CacheConfig::new(size) }
}

/// Writes a pattern that tells the object from others.
fn fill(ptr: NonNull<u8>, size: usize) {
    // SAFETY: the object was handed out with so many bytes.
    unsafe { ptr.write_bytes(ptr.addr().get() as u8 ^ (ptr.addr().get() >> 8) as u8, size) };
}

fn is_filled(ptr: NonNull<u8>, size: usize) -> bool {
    let byte = ptr.addr().get() as u8 ^ (ptr.addr().get() >> 8) as u8;
    // SAFETY: as above.
    unsafe { core::slice::from_raw_parts(ptr.as_ptr(), size) == vec![byte; size] }
}

#[test]
fn nothing_works_before_the_layer_is_up() {
    let mm = pc(16, 1, &Config::default()).expect("a machine");
    assert!(matches!(mm.kmalloc(64, Gfp::KERNEL), Err(AllocError::Invalid(_))));
    assert_eq!(mm.cache_create("early", own(64)), Err(SlabError::NotUp));
    mm.slab_init().expect("once");
    assert_eq!(mm.slab_init(), Err(SlabError::NotUp));
    assert!(mm.kmalloc(64, Gfp::KERNEL).is_ok());
}

#[test]
fn objects_are_distinct_aligned_and_keep_their_content() {
    let mm = machine(32, 1);
    for (size, align) in [(8, 0), (24, 0), (64, 64), (100, 0), (700, 128), (5000, 8), (40_000, 0)] {
        let config = CacheConfig { align, ..own(size) };
        let cache = mm.cache_create("objects", config).expect("a cache");
        let n = if cfg!(miri) { 5 } else { 300 };
        let mut objects: Vec<_> = (0..n)
            .map(|_| {
                let ptr = mm.cache_alloc(cache, Gfp::KERNEL).expect("an object");
                assert_eq!(ptr.addr().get() % align.max(8), 0);
                fill(ptr, size);
                ptr
            })
            .collect();
        assert!(objects.iter().all(|&o| is_filled(o, size)));
        mm.audit().expect("whole");
        objects.sort();
        assert!(objects.windows(2).all(|w| w[1].addr().get() - w[0].addr().get() >= size));
        for ptr in objects {
            mm.cache_free(cache, ptr).expect("freed");
        }
        mm.audit().expect("whole");
        mm.cache_destroy(cache).expect("destroyed");
        mm.audit().expect("whole");
    }
}

#[test]
fn what_a_cache_took_comes_back() {
    let mm = machine(32, 2);
    let warm = mm.cache_create("warm", own(200)).expect("a cache");
    let ptr = mm.cache_alloc(warm, Gfp::KERNEL).expect("an object");
    mm.cache_free(warm, ptr).expect("freed");
    mm.cache_destroy(warm).expect("destroyed");
    let count = |mm: &Mm<Machine>| {
        mm.slab_shrink();
        mm.audit().expect("whole").allocated
    };
    let before = count(&mm);
    let cache = mm.cache_create("pages", own(200)).expect("a cache");
    let objects: Vec<_> =
        (0..200).map(|_| mm.cache_alloc(cache, Gfp::KERNEL).expect("an object")).collect();
    for ptr in objects {
        mm.cache_free(cache, ptr).expect("freed");
    }
    mm.cache_destroy(cache).expect("destroyed");
    assert_eq!(count(&mm), before);
}

#[test]
fn a_cache_with_objects_in_use_is_not_destroyed() {
    let mm = machine(32, 1);
    let cache = mm.cache_create("busy", own(64)).expect("a cache");
    let objects: Vec<_> =
        (0..3).map(|_| mm.cache_alloc(cache, Gfp::KERNEL).expect("an object")).collect();
    assert_eq!(mm.cache_destroy(cache), Err(SlabError::Busy { live: 3 }));
    let log = mm.platform().take_log();
    assert!(log.iter().any(|l| l.1.contains("'busy'") && l.1.contains("3 objects")), "{log:?}");
    for ptr in objects {
        mm.cache_free(cache, ptr).expect("still a good handle");
    }
    mm.cache_destroy(cache).expect("destroyed");
    // The handle is refused from now on, whoever has its number next.
    let next = mm.cache_create("next", own(64)).expect("a cache");
    assert!(matches!(mm.cache_alloc(cache, Gfp::KERNEL), Err(AllocError::Invalid(_))));
    let ptr = mm.cache_alloc(next, Gfp::KERNEL).expect("an object");
    assert_eq!(mm.cache_free(cache, ptr), Err(SlabError::NoSuchCache));
    assert_eq!(mm.cache_destroy(cache), Err(SlabError::NoSuchCache));
    assert_eq!(mm.cache_shrink(cache), Err(SlabError::NoSuchCache));
    mm.cache_free(next, ptr).expect("freed");
    mm.audit().expect("whole");
}

/// Where an object lies in the machine's RAM: the host may put the RAM itself
/// at any page.
fn physical(mm: &Mm<Machine>, ptr: NonNull<u8>) -> u64 {
    let pfn = mm::platform::Platform::pfn_of(mm.platform(), ptr.as_ptr()).expect("RAM");
    pfn.addr() + ptr.addr().get() as u64 % 4096
}

#[test]
fn kmalloc_serves_every_size() {
    let mm = machine(64, 1);
    let sizes = [
        1,
        8,
        31,
        32,
        33,
        64,
        65,
        96,
        97,
        192,
        193,
        1000,
        4096,
        8192,
        8193,
        70_000,
        if cfg!(miri) { 1 << 16 } else { 1 << 20 },
    ];
    for size in sizes {
        let ptr = mm.kmalloc(size, Gfp::KERNEL).expect("memory");
        let usable = mm.ksize(ptr).expect("a size");
        assert!(usable >= size);
        if size.is_power_of_two() {
            assert_eq!(physical(&mm, ptr) % size as u64, 0, "natural alignment of {size}");
        }
        if !cfg!(miri) || size < 40 {
            fill(ptr, usable);
            mm.audit().expect("whole");
        }
        mm.kfree(ptr).expect("freed");
    }
    assert_eq!(mm.ksize(mm.kmalloc(100, Gfp::KERNEL).expect("memory")), Ok(128));
    assert_eq!(mm.kmalloc(0, Gfp::KERNEL), Ok(ZERO_SIZE));
    assert_eq!(mm.ksize(ZERO_SIZE), Ok(0));
    mm.kfree(ZERO_SIZE).expect("nothing to free");
    assert!(matches!(mm.kmalloc((4 << 20) + 1, Gfp::KERNEL), Err(AllocError::Invalid(_))));
    assert!(matches!(mm.kmalloc(usize::MAX, Gfp::KERNEL), Err(AllocError::Invalid(_))));
    assert_eq!(mm.kmalloc_large_pages(), 0);
    mm.audit().expect("whole");
}

#[test]
#[cfg_attr(miri, ignore = "the other tests go the same ways")]
fn kmalloc_families_take_pages_of_their_kind() {
    let mm = machine(64, 1);
    let dma = mm.kmalloc(64, Gfp::KERNEL | Gfp::DMA).expect("memory");
    let pfn = mm::platform::Platform::pfn_of(mm.platform(), dma.as_ptr()).expect("RAM");
    assert!(pfn < mm::setup::DMA_END);
    let before = mm.slab_pages(mm::types::NodeId(0)).0;
    mm.kmalloc(64, Gfp::KERNEL | Gfp::RECLAIMABLE).expect("memory");
    assert_eq!(mm.slab_pages(mm::types::NodeId(0)).0, before + 1);
    assert!(matches!(mm.kmalloc(64, Gfp::KERNEL | Gfp::DMA32), Err(AllocError::Invalid(_))));
    mm.audit().expect("whole");
}

#[test]
#[cfg_attr(miri, ignore = "the other tests go the same ways")]
fn layouts_get_their_alignment() {
    let mm = machine(64, 1);
    for size in [0, 1, 24, 33, 50, 65, 100, 130, 1000, 5000, 9000] {
        for shift in 0..=13 {
            let layout = Layout::from_size_align(size, 1 << shift).expect("a layout");
            let ptr = mm.alloc_layout(layout, Gfp::KERNEL).expect("memory");
            if size > 0 {
                assert_eq!(physical(&mm, ptr) % layout.align() as u64, 0, "{layout:?}");
                assert!(mm.ksize(ptr).expect("a size") >= size);
            }
            mm.dealloc_layout(ptr, layout).expect("freed");
        }
    }
    mm.audit().expect("whole");
}

#[test]
fn zeroes_are_zeroes() {
    let mm = machine(32, 1);
    let cache = mm.cache_create("zeroes", own(104)).expect("a cache");
    for _ in 0..3 {
        let ptr = mm.cache_alloc(cache, Gfp::KERNEL | Gfp::ZERO).expect("an object");
        // SAFETY: the object has 104 bytes.
        assert!(unsafe { core::slice::from_raw_parts(ptr.as_ptr(), 104) }.iter().all(|&b| b == 0));
        fill(ptr, 104);
        mm.cache_free(cache, ptr).expect("freed");
    }
}

#[test]
fn krealloc_keeps_the_content() {
    let mm = machine(32, 1);
    let mut ptr = mm.kmalloc(10, Gfp::KERNEL).expect("memory");
    // SAFETY: ten bytes were given.
    unsafe { ptr.write_bytes(7, 10) };
    for size in [20, 32, 33, 200, 5000, 20_000, 30] {
        let usable = mm.ksize(ptr).expect("a size");
        let moved = mm.krealloc(ptr, size, Gfp::KERNEL).expect("memory");
        assert_eq!(moved == ptr, size <= usable);
        ptr = moved;
        // SAFETY: at least ten bytes were given.
        assert_eq!(unsafe { core::slice::from_raw_parts(ptr.as_ptr(), 10) }, [7; 10]);
    }
    assert_eq!(mm.krealloc(ptr, 0, Gfp::KERNEL), Ok(ZERO_SIZE));
    let again = mm.krealloc(ZERO_SIZE, 40, Gfp::KERNEL).expect("memory");
    mm.kfree(again).expect("freed");
    mm.audit().expect("whole");
}

#[test]
fn foreign_pointers_are_refused() {
    let mm = machine(32, 1);
    let a = mm.cache_create("a", own(64)).expect("a cache");
    let b = mm.cache_create("b", own(64)).expect("a cache");
    let ptr = mm.cache_alloc(a, Gfp::KERNEL).expect("an object");
    assert_eq!(mm.cache_free(b, ptr), Err(SlabError::WrongCache));
    let mut local = 0u8;
    let foreign = NonNull::from(&mut local);
    assert_eq!(mm.kfree(foreign), Err(SlabError::NotSlab));
    assert_eq!(mm.cache_free(a, foreign), Err(SlabError::NotSlab));
    assert_eq!(mm.ksize(foreign), Err(SlabError::NotSlab));
    assert!(mm.krealloc(foreign, 10, Gfp::KERNEL).is_err());
    let large = mm.kmalloc(20_000, Gfp::KERNEL).expect("memory");
    // SAFETY: inside the block.
    assert_eq!(mm.kfree(unsafe { large.add(4096) }), Err(SlabError::NotObject));
    // SAFETY: inside the block, inside the object.
    let (in_block, in_object) = unsafe { (large.add(16), ptr.add(8)) };
    assert_eq!(mm.ksize(in_block), Err(SlabError::NotObject));
    assert_eq!(mm.ksize(in_object), Err(SlabError::NotObject));
    assert!(mm.krealloc(in_object, 1000, Gfp::KERNEL).is_err());
    mm.kfree(large).expect("freed");
    assert!(mm.kfree(large).is_err());
    mm.cache_free(a, ptr).expect("freed");
    mm.audit().expect("whole");
}

#[test]
#[cfg_attr(miri, ignore = "the other tests go the same ways")]
fn impossible_caches_are_refused() {
    let mm = machine(32, 1);
    for (name, config) in [
        ("", own(8)),
        ("a name that is longer than thirty-one bytes", own(8)),
        ("line\nbreak", own(8)),
        ("zero", own(0)),
        ("huge", own((4 << 20) + 1)),
        ("align", CacheConfig { align: 24, ..own(8) }),
    ] {
        assert!(matches!(mm.cache_create(name, config), Err(SlabError::Invalid(_))), "{name}");
    }
    mm.cache_create("with space", own(8)).expect("a cache");
    assert!(mm.platform().take_log().iter().any(|l| l.1.contains("contains a space")));
}
