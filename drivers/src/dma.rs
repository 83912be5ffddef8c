//! Memory that driver and device share. Calls the kernel's [`Hal`].

use core::marker::PhantomData;
use core::mem::size_of;
use core::ptr::NonNull;
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The kernel's memory as devices see it: virtio-drivers' `Hal`, and a look
/// before a buffer is handed over, for `Hal::share` cannot refuse.
///
/// # Safety
///
/// As for `Hal`; [`Memory::at`] returns the pointer that belongs to a byte of
/// memory from `dma_alloc`.
pub unsafe trait Memory: Hal {
    /// Where a device finds the `len` bytes at `ptr`, if they lie in one piece
    /// where devices have access. Does not touch them.
    fn reach(ptr: NonNull<u8>, len: usize) -> Option<PhysAddr>;

    /// The pointer to the byte at `addr`, in memory from `dma_alloc` that is
    /// not freed.
    fn at(addr: PhysAddr) -> NonNull<u8>;
}

/// Zeroed pages in one piece that driver and device both use; cache-coherent,
/// as all of x86. They are freed with this, unless a device was declared broken
/// that may still write to them.
#[derive(Debug)]
pub struct Coherent<H: Memory> {
    addr: PhysAddr,
    ptr: NonNull<u8>,
    pages: usize,
    abandoned: bool,
    memory: PhantomData<H>,
}

// SAFETY: nothing of it belongs to a thread; all access through a shared
// reference is volatile reads of plain bytes.
unsafe impl<H: Memory> Send for Coherent<H> {}
// SAFETY: as above.
unsafe impl<H: Memory> Sync for Coherent<H> {}

impl<H: Memory> Coherent<H> {
    /// `pages` zeroed pages of 4 KiB; None if there are none, or for 0.
    pub fn new(pages: usize) -> Option<Self> {
        if pages == 0 {
            return None;
        }
        let (addr, ptr) = H::dma_alloc(pages, BufferDirection::Both);
        let memory = PhantomData;
        // Not made of nothing, for dropping it frees it.
        (addr != 0).then(|| Self { addr, ptr, pages, abandoned: false, memory })
    }

    /// Where devices find the first byte.
    pub const fn addr(&self) -> PhysAddr {
        self.addr
    }

    /// Bytes.
    pub const fn bytes(&self) -> usize {
        self.pages * PAGE_SIZE
    }

    /// Pages of 4 KiB.
    pub const fn pages(&self) -> usize {
        self.pages
    }

    /// The first byte.
    pub const fn as_ptr(&self) -> NonNull<u8> {
        self.ptr
    }

    /// Never frees the pages: a device may still write to them. False if that
    /// was so before.
    pub fn abandon(&mut self) -> bool {
        !core::mem::replace(&mut self.abandoned, true)
    }

    /// The pointer to a `T` at `offset`, if it lies inside and is aligned.
    fn place<T>(&self, offset: usize) -> Option<*mut T> {
        let end = offset.checked_add(size_of::<T>())?;
        let ptr = self.ptr.as_ptr().wrapping_add(offset).cast::<T>();
        (end <= self.bytes() && ptr.is_aligned()).then_some(ptr)
    }

    /// What lies at byte `offset` now; a device may have written it. None if that
    /// is not inside, or not aligned.
    pub fn read<T: FromBytes>(&self, offset: usize) -> Option<T> {
        let ptr = self.place::<T>(offset)?;
        // SAFETY: inside the pages and aligned; any bytes make a `T`, which is
        // copied before it is looked at.
        Some(unsafe { ptr.read_volatile() })
    }

    /// Writes `value` at byte `offset`. False if that is not inside, or not
    /// aligned.
    pub fn write<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) -> bool {
        let Some(ptr) = self.place::<T>(offset) else { return false };
        // SAFETY: inside the pages and aligned, and the pages hold bytes only.
        unsafe { ptr.write_volatile(value) };
        true
    }
}

impl<H: Memory> Drop for Coherent<H> {
    fn drop(&mut self) {
        if self.abandoned {
            return;
        }
        // SAFETY: from `dma_alloc`, with these very values, and freed once.
        unsafe { H::dma_dealloc(self.addr, self.ptr, self.pages) };
    }
}
