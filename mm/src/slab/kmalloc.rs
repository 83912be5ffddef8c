//! Memory by size: general caches to 8 KiB, whole blocks above. Linux
//! mm/slab_common.c. May call: `alloc`, `free`, the page allocator.

use super::SlabError;
use super::alloc::Target;
use super::slabs::Key;
use crate::gfp::{AllocError, Gfp, Page, Request};
use crate::mm::Mm;
use crate::page::{HeadWord, PageType};
use crate::platform::Platform;
use crate::sync::Ordering::Relaxed;
use crate::types::{MAX_ORDER, NodeId, Order};
use core::alloc::Layout;
use core::num::{NonZero, NonZeroU32};
use core::panic::Location;
use core::ptr::NonNull;

/// What kmalloc gives for no bytes at all: not null, and not to be read.
pub const ZERO_SIZE: NonNull<u8> = NonNull::without_provenance(NonZero::new(16).unwrap());

/// Sizes of the general caches.
pub(crate) const CLASSES: [u32; NR_CLASSES] =
    [32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192];
pub(crate) const NR_CLASSES: usize = 11;
/// The largest of them.
const LARGEST: usize = 8192;

/// Their handles: each of them is the first that has its number, and stays.
pub(crate) const GENERAL: NonZeroU32 = NonZeroU32::MIN;

/// The families of general caches, by what their pages are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    /// Ordinary.
    Normal = 0,
    /// Reclaimable.
    Reclaimable = 1,
    /// From zone DMA.
    Dma = 2,
}

impl Family {
    pub(crate) const ALL: [Self; 3] = [Self::Normal, Self::Reclaimable, Self::Dma];

    /// What the names of its caches begin with.
    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::Normal => "kmalloc-",
            Self::Reclaimable => "kmalloc-rcl-",
            Self::Dma => "dma-kmalloc-",
        }
    }
}

/// The number of a general cache; number 0 holds the descriptors of caches.
pub(crate) const fn cache_index(family: Family, class: usize) -> u16 {
    (1 + family as usize * NR_CLASSES + class) as u16
}

/// For sizes up to 192, by eight bytes: the class.
const SMALL: [u8; 24] = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4];

/// The class of `size`, which is 1 to 8192.
#[inline]
pub(crate) const fn class_of(size: usize) -> usize {
    if size <= 192 {
        SMALL[(size - 1) / 8] as usize
    } else {
        // 193..=256 is class 5, and so on by powers of two.
        (usize::BITS - (size - 1).leading_zeros()) as usize - 3
    }
}

impl<P: Platform> Mm<P> {
    /// Allocates `size` bytes; their content is whatever was there, unless ZERO
    /// was asked for. Powers of two are aligned to themselves, other sizes to
    /// 64 bytes at least if they are larger than 64. For no bytes at all:
    /// [`ZERO_SIZE`]. Context as for [`cache_alloc`](Self::cache_alloc).
    ///
    /// # Errors
    /// [`AllocError::Invalid`] above 4 MiB, or if the flags ask for a place
    /// that kmalloc does not serve; [`AllocError::NoMemory`].
    #[track_caller]
    #[inline]
    pub fn kmalloc(&self, size: usize, gfp: Gfp) -> Result<NonNull<u8>, AllocError> {
        if size.wrapping_sub(1) >= LARGEST {
            return self.kmalloc_odd(size, gfp);
        }
        if gfp.intersects(Gfp::DMA | Gfp::RECLAIMABLE | Gfp::DMA32 | Gfp::ZERO) {
            return self.kmalloc_special(size, gfp);
        }
        let index = cache_index(Family::Normal, class_of(size));
        let at = Location::caller();
        self.pop_or(index, GENERAL, || self.alloc_object(Target::number(index), gfp, at))
    }

    /// Objects of special families, or cleared ones.
    #[inline(never)]
    #[track_caller]
    fn kmalloc_special(&self, size: usize, gfp: Gfp) -> Result<NonNull<u8>, AllocError> {
        let index = cache_index(self.family(gfp)?, class_of(size));
        self.alloc_object(Target::number(index), gfp, Location::caller())
    }

    /// Allocates as [`kmalloc`](Self::kmalloc) does, on `node` or near it as
    /// [`cache_alloc_node`](Self::cache_alloc_node) says.
    ///
    /// # Errors
    /// As [`kmalloc`](Self::kmalloc).
    #[track_caller]
    pub fn kmalloc_node(
        &self,
        size: usize,
        gfp: Gfp,
        node: NodeId,
    ) -> Result<NonNull<u8>, AllocError> {
        if size.wrapping_sub(1) >= LARGEST {
            return self.kmalloc_any(size, gfp, Some(self.memory_node(node)));
        }
        let index = cache_index(self.family(gfp)?, class_of(size));
        self.alloc_object_on(Target::number(index), gfp, node)
    }

