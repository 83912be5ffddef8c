//! The kernel's global allocator: a small arena in the kernel image for the few
//! early allocations, and `mm`'s slab layer from the moment it is up. What the
//! arena gave is recognised when it is freed, however late. Calls `memory`.

use crate::arch::irq::IrqMutex;
use crate::arch::percpu;
use crate::platform::Machine;
use crate::take::Take;
use core::alloc::{GlobalAlloc, Layout};
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU64, Ordering};
use linked_list_allocator::Heap as Arena;
use mm::sync::LockRank;
use mm::{Gfp, Mm};
use spin::Once;

/// Bytes of the arena.
const ARENA_LEN: usize = 64 * 1024;

static ARENA_BYTES: Take<[MaybeUninit<u8>; ARENA_LEN]> =
    Take::new([MaybeUninit::uninit(); ARENA_LEN]);
static ARENA: IrqMutex<Arena> = IrqMutex::new(LockRank::Leaf, Arena::empty());
/// Objects that the arena gave and has not got back.
static ARENA_OBJECTS: AtomicU64 = AtomicU64::new(0);
/// Whom to ask once the slab layer is up.
static SLAB: Once<&'static Mm<Machine>> = Once::new();

struct KernelHeap;

#[global_allocator]
static HEAP: KernelHeap = KernelHeap;

/// Opens the arena. Called once, before anything is allocated.
pub(crate) fn init() {
    if let Some(bytes) = ARENA_BYTES.take() {
        ARENA.lock().init_from_slice(bytes);
    }
}

/// From now on `mm`, whose slab layer is up, serves all allocations.
pub(crate) fn hand_over(mm: &'static Mm<Machine>) {
    SLAB.call_once(|| mm);
    let (objects, used) = (arena_objects(), ARENA.lock().used());
    log::info!("heap: the slab layer takes over; {objects} early objects ({used} bytes) stay");
}

/// Objects of the early arena that are still in use.
pub(crate) fn arena_objects() -> u64 {
    ARENA_OBJECTS.load(Ordering::Relaxed)
}

/// Whether `ptr` points into the arena, whose place is known without a lock.
fn in_arena(ptr: *const u8) -> bool {
    let start = (&raw const ARENA_BYTES).addr();
    (start..start + size_of_val(&ARENA_BYTES)).contains(&ptr.addr())
}

fn alloc(layout: Layout, extra: Gfp) -> *mut u8 {
    if let Some(mm) = SLAB.get() {
        let gfp = if percpu::in_irq() { Gfp::ATOMIC } else { Gfp::KERNEL };
        return mm.alloc_layout(layout, gfp | extra).map_or(ptr::null_mut(), NonNull::as_ptr);
    }
    let Ok(found) = ARENA.lock().allocate_first_fit(layout) else { return ptr::null_mut() };
    ARENA_OBJECTS.fetch_add(1, Ordering::Relaxed);
    if extra.contains(Gfp::ZERO) {
        // SAFETY: the arena gave that many bytes.
        unsafe { found.write_bytes(0, layout.size()) };
    }
    found.as_ptr()
}

// SAFETY: both allocators keep to the contract, and each gets back only what it
// gave: the arena's addresses are those of its bytes in the kernel image, which
// `mm` does not manage.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        alloc(layout, Gfp::empty())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        alloc(layout, Gfp::ZERO)
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        let Some(ptr) = NonNull::new(ptr) else { return };
        if in_arena(ptr.as_ptr()) {
            // SAFETY: the caller gives back what this layout got, and it lies
            // in the arena.
            unsafe { ARENA.lock().deallocate(ptr, layout) };
            ARENA_OBJECTS.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let Some(mm) = SLAB.get() else { return };
        if let Err(error) = mm.dealloc_layout(ptr, layout) {
            log::error!("heap: {ptr:p} cannot be freed: {error}");
        }
    }
}
