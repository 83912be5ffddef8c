//! The slab layer: objects are whole, distinct and aligned, faults of their
//! users are caught, and caches leave nothing behind.

use super::{Ground, suite};
use crate::case::{CaseResult, Level, Test};
use crate::objects::{Object, OwnCache};
use crate::{check, check_eq, check_ok, fail, skip};
use core::alloc::Layout;
use core::ptr::NonNull;
use mm::platform::Platform;
use mm::slab::geometry::Debug;
use mm::slab::{CacheConfig, SlabError, ZERO_SIZE};
use mm::{AllocError, Gfp, Mm};

suite! {
    /// The slab allocator.
    Slab = "slab" {
        quick objects_of_all_sizes,
        quick kmalloc_sizes,
        quick krealloc_keeps_content,
        quick layouts_are_aligned,
        quick objects_come_zeroed,
        quick constructors_run,
        quick busy_caches_stay,
        quick wrong_frees_are_refused,
        quick overruns_are_found,
        quick random_kmalloc,
        full long_random_kmalloc,
    }
}

const TRY: Gfp = Gfp::KERNEL.union(Gfp::NOWARN).union(Gfp::NORETRY);

/// Skips the case where the slab layer is not up.
fn up<P: Platform>(mm: &Mm<P>) -> CaseResult {
    match mm.kmalloc(8, TRY) {
        Ok(ptr) => {
            check_eq!(mm.kfree(ptr), Ok(()));
            Ok(())
        }
        Err(AllocError::Invalid(why)) => skip!("{why}"),
        Err(why) => fail!("8 bytes: {why}"),
    }
}

fn objects_of_all_sizes<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    for (size, align) in [(8, 0), (24, 0), (64, 64), (100, 0), (700, 128), (2000, 8), (5000, 8)] {
        let config = CacheConfig { align, ..CacheConfig::new(size) };
        let cache = OwnCache::new(t.on.mm, "selftest-sizes", config)?;
        let mut objects = [const { None::<Object<P>> }; 40];
        for slot in &mut objects {
            let mut object = check_ok!(cache.alloc(TRY));
            let at = object.ptr().addr().get();
            check!(at.is_multiple_of(align.max(8)), "{size} bytes at {at:#x}, aligned to {align}");
            object.stamp();
            *slot = Some(object);
        }
        // Overlapping objects would have overwritten each other.
        for mut object in objects.into_iter().flatten() {
            check_eq!(object.damage(), None, "first damaged byte of {size}");
            check_ok!(object.free());
        }
        cache.destroy()?;
    }
    Ok(())
}

fn kmalloc_sizes<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    up(mm)?;
    for size in [1, 8, 32, 33, 64, 96, 97, 192, 1000, 4096, 8192, 8193, 70_000, 300_000] {
        let mut object = check_ok!(Object::kmalloc(mm, size, TRY));
        let (at, usable) = (object.ptr().addr().get(), check_ok!(mm.ksize(object.ptr())));
        check!(usable >= size, "{size} bytes have room for {usable}");
        let natural = if size.is_power_of_two() { size } else { 8 };
        check!(at.is_multiple_of(natural), "{size} bytes at {at:#x}");
        object.stamp();
        check_eq!(object.damage(), None);
        check_ok!(object.free());
    }
    check_eq!(mm.kmalloc(0, TRY), Ok(ZERO_SIZE));
    check_eq!(mm.kfree(ZERO_SIZE), Ok(()));
    for size in [(4 << 20) + 1, usize::MAX] {
        let result = mm.kmalloc(size, TRY);
        check!(matches!(result, Err(AllocError::Invalid(_))), "{size} bytes: {result:?}");
    }
    Ok(())
}

