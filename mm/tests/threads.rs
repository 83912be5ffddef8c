//! Several CPUs at once on one machine: threads that allocate, free what others
//! allocated, move and take ranges. What each holds stays its own, and in the
//! end nothing is lost.
#![cfg(feature = "host")]

use core::ptr::NonNull;
use mm::arena::{Handle, MovableArena};
use mm::host::{Machine, pc};
use mm::platform::Platform;
use mm::types::{CpuId, NodeId, Order, PAGE_SIZE, Pfn};
use mm::{Config, Gfp, Mm, Page, Request};
use std::sync::Mutex;

const CPUS: u16 = 3;
const OPS: u64 = if cfg!(miri) { 40 } else { 60_000 };
const MIB: u64 = if cfg!(miri) { 2 } else { 64 };

struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

fn mark(mm: &Mm<Machine>, page: Page, id: u64) {
    for i in 0..page.order.pages() {
        // SAFETY: the block was handed out to this thread.
        unsafe { mm.platform().frame(page.pfn.add(i)).cast::<u64>().write(id) };
    }
}

fn check(mm: &Mm<Machine>, page: Page, id: u64) {
    for i in 0..page.order.pages() {
        // SAFETY: the block is this thread's.
        let found = unsafe { mm.platform().frame(page.pfn.add(i)).cast::<u64>().read() };
        assert_eq!(found, id, "page {i} of {page:?}");
    }
}

/// A movable page and the byte that fills its ends.
type Moving = (Handle, u8);

/// An object of the slab layer, full of one byte.
struct Object {
    ptr: NonNull<u8>,
    size: usize,
    byte: u8,
}

// SAFETY: whoever has it is the only one who knows the memory.
unsafe impl Send for Object {}

struct Shared {
    mm: Mm<Machine>,
    arena: &'static MovableArena<Machine>,
    /// Blocks on their way from one CPU to another.
    blocks: Mutex<Vec<(Page, u64)>>,
    moving: Mutex<Vec<Moving>>,
    objects: Mutex<Vec<Object>>,
}

impl Shared {
    fn work(&self, cpu: u16, seed: u64) {
        let (mm, arena) = (&self.mm, self.arena);
        mm.platform().run_on(CpuId(cpu));
        let mut rng = Rng(seed);
        for op in 0..OPS {
            match rng.below(130) {
                100..116 => {
                    let size = 1 + rng.below(1 << (4 + op % 9)) as usize;
                    if let Ok(ptr) = mm.kmalloc(size, Gfp::KERNEL | Gfp::NOWARN | Gfp::NORETRY) {
                        let byte = op as u8;
                        // SAFETY: so many bytes were handed out to this thread.
                        unsafe { ptr.write_bytes(byte, size) };
                        let object = Object { ptr, size, byte };
                        self.objects.lock().expect("no panic").push(object);
                    }
                }
                116..130 => {
                    let mut objects = self.objects.lock().expect("no panic");
                    let len = objects.len() as u64;
                    if len > 0 {
                        let object = objects.swap_remove(rng.below(len) as usize);
                        drop(objects);
                        free_object(mm, &object);
                        if op % 512 == 0 {
                            mm.slab_shrink();
                        }
                    }
                }
                0..40 => {
                    let order = Order(rng.below(1 + rng.0 % 7) as u8);
                    let kinds = [Gfp::KERNEL, Gfp::KERNEL | Gfp::MOVABLE, Gfp::ATOMIC];
                    let gfp = kinds[rng.below(3) as usize] | Gfp::NOWARN | Gfp::NORETRY;
                    if let Ok(page) = mm.alloc_pages(Request::new(order, gfp)) {
                        let id = u64::from(cpu) << 48 | op;
                        mark(mm, page, id);
                        self.blocks.lock().expect("no panic").push((page, id));
                    }
                }
                40..75 => {
                    let mut blocks = self.blocks.lock().expect("no panic");
                    let len = blocks.len() as u64;
                    if len > 0 {
                        let (page, id) = blocks.swap_remove(rng.below(len) as usize);
                        drop(blocks);
                        check(mm, page, id);
                        mm.free_pages(page).expect("a held block");
                    }
                }
                75..85 => {
                    if let Ok(handle) = arena.alloc(mm, Gfp::HIGHUSER_MOVABLE | Gfp::NOWARN) {
                        let byte = op as u8;
                        arena.with(mm, handle, |b| b.fill(byte)).expect("a live handle");
                        self.moving.lock().expect("no panic").push((handle, byte));
                    }
                }
                85..95 => {
                    let mut moving = self.moving.lock().expect("no panic");
                    let len = moving.len() as u64;
                    if len > 0 {
                        let (handle, byte) = moving.swap_remove(rng.below(len) as usize);
                        drop(moving);
                        let whole = |b: &mut [u8; PAGE_SIZE]| *b == [byte; PAGE_SIZE];
                        assert_eq!(arena.with(mm, handle, whole), Ok(true), "{handle:?}");
                        arena.free(mm, handle).expect("a live handle");
                    }
                }
                95 => {
                    mm.drain_all(None);
                }
                96 => {
                    let zone = &mm.zones()[rng.below(4) as usize];
                    mm.compact_whole_zone(zone);
                }
                _ => {
                    let pages = 1 + rng.below(600);
                    let gfp = Gfp::KERNEL | Gfp::NOWARN | Gfp::NORETRY;
                    let got = mm.alloc_contig_pages(pages, Order(0), None, Pfn(0), gfp);
                    if let Ok(range) = got {
                        mm.free_contig_range(range).expect("a held range");
                    }
                }
            }
        }
    }
}

