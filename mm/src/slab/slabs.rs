//! One slab: which of its objects are free, and where they are. All that is
//! known of it is in its head's descriptor. Whoever changes it holds the lock
//! of its cache and node. May call: `page`, `memmap`, `geometry`.

use super::geometry::Geometry;
use crate::page::{PageDesc, PageFlags};
use crate::types::{PAGE_SIZE, Pfn};
use core::ptr::NonNull;

/// Objects that the descriptor's own two words number.
const IN_DESCRIPTOR: u16 = 64;
/// Words that number more.
const WORDS: usize = 4;

/// The owner word of a slab's head: its cache and its colour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Owner {
    pub(crate) cache: u16,
    pub(crate) colour: u16,
}

impl Owner {
    #[inline]
    pub(crate) fn of(desc: &PageDesc) -> Self {
        let word = desc.owner();
        Self { cache: word as u16, colour: (word >> 16) as u16 }
    }

    pub(crate) fn write(self, desc: &PageDesc) {
        desc.set_owner(u32::from(self.cache) | u32::from(self.colour) << 16);
    }
}

/// Which of its node's lists a slab is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fill {
    /// No object is free.
    Full = 0,
    /// Some are.
    Partial = 1,
    /// All are.
    Free = 2,
}

/// A slab and its cache's geometry.
#[derive(Clone, Copy)]
pub(crate) struct Slab<'a> {
    pub(crate) pfn: Pfn,
    pub(crate) desc: &'a PageDesc,
    geometry: Geometry,
    /// First byte of the block.
    frame: *mut u8,
}

impl<'a> Slab<'a> {
    /// The slab of `geometry` whose head is `desc` and whose block begins at
    /// `frame`.
    pub(crate) fn new(pfn: Pfn, desc: &'a PageDesc, geometry: Geometry, frame: *mut u8) -> Self {
        Self { pfn, desc, geometry, frame }
    }

    /// Whether its objects are for those only who may use the reserves.
    pub(crate) fn is_reserve(&self) -> bool {
        self.desc.head().flags().contains(PageFlags::PFMEMALLOC)
    }

    /// The list it belongs on.
    pub(crate) fn fill(&self) -> Fill {
        match self.desc.inuse() {
            0 => Fill::Free,
            n if n >= u32::from(self.geometry.objects) => Fill::Full,
            _ => Fill::Partial,
        }
    }

    /// Bytes before the first slot.
    fn start(&self) -> usize {
        usize::from(Owner::of(self.desc).colour) * self.geometry.colour_off as usize
    }

    /// The object with number `i`.
    pub(crate) fn object(&self, i: u16) -> NonNull<u8> {
        debug_assert!(i < self.geometry.objects);
        let at = self.start()
            + usize::from(i) * self.geometry.size as usize
            + self.geometry.offset as usize;
        // SAFETY: the slot lies in the block, which is one piece of memory.
        unsafe { NonNull::new_unchecked(self.frame.add(at)) }
    }

    /// The number of the object at `ptr`, which points into the block. None if
    /// no object begins there.
    pub(crate) fn number(&self, ptr: NonNull<u8>) -> Option<u16> {
        let first = self.start() + self.geometry.offset as usize;
        let at = (ptr.addr().get() - self.frame.addr()).checked_sub(first)? as u32;
        let i = at / self.geometry.size;
        (at.is_multiple_of(self.geometry.size) && i < u32::from(self.geometry.objects))
            .then_some(i as u16)
    }

    /// All objects.
    pub(crate) fn objects(self) -> impl Iterator<Item = NonNull<u8>> {
        (0..self.geometry.objects).map(move |i| self.object(i))
    }

    /// Makes all objects free.
    pub(crate) fn format(&self) {
        self.desc.set_inuse(0);
        let mut left = self.geometry.objects;
        for word in 0..self.words() {
            let n = left.min(64);
            self.set_word(word, if n == 64 { u64::MAX } else { (1 << n) - 1 });
            left -= n;
        }
    }

    fn words(&self) -> usize {
        usize::from(self.geometry.objects.div_ceil(64))
    }

    /// The last words of the block, left free by the geometry.
    fn tail(&self) -> *mut u64 {
        let end = PAGE_SIZE << self.geometry.order.0;
        self.frame.wrapping_add(end - WORDS * size_of::<u64>()).cast()
    }

    fn word(&self, i: usize) -> u64 {
        if self.geometry.objects <= IN_DESCRIPTOR {
            return u64::from(self.desc.index()) | u64::from(self.desc.private()) << 32;
        }
        // SAFETY: `i` is below four, and with more than 64 objects the geometry
        // leaves a byte for each at the end of the slab: more than four words.
        unsafe { self.tail().add(i).read() }
    }

    fn set_word(&self, i: usize, bits: u64) {
        if self.geometry.objects <= IN_DESCRIPTOR {
            self.desc.set_index(bits as u32);
            self.desc.set_private((bits >> 32) as u32);
            return;
        }
        // SAFETY: as in `word`.
        unsafe { self.tail().add(i).write(bits) };
    }

    /// Whether object `i` is free in the slab. Objects in arrays are not.
    pub(crate) fn is_free(&self, i: u16) -> bool {
        self.word(usize::from(i / 64)) >> (i % 64) & 1 != 0
    }

    /// Writes the bit of object `i` and nothing else: for the audit.
    pub(crate) fn set_free(&self, i: u16, free: bool) {
        let (word, bit) = (usize::from(i / 64), 1 << (i % 64));
        let bits = self.word(word);
        self.set_word(word, if free { bits | bit } else { bits & !bit });
    }

    /// Objects that are free in the slab by their bits.
    pub(crate) fn count_free(&self) -> u32 {
        (0..self.words()).map(|i| self.word(i).count_ones()).sum()
    }

    /// Takes up to `want` free objects and gives them to `sink`; returns how
    /// many there were.
    pub(crate) fn take(&self, want: u32, sink: &mut dyn FnMut(NonNull<u8>)) -> u32 {
        let mut taken = 0;
        for word in 0..self.words() {
            let mut bits = self.word(word);
            if bits == 0 {
                continue;
            }
            while bits != 0 && taken < want {
                let i = bits.trailing_zeros();
                bits &= bits - 1;
                sink(self.object((word * 64) as u16 + i as u16));
                taken += 1;
            }
            self.set_word(word, bits);
            if taken == want {
                break;
            }
        }
        self.desc.set_inuse(self.desc.inuse() + taken);
        taken
    }

    /// Makes object `i` free. False if it is free already.
    #[must_use]
    pub(crate) fn put(&self, i: u16) -> bool {
        let (word, bit) = (usize::from(i / 64), 1 << (i % 64));
        let bits = self.word(word);
        if bits & bit != 0 {
            return false;
        }
        self.set_word(word, bits | bit);
        self.desc.set_inuse(self.desc.inuse() - 1);
        true
    }
}
