//! Several CPUs on two nodes at once: threads that allocate, free what others
//! allocated, compact, move and take ranges, lend to and take from a contiguous
//! area. What each holds stays its own; every now and then all stop and all is
//! looked at, and in the end nothing is lost.
#![cfg(feature = "host")]

use core::ptr::NonNull;
use mm::arena::{Handle, MovableArena};
use mm::cma::{CmaId, CmaRequest};
use mm::host::lean::{Claim, Lean};
use mm::host::{Machine, build};
use mm::platform::{LogLevel, Platform};
use mm::types::{CpuId, NodeId, Order, PAGE_SIZE, Pfn, PfnRange};
use mm::{Config, Gfp, Mm, Page, Request};
use std::sync::{Barrier, Mutex};

const CPUS: u16 = if cfg!(miri) { 2 } else { 4 };
const NODES: u64 = 2;
const ROUNDS: u64 = if cfg!(miri) { 1 } else { 5 };
/// Of each node.
const MIB: u64 = if cfg!(miri) { 2 } else { 48 };

/// Machines whose CPUs a thread can be.
trait Cpus: Platform {
    /// Operations of a CPU between two looks at everything.
    const OPS: u64;
    type Seat<'a>;
    /// Becomes a CPU until what is returned is dropped.
    fn sit(&self, cpu: CpuId) -> Self::Seat<'_>;
    fn machine(&self) -> &Machine;
}

/// A CPU is had for each call.
impl Cpus for Machine {
    const OPS: u64 = if cfg!(miri) { 20 } else { 12_000 };
    type Seat<'a> = ();
    fn sit(&self, cpu: CpuId) {
        self.run_on(cpu);
    }
    fn machine(&self) -> &Machine {
        self
    }
}

/// A CPU is kept, and asked by letter: which takes until its thread's turn.
impl Cpus for Lean {
    const OPS: u64 = if cfg!(miri) { 20 } else { 2_000 };
    type Seat<'a> = Claim<'a>;
    fn sit(&self, cpu: CpuId) -> Claim<'_> {
        self.claim(cpu)
    }
    fn machine(&self) -> &Machine {
        self.machine()
    }
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

fn mark<P: Cpus>(mm: &Mm<P>, page: Page, id: u64) {
    for i in 0..page.order.pages() {
        // SAFETY: the block was handed out to this thread.
        unsafe { mm.platform().frame(page.pfn.add(i)).cast::<u64>().write(id) };
    }
}