fn krealloc_keeps_content<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    up(t.on.mm)?;
    let mut object = check_ok!(Object::kmalloc(t.on.mm, 10, TRY));
    object.bytes().copy_from_slice(b"0123456789");
    for size in [20, 32, 33, 200, 5000, 20_000, 30] {
        check_ok!(object.resize(size, TRY));
        check_eq!(object.bytes()[..10], *b"0123456789", "content at {size} bytes");
    }
    check_ok!(object.free());
    Ok(())
}

fn layouts_are_aligned<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    up(mm)?;
    for size in [0, 1, 24, 65, 130, 1000, 9000] {
        for shift in 0..=12 {
            let layout = check_ok!(Layout::from_size_align(size, 1 << shift));
            let ptr = check_ok!(mm.alloc_layout(layout, TRY));
            let freed = mm.dealloc_layout(ptr, layout);
            check!(ptr.addr().get().is_multiple_of(layout.align()), "{ptr:?} for {layout:?}");
            check_eq!(freed, Ok(()), "free of {layout:?}");
        }
    }
    Ok(())
}

fn objects_come_zeroed<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let cache = OwnCache::new(t.on.mm, "selftest-zeroes", CacheConfig::new(200))?;
    for _ in 0..50 {
        let mut object = check_ok!(cache.alloc(TRY | Gfp::ZERO));
        let dirty = object.bytes().iter().position(|&byte| byte != 0);
        check_eq!(dirty, None, "byte that is not zero");
        object.bytes().fill(0xff);
        check_ok!(object.free());
    }
    cache.destroy()
}

/// Writes what `constructors_run` looks for.
fn construct(object: NonNull<u8>) {
    // SAFETY: the cache that this is for has objects of 48 bytes.
    unsafe { object.write_bytes(0xc7, 48) };
}

fn constructors_run<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let config = CacheConfig { ctor: Some(construct), ..CacheConfig::new(48) };
    let cache = OwnCache::new(t.on.mm, "selftest-ctor", config)?;
    // Objects stay constructed from one user to the next.
    for round in 0..2 {
        let mut objects = [const { None::<Object<P>> }; 60];
        for slot in &mut objects {
            let mut object = check_ok!(cache.alloc(TRY));
            let wrong = object.bytes().iter().position(|&byte| byte != 0xc7);
            check_eq!(wrong, None, "byte not as constructed in round {round}");
            *slot = Some(object);
        }
    }
    cache.destroy()
}

fn busy_caches_stay<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    t.note(format_args!("the refusals logged now are provoked"));
    let cache = OwnCache::new(mm, "selftest-busy", CacheConfig::new(64))?;
    let objects = [0; 3].map(|_| cache.alloc(TRY).ok());
    check_eq!(mm.cache_destroy(cache.id()), Err(SlabError::Busy { live: 3 }));
    let more = check_ok!(cache.alloc(TRY));
    check_ok!(more.free());
    drop(objects);
    let id = cache.id();
    cache.destroy()?;
    check_eq!(mm.cache_destroy(id), Err(SlabError::NoSuchCache));
    check_eq!(mm.cache_shrink(id), Err(SlabError::NoSuchCache));
    Ok(())
}

fn wrong_frees_are_refused<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    t.note(format_args!("the refusals logged now are provoked"));
    let one = OwnCache::new(mm, "selftest-one", CacheConfig::new(64))?;
    let other = OwnCache::new(mm, "selftest-other", CacheConfig::new(64))?;
    let object = check_ok!(one.alloc(TRY));
    let mut local = 0u8;
    let foreign = NonNull::from(&mut local);
    check_eq!(mm.cache_free(other.id(), object.ptr()), Err(SlabError::WrongCache));
    check_eq!(mm.cache_free(one.id(), foreign), Err(SlabError::NotSlab));
    check_eq!(mm.kfree(foreign), Err(SlabError::NotSlab));
    let large = check_ok!(Object::kmalloc(mm, 20_000, TRY));
    // SAFETY: inside the block.
    let inside = unsafe { large.ptr().add(4096) };
    check_eq!(mm.kfree(inside), Err(SlabError::NotObject));
    let gone = large.ptr();
    check_ok!(large.free());
    check!(mm.kfree(gone).is_err(), "a large block was freed twice");
    check_ok!(object.free());
    one.destroy()?;
    other.destroy()
}

