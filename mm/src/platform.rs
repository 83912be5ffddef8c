//! What the manager asks of the system it runs in: frame contents, CPUs and
//! their interrupt masking, time, the caller's context, workers and a log.
//! The kernel implements it over real hardware, `mm::host` over a simulated
//! machine. Calls nothing; names types of `mmu`, `steps`, `sync` and `types`.

use crate::mmu::{Mmu, Root};
use crate::steps::{Pop, Push};
use crate::sync::HeldLocks;
use crate::types::{CpuId, NodeId, PAGE_SIZE, Pfn, PfnRange};
use core::fmt;
use core::ptr::NonNull;

/// What the calling task may claim (Linux `current->flags`, `in_interrupt()`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Context {
    /// `PF_MEMALLOC`: the task frees memory and may use the reserves to do so.
    pub memalloc: bool,
    /// The OOM killer chose this task.
    pub oom_victim: bool,
    /// Hard interrupt context: no task's rights count.
    pub in_irq: bool,
    /// A real-time task.
    pub rt: bool,
}

/// Work that `mm` wants done soon by a thread it does not own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Worker {
    /// Background reclaim of a node.
    Kswapd(NodeId),
    /// Background compaction of a node.
    Kcompactd(NodeId),
    /// Free page reporting.
    Reporting,
    /// Writing back what is newer in memory than on its device.
    Flusher,
}

/// How urgent a log line is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LogLevel {
    /// Something is broken: a caller's bug, or the manager's.
    Error,
    /// Odd but survivable.
    Warn,
    /// Worth knowing.
    Info,
}

/// Interrupt state to be given back, opaque to `mm`.
#[derive(Clone, Copy, Debug)]
pub struct IrqState(pub u64);

