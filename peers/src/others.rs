//! The other allocators, made to give and take pages and objects.

use crate::pool::{BYTES, PAGE, PAGES, pool};
use crate::workload::{Objects, Pages};
use ax_allocator::{BaseAllocator, ByteAllocator, SlabByteAllocator};
use bitmap_allocator::{BitAlloc, BitAlloc64K};
use buddy_alloc::buddy_alloc::{BuddyAlloc, BuddyAllocParam};
use slabmalloc::{AllocationError, Allocator, LargeObjectPage, ObjectPage, ZoneAllocator};
use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

fn block_layout(order: u8) -> Layout {
    Layout::from_size_align(PAGE << order, PAGE << order).expect("a block")
}

fn object_layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("an object")
}

/// `bitmap-allocator`: a tree of bitmaps over page numbers.
pub struct Bitmap(Box<BitAlloc64K>);

impl Pages for Bitmap {
    fn fresh() -> Self {
        let mut bits = Box::new(BitAlloc64K::DEFAULT);
        bits.insert(0..PAGES);
        Self(bits)
    }
    #[inline]
    fn alloc(&mut self, order: u8) -> Option<usize> {
        if order == 0 {
            self.0.alloc()
        } else {
            self.0.alloc_contiguous(None, 1 << order, order.into())
        }
    }
    #[inline]
    fn free(&mut self, block: usize, order: u8) {
        if order == 0 {
            self.0.dealloc(block);
        } else {
            self.0.dealloc_contiguous(block, 1 << order);
        }
    }
}

/// `buddy_system_allocator`'s frame allocator: a tree of free blocks by order.
pub struct BsaFrame(buddy_system_allocator::FrameAllocator<20>);

impl Pages for BsaFrame {
    fn fresh() -> Self {
        let mut frames = buddy_system_allocator::FrameAllocator::new();
        frames.add_frame(0, PAGES);
        Self(frames)
    }
    #[inline]
    fn alloc(&mut self, order: u8) -> Option<usize> {
        self.0.alloc(1 << order)
    }
    #[inline]
    fn free(&mut self, block: usize, order: u8) {
        self.0.dealloc(block, 1 << order);
    }
}

/// As many bytes wherever they lie: what an allocator is asked for that keeps a
/// header before each block, and would need two pages for one that is aligned.
fn loose_layout(order: u8) -> Layout {
    object_layout(PAGE << order)
}

/// Gives both traits to an allocator of bytes.
macro_rules! bytes {
    ($name:ident, $block:ident, $fresh:expr, |$heap:ident, $layout:ident| $alloc:expr,
     |$heap2:ident, $ptr:ident, $layout2:ident| $free:expr) => {
        impl $name {
            #[inline]
            fn get(&mut self, $layout: Layout) -> Option<NonNull<u8>> {
                let $heap = &mut self.0;
                $alloc
            }
            #[inline]
            fn put(&mut self, $ptr: NonNull<u8>, $layout2: Layout) {
                let $heap2 = &mut self.0;
                $free
            }
        }
        impl Pages for $name {
            fn fresh() -> Self {
                $fresh
            }
            #[inline]
            fn alloc(&mut self, order: u8) -> Option<usize> {
                self.get($block(order)).map(|ptr| ptr.as_ptr().expose_provenance())
            }
            #[inline]
            fn free(&mut self, block: usize, order: u8) {
                let ptr = core::ptr::with_exposed_provenance_mut(block);
                self.put(NonNull::new(ptr).expect("a block"), $block(order));
            }
        }
        impl Objects for $name {
            fn fresh(_size: usize) -> Self {
                $fresh
            }
            #[inline]
            fn alloc(&mut self, size: usize) -> Option<NonNull<u8>> {
                self.get(object_layout(size))
            }
            #[inline]
            fn free(&mut self, object: NonNull<u8>, size: usize) {
                self.put(object, object_layout(size));
            }
        }
    };
}

/// `buddy_system_allocator`'s heap: a buddy whose lists lie in the free blocks.
pub struct BsaHeap(buddy_system_allocator::Heap<32>);
bytes!(
    BsaHeap,
    block_layout,
    {
        let mut heap = buddy_system_allocator::Heap::empty();
        // SAFETY: the pool is lent to one allocator at a time.
        unsafe { heap.init(pool().addr(), BYTES) };
        Self(heap)
    },
    |heap, layout| heap.alloc(layout).ok(),
    // SAFETY: allocated with this layout.
    |heap, ptr, layout| unsafe { heap.dealloc(ptr, layout) }
);

/// `linked_list_allocator`: a list of holes, first fit.
pub struct LinkedList(linked_list_allocator::Heap);
bytes!(
    LinkedList,
    block_layout,
    // SAFETY: the pool is lent to one allocator at a time.
    Self(unsafe { linked_list_allocator::Heap::new(pool(), BYTES) }),
    |heap, layout| heap.allocate_first_fit(layout).ok(),
    // SAFETY: allocated with this layout.
    |heap, ptr, layout| unsafe { heap.deallocate(ptr, layout) }
);

/// `talc`.
pub struct Talc(talc::base::Talc<talc::source::Manual, talc::DefaultBinning>);
bytes!(
    Talc,
    loose_layout,
    {
        let mut heap = talc::base::Talc::new(talc::source::Manual);
        // SAFETY: the pool is lent to one allocator at a time.
        unsafe { heap.claim(pool(), BYTES) }.expect("a heap");
        Self(heap)
    },
    // SAFETY: the layout is not empty.
    |heap, layout| unsafe { heap.allocate(layout) },
    // SAFETY: allocated with this layout.
    |heap, ptr, layout| unsafe { heap.deallocate(ptr.as_ptr(), layout) }
);