fn overruns_are_found<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    t.note(format_args!("the damage logged now is provoked"));
    let config = CacheConfig { debug: Debug::all(), ..CacheConfig::new(100) };
    let cache = OwnCache::new(mm, "selftest-debug", config)?;
    let mut object = check_ok!(cache.alloc(TRY));
    object.stamp();
    // SAFETY: the red zone after the object is inside its slab.
    let after = unsafe { object.ptr().add(104) };
    // SAFETY: as above; what was there is put back.
    let whole = unsafe {
        let whole = after.read();
        after.write(!whole);
        whole
    };
    let overrun = mm.cache_free(cache.id(), object.ptr());
    // SAFETY: as above.
    unsafe { after.write(whole) };
    check_eq!(overrun, Err(SlabError::Overrun));
    check_eq!(object.damage(), None);
    let gone = object.ptr();
    check_ok!(object.free());
    check_eq!(mm.cache_free(cache.id(), gone), Err(SlabError::DoubleFree));
    cache.destroy()
}

fn random_kmalloc<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    ops(t, 5000)
}

fn long_random_kmalloc<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    ops(t, 300_000)
}

/// Memory from kmalloc in scratch space: two words each, address and size.
struct Heap<'a, P: Platform> {
    mm: &'static Mm<P>,
    slots: &'a mut [[u64; 2]],
    len: usize,
}

impl<P: Platform> Heap<'_, P> {
    fn put(&mut self, object: Object<P>, size: usize) {
        if let Some(slot) = self.slots.get_mut(self.len) {
            *slot = [object.keep(), size as u64];
            self.len += 1;
        }
    }

    fn take(&mut self, index: usize) -> Option<Object<P>> {
        if index >= self.len {
            return None;
        }
        self.len -= 1;
        let [address, size] = self.slots[index];
        self.slots[index] = self.slots[self.len];
        // SAFETY: `put` kept it, and each slot in use names one object.
        unsafe { Object::adopt(self.mm, address, size as usize) }
    }
}

impl<P: Platform> Drop for Heap<'_, P> {
    fn drop(&mut self) {
        while let Some(object) = self.take(0) {
            drop(object);
        }
    }
}

fn ops<P: Platform>(t: &mut Test<'_, Ground<P>>, ops: u64) -> CaseResult {
    let mm = t.on.mm;
    up(mm)?;
    let most = if t.level < Level::Full { 512 } else { 4096 };
    let slots = t.scratch.as_chunks_mut::<2>().0;
    let most = most.min(slots.len());
    let mut heap = Heap { mm, slots: &mut slots[..most], len: 0 };
    for op in 0..ops {
        let growing = op / 1000 % 2 == 0;
        if heap.len < most && t.rng.percent(if growing { 65 } else { 35 }) {
            // Every size class as likely as the next.
            let class = 3 + t.rng.below(11);
            let size = (1 << class) + t.rng.below(1 << class) as usize;
            let gfp = t.rng.pick(&[TRY, TRY, Gfp::ATOMIC | Gfp::NOWARN, TRY | Gfp::RECLAIMABLE]);
            match Object::kmalloc(mm, size, gfp.unwrap_or(TRY)) {
                Ok(mut object) => {
                    object.stamp();
                    heap.put(object, size);
                }
                Err(AllocError::NoMemory) => {}
                Err(why) => fail!("{size} bytes: {why}"),
            }
        } else if let Some(mut object) = heap.take(t.rng.index(heap.len)) {
            check_eq!(object.damage(), None, "first damaged byte");
            check_ok!(object.free());
        }
    }
    while let Some(mut object) = heap.take(0) {
        check_eq!(object.damage(), None, "first damaged byte");
        check_ok!(object.free());
    }
    Ok(())
}