/// The system around the manager.
///
/// # Safety
///
/// `mm` builds memory safety on these answers:
/// - [`frame`](Self::frame) is stable, distinct frames do not overlap, and the
///   bytes of every frame given to the manager are readable and writable for
///   as long as the manager lives, contiguous for contiguous frames, and
///   touched by nobody else while the manager holds them;
/// - between [`irq_save`](Self::irq_save) and [`irq_restore`](Self::irq_restore)
///   no other code of the same CPU enters the manager, and the CPU returned,
///   one below [`cpus`](Self::cpus), is held by this caller alone;
/// - [`on_cpus`](Self::on_cpus) runs its closure holding that CPU in this sense;
/// - [`local_pop`](Self::local_pop) and [`local_push`](Self::local_push) do what
///   they say and nothing else, or nothing;
/// - [`memmap_base`](Self::memmap_base) hands out addresses that nobody else
///   uses, and what [`memmap_back`](Self::memmap_back) has put behind them is
///   readable and writable for as long as the manager lives, or until
///   [`memmap_unback`](Self::memmap_unback) takes it back: readable even then;
/// - what [`direct_map_extend`](Self::direct_map_extend) has mapped stays until
///   [`direct_map_withdraw`](Self::direct_map_withdraw).
pub unsafe trait Platform: Sized + Sync + 'static {
    /// Address of the first byte of frame `pfn` (direct map). Valid for frames
    /// of RAM that the machine was built with.
    fn frame(&self, pfn: Pfn) -> *mut u8;

    /// Fills the `pages` frames from `pfn` on with zeros.
    ///
    /// # Safety
    /// They are the caller's alone.
    unsafe fn clear_frames(&self, pfn: Pfn, pages: u64) {
        // SAFETY: the caller's word; frames of one block are contiguous.
        unsafe { self.frame(pfn).write_bytes(0, pages as usize * PAGE_SIZE) };
    }

    /// Copies what is in frame `from` to frame `to`.
    ///
    /// # Safety
    /// They are two frames, which nobody else writes meanwhile, and `to` is the
    /// caller's alone.
    unsafe fn copy_frame(&self, to: Pfn, from: Pfn) {
        // SAFETY: the caller's word.
        unsafe { self.frame(to).copy_from_nonoverlapping(self.frame(from), PAGE_SIZE) };
    }

    /// The frame that `ptr` points into, if it is in the direct map.
    fn pfn_of(&self, ptr: *const u8) -> Option<Pfn>;

    /// As [`pfn_of`](Self::pfn_of); for a pointer that is not in the direct map,
    /// any number from 2^32 on.
    #[inline]
    fn frame_number(&self, ptr: *const u8) -> Pfn {
        self.pfn_of(ptr).unwrap_or(Pfn(u64::MAX))
    }

    /// Base of a virtual array large enough for `bytes` bytes, page-aligned
    /// (and aligned to large pages where the platform can map such), not yet
    /// backed. Called a fixed few times, while the manager is built, with
    /// distinct `slot` numbers.
    fn memmap_base(&self, slot: usize, bytes: usize) -> Option<*mut u8>;

    /// Puts `frames` behind as many pages of an array from
    /// [`memmap_base`](Self::memmap_base), from `ptr` on, in pages as large as
    /// the alignment of both allows. Nothing is there yet; the frames are the
    /// array's from now on, their content is left as it is. What page tables
    /// are needed on the way come from `tables`; false when that ran dry.
    fn memmap_back(
        &self,
        ptr: *mut u8,
        frames: PfnRange,
        tables: &mut dyn FnMut() -> Option<Pfn>,
    ) -> bool;

    /// Takes the frames back that [`memmap_back`](Self::memmap_back) has put
    /// behind `bytes` bytes (whole pages) from `ptr` on, in pages of any size
    /// that do not reach beyond these: each is told to `frame`, which only notes
    /// it, and nobody's when this returns. What is read there afterwards is zero,
    /// for those who are late; nobody writes, and `memmap_back` may be called for
    /// the place again. Waits for other CPUs: called with interrupts on and no
    /// lock held.
    fn memmap_unback(&self, _ptr: *mut u8, _bytes: usize, _frame: &mut dyn FnMut(Pfn)) {}

    /// Makes `frames`, which the machine has got since it booted, part of the
    /// direct map: [`frame`](Self::frame) is good for them from then on. What
    /// page tables are needed come from `tables`. False, and nothing has changed
    /// but that frames of `tables` may be in use, if that ran dry or something
    /// is mapped there; a platform that cannot do it says so at once.
    fn direct_map_extend(
        &self,
        _frames: PfnRange,
        _tables: &mut dyn FnMut() -> Option<Pfn>,
    ) -> bool {
        false
    }

    /// Takes `frames`, which came by
    /// [`direct_map_extend`](Self::direct_map_extend) in ranges that these are
    /// made of, out of the direct map, on all CPUs. Page tables that are not
    /// needed any more are told to `table` and nobody's from then on. Interrupts
    /// on, no lock held.
    fn direct_map_withdraw(&self, _frames: PfnRange, _table: &mut dyn FnMut(Pfn)) {}

    /// Number of CPUs that may ever run, at least 1.
    fn cpus(&self) -> u16 {
        1
    }

    /// The node a CPU belongs to.
    fn node_of_cpu(&self, _cpu: CpuId) -> NodeId {
        NodeId(0)
    }

    /// Masks interrupts and takes this CPU's token.
    fn irq_save(&self) -> (CpuId, IrqState);

    /// Serves the CPU's mailbox, gives up its token and restores interrupts.
    fn irq_restore(&self, cpu: CpuId, state: IrqState);

    /// Whether [`local_pop`](Self::local_pop) and
    /// [`local_push`](Self::local_push) are to be used. Without them the slab
    /// layer takes the CPU's token for each object.
    const LOCAL_STEPS: bool = false;

    /// Makes the step that `pop` describes as a whole, as far as this CPU is
    /// concerned: nothing that takes the CPU's token comes in between. None if
    /// it cannot be made; nothing has changed then.
    ///
    /// # Safety
    /// `pop` comes from the manager.
    #[inline]
    unsafe fn local_pop(&self, _pop: Pop) -> Option<NonNull<u8>> {
        None
    }

    /// As [`local_pop`](Self::local_pop), for `push`. False if the step cannot
    /// be made.
    ///
    /// # Safety
    /// `push` comes from the manager.
    #[inline]
    unsafe fn local_push(&self, _push: Push) -> bool {
        false
    }

    /// Runs `f` for every CPU in turn, each time holding that CPU's token, and
    /// returns when all are done. Called with interrupts on and no lock held.
    fn on_cpus(&self, f: &(dyn Fn(CpuId) + Sync));

    /// Where a CPU notes what it holds, for the checks that debug builds make;
    /// one for each CPU, always the same. None, and nothing is checked.
    fn held_locks(&self, _cpu: CpuId) -> Option<&HeldLocks> {
        None
    }

    /// The caller's rights.
    fn context(&self) -> Context {
        Context::default()
    }

    /// Says whether the calling task frees memory from now on
    /// ([`Context::memalloc`]); returns whether it did before. A platform that
    /// keeps no such context does nothing.
    fn set_memalloc(&self, _on: bool) -> bool {
        false
    }

    /// Milliseconds since some fixed moment.
    fn now_ms(&self) -> u64;

    /// Asks for a worker's next round; must not block or allocate.
    fn wake(&self, _worker: Worker) {}

    /// The address spaces of this machine, if it has any.
    fn mmu(&self) -> Option<&dyn Mmu> {
        None
    }

    /// The tables of the calling thread's address space, if it has one.
    fn current_root(&self) -> Option<Root> {
        None
    }

    /// Called each time an allocation that may not fail has found nothing and
    /// is about to try again, or a wait for another task goes on: sleeps or
    /// yields where that is possible. Other CPUs are served meanwhile.
    fn stall(&self) {
        core::hint::spin_loop();
    }

    /// Called at first while a wait for another task goes on that is at work and
    /// about to let go: lets others run, and returns soon. In the same context as
    /// [`stall`](Self::stall), which comes when that has been in vain for long.
    fn relax(&self) {
        self.stall();
    }

    /// Writes one line to the log; must not allocate from the manager.
    fn log(&self, level: LogLevel, line: fmt::Arguments<'_>);
}