    #[cold]
    fn family(&self, gfp: Gfp) -> Result<Family, AllocError> {
        if gfp.contains(Gfp::DMA32) {
            return Err(AllocError::Invalid("kmalloc from zone DMA32"));
        }
        Ok(if gfp.contains(Gfp::DMA) {
            Family::Dma
        } else if gfp.contains(Gfp::RECLAIMABLE) {
            Family::Reclaimable
        } else {
            Family::Normal
        })
    }

    /// Nothing, or more than the general caches have.
    #[cold]
    #[inline(never)]
    #[track_caller]
    fn kmalloc_odd(&self, size: usize, gfp: Gfp) -> Result<NonNull<u8>, AllocError> {
        self.kmalloc_any(size, gfp, None)
    }

    #[track_caller]
    fn kmalloc_any(
        &self,
        size: usize,
        gfp: Gfp,
        node: Option<NodeId>,
    ) -> Result<NonNull<u8>, AllocError> {
        if size == 0 {
            return Ok(ZERO_SIZE);
        }
        if size > MAX_ORDER.bytes() {
            return Err(AllocError::Invalid("kmalloc of more than 4 MiB"));
        }
        self.kmalloc_large(Order::for_bytes(size), gfp, node)
    }

    /// A block of its own.
    #[track_caller]
    fn kmalloc_large(
        &self,
        order: Order,
        gfp: Gfp,
        node: Option<NodeId>,
    ) -> Result<NonNull<u8>, AllocError> {
        let gfp = gfp - (Gfp::HIGHMEM | Gfp::MOVABLE);
        let page = self.alloc_pages(Request { order, gfp, node })?;
        let desc = self.map.page(page.pfn);
        desc.set_both(order.pages());
        desc.remake(HeadWord::new(PageType::LargeKmalloc, order));
        self.slab.large_pages.fetch_add(order.pages() as i64, Relaxed);
        NonNull::new(self.platform.frame(page.pfn)).ok_or(AllocError::NoMemory)
    }

    /// Frees what [`kmalloc`](Self::kmalloc), or any cache, gave. Any context.
    ///
    /// # Errors
    /// As [`cache_free`](Self::cache_free).
    #[track_caller]
    #[inline]
    pub fn kfree(&self, ptr: NonNull<u8>) -> Result<(), SlabError> {
        let at = Location::caller();
        let rest = || self.kfree_rest(ptr, at);
        match self.key_at(ptr) {
            Some(key) => self.push_or(key.cache(), None, key, ptr, rest),
            None => rest(),
        }
    }

    /// Frees what does not simply go into an array.
    #[inline(never)]
    fn kfree_rest(
        &self,
        ptr: NonNull<u8>,
        at: &'static Location<'static>,
    ) -> Result<(), SlabError> {
        match self.slab_of(ptr) {
            Some(head) => {
                let target = Target::number(Key::of(head.1).cache());
                self.free_in_slab(target, ptr, head, at)
            }
            None => self.kfree_odd(ptr),
        }
    }

    /// Frees what lies in no slab.
    #[cold]
    fn kfree_odd(&self, ptr: NonNull<u8>) -> Result<(), SlabError> {
        if ptr.addr() == ZERO_SIZE.addr() {
            return Ok(());
        }
        match self.large_block(ptr) {
            Some(page) if self.platform.frame(page.pfn).addr() == ptr.addr().get() => {
                let pages = page.order.pages() as i64;
                match self.free_as(page, PageType::LargeKmalloc) {
                    Ok(()) => {
                        self.slab.large_pages.fetch_sub(pages, Relaxed);
                        Ok(())
                    }
                    Err(_) => Err(self.refuse_object(None, ptr, SlabError::DoubleFree)),
                }
            }
            Some(_) => Err(self.refuse_object(None, ptr, SlabError::NotObject)),
            None => Err(self.refuse_object(None, ptr, SlabError::NotSlab)),
        }
    }

    /// The large block that `ptr` points into.
    fn large_block(&self, ptr: NonNull<u8>) -> Option<Page> {
        let pfn = self.platform.pfn_of(ptr.as_ptr())?;
        let (head, word) = self.map.head_of(pfn)?;
        (word.ty() == PageType::LargeKmalloc).then_some(Page { pfn: head, order: word.order() })
    }

    /// Bytes that may be used of what kmalloc or a cache gave; 0 for
    /// [`ZERO_SIZE`]. The caller owns the object.
    ///
    /// # Errors
    /// [`SlabError::NotSlab`] and [`SlabError::NotObject`] for other pointers.
    pub fn ksize(&self, ptr: NonNull<u8>) -> Result<usize, SlabError> {
        if ptr.addr() == ZERO_SIZE.addr() {
            return Ok(0);
        }
        if let Some((pfn, desc)) = self.slab_of(ptr) {
            let cpu = self.enter();
            let cache = self.slab.cache(&cpu, Key::of(desc).cache()).ok_or(SlabError::NotSlab)?;
            self.slab_at(cache, pfn).number(ptr).ok_or(SlabError::NotObject)?;
            return Ok(cache.object_size.load(Relaxed) as usize);
        }
        let page = self.large_block(ptr).ok_or(SlabError::NotSlab)?;
        let starts = self.platform.frame(page.pfn).addr() == ptr.addr().get();
        if starts { Ok(page.order.bytes()) } else { Err(SlabError::NotObject) }
    }