fn check<P: Cpus>(mm: &Mm<P>, page: Page, id: u64) {
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

struct Shared<P: Cpus> {
    mm: Mm<P>,
    arena: &'static MovableArena<P>,
    /// Blocks on their way from one CPU to another.
    blocks: Mutex<Vec<(Page, u64)>>,
    moving: Mutex<Vec<Moving>>,
    objects: Mutex<Vec<Object>>,
    stop: Barrier,
}

impl<P: Cpus> Shared<P> {
    fn work(&self, cpu: u16, seed: u64) {
        let mut rng = Rng(seed);
        for round in 0..ROUNDS {
            let seat = self.mm.platform().sit(CpuId(cpu));
            for op in round * P::OPS..(round + 1) * P::OPS {
                self.step(cpu, op, &mut rng);
            }
            drop(seat);
            // Nobody is anywhere: the whole truth, by one of them.
            if self.stop.wait().is_leader() {
                self.look();
            }
            self.stop.wait();
        }
    }

    fn look(&self) {
        self.mm.audit().expect("whole while much is held");
        for (level, line) in self.mm.platform().machine().take_log() {
            let bad = line.starts_with("Memory failure: ");
            assert!(level > LogLevel::Error || bad, "{line}");
        }
    }

    fn step(&self, cpu: u16, op: u64, rng: &mut Rng) {
        let mm = &self.mm;
        let id = u64::from(cpu) << 48 | op;
        match rng.below(136) {
            0..40 => self.take_block(id, rng),
            40..75 => {
                if let Some((page, id)) = any(&self.blocks, rng) {
                    check(mm, page, id);
                    mm.free_pages(page).expect("a held block");
                }
            }
            75..85 => {
                if let Ok(handle) = self.arena.alloc(mm, Gfp::HIGHUSER_MOVABLE | Gfp::NOWARN) {
                    let byte = op as u8;
                    self.arena.with(mm, handle, |b| b.fill(byte)).expect("a live handle");
                    self.moving.lock().expect("no panic").push((handle, byte));
                }
            }
            85..95 => any(&self.moving, rng).into_iter().for_each(|moving| self.drop_page(moving)),
            95 => {
                mm.drain_all(None);
            }
            96 => {
                let zone = &mm.zones()[rng.below(mm.zones().len() as u64) as usize];
                mm.compact_whole_zone(zone);
            }
            97..100 => {
                let pages = 1 + rng.below(600);
                let gfp = Gfp::KERNEL | Gfp::NOWARN | Gfp::NORETRY;
                let got = mm.alloc_contig_pages(pages, Order(0), None, Pfn(0), gfp);
                if let Ok(range) = got {
                    mark_all(mm, range, id);
                    mm.free_contig_range(range).expect("a held range");
                }
            }
            134 => {
                // What becomes of it depends on what others are doing with it.
                let _ = mm.poison_page(Pfn(rng.below(mm.map().end().0)));
            }
            135 => {
                if mm.bad_pages() > 20 {
                    unpoison(mm);
                }
            }
            100..116 => {
                let size = 1 + rng.below(1 << (4 + op % 9)) as usize;
                if let Ok(ptr) = mm.kmalloc(size, Gfp::KERNEL | Gfp::NOWARN | Gfp::NORETRY) {
                    let byte = op as u8;
                    // SAFETY: so many bytes were handed out to this thread.
                    unsafe { ptr.write_bytes(byte, size) };
                    self.objects.lock().expect("no panic").push(Object { ptr, size, byte });
                }
            }
            116..130 => {
                if let Some(object) = any(&self.objects, rng) {
                    free_object(mm, &object);
                    if op % 512 == 0 {
                        mm.slab_shrink();
                    }
                }
            }
            _ => {
                let (count, align) = (1 + rng.below(700), Order(rng.below(4) as u8));
                let area = CmaId::DEFAULT;
                if let Ok(range) = mm.cma_alloc(area, count, align, Gfp::KERNEL | Gfp::NOWARN) {
                    mark_all(mm, range, id);
                    mm.cma_release(area, range).expect("a held range");
                }
            }
        }
    }

    fn take_block(&self, id: u64, rng: &mut Rng) {
        let order = Order(rng.below(1 + rng.0 % 7) as u8);
        let kinds = [Gfp::KERNEL, Gfp::KERNEL | Gfp::MOVABLE, Gfp::ATOMIC];
        let gfp = kinds[rng.below(3) as usize] | Gfp::NOWARN | Gfp::NORETRY;
        if let Ok(page) = self.mm.alloc_pages(Request::new(order, gfp)) {
            mark(&self.mm, page, id);
            self.blocks.lock().expect("no panic").push((page, id));
        }
    }

    fn drop_page(&self, (handle, byte): Moving) {
        let whole = |b: &mut [u8; PAGE_SIZE]| *b == [byte; PAGE_SIZE];
        assert_eq!(self.arena.with(&self.mm, handle, whole), Ok(true), "{handle:?}");
        self.arena.free(&self.mm, handle).expect("a live handle");
    }
}

/// Takes any one out. Nobody waits for a CPU with the list locked.
fn any<T>(list: &Mutex<Vec<T>>, rng: &mut Rng) -> Option<T> {
    let mut list = list.lock().expect("no panic");
    let len = list.len() as u64;
    (len > 0).then(|| list.swap_remove(rng.below(len) as usize))
}

/// Marks a range, and sees that nobody else does.
fn mark_all<P: Cpus>(mm: &Mm<P>, range: PfnRange, id: u64) {
    let pages = || (range.start.0..range.end.0).map(|pfn| Page { pfn: Pfn(pfn), order: Order(0) });
    pages().for_each(|page| mark(mm, page, id));
    pages().for_each(|page| check(mm, page, id));
}

fn free_object<P: Cpus>(mm: &Mm<P>, Object { ptr, size, byte }: &Object) {
    // SAFETY: the object is this thread's.
    let bytes = unsafe { core::slice::from_raw_parts(ptr.as_ptr(), *size) };
    assert!(*bytes == *vec![*byte; *size], "{ptr:?} of {size} bytes");
    assert_eq!(mm.kfree(*ptr), Ok(()), "{ptr:?} of {size} bytes");
}

/// Puts frames that are bad back into use, as far as others do not.
fn unpoison<P: Cpus>(mm: &Mm<P>) {
    let mut list = String::new();
    mm.proc_read("/sys/kernel/debug/quarry/poisoned", &mut list).expect("a file");
    for line in list.lines().skip(1) {
        let word = line.split(' ').next().expect("a frame");
        let pfn = u64::from_str_radix(word.trim_start_matches("0x"), 16).expect("a number");
        let _ = mm.unpoison_page(Pfn(pfn));
    }
}

fn two_nodes() -> Machine {
    let mut machine = Machine::new(Pfn(0), Pfn(NODES * (MIB << 8)), CPUS).expect("a machine");
    for cpu in 0..CPUS {
        machine.set_node_of_cpu(CpuId(cpu), NodeId((u64::from(cpu) % NODES) as u8));
    }
    machine
}

#[test]
fn nothing_is_lost_between_cpus() {
    stress(two_nodes());
}

#[test]
fn nothing_is_lost_between_cpus_that_are_kept() {
    stress(Lean::new(two_nodes()));
}

fn stress<P: Cpus>(platform: P) {
    let seed = std::env::var("QUARRY_SEED").map_or(1, |text| text.parse().expect("a number"));
    println!("QUARRY_SEED={seed}");
    let node = |n: u64| PfnRange::sized(Pfn(n * (MIB << 8)), MIB << 8);
    let ram = [(PfnRange::new(Pfn(1), node(0).end), NodeId(0)), (node(1), NodeId(1))];
    let mut config = Config::default();
    if !cfg!(miri) {
        let size = 8 << 20;
        config.cma[0] = Some(CmaRequest { size, base: None, end: None, order_per_bit: Order(1) });
    }
    let mm = build(platform, &ram, &config).expect("a machine");
    let arena: &'static MovableArena<P> = Box::leak(Box::default());
    arena.register(&mm).expect("room for a driver");
    mm.slab_init().expect("the slab layer");
    let (blocks, moving, objects) = Default::default();
    let stop = Barrier::new(usize::from(CPUS));
    let shared = Shared { mm, arena, blocks, moving, objects, stop };
    std::thread::scope(|scope| {
        for cpu in 0..CPUS {
            let shared = &shared;
            scope.spawn(move || shared.work(cpu, seed * 100 + u64::from(cpu)));
        }
    });
    let Shared { mm, blocks, moving, objects, .. } = shared;
    for (page, id) in blocks.into_inner().expect("no panic") {
        check(&mm, page, id);
        mm.free_pages(page).expect("a held block");
    }
    for (handle, byte) in moving.into_inner().expect("no panic") {
        let whole = |b: &mut [u8; PAGE_SIZE]| *b == [byte; PAGE_SIZE];
        assert_eq!(arena.with(&mm, handle, whole), Ok(true), "{handle:?}");
        arena.free(&mm, handle).expect("a live handle");
    }
    unpoison(&mm);
    assert_eq!(mm.bad_pages(), 0);
    arena.release_tables(&mm).expect("an empty arena");
    for object in objects.into_inner().expect("no panic") {
        free_object(&mm, &object);
    }
    mm.slab_shrink();
    mm.drain_all(None);
    // What the slab layer keeps are its own descriptors and arrays.
    let kept = |node| {
        let (reclaimable, other) = mm.slab_pages(NodeId(node));
        reclaimable + other
    };
    assert_eq!(mm.free_pages_total() + kept(0) + kept(1), mm.managed_pages());
    assert_eq!(mm.kmalloc_large_pages(), 0);
    mm.audit().expect("whole");
}
