//! Memory that passes from CPU to CPU: slots that anybody may put something
//! into and take something out of, without a lock. What lies there is stamped
//! with the very word that names it, a tag included, and checked by whoever
//! takes it: two who own the same find out. Calls `mm`.

use crate::case::CaseResult;
use crate::suites::Ground;
use crate::{check, check_eq, fail};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use mm::Page;
use mm::arena::Handle;
use mm::cma::CmaId;
use mm::platform::Platform;
use mm::slab::CacheId;
use mm::types::{Order, PAGE_SIZE, Pfn, PfnRange};

/// Bits of what an item is about; those above them say what it is, and the
/// topmost ones are a tag that tells it from what had the same place before.
const PLACE: u32 = 48;
const KIND: u32 = 4;
const TAG: u32 = 64 - PLACE - KIND;

/// A frame's number has 32 bits, which leaves so many for a length.
const LENGTH: u32 = PLACE - 32;

/// What is in a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Item {
    /// A block of pages.
    Block(Page),
    /// A page that may move.
    Movable(Handle),
    /// Frames of any number, fewer than 65536.
    Range(PfnRange),
    /// The same of a contiguous area.
    Area(PfnRange),
    /// An object of the cache with that number.
    Object(u8, NonNull<u8>),
    /// Memory from kmalloc.
    Bytes(NonNull<u8>),
}

impl Item {
    /// Number of caches that items can name.
    pub(crate) const CACHES: usize = 8;

    /// None for what has no room in a word: a slot number of the arena's, or
    /// generation, that is too large.
    fn to_bits(self, tag: u64) -> Option<u64> {
        let address = |ptr: NonNull<u8>| ptr.as_ptr().expose_provenance() as u64;
        let range = |range: PfnRange| {
            (range.pages() >> LENGTH == 0).then(|| range.start.0 << LENGTH | range.pages())
        };
        let (kind, place) = match self {
            Self::Block(page) => (1, page.pfn.0 << LENGTH | u64::from(page.order.0)),
            Self::Movable(handle) => {
                // 24 bits of each half.
                let bits = handle.to_bits();
                let (slot, generation) = (bits & 0xffff_ffff, bits >> 32);
                if (slot | generation) >> 24 != 0 {
                    return None;
                }
                (2, slot << 24 | generation)
            }
            Self::Range(it) => (3, range(it)?),
            Self::Area(it) => (4, range(it)?),
            Self::Bytes(ptr) => (5, address(ptr)),
            Self::Object(cache, ptr) => (8 + u64::from(cache), address(ptr)),
        };
        Some((tag << KIND | kind) << PLACE | place & ((1 << PLACE) - 1))
    }

    fn from_bits(bits: u64) -> Option<Self> {
        let place = bits & ((1 << PLACE) - 1);
        // Addresses continue as their topmost bit.
        let address = ((place << (64 - PLACE)) as i64 >> (64 - PLACE)) as usize;
        let ptr = NonNull::new(core::ptr::with_exposed_provenance_mut(address));
        let (pfn, length) = (Pfn(place >> LENGTH), place & ((1 << LENGTH) - 1));
        Some(match bits >> PLACE & ((1 << KIND) - 1) {
            1 => Self::Block(Page { pfn, order: Order(length as u8) }),
            2 => Self::Movable(Handle::from_bits((place & 0xff_ffff) << 32 | place >> 24)),
            3 => Self::Range(PfnRange::sized(pfn, length)),
            4 => Self::Area(PfnRange::sized(pfn, length)),
            5 => Self::Bytes(ptr?),
            kind @ 8.. => Self::Object(kind as u8 - 8, ptr?),
            _ => return None,
        })
    }
}

/// The slots.
pub(crate) struct Exchange<'s, P: Platform> {
    ground: Ground<P>,
    slots: &'s [AtomicU64],
    /// The caches that items name.
    caches: [Option<(CacheId, usize)>; Item::CACHES],
    /// The area that items lie in.
    area: Option<CmaId>,
}

impl<'s, P: Platform> Exchange<'s, P> {
    /// Empty slots in `words`; for objects of `caches` (with their sizes, 8
    /// bytes at least) and frames of `area`.
    pub(crate) fn new(
        ground: &Ground<P>,
        words: &'s mut [u64],
        caches: [Option<(CacheId, usize)>; Item::CACHES],
        area: Option<CmaId>,
    ) -> Self {
        words.fill(0);
        // SAFETY: atomic words look like others, and for as long as these are
        // borrowed nobody reaches them in another way.
        let slots = unsafe { core::slice::from_raw_parts(words.as_mut_ptr().cast(), words.len()) };
        Self { ground: *ground, slots, caches, area }
    }

    /// Number of slots.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Empties slot `at`, checks what was there and frees it. False if there
    /// was nothing.
    pub(crate) fn take(&self, at: usize) -> CaseResult<bool> {
        // What was written to it before it was put there is seen.
        let bits = self.slots[at].swap(0, Ordering::AcqRel);
        if bits != 0 {
            self.end(bits)?;
        }
        Ok(bits != 0)
    }

    /// Puts something, which is nobody else's, into slot `at`; what was there
    /// is checked and freed. `tag` is any number.
    pub(crate) fn put(&self, at: usize, item: Item, tag: u64) -> CaseResult {
        let Some(bits) = item.to_bits(tag & ((1 << TAG) - 1)) else { return self.free(item) };
        self.write(item, bits)?;
        let before = self.slots[at].swap(bits, Ordering::AcqRel);
        if before != 0 { self.end(before) } else { Ok(()) }
    }

