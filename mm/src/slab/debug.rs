//! Checks on objects: red zones around them, a pattern in free ones, who had
//! them last. A cache without checks never comes here. Patterns as in Linux
//! include/linux/poison.h. May call: `slabs`, `cache`, `owner`.

use super::SlabError;
use super::alloc::Target;
use super::cache::Cache;
use super::geometry::{Debug, Geometry, WORD};
use super::slabs::{Key, Slab};
use crate::gfp::AllocError;
use crate::mm::Mm;
use crate::owner::Site;
use crate::platform::{LogLevel, Platform};
use crate::stats::Event;
use crate::sync::{Cpu, Ordering::Relaxed};
use crate::types::Pfn;
use core::panic::Location;
use core::ptr::NonNull;

/// Red zone of a free object.
const INACTIVE: u64 = 0x09F9_1102_9D74_E35B;
/// Red zone of an object in use.
const ACTIVE: u64 = 0xD841_56C5_6356_88C0;
/// Fills an object handed out.
const POISON_INUSE: u8 = 0x5a;
/// Fills a free object.
const POISON_FREE: u8 = 0x6b;
/// Its last byte.
const POISON_END: u8 = 0xa5;
/// Fills what is left between an object and the word after it.
const PADDING: u8 = 0xbb;
/// Smaller objects may hold the pattern by chance.
const TELLING: usize = 8;

/// What an object still needs before it is handed out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prepared {
    /// To be cleared, whoever asks.
    pub(crate) zero: bool,
    /// Bytes of the object.
    pub(crate) object_size: u32,
}

/// The bytes of one object and what surrounds it.
struct Object {
    ptr: NonNull<u8>,
    size: usize,
    debug: Debug,
}

/// What the words around an object say.
#[derive(PartialEq, Eq)]
enum Zones {
    InUse,
    Free,
    Damaged,
}

impl Object {
    fn new(ptr: NonNull<u8>, object_size: u32, geometry: &Geometry) -> Self {
        Self { ptr, size: object_size as usize, debug: geometry.debug }
    }

    fn padded(&self) -> usize {
        self.size.next_multiple_of(WORD)
    }

    /// The word before, the word after.
    fn zones(&self) -> Option<[NonNull<u64>; 2]> {
        // SAFETY: with red zones the slot has a word on either side of the
        // object.
        self.debug
            .contains(Debug::RED_ZONE)
            .then(|| unsafe { [self.ptr.sub(WORD).cast(), self.ptr.add(self.padded()).cast()] })
    }

    fn set_zones(&self, value: u64) {
        if let Some(zones) = self.zones() {
            for zone in zones {
                // SAFETY: the words are the slot's, aligned as the object is.
                unsafe { zone.write(value) };
            }
            // SAFETY: the bytes up to the second zone are the slot's.
            unsafe {
                self.ptr.add(self.size).write_bytes(PADDING, self.padded() - self.size);
            }
        }
    }

    fn read_zones(&self) -> Option<Zones> {
        let [before, after] = self.zones()?;
        // SAFETY: the words and the bytes between are the slot's.
        let (words, intact) = unsafe {
            let padding = core::slice::from_raw_parts(
                self.ptr.add(self.size).as_ptr().cast_const(),
                self.padded() - self.size,
            );
            ((before.read(), after.read()), padding.iter().all(|&b| b == PADDING))
        };
        Some(match words {
            (ACTIVE, ACTIVE) if intact => Zones::InUse,
            (INACTIVE, INACTIVE) => Zones::Free,
            _ => Zones::Damaged,
        })
    }

    fn user(&self) -> Option<NonNull<u32>> {
        let after = if self.debug.contains(Debug::RED_ZONE) { WORD } else { 0 };
        let has = self.debug.contains(Debug::STORE_USER);
        // SAFETY: with STORE_USER the slot ends with a word for it.
        has.then(|| unsafe { self.ptr.add(self.padded() + after).cast() })
    }

    fn set_user(&self, site: Site) {
        if let Some(user) = self.user() {
            // SAFETY: the word is the slot's.
            unsafe { user.write(site.0) };
        }
    }

    fn last_user(&self) -> Option<Site> {
        // SAFETY: the word is the slot's and was written when the slab was made.
        self.user().map(|user| Site(unsafe { user.read() }))
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the bytes are the object's; in these builds of memory all
        // have been written.
        unsafe { core::slice::from_raw_parts(self.ptr.as_ptr().cast_const(), self.size) }
    }

    fn fill(&self, byte: u8) {
        if self.debug.contains(Debug::POISON) {
            // SAFETY: the bytes are the object's, which is in nobody's hands.
            unsafe {
                self.ptr.write_bytes(byte, self.size);
                self.ptr.add(self.size - 1).write(POISON_END);
            }
        }
    }

    /// The first byte that is not as a free object's, if they are checked.
    fn spoilt(&self) -> Option<usize> {
        if !self.debug.contains(Debug::POISON) {
            return None;
        }
        let last = self.size - 1;
        let expected = |i| if i == last { POISON_END } else { POISON_FREE };
        self.bytes().iter().enumerate().position(|(i, &b)| b != expected(i))
    }
}

