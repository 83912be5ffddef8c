//! One slab: which of its objects are free, and where they are. All that is
//! known of it is in its head's descriptor. Whoever changes it holds the lock
//! of its cache and node. May call: `page`, `memmap`, `geometry`.

use super::MAX_CACHES;
use super::geometry::Geometry;
use crate::page::{HeadWord, PageDesc, PageFlags};
use crate::types::{MAX_NODES, NodeId, Order, PAGE_SIZE, Pfn};
use core::ptr::NonNull;

/// Words that number more.
const WORDS: usize = 4;

/// A cache and a node in one: objects with the same key belong on the same
/// lists. It is what the word of their slab's head says without order and flags,
/// its type too, and that of a page that is no slab's first is equal to none. An
/// array of free objects takes those of one key, so that whether something may
/// go in there is one comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub(crate) struct Key(HeadWord);

const NODE_SHIFT: u32 = 12;
const _: () = assert!(MAX_CACHES <= 1 << NODE_SHIFT && MAX_NODES <= 1 << (16 - NODE_SHIFT));

impl Key {
    /// The key of the objects that cache number `cache` has on `node`.
    pub(crate) fn new(cache: u16, node: NodeId) -> Self {
        Self(HeadWord::slab(Order(0), cache | u16::from(node.0) << NODE_SHIFT))
    }

    /// The cache's own number.
    #[inline]
    pub(crate) fn cache(self) -> u16 {
        self.0.key() & ((1 << NODE_SHIFT) - 1)
    }

    /// The node.
    #[inline]
    pub(crate) fn node(self) -> NodeId {
        NodeId((self.0.key() >> NODE_SHIFT) as u8)
    }

    /// As a number, as arrays hold it.
    #[inline]
    pub(crate) fn bits(self) -> u32 {
        self.0.0
    }

    /// The word of the head of a slab of `order` with that key.
    pub(crate) fn head(self, order: Order) -> HeadWord {
        HeadWord::slab(order, self.0.key())
    }

    /// The key that the head of a slab names.
    #[inline]
    pub(crate) fn of(desc: &PageDesc) -> Self {
        Self::in_word(desc.head())
    }

    /// The key in the word of a page.
    #[inline]
    pub(crate) fn in_word(word: HeadWord) -> Self {
        Self(word.type_and_key())
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
    geometry: &'a Geometry,
    /// First byte of the block.
    frame: *mut u8,
}

impl<'a> Slab<'a> {
    /// The slab of `geometry` whose head is `desc` and whose block begins at
    /// `frame`.
    #[inline]
    pub(crate) fn new(
        pfn: Pfn,
        desc: &'a PageDesc,
        geometry: &'a Geometry,
        frame: *mut u8,
    ) -> Self {
        Self { pfn, desc, geometry, frame }
    }

    /// Whether its objects are for those only who may use the reserves.
    #[inline]
    pub(crate) fn is_reserve(&self) -> bool {
        self.desc.head().flags().contains(PageFlags::PFMEMALLOC)
    }

    /// The list it belongs on.
    #[inline]
    pub(crate) fn fill(&self) -> Fill {
        if self.geometry.in_descriptor() {
            return match self.desc.both() {
                0 => Fill::Full,
                bits if bits == self.geometry.all_free => Fill::Free,
                _ => Fill::Partial,
            };
        }
        match self.desc.inuse() {
            0 => Fill::Free,
            n if n >= u32::from(self.geometry.objects) => Fill::Full,
            _ => Fill::Partial,
        }
    }

    /// Objects it has, free or not.
    #[inline]
    pub(crate) fn capacity(&self) -> u32 {
        u32::from(self.geometry.objects)
    }

    /// Whether no bit says anything of an object that it has not.
    pub(crate) fn has_only_its_bits(&self) -> bool {
        let last = self.geometry.objects % 64;
        last == 0 || self.word(self.words() - 1) >> last == 0
    }

    /// Objects that are free in it.
    pub(crate) fn free(&self) -> u32 {
        if self.geometry.in_descriptor() {
            return self.desc.both().count_ones();
        }
        u32::from(self.geometry.objects) - self.desc.inuse()
    }

    /// Counts objects that come to be in use, or with a negative number are not
    /// any more. Where all free objects are in one word, that says it.
    #[inline]
    fn count_inuse(&self, n: i32) {
        if !self.geometry.in_descriptor() {
            self.desc.set_inuse(self.desc.inuse().wrapping_add_signed(n));
        }
    }

    /// Bytes before the first object.
    #[inline]
    fn start(&self) -> usize {
        self.desc.owner() as usize
    }

    /// Says where its first object begins: after so many colours, and what each
    /// slot begins with.
    pub(crate) fn set_colour(&self, colour: u16) {
        let Geometry { colour_off, offset, .. } = *self.geometry;
        self.desc.set_owner(u32::from(colour) * colour_off + offset);
    }