    /// Empties all slots.
    pub(crate) fn clear(&self) -> CaseResult {
        (0..self.slots.len()).try_for_each(|at| self.take(at).map(|_| ()))
    }

    /// Checks all slots, while nobody works on them.
    pub(crate) fn check(&self) -> CaseResult {
        let used =
            self.slots.iter().map(|slot| slot.load(Ordering::Acquire)).filter(|&bits| bits != 0);
        for bits in used {
            match Item::from_bits(bits) {
                Some(item) => self.verify(item, bits)?,
                None => fail!("a slot was overwritten: {bits:#x}"),
            }
        }
        Ok(())
    }

    fn end(&self, bits: u64) -> CaseResult {
        let Some(item) = Item::from_bits(bits) else { fail!("a slot was overwritten: {bits:#x}") };
        let intact = self.verify(item, bits);
        // Whoever thinks that it is theirs too is to find out.
        self.write(item, !bits)?;
        self.free(item)?;
        intact
    }

    fn free(&self, item: Item) -> CaseResult {
        let Ground { mm, arena, .. } = self.ground;
        match item {
            Item::Block(page) => check_eq!(mm.free_pages(page), Ok(())),
            Item::Movable(handle) => check_eq!(arena.free(mm, handle), Ok(())),
            Item::Range(range) => check_eq!(mm.free_contig_range(range), Ok(())),
            Item::Area(range) => match self.area {
                Some(area) => check_eq!(mm.cma_release(area, range), Ok(())),
                None => fail!("{range:?} is of no area"),
            },
            Item::Object(cache, ptr) => match self.caches[usize::from(cache) % Item::CACHES] {
                Some((cache, _)) => check_eq!(mm.cache_free(cache, ptr), Ok(())),
                None => fail!("{ptr:?} is of no cache"),
            },
            Item::Bytes(ptr) => check_eq!(mm.kfree(ptr), Ok(())),
        }
        Ok(())
    }

    /// Writes `bits` into some words of the item.
    fn write(&self, item: Item, bits: u64) -> CaseResult {
        self.words(item, &mut |word| {
            *word = bits;
            true
        })
    }

    /// Fails if a word of the item is not `bits`.
    fn verify(&self, item: Item, bits: u64) -> CaseResult {
        let mut found = bits;
        self.words(item, &mut |word| {
            found = *word;
            found == bits
        })?;
        check!(found == bits, "{item:?}, {bits:#x}, was overwritten: {found:#x}");
        Ok(())
    }

    /// Has `with` look at words at both ends and in between, until it says no.
    fn words(&self, item: Item, with: &mut dyn FnMut(&mut u64) -> bool) -> CaseResult {
        let Ground { mm, arena, .. } = self.ground;
        let mut frames = |range: PfnRange| {
            // The first page, the last, and those at powers of two.
            let last = range.pages() - 1;
            let steps = core::iter::successors(Some(1u64), |step| Some(step << 1));
            let between = steps.take_while(|&step| step < last);
            let mut pages = [0].into_iter().chain(between).chain((last > 0).then_some(last));
            let _ = pages.all(|page| {
                // SAFETY: the frame is this item's, which is the caller's; its
                // words are not reached in another way meanwhile.
                let words = unsafe {
                    &mut *mm.platform().frame(range.start.add(page)).cast::<[u64; PAGE_SIZE / 8]>()
                };
                with(&mut words[(page % 64) as usize]) && with(&mut words[PAGE_SIZE / 8 - 1])
            });
        };
        let (ptr, size) = match item {
            Item::Block(page) => {
                frames(PfnRange::sized(page.pfn, page.order.pages()));
                return Ok(());
            }
            Item::Range(range) | Item::Area(range) => {
                frames(range);
                return Ok(());
            }
            Item::Movable(handle) => {
                let done = arena.with(mm, handle, |bytes| {
                    // SAFETY: a page of bytes is as many words, aligned.
                    let words = unsafe { &mut *bytes.as_mut_ptr().cast::<[u64; PAGE_SIZE / 8]>() };
                    let _ = with(&mut words[0])
                        && with(&mut words[99])
                        && with(&mut words[PAGE_SIZE / 8 - 1]);
                });
                check_eq!(done, Ok(()), "{item:?}");
                return Ok(());
            }
            Item::Object(cache, ptr) => {
                (ptr, self.caches[usize::from(cache) % Item::CACHES].map_or(0, |cache| cache.1))
            }
            Item::Bytes(ptr) => match mm.ksize(ptr) {
                Ok(size) => (ptr, size),
                Err(why) => fail!("{item:?}: {why}"),
            },
        };
        let words = size / 8;
        for at in [0, words / 2, words.saturating_sub(1)] {
            // SAFETY: the object is the caller's and has so many words, which
            // are aligned, for all sizes of these tests are multiples of 8.
            let word = unsafe { ptr.cast::<u64>().add(at).as_mut() };
            if words == 0 || !with(word) {
                break;
            }
        }
        Ok(())
    }
}

impl<P: Platform> Drop for Exchange<'_, P> {
    fn drop(&mut self) {
        // What is left after a failure. More failures are no news.
        for at in 0..self.slots.len() {
            let _ = self.take(at);
        }
    }
}