fn free_object(mm: &Mm<Machine>, Object { ptr, size, byte }: &Object) {
    // SAFETY: the object is this thread's.
    let bytes = unsafe { core::slice::from_raw_parts(ptr.as_ptr(), *size) };
    assert!(*bytes == *vec![*byte; *size], "{ptr:?} of {size} bytes");
    assert_eq!(mm.kfree(*ptr), Ok(()), "{ptr:?} of {size} bytes");
}

#[test]
fn nothing_is_lost_between_cpus() {
    let seed = std::env::var("QUARRY_SEED").map_or(1, |text| text.parse().expect("a number"));
    println!("QUARRY_SEED={seed}");
    let mm = pc(MIB, CPUS, &Config::default()).expect("a machine");
    let arena: &'static MovableArena<Machine> = Box::leak(Box::default());
    arena.register(&mm).expect("room for a driver");
    mm.slab_init().expect("the slab layer");
    let (blocks, moving, objects) = Default::default();
    let shared = Shared { mm, arena, blocks, moving, objects };
    std::thread::scope(|scope| {
        for cpu in 0..CPUS {
            let shared = &shared;
            scope.spawn(move || shared.work(cpu, seed * 100 + u64::from(cpu)));
        }
    });
    let Shared { mm, blocks, moving, objects, .. } = shared;
    mm.audit().expect("whole while much is held");
    for (page, id) in blocks.into_inner().expect("no panic") {
        check(&mm, page, id);
        mm.free_pages(page).expect("a held block");
    }
    for (handle, byte) in moving.into_inner().expect("no panic") {
        let whole = |b: &mut [u8; PAGE_SIZE]| *b == [byte; PAGE_SIZE];
        assert_eq!(arena.with(&mm, handle, whole), Ok(true), "{handle:?}");
        arena.free(&mm, handle).expect("a live handle");
    }
    arena.release_tables(&mm).expect("an empty arena");
    for object in objects.into_inner().expect("no panic") {
        free_object(&mm, &object);
    }
    mm.slab_shrink();
    mm.drain_all(None);
    let (reclaimable, other) = mm.slab_pages(NodeId(0));
    // What the slab layer keeps are its own descriptors and arrays.
    assert_eq!(mm.free_pages_total() + reclaimable + other, mm.managed_pages());
    assert_eq!(mm.kmalloc_large_pages(), 0);
    mm.audit().expect("whole");
}
