//! What is done to each allocator.
//!
//! - `a`: one page allocated and freed, on a fresh pool;
//! - `a2`: three quarters of the pool allocated, half of that freed at random,
//!   then a page at random freed and one allocated, again and again;
//! - `b`: 15/16 of the pool allocated page by page, then freed in random order;
//! - `c`: 512 slots, of which one at random is filled with a block of a random
//!   order from 0 to 9, or emptied;
//! - `d`: two threads, each allocating 64 pages and freeing them, again and
//!   again;
//! - objects: 1000 of one size allocated, then freed in random order.

use crate::pool::PAGES;
use crate::probe::Probe;
use std::ptr::NonNull;
use std::sync::Barrier;
use std::time::Instant;

/// An allocator of blocks of pages; a block is known by a number of its own.
pub trait Pages {
    /// With the whole pool free.
    fn fresh() -> Self;
    /// A block of 2^`order` pages, aligned to its size.
    fn alloc(&mut self, order: u8) -> Option<usize>;
    /// Gives one back.
    fn free(&mut self, block: usize, order: u8);
}

/// An allocator of objects.
pub trait Objects {
    /// With the whole pool free, for objects of `size`.
    fn fresh(size: usize) -> Self;
    /// An object of `size`.
    fn alloc(&mut self, size: usize) -> Option<NonNull<u8>>;
    /// Gives one back.
    fn free(&mut self, object: NonNull<u8>, size: usize);
}

/// Pages for several threads.
pub trait Threads: Sync {
    /// What a thread has.
    type Thread<'a>: Thread
    where
        Self: 'a;
    /// With the whole pool free.
    fn fresh(threads: u16) -> Self;
    /// For the calling thread.
    fn thread(&self, index: u16) -> Self::Thread<'_>;
}

/// One thread's view.
pub trait Thread {
    /// A page.
    fn alloc(&mut self) -> Option<usize>;
    /// Gives one back.
    fn free(&mut self, block: usize);
}

/// Any allocator under a lock.
pub struct Locked<P>(spin::Mutex<P>);

impl<P: Pages + Send> Threads for Locked<P> {
    type Thread<'a>
        = &'a Self
    where
        P: 'a;
    fn fresh(_: u16) -> Self {
        Self(spin::Mutex::new(P::fresh()))
    }
    fn thread(&self, _: u16) -> &Self {
        self
    }
}

impl<P: Pages> Thread for &Locked<P> {
    #[inline]
    fn alloc(&mut self) -> Option<usize> {
        self.0.lock().alloc(0)
    }
    #[inline]
    fn free(&mut self, block: usize) {
        self.0.lock().free(block, 0);
    }
}

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    /// A number below `bound`.
    #[inline]
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(z ^ (z >> 31)) * bound as u128) >> 64) as usize
    }

    /// Random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// How much is done.
#[derive(Clone, Copy)]
pub struct Size {
    /// Operations of a window.
    pub ops: usize,
    /// Pages that `a2` and `b` work with at most.
    pub live: usize,
}

const FULL: &str = "the pool is large enough";

/// Pairs of one page.
pub fn pairs<P: Pages>(size: Size, probe: &mut Probe) {
    let mut pages = P::fresh();
    let mut run = |ops: usize| {
        for _ in 0..ops {
            let block = std::hint::black_box(pages.alloc(0).expect(FULL));
            pages.free(block, 0);
        }
    };
    run(100);
    probe.window("a", size.ops, || run(size.ops));
}

/// Replaced pages of an aged pool.
pub fn aged<P: Pages>(size: Size, probe: &mut Probe) {
    let mut pages = P::fresh();
    let mut rng = Rng(1);
    let mut live: Vec<_> =
        (0..size.live.min(PAGES * 3 / 4)).map(|_| pages.alloc(0).expect(FULL)).collect();
    rng.shuffle(&mut live);
    for block in live.drain(live.len() / 2..) {
        pages.free(block, 0);
    }
    let mut run = |ops: usize| {
        for _ in 0..ops {
            let at = rng.below(live.len());
            let slot = &mut live[at];
            pages.free(*slot, 0);
            *slot = pages.alloc(0).expect(FULL);
        }
    };
    run(100);
    probe.window("a2", size.ops, || run(size.ops));
}

/// Everything allocated, then freed.
pub fn fill<P: Pages>(size: Size, probe: &mut Probe) {
    let mut pages = P::fresh();
    let count = size.live.min(PAGES * 15 / 16);
    let mut blocks = Vec::with_capacity(count);
    probe.window("b alloc", count, || {
        for _ in 0..count {
            blocks.push(pages.alloc(0).expect(FULL));
        }
    });
    Rng(2).shuffle(&mut blocks);
    probe.window("b free", count, || {
        for &block in &blocks {
            pages.free(block, 0);
        }
    });
}

/// Mixed orders.
pub fn mixed<P: Pages>(size: Size, probe: &mut Probe) {
    let mut pages = P::fresh();
    let mut rng = Rng(3);
    let mut slots = vec![None; 512];
    let mut run = |ops: usize| {
        for _ in 0..ops {
            let slot = &mut slots[rng.below(512)];
            match slot.take() {
                Some((block, order)) => pages.free(block, order),
                None => {
                    let order = rng.below(10) as u8;
                    *slot = pages.alloc(order).map(|block| (block, order));
                }
            }
        }
    };
    run(2000);
    probe.window("c", size.ops, || run(size.ops));
}

/// Two threads at once; nanoseconds that a pair takes a thread.
pub fn threads<T: Threads>(batches: usize) -> f64 {
    const THREADS: u16 = 2;
    const BATCH: usize = 64;
    let shared = T::fresh(THREADS);
    let barrier = Barrier::new(usize::from(THREADS));
    let took: Vec<f64> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|index| {
                let (shared, barrier) = (&shared, &barrier);
                scope.spawn(move || {
                    let mut mine = shared.thread(index);
                    let mut blocks = [0; BATCH];
                    barrier.wait();
                    let start = Instant::now();
                    for _ in 0..batches {
                        for block in &mut blocks {
                            *block = mine.alloc().expect(FULL);
                        }
                        for &block in &blocks {
                            mine.free(block);
                        }
                    }
                    start.elapsed().as_nanos() as f64 / (batches * BATCH) as f64
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("no panic")).collect()
    });
    took.iter().sum::<f64>() / took.len() as f64
}

/// Batches of objects.
pub fn objects<O: Objects>(bytes: usize, name: &'static str, batches: usize, probe: &mut Probe) {
    const BATCH: usize = 1000;
    let mut allocator = O::fresh(bytes);
    let mut rng = Rng(4);
    // The orders to free in are made beforehand: they are no allocator's work.
    let orders: Vec<Vec<usize>> = (0..batches + 1)
        .map(|_| {
            let mut order: Vec<_> = (0..BATCH).collect();
            rng.shuffle(&mut order);
            order
        })
        .collect();
    let mut held = Vec::with_capacity(BATCH);
    let mut run = |order: &[usize]| {
        held.clear();
        for _ in 0..BATCH {
            held.push(allocator.alloc(bytes).expect(FULL));
        }
        for &at in order {
            allocator.free(held[at], bytes);
        }
    };
    run(&orders[batches]);
    probe.window(name, batches * BATCH, || {
        for order in &orders[..batches] {
            run(order);
        }
    });
}