    /// The object with number `i`.
    #[inline]
    pub(crate) fn object(&self, i: u16) -> NonNull<u8> {
        debug_assert!(i < self.geometry.objects);
        let at = self.start() + usize::from(i) * self.geometry.size as usize;
        // SAFETY: the slot lies in the block, which is one piece of memory.
        unsafe { NonNull::new_unchecked(self.frame.add(at)) }
    }

    /// The number of the object at `ptr`. None if no object of this slab begins
    /// there.
    #[inline]
    pub(crate) fn number(&self, ptr: NonNull<u8>) -> Option<u16> {
        self.geometry.number(ptr.addr().get().wrapping_sub(self.frame.addr() + self.start()))
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

    #[inline]
    fn word(&self, i: usize) -> u64 {
        if self.geometry.in_descriptor() {
            return self.desc.both();
        }
        // SAFETY: `i` is below four, and with more than 64 objects the geometry
        // leaves a byte for each at the end of the slab: more than four words.
        unsafe { self.tail().add(i).read() }
    }

    #[inline]
    fn set_word(&self, i: usize, bits: u64) {
        if self.geometry.in_descriptor() {
            self.desc.set_both(bits);
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

    /// Takes free objects into `out` until that is full or there are no more;
    /// returns how many there were. Neighbours come out as neighbours: a run of
    /// them costs little more than its longest member.
    pub(crate) fn take(&self, out: &mut [NonNull<u8>]) -> usize {
        let mut taken = 0;
        for word in 0..self.words() {
            let mut bits = self.word(word);
            while bits != 0 && taken < out.len() {
                let first = bits.trailing_zeros();
                let run = (bits >> first).trailing_ones() as usize;
                let run = run.min(out.len() - taken);
                let mut object = self.object((word * 64) as u16 + first as u16);
                let size = self.geometry.size as usize;
                for place in &mut out[taken..taken + run] {
                    *place = object;
                    // Past the last object of a slab this may leave the block.
                    let next = object.as_ptr().wrapping_add(size);
                    // SAFETY: memory ends below the top of the address space by
                    // more than the size of an object.
                    object = unsafe { NonNull::new_unchecked(next) };
                }
                taken += run;
                bits &= !(u64::MAX >> (64 - run) << first);
            }
            self.set_word(word, bits);
            if taken == out.len() {
                break;
            }
        }
        self.count_inuse(taken as i32);
        taken
    }

    /// Makes the leading ones of `objects` free, up to the first that lies in
    /// another slab, is no object or is free already; returns how many.
    /// Neighbours that come one after the other, up or down, are one write.
    #[inline]
    pub(crate) fn put(&self, objects: &[NonNull<u8>]) -> usize {
        let start = self.frame.addr() + self.start();
        let size = self.geometry.size as usize;
        let span = size * usize::from(self.geometry.objects);
        let mut put = 0;
        while let Some(first) = objects.get(put) {
            let at = first.addr().get();
            // Most that are not of this slab are told without a multiplication.
            let offset = at.wrapping_sub(start);
            if offset >= span {
                break;
            }
            let Some(i) = self.geometry.number(offset) else { break };
            let mut run = 1;
            let mut low = i;
            if let Some(second) = objects.get(put + 1) {
                let step = second.addr().get().wrapping_sub(at);
                if step == size || step == size.wrapping_neg() {
                    let (up, rest) = (step == size, &objects[put + 1..]);
                    run += self.neighbours(i, up, step, rest);
                    low = if up { i } else { i + 1 - run };
                }
            }
            let word = usize::from(low / 64);
            let bits = self.word(word);
            let mut new = u64::MAX >> (64 - run) << (low % 64);
            if bits & new != 0 {
                // One is free already. Those before it are not.
                (run, new) = (1, 1 << (i % 64));
                if bits & new != 0 {
                    break;
                }
            }
            self.set_word(word, bits | new);
            put += usize::from(run);
        }
        self.count_inuse(-(put as i32));
        put
    }

    /// How many of `rest` follow object `i` at that step, as far as objects of
    /// this slab go whose bits are in the same word.
    #[inline]
    fn neighbours(&self, i: u16, up: bool, step: usize, rest: &[NonNull<u8>]) -> u16 {
        let most = if up { (63 - i % 64).min(self.geometry.objects - 1 - i) } else { i % 64 };
        let rest = &rest[..rest.len().min(usize::from(most))];
        let mut next = rest.first().map_or(0, |first| first.addr().get());
        for (n, object) in rest.iter().enumerate() {
            if object.addr().get() != next {
                return n as u16;
            }
            next = next.wrapping_add(step);
        }
        rest.len() as u16
    }
}
