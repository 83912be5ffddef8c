//! Reserve objects: what comes from below the watermarks is for those who may
//! dig there, and for nobody else, until pressure is over. Tried on caches in
//! the lowest zone, which is small and easily emptied.

use super::watermark::{Unboosted, lowest};
use super::{Ground, suite};
use crate::case::{CaseResult, Test};
use crate::hold::Hoard;
use crate::objects::{Object, OwnCache};
use crate::{check, check_eq, check_ok};
use mm::platform::Platform;
use mm::slab::CacheConfig;
use mm::types::{COSTLY_ORDER, Order};
use mm::{AllocError, Gfp, Mm, Request};

suite! {
    /// Objects of the reserves.
    Reserve = "reserve" {
        quick reserves_carry_the_entitled,
        quick normal_objects_are_for_all,
        quick reserve_objects_stay_so,
        quick one_cache_does_not_speak_for_another,
        quick large_memory_is_marked,
    }
}

const TRY: Gfp = Gfp::KERNEL.union(Gfp::NOWARN).union(Gfp::NORETRY);
const ENTITLED: Gfp = TRY.union(Gfp::MEMALLOC);

/// A cache in the lowest zone.
fn cache<P: Platform>(mm: &'static Mm<P>, name: &str, size: usize) -> CaseResult<OwnCache<P>> {
    OwnCache::new(mm, name, CacheConfig { dma: true, ..CacheConfig::new(size) })
}

/// A lowest zone that has nothing left for ordinary callers.
struct Shortage<P: Platform> {
    hoard: Hoard<'static, P>,
    _unboosted: Unboosted<P>,
}

impl<P: Platform> Shortage<P> {
    fn new(mm: &'static Mm<P>) -> CaseResult<Self> {
        let zone = lowest(mm)?;
        let unboosted = Unboosted::new(mm);
        let mut hoard = Hoard::new(mm);
        let request = Request::new(Order(0), TRY | Gfp::DMA);
        hoard.fill(request, u64::MAX);
        // What the CPU's list still has would serve another one or two.
        mm.drain_all(Some(zone));
        hoard.fill(request, u64::MAX);
        Ok(Self { hoard, _unboosted: unboosted })
    }

    fn end(self) -> CaseResult {
        self.hoard.release()
    }
}

fn is_refused<P: Platform>(result: &Result<Object<P>, AllocError>) -> bool {
    matches!(result, Err(AllocError::NoMemory))
}

fn reserves_carry_the_entitled<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    // Slabs of one page, and of two.
    for size in [256, 700] {
        let cache = cache(mm, "selftest-reserve", size)?;
        let shortage = Shortage::new(mm)?;
        check!(is_refused(&cache.alloc(TRY)), "an ordinary caller got an object of {size}");
        let mut object = check_ok!(cache.alloc(ENTITLED));
        check_eq!(object.is_reserve(), Ok(true), "the object of {size} is marked");
        object.stamp();
        // There are free objects beside it, which others may not have.
        for gfp in [TRY, Gfp::NOWAIT | Gfp::NOWARN, ENTITLED | Gfp::NOMEMALLOC] {
            check!(is_refused(&cache.alloc(gfp)), "{gfp:?} got a reserve object of {size}");
        }
        for _ in 0..3 {
            let more = check_ok!(cache.alloc(ENTITLED));
            check_eq!(more.is_reserve(), Ok(true), "the next object is marked");
        }
        check!(is_refused(&cache.alloc(TRY)), "a freed reserve object of {size} was handed out");
        check_eq!(object.damage(), None);
        shortage.end()?;
        // Memory is back: for ordinary callers too, and not from the reserves.
        let plain = check_ok!(cache.alloc(TRY));
        check_eq!(plain.is_reserve(), Ok(false), "an ordinary object is not marked");
        check_ok!(plain.free());
        check_ok!(object.free());
        cache.destroy()?;
    }
    check_eq!(mm.reserve_slabs(), 0, "reserve slabs left");
    Ok(())
}

