//! Room to work in: the coder's table and a buffer, in a block that is taken
//! before compressing and given back after it. Calls nothing but `mm`.
//!
//! There is one for each CPU, up to [`MOST`]. They do not belong to the CPUs: a
//! page takes tens of thousands of instructions, for which neither interrupts
//! nor preemption are to be held off, and the thread may be on another CPU at
//! the end. A thread begins to look with its own CPU's, finds that free almost
//! always, and takes any other if not. When all are taken it waits; whoever has
//! one waits for nothing but the processor. The table is no local variable, for
//! with it half of an ordinary thread's stack would be gone.

use crate::codec::SIZE_OF_OUTPUT;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use lz4_flex::block::CompressTable;
use mm::page::{NIL, link, linked};
use mm::platform::Platform;
use mm::sync::{AtomicBool, AtomicU32, Cpu, Ordering, may_wait};
use mm::types::{Order, PAGE_SIZE, Pfn};
use mm::{AllocError, Gfp, Mm, Page, Request};

/// Benches at most.
const MOST: usize = 16;
/// The block that one is in.
const ORDER: Order = Order(3);

/// What lies in such a block.
pub(crate) struct Tools {
    pub(crate) table: CompressTable,
    pub(crate) buffer: [u8; SIZE_OF_OUTPUT],
}

const _: () = assert!(size_of::<Tools>() <= PAGE_SIZE << ORDER.0);
const _: () = assert!(align_of::<Tools>() <= PAGE_SIZE);
// It is copied as bytes, and nobody drops it.
const _: () = assert!(!core::mem::needs_drop::<CompressTable>());

/// A table as it is before it is used, to be copied: made in place it would be
/// on the stack first.
static NEW_TABLE: CompressTable = CompressTable::small();

struct Bench {
    taken: AtomicBool,
    block: AtomicU32,
}

/// All benches of a device.
pub(crate) struct Benches {
    benches: [Bench; MOST],
}

impl Benches {
    pub(crate) const fn new() -> Self {
        Self {
            benches: [const { Bench { taken: AtomicBool::new(true), block: AtomicU32::new(NIL) } };
                MOST],
        }
    }

    /// Makes those there are to be. One at a time; may wait for memory.
    ///
    /// # Errors
    /// When there is no memory for a single one: with fewer it works too.
    pub(crate) fn set_up<P: Platform>(&self, mm: &Mm<P>) -> Result<(), AllocError> {
        let wanted = usize::from(mm.platform().cpus()).min(MOST);
        for (made, bench) in self.benches[..wanted].iter().enumerate() {
            let gfp = Gfp::KERNEL | Gfp::ZERO | Gfp::NOWARN;
            let block = match mm.alloc_pages(Request::new(ORDER, gfp)) {
                Ok(block) => block,
                Err(_) if made > 0 => break,
                Err(e) => return Err(e),
            };
            let tools = mm.platform().frame(block.pfn).cast::<Tools>();
            // SAFETY: the block is large and aligned enough, ours alone and zeroed,
            // which is what a buffer of bytes may be; the table holds nothing that
            // must not be there twice (asserted above).
            unsafe {
                core::ptr::copy_nonoverlapping(&raw const NEW_TABLE, &raw mut (*tools).table, 1);
            };
            bench.block.store(link(block.pfn), Ordering::Relaxed);
            bench.taken.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Unmakes them all. Nobody is at one.
    pub(crate) fn tear_down<P: Platform>(&self, mm: &Mm<P>) {
        for bench in &self.benches {
            bench.taken.store(true, Ordering::Relaxed);
            if let Some(pfn) = linked(bench.block.swap(NIL, Ordering::Relaxed)) {
                let _ = mm.free_pages(Page { pfn, order: ORDER });
            }
        }
    }

    /// Pages that they take.
    pub(crate) fn pages(&self) -> u64 {
        let made = |bench: &&Bench| bench.block.load(Ordering::Relaxed) != NIL;
        self.benches.iter().filter(made).count() as u64 * ORDER.pages()
    }

    /// Takes one; waits until one is free. Interrupts on, no lock held; the
    /// device is set up.
    pub(crate) fn take<'a, P: Platform>(&'a self, mm: &'a Mm<P>) -> AtBench<'a> {
        let first = usize::from(Cpu::enter(mm.platform()).id().0);
        loop {
            for step in 0..MOST {
                let bench = &self.benches[(first + step) % MOST];
                let free = !bench.taken.load(Ordering::Relaxed)
                    && !bench.taken.swap(true, Ordering::Acquire);
                let block = linked(bench.block.load(Ordering::Relaxed)).filter(|_| free);
                if let Some(tools) = block.and_then(|pfn| tools_in(mm, pfn)) {
                    return AtBench { taken: &bench.taken, tools, _tools: PhantomData };
                }
            }
            may_wait(mm.platform(), "room to compress in");
            mm.platform().stall();
        }
    }
}

fn tools_in<P: Platform>(mm: &Mm<P>, block: Pfn) -> Option<NonNull<Tools>> {
    NonNull::new(mm.platform().frame(block).cast())
}

/// The right to use a bench.
pub(crate) struct AtBench<'a> {
    taken: &'a AtomicBool,
    tools: NonNull<Tools>,
    _tools: PhantomData<&'a mut Tools>,
}

impl Deref for AtBench<'_> {
    type Target = Tools;

    fn deref(&self) -> &Tools {
        // SAFETY: made whole in `set_up`, and whoever took it is alone with it.
        unsafe { self.tools.as_ref() }
    }
}

impl DerefMut for AtBench<'_> {
    fn deref_mut(&mut self) -> &mut Tools {
        // SAFETY: as above.
        unsafe { self.tools.as_mut() }
    }
}

impl Drop for AtBench<'_> {
    fn drop(&mut self) {
        self.taken.store(false, Ordering::Release);
    }
}