impl<P: Platform> Mm<P> {
    /// Makes all objects of a new slab look free.
    pub(crate) fn debug_format(&self, slab: &Slab<'_>, geometry: &Geometry, object_size: u32) {
        for ptr in slab.objects() {
            let object = Object::new(ptr, object_size, geometry);
            object.fill(POISON_FREE);
            object.set_zones(INACTIVE);
            object.set_user(Site(0));
        }
    }

    /// Looks at an object that is to be handed out, and makes it look in use.
    pub(crate) fn prepare(
        &self,
        target: Target,
        ptr: NonNull<u8>,
        at: &'static Location<'static>,
    ) -> Result<Prepared, AllocError> {
        let cpu = self.enter();
        let cache = self.resolve(&cpu, target)?;
        let object_size = cache.object_size.load(Relaxed);
        let zero = cache.ctor.is_none() && self.tunables.init_on_alloc.load(Relaxed);
        let prepared = Prepared { zero, object_size };
        if cache.geometry.debug.is_empty() {
            return Ok(prepared);
        }
        let object = Object::new(ptr, object_size, &cache.geometry);
        self.check_free(cache, &object);
        object.fill(POISON_INUSE);
        object.set_zones(ACTIVE);
        object.set_user(self.owners.intern(at));
        let ctor = cache.ctor.filter(|_| object.debug.contains(Debug::POISON));
        drop(cpu);
        if let Some(ctor) = ctor {
            ctor(ptr);
        }
        // The pattern is there to be seen: zeroes for those only who ask.
        let poisoned = object.debug.contains(Debug::POISON);
        Ok(Prepared { zero: zero && !poisoned, ..prepared })
    }

    /// Looks at an object that is being freed, and makes it look free.
    pub(crate) fn retire(
        &self,
        cpu: &Cpu<'_, P>,
        cache: &Cache,
        pfn: Pfn,
        ptr: NonNull<u8>,
        at: &'static Location<'static>,
    ) -> Result<(), SlabError> {
        let object_size = cache.object_size.load(Relaxed);
        let object = Object::new(ptr, object_size, &cache.geometry);
        if object.debug.is_empty() {
            if cache.ctor.is_none() && self.tunables.init_on_free.load(Relaxed) {
                // SAFETY: the object is being freed: its bytes are nobody's.
                unsafe { ptr.write_bytes(0, cache.geometry.size as usize) };
            }
            return Ok(());
        }
        let listed_free = {
            let slab = self.slab_at(cache, pfn);
            let _lists = cache.node(Key::of(slab.desc).node()).lists.lock(cpu);
            slab.number(ptr).is_some_and(|i| slab.is_free(i))
        };
        let wrong = match object.read_zones() {
            _ if listed_free => Some(SlabError::DoubleFree),
            Some(Zones::InUse) => None,
            Some(Zones::Free) => Some(SlabError::DoubleFree),
            Some(Zones::Damaged) => Some(SlabError::Overrun),
            None => {
                let looks_free = object.debug.contains(Debug::POISON)
                    && object.size >= TELLING
                    && object.spoilt().is_none();
                looks_free.then_some(SlabError::DoubleFree)
            }
        };
        if let Some(why) = wrong {
            self.refuse_object(Some(cache), ptr, why);
            self.log_last_user(&object);
            return Err(why);
        }
        object.fill(POISON_FREE);
        object.set_zones(INACTIVE);
        object.set_user(self.owners.intern(at));
        Ok(())
    }

    /// Checks all objects of a slab that is given back.
    pub(crate) fn debug_check_free(&self, cache: &Cache, slab: &Slab<'_>) {
        let object_size = cache.object_size.load(Relaxed);
        for ptr in slab.objects() {
            self.check_free(cache, &Object::new(ptr, object_size, &cache.geometry));
        }
    }

    /// Says so if a free object was written to.
    fn check_free(&self, cache: &Cache, object: &Object) {
        let name = cache.name.as_str();
        let ptr = object.ptr;
        if let Some(at) = object.spoilt() {
            self.stats.count(Event::PoisonOverwritten);
            let byte = object.bytes()[at];
            self.platform.log(
                LogLevel::Error,
                format_args!(
                    "slab error in cache '{name}': object {ptr:p}: written to after it was \
                     freed: byte {at:#x} is {byte:#04x}"
                ),
            );
            self.log_last_user(object);
        }
        if object.read_zones().is_some_and(|zones| zones != Zones::Free) {
            self.refuse_object(Some(cache), ptr, SlabError::Overrun);
            self.log_last_user(object);
        }
    }

    fn log_last_user(&self, object: &Object) {
        let Some(site) = object.last_user() else { return };
        match self.owners.location(site) {
            Some(at) => self
                .platform
                .log(LogLevel::Error, format_args!("slab: last user of {:p}: {at}", object.ptr)),
            None => self
                .platform
                .log(LogLevel::Error, format_args!("slab: last user of {:p}: unknown", object.ptr)),
        }
    }
}