/// `rlsf`: two-level segregated fit.
pub struct Rlsf(rlsf::Tlsf<'static, u32, u32, 24, 16>);
bytes!(
    Rlsf,
    loose_layout,
    {
        let mut heap = rlsf::Tlsf::new();
        // SAFETY: the pool is lent to one allocator at a time.
        let block: &'static mut [MaybeUninit<u8>] =
            unsafe { core::slice::from_raw_parts_mut(pool().cast(), BYTES) };
        let _ = heap.insert_free_block(block);
        Self(heap)
    },
    |heap, layout| heap.allocate(layout),
    // SAFETY: allocated with this alignment.
    |heap, ptr, layout| unsafe { heap.deallocate(ptr, layout.align()) }
);

/// `buddy-alloc`: a buddy of bitmaps at the pool's end; leaves of a page, or of
/// 64 bytes for objects.
pub struct Buddy(BuddyAlloc);

// SAFETY: its pointers lead into the pool, which no thread has for its own.
unsafe impl Send for Buddy {}

impl Buddy {
    fn with_leaf(leaf: usize) -> Self {
        // SAFETY: the pool is lent to one allocator at a time.
        Self(unsafe { BuddyAlloc::new(BuddyAllocParam::new(pool(), BYTES, leaf)) })
    }
}

impl Pages for Buddy {
    fn fresh() -> Self {
        Self::with_leaf(PAGE)
    }
    #[inline]
    fn alloc(&mut self, order: u8) -> Option<usize> {
        let ptr = self.0.malloc(PAGE << order);
        (!ptr.is_null()).then(|| ptr.expose_provenance())
    }
    #[inline]
    fn free(&mut self, block: usize, _: u8) {
        self.0.free(core::ptr::with_exposed_provenance_mut(block));
    }
}

impl Objects for Buddy {
    fn fresh(_size: usize) -> Self {
        Self::with_leaf(64)
    }
    #[inline]
    fn alloc(&mut self, size: usize) -> Option<NonNull<u8>> {
        NonNull::new(self.0.malloc(size))
    }
    #[inline]
    fn free(&mut self, object: NonNull<u8>, _: usize) {
        self.0.free(object.as_ptr());
    }
}

/// `ax-allocator`'s slab allocator.
pub struct AxSlab(SlabByteAllocator);

impl Objects for AxSlab {
    fn fresh(_size: usize) -> Self {
        let mut heap = SlabByteAllocator::new();
        heap.init(pool().addr(), BYTES);
        Self(heap)
    }
    #[inline]
    fn alloc(&mut self, size: usize) -> Option<NonNull<u8>> {
        self.0.alloc(object_layout(size)).ok()
    }
    #[inline]
    fn free(&mut self, object: NonNull<u8>, size: usize) {
        self.0.dealloc(object, object_layout(size));
    }
}

/// `slabmalloc`, fed with pages of the pool one after the other.
pub struct Slabmalloc {
    zone: ZoneAllocator<'static>,
    next: usize,
}

impl Slabmalloc {
    /// Another piece of the pool, zeroed, aligned to its size.
    fn piece<T>(&mut self) -> &'static mut T {
        let size = size_of::<T>();
        let at = self.next.next_multiple_of(size);
        assert!(at + size <= BYTES, "the pool is used up");
        self.next = at + size;
        // SAFETY: a part of the pool that nobody has, aligned (the pool is to 4
        // MiB); slabmalloc asks for zeroed pages.
        unsafe {
            let ptr = pool().add(at);
            ptr.write_bytes(0, size);
            &mut *ptr.cast()
        }
    }
}

impl Objects for Slabmalloc {
    fn fresh(_size: usize) -> Self {
        Self { zone: ZoneAllocator::new(), next: 0 }
    }
    #[inline]
    fn alloc(&mut self, size: usize) -> Option<NonNull<u8>> {
        let layout = object_layout(size);
        loop {
            match self.zone.allocate(layout) {
                Ok(object) => return Some(object),
                // SAFETY: the pages are zeroed and ours.
                Err(AllocationError::OutOfMemory) => unsafe {
                    if size <= ZoneAllocator::MAX_BASE_ALLOC_SIZE {
                        let page: &'static mut ObjectPage<'static> = self.piece();
                        self.zone.refill(layout, page).ok()?;
                    } else {
                        let page: &'static mut LargeObjectPage<'static> = self.piece();
                        self.zone.refill_large(layout, page).ok()?;
                    }
                },
                Err(_) => return None,
            }
        }
    }
    #[inline]
    fn free(&mut self, object: NonNull<u8>, size: usize) {
        self.zone.deallocate(object, object_layout(size)).expect("an object of ours");
    }
}

/// The C library's malloc.
pub struct Libc;

impl Objects for Libc {
    fn fresh(_size: usize) -> Self {
        Self
    }
    #[inline]
    fn alloc(&mut self, size: usize) -> Option<NonNull<u8>> {
        // SAFETY: the layout is not empty.
        NonNull::new(unsafe { std::alloc::alloc(object_layout(size)) })
    }
    #[inline]
    fn free(&mut self, object: NonNull<u8>, size: usize) {
        // SAFETY: allocated with this layout.
        unsafe { std::alloc::dealloc(object.as_ptr(), object_layout(size)) };
    }
}

/// The floor: a stack of page numbers, which checks nothing, merges nothing and
/// knows one order.
pub struct Floor(Vec<usize>);

impl Pages for Floor {
    fn fresh() -> Self {
        Self((0..PAGES).rev().collect())
    }
    #[inline]
    fn alloc(&mut self, _: u8) -> Option<usize> {
        self.0.pop()
    }
    #[inline]
    fn free(&mut self, block: usize, _: u8) {
        self.0.push(block);
    }
}