fn normal_objects_are_for_all<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let cache = cache(mm, "selftest-normal", 512)?;
    // A slab from before the shortage, with one object in use.
    let first = check_ok!(cache.alloc(TRY));
    let shortage = Shortage::new(mm)?;
    // Its other objects are used up before the reserves are.
    let (mut old, mut reserve) = ([const { None::<Object<P>> }; 64], None);
    for slot in &mut old {
        let object = check_ok!(cache.alloc(ENTITLED));
        if object.is_reserve() == Ok(true) {
            reserve = Some(object);
            break;
        }
        *slot = Some(object);
    }
    check!(reserve.is_some(), "64 objects of one page");
    check!(is_refused(&cache.alloc(TRY)), "an ordinary caller got a reserve object");
    // One that is freed is for anybody, however many reserve objects lie on it.
    let place = first.ptr();
    check_ok!(first.free());
    drop(reserve);
    let plain = check_ok!(cache.alloc(TRY));
    check_eq!((plain.ptr(), plain.is_reserve()), (place, Ok(false)), "object and mark");
    check!(is_refused(&cache.alloc(TRY)), "an ordinary caller got the reserve object");
    check_ok!(plain.free());
    drop(old);
    shortage.end()?;
    cache.destroy()
}

fn reserve_objects_stay_so<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let cache = cache(mm, "selftest-stay", 128)?;
    let shortage = Shortage::new(mm)?;
    // Through arrays and lists and back: nothing launders them.
    for _ in 0..3 {
        let mut objects = [const { None::<Object<P>> }; 40];
        for slot in &mut objects {
            let Ok(object) = cache.alloc(ENTITLED) else { break };
            check_eq!(object.is_reserve(), Ok(true), "an object from below is marked");
            *slot = Some(object);
        }
        check!(objects[0].is_some(), "nothing for the entitled");
        drop(objects);
        check!(is_refused(&cache.alloc(TRY)), "an ordinary caller got one that was freed");
    }
    shortage.end()?;
    cache.destroy()
}

fn one_cache_does_not_speak_for_another<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let one = cache(mm, "selftest-one", 256)?;
    let other = cache(mm, "selftest-other", 256)?;
    let shortage = Shortage::new(mm)?;
    let mine = check_ok!(one.alloc(ENTITLED));
    let theirs = check_ok!(other.alloc(ENTITLED));
    check_eq!((mine.is_reserve(), theirs.is_reserve()), (Ok(true), Ok(true)), "marks");
    shortage.end()?;
    // Ordinary life returns to the first cache, slabs come and go.
    for _ in 0..4 {
        let mut objects = [const { None::<Object<P>> }; 150];
        for slot in &mut objects {
            let object = check_ok!(one.alloc(TRY));
            // Once pressure is over for it, its reserve objects are ordinary.
            check_eq!(object.is_reserve(), Ok(false), "an ordinary object is marked");
            *slot = Some(object);
        }
    }
    check_eq!(theirs.is_reserve(), Ok(true), "the mark in the other cache");
    check_ok!(mine.free());
    check_ok!(theirs.free());
    one.destroy()?;
    other.destroy()
}

fn large_memory_is_marked<P: Platform>(t: &mut Test<'_, Ground<P>>) -> CaseResult {
    let mm = t.on.mm;
    let zone = lowest(mm)?;
    let size = COSTLY_ORDER.bytes() / 2 + 1;
    // A block to be had in the shortage is kept and given back.
    let kept = mm.alloc_pages(Request::new(Order(4), TRY | Gfp::DMA));
    let shortage = Shortage::new(mm);
    if let Ok(page) = kept {
        check_ok!(mm.free_pages(page));
    }
    let mut shortage = shortage?;
    let urgent = Request::new(Order(0), TRY | Gfp::DMA | Gfp::HIGH);
    while zone.free_pages() > zone.marks().min {
        check_eq!(shortage.hoard.fill(urgent, 1), 1, "pages for an urgent caller");
    }
    match Object::kmalloc(mm, size, ENTITLED | Gfp::DMA) {
        Ok(mut large) => {
            check_eq!(large.is_reserve(), Ok(true), "{size} bytes are marked");
            check_ok!(large.resize(size / 2, TRY));
            check_eq!(large.is_reserve(), Ok(true), "half of it is marked");
            check_ok!(large.free());
        }
        Err(why) => t.note(format_args!("{size} bytes of {} pages: {why}", zone.free_pages())),
    }
    shortage.end()
}