    /// Changes the size of what kmalloc gave: where it is if it fits there,
    /// else by a new allocation under the caller's own rights, the content
    /// copied as far as it fits and the old memory freed. So a mark of the
    /// reserves stays with memory that stays, and is earned anew by memory that
    /// is new. Size 0 frees. With ZERO, bytes beyond the old usable size are
    /// zero. Context as for [`kmalloc`](Self::kmalloc).
    ///
    /// # Errors
    /// As [`kmalloc`](Self::kmalloc), and [`AllocError::Invalid`] for a pointer
    /// that is none of kmalloc's. The old memory is as it was then.
    #[track_caller]
    pub fn krealloc(
        &self,
        ptr: NonNull<u8>,
        size: usize,
        gfp: Gfp,
    ) -> Result<NonNull<u8>, AllocError> {
        const NOT_OURS: AllocError = AllocError::Invalid("krealloc of what kmalloc did not give");
        let usable = self.ksize(ptr).map_err(|_| NOT_OURS)?;
        if size == 0 {
            self.kfree(ptr).map_err(|_| NOT_OURS)?;
            return Ok(ZERO_SIZE);
        }
        if size <= usable {
            return Ok(ptr);
        }
        let new = self.kmalloc(size, gfp)?;
        // SAFETY: both are objects of at least so many bytes, and distinct: the
        // old one is the caller's, the new one was nobody's.
        unsafe { new.copy_from_nonoverlapping(ptr, usable) };
        self.kfree(ptr).ok();
        Ok(new)
    }

    /// Allocates for a Rust layout: what a global allocator passes on. Content,
    /// context and errors as for [`kmalloc`](Self::kmalloc); in addition, an
    /// alignment above 4 MiB is invalid. For no bytes the pointer is dangling.
    #[track_caller]
    #[inline]
    pub fn alloc_layout(&self, layout: Layout, gfp: Gfp) -> Result<NonNull<u8>, AllocError> {
        let (size, align) = (layout.size(), layout.align());
        if size == 0 {
            return Ok(NonNull::without_provenance(
                NonZero::new(align).unwrap_or(NonZero::<usize>::MIN),
            ));
        }
        // Any size is aligned to 32 bytes, from 33 on to 64; a power of two and
        // a block of pages to itself.
        let size = match (align, size.max(align)) {
            (0..=32, _) => size,
            (33..=64, larger) => larger,
            (_, larger @ ..=LARGEST) => larger.next_power_of_two(),
            (_, larger) => larger,
        };
        self.kmalloc(size, gfp)
    }

    /// Frees what [`alloc_layout`](Self::alloc_layout) gave. Any context.
    ///
    /// # Errors
    /// As [`cache_free`](Self::cache_free).
    #[track_caller]
    #[inline]
    pub fn dealloc_layout(&self, ptr: NonNull<u8>, layout: Layout) -> Result<(), SlabError> {
        if layout.size() == 0 { Ok(()) } else { self.kfree(ptr) }
    }

    /// kmalloc for the layer's own arrays: past the arrays, which may not be
    /// there yet.
    pub(crate) fn kmalloc_direct(&self, size: usize, gfp: Gfp) -> Result<NonNull<u8>, AllocError> {
        if size > LARGEST {
            return self.kmalloc(size, gfp);
        }
        let index = cache_index(Family::Normal, class_of(size));
        let target = Target { arrays: false, ..Target::number(index) };
        let taken = self.alloc_object_slow(target, gfp)?;
        self.give_object(taken, target, gfp, Location::caller())
    }

    /// Frees what [`kmalloc_direct`](Self::kmalloc_direct) gave, in the same
    /// way.
    pub(crate) fn kfree_direct(&self, ptr: NonNull<u8>) {
        let result = match self.slab_of(ptr) {
            Some(head) => {
                let number = Target::number(Key::of(head.1).cache());
                let target = Target { arrays: false, ..number };
                self.free_in_slab(target, ptr, head, Location::caller())
            }
            None => self.kfree_odd(ptr),
        };
        debug_assert!(result.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_class_that_holds_it() {
        for size in 1..=LARGEST {
            let class = class_of(size);
            assert!(CLASSES[class] as usize >= size);
            assert!(class == 0 || (CLASSES[class - 1] as usize) < size);
        }
    }
}
